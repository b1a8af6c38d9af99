/**
 * Two judges of the same bytes: a real Envoy, set up as Consul sets up the sidecar of a service and with one host for each set of
 * intentions, and our sidecar's own code from the head of the request to the decision.
 */
import { generateKeyPairSync, sign, type KeyObject } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { connect, type TLSSocket } from 'node:tls'
import type { Decision } from '../../src/mesh/authorize.ts'
import type { ServiceIntentions } from '../../src/mesh/intention-entry.ts'
import { compile, resourceKey, type SidecarPlan } from '../../src/mesh/plan.ts'
import { names, type Resource, type ResourceKind, type ResourceValue } from '../../src/mesh/snapshot.ts'
import { parseSpiffeId, serviceId, trustDomainOf } from '../../src/mesh/spiffe.ts'
import { bindSidecar, type SidecarBinding } from '../../src/proxy/binding.ts'
import { RequestHead } from '../../src/proxy/http1/head.ts'
import { defaultHttp1Limits } from '../../src/proxy/http1/limits.ts'
import { InboundJudge } from '../../src/proxy/inbound-judge.ts'
import { readBundle, type Permit } from '../../src/proxy/permit.ts'
import { freePorts } from '../support/free-ports.ts'
import { Mint, type Minted } from '../support/mint.ts'
import { sidecarSelf } from '../support/proxy-scene.ts'
import { extension, at, startStatic, type StaticEnvoy } from './envoy-static.ts'
import { rbacOf, type Action, type RbacContext } from './intention-rbac.ts'
import { ownDomain, peers, tlsPeers, type Question, type TlsPeer, type TokenKind } from './judge-cases.ts'

const issuer = 'https://iss'
const audience = 'api'
const actions = ['allow', 'deny'] as const

/** The certificates and tokens of everybody. */
export class Identities {
  readonly mint = new Mint()
  readonly roots: Record<'own' | keyof typeof peers, Minted>
  readonly leaves: Record<TlsPeer | 'api', Minted>
  readonly jwks: string
  readonly #tokens: Record<TokenKind, string>

  private constructor(mint: Mint, roots: Identities['roots'], leaves: Identities['leaves']) {
    this.mint = mint
    this.roots = roots
    this.leaves = leaves
    const [ours, foreign] = [1, 2].map(() => generateKeyPairSync('ec', { namedCurve: 'P-256' })) as [KeyPair, KeyPair]
    this.jwks = JSON.stringify({ keys: [{ ...ours.publicKey.export({ format: 'jwk' }), kid: 'k1', alg: 'ES256', use: 'sig' }] })
    const inAnHour = Math.floor(Date.now() / 1000) + 3600
    const claims = { iss: issuer, aud: audience, exp: inAnHour, perms: { role: 'admin' } }
    this.#tokens = {
      none: '',
      admin: tokenOf(ours.privateKey, claims),
      user: tokenOf(ours.privateKey, { ...claims, perms: { role: 'user' } }),
      expired: tokenOf(ours.privateKey, { ...claims, exp: inAnHour - 7200 }),
      issuer: tokenOf(ours.privateKey, { ...claims, iss: 'https://elsewhere' }),
      forged: tokenOf(foreign.privateKey, claims),
    }
  }

  static async make(): Promise<Identities> {
    const mint = new Mint()
    const [own, east, west] = await Promise.all([ownDomain, peers.east.trustDomain, peers.west.trustDomain].map(each => mint.root(each)))
    const roots = { own: own!, east: east!, west: west! }
    const issuers = { eastWeb: roots.east, eastGateway: roots.east, westWeb: roots.west } as Record<string, Minted>
    const uris = { ...tlsPeers, api: serviceId(ownDomain, 'dc1', 'api') }
    const leaves = await Promise.all(
      Object.entries(uris).map(async ([name, uri]) => [name, await mint.leaf(issuers[name] ?? roots.own, { san: `URI:${uri}` })] as const),
    )
    return new Identities(mint, roots, Object.fromEntries(leaves) as Identities['leaves'])
  }

  /** The request as it goes over the wire; it has no body. */
  bytes({ set, default: action, method, target, headers, token }: Question): Buffer {
    const bearer = token === 'none' ? [] : [['Authorization', `Bearer ${this.#tokens[token]}`]]
    const fields = [['Host', hostOf(set, action)], ['Content-Length', '0'], ...headers, ...bearer]
    const lines = fields.map(([name, value]) => `${name}: ${byteText(value)}\r\n`)
    return Buffer.from(`${method} ${target} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1')
  }
}

type KeyPair = { publicKey: KeyObject; privateKey: KeyObject }

function tokenOf(key: KeyObject, claims: object): string {
  const signed = [{ alg: 'ES256', kid: 'k1' }, claims].map(each => Buffer.from(JSON.stringify(each)).toString('base64url')).join('.')
  return `${signed}.${sign('sha256', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`
}

const hostOf = (set: number, action: Action) => `set-${set}-${action}`
const byteText = (text: string) => Buffer.from(text).toString('latin1')

const contextOf = (action: Action): RbacContext => ({
  default: action,
  protocol: 'http',
  trustDomain: ownDomain,
  peers,
  issuers: { okta: issuer },
})

/** A real Envoy. Both defaults of each set have a host. */
export class EnvoyJudge {
  readonly #envoy: StaticEnvoy
  readonly #identities: Identities
  readonly #port: number
  readonly #lines = new Map<TlsPeer, Line>()

  private constructor(envoy: StaticEnvoy, identities: Identities, port: number) {
    this.#envoy = envoy
    this.#identities = identities
    this.#port = port
  }

  static async start(program: string, identities: Identities, sets: readonly ServiceIntentions[][]): Promise<EnvoyJudge> {
    const [port] = (await freePorts(1)) as [number]
    const envoy = await startStatic(program, identities.mint.dir, { listeners: [listenerOf(port, identities, sets)] })
    return new EnvoyJudge(envoy, identities, port)
  }

  /** The status of its answer. */
  ask(question: Question): Promise<number> {
    let line = this.#lines.get(question.tls)
    if (line === undefined) this.#lines.set(question.tls, (line = new Line(this.#port, this.#identities.leaves[question.tls])))
    return line.ask(this.#identities.bytes(question), question.method === 'HEAD')
  }

  async stop(): Promise<void> {
    for (const line of this.#lines.values()) line.close()
    await this.#envoy.stop()
  }
}

function listenerOf(port: number, identities: Identities, sets: readonly ServiceIntentions[][]): object {
  const answered = { match: { prefix: '/' }, direct_response: { status: 200 } }
  const hosts = sets.flatMap((entries, set) =>
    actions.map(action => {
      const rbac = { '@type': extension('filters.http.rbac.v3.RBACPerRoute'), rbac: { rules: rbacOf(entries, contextOf(action)) } }
      const name = hostOf(set, action)
      return { name, domains: [name], routes: [answered], typed_per_filter_config: { 'envoy.filters.http.rbac': rbac } }
    }),
  )
  const okta = { issuer, audiences: [audience], local_jwks: { inline_string: identities.jwks }, payload_in_metadata: 'jwt_payload_okta' }
  const requires = { requires_any: { requirements: [{ provider_name: 'okta' }, { allow_missing_or_failed: {} }] } }
  const filters = {
    jwt_authn: {
      '@type': extension('filters.http.jwt_authn.v3.JwtAuthentication'),
      providers: { okta },
      rules: [{ match: { prefix: '/' }, requires }],
    },
    rbac: { '@type': extension('filters.http.rbac.v3.RBAC'), rules: {} },
    router: { '@type': extension('filters.http.router.v3.Router') },
  }
  const manager = {
    '@type': extension('filters.network.http_connection_manager.v3.HttpConnectionManager'),
    stat_prefix: 'public_listener',
    route_config: { name: 'public_listener', virtual_hosts: hosts },
    http_filters: Object.entries(filters).map(([name, typed_config]) => ({ name: `envoy.filters.http.${name}`, typed_config })),
    forward_client_cert_details: 'APPEND_FORWARD',
    set_current_client_cert_details: { subject: true, cert: true, dns: true, uri: true, chain: true },
  }
  const { api } = identities.leaves
  const bundle = join(identities.mint.dir, 'callers.pem')
  writeFileSync(
    bundle,
    Object.values(identities.roots)
      .map(root => root.certPem)
      .join(''),
  )
  const context = {
    tls_certificates: [{ certificate_chain: { filename: api.certPath }, private_key: { filename: api.keyPath } }],
    validation_context: { trusted_ca: { filename: bundle } },
  }
  const tls = {
    '@type': extension('transport_sockets.tls.v3.DownstreamTlsContext'),
    common_tls_context: context,
    require_client_certificate: true,
  }
  return {
    name: 'public_listener',
    address: at(port),
    filter_chains: [
      {
        filters: [{ name: 'envoy.filters.network.http_connection_manager', typed_config: manager }],
        transport_socket: { name: 'tls', typed_config: tls },
      },
    ],
  }
}

/** One request after the other over one TLS connection, which is made again when it was closed. */
class Line {
  readonly #port: number
  readonly #leaf: Minted
  #socket: TLSSocket | undefined
  #last: Promise<unknown> = Promise.resolve()

  constructor(port: number, leaf: Minted) {
    this.#port = port
    this.#leaf = leaf
  }

  ask(bytes: Buffer, bodiless: boolean): Promise<number> {
    const answer = this.#last.then(() => this.#exchange(bytes, bodiless))
    this.#last = answer.catch(() => {})
    return answer
  }

  close(): void {
    this.#socket?.destroy()
  }

  #exchange(bytes: Buffer, bodiless: boolean): Promise<number> {
    const { certPem: cert, keyPem: key } = this.#leaf
    // Whom it presents is not what is tested here.
    const socket = (this.#socket ??= connect({ port: this.#port, host: '127.0.0.1', cert, key, rejectUnauthorized: false }))
    return new Promise((resolve, reject) => {
      let heard = ''
      const settle = (status: number, closed: boolean) => {
        socket.removeAllListeners('data').removeAllListeners('close').removeAllListeners('error')
        socket.on('error', () => {})
        if (closed) {
          socket.destroy()
          this.#socket = undefined
        }
        if (status > 0) resolve(status)
        else reject(new Error(`no answer to ${bytes.toString('latin1')}`))
      }
      socket.on('error', () => {})
      socket.on('close', () => settle(0, true))
      socket.on('data', (chunk: Buffer) => {
        heard += chunk.toString('latin1')
        const end = heard.indexOf('\r\n\r\n')
        if (end < 0) return
        const head = heard.slice(0, end)
        const length = bodiless ? 0 : Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0)
        if (heard.length < end + 4 + length) return
        settle(Number(head.slice(9, 12)), /^connection: close$/im.test(head))
      })
      socket.write(bytes)
    })
  }
}

export interface Judged {
  status: number
  /** Undefined where the codec refused the head. */
  decision: Decision | undefined
  /** What is forwarded if it may be. */
  head: RequestHead
}

/** Our sidecar. */
export class OwnJudge {
  readonly #identities: Identities
  readonly #bindings: Record<Action, SidecarBinding>[]

  constructor(identities: Identities, sets: readonly ServiceIntentions[][]) {
    this.#identities = identities
    this.#bindings = sets.map(entries => ({ allow: this.#binding(entries, 'allow'), deny: this.#binding(entries, 'deny') }))
  }

  ask(question: Question): Judged {
    const head = new RequestHead(defaultHttp1Limits)
    head.begin()
    const bytes = this.#identities.bytes(question)
    if (head.parse(bytes, 0, bytes.length) < 0) return { status: 400, decision: undefined, head }
    let decision: Decision | undefined
    const judge = new InboundJudge({
      permit: this.#permit(question.tls),
      binding: () => this.#bindings[question.set]![question.default],
      decided: made => {
        decision = made
        return 'allow'
      },
    })
    const refused = judge.open(head, { head, xfcc: undefined, carried: undefined, decision: 'none' })
    return { status: refused?.status ?? 200, decision, head }
  }

  #permit(tls: TlsPeer): Permit {
    const uri = tlsPeers[tls]
    const chain = readBundle([this.#identities.leaves[tls].certPem])
    return { uri, trustDomain: trustDomainOf(uri)!, identity: parseSpiffeId(uri), chain, validUntilMs: Infinity }
  }

  #binding(entries: readonly ServiceIntentions[], defaultAction: Action): SidecarBinding {
    const { roots, leaves, jwks } = this.#identities
    const resources = new Map<string, Resource>()
    const add = <K extends ResourceKind>(kind: K, name: string, value: ResourceValue<K>) => {
      resources.set(resourceKey({ kind, name }), { kind, name, version: '1', value } as Resource)
    }
    const spiffeId = serviceId(ownDomain, 'dc1', 'api')
    add(
      'self',
      'api',
      sidecarSelf('west', 'api', 'http', 1, { trustDomain: ownDomain, spiffeId, defaultAction, inboundPeers: Object.keys(peers) }),
    )
    add('roots', names.localRoots, { trustDomain: ownDomain, peer: '', exportedPartition: '', pems: [roots.own.certPem] })
    for (const [peer, side] of Object.entries(peers))
      add('roots', peer, { ...side, peer, pems: [roots[peer as keyof typeof peers].certPem] })
    const jwks64 = Buffer.from(jwks).toString('base64')
    add('jwt-provider', 'okta', { issuer, audiences: [audience], locations: [], clockSkewSeconds: 30, jwks: jwks64 })
    // As the agent makes it of the entries (agent/snapshots/sidecar.ts).
    const sources = entries.flatMap(({ name, jwt, sources }) =>
      sources.map(source => ({ ...source, destination: name, ...(jwt === undefined ? {} : { jwt }) })),
    )
    add('intentions', 'api', { sources })
    const { certPem, keyPem } = leaves.api
    const identity = { uri: spiffeId, certPem, keyPem, generation: '1', validAfterMs: 0, validBeforeMs: Infinity }
    return bindSidecar(compile(resources) as SidecarPlan, identity)
  }
}
