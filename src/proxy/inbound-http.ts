/**
 * The judge of one inbound http connection (an HttpDoor). What is judged is the head that will be forwarded. The TLS peer and, where
 * that is our own mesh gateway, the caller it names in XFCC are both judged; from everybody else XFCC is dropped. The app then sees
 * one element for its TLS peer, written here, after what our gateway sent.
 */
import type { Decision, HttpFacts, Principal } from '../mesh/authorize.ts'
import type { SidecarBinding } from './binding.ts'
import { dialPlain } from './dial.ts'
import type { ConnectFailure, HttpDoor, Opened, Outcome, Refused, UpstreamStream } from './http1/door.ts'
import type { RequestHead } from './http1/head.ts'
import { recordRequest, type DecisionLabel, type RequestTallies } from './metrics.ts'
import type { Permit } from './permit.ts'
import type { StreamPool } from './pool.ts'
import { xfccElement, xfccHeader, xfccOf } from './xfcc.ts'

export interface InboundHttpOptions {
  permit: Permit
  binding: () => SidecarBinding
  app: StreamPool
  /** By decision; `none` for what was no request. */
  requests: Readonly<Record<DecisionLabel | 'none', RequestTallies>>
  /** Counts a decision and names it. */
  decided: (decision: Decision) => DecisionLabel
  threw: (error: unknown) => void
}

/** 19 bytes, as Envoy says it (data-plane.md 7.5). */
const denied: Refused = { ok: false, status: 403, body: 'RBAC: access denied', reason: 'denied' }
const malformed: Refused = { ok: false, status: 400, body: 'malformed request path', reason: 'malformed-path' }
const noApp: ConnectFailure = { reset: 'remote connection failure' }
const nobody: Decision = { allow: false, reason: 'identity', rule: '' }

export class InboundHttp implements HttpDoor {
  readonly #options: InboundHttpOptions
  readonly #opened: Opened
  #self = ''
  #element = ''
  /** The current request, so that its tunnel can be judged again. The head is valid until `finished`. */
  #head: HttpFacts = { method: '', path: '', headers: [] }
  #xfcc: string | undefined
  #decision: DecisionLabel | 'none' = 'none'

  constructor(options: InboundHttpOptions) {
    this.#options = options
    this.#opened = { ok: true, connect: fresh => this.#connect(fresh), timeoutMs: undefined }
  }

  open(head: RequestHead): Opened | Refused {
    const { permit, decided, binding } = this.#options
    const { plan, identity } = binding()
    // The certificates were checked when the connection began; an hour later they may have ended.
    const peer = Date.now() < permit.validUntilMs ? plan.authorizer.identify(permit.uri) : undefined
    const carried = peer !== undefined && peer.peer === '' && peer.identity.kind === 'mesh-gateway'
    this.#xfcc = carried ? xfccOf(head.headers) : undefined
    head.remove(xfccHeader)
    this.#head = head
    const decision = this.#judge(peer)
    this.#decision = decided(decision)
    if (decision.malformed === true) return malformed
    if (!decision.allow) return denied
    if (this.#self !== identity.uri) {
      this.#self = identity.uri
      this.#element = xfccElement(identity.uri, permit)
    }
    head.append(xfccHeader, this.#xfcc === undefined ? this.#element : `${this.#xfcc},${this.#element}`)
    this.#opened.timeoutMs = plan.self.localRequestTimeoutMs
    return this.#opened
  }

  stillAllowed(): boolean {
    const { permit, binding } = this.#options
    return this.#judge(binding().plan.authorizer.identify(permit.uri)).allow
  }

  threw(error: unknown): void {
    this.#options.threw(error)
  }

  finished(outcome: Outcome): void {
    recordRequest(this.#options.requests[this.#decision], outcome.status, outcome.durationMs)
    this.#decision = 'none'
  }

  #judge(peer: Principal | undefined): Decision {
    const { authorizer } = this.#options.binding().plan
    return peer ? authorizer.authorizeForwarded(peer, this.#xfcc, this.#head) : nobody
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

type App = { address: string; port: number; socketPath?: string | undefined }

const appEndpoints = new WeakMap<App, { id: string; address: string; port: number; weight: number; healthy: boolean }>()

/** The app as the pool names it; one object for each plan. */
function appEndpoint(app: App): { id: string; address: string; port: number; weight: number; healthy: boolean } {
  let endpoint = appEndpoints.get(app)
  if (!endpoint)
    appEndpoints.set(app, (endpoint = { id: 'app', address: app.socketPath ?? app.address, port: app.port, weight: 1, healthy: true }))
  return endpoint
}
