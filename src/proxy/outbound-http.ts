/**
 * One connection of a caller, an app as a rule. Each request takes its route, its leg and its target, and is changed as the entries say; one that could not
 * reach its target goes on to the resolver's next one, because nothing was sent yet. Requests are not judged here: whom an app may call is
 * for the other side to say. What the app says about client certificates is dropped: only a sidecar or a gateway may say who a caller is.
 */
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { applyHeaderEdit } from '../mesh/header-edit.ts'
import { rewritten } from '../mesh/routing.ts'
import type { Routed, Way } from './chain.ts'
import type { ConnectFailure, HttpDoor, Opened, Outcome, Refused, UpstreamStream } from './http1/door.ts'
import type { RequestHead, ResponseHead } from './http1/head.ts'
import { recordRequest, type RequestTallies } from './metrics.ts'
import { Call, overflow, tooMany } from './traffic.ts'
import type { Upstream } from './upstream.ts'
import { xfccHeader } from './xfcc.ts'

export const unrouted: Refused = { ok: false, status: 404, body: '', reason: 'no-route' }
/** As its sidecar said it. */
const unreached: ConnectFailure = { reset: 'remote connection failure' }
const unhealthy: ConnectFailure = { reset: 'no healthy upstream', status: 503, body: 'no healthy upstream' }
/** How what was begun at one target ends when the request goes on to another. */
const moved: Outcome = {
  status: 503,
  source: 'upstream',
  reason: 'failover',
  durationMs: 0,
  requestBytes: 0,
  responseBytes: 0,
  retried: true,
}
/** Targets whose calls a connection keeps for its next request. */
const maxKeptCalls = 256

type Connected = UpstreamStream | ConnectFailure

export interface OutboundHttpOptions {
  name: string
  /** The way of this moment. */
  way: () => Way
  requests: RequestTallies
  logger: Logger
  /** Where the caller calls from. */
  source: string
  /** Who calls, as one element of X-Forwarded-Client-Cert, where that was proven; an app proves nothing. */
  caller?: string
  /** The caller is one of us. */
  own?: boolean
}

export class OutboundHttp implements HttpDoor {
  readonly #options: OutboundHttpOptions
  readonly #opened: Opened
  readonly #calls = new Map<Upstream, Call>()
  /** Of the current request; what belongs to one before it has another turn. */
  #turn = 0
  #way: Way | undefined
  #routed: Routed | undefined
  #head: RequestHead | undefined
  #tried: Set<Upstream> | undefined
  #stream: UpstreamStream | undefined
  /** Kept from request to request: mostly the next one goes to the same. */
  #upstream: Upstream | undefined
  #call: Call | undefined

  constructor(options: OutboundHttpOptions) {
    this.#options = options
    this.#opened = { ok: true, connect: fresh => this.#connect(fresh), timeoutMs: undefined, retry: undefined, tellUnreached: options.own }
  }

  open(head: RequestHead): Opened | Refused {
    this.#turn += 1
    // Before it is routed: a route that looks at it sees what is proven, too.
    head.remove(xfccHeader)
    if (this.#options.caller !== undefined) head.append(xfccHeader, this.#options.caller)
    const way = this.#options.way()
    const routed = way.route(head)
    this.#routed = routed
    if (routed === undefined) {
      this.#call = this.#upstream = undefined
      return unrouted
    }
    this.#way = way
    this.#head = head
    const { route, leg } = routed
    if (!this.#go(way.target(routed.resolver))) return tooMany
    this.#opened.timeoutMs = route.timeoutMs ?? this.#upstream?.plan.resource.requestTimeoutMs
    if (route.rewrite !== undefined) head.retarget(rewritten(route.rewrite, head.target, head.path))
    if (route.requestHeaders !== undefined) applyHeaderEdit(route.requestHeaders, head)
    if (leg?.requestHeaders !== undefined) applyHeaderEdit(leg.requestHeaders, head)
    return this.#opened
  }

  responding(head: ResponseHead): void {
    const { route, leg } = this.#routed!
    if (leg?.responseHeaders !== undefined) applyHeaderEdit(leg.responseHeaders, head)
    if (route.responseHeaders !== undefined) applyHeaderEdit(route.responseHeaders, head)
    if (this.#call !== undefined && this.#call.setCookie !== '') head.append('set-cookie', this.#call.setCookie)
  }

  /** A tunnel stays while its server is still the right one. */
  stillAllowed(): boolean {
    return this.#stream === undefined || this.#upstream === undefined || this.#upstream.accepts(this.#stream.stream)
  }

  threw(error: unknown): void {
    const { logger, name } = this.#options
    logger.error({ upstream: name, error: messageOf(error) }, 'a request failed by a mistake of ours')
  }

  finished(outcome: Outcome): void {
    this.#stream = this.#tried = this.#routed = this.#head = undefined
    this.#call?.end(outcome)
    recordRequest(this.#options.requests, outcome.status, outcome.durationMs)
    if (this.#calls.size > maxKeptCalls) this.#calls.clear()
  }

  /** The request is this upstream's from now on, or nobody's. False when it would be one too many there. */
  #go(upstream: Upstream | undefined): boolean {
    const call = this.#callOf(upstream)
    this.#upstream = upstream
    this.#call = call
    this.#opened.retry = call
    if (upstream === undefined || call === undefined) return true
    call.retry = this.#routed!.route.retry
    if (!call.begin()) {
      upstream.traffic.over('requests')
      return false
    }
    // By what the app sent: routes edit a request only afterwards.
    const { hash } = upstream.plan
    if (hash !== undefined) hash.of(this.#head!, this.#options.source, call)
    return true
  }

  #callOf(upstream: Upstream | undefined): Call | undefined {
    if (upstream === this.#upstream || upstream === undefined) return upstream && this.#call
    let call = this.#calls.get(upstream)
    if (call === undefined) this.#calls.set(upstream, (call = new Call(upstream.traffic)))
    return call
  }

  #connect(fresh: boolean): Connected | Promise<Connected> {
    if (this.#call?.moving === true) return this.#moveOn()
    // What broke the stream may have made its target unusable.
    if (fresh) {
      const upstream = this.#way!.target(this.#routed!.resolver)
      if (upstream !== undefined && upstream !== this.#upstream && !this.#leave(upstream)) return overflow
    }
    const upstream = this.#upstream
    if (upstream === undefined) return this.#elsewhere(unhealthy)
    const made = upstream.connect(fresh, this.#call!)
    if (!(made instanceof Promise)) return this.#note(made)
    const turn = this.#turn
    return made.then(got => (turn === this.#turn && this.#routed !== undefined ? this.#note(got) : got))
  }

  /** Where it went no app could be reached: to another place of this target, else to another target. */
  #moveOn(): Connected | Promise<Connected> {
    const upstream = this.#way!.target(this.#routed!.resolver)
    if (upstream === undefined || !upstream.reaches) return this.#elsewhere(unreached)
    if (upstream !== this.#upstream && !this.#leave(upstream)) return overflow
    this.#call!.moving = false
    return this.#connect(false)
  }

  #note(made: Connected): Connected | Promise<Connected> {
    if ('stream' in made) {
      this.#stream = made
      return made
    }
    return made === overflow ? made : this.#elsewhere(made)
  }

  /** The next target, where there is one; else the failure as it was. */
  #elsewhere(failure: ConnectFailure): Connected | Promise<Connected> {
    const tried = (this.#tried ??= new Set())
    if (this.#upstream !== undefined) tried.add(this.#upstream)
    const next = this.#way!.other(this.#routed!.resolver, tried)
    if (next === undefined) return failure
    return this.#leave(next) ? this.#connect(false) : overflow
  }

  /** What was begun at one target is ended there, and begun at another. */
  #leave(next: Upstream): boolean {
    this.#call?.end(moved)
    return this.#go(next)
  }
}
