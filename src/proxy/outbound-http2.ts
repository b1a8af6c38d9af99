/**
 * The app's side of an upstream that speaks HTTP/2: its connections share the channels to the endpoints of the upstreams that their requests
 * are routed to. What holds for a request of HTTP/1.1 (outbound-http.ts) holds here.
 */
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { applyHeaderEdit, type EditableHead } from '../mesh/header-edit.ts'
import type { UpstreamPlan } from '../mesh/plan.ts'
import { rewritten } from '../mesh/routing.ts'
import type { Endpoint } from '../mesh/snapshot.ts'
import type { Routed, Way } from './chain.ts'
import type { ServedConnection } from './http1/connection.ts'
import type { Outcome, Refused } from './http1/door.ts'
import { Channels } from './http2/channels.ts'
import { serveHttp2 } from './http2/connection.ts'
import type { DoorRequest, Http2Door } from './http2/door.ts'
import type { RequestFields } from './http2/fields.ts'
import { upstreamChannelLimits, type Http2Limits } from './http2/limits.ts'
import { ownHttp2 } from './http2/own-alpn.ts'
import { recordRequest, type RequestTallies } from './metrics.ts'
import { unrouted } from './outbound-http.ts'
import { tooMany } from './traffic.ts'
import type { Upstream } from './upstream.ts'
import { xfccHeader } from './xfcc.ts'

/** The channels to the endpoints of one upstream, in line with its plan. */
export class UpstreamChannels {
  readonly channels: Channels
  readonly #upstream: Upstream
  /** What the channels were last held against. */
  #plan: UpstreamPlan
  #key: string

  constructor(upstream: Upstream, limits: Http2Limits) {
    this.#upstream = upstream
    this.#plan = upstream.plan
    this.#key = upstream.key
    this.channels = new Channels(
      {
        pick: () => upstream.pick(),
        doubts: endpoint => upstream.doubts(endpoint),
        dial: first => upstream.dial(first),
        lost: endpoint => upstream.lost(endpoint),
        key: () => upstream.key,
        spread: () => upstream.connections,
      },
      upstreamChannelLimits,
      limits,
    )
  }

  /** The upstream took over a new plan or leaf. */
  update(): void {
    const upstream = this.#upstream
    if (upstream.key !== this.#key) this.channels.rekey()
    this.#key = upstream.key
    if (upstream.plan === this.#plan) return
    this.#plan = upstream.plan
    this.channels.retire((stream, endpoint: Endpoint) => {
      if (!upstream.accepts(stream)) return 'close'
      return upstream.hasEndpoint(endpoint) ? 'keep' : 'drain'
    })
  }

  close(): void {
    this.channels.close()
  }
}

export interface OutboundHttp2Options {
  name: string
  way: () => Way
  channelsOf: (upstream: Upstream) => Channels | undefined
  requests: RequestTallies
  limits: Http2Limits
  logger: Logger
}

export class OutboundHttp2 implements Http2Door {
  /** For a request that goes to no upstream: there is nobody to reach. */
  readonly channels: Channels
  readonly #options: OutboundHttp2Options

  constructor(options: OutboundHttp2Options) {
    this.#options = options
    const failure = { reset: 'no healthy upstream', status: 503, body: 'no healthy upstream' }
    const nowhere = {
      pick: () => undefined,
      doubts: () => false,
      dial: () => Promise.resolve({ ok: false as const, failure }),
      lost: () => {},
      key: () => '',
      spread: () => 1,
    }
    this.channels = new Channels(nowhere, upstreamChannelLimits, options.limits)
  }

  /** `caller` is who calls, as one element of X-Forwarded-Client-Cert, where that was proven; an app proves nothing. */
  serve(socket: Socket, caller?: string): ServedConnection {
    const door: Http2Door = {
      channels: this.channels,
      tellUnreached: (socket as TLSSocket).alpnProtocol === ownHttp2,
      open: fields => this.open(fields, caller),
      threw: error => this.threw(error),
    }
    return serveHttp2(socket, caller === undefined ? this : door, this.#options.limits)
  }

  open(fields: RequestFields, caller?: string): DoorRequest {
    fields.remove(xfccHeader)
    if (caller !== undefined) fields.append(xfccHeader, caller)
    const way = this.#options.way()
    const routed = way.route(fields)
    const request = new RoutedRequest(this.#options, way, routed)
    if (routed === undefined || request.refused) return request
    const { route, leg } = routed
    if (route.rewrite !== undefined) fields.retarget(rewritten(route.rewrite, fields.target, fields.path))
    if (route.requestHeaders !== undefined) applyHeaderEdit(route.requestHeaders, fields)
    if (leg?.requestHeaders !== undefined) applyHeaderEdit(leg.requestHeaders, fields)
    return request
  }

  threw(error: unknown): void {
    const { logger, name } = this.#options
    logger.error({ upstream: name, error: messageOf(error) }, 'a request failed by a mistake of ours')
  }
}

/** One request. Nothing is decided about it after its route; a stream whose server is no longer the right one ends with its channel. */
class RoutedRequest implements DoorRequest {
  readonly refused: Refused | undefined
  readonly timeoutMs: number | undefined
  readonly #options: OutboundHttp2Options
  readonly #way: Way
  readonly #routed: Routed | undefined
  readonly #tried = new Set<Upstream>()
  /** Where no app could be reached. */
  #unreached: Endpoint | undefined
  /** Where it counts as under way. */
  #upstream: Upstream | undefined

  constructor(options: OutboundHttp2Options, way: Way, routed: Routed | undefined) {
    this.#options = options
    this.#way = way
    this.#routed = routed
    const upstream = routed && way.target(routed.resolver)
    this.refused = routed === undefined ? unrouted : this.#go(upstream) ? undefined : tooMany
    this.timeoutMs = routed?.route.timeoutMs ?? upstream?.plan.resource.requestTimeoutMs
  }

  get channels(): Channels | undefined {
    return this.#upstream && this.#options.channelsOf(this.#upstream)
  }

  stillAllowed(): boolean {
    return true
  }

  elsewhere(): Channels | undefined {
    if (this.#routed === undefined) return undefined
    const next = this.#way.other(this.#routed.resolver, this.#tried)
    if (next === undefined) return undefined
    this.#upstream?.traffic.circuit.endRequest()
    return this.#go(next) ? this.channels : undefined
  }

  unreached(endpoint: Endpoint, again: boolean, news: boolean): Channels | undefined {
    const upstream = this.#upstream!
    this.#unreached = endpoint
    upstream.traffic.unreached(endpoint, news)
    if (!again) return undefined
    return upstream.reaches ? this.channels : this.elsewhere()
  }

  responding(head: EditableHead): void {
    const { route, leg } = this.#routed!
    if (leg?.responseHeaders !== undefined) applyHeaderEdit(leg.responseHeaders, head)
    if (route.responseHeaders !== undefined) applyHeaderEdit(route.responseHeaders, head)
  }

  finished(outcome: Outcome, endpoint?: Endpoint): void {
    this.#upstream?.traffic.circuit.endRequest()
    recordRequest(this.#options.requests, outcome.status, outcome.durationMs)
    if (outcome.source !== 'app' || endpoint === undefined || endpoint === this.#unreached) return
    this.#upstream?.traffic.outlier.answered(endpoint)
  }

  #go(upstream: Upstream | undefined): boolean {
    this.#upstream = undefined
    if (upstream === undefined) return true
    this.#tried.add(upstream)
    if (!upstream.traffic.circuit.beginRequest()) {
      upstream.traffic.over('requests')
      return false
    }
    this.#upstream = upstream
    return true
  }
}
