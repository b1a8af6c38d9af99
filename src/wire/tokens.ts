/**
 * The signatures of JSON web tokens, checked with the keys of the plan's providers. A token is checked once and remembered until it ends; the
 * algorithm is the key's own, whatever the token says of it. A provider without keys of its own (a URI, a file) vouches for nobody.
 */
import {
  createPublicKey,
  createSecretKey,
  constants,
  createHmac,
  timingSafeEqual,
  verify,
  type JsonWebKey,
  type KeyObject,
} from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { isEditable, type EditableHead } from '../mesh/header-edit.ts'
import {
  claimsProblem,
  endOf,
  parseToken,
  tokenLimits,
  tokensOf,
  type Claims,
  type Token,
  type TokenExplainer,
  type TokenFacts,
  type TokenReader,
} from '../mesh/jwt.ts'
import type { JwtProviderResource } from '../mesh/snapshot.ts'

export const verifierLimits = { keys: 64, remembered: 1024, tokensPerRequest: 4 } as const

interface Key {
  kid: string | undefined
  /** What it may sign with. */
  algorithms: readonly string[]
  key: KeyObject
}

/** A head that tokens are read from, and that goes on without them. */
export type TokenHead = TokenFacts & EditableHead

export class Tokens {
  readonly #providers: ReadonlyMap<string, Provider>

  constructor(providers: ReadonlyMap<string, JwtProviderResource>) {
    this.#providers = new Map([...providers].map(([name, resource]) => [name, providerOf(resource)]))
  }

  /** What a request carries. `now` is the tokens of the moment at which it is asked: a provider that is gone vouches for nobody. */
  read(request: TokenFacts, now: () => Tokens | undefined): Carried {
    const found = new Map<string, Valid>()
    for (const [name, provider] of this.#providers) {
      const valid = provider.read(request)
      if (valid !== undefined) found.set(name, valid)
    }
    return new Carried(found, now)
  }

  /** The same for people. */
  explain(request: TokenFacts): TokenExplainer {
    const carried = this.read(request, () => this)
    const problem = (name: string) => this.#providers.get(name)?.problem(request) ?? 'there is no such provider'
    return { claims: name => carried.claims(name), problem }
  }

  has(provider: string): boolean {
    return this.#providers.has(provider)
  }

  /** What the app gets of them: the claims where a provider says so, and no token that is not to be forwarded. */
  pass(carried: Carried, head: TokenHead): void {
    for (const [name, provider] of this.#providers) provider.pass(carried.found.get(name), head)
  }
}

/** The tokens of one request that were valid when it came, each until it ends. */
export class Carried implements TokenReader {
  readonly found: ReadonlyMap<string, Valid>
  readonly #now: () => Tokens | undefined

  constructor(found: ReadonlyMap<string, Valid>, now: () => Tokens | undefined) {
    this.found = found
    this.#now = now
  }

  /** When the next of them ends (wall clock): from then on what it let in is to be judged again. */
  get endsMs(): number {
    const now = Date.now()
    let first = Infinity
    for (const { endsMs } of this.found.values()) if (endsMs > now && endsMs < first) first = endsMs
    return first
  }

  claims(provider: string): Claims | undefined {
    const valid = this.found.get(provider)
    return valid !== undefined && Date.now() < valid.endsMs && this.#now()?.has(provider) === true ? valid.claims : undefined
  }
}

type TokenHeader = NonNullable<JwtProviderResource['locations'][number]['header']>

interface Valid {
  claims: Claims
  text: string
  /** Wall clock. */
  endsMs: number
}

/** By the resource, so that what was checked is remembered from plan to plan. */
const providers = new WeakMap<JwtProviderResource, Provider>()

function providerOf(resource: JwtProviderResource): Provider {
  let provider = providers.get(resource)
  if (provider === undefined) providers.set(resource, (provider = new Provider(resource)))
  return provider
}

class Provider {
  readonly #resource: JwtProviderResource
  readonly #keys: readonly Key[]
  readonly #forwarding: JwtProviderResource['forwarding']
  /** Where a token is that is not to be forwarded. */
  readonly #hidden: readonly { header: TokenHeader }[]
  /** Claims by the token's text; false for one that no key signed. */
  readonly #seen = new LRUCache<string, Claims | false>({ max: verifierLimits.remembered })

  constructor(resource: JwtProviderResource) {
    this.#resource = resource
    this.#keys = keysOf(resource.jwks)
    const { forwarding, locations } = resource
    // What an entry may say is checked when it is written; a snapshot may be of another hand.
    this.#forwarding = forwarding !== undefined && isEditable(forwarding.header) ? forwarding : undefined
    this.#hidden = locations.flatMap(({ header }) =>
      header !== undefined && header.forward !== true && isEditable(header.name.toLowerCase()) ? [{ header }] : [],
    )
  }

  read(request: TokenFacts): Valid | undefined {
    if (this.#keys.length === 0) return undefined
    for (const text of tokensOf(this.#resource, request).slice(0, verifierLimits.tokensPerRequest)) {
      const claims = this.#signed(text)
      if (claims !== false && claimsProblem(claims, this.#resource, Date.now() / 1000) === undefined) {
        return { claims, text, endsMs: endOf(claims, this.#resource) }
      }
    }
    return undefined
  }

  problem(request: TokenFacts): string {
    if (this.#keys.length === 0) return 'has no key of its own to check a token with (Local.JWKS), so that it vouches for nobody'
    const tokens = tokensOf(this.#resource, request).slice(0, verifierLimits.tokensPerRequest)
    if (tokens.length === 0) return 'the request carries no token where this provider looks for one'
    const problems = tokens.map(text => {
      const claims = this.#signed(text)
      return claims === false ? 'is signed by no key of the provider' : claimsProblem(claims, this.#resource, Date.now() / 1000)
    })
    return `the token ${problems[0] ?? 'is valid'}`
  }

  pass(valid: Valid | undefined, head: TokenHead): void {
    const forwarding = this.#forwarding
    if (forwarding !== undefined) head.remove(forwarding.header)
    if (valid === undefined) return
    for (const location of this.#hidden) {
      if (tokensOf({ locations: [location] }, head).includes(valid.text)) head.remove(location.header.name.toLowerCase())
    }
    if (forwarding === undefined) return
    const [, claims = ''] = valid.text.split('.')
    head.append(forwarding.header, forwarding.pad ? claims.padEnd(Math.ceil(claims.length / 4) * 4, '=') : claims)
  }

  #signed(text: string): Claims | false {
    if (text.length > tokenLimits.length) return false
    let claims = this.#seen.get(text)
    if (claims === undefined) {
      const token = parseToken(text)
      claims = token !== undefined && this.#keys.some(key => isSignedBy(token, key)) && token.claims
      this.#seen.set(text, claims)
    }
    return claims
  }
}

function isSignedBy({ header, signed, signature }: Token, { kid, algorithms, key }: Key): boolean {
  const { alg } = header
  if (typeof alg !== 'string' || !algorithms.includes(alg)) return false
  if (header['kid'] !== undefined && kid !== undefined && header['kid'] !== kid) return false
  const data = Buffer.from(signed)
  const hash = `sha${alg.slice(2)}`
  try {
    switch (alg.slice(0, 2)) {
      case 'HS': {
        const wanted = createHmac(hash, key).update(data).digest()
        return wanted.length === signature.length && timingSafeEqual(wanted, signature)
      }
      case 'RS':
        return verify(hash, data, key, signature)
      case 'PS':
        return verify(
          hash,
          data,
          { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST },
          signature,
        )
      case 'ES':
        return verify(hash, data, { key, dsaEncoding: 'ieee-p1363' }, signature)
      default:
        return verify(null, data, key, signature)
    }
  } catch {
    return false
  }
}

const curves: Record<string, string> = { 'P-256': 'ES256', 'P-384': 'ES384', 'P-521': 'ES512' }
const rsaBits = 2048

/** The keys of a JWKS (base64) that can be used; a set that cannot be read has none. */
function keysOf(jwks: string): Key[] {
  try {
    const set = JSON.parse(Buffer.from(jwks, 'base64').toString('utf8')) as { keys?: unknown }
    const list = Array.isArray(set.keys) ? (set.keys as unknown[]) : []
    return list.slice(0, verifierLimits.keys).flatMap(each => keyOf(each as JsonWebKey) ?? [])
  } catch {
    return []
  }
}

function keyOf(jwk: JsonWebKey): Key | undefined {
  try {
    if (jwk['use'] !== undefined && jwk['use'] !== 'sig') return undefined
    const possible = algorithmsOf(jwk)
    const algorithms = jwk['alg'] === undefined ? possible : possible.filter(each => each === jwk['alg'])
    if (algorithms.length === 0) return undefined
    const key = jwk.kty === 'oct' ? secretOf(jwk.k) : createPublicKey({ key: jwk, format: 'jwk' })
    if (key === undefined) return undefined
    if (jwk.kty === 'RSA' && (key.asymmetricKeyDetails?.modulusLength ?? 0) < rsaBits) return undefined
    return { kid: typeof jwk['kid'] === 'string' ? jwk['kid'] : undefined, algorithms, key }
  } catch {
    return undefined
  }
}

/** An empty secret is one that everybody knows. */
function secretOf(k: unknown): KeyObject | undefined {
  const bytes = Buffer.from(typeof k === 'string' ? k : '', 'base64url')
  return bytes.length === 0 ? undefined : createSecretKey(bytes)
}

function algorithmsOf({ kty, crv = '' }: JsonWebKey): string[] {
  switch (kty) {
    case 'RSA':
      return ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512']
    case 'EC':
      return curves[crv] === undefined ? [] : [curves[crv]]
    case 'OKP':
      return crv === 'Ed25519' ? ['EdDSA'] : []
    case 'oct':
      return ['HS256', 'HS384', 'HS512']
    default:
      return []
  }
}
