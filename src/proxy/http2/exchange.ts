/**
 * One request and its response, from the judged header list to the last frame of both directions. Invariants: nothing goes to an upstream
 * before the door allowed it; a reserved stream is given back exactly once; the client gets exactly one final response, or its stream is
 * reset so that it cannot mistake a part for the whole; a side that does not read stops the other from being read.
 */
import {
  constants,
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
  type IncomingHttpStatusHeader,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2'
import type { EditableHead } from '../../mesh/header-edit.ts'
import type { ConnectFailure, Outcome, Refused } from '../http1/door.ts'
import { saysUnreached, unreachedFields, unreachedHeader } from '../http1/unreached.ts'
import { resetText } from '../http1/writer.ts'
import { Channel, type Channels } from './channels.ts'
import type { DoorRequest, Http2Door } from './door.ts'
import { responseHeaders, trailersOf, type RequestFields } from './fields.ts'
import type { Http2Limits } from './limits.ts'
import { reply } from './replies.ts'
import { endEarly, onHeaders } from './session.ts'

const {
  NGHTTP2_CANCEL,
  NGHTTP2_HTTP_1_1_REQUIRED,
  NGHTTP2_INADEQUATE_SECURITY,
  NGHTTP2_INTERNAL_ERROR,
  NGHTTP2_NO_ERROR,
  NGHTTP2_REFUSED_STREAM,
} = constants
const endStreamFlag = constants.NGHTTP2_FLAG_END_STREAM

/** What the exchange needs of the connection that it belongs to. */
export interface Host {
  nowMs(): number
  /** Its stream is gone. `reset`: it ended by a reset that was not the answer to a failure of ours. */
  ended(exchange: Exchange, reset: boolean): void
}

const broken: Refused = { ok: false, status: 500, body: 'internal error', reason: 'internal-error' }
const brokenRequest: DoorRequest = { refused: broken, timeoutMs: undefined, stillAllowed: () => true, finished: () => {} }

export class Exchange {
  private readonly host: Host
  private readonly door: Http2Door
  private readonly limits: Http2Limits
  private readonly fields: RequestFields
  private readonly client: ServerHttp2Stream
  private readonly hasBody: boolean
  private readonly startedAt: number
  private readonly outcome: Outcome = {
    status: 0,
    source: 'app',
    reason: 'ok',
    durationMs: 0,
    requestBytes: 0,
    responseBytes: 0,
    retried: false,
  }
  private request: DoorRequest = brokenRequest
  private channels: Channels
  private channel: Channel | undefined
  /** There was none that leads to an app, as far as is known. */
  private isLastResort = false
  private upstream: ClientHttp2Stream | undefined
  /** Since when it waits for a stream. */
  private connectingAt = 0
  /** The outcome is settled; what is left is to write what was said. */
  private settled = false
  private requestEnded: boolean
  private requestTrailers: OutgoingHttpHeaders | undefined
  private responseEnded = false
  private responseTrailers: OutgoingHttpHeaders | undefined
  /** What came of the body: not sent yet, or kept to be sent again until the response begins or there is too much of it. */
  private kept: Buffer[] = []
  private replayable = true
  private retries = 0
  private moves = 0
  private interims = 0
  /** Our own doing: the reset that follows says nothing about the client. */
  private resetByUs = false
  /** When the response must be there; 0 is never. */
  private deadline = 0
  /** When it is to be judged again (wall clock). */
  private allowedUntilMs = Infinity
  private moved = true
  private movedAt = 0

  constructor(host: Host, door: Http2Door, limits: Http2Limits, client: ServerHttp2Stream, fields: RequestFields, hasBody: boolean) {
    this.host = host
    this.door = door
    this.channels = door.channels
    this.limits = limits
    this.client = client
    this.fields = fields
    this.hasBody = hasBody
    this.requestEnded = !hasBody
    this.startedAt = this.connectingAt = this.movedAt = host.nowMs()
    client.on('aborted', () => this.clientGone())
    client.on('close', () => this.clientClosed())
  }

  /** Judges it and sends it on its way. */
  begin(): void {
    try {
      this.request = this.door.open(this.fields)
    } catch (error) {
      this.door.threw(error)
    }
    const { refused, channels } = this.request
    if (channels) this.channels = channels
    this.allowedUntilMs = this.request.allowedUntilMs?.() ?? Infinity
    if (refused) {
      this.respond(refused.status, refused.body, 'internal', refused.reason, refused.headers)
      return
    }
    if (!this.hasBody) {
      this.requestComplete()
      this.connect()
      return
    }
    this.readBody()
    // What was read together with the head is there by then: most bodies as a whole, which then need not wait for trailers.
    setImmediate(() => {
      if (!this.settled) this.connect()
    })
  }

  private readonly editing = (head: EditableHead): void => this.request.responding?.(head)

  /** The plan changed, or what it was allowed by has ended: what is no longer allowed ends. */
  reauthorize(): void {
    if (this.settled) return
    // Before it is judged: what ends in between is looked at again.
    this.allowedUntilMs = this.request.allowedUntilMs?.() ?? Infinity
    let allowed = false
    try {
      allowed = this.request.stillAllowed()
    } catch (error) {
      this.door.threw(error)
    }
    if (allowed) return
    // To gRPC INADEQUATE_SECURITY means PERMISSION_DENIED.
    this.fail(403, 'RBAC: access denied', 'internal', 'denied', this.fields.grpc ? NGHTTP2_INADEQUATE_SECURITY : NGHTTP2_CANCEL)
  }

  /** Regularly; by both clocks. */
  check(nowMs: number, wallMs: number): void {
    if (this.moved) {
      this.moved = false
      this.movedAt = nowMs
    }
    if (!this.settled && wallMs >= this.allowedUntilMs) this.reauthorize()
    if (this.settled) {
      if (nowMs - this.movedAt >= this.limits.bodyIdleTimeoutMs) this.client.close(NGHTTP2_CANCEL)
    } else if (this.upstream === undefined && nowMs - this.connectingAt >= this.channels.waitMs) {
      this.fail(503, resetText('overflow'), 'upstream', 'overflow', NGHTTP2_CANCEL)
    } else if ((this.deadline > 0 && nowMs >= this.deadline) || nowMs - this.movedAt >= this.limits.bodyIdleTimeoutMs) {
      this.channel?.suspect()
      if (!this.requestEnded && !this.client.headersSent) this.fail(408, 'request timeout', 'downstream', 'request-timeout', NGHTTP2_CANCEL)
      else this.fail(504, 'upstream request timeout', 'upstream', 'timeout', NGHTTP2_CANCEL)
    }
  }

  private requestComplete(): void {
    const timeoutMs = this.request.timeoutMs ?? this.limits.requestTimeoutMs
    if (timeoutMs > 0) this.deadline = this.host.nowMs() + timeoutMs
  }

  private connect(): void {
    const got = this.channels.acquire(() => !this.settled)
    if (!(got instanceof Promise)) {
      this.start(got)
      return
    }
    // Until there is somewhere to write to, the rest of the body waits in the stream's window.
    if (this.hasBody) this.client.pause()
    this.connectingAt = this.host.nowMs()
    void got.then(channel => this.start(channel))
  }

  /** The stream is reserved: the request goes out, or once more. */
  private start(got: Channel | ConnectFailure): void {
    if (!(got instanceof Channel)) {
      if (this.settled) return
      const other = got.reset === 'overflow' ? undefined : this.request.elsewhere?.()
      if (other !== undefined) {
        this.channels = other
        this.connect()
      } else this.unreached(got)
      return
    }
    if (this.settled) {
      got.release()
      return
    }
    const { session } = got
    let upstream: ClientHttp2Stream
    try {
      const waitForTrailers = this.hasBody && (!this.requestEnded || this.requestTrailers !== undefined)
      upstream = session.request(this.fields.outgoing(), { endStream: !this.hasBody, waitForTrailers })
    } catch (error) {
      got.release()
      // It went away between being chosen and being used: nothing was sent.
      if (session.closed || session.destroyed) this.lost(true, true)
      else {
        this.door.threw(error)
        this.fail(broken.status, broken.body, 'internal', broken.reason, NGHTTP2_INTERNAL_ERROR)
      }
      return
    }
    this.channel = got
    this.isLastResort = got.isShunned
    this.upstream = upstream
    this.listen(upstream, got)
    if (this.hasBody) this.sendBody(upstream)
  }

  private listen(upstream: ClientHttp2Stream, channel: Channel): void {
    upstream.on('error', () => {})
    onHeaders(upstream, 'headers', (headers, _flags, raw) => this.guard(() => this.interim(headers, raw)))
    onHeaders(upstream, 'response', (headers, flags, raw) => this.guard(() => this.response(upstream, headers, flags, raw)))
    upstream.on('close', () => {
      channel.release()
      if (this.upstream === upstream) this.upstreamClosed(upstream.rstCode)
    })
  }

  /** A mistake of ours costs this request, never the process. */
  private guard(step: () => void): void {
    try {
      step()
    } catch (error) {
      this.door.threw(error)
      this.fail(broken.status, broken.body, 'internal', broken.reason, NGHTTP2_INTERNAL_ERROR)
    }
  }

  private readBody(): void {
    const { client } = this
    client.on('data', (chunk: Buffer) => this.requestData(chunk))
    client.on('end', () => this.requestEnd())
    onHeaders(client, 'trailers', (_headers, _flags, raw) => {
      this.requestTrailers = trailersOf(raw)
    })
  }

  private sendBody(upstream: ClientHttp2Stream): void {
    const { client, kept } = this
    let room = true
    for (const chunk of kept) room = upstream.write(chunk)
    this.boundReplay()
    // One that was given up must not let in what there is nowhere to write to.
    upstream.on('drain', () => this.upstream === upstream && client.resume())
    if (this.requestEnded) this.endUpstream(upstream)
    else if (room) client.resume()
    else client.pause()
  }

  private requestData(chunk: Buffer): void {
    this.moved = true
    this.outcome.requestBytes += chunk.length
    const { upstream } = this
    if (this.replayable || (upstream === undefined && !this.settled)) this.kept.push(chunk)
    if (upstream === undefined) return
    this.boundReplay()
    if (!upstream.write(chunk)) this.client.pause()
  }

  private boundReplay(): void {
    if (!this.replayable || this.outcome.requestBytes <= this.limits.replayBytes) return
    this.replayable = false
    this.kept = []
  }

  private requestEnd(): void {
    this.requestEnded = true
    if (this.settled) return
    this.requestComplete()
    if (this.upstream) this.endUpstream(this.upstream)
  }

  private endUpstream(upstream: ClientHttp2Stream): void {
    const { requestTrailers } = this
    if (requestTrailers !== undefined) upstream.on('wantTrailers', () => upstream.sendTrailers(requestTrailers))
    upstream.end()
  }

  private interim(headers: IncomingHttpHeaders & IncomingHttpStatusHeader, raw: readonly string[]): void {
    this.moved = true
    const { client } = this
    if (client.headersSent || client.destroyed || client.closed) return
    if (++this.interims > this.limits.interimResponses) this.misread('too many interim responses')
    // There is no protocol to switch to (RFC 9113 8.6).
    else if (headers[':status'] === 101) this.misread('unasked-for upgrade')
    else client.additionalHeaders(responseHeaders(raw, headers))
  }

  private response(
    upstream: ClientHttp2Stream,
    headers: IncomingHttpHeaders & IncomingHttpStatusHeader,
    flags: number,
    raw: readonly string[],
  ): void {
    this.moved = true
    const { client } = this
    if (this.upstream !== upstream || client.destroyed || client.closed) return
    const status = headers[':status'] ?? 0
    if (status < 200 || status > 599) return this.misread('invalid status')
    const unreached = this.channel!.own && headers[unreachedHeader] !== undefined
    if (unreached && this.goesOn(this.channel!)) return
    this.forget()
    this.outcome.status = status
    const bodiless = this.fields.method === 'HEAD' || status === 204 || status === 304
    const complete = bodiless || (flags & endStreamFlag) !== 0
    const answer = responseHeaders(raw, headers, this.editing)
    if (unreached && this.door.tellUnreached === true) answer[unreachedHeader] = '1'
    client.respond(answer, {
      endStream: complete,
      waitForTrailers: !complete,
      sendDate: false,
    } as object)
    if (complete) {
      upstream.resume()
      this.responded()
      if (!this.requestEnded) this.stopRequest()
      return
    }
    client.on('drain', () => upstream.resume())
    onHeaders(upstream, 'trailers', (_headers, _flags, more) => {
      this.responseTrailers = trailersOf(more)
    })
    upstream.on('data', (chunk: Buffer) => {
      this.moved = true
      this.outcome.responseBytes += chunk.length
      if (!client.write(chunk)) upstream.pause()
    })
    upstream.on('end', () => {
      if (this.settled || this.upstream !== upstream) return
      this.responseEnded = true
      if (this.responseTrailers !== undefined) this.endResponse()
      // A server that gives up (node's own, for one) may end its stream right before it resets it: then this is no end.
      else setImmediate(() => this.upstream === upstream && upstream.rstCode === NGHTTP2_NO_ERROR && this.endResponse())
    })
  }

  private endResponse(): void {
    if (this.settled) return
    const { client, responseTrailers, requestEnded } = this
    if (responseTrailers !== undefined || !requestEnded) {
      client.on('wantTrailers', () => {
        client.sendTrailers(responseTrailers ?? {})
        // They are on their way only after that.
        if (!requestEnded) setImmediate(() => this.stopRequest())
      })
    }
    client.end()
    this.responded()
    if (!requestEnded) client.resume()
  }

  /** The response was written whole; what the client still sends is unwanted (RFC 9113 8.1). */
  private responded(): void {
    this.settle()
    if (!this.requestEnded) this.dropUpstream(NGHTTP2_CANCEL)
  }

  private stopRequest(): void {
    this.resetByUs = true
    endEarly(this.client)
  }

  private upstreamClosed(code: number): void {
    const ending = this.channel!.session.closed
    this.upstream = undefined
    this.channel = undefined
    if (this.settled) return
    if (this.responseEnded && code === NGHTTP2_NO_ERROR) this.endResponse()
    else if (!this.client.headersSent) this.lost(code === NGHTTP2_REFUSED_STREAM, ending)
    else this.fail(502, '', 'upstream', 'upstream-reset', passable(code) && code !== NGHTTP2_REFUSED_STREAM ? code : NGHTTP2_INTERNAL_ERROR)
  }

  /**
   * Its upstream went away before its response: once more where that cannot do anything twice. `refused`: nobody looked at it. `ending`: because
   * its whole connection ends.
   */
  private lost(refused: boolean, ending: boolean): void {
    let again: boolean
    if (!refused) again = !this.hasBody && this.fields.idempotent && this.retries < 1
    else if (ending) again = this.replayable && this.moves++ < this.limits.maxMoves
    else again = this.replayable && this.retries < this.limits.maxRetries
    if (!again) {
      this.fail(503, resetText('connection termination'), 'upstream', 'upstream-reset', NGHTTP2_INTERNAL_ERROR)
      return
    }
    if (!refused || !ending) this.retries += 1
    this.outcome.retried = true
    if (this.hasBody) this.client.pause()
    this.connect()
  }

  /** No app has it, or only a try that may be made again: one of us is told so. */
  private unreached({ status = 503, reset, body = resetText(reset) }: ConnectFailure): void {
    const told = this.door.tellUnreached === true && saysUnreached(status, reset)
    this.fail(status, body, 'upstream', reset, NGHTTP2_CANCEL, told ? unreachedFields : undefined)
  }

  /** The server is one of us and could not reach the app: elsewhere, if the request can still be sent whole. */
  private goesOn(channel: Channel): boolean {
    const news = channel.appUnreached() || this.isLastResort
    const again = this.replayable && this.moves < this.limits.maxMoves
    const other = this.request.unreached?.(channel.endpoint, again, news)
    if (other === undefined) return false
    this.moves += 1
    this.outcome.retried = true
    const { upstream } = this
    this.upstream = this.channel = undefined
    letGoLater(upstream!, NGHTTP2_CANCEL)
    if (this.hasBody) this.client.pause()
    this.channels = other
    this.connect()
    return true
  }

  private misread(reason: string): void {
    this.fail(502, resetText('protocol error'), 'upstream', reason, NGHTTP2_INTERNAL_ERROR)
  }

  /** Told to the client where nothing was sent yet; otherwise its stream is reset with `code`. */
  private fail(status: number, body: string, source: Outcome['source'], reason: string, code: number, headers?: readonly string[]): void {
    if (!this.client.headersSent) {
      this.respond(status, body, source, reason, headers)
      return
    }
    this.outcome.source = source
    this.outcome.reason = reason
    this.settle()
    this.dropUpstream(NGHTTP2_CANCEL)
    this.resetByUs = true
    this.client.close(code)
  }

  private respond(status: number, body: string, source: Outcome['source'], reason: string, headers?: readonly string[]): void {
    const { outcome, client } = this
    outcome.source = source
    outcome.reason = reason
    outcome.responseBytes = body.length
    if (!client.destroyed && !client.closed) outcome.status = reply(client, status, body, this.fields.grpc, headers)
    this.settle()
    this.dropUpstream(NGHTTP2_CANCEL)
    if (!this.requestEnded) this.stopRequest()
  }

  private clientGone(): void {
    if (this.settled) return
    this.outcome.source = 'downstream'
    this.outcome.reason = 'client-abort'
    this.settle()
    const { rstCode } = this.client
    this.dropUpstream(passable(rstCode) ? rstCode : NGHTTP2_CANCEL, letGo)
  }

  private clientClosed(): void {
    this.clientGone()
    // Where the response was written but not read, its stream is of no use any more.
    this.dropUpstream(NGHTTP2_CANCEL, letGo)
    this.host.ended(this, this.client.rstCode !== NGHTTP2_NO_ERROR && !this.resetByUs)
  }

  /** At once only where it is the client that ends it: its own session may be reading. */
  private dropUpstream(code: number, how = letGoLater): void {
    const { upstream } = this
    this.upstream = undefined
    this.channel = undefined
    if (upstream !== undefined) how(upstream, code)
  }

  /** It will not be sent again. */
  private forget(): void {
    this.replayable = false
    this.kept = []
  }

  private settle(): void {
    if (this.settled) return
    this.settled = true
    this.forget()
    this.outcome.durationMs = this.host.nowMs() - this.startedAt
    this.request.finished(this.outcome, this.channel?.endpoint)
  }
}

/** A code that may be told to the other side as it came. */
function passable(code: number): boolean {
  return code > NGHTTP2_NO_ERROR && code <= NGHTTP2_HTTP_1_1_REQUIRED
}

function letGo(upstream: ClientHttp2Stream, code: number): void {
  // One that has ended but was not read to its end is closed already, and stays.
  if (upstream.closed) upstream.destroy()
  else upstream.close(code)
}

/** Not while its session reads: node then puts a CANCEL off, and nghttp2 may write empty frames for a lost stream until memory is gone. */
function letGoLater(upstream: ClientHttp2Stream, code: number): void {
  setImmediate(letGo, upstream, code)
}
