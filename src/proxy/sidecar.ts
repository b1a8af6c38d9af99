/**
 * A sidecar: control, the public mTLS door, a listener for each upstream, exposed paths and the admin door, wired together. One
 * binding is in force at a time; swapping it is the last thing that happens when a plan or a leaf arrives.
 */
import type { SidecarPlan } from '../mesh/plan.ts'
import { bindSidecar, type SidecarBinding } from './binding.ts'
import { Expose } from './expose.ts'
import type { Http1Limits } from './http1/limits.ts'
import type { Http2Limits } from './http2/limits.ts'
import { Inbound } from './inbound.ts'
import { Listener } from './listener.ts'
import { Outbound } from './outbound.ts'
import { ProxyBase, type ProxyOptions, type RunningProxy } from './running-proxy.ts'
import type { Upstream } from './upstream.ts'
import { sidecarView } from './views.ts'
import type { ProxyIdentity } from './tls.ts'

export interface SidecarOptions extends ProxyOptions {
  limits?: Partial<Http1Limits & Http2Limits>
}

export interface RunningSidecar extends RunningProxy {
  /** Where it listens, for embedders and tests: `public`, or the name of an upstream. */
  port(name: string): number | undefined
}

export async function startSidecar(options: SidecarOptions): Promise<RunningSidecar> {
  const sidecar = new Sidecar(options)
  await sidecar.start()
  return sidecar
}

class Sidecar extends ProxyBase implements RunningSidecar {
  readonly #inbound: Inbound
  readonly #outbound: Outbound
  readonly #expose: Expose
  #binding: SidecarBinding | undefined
  /** Every listener of a plan was tried. */
  #applied = false
  #public: { listener: Listener; shape: string } | undefined

  constructor(options: SidecarOptions) {
    super('sidecar', { ...options, kind: 'sidecar' })
    const { metrics, logger, sockets } = this
    const limits = options.limits ? { limits: options.limits } : {}
    this.#inbound = new Inbound({ binding: () => this.#binding, metrics, logger, ...limits })
    this.#outbound = new Outbound({ metrics, logger, sockets, ...limits })
    this.#expose = new Expose(logger, sockets)
    const { app } = this.#inbound
    const { pool } = metrics.gauges
    const sum = (count: (upstream: Upstream) => number) => this.#outbound.upstreams.reduce((total, upstream) => total + count(upstream), 0)
    pool.idle = () => app.idleCount + sum(upstream => upstream.idleStreams)
    pool.busy = () => app.busyCount + sum(upstream => upstream.busyStreams)
    pool.sessions = () => this.#inbound.sessions + sum(upstream => upstream.sessions)
  }

  port(name: string): number | undefined {
    return name === 'public' ? this.#public?.listener.port : this.#outbound.port(name)
  }

  protected view(): unknown {
    return sidecarView(this.control, this.#outbound.unbound)
  }

  protected missing(): string[] {
    if (!this.#binding) return ['no leaf certificate from the agent yet']
    if (!this.#public?.listener.listening) return ['the public port is not bound']
    return this.#applied ? [] : ['ports of upstreams are being bound']
  }

  protected goAway(): void {
    this.#inbound.drain()
    this.#outbound.drain()
  }

  protected closeDoors(): void {
    this.#public?.listener.close()
    this.#inbound.close()
    this.#outbound.close()
    this.#expose.close()
  }

  protected async apply(plan: SidecarPlan, identity: ProxyIdentity | undefined): Promise<void> {
    // Without a leaf for the present id nothing can be proven to anyone; what is in force stays.
    if (!identity) return
    const binding = bindSidecar(plan, identity)
    this.#binding = binding
    this.#inbound.update(binding)
    await Promise.all([this.#listen(plan), this.#outbound.update(binding), this.#expose.update(plan.self)])
    this.#applied = true
  }

  #listen({ self }: SidecarPlan): Promise<void> {
    const shape = `${self.listen.address}:${self.listen.port}`
    if (this.#public?.shape !== shape) {
      this.#public?.listener.close()
      const onConnection = this.#inbound.accept.bind(this.#inbound)
      const { logger, sockets } = this
      const listener = new Listener({ at: self.listen, purpose: 'public', logger, sockets, onConnection })
      this.#public = { listener, shape }
      listener.whenListening(() => this.lookReady())
    }
    return this.#public.listener.tried()
  }
}
