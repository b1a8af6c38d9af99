/** A mesh gateway: control, the SNI router and the admin door, wired together. It holds no key: TLS passes through it. */
import { MeshError, messageOf } from '../lib/errors.ts'
import type { GatewayPlan } from '../mesh/plan.ts'
import { startAdmin, type AdminDoor } from './admin.ts'
import { Control } from './control.ts'
import { Gateway, type GatewayLimits } from './gateway.ts'
import { ProxyMetrics } from './metrics.ts'
import { Readiness, type ProxyOptions, type RunningProxy } from './sidecar.ts'
import { certsView, gatewayView } from './views.ts'

export interface GatewayProxyOptions extends ProxyOptions {
  limits?: Partial<GatewayLimits>
  /** Serve internal and imported names on the WAN address too. Whoever reaches it can then reach every service by its internal name. */
  lanOnWan?: boolean
}

export interface RunningGateway extends RunningProxy {
  /** Where it listens. */
  port(table: 'wan' | 'lan'): number | undefined
}

export async function startGateway(options: GatewayProxyOptions): Promise<RunningGateway> {
  const gateway = new MeshGateway(options)
  await gateway.openAdmin()
  gateway.start()
  return gateway
}

class MeshGateway implements RunningGateway {
  readonly #options: GatewayProxyOptions
  readonly #metrics = new ProxyMetrics('gateway')
  readonly #control: Control
  readonly #gateway: Gateway
  readonly #readiness = new Readiness()
  #admin: AdminDoor | undefined

  constructor(options: GatewayProxyOptions) {
    const { logger, limits } = options
    const metrics = this.#metrics
    this.#options = options
    this.#gateway = new Gateway({ metrics, logger, ...(limits ? { limits } : {}) })
    this.#control = new Control({
      ...options,
      kind: 'mesh-gateway',
      metrics,
      ...(options.lanOnWan ? { adapt: self => ({ ...self, lanNamesOnWan: true }) } : {}),
      onChange: plan => this.#change(plan as GatewayPlan),
    })
  }

  get admin(): { port: number } | undefined {
    return this.#admin && { port: this.#admin.port }
  }

  port(table: 'wan' | 'lan'): number | undefined {
    return this.#gateway.port(table)
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
      plan: () => gatewayView(this.#control),
      certs: () => certsView(this.#control),
    })
  }

  start(): void {
    this.#control.start()
  }

  async drain(limitMs = 10_000): Promise<void> {
    this.#gateway.drain()
    const open = this.#metrics.gauges.open.get('gateway')!
    const ends = performance.now() + limitMs
    while (open() > 0 && performance.now() < ends) await new Promise(resolve => setTimeout(resolve, 25))
  }

  async close(): Promise<void> {
    this.#control.close()
    this.#gateway.close()
    this.#readiness.fail(new MeshError('unavailable', 'the gateway was closed'))
    await this.#admin?.close()
  }

  #missing(): string[] {
    if (!this.#control.plan) return [this.#control.problem || 'no snapshot from the agent yet']
    return this.#gateway.listening ? [] : ['an address is not bound']
  }

  #change(plan: GatewayPlan): void {
    this.#gateway
      .update(plan, () => {
        if (this.#missing().length === 0) this.#readiness.done()
      })
      .catch((error: unknown) => this.#options.logger.error({ error: messageOf(error) }, 'a plan was not fully applied'))
  }
}
