/**
 * Intentions and requests made up from a seed: small pools of names, paths and values, so that rules and requests meet, and the odd spellings
 * by which a request may try to get past a rule.
 */
import { parseConfigEntry } from '../../src/mesh/config-entry.ts'
import type { ServiceIntentions } from '../../src/mesh/intention-entry.ts'
import { checkConfigEntry, normaliseConfigEntry } from '../../src/mesh/config-entry-check.ts'
import { seeded } from '../mesh/balance/endpoints.ts'
import type { Action } from './intention-rbac.ts'

export const ownDomain = '11111111-0000-0000-0000-00000000000a.consul'
/** Known peers. Intentions speak of `north`, too, whose trust bundle is not known. */
export const peers = {
  east: { trustDomain: '22222222-0000-0000-0000-00000000000b.consul', exportedPartition: '' },
  west: { trustDomain: '33333333-0000-0000-0000-00000000000c.consul', exportedPartition: 'team' },
} as const
const northDomain = '44444444-0000-0000-0000-00000000000d.consul'

const service = (domain: string, name: string, partition = '') => `spiffe://${domain}${partition}/ns/default/dc/dc1/svc/${name}`
export const gatewayUri = `spiffe://${ownDomain}/gateway/mesh/dc/dc1`

/** What comes over TLS, by the name of its certificate. */
export const tlsPeers = {
  web: service(ownDomain, 'web'),
  admin: service(ownDomain, 'admin'),
  other: service(ownDomain, 'other'),
  gateway: gatewayUri,
  eastWeb: service(peers.east.trustDomain, 'web'),
  eastGateway: `spiffe://${peers.east.trustDomain}/gateway/mesh/dc/dc1`,
  westWeb: service(peers.west.trustDomain, 'web', '/ap/team'),
} as const
export type TlsPeer = keyof typeof tlsPeers

/** By how often they do. */
const dialling: TlsPeer[] = ['web', 'web', 'web', 'admin', 'admin', 'admin', 'other', 'eastWeb', 'eastGateway', 'westWeb']

/** Whom our gateway names. */
const callers = [
  ...['web', 'admin', 'other'].map(name => service(peers.east.trustDomain, name)),
  ...['web', 'admin'].map(name => service(peers.west.trustDomain, name, '/ap/team')),
]
/** Whom it should not have. */
const strangers = [service(peers.west.trustDomain, 'web'), service(northDomain, 'web'), tlsPeers.web, gatewayUri]

export const xfccNaming = (uri: string) => `By=${gatewayUri};Hash=00;Cert="x";Chain="x";Subject="";URI=${uri}`

/** How a token is good or not for the provider `okta`. */
export const tokenKinds = ['none', 'admin', 'user', 'expired', 'issuer', 'forged'] as const
export type TokenKind = (typeof tokenKinds)[number]

export interface Question {
  /** Which of the sets of entries. */
  set: number
  default: Action
  tls: TlsPeer
  method: string
  target: string
  /** As they are written, one byte a character; tokens are added by who asks. */
  headers: readonly (readonly [name: string, value: string])[]
  token: TokenKind
}

const methods = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']
const exactPaths = ['/', '/a', '/a/b', '/admin', '/admin/x', '/A', '/a/', '/caf\u00e9']
const prefixes = ['/', '/a', '/a/', '/admin', '/admin/', '/v']
const regexes = ['/a/[a-z]+', '/(a|admin)(/.*)?', '/v[0-9]+', '/a', '.*b', '/[^/]*', '/(?i)ADMIN', '/a|/admin']
const values = ['v1', 'v1', 'v2', 'V1', '1', 'v', 'v1 v2', 'v1,v2', '\u00e9']
const plainTargets = [
  '/',
  '/a',
  '/a/b',
  '/a/',
  '/admin',
  '/admin/x',
  '/v12',
  '/vx',
  '/aa',
  '/A',
  '/other',
  '/a?x=/admin',
  '/admin?b',
  '/?/a',
]
const oddTargets = [
  '//admin',
  '/a/../admin',
  '/%61dmin',
  '/%41',
  '/a%2Fb',
  '/a%2fb',
  '/a/%2e%2e/admin',
  '/./admin',
  '/a/.',
  '/a/b/..',
  '/a//b',
  '/a;v=1',
  '/admin%2Fx',
  '/%2561dmin',
  '/%2Fadmin',
  '/a/..//admin/',
  '/%3badmin',
]
/** No honest client sends them. */
const badTargets = ['/%', '/%zz', '/%00', '/a%0', '/a%2f..%2fadmin', '/admin/..;/a', '/a%5c..%5cadmin', '/a\\admin', '/a#admin']

/** An entry as it is stored, of one as the API takes it. */
export function written(input: unknown): ServiceIntentions {
  const parsed = parseConfigEntry(input)
  if (!parsed.ok || parsed.value.kind !== 'service-intentions') throw new Error(`not taken: ${JSON.stringify(parsed)}`)
  const entry = normaliseConfigEntry(parsed.value)
  const problem = checkConfigEntry(entry)
  if (problem !== undefined) throw new Error(problem)
  return entry
}

export class Maker {
  readonly #random: () => number

  constructor(seed: number) {
    this.#random = seeded(seed).random
  }

  /** The entries of `api` and of `*`, as one writes them. */
  entries(): object[] {
    const own = this.#entry('api', 1 + this.#below(6))
    return this.#maybe(0.4) ? [own, this.#entry('*', 1 + this.#below(3))] : [own]
  }

  question(set: number): Question {
    const tls = this.#maybe(0.4) ? 'gateway' : this.#one(dialling)
    const roll = this.#random()
    return {
      set,
      default: this.#one(['allow', 'deny', 'deny'] as const),
      tls,
      method: this.#one(methods),
      target: this.#one(roll < 0.6 ? plainTargets : roll < 0.96 ? oddTargets : badTargets),
      headers: [...this.#forwarded(tls), ...this.#fields()],
      token: this.#maybe(0.4) ? 'none' : this.#one(tokenKinds),
    }
  }

  #entry(name: string, count: number): object {
    const sources = new Map<string, object>()
    for (let i = 0; i < count; i++) {
      const source = { Name: this.#one(['web', 'admin', '*']), Peer: this.#one(['', '', 'east', 'east', 'west', 'north']) }
      const rule = name === 'api' && this.#maybe(0.6) ? { Permissions: this.#permissions() } : { Action: this.#action() }
      sources.set(`${source.Peer}/${source.Name}`, { ...source, ...rule })
    }
    const jwt = name === 'api' && this.#maybe(0.15) ? { JWT: this.#requirement() } : {}
    return { Kind: 'service-intentions', Name: name, Sources: [...sources.values()], ...jwt }
  }

  /** Often all but a part, as people write them. */
  #permissions(): object[] {
    if (this.#maybe(0.6)) return this.#list(1, 4, () => this.#permission())
    const part = this.#one([{ PathExact: '/a/b' }, { PathExact: '/admin/x' }, { PathPrefix: '/admin' }, { PathPrefix: '/admin/' }])
    const guard = this.#maybe(0.3) ? { Action: 'allow', HTTP: part, JWT: this.#requirement() } : { Action: 'deny', HTTP: part }
    return [guard, { Action: 'allow', HTTP: { PathPrefix: '/' } }]
  }

  #permission(): object {
    const roll = this.#random()
    const path =
      roll < 0.25
        ? { PathExact: this.#one(exactPaths) }
        : roll < 0.6
          ? { PathPrefix: this.#one(prefixes) }
          : roll < 0.8
            ? { PathRegex: this.#one(regexes) }
            : {}
    const methodsToo = this.#maybe(0.3) ? { Methods: [...new Set(this.#list(1, 3, () => this.#one(methods)))] } : {}
    const alone = Object.keys(path).length + Object.keys(methodsToo).length === 0
    const header = alone || this.#maybe(0.4) ? { Header: this.#list(1, 2, () => this.#headerTest()) } : {}
    const jwt = this.#maybe(0.2) ? { JWT: this.#requirement() } : {}
    return { Action: this.#action(), HTTP: { ...path, ...methodsToo, ...header }, ...jwt }
  }

  #headerTest(): object {
    const test = this.#one<() => object>([
      () => ({ Present: true }),
      () => ({ Exact: this.#one(values) }),
      () => ({ Prefix: this.#one(values) }),
      () => ({ Suffix: this.#one(values) }),
      () => ({ Regex: this.#one(['v[0-9]+', 'v1|1', '.*', '(?i)v1']) }),
    ])()
    return { Name: this.#one(['x-a', 'X-B']), ...test, ...(this.#maybe(0.3) ? { Invert: true } : {}) }
  }

  #requirement(): object {
    const claims = this.#maybe(0.5) ? { VerifyClaims: [{ Path: ['perms', 'role'], Value: 'admin' }] } : {}
    return { Providers: [{ Name: 'okta', ...claims }] }
  }

  /** Of a gateway almost always, of others now and then: a forgery. */
  #forwarded(tls: TlsPeer): [string, string][] {
    if (!this.#maybe(tls === 'gateway' ? 0.95 : 0.15)) return []
    const element = xfccNaming(this.#one(this.#maybe(0.9) ? callers : strangers))
    return [['X-Forwarded-Client-Cert', this.#maybe(0.1) ? `${element},${xfccNaming(this.#one(callers))}` : element]]
  }

  #fields(): [string, string][] {
    const fields = this.#list(0, 3, (): [string, string] => {
      const value = this.#maybe(0.1) ? '' : this.#one(values)
      return [this.#one(['x-a', 'X-A', 'x-b', 'X-c']), this.#maybe(0.15) ? ` \t${value}  ` : value]
    })
    return this.#maybe(0.15) ? [...fields, ['Connection', this.#one(['x-a', 'X-B, keep-alive', 'x-a, x-b'])]] : fields
  }

  #action(): string {
    return this.#one(['allow', 'deny'])
  }

  #maybe(chance: number): boolean {
    return this.#random() < chance
  }

  #below(count: number): number {
    return Math.floor(this.#random() * count)
  }

  #one<T>(of: readonly T[]): T {
    return of[this.#below(of.length)]!
  }

  #list<T>(least: number, most: number, make: () => T): T[] {
    return Array.from({ length: least + this.#below(most - least + 1) }, make)
  }
}
