/**
 * One inbound http/1.1 connection (an HttpDoor): its requests are judged (inbound-judge.ts), counted, and go to the app.
 */
import type { SidecarBinding } from './binding.ts'
import { dialPlain } from './dial.ts'
import type { ConnectFailure, HttpDoor, Opened, Outcome, Refused, UpstreamStream } from './http1/door.ts'
import type { RequestHead } from './http1/head.ts'
import type { InboundJudge, JudgedRequest } from './inbound-judge.ts'
import { recordRequest, type DecisionLabel, type RequestTallies } from './metrics.ts'
import type { StreamPool } from './pool.ts'

export interface InboundHttpOptions {
  judge: InboundJudge
  binding: () => SidecarBinding
  app: StreamPool
  /** The caller is one of us. */
  own: boolean
  /** By decision; `none` for what was no request. */
  requests: Readonly<Record<DecisionLabel | 'none', RequestTallies>>
  threw: (error: unknown) => void
}

const noApp: ConnectFailure = { reset: 'remote connection failure' }

export class InboundHttp implements HttpDoor {
  readonly #options: InboundHttpOptions
  readonly #opened: Opened
  /** The current one, so that its tunnel can be judged again. The head is valid until `finished`. */
  readonly #request: JudgedRequest = { head: { method: '', path: '', headers: [] }, xfcc: undefined, carried: undefined, decision: 'none' }

  constructor(options: InboundHttpOptions) {
    this.#options = options
    this.#opened = { ok: true, connect: fresh => this.#connect(fresh), timeoutMs: undefined, tellUnreached: options.own }
  }

  open(head: RequestHead): Opened | Refused {
    const refused = this.#options.judge.open(head, this.#request)
    if (refused) return refused
    this.#opened.timeoutMs = this.#options.binding().plan.self.localRequestTimeoutMs
    return this.#opened
  }

  stillAllowed(): boolean {
    return this.#options.judge.stillAllows(this.#request)
  }

  allowedUntilMs(): number {
    return this.#options.judge.allowedUntilMs(this.#request)
  }

  threw(error: unknown): void {
    this.#options.threw(error)
  }

  finished(outcome: Outcome): void {
    recordRequest(this.#options.requests[this.#request.decision], outcome.status, outcome.durationMs)
    this.#request.decision = 'none'
  }

  #connect(fresh: boolean): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure> {
    const { app } = this.#options.binding().plan.self
    if (!app) return noApp
    const pooled = fresh ? undefined : this.#options.app.take(appEndpoint(app))
    return pooled ?? this.#dial(app)
  }

  async #dial(app: App): Promise<UpstreamStream | ConnectFailure> {
    const dialed = await dialPlain(app, this.#options.binding().plan.self.localConnectTimeoutMs)
    return dialed.ok ? this.#options.app.add(dialed.stream, appEndpoint(app), JSON.stringify(app)) : { reset: dialed.reset }
  }
}

export type App = { address: string; port: number; socketPath?: string | undefined }

const appEndpoints = new WeakMap<App, { id: string; address: string; port: number; weight: number; healthy: boolean }>()

/** The app as the pool names it; one object for each plan. */
export function appEndpoint(app: App): { id: string; address: string; port: number; weight: number; healthy: boolean } {
  let endpoint = appEndpoints.get(app)
  if (!endpoint)
    appEndpoints.set(app, (endpoint = { id: 'app', address: app.socketPath ?? app.address, port: app.port, weight: 1, healthy: true }))
  return endpoint
}
