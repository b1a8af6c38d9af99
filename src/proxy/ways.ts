/**
 * The upstreams and chains of a plan at work, each the same object as long as the plan has it, and the way of each name. What the plan has
 * no more is let go only when nothing is led to it: at once where its name is gone, and when its last request has ended, at most after
 * a while, where its name goes another way now.
 */
import { RoundRobin } from '../mesh/balance/round-robin.ts'
import { isHttp2 } from '../mesh/protocol.ts'
import type { ChainPlan, UpstreamPlan } from '../mesh/plan.ts'
import { Chain, Direct, type Way } from './chain.ts'
import type { Channels } from './http2/channels.ts'
import type { Http2Limits } from './http2/limits.ts'
import type { ProxyMetrics } from './metrics.ts'
import { UpstreamChannels } from './outbound-http2.ts'
import { ClientContexts, type ProxyIdentity } from './tls.ts'
import { Upstream } from './upstream.ts'

/** For what is under way on a way that is not taken any more. */
const retireMs = 10_000

export interface WaysPlan {
  upstreams: ReadonlyMap<string, UpstreamPlan>
  chains: ReadonlyMap<string, ChainPlan>
}

interface Held {
  upstream: Upstream
  way: Way
  /** Where it speaks HTTP/2. */
  http2: UpstreamChannels | undefined
}

export class Ways {
  readonly #metrics: ProxyMetrics
  readonly #http2Limits: Http2Limits
  readonly #contexts = new ClientContexts()
  readonly #held = new Map<string, Held>()
  readonly #chains = new Map<string, Chain>()
  /** Those that only end what they have under way. */
  readonly #retired = new Set<Held>()

  constructor(metrics: ProxyMetrics, http2Limits: Http2Limits) {
    this.#metrics = metrics
    this.#http2Limits = http2Limits
  }

  get upstreams(): Upstream[] {
    return [...this.#held.values()].map(held => held.upstream)
  }

  way(name: string): Way | undefined {
    return this.#chains.get(name) ?? this.#held.get(name)?.way
  }

  channelsOf(upstream: Upstream): Channels | undefined {
    return this.#held.get(upstream.plan.name)?.http2?.channels
  }

  /** Takes over a plan or a leaf. What it answers is called once everybody goes the new ways. */
  update(plan: WaysPlan, identity: ProxyIdentity): () => void {
    const gone: Held[] = []
    for (const [name, held] of this.#held) {
      const next = plan.upstreams.get(name)
      if (next !== undefined && next.resource.protocol === held.upstream.plan.resource.protocol) continue
      this.#held.delete(name)
      // Another protocol is another upstream, which takes its place in the metrics.
      if (next !== undefined) end(held)
      else gone.push(held)
    }
    for (const [name, upstream] of plan.upstreams) this.#hold(name, upstream, identity)
    this.#follow(plan.chains)
    return () => {
      for (const held of gone) this.#letGo(held, identity)
    }
  }

  close(): void {
    for (const chain of this.#chains.values()) chain.close()
    for (const held of [...this.#held.values(), ...this.#retired]) end(held)
    this.#chains.clear()
    this.#held.clear()
    this.#retired.clear()
  }

  #hold(name: string, plan: UpstreamPlan, identity: ProxyIdentity): void {
    const known = this.#held.get(name)
    if (known) {
      known.upstream.update(plan, identity)
      known.http2?.update()
      return
    }
    const upstream = new Upstream(plan, identity, this.#contexts, this.#metrics)
    const http2 = isHttp2(plan.resource.protocol) ? new UpstreamChannels(upstream, this.#http2Limits) : undefined
    this.#held.set(name, { upstream, way: new Direct(upstream), http2 })
  }

  #follow(chains: ReadonlyMap<string, ChainPlan>): void {
    for (const [name, chain] of this.#chains) {
      if (chains.has(name)) continue
      this.#chains.delete(name)
      chain.close()
    }
    const upstreams = new Map([...this.#held].map(([name, held]) => [name, held.upstream]))
    for (const [name, plan] of chains) {
      const chain = this.#chains.get(name)
      if (chain) chain.update(plan, upstreams)
      else this.#chains.set(name, new Chain(plan, upstreams, this.#metrics))
    }
  }

  #letGo(held: Held, identity: ProxyIdentity): void {
    const { upstream, http2 } = held
    // A target is named after its chain.
    const [name = ''] = upstream.plan.name.split('/')
    if (this.way(name) === undefined) return end(held)
    upstream.update({ ...upstream.plan, endpoints: [], picker: new RoundRobin([]) }, identity)
    http2?.update()
    this.#retired.add(held)
    setTimeout(() => {
      if (this.#retired.delete(held)) end(held)
    }, retireMs).unref()
  }
}

function end({ upstream, http2 }: Held): void {
  http2?.close()
  upstream.close()
}
