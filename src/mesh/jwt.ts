/**
 * JSON web tokens, as far as they can be judged without a key: the parts of a token, where a request carries it, what a provider and an
 * intention ask of its claims (spec/data-plane.md 7.7). A token that is not exactly what RFC 7515 and 7519 say is none; signatures are the
 * proxy's to check.
 */
import { isObject } from '../lib/shape.ts'
import type { JwtRequirement } from './intention-entry.ts'
import { queryParameter } from './query-match.ts'
import type { JwtProviderResource } from './snapshot.ts'

export type Claims = Readonly<Record<string, unknown>>

/** What a request shows. */
export interface TokenFacts {
  /** Flat: lower-case name, value, … */
  readonly headers: readonly string[]
  /** The path with its query. */
  readonly target?: string
}

/** The claims of the valid token that a request carries for a provider; undefined where it carries none. */
export interface TokenReader {
  claims(provider: string): Claims | undefined
}

/** Of a token that does not vouch for its caller: why. For people; it may cost what it likes. */
export interface TokenExplainer extends TokenReader {
  problem(provider: string): string
}

export interface Token {
  header: Claims
  claims: Claims
  /** What is signed. */
  signed: string
  signature: Uint8Array
}

export const tokenLimits = { length: 8192 } as const

export function parseToken(text: string): Token | undefined {
  if (text.length > tokenLimits.length) return undefined
  const parts = text.split('.')
  if (parts.length !== 3) return undefined
  const [head, body, signature] = parts.map(bytesOf)
  const header = head && objectOf(head)
  const claims = body && objectOf(body)
  if (header === undefined || claims === undefined || signature === undefined) return undefined
  // An extension that must be understood is one that is not (RFC 7515 4.1.11).
  if (header['crit'] !== undefined) return undefined
  return { header, claims, signed: `${parts[0]}.${parts[1]}`, signature }
}

function bytesOf(base64url: string): Uint8Array | undefined {
  if (!/^[A-Za-z0-9_-]*$/.test(base64url) || base64url.length % 4 === 1) return undefined
  const binary = atob(base64url.replaceAll('-', '+').replaceAll('_', '/'))
  return Uint8Array.from(binary, character => character.charCodeAt(0))
}

function objectOf(bytes: Uint8Array): Claims | undefined {
  try {
    const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

/** When a token ends, as the wall clock of the one who checks it says. */
export function endOf({ exp }: Claims, { clockSkewSeconds }: Pick<JwtProviderResource, 'clockSkewSeconds'>): number {
  return typeof exp === 'number' ? (exp + clockSkewSeconds) * 1000 : Infinity
}

type Checked = Pick<JwtProviderResource, 'issuer' | 'audiences' | 'clockSkewSeconds'>

/** Why a token of these claims is not valid for a provider now; undefined when it is. */
export function claimsProblem(claims: Claims, { issuer, audiences, clockSkewSeconds }: Checked, nowSeconds: number): string | undefined {
  const { exp, nbf, iss, aud } = claims
  if (exp !== undefined && !(typeof exp === 'number' && nowSeconds < exp + clockSkewSeconds)) return 'has expired'
  if (nbf !== undefined && !(typeof nbf === 'number' && nowSeconds >= nbf - clockSkewSeconds)) return 'is not valid yet'
  if (issuer !== '' && iss !== issuer) return 'has another issuer'
  if (audiences.length === 0) return undefined
  const named: unknown[] = Array.isArray(aud) ? aud : [aud]
  return named.some(each => typeof each === 'string' && audiences.includes(each)) ? undefined : 'is for another audience'
}

/** One of the providers vouches for the caller, with every claim that is asked for. */
export function requirementHolds({ providers }: JwtRequirement, tokens: TokenReader | undefined): boolean {
  if (tokens === undefined) return false
  for (const { name, verifyClaims = [] } of providers) {
    const claims = tokens.claims(name)
    if (claims !== undefined && missingClaim(claims, verifyClaims) === undefined) return true
  }
  return false
}

/** The same for people: what each provider's token lacks; undefined where the requirement holds. */
export function unmetRequirement(requirement: JwtRequirement, tokens: TokenExplainer | undefined): string | undefined {
  if (tokens === undefined) return 'tokens cannot be read here'
  if (requirementHolds(requirement, tokens)) return undefined
  const unmet = requirement.providers.map(({ name, verifyClaims = [] }) => {
    const claims = tokens.claims(name)
    if (claims === undefined) return `jwt-provider/${name}: ${tokens.problem(name)}`
    const { path, value } = missingClaim(claims, verifyClaims)!
    return `jwt-provider/${name}: the claim ${path.join('.')} is not ${JSON.stringify(value)}`
  })
  return unmet.join('; ') || 'no provider is named'
}

type ClaimCheck = NonNullable<JwtRequirement['providers'][number]['verifyClaims']>[number]

function missingClaim(claims: Claims, asked: readonly ClaimCheck[]): ClaimCheck | undefined {
  return asked.find(({ path, value }) => !claimIs(claims, path, value))
}

/** A claim has a value when it is that value, or a list with it in. */
function claimIs(claims: Claims, path: readonly string[], value: string): boolean {
  let found: unknown = claims
  for (const key of path) {
    if (typeof found !== 'object' || found === null || !Object.hasOwn(found, key)) return false
    found = (found as Claims)[key]
  }
  return Array.isArray(found) ? found.some(each => isText(each, value)) : isText(found, value)
}

function isText(found: unknown, value: string): boolean {
  if (typeof found === 'string') return found === value
  return (typeof found === 'number' || typeof found === 'boolean') && String(found) === value
}

/** The texts that may be a provider's token, in the order of its locations. */
export function tokensOf({ locations }: Pick<JwtProviderResource, 'locations'>, request: TokenFacts): string[] {
  const found: string[] = []
  const add = (text: string | undefined) => {
    if (text) found.push(text)
  }
  if (locations.length === 0) {
    for (const value of valuesOf(request, 'authorization')) add(/^Bearer +(\S+)$/i.exec(value)?.[1])
    add(queryParameter(request.target ?? '', 'access_token'))
  }
  for (const { header, queryParam, cookie } of locations) {
    if (header) {
      const prefix = header.valuePrefix ?? ''
      for (const value of valuesOf(request, header.name.toLowerCase())) if (value.startsWith(prefix)) add(value.slice(prefix.length).trim())
    }
    if (queryParam) add(queryParameter(request.target ?? '', queryParam.name))
    if (cookie) for (const value of valuesOf(request, 'cookie')) add(cookieOf(value, cookie.name))
  }
  return found
}

function valuesOf({ headers }: TokenFacts, name: string): string[] {
  const values: string[] = []
  for (let i = 0; i + 1 < headers.length; i += 2) if (headers[i] === name) values.push(headers[i + 1]!.trim())
  return values
}

function cookieOf(cookies: string, name: string): string | undefined {
  for (const pair of cookies.split(';')) {
    const at = pair.indexOf('=')
    if (at > 0 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim()
  }
  return undefined
}
