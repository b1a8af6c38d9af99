/**
 * One upstream of a sidecar: its endpoints, its TLS target and its pooled streams. Choosing an endpoint, reusing a stream and going
 * on to the next endpoint when one cannot be reached are here; nothing was sent before a stream is handed out, so that is always safe.
 * A new leaf or new roots open new streams; what is already open is closed as soon as the server on it would not be accepted any more.
 */
import { TLSSocket } from 'node:tls'
import type { Duplex } from 'node:stream'
import type { Endpoint } from '../mesh/snapshot.ts'
import type { UpstreamPlan } from '../mesh/plan.ts'
import { dialTls, serverPermit, type DialFailure, type TlsTarget } from './dial.ts'
import type { ConnectFailure, UpstreamStream } from './http1/door.ts'
import type { ProxyMetrics } from './metrics.ts'
import { readBundle } from './permit.ts'
import { Ejections } from './ejections.ts'
import { addressOf, StreamPool } from './pool.ts'
import type { ClientContexts, ProxyIdentity } from './tls.ts'

/** Endpoints tried for one stream. */
const maxAttempts = 3

const noEndpoint: ConnectFailure = { reset: 'no healthy upstream', status: 503, body: 'no healthy upstream' }

export class Upstream {
  readonly #contexts: ClientContexts
  readonly #pool = new StreamPool()
  readonly #dials: { ok: { count: number }; failed: { count: number }; identity: { count: number } }
  /** Connection failures only: what an app answers never ejects a gateway. */
  readonly #ejections = new Ejections()
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

  get pool(): StreamPool {
    return this.#pool
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
    }
    if (samePlan) return
    const addresses = new Set(plan.endpoints.map(addressOf))
    this.#ejections.keep(addresses)
    this.#pool.retire((stream, endpoint) => {
      if (!this.accepts(stream)) return 'close'
      return addresses.has(addressOf(endpoint)) ? 'keep' : 'drain'
    })
  }

  /** True while the server on this stream is one that the plan of now would accept. */
  accepts(stream: Duplex): boolean {
    return !(stream instanceof TLSSocket) || serverPermit(stream, this.#target) !== undefined
  }

  hasEndpoint(endpoint: Endpoint): boolean {
    const address = addressOf(endpoint)
    return this.#plan.endpoints.some(each => addressOf(each) === address)
  }

  /** The endpoint whose turn it is. */
  pick(): Endpoint | undefined {
    return this.#pick(new Set())
  }

  /** It failed lately: only a new connection tells whether it is back. */
  doubts(endpoint: Endpoint): boolean {
    return this.#ejections.doubts(endpoint)
  }

  /** A connection to it was there and died without a word. */
  lost(endpoint: Endpoint): void {
    this.#ejections.failed(addressOf(endpoint))
  }

  /** A stream for one request: a pooled one at once, unless `fresh`; else a new one. */
  connect(fresh: boolean): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure> {
    if (!fresh) {
      const endpoint = this.#pick(new Set())
      if (!endpoint) return noEndpoint
      const pooled = this.#ejections.doubts(endpoint) ? undefined : this.#pool.take(endpoint)
      if (pooled) return pooled
      return this.#open(endpoint)
    }
    return this.#open(undefined)
  }

  /** A stream of its own, for a tunnel; `first` is an endpoint that was picked already. */
  async dial(first?: Endpoint): Promise<{ ok: true; stream: TLSSocket; endpoint: Endpoint } | { ok: false; failure: ConnectFailure }> {
    const plan = this.#plan
    const target = this.#target
    const tried = new Set<string>()
    let failure: DialFailure | undefined
    for (let attempt = 0; attempt < maxAttempts; attempt += 1) {
      const endpoint = attempt === 0 && first ? first : this.#pick(tried)
      if (!endpoint) break
      const address = addressOf(endpoint)
      tried.add(address)
      const dialed = await dialTls(endpoint, target, plan.resource.connectTimeoutMs)
      if (dialed.ok) {
        this.#dials.ok.count += 1
        this.#ejections.reached(address)
        // The plan may have changed meanwhile; then this server may be nobody's any more.
        if (target === this.#target || this.accepts(dialed.stream)) return { ok: true, stream: dialed.stream, endpoint }
        dialed.stream.destroy()
        continue
      }
      failure = dialed
      if (dialed.reason === 'identity') this.#dials.identity.count += 1
      else this.#dials.failed.count += 1
      this.#ejections.failed(address)
    }
    return { ok: false, failure: failure ? { reset: failure.reset } : noEndpoint }
  }

  close(): void {
    this.#pool.close()
  }

  async #open(first: Endpoint | undefined): Promise<UpstreamStream | ConnectFailure> {
    const key = this.#key
    const dialed = await this.dial(first)
    return dialed.ok ? this.#pool.add(dialed.stream, dialed.endpoint, key) : dialed.failure
  }

  #pick(tried: ReadonlySet<string>): Endpoint | undefined {
    return this.#ejections.pick(this.#plan.picker, tried, this.#plan.resource.connectTimeoutMs)
  }

  #bind(plan: UpstreamPlan, identity: ProxyIdentity): { key: string; target: TlsTarget } {
    const { key, context } = this.#contexts.get(identity, plan.rootPems)
    const { protocol, sni } = plan.resource
    const alpn = protocol === 'http' ? ['http/1.1'] : protocol === 'http2' || protocol === 'grpc' ? ['h2'] : []
    const target: TlsTarget = {
      sni,
      trustDomain: plan.trustDomain,
      spiffeIds: plan.spiffeIds,
      roots: readBundle(plan.rootPems),
      context,
      alpn,
    }
    return { key: `${key}/${sni}`, target }
  }
}
