/**
 * The app's side of an upstream that speaks HTTP/2: its connections share the channels to the upstream's endpoints. Requests are not judged
 * here: whom an app may call is for the other side to say. What the app says about client certificates is dropped.
 */
import type { Socket } from 'node:net'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import type { UpstreamPlan } from '../mesh/plan.ts'
import type { Endpoint } from '../mesh/snapshot.ts'
import type { ServedConnection } from './http1/connection.ts'
import { Channels } from './http2/channels.ts'
import { serveHttp2 } from './http2/connection.ts'
import type { DoorRequest, Http2Door } from './http2/door.ts'
import type { RequestFields } from './http2/fields.ts'
import { upstreamChannelLimits, type Http2Limits } from './http2/limits.ts'
import { recordRequest, type RequestTallies } from './metrics.ts'
import { tooMany } from './traffic.ts'
import type { Upstream } from './upstream.ts'
import { xfccHeader } from './xfcc.ts'

export class OutboundHttp2 implements Http2Door {
  readonly channels: Channels
  readonly #upstream: Upstream
  readonly #requests: RequestTallies
  readonly #limits: Http2Limits
  readonly #logger: Logger
  /** What the channels were last held against. */
  #plan: UpstreamPlan
  #key: string

  constructor(upstream: Upstream, requests: RequestTallies, limits: Http2Limits, logger: Logger) {
    this.#upstream = upstream
    this.#requests = requests
    this.#limits = limits
    this.#logger = logger
    this.#plan = upstream.plan
    this.#key = upstream.key
    this.channels = new Channels(
      {
        pick: () => upstream.pick(),
        doubts: endpoint => upstream.doubts(endpoint),
        dial: first => upstream.dial(first),
        lost: endpoint => upstream.lost(endpoint),
        key: () => upstream.key,
      },
      upstreamChannelLimits,
      limits,
    )
  }

  /** `caller` is who calls, where that was proven; an app proves nothing. */
  serve(socket: Socket, caller?: string): ServedConnection {
    if (caller === undefined) return serveHttp2(socket, this, this.#limits)
    const open = (fields: RequestFields) => {
      const request = this.open(fields)
      fields.append(xfccHeader, caller)
      return request
    }
    return serveHttp2(socket, { channels: this.channels, open, threw: error => this.threw(error) }, this.#limits)
  }

  /** Nothing is decided here, so every request is the same; a stream whose server is no longer the right one ends with its channel. */
  open(fields: RequestFields): DoorRequest {
    const { traffic, plan } = this.#upstream
    const admitted = traffic.circuit.beginRequest()
    if (!admitted) traffic.over('requests')
    fields.remove(xfccHeader)
    return {
      refused: admitted ? undefined : tooMany,
      timeoutMs: plan.resource.requestTimeoutMs,
      stillAllowed: () => true,
      finished: outcome => {
        if (admitted) traffic.circuit.endRequest()
        recordRequest(this.#requests, outcome.status, outcome.durationMs)
      },
    }
  }

  threw(error: unknown): void {
    this.#logger.error({ upstream: this.#upstream.plan.name, error: messageOf(error) }, 'a request failed by a mistake of ours')
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
