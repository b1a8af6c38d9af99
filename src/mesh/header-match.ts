/**
 * Tests of header fields, compiled (spec/data-plane.md 7.6): those of intentions and of routes are the same. Regexes run on a linear-time
 * engine and match whole values. What cannot be compiled is said to be so; its owner decides what that means.
 */
import { RE2JS } from 're2js'
import type { HeaderMatch } from './entry-members.ts'
import { byteString } from './path.ts'

export const matchLimits = { maxRegexLength: 4096 } as const

/** `headers` is flat: lower-case name, value, name, value… */
export type HeadersMatch = (headers: readonly string[]) => boolean

export const never: unique symbol = Symbol('cannot be compiled')

export function compileRegex(pattern: string): RE2JS | undefined {
  if (pattern.length > matchLimits.maxRegexLength) return undefined
  try {
    return RE2JS.compile(pattern)
  } catch {
    return undefined
  }
}

/** Exactly one test each; `invert` turns the result, except that an absent header never matches a test of its value. */
export function compileHeader(match: HeaderMatch): HeadersMatch | typeof never {
  const name = match.name.toLowerCase()
  if (name === '' || name.startsWith(':')) return never
  const invert = match.invert === true
  if (match.present) return headers => hasHeader(headers, name) !== invert
  const test = compileValue(match)
  if (test === undefined) return never
  return headers => {
    let present = false
    for (let i = 0; i + 1 < headers.length; i += 2) {
      if (headers[i] !== name) continue
      present = true
      // One of several lines is enough, as in Envoy 1.40.
      if (test(trimmed(headers[i + 1]!))) return !invert
    }
    return present && invert
  }
}

function compileValue(match: HeaderMatch): ((value: string) => boolean) | undefined {
  if (match.exact) {
    const wanted = byteString(match.exact)
    return value => value === wanted
  }
  if (match.prefix) {
    const wanted = byteString(match.prefix)
    return value => value.startsWith(wanted)
  }
  if (match.suffix) {
    const wanted = byteString(match.suffix)
    return value => value.endsWith(wanted)
  }
  if (match.regex) {
    const regex = compileRegex(match.regex)
    return regex === undefined ? undefined : value => regex.testExact(value)
  }
  return undefined
}

function hasHeader(headers: readonly string[], name: string): boolean {
  for (let i = 0; i < headers.length; i += 2) if (headers[i] === name) return true
  return false
}

/** Without spaces and tabs at the ends (RFC 9110 5.5); other white space is part of a value. */
function trimmed(value: string): string {
  let start = 0
  let end = value.length
  while (start < end && isBlank(value.charCodeAt(start))) start += 1
  while (end > start && isBlank(value.charCodeAt(end - 1))) end -= 1
  return start === 0 && end === value.length ? value : value.slice(start, end)
}

function isBlank(code: number): boolean {
  return code === 0x20 || code === 0x09
}
