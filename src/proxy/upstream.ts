/**
 * One upstream of a sidecar: its endpoints, its TLS target and its streams, which ride sessions where the other side is one of us and
 * connections of their own elsewhere. Choosing an endpoint, reusing a stream and going on to the next endpoint when one cannot be
 * reached are here; nothing was sent before a stream is handed out, so that is always safe. A new leaf or new roots open new
 * connections; what is already open is closed as soon as the server on it would not be accepted any more.
 */
import { TLSSocket } from 'node:tls'
import type { ByteStream } from '../lib/byte-stream.ts'
import type { Endpoint } from '../mesh/snapshot.ts'
import type { UpstreamPlan } from '../mesh/plan.ts'
import { dialTls, serverPermit, type DialFailure, type TlsTarget } from './dial.ts'
import type { ConnectFailure, UpstreamStream } from './http1/door.ts'
import type { ProxyMetrics } from './metrics.ts'
import { MuxStream } from './mux/stream.ts'
import { readBundle } from './permit.ts'
import { Ejections } from './ejections.ts'
import { addressOf, StreamPool } from './pool.ts'
import { Sessions } from './sessions.ts'
import { isHttp2, muxProtocol, type ClientContexts, type ProxyIdentity } from './tls.ts'

/** Endpoints tried for one stream. */
const maxAttempts = 3
/** After a stream was lost: how long until another is taken. By then it is known what else broke with it, such as other sessions to that instance. */
const retryAfterMs = 10
/** Sessions to a gateway, at least: it pins each of them to one instance, and an importer does not see instances. */
const gatewaySessions = 4

const noEndpoint: ConnectFailure = { reset: 'no healthy upstream', status: 503, body: 'no healthy upstream' }
const nobody: ReadonlySet<string> = new Set()

export class Upstream {
  readonly #contexts: ClientContexts
  readonly #pool = new StreamPool()
  readonly #sessions = new Sessions({
    dial: endpoint => void this.#openSession(endpoint),
    // What it had under way is tried again elsewhere, and not against the same silence.
    silent: endpoint => this.lost(endpoint),
  })
  readonly #dials: { ok: { count: number }; failed: { count: number }; identity: { count: number } }
  /** Connection failures only: what an app answers never ejects a gateway. */
  readonly #ejections = new Ejections()
  /** Endpoints being dialled: a session that comes of it is for all who wait. */
  readonly #dialling = new Map<string, Promise<UpstreamStream | ConnectFailure>>()
  /** Endpoints that do not multiplex: everybody dials for himself. */
  readonly #plain = new Set<string>()
  #plan: UpstreamPlan
  #target: TlsTarget
  #key: string

  constructor(plan: UpstreamPlan, identity: ProxyIdentity, contexts: ClientContexts, metrics: ProxyMetrics) {
    this.#contexts = contexts
    this.#plan = plan
    const { key, target } = this.#bind(plan, identity)
    this.#key = key
    this.#target = target
    this.#pool.rekey(key)
    this.#sessions.rekey(key)
    this.#sessions.want(sessionsFor(plan))
    const { name } = plan
    this.#dials = {
      ok: metrics.dials(name, 'ok'),
      failed: metrics.dials(name, 'failed'),
      identity: metrics.dials(name, 'refused-identity'),
    }
  }

  get plan(): UpstreamPlan {
    return this.#plan
  }

  get idleStreams(): number {
    return this.#pool.idleCount + this.#sessions.idleCount
  }

  get busyStreams(): number {
    return this.#pool.busyCount + this.#sessions.busyCount
  }

  get sessions(): number {
    return this.#sessions.count
  }

  /** What sessions opened now are tied to: the own leaf, the roots and the name asked for. */
  get key(): string {
    return this.#key
  }

  /** Takes over a new plan or leaf. */
  update(plan: UpstreamPlan, identity: ProxyIdentity): void {
    const { key, target } = this.#bind(plan, identity)
    const samePlan = plan === this.#plan
    this.#plan = plan
    this.#target = target
    if (key !== this.#key) {
      this.#key = key
      this.#pool.rekey(key)
      this.#sessions.rekey(key)
    }
    if (samePlan) return
    const addresses = new Set(plan.endpoints.map(addressOf))
    this.#ejections.keep(addresses)
    for (const address of this.#plain) if (!addresses.has(address)) this.#plain.delete(address)
    this.#sessions.want(sessionsFor(plan))
    const verdict = (stream: ByteStream | TLSSocket, endpoint: Endpoint) => {
      if (!this.accepts(stream)) return 'close'
      return addresses.has(addressOf(endpoint)) ? 'keep' : 'drain'
    }
    this.#pool.retire(verdict)
    this.#sessions.retire(verdict)
  }

  /** True while the server on this stream is one that the plan of now would accept. */
  accepts(stream: ByteStream | TLSSocket): boolean {
    const socket = stream instanceof MuxStream ? stream.session.socket : stream
    return !(socket instanceof TLSSocket) || serverPermit(socket, this.#target) !== undefined
  }

  hasEndpoint(endpoint: Endpoint): boolean {
    const address = addressOf(endpoint)
    return this.#plan.endpoints.some(each => addressOf(each) === address)
  }

  /** The endpoint whose turn it is. */
  pick(): Endpoint | undefined {
    return this.#pick(nobody)
  }

  /** It failed lately: only a new connection tells whether it is back. */
  doubts(endpoint: Endpoint): boolean {
    return this.#ejections.doubts(endpoint)
  }

  /** A connection to it was there and died without a word. */
  lost(endpoint: Endpoint): void {
    this.#ejections.failed(addressOf(endpoint))
  }

  /**
   * A stream for one request, at once where a session or an idle stream is there. `fresh`: after a stream that was lost; nothing may
   * have been sent on this one before.
   */
  connect(fresh: boolean): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure> {
    if (!fresh) return this.#take(false)
    return new Promise(resolve => {
      setTimeout(() => resolve(this.#take(true)), retryAfterMs)
    })
  }

  #take(fresh: boolean): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure> {
    const endpoint = this.#pick(nobody)
    if (!endpoint) return noEndpoint
    if (!this.#ejections.doubts(endpoint)) {
      const stream = this.#sessions.take(endpoint, fresh) ?? (fresh ? undefined : this.#pool.take(endpoint))
      if (stream) return stream
    }
    return this.#open(endpoint)
  }

  /** A connection of its own, for a tunnel; `first` is an endpoint that was picked already. */
  dial(first?: Endpoint): Promise<Dialled> {
    const { protocol } = this.#plan.resource
    return this.#dial(first, protocol === 'http' ? ['http/1.1'] : isHttp2(protocol) ? ['h2'] : [])
  }

  close(): void {
    this.#pool.close()
    this.#sessions.close()
  }

  /** Whoever needs an endpoint that is being dialled waits for what comes of it: a session is for all, and so is a failure. */
  async #open(first: Endpoint): Promise<UpstreamStream | ConnectFailure> {
    let endpoint = first
    for (;;) {
      const dialling = this.#dialling.get(addressOf(endpoint))
      if (dialling === undefined || this.#plain.has(addressOf(endpoint))) break
      const made = await dialling
      if (!('stream' in made)) return made
      if (this.#ejections.doubts(endpoint)) endpoint = this.#pick(nobody) ?? endpoint
      const stream = this.#sessions.take(endpoint, false)
      if (stream) return stream
    }
    const address = addressOf(endpoint)
    const opened = this.#openOne(endpoint)
    if (!this.#dialling.has(address)) {
      this.#dialling.set(address, opened)
      void opened.finally(() => this.#dialling.delete(address))
    }
    return opened
  }

  async #openOne(first: Endpoint): Promise<UpstreamStream | ConnectFailure> {
    const key = this.#key
    const dialled = await this.#dial(first, [muxProtocol, 'http/1.1'])
    if (!dialled.ok) return dialled.failure
    const { stream, endpoint } = dialled
    if (stream.alpnProtocol === muxProtocol) {
      this.#plain.delete(addressOf(endpoint))
      return this.#sessions.add(stream, endpoint, key) ?? { reset: 'remote connection failure' }
    }
    this.#plain.add(addressOf(endpoint))
    return this.#pool.add(stream, endpoint, key)
  }

  /** One more session beside others; nobody waits for it. */
  async #openSession(endpoint: Endpoint): Promise<void> {
    const key = this.#key
    const target = this.#target
    const dialled = await dialTls(endpoint, target, [muxProtocol, 'http/1.1'], this.#plan.resource.connectTimeoutMs)
    if (dialled.ok && dialled.stream.alpnProtocol === muxProtocol && (target === this.#target || this.accepts(dialled.stream))) {
      this.#dials.ok.count += 1
      this.#sessions.add(dialled.stream, endpoint, key)?.release()
      return
    }
    if (dialled.ok) dialled.stream.destroy()
    this.#sessions.failed(endpoint)
  }

  async #dial(first: Endpoint | undefined, alpn: readonly string[]): Promise<Dialled> {
    const plan = this.#plan
    const target = this.#target
    const tried = new Set<string>()
    let failure: DialFailure | undefined
    for (let attempt = 0; attempt < maxAttempts; attempt += 1) {
      const endpoint = attempt === 0 && first ? first : this.#pick(tried)
      if (!endpoint) break
      const address = addressOf(endpoint)
      tried.add(address)
      const dialled = await dialTls(endpoint, target, alpn, plan.resource.connectTimeoutMs)
      if (dialled.ok) {
        this.#dials.ok.count += 1
        this.#ejections.reached(address)
        // The plan may have changed meanwhile; then this server may be nobody's any more.
        if (target === this.#target || this.accepts(dialled.stream)) return { ok: true, stream: dialled.stream, endpoint }
        dialled.stream.destroy()
        continue
      }
      failure = dialled
      if (dialled.reason === 'identity') this.#dials.identity.count += 1
      else this.#dials.failed.count += 1
      this.#ejections.failed(address)
    }
    return { ok: false, failure: failure ? { reset: failure.reset } : noEndpoint }
  }

  #pick(tried: ReadonlySet<string>): Endpoint | undefined {
    return this.#ejections.pick(this.#plan.picker, tried, this.#plan.resource.connectTimeoutMs)
  }

  #bind(plan: UpstreamPlan, identity: ProxyIdentity): { key: string; target: TlsTarget } {
    const { key, context } = this.#contexts.get(identity, plan.rootPems)
    const { sni } = plan.resource
    const target: TlsTarget = {
      sni,
      trustDomain: plan.trustDomain,
      spiffeIds: plan.spiffeIds,
      roots: readBundle(plan.rootPems),
      context,
    }
    return { key: `${key}/${sni}`, target }
  }
}

type Dialled = { ok: true; stream: TLSSocket; endpoint: Endpoint } | { ok: false; failure: ConnectFailure }

/** Sessions to each endpoint. A peer's endpoints are gateways, ours are the instances themselves. */
function sessionsFor({ resource, endpoints, instances }: UpstreamPlan): number {
  if (resource.peer === '') return 1
  const healthy = endpoints.filter(endpoint => endpoint.healthy).length
  return Math.max(gatewaySessions, Math.ceil((instances ?? 0) / Math.max(1, healthy)))
}
