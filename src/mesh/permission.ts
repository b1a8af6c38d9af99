/**
 * L7 permissions of an intention, compiled (spec/data-plane.md 7.6). All parts of one permission must match; the first permission
 * that matches decides. Regexes run on a linear-time engine and match whole values. A permission that cannot be compiled, or needs
 * a JWT (which this version does not check), denies what it would have matched: it fails closed.
 */
import { RE2JS } from 're2js'
import type { Permission } from './config-entry.ts'
import type { HeaderMatch } from './entry-members.ts'
import { byteString, decodeEscapes, decodeUnreserved, type JudgedPath } from './path.ts'

/** What a permission may look at. `path` is raw, without the query; `headers` is flat: lower-case name, value, name, value… */
export interface HttpFacts {
  method: string
  path: string
  headers: readonly string[]
}

export const permissionLimits = { maxRegexLength: 4096 } as const

type PathMatch = (path: JudgedPath, form: keyof JudgedPath) => boolean
type HeadersMatch = (headers: readonly string[]) => boolean

interface CompiledPermission {
  allow: boolean
  path: PathMatch | undefined
  methods: ReadonlySet<string> | undefined
  headers: readonly HeadersMatch[]
}

/** No permission matched: the default decides. */
export const unmatched = -1

export class Permissions {
  /** By index: whether that permission allows what it matches. */
  readonly allows: readonly boolean[]
  readonly #list: readonly CompiledPermission[]
  readonly #defaultAllow: boolean
  readonly #denies: boolean

  constructor(permissions: readonly Permission[], defaultAllow: boolean) {
    this.#list = permissions.map(compilePermission)
    this.allows = this.#list.map(permission => permission.allow)
    this.#defaultAllow = defaultAllow
    this.#denies = this.allows.includes(false)
  }

  /** The index of the permission that decides, or `unmatched`. Every form of the path is judged; the strictest outcome wins. */
  judge(facts: HttpFacts, path: JudgedPath): number {
    const raw = this.#first(facts, path, 'raw')
    if (path.raw === path.decoded || !this.#allowed(raw)) return raw
    if (path.raw !== path.normalised) {
      const normalised = this.#first(facts, path, 'normalised')
      if (!this.#allowed(normalised)) return normalised
    }
    // A path whose every escape is decoded may run into a denial, but never out of one: `a%2Fb` stays one segment for what is allowed.
    if (this.#denies && path.decoded !== path.normalised) {
      const decoded = this.#first(facts, path, 'decoded')
      if (decoded !== unmatched && !this.#allowed(decoded)) return decoded
    }
    return raw
  }

  #allowed(index: number): boolean {
    return index === unmatched ? this.#defaultAllow : this.allows[index]!
  }

  #first(facts: HttpFacts, path: JudgedPath, form: keyof JudgedPath): number {
    for (let i = 0; i < this.#list.length; i++) if (matches(this.#list[i]!, facts, path, form)) return i
    return unmatched
  }
}

function matches(permission: CompiledPermission, facts: HttpFacts, path: JudgedPath, form: keyof JudgedPath): boolean {
  if (permission.methods !== undefined && !permission.methods.has(facts.method)) return false
  if (permission.path !== undefined && !permission.path(path, form)) return false
  for (const header of permission.headers) if (!header(facts.headers)) return false
  return true
}

/** Matches everything that its other parts match, and denies it. */
const never: unique symbol = Symbol('cannot be compiled')

function compilePermission(permission: Permission): CompiledPermission {
  const http = permission.http
  const path = compilePath(http)
  const headers = (http?.header ?? []).map(compileHeader)
  const broken = path === never || headers.includes(never)
  return {
    allow: permission.action === 'allow' && permission.jwt === undefined && !broken,
    path: path === never ? undefined : path,
    methods: http?.methods?.length ? new Set(http.methods.map(method => method.toUpperCase())) : undefined,
    headers: headers.filter(header => header !== never),
  }
}

function compilePath(http: Permission['http']): PathMatch | undefined | typeof never {
  if (http?.pathExact) {
    const wanted = formsOf(http.pathExact)
    return (path, form) => path[form] === wanted[form]
  }
  if (http?.pathPrefix) {
    const wanted = formsOf(http.pathPrefix)
    return (path, form) => path[form].startsWith(wanted[form])
  }
  if (http?.pathRegex) {
    const regex = compileRegex(http.pathRegex)
    return regex === undefined ? never : (path, form) => regex.testExact(path[form])
  }
  return undefined
}

/** A pattern is read in the form that it is compared with, so that an escape in it means itself. */
function formsOf(pattern: string): JudgedPath {
  const raw = byteString(pattern)
  return { raw, normalised: decodeUnreserved(raw), decoded: decodeEscapes(raw) }
}

function compileRegex(pattern: string): RE2JS | undefined {
  if (pattern.length > permissionLimits.maxRegexLength) return undefined
  try {
    return RE2JS.compile(pattern)
  } catch {
    return undefined
  }
}

/** Exactly one test each; `invert` turns the result, except that an absent header never matches a test of its value. */
function compileHeader(match: HeaderMatch): HeadersMatch | typeof never {
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
