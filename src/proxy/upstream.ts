/**
 * One upstream of a sidecar: its endpoints, its TLS target and its streams, which ride sessions where the other side is one of us and
 * connections of their own elsewhere. Choosing an endpoint, reusing a stream and going on to the next endpoint when one cannot be
 * reached are here; nothing was sent before a stream is handed out, so that is always safe. A new leaf or new roots open new
 * connections; what is already open is closed as soon as the server on it would not be accepted any more.
 */
import { TLSSocket } from 'node:tls'
import type { ByteStream } from '../lib/byte-stream.ts'
import { isHttp2 } from '../mesh/protocol.ts'
import { addressOf, type Endpoint } from '../mesh/snapshot.ts'
import type { UpstreamPlan } from '../mesh/plan.ts'
import { dialTls, serverPermit, type Dialed, type DialFailure, type TlsTarget } from './dial.ts'
import type { ConnectFailure, UpstreamStream } from './http1/door.ts'
import type { ProxyMetrics } from './metrics.ts'
import { MuxStream } from './mux/stream.ts'
import { readBundle } from './permit.ts'
import { Probes } from './probes.ts'
import { StreamPool } from './pool.ts'
import { Sessions } from './sessions.ts'
import { ownHttp2 } from './http2/own-alpn.ts'
import { muxProtocol, type ClientContexts, type ProxyIdentity } from './tls.ts'
import { gatewaySessions, overflow, Traffic, type Call } from './traffic.ts'

/** Endpoints tried for one stream. */
const maxAttempts = 3
/** After a stream was lost: how long until another is taken. By then it is known what else broke with it, such as other sessions to that instance. */
const retryAfterMs = 10

const noEndpoint: ConnectFailure = { reset: 'no healthy upstream', status: 503, body: 'no healthy upstream' }
const nobody: ReadonlySet<string> = new Set()

export class Upstream {
  /** What is under way and what may be. */
  readonly traffic: Traffic
  readonly #contexts: ClientContexts
  /** How many connections that carry many requests each endpoint should have. */
  connections = 1
  readonly #pool = new StreamPool()
  readonly #sessions = new Sessions({
    dial: endpoint => void this.#openSession(endpoint),
    // What it had under way is tried again elsewhere, and not against the same silence.
    silent: endpoint => this.lost(endpoint),
  })
  readonly #dials: { ok: { count: number }; failed: { count: number }; identity: { count: number } }
  readonly #probes: Probes
  readonly #gauges: ProxyMetrics['gauges']
  /** Endpoints being dialled: a session that comes of it is for all who wait. */
  readonly #dialling = new Map<string, Promise<UpstreamStream | ConnectFailure>>()
  /** Endpoints that do not multiplex: everybody dials for himself. */
  readonly #plain = new Set<string>()
  #plan: UpstreamPlan
  #target: TlsTarget
  #key: string
  #closed = false

  constructor(plan: UpstreamPlan, identity: ProxyIdentity, contexts: ClientContexts, metrics: ProxyMetrics) {
    this.#contexts = contexts
    this.#plan = plan
    const { key, target } = this.#bind(plan, identity)
    this.#key = key
    this.#target = target
    this.#pool.rekey(key)
    this.#sessions.rekey(key)
    this.#sessions.want((this.connections = connectionsFor(plan)))
    const { name } = plan
    this.traffic = new Traffic(plan, metrics)
    const { outlier } = this.traffic
    this.#probes = new Probes(outlier, address => void this.#probe(address))
    metrics.gauges.ejected.set(name, () => outlier.ejected)
    this.#gauges = metrics.gauges
    this.#showTier()
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
    this.traffic.update(plan)
    this.#showTier()
    for (const address of this.#plain) if (!addresses.has(address)) this.#plain.delete(address)
    this.#sessions.want((this.connections = connectionsFor(plan)))
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

  /** An endpoint is left that can be reached, with its app, as far as is known. */
  get reaches(): boolean {
    return this.#plan.picker.size > 0 && this.traffic.outlier.reaches(this.#plan.endpoints)
  }

  /** The endpoint whose turn it is. */
  pick(): Endpoint | undefined {
    return this.#pick(nobody, undefined)
  }

  /** It failed lately: only a new connection tells whether it is back. */
  doubts(endpoint: Endpoint): boolean {
    return this.traffic.outlier.doubts(endpoint)
  }

  /** A connection to it was there and died without a word. */
  lost(endpoint: Endpoint): void {
    this.#failed(endpoint)
  }

  /**
   * A stream for one request, at once where a session or an idle stream is there. `fresh`: after a stream that was lost; nothing may
   * have been sent on this one before.
   */
  connect(fresh: boolean, call: Call): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure> {
    const { turn } = call
    if (!fresh) return this.#lend(false, call, turn)
    return new Promise(resolve => {
      setTimeout(() => resolve(this.#lend(true, call, turn)), retryAfterMs)
    })
  }

  #lend(fresh: boolean, call: Call, turn: number): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure> {
    const endpoint = (fresh ? this.#pick(call.tried, call.hash) : undefined) ?? this.#pick(nobody, call.hash)
    if (!endpoint) return noEndpoint
    const stream = this.#take(endpoint, fresh)
    if (stream === undefined) return this.#open(endpoint, call, turn)
    call.to(endpoint, turn)
    return stream
  }

  /** A connection of its own. `first` is an endpoint that was picked already; `hash` is what connections that belong together share. */
  dial(first?: Endpoint, hash?: number): Promise<Dialled> {
    const { traffic } = this
    if (!traffic.circuit.beginConnection()) return Promise.resolve({ ok: false, failure: traffic.over('connections') })
    return this.#dial(first, this.#alpn, hash)
  }

  close(): void {
    this.#closed = true
    this.#probes.close()
    this.#gauges.ejected.delete(this.#plan.name)
    this.#gauges.locality.delete(this.#plan.name)
    this.#pool.close()
    this.#sessions.close()
  }

  /** Only where near endpoints come before far ones. */
  #showTier(): void {
    const { locality } = this.#gauges
    const { name, picker } = this.#plan
    if (picker.tier === undefined) locality.delete(name)
    else locality.set(name, () => this.#plan.picker.tier ?? 0)
  }

  /** What connections of this upstream speak: requests of HTTP/1.1 ride sessions where they can. */
  get #alpn(): readonly string[] {
    const { protocol } = this.#plan.resource
    return protocol === 'http' ? [muxProtocol, 'http/1.1'] : isHttp2(protocol) ? [ownHttp2, 'h2'] : []
  }

  #take(endpoint: Endpoint, fresh: boolean, any = false): UpstreamStream | undefined {
    if (this.traffic.outlier.doubts(endpoint)) return undefined
    return this.#sessions.take(endpoint, fresh, any) ?? (fresh ? undefined : this.#pool.take(endpoint))
  }

  async #open(first: Endpoint, call: Call, turn: number): Promise<UpstreamStream | ConnectFailure> {
    const { traffic } = this
    if (!traffic.circuit.beginPending()) return traffic.over('pending')
    try {
      return await this.#await(first, call, turn)
    } finally {
      traffic.circuit.endPending()
    }
  }

  /** Whoever needs an endpoint that is being dialled waits for what comes of it: a session is for all, and so is a failure. */
  async #await(first: Endpoint, call: Call, turn: number): Promise<UpstreamStream | ConnectFailure> {
    let endpoint = first
    for (;;) {
      const dialling = this.#dialling.get(addressOf(endpoint))
      if (dialling === undefined || this.#plain.has(addressOf(endpoint))) break
      const made = await dialling
      if (!('stream' in made)) return made
      if (this.traffic.outlier.doubts(endpoint)) endpoint = this.#pick(nobody, call.hash) ?? endpoint
      const stream = this.#sessions.take(endpoint, false)
      if (stream) {
        call.to(endpoint, turn)
        return stream
      }
    }
    for (let again = false; !this.traffic.circuit.beginConnection(); again = true) {
      const idle = this.#takeAny(call, turn)
      if (idle) return idle
      if (!(await this.#wait(call, again))) return overflow
    }
    const address = addressOf(endpoint)
    const opened = this.#openOne(endpoint, call, turn)
    if (!this.#dialling.has(address)) {
      this.#dialling.set(address, opened)
      void opened.finally(() => this.#dialling.delete(address))
    }
    return opened
  }

  /** All connections that there may be are there: a stream that nobody uses, to whatever endpoint it goes. */
  #takeAny(call: Call, turn: number): UpstreamStream | undefined {
    const tried = new Set<string>()
    for (let endpoint = this.#pick(tried, call.hash); endpoint; endpoint = this.#pick(tried, call.hash)) {
      const stream = this.#take(endpoint, false, true)
      if (stream) {
        call.to(endpoint, turn)
        return stream
      }
      tried.add(addressOf(endpoint))
    }
    return undefined
  }

  /** Until a connection is given back or has ended; false when the request needs none any more. */
  #wait(call: Call, again: boolean): Promise<boolean> {
    const { circuit } = this.traffic
    return new Promise(resolve => {
      const resume = () => {
        call.giveUp = undefined
        resolve(true)
      }
      call.giveUp = () => {
        call.giveUp = undefined
        circuit.forget(resume)
        resolve(false)
      }
      circuit.wait(resume, again)
    })
  }

  async #openOne(first: Endpoint, call: Call, turn: number): Promise<UpstreamStream | ConnectFailure> {
    const key = this.#key
    const dialled = await this.#dial(first, this.#alpn, call.hash)
    if (!dialled.ok) return dialled.failure
    const { stream, endpoint } = dialled
    call.to(endpoint, turn)
    return this.#keep(stream, endpoint, key) ?? { reset: 'remote connection failure' }
  }

  /** Takes a new connection in and lends a stream of it. */
  #keep(stream: TLSSocket, endpoint: Endpoint, key: string): UpstreamStream | undefined {
    if (stream.alpnProtocol === muxProtocol) {
      this.#plain.delete(addressOf(endpoint))
      return this.#sessions.add(stream, endpoint, key)
    }
    this.#plain.add(addressOf(endpoint))
    return this.#pool.add(stream, endpoint, key)
  }

  /** One more session beside others; nobody waits for it. */
  async #openSession(endpoint: Endpoint): Promise<void> {
    if (!this.traffic.circuit.beginConnection()) return this.#sessions.failed(endpoint)
    const key = this.#key
    const target = this.#target
    const dialled = this.#count(await dialTls(endpoint, target, this.#alpn, this.#plan.resource.connectTimeoutMs))
    const useful = dialled.ok && dialled.stream.alpnProtocol === muxProtocol && !this.#closed
    if (useful && (target === this.#target || this.accepts(dialled.stream))) {
      this.#dials.ok.count += 1
      this.#sessions.add(dialled.stream, endpoint, key)?.release()
      return
    }
    if (dialled.ok) dialled.stream.destroy()
    this.#sessions.failed(endpoint)
  }

  /** Whether an address that could not be reached is back. What comes of it is kept for the next request. */
  async #probe(address: string): Promise<void> {
    const endpoint = this.#plan.endpoints.find(each => addressOf(each) === address)
    if (endpoint === undefined || !this.traffic.circuit.beginConnection()) return
    const key = this.#key
    const target = this.#target
    const dialled = this.#count(await this.#reach(endpoint, target, this.#alpn))
    if (!dialled.ok) return
    const kept = this.#plan.resource.protocol === 'http' && !this.#closed && (target === this.#target || this.accepts(dialled.stream))
    if (kept) this.#keep(dialled.stream, endpoint, key)?.release()
    else dialled.stream.destroy()
  }

  /** The caller has begun a connection. */
  async #dial(first: Endpoint | undefined, alpn: readonly string[], hash: number | undefined): Promise<Dialled> {
    const target = this.#target
    const tried = new Set<string>()
    let failure: DialFailure | undefined
    for (let attempt = 0; attempt < maxAttempts; attempt += 1) {
      const endpoint = attempt === 0 && first ? first : this.#pick(tried, hash)
      if (!endpoint) break
      tried.add(addressOf(endpoint))
      const dialled = await this.#reach(endpoint, target, alpn)
      if (!dialled.ok) {
        failure = dialled
        continue
      }
      // The plan may have changed meanwhile; then this server may be nobody's any more.
      if (target === this.#target || this.accepts(dialled.stream)) {
        this.#count(dialled)
        return { ok: true, stream: dialled.stream, endpoint }
      }
      dialled.stream.destroy()
    }
    this.traffic.circuit.endConnection()
    return { ok: false, failure: failure ? { reset: failure.reset } : noEndpoint }
  }

  /** One attempt, and what it says of the endpoint. */
  async #reach(endpoint: Endpoint, target: TlsTarget, alpn: readonly string[]): Promise<Dialed<TLSSocket>> {
    const dialled = await dialTls(endpoint, target, alpn, this.#plan.resource.connectTimeoutMs)
    if (dialled.ok) {
      this.#dials.ok.count += 1
      this.traffic.outlier.reached(addressOf(endpoint))
      return dialled
    }
    if (dialled.reason === 'identity') this.#dials.identity.count += 1
    else this.#dials.failed.count += 1
    this.#failed(endpoint)
    return dialled
  }

  #failed(endpoint: Endpoint): void {
    this.traffic.failed(addressOf(endpoint))
    this.#probes.later(this.#plan.resource.connectTimeoutMs)
  }

  /** A connection that was begun counts until it is closed. */
  #count(dialled: Dialed<TLSSocket>): Dialed<TLSSocket> {
    const { circuit } = this.traffic
    if (dialled.ok && !dialled.stream.closed) dialled.stream.once('close', () => circuit.endConnection())
    else circuit.endConnection()
    return dialled
  }

  #pick(tried: ReadonlySet<string>, hash: number | undefined): Endpoint | undefined {
    return this.traffic.outlier.pick(this.#plan.picker, tried, this.#plan.resource.connectTimeoutMs, hash)
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

/** A peer's endpoints are gateways, ours are the instances themselves. */
function connectionsFor({ resource, endpoints, instances }: UpstreamPlan): number {
  if (resource.peer === '') return 1
  const healthy = endpoints.filter(endpoint => endpoint.healthy).length
  return Math.max(gatewaySessions, Math.ceil((instances ?? 0) / Math.max(1, healthy)))
}
