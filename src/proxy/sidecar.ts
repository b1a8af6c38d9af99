/**
 * A sidecar: control, the public mTLS door, a listener for each upstream, exposed paths and the admin door, wired together. One
 * binding is in force at a time; swapping it is the last thing that happens when a plan or a leaf arrives.
 */
import { MeshError, messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import type { SidecarPlan } from '../mesh/plan.ts'
import { startAdmin, type AdminDoor } from './admin.ts'
import type { AgentAddress } from './agent-client.ts'
import { bindSidecar, type SidecarBinding } from './binding.ts'
import { Control } from './control.ts'
import { Expose } from './expose.ts'
import type { Http1Limits } from './http1/limits.ts'
import { Inbound } from './inbound.ts'
import { Listener } from './listener.ts'
import { ProxyMetrics } from './metrics.ts'
import { Outbound } from './outbound.ts'
import type { Upstream } from './upstream.ts'
import { certsView, sidecarView } from './views.ts'
import type { ProxyIdentity } from './tls.ts'

export interface ProxyOptions {
  /** Id of the registered proxy service, e.g. `web-sidecar-proxy`. */
  proxyId: string
  agent: AgentAddress
  /** Loopback only; port 0 for any. No admin door when absent. */
  admin?: { host: string; port: number } | undefined
  /** Keeps the last snapshot, the leaf and its key (0600 in a 0700 directory) for a restart without the agent. Nothing is written when absent. */
  cacheDir?: string | undefined
  logger: Logger
}

export interface SidecarOptions extends ProxyOptions {
  limits?: Partial<Http1Limits>
}

export interface RunningProxy {
  /** Resolves when it serves: a plan, a leaf (sidecars) and the public listener. */
  ready(): Promise<void>
  admin?: { port: number }
  /** Stops accepting, says go-away, and resolves when nothing is open or `limitMs` have passed. */
  drain(limitMs?: number): Promise<void>
  close(): Promise<void>
}

export interface RunningSidecar extends RunningProxy {
  /** Where it listens, for embedders and tests: `public`, or the name of an upstream. */
  port(name: string): number | undefined
}

export async function startSidecar(options: SidecarOptions): Promise<RunningSidecar> {
  const sidecar = new Sidecar(options)
  await sidecar.openAdmin()
  sidecar.start()
  return sidecar
}

class Sidecar implements RunningSidecar {
  readonly #options: SidecarOptions
  readonly #metrics: ProxyMetrics
  readonly #control: Control
  readonly #inbound: Inbound
  readonly #outbound: Outbound
  readonly #expose: Expose
  readonly #readiness = new Readiness()
  #binding: SidecarBinding | undefined
  #public: { listener: Listener; shape: string } | undefined
  #admin: AdminDoor | undefined
  #closed = false

  constructor(options: SidecarOptions) {
    const { logger, limits } = options
    this.#options = options
    this.#metrics = new ProxyMetrics('sidecar')
    const metrics = this.#metrics
    this.#inbound = new Inbound({ binding: () => this.#binding, metrics, logger, ...(limits ? { limits } : {}) })
    this.#outbound = new Outbound({ metrics, logger, ...(limits ? { limits } : {}) })
    this.#expose = new Expose(logger)
    this.#control = new Control({
      ...options,
      kind: 'sidecar',
      metrics,
      onChange: (plan, identity) => this.#change(plan as SidecarPlan, identity),
    })
    const { app } = this.#inbound
    const { pool } = metrics.gauges
    const sum = (count: (upstream: Upstream) => number) => this.#outbound.upstreams.reduce((total, upstream) => total + count(upstream), 0)
    pool.idle = () => app.idleCount + sum(upstream => upstream.idleStreams)
    pool.busy = () => app.busyCount + sum(upstream => upstream.busyStreams)
    pool.sessions = () => this.#inbound.sessions + sum(upstream => upstream.sessions)
  }

  get admin(): { port: number } | undefined {
    return this.#admin && { port: this.#admin.port }
  }

  port(name: string): number | undefined {
    return name === 'public' ? this.#public?.listener.port : this.#outbound.port(name)
  }

  ready(): Promise<void> {
    return this.#readiness.wait()
  }

  async openAdmin(): Promise<void> {
    const { admin } = this.#options
    if (!admin) return
    this.#admin = await startAdmin(admin, {
      registry: this.#metrics.registry,
      notReady: () => this.#missing(),
      plan: () => sidecarView(this.#control, this.#outbound.unbound),
      certs: () => certsView(this.#control),
    })
  }

  start(): void {
    this.#control.start()
  }

  async drain(limitMs = 10_000): Promise<void> {
    this.#public?.listener.close()
    this.#outbound.closeListeners()
    this.#inbound.drain()
    this.#outbound.drain()
    const open = () => [...this.#metrics.gauges.open.values()].reduce((sum, read) => sum + read(), 0)
    const ends = performance.now() + limitMs
    while (open() > 0 && performance.now() < ends) await new Promise(resolve => setTimeout(resolve, 25))
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#control.close()
    this.#public?.listener.close()
    this.#inbound.close()
    this.#outbound.close()
    this.#expose.close()
    this.#readiness.fail(new MeshError('unavailable', 'the sidecar was closed'))
    await this.#admin?.close()
  }

  #missing(): string[] {
    const missing: string[] = []
    if (!this.#control.plan) missing.push(this.#control.problem || 'no snapshot from the agent yet')
    else if (!this.#binding) missing.push('no leaf certificate from the agent yet')
    else if (!this.#public?.listener.listening) missing.push('the public port is not bound')
    return missing
  }

  #change(plan: SidecarPlan, identity: ProxyIdentity | undefined): void {
    if (this.#closed) return
    // Without a leaf for the present id nothing can be proven to anyone; what is in force stays.
    if (!identity) return
    const binding = bindSidecar(plan, identity)
    this.#binding = binding
    this.#inbound.update(binding)
    const listening = this.#listen(plan)
    Promise.all([listening, this.#outbound.update(binding), this.#expose.update(plan.self)])
      .then(() => {
        if (this.#missing().length === 0) this.#readiness.done()
      })
      .catch((error: unknown) => this.#options.logger.error({ error: messageOf(error) }, 'a plan was not fully applied'))
  }

  #listen({ self }: SidecarPlan): Promise<void> {
    const shape = `${self.listen.address}:${self.listen.port}`
    if (this.#public?.shape !== shape) {
      this.#public?.listener.close()
      const onConnection = this.#inbound.accept.bind(this.#inbound)
      const listener = new Listener({ at: self.listen, purpose: 'public', logger: this.#options.logger, onConnection })
      this.#public = { listener, shape }
      listener.whenListening(() => {
        if (this.#missing().length === 0) this.#readiness.done()
      })
    }
    return this.#public.listener.tried()
  }
}

/** A promise that is made before it is known how it ends, and that nobody has to wait for. */
export class Readiness {
  readonly #promise: Promise<void>
  done!: () => void
  fail!: (error: Error) => void

  constructor() {
    this.#promise = new Promise((resolve, reject) => {
      this.done = resolve
      this.fail = reject
    })
    this.#promise.catch(() => {})
  }

  wait(): Promise<void> {
    return this.#promise
  }
}
