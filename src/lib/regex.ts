/**
 * Regexes that others wrote: re2js, with Go's syntax, in linear time. It is loaded by the first of them, because it is large and most proxies have none.
 */
import { createRequire } from 'node:module'
import type { RE2JS } from 're2js'

export type Regex = RE2JS

let engine: typeof RE2JS | undefined

/** Throws what re2js says of a pattern that is none. */
export function re2(pattern: string): Regex {
  engine ??= (createRequire(import.meta.url)('re2js') as { RE2JS: typeof RE2JS }).RE2JS
  return engine.compile(pattern)
}
