/**
 * JSON of request bodies: JSON.parse decides, this file gives its refusals the words of Go's decoder, which clients know
 * (spec/http-api.md 1.4), and bounds the nesting before anything walks the value.
 */
import { httpLimits } from './limits.ts'

export type ParsedJson = { ok: true; value: unknown } | { ok: false; error: string }

export function parseJson(body: Buffer): ParsedJson {
  const text = body.toString('utf8')
  if (text.trim() === '') return { ok: false, error: 'EOF' }
  if (depthOf(text) > httpLimits.jsonDepth) {
    return { ok: false, error: `json: more than ${httpLimits.jsonDepth} levels of nesting; flatten the body` }
  }
  try {
    const value: unknown = loneSurrogate.test(text) ? JSON.parse(text, wellFormed) : JSON.parse(text)
    return { ok: true, value }
  } catch {
    return { ok: false, error: goError(text) }
  }
}

/** An escape that may be half of a character. What has none, the bytes of a body cannot hold either. */
const loneSurrogate = /\\u[dD][89a-fA-F]/

/** As Go's decoder: half a character becomes U+FFFD. A name with one would be another in the store than in our tables. */
function wellFormed(_key: string, value: unknown): unknown {
  return typeof value === 'string' ? value.replace(/\p{Surrogate}/gu, '\ufffd') : value
}

/** The deepest nesting of brackets outside strings. */
function depthOf(text: string): number {
  let depth = 0
  let deepest = 0
  let inString = false
  for (let i = 0; i < text.length; i += 1) {
    const c = text.charCodeAt(i)
    if (inString) {
      if (c === 0x5c) i += 1
      else if (c === 0x22) inString = false
    } else if (c === 0x22) inString = true
    else if (c === 0x5b || c === 0x7b) deepest = Math.max(deepest, (depth += 1))
    else if (c === 0x5d || c === 0x7d) depth -= 1
  }
  return deepest
}

class Refusal extends Error {}

/** Walks a text that JSON.parse refused, to the first character that Go's scanner refuses too. */
function goError(text: string): string {
  try {
    const end = skipSpace(text, value(text, skipSpace(text, 0)))
    // Go's decoder stops after the first value; what follows it is no JSON of ours.
    return `invalid character ${quote(text[end] ?? '')} after top-level value`
  } catch (refusal) {
    return (refusal as Refusal).message
  }
}

function fail(text: string, at: number, context: string): never {
  if (at >= text.length) throw new Refusal('unexpected EOF')
  throw new Refusal(`invalid character ${quote(text[at]!)} ${context}`)
}

function quote(character: string): string {
  if (character === "'") return `'\\''`
  if (character === '"') return `'"'`
  return `'${JSON.stringify(character).slice(1, -1)}'`
}

function skipSpace(text: string, at: number): number {
  let i = at
  while (i < text.length && ' \t\r\n'.includes(text[i]!)) i += 1
  return i
}

function value(text: string, at: number): number {
  const c = text[at]
  if (c === '{') return object(text, at + 1)
  if (c === '[') return array(text, at + 1)
  if (c === '"') return string(text, at + 1)
  for (const word of ['true', 'false', 'null']) if (c === word[0]) return literal(text, at, word)
  if (c !== undefined && (c === '-' || (c >= '0' && c <= '9'))) return number(text, at)
  return fail(text, at, 'looking for beginning of value')
}

function object(text: string, start: number): number {
  let i = skipSpace(text, start)
  if (text[i] === '}') return i + 1
  for (;;) {
    if (text[i] !== '"') fail(text, i, 'looking for beginning of object key string')
    i = skipSpace(text, string(text, i + 1))
    if (text[i] !== ':') fail(text, i, 'after object key')
    i = skipSpace(text, value(text, skipSpace(text, i + 1)))
    if (text[i] === '}') return i + 1
    if (text[i] !== ',') fail(text, i, 'after object key:value pair')
    i = skipSpace(text, i + 1)
  }
}

function array(text: string, start: number): number {
  let i = skipSpace(text, start)
  if (text[i] === ']') return i + 1
  for (;;) {
    i = skipSpace(text, value(text, i))
    if (text[i] === ']') return i + 1
    if (text[i] !== ',') fail(text, i, 'after array element')
    i = skipSpace(text, i + 1)
  }
}

function string(text: string, start: number): number {
  for (let i = start; i < text.length; i += 1) {
    const c = text[i]!
    if (c === '"') return i + 1
    if (c < ' ') fail(text, i, 'in string literal')
    if (c === '\\') {
      i += 1
      if (!'"\\/bfnrtu'.includes(text[i] ?? '"')) fail(text, i, 'in string escape code')
      if (text[i] === 'u') {
        for (let digit = 0; digit < 4; digit += 1) {
          i += 1
          if (!/[0-9a-fA-F]/.test(text[i] ?? '')) fail(text, i, 'in \\u hexadecimal character escape')
        }
      }
    }
  }
  return fail(text, text.length, '')
}

function literal(text: string, start: number, word: string): number {
  for (let i = 1; i < word.length; i += 1) {
    if (text[start + i] !== word[i]) fail(text, start + i, `in literal ${word} (expecting ${quote(word[i]!)})`)
  }
  return start + word.length
}

function number(text: string, start: number): number {
  let i = start
  if (text[i] === '-') i += 1
  if (!/\d/.test(text[i] ?? '')) fail(text, i, 'in numeric literal')
  if (text[i] === '0') i += 1
  else while (/\d/.test(text[i] ?? '')) i += 1
  if (text[i] === '.') {
    i += 1
    if (!/\d/.test(text[i] ?? '')) fail(text, i, 'after decimal point in numeric literal')
    while (/\d/.test(text[i] ?? '')) i += 1
  }
  if (text[i] === 'e' || text[i] === 'E') {
    i += 1
    if (text[i] === '+' || text[i] === '-') i += 1
    if (!/\d/.test(text[i] ?? '')) fail(text, i, 'in exponent of numeric literal')
    while (/\d/.test(text[i] ?? '')) i += 1
  }
  return i
}
