/**
 * What is wrong with parts that several kinds of config entries have, in Consul's words and without the text that stands before them.
 */
import { RE2JS } from 're2js'
import { messageOf, multiError } from '../lib/errors.ts'
import type { HeaderMatch } from './entry-members.ts'

export const metaLimits = { pairs: 64, keyLength: 128, valueLength: 512 } as const

export function* metaProblems(meta: Record<string, string> | undefined): Iterable<string> {
  const pairs = Object.entries(meta ?? {})
  if (pairs.length > metaLimits.pairs) yield `Meta exceeds maximum element count ${metaLimits.pairs}`
  for (const [key, value] of pairs) {
    if (key.length > metaLimits.keyLength) yield `Meta key ${JSON.stringify(key)} exceeds maximum length ${metaLimits.keyLength}`
    if (value.length > metaLimits.valueLength) {
      yield `Meta value for key ${JSON.stringify(key)} exceeds maximum length ${metaLimits.valueLength}`
    }
  }
}

export function several(problems: Iterable<string>): string | undefined {
  const all = [...problems]
  return all.length > 0 ? multiError(all) : undefined
}

interface PathMatch {
  pathExact?: string | undefined
  pathPrefix?: string | undefined
  pathRegex?: string | undefined
}

export function pathProblem({ pathExact, pathPrefix, pathRegex }: PathMatch): string | undefined {
  if (pathExact && !pathExact.startsWith('/')) return `PathExact doesn't start with '/': ${JSON.stringify(pathExact)}`
  if (pathPrefix && !pathPrefix.startsWith('/')) return `PathPrefix doesn't start with '/': ${JSON.stringify(pathPrefix)}`
  const problem = pathRegex ? regexProblem(pathRegex) : undefined
  return problem === undefined ? undefined : `PathRegex is not a valid regular expression: ${problem}`
}

export function headerProblem({ name, present, exact, prefix, suffix, regex }: HeaderMatch): string | undefined {
  if (name === '') return 'missing required Name field'
  if ([present, exact, prefix, suffix, regex].filter(Boolean).length !== 1) {
    return 'should only contain one of Present, Exact, Prefix, Suffix, or Regex'
  }
  const problem = regex ? regexProblem(regex) : undefined
  return problem === undefined ? undefined : `Regex is not a valid regular expression: ${problem}`
}

const knownMethods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'CONNECT', 'OPTIONS', 'TRACE'])

export function methodsProblem(methods: readonly string[]): string | undefined {
  const seen = new Set<string>()
  for (const method of methods) {
    if (!knownMethods.has(method)) return `Methods contains an invalid method ${JSON.stringify(method)}`
    if (seen.has(method)) return `Methods contains ${JSON.stringify(method)} more than once`
    seen.add(method)
  }
  return undefined
}

/** Patterns run on the linear-time engine, so what it does not take is refused here and not on the first request. */
export function regexProblem(pattern: string): string | undefined {
  try {
    RE2JS.compile(pattern)
    return undefined
  } catch (error) {
    return messageOf(error)
  }
}
