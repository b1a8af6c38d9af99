/** Tests of query parameters, compiled (spec/data-plane.md 9.4). A parameter is read as forms write it: escapes decoded, `+` a space. */
import { compileRegex, never } from './header-match.ts'
import { byteString, decodeEscapes } from './path.ts'
import type { QueryMatch } from './routing-entry.ts'

/** `target` is the path with its query. */
export type TargetMatch = (target: string) => boolean

export function compileQuery(match: QueryMatch): TargetMatch | typeof never {
  const name = byteString(match.name)
  if (match.present) return target => queryParameter(target, name) !== undefined
  if (match.regex) {
    const regex = compileRegex(match.regex)
    if (regex === undefined) return never
    return target => {
      const value = queryParameter(target, name)
      return value !== undefined && regex.testExact(value)
    }
  }
  const wanted = byteString(match.exact ?? '')
  return target => queryParameter(target, name) === wanted
}

/** The value of the first parameter of that name, '' where it has none; undefined where there is no such parameter. */
export function queryParameter(target: string, name: string): string | undefined {
  const query = target.indexOf('?')
  if (query < 0) return undefined
  for (let at = query + 1; at <= target.length;) {
    const ampersand = target.indexOf('&', at)
    const end = ampersand < 0 ? target.length : ampersand
    const equals = target.indexOf('=', at)
    const nameEnd = equals < 0 || equals > end ? end : equals
    if (nameEnd > at && isText(target, at, nameEnd, name)) return decoded(target.slice(Math.min(nameEnd + 1, end), end))
    at = end + 1
  }
  return undefined
}

function isText(target: string, start: number, end: number, wanted: string): boolean {
  if (end - start === wanted.length && target.startsWith(wanted, start)) return true
  const text = target.slice(start, end)
  return /[%+]/.test(text) && decoded(text) === wanted
}

function decoded(text: string): string {
  return /[%+]/.test(text) ? decodeEscapes(text.replaceAll('+', ' ')) : text
}
