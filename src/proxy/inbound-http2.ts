/**
 * One inbound http/2 connection (an Http2Door): its requests are judged (inbound-judge.ts), counted, and go to the app, which speaks h2c.
 */
import type { SidecarBinding } from './binding.ts'
import { dialPlain } from './dial.ts'
import type { Outcome, Refused } from './http1/door.ts'
import { Channels, type ChannelDialer } from './http2/channels.ts'
import type { DoorRequest, Http2Door } from './http2/door.ts'
import type { RequestFields } from './http2/fields.ts'
import { appChannelLimits, type Http2Limits } from './http2/limits.ts'
import { appEndpoint } from './inbound-http.ts'
import type { InboundJudge, JudgedRequest } from './inbound-judge.ts'
import type { Carried } from '../wire/tokens.ts'
import { recordRequest, type DecisionLabel, type RequestTallies } from './metrics.ts'

export interface InboundHttp2Options {
  judge: InboundJudge
  binding: () => SidecarBinding
  app: Channels
  /** The caller is one of us. */
  own: boolean
  /** By decision; `none` for what was no request. */
  requests: Readonly<Record<DecisionLabel | 'none', RequestTallies>>
  flooded: () => void
  threw: (error: unknown) => void
}

export class InboundHttp2 implements Http2Door {
  readonly #options: InboundHttp2Options

  constructor(options: InboundHttp2Options) {
    this.#options = options
  }

  get channels(): Channels {
    return this.#options.app
  }

  get tellUnreached(): boolean {
    return this.#options.own
  }

  open(fields: RequestFields): DoorRequest {
    return new InboundRequest(fields, this.#options)
  }

  flooded(): void {
    this.#options.flooded()
  }

  threw(error: unknown): void {
    this.#options.threw(error)
  }
}

class InboundRequest implements DoorRequest, JudgedRequest {
  readonly refused: Refused | undefined
  readonly timeoutMs: number
  head: RequestFields
  xfcc: string | undefined
  carried: Carried | undefined
  decision: DecisionLabel | 'none' = 'none'
  readonly #options: InboundHttp2Options

  constructor(fields: RequestFields, options: InboundHttp2Options) {
    this.#options = options
    this.head = fields
    this.refused = options.judge.open(fields, this)
    this.timeoutMs = options.binding().plan.self.localRequestTimeoutMs
  }

  stillAllowed(): boolean {
    return this.#options.judge.stillAllows(this)
  }

  allowedUntilMs(): number {
    return this.#options.judge.allowedUntilMs(this)
  }

  finished(outcome: Outcome): void {
    recordRequest(this.#options.requests[this.decision], outcome.status, outcome.durationMs)
  }
}

/** Connections to the app of this plan. */
export function appChannels(binding: () => SidecarBinding | undefined, limits: Http2Limits): Channels {
  const appOf = () => binding()?.plan.self.app
  const dialer: ChannelDialer = {
    pick() {
      const app = appOf()
      return app && appEndpoint(app)
    },
    doubts: () => false,
    async dial(endpoint) {
      const self = binding()?.plan.self
      if (!endpoint || !self?.app) return { ok: false, failure: { reset: 'remote connection failure' } }
      const dialed = await dialPlain(self.app, self.localConnectTimeoutMs)
      return dialed.ok ? { ok: true, stream: dialed.stream, endpoint } : { ok: false, failure: { reset: dialed.reset } }
    },
    lost() {},
    key: () => JSON.stringify(appOf()),
    // An app may be several processes that share its port.
    spread: () => 2,
  }
  return new Channels(dialer, appChannelLimits, limits)
}
