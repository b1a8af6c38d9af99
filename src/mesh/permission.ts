/**
 * L7 permissions of an intention, compiled (spec/data-plane.md 7.6). All parts of one permission must match; the first permission
 * that matches decides. Regexes run on a linear-time engine and match whole values. It fails closed: a permission that cannot be
 * compiled denies what it would have matched, and a request that lacks the token of the permission it matches is none of the later ones'.
 */
import type { JwtRequirement, Permission } from './intention-entry.ts'
import { compileHeader, compileRegex, never, type HeadersMatch } from './header-match.ts'
import { requirementHolds, unmetRequirement, type TokenExplainer, type TokenReader } from './jwt.ts'
import { byteString, decodeEscapes, decodeUnreserved, type JudgedPath } from './path.ts'

/** What a permission may look at. `path` is raw, without the query; `headers` is flat: lower-case name, value, name, value… */
export interface HttpFacts {
  method: string
  path: string
  readonly headers: readonly string[]
}

type PathMatch = (path: JudgedPath, form: keyof JudgedPath) => boolean

interface CompiledPermission {
  allow: boolean
  path: PathMatch | undefined
  methods: ReadonlySet<string> | undefined
  headers: readonly HeadersMatch[]
  headerNames: readonly string[]
  jwt: JwtRequirement | undefined
}

/** No permission matched: the default decides. */
export const unmatched = -1
/** The first that matches allows only with a token that the request does not carry. */
export const unproven = -2

/** How a permission fared, for people. */
export interface PermissionMatch {
  permission: number
  allow: boolean
  matches: boolean
  /** Where it does not match: `method`, `path`, `header x-role`, or what its token lacks. */
  why: string
}

export class Permissions {
  /** By index: whether that permission allows what it matches. */
  readonly allows: readonly boolean[]
  readonly #list: readonly CompiledPermission[]
  readonly #defaultAllow: boolean
  readonly #restricts: boolean

  constructor(permissions: readonly Permission[], defaultAllow: boolean) {
    this.#list = permissions.map(compilePermission)
    this.allows = this.#list.map(permission => permission.allow)
    this.#defaultAllow = defaultAllow
    this.#restricts = this.#list.some(({ allow, jwt }) => !allow || jwt !== undefined)
  }

  /** The index of the permission that decides, or `unmatched`. Every form of the path is judged; the strictest outcome wins. */
  judge(facts: HttpFacts, path: JudgedPath, tokens?: TokenReader): number {
    const raw = this.#first(facts, path, 'raw', tokens)
    if (path.raw === path.decoded || !this.#allowed(raw)) return raw
    if (path.raw !== path.normalised) {
      const normalised = this.#first(facts, path, 'normalised', tokens)
      if (!this.#allowed(normalised)) return normalised
    }
    // A path whose every escape is decoded may run into a denial, but never out of one: `a%2Fb` stays one segment for what is allowed.
    if (this.#restricts && path.decoded !== path.normalised) {
      const decoded = this.#first(facts, path, 'decoded', tokens)
      if (decoded !== unmatched && !this.#allowed(decoded)) return decoded
    }
    return raw
  }

  /** The same for people: of each permission whether it matches, in which form of the path, and if not, which part of it does not. */
  explain(facts: HttpFacts, path: JudgedPath, tokens?: TokenExplainer): PermissionMatch[] {
    return this.#list.map((each, permission) => {
      const { allow, jwt } = each
      const form = formNames.find(name => mismatch(each, facts, path, name) === 0)
      if (form === undefined) {
        const part = mismatch(each, facts, path, 'raw')
        return {
          permission,
          allow,
          matches: false,
          why: part < firstHeader ? partNames[part]! : `header ${each.headerNames[part - firstHeader]}`,
        }
      }
      const unmet = jwt === undefined ? undefined : unmetRequirement(jwt, tokens)
      const read = form === 'raw' ? '' : `the path, ${form}, is ${path[form]}`
      return { permission, allow, matches: unmet === undefined, why: unmet ?? read }
    })
  }

  #allowed(index: number): boolean {
    return index >= 0 ? this.allows[index]! : index === unmatched && this.#defaultAllow
  }

  #first(facts: HttpFacts, path: JudgedPath, form: keyof JudgedPath, tokens: TokenReader | undefined): number {
    for (let i = 0; i < this.#list.length; i++) {
      const permission = this.#list[i]!
      if (mismatch(permission, facts, path, form) !== 0) continue
      if (permission.jwt === undefined || requirementHolds(permission.jwt, tokens)) return i
      // As with Consul's rules (spec/data-plane.md 7.7): the later ones are for what this one, its token aside, does not match.
      return permission.allow ? unproven : unmatched
    }
    return unmatched
  }
}

/** What a part of a permission is called, by what `mismatch` answers; headers follow. */
const partNames = ['', 'method', 'path'] as const
const firstHeader = partNames.length
const formNames = ['raw', 'normalised', 'decoded'] as const

/** The first part that does not match; 0 where all do. */
function mismatch(permission: CompiledPermission, facts: HttpFacts, path: JudgedPath, form: keyof JudgedPath): number {
  if (permission.methods !== undefined && !permission.methods.has(facts.method)) return 1
  if (permission.path !== undefined && !permission.path(path, form)) return 2
  const { headers } = permission
  for (let i = 0; i < headers.length; i++) if (!headers[i]!(facts.headers)) return firstHeader + i
  return 0
}

function compilePermission(permission: Permission): CompiledPermission {
  const http = permission.http
  const path = compilePath(http)
  const list = http?.header ?? []
  const headers = list.map(compileHeader)
  const broken = path === never || headers.includes(never)
  return {
    allow: permission.action === 'allow' && !broken,
    path: path === never ? undefined : path,
    methods: http?.methods?.length ? new Set(http.methods.map(method => method.toUpperCase())) : undefined,
    headers: headers.filter(header => header !== never),
    headerNames: list.filter((_, i) => headers[i] !== never).map(({ name }) => name),
    jwt: permission.jwt,
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
