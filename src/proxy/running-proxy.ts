/**
 * What a sidecar and a mesh gateway have in common: control, the admin door, readiness, and the two ways to end without dropping
 * anything. Draining tells everyone to go elsewhere and goes on accepting for a while, until they have heard; handing over stops
 * accepting at once, because another process accepts on the same sockets. Either way nothing that is open is closed before the time is up.
 */
import { MeshError, messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import type { Plan } from '../mesh/plan.ts'
import { startAdmin, type AdminDoor, type AdminSource } from './admin.ts'
import type { AgentAddress } from './agent-client.ts'
import { endings } from './endings.ts'
import { Control, type ControlOptions } from './control.ts'
import { ListeningSockets, type SocketSource } from './listening-sockets.ts'
import { ProxyMetrics } from './metrics.ts'
import { certsView } from './views.ts'
import type { ProxyIdentity } from './tls.ts'

export interface ProxyOptions {
  /** Id of the registered proxy service, e.g. `web-sidecar-proxy`. */
  proxyId: string
  agent: AgentAddress
  /** Loopback only; port 0 for any. No admin door when absent. */
  admin?: { host: string; port: number } | undefined
  /** Keeps the last snapshot, the leaf and its key (0600 in a 0700 directory) for a restart without the agent. Nothing is written when absent. */
  cacheDir?: string | undefined
  /** Listening sockets of a predecessor, of systemd or of a supervisor. */
  sockets?: SocketSource | undefined
  logger: Logger
}

export interface RunningProxy {
  /** Resolves when it serves: a plan, a leaf (sidecars), and every listener of the plan tried. */
  ready(): Promise<void>
  readonly admin?: { port: number } | undefined
  /** What an admin door says of it. */
  readonly status: AdminSource
  /** Descriptors of its listening sockets by name, for a successor. */
  descriptors(): Map<string, number>
  /** Says go-away, accepts until that was heard, and resolves when nothing is open or `limitMs` have passed. */
  drain(limitMs?: number): Promise<void>
  /** A successor accepts on the same sockets: stops at once, says go-away, and resolves when nothing is open or `limitMs` have passed. */
  handOver(limitMs?: number): Promise<void>
  close(): Promise<void>
}

/** A promise that is made before it is known how it ends, and that nobody has to wait for. */
class Readiness {
  readonly promise: Promise<void>
  done!: () => void
  fail!: (error: Error) => void

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.done = resolve
      this.fail = reject
    })
    this.promise.catch(() => {})
  }
}

export abstract class ProxyBase implements RunningProxy {
  protected readonly logger: Logger
  protected readonly metrics: ProxyMetrics
  protected readonly control: Control
  protected readonly sockets: ListeningSockets
  protected closed = false
  readonly #admin: ProxyOptions['admin']
  readonly #readiness = new Readiness()
  #door: AdminDoor | undefined
  #serving = false
  #draining = false
  #handedOver = false

  constructor(component: string, options: ProxyOptions & Pick<ControlOptions, 'kind' | 'adapt'>) {
    this.logger = options.logger
    this.metrics = new ProxyMetrics(component)
    this.sockets = new ListeningSockets(options.sockets)
    this.#admin = options.admin
    this.control = new Control({ ...options, metrics: this.metrics, onChange: (plan, identity) => this.#change(plan, identity) })
  }

  /** Takes over a plan; resolves when every new listener was tried. */
  protected abstract apply(plan: Plan, identity: ProxyIdentity | undefined): Promise<void>
  /** What besides a plan is missing until traffic is served. */
  protected abstract missing(): string[]
  protected abstract view(): unknown
  protected abstract goAway(): void
  protected abstract closeDoors(): void

  get status(): AdminSource {
    return {
      metrics: async () => [await this.metrics.registry.getMetricsAsJSON()],
      notReady: () => this.#notReady(),
      plan: () => this.view(),
      certs: () => certsView(this.control),
    }
  }

  get admin(): { port: number } | undefined {
    return this.#door && { port: this.#door.port }
  }

  descriptors(): Map<string, number> {
    return this.sockets.descriptors()
  }

  ready(): Promise<void> {
    return this.#readiness.promise
  }

  async start(): Promise<void> {
    // Where another process answers at the admin address until this one is ready, this one would only say that it is not.
    if (!this.sockets.succeeds) await this.#openAdmin()
    this.control.start()
  }

  async drain(limitMs: number = endings.drainMs): Promise<void> {
    const beganMs = performance.now()
    this.#draining = true
    this.goAway()
    const accepting = Math.min(limitMs * endings.acceptShare, endings.acceptMs)
    await this.#untilNothingOpen(beganMs + accepting, endings.quietMs)
    this.sockets.stop()
    await this.#untilNothingOpen(beganMs + limitMs, 0)
  }

  async handOver(limitMs: number = endings.handOverMs): Promise<void> {
    this.#handedOver = true
    this.sockets.handOver()
    this.goAway()
    await this.#untilNothingOpen(performance.now() + limitMs, 0)
  }

  async close(): Promise<void> {
    this.closed = true
    this.control.close()
    this.sockets.stop()
    this.closeDoors()
    this.#readiness.fail(new MeshError('unavailable', 'the proxy was closed'))
    await this.#door?.close()
  }

  /** To be called whenever something that was missing may be there. */
  protected lookReady(): void {
    if (this.#serving || this.#notReady().length > 0) return
    this.#serving = true
    this.#becomeReady().catch((error: unknown) => this.#readiness.fail(error as Error))
  }

  async #becomeReady(): Promise<void> {
    if (this.sockets.succeeds) await this.#openAdmin()
    this.sockets.settled()
    this.#readiness.done()
    await this.control.serves()
  }

  async #openAdmin(): Promise<void> {
    if (!this.#admin || this.#door) return
    this.#door = await startAdmin(this.#admin, this.status, this.sockets)
  }

  #notReady(): string[] {
    if (this.#draining) return ['draining']
    // Somebody who asked just before the successor had the door: it serves.
    if (this.#handedOver) return []
    return this.control.plan ? this.missing() : [this.control.problem || 'no snapshot from the agent yet']
  }

  #change(plan: Plan, identity: ProxyIdentity | undefined): void {
    if (this.closed) return
    this.apply(plan, identity)
      .then(() => this.lookReady())
      .catch((error: unknown) => this.logger.error({ error: messageOf(error) }, 'a plan was not fully applied'))
  }

  /** Until nothing has been open for `quietMs`, or the time is up. */
  async #untilNothingOpen(endsMs: number, quietMs: number): Promise<void> {
    const open = () => [...this.metrics.gauges.open.values()].reduce((sum, read) => sum + read(), 0)
    let lastMs = performance.now()
    for (let nowMs = lastMs; nowMs < endsMs; nowMs = performance.now()) {
      if (open() > 0) lastMs = nowMs
      else if (nowMs - lastMs >= quietMs) return
      await new Promise(resolve => setTimeout(resolve, endings.lookMs))
    }
  }
}
