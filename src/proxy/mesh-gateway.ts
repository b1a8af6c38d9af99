/** A mesh gateway: control, the SNI router and the admin door, wired together. It holds a key only where requests end at it. */
import type { GatewayPlan } from '../mesh/plan.ts'
import type { Self } from '../mesh/snapshot.ts'
import { Gateway, type GatewayLimits } from './gateway.ts'
import { ProxyBase, type ProxyOptions, type RunningProxy } from './running-proxy.ts'
import type { ProxyIdentity } from './tls.ts'
import { gatewayView } from './views.ts'

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
  await gateway.start()
  return gateway
}

class MeshGateway extends ProxyBase implements RunningGateway {
  readonly #gateway: Gateway

  constructor(options: GatewayProxyOptions) {
    const adapt = options.lanOnWan ? { adapt: (self: Self) => ({ ...self, lanNamesOnWan: true }) } : {}
    super('gateway', { ...options, ...adapt, kind: 'mesh-gateway' })
    const { metrics, logger, sockets } = this
    this.#gateway = new Gateway({ metrics, logger, sockets, ...(options.limits ? { limits: options.limits } : {}) })
  }

  port(table: 'wan' | 'lan'): number | undefined {
    return this.#gateway.port(table)
  }

  protected view(): unknown {
    return gatewayView(this.control)
  }

  protected missing(): string[] {
    if (!this.#gateway.listening) return ['an address is not bound']
    return this.#gateway.proven ? [] : ['no leaf certificate from the agent yet']
  }

  /** Whoever only passes through cannot be told: it is not read here. Tunnels end with their callers, or with the time. */
  protected goAway(): void {
    this.#gateway.drain()
  }

  protected closeDoors(): void {
    this.#gateway.close()
  }

  protected apply(plan: GatewayPlan, identity: ProxyIdentity | undefined): Promise<void> {
    return this.#gateway.update(plan, () => this.lookReady(), identity)
  }
}
