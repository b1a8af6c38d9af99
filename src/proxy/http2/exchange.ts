/**
 * One request and its response, from the judged header list to the last frame of both directions. Invariants: nothing goes to an upstream
 * before the door allowed it; a reserved stream is given back exactly once; the client gets exactly one final response, or its stream is
 * reset so that it cannot mistake a part for the whole; a side that does not read stops the other from being read, because each is granted
 * only what the other took.
 */
import { ByteQueue } from '../../lib/byte-queue.ts'
import type { ConnectFailure, Outcome, Refused } from '../http1/door.ts'
import { saysUnreached, unreachedFields } from '../http1/unreached.ts'
import { resetText } from '../http1/writer.ts'
import { Attempt, type AttemptOwner } from './attempt.ts'
import { Channel, type Channels } from './channels.ts'
import type { DoorRequest, Http2Door } from './door.ts'
import { outgoingResponse, readResponse, trailersOf, type RequestFields, type ResponseHead } from './fields.ts'
import type { Http2Limits } from './limits.ts'
import { reply } from './replies.ts'
import { errorCode } from './wire/frames.ts'
import type { Head } from './wire/session.ts'
import type { EndedBy, Http2Stream, StreamOwner } from './wire/stream.ts'

/** What the exchange needs of the connection that it belongs to. */
export interface Host {
  nowMs(): number
  /** Its stream is gone. `reset`: the client reset it, or broke the protocol on it. */
  ended(exchange: Exchange, reset: boolean): void
}

const broken: Refused = { ok: false, status: 500, body: 'internal error', reason: 'internal-error' }
const brokenRequest: DoorRequest = { refused: broken, timeoutMs: undefined, stillAllowed: () => true, finished: () => {} }

export class Exchange implements StreamOwner, AttemptOwner {
  private readonly host: Host
  private readonly door: Http2Door
  private readonly limits: Http2Limits
  private readonly client: Http2Stream
  private readonly fields: RequestFields
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
  /** Where it is under way. */
  private attempt: Attempt | undefined
  /** Since when it waits for a stream. */
  private connectingAt = 0
  /** The outcome is settled; what is left is to write what was said. */
  private settled = false
  private requestEnded: boolean
  private requestTrailers: string[] | undefined
  private requestSensitive: ReadonlySet<string> | undefined
  /** The final header list of the response was sent, ours or the app's. */
  private answered = false
  /** The upstream ended the body of its response before the request ended: whether that was an end is not yet known. */
  private responseEnded = false
  /** What came of the body: not sent yet, or kept to be sent again until the response begins or there is too much of it. */
  private readonly kept = new ByteQueue()
  private replayable = true
  /** How much of the body the client was granted anew. */
  private credited = 0
  private retries = 0
  private moves = 0
  private interims = 0
  /** When the response must be there; 0 is never. */
  private deadline = 0
  /** When it is to be judged again (wall clock). */
  private allowedUntilMs = Infinity
  private moved = true
  private movedAt = 0

  constructor(host: Host, door: Http2Door, limits: Http2Limits, client: Http2Stream, fields: RequestFields, hasBody: boolean) {
    this.host = host
    this.door = door
    this.channels = door.channels
    this.limits = limits
    this.client = client
    this.fields = fields
    this.hasBody = hasBody
    this.requestEnded = !hasBody
    this.startedAt = this.connectingAt = this.movedAt = host.nowMs()
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
    if (!this.hasBody) this.requestComplete()
    this.connect()
  }

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
    this.fail(403, 'RBAC: access denied', 'internal', 'denied', this.fields.grpc ? errorCode.inadequateSecurity : errorCode.cancel)
  }

  /** Regularly; by both clocks. */
  check(nowMs: number, wallMs: number): void {
    if (this.moved) {
      this.moved = false
      this.movedAt = nowMs
    }
    if (!this.settled && wallMs >= this.allowedUntilMs) this.reauthorize()
    if (this.settled) {
      if (nowMs - this.movedAt >= this.limits.bodyIdleTimeoutMs) this.client.reset(errorCode.cancel)
    } else if (this.attempt === undefined && nowMs - this.connectingAt >= this.channels.waitMs) {
      this.fail(503, resetText('overflow'), 'upstream', 'overflow', errorCode.cancel)
    } else if ((this.deadline > 0 && nowMs >= this.deadline) || nowMs - this.movedAt >= this.limits.bodyIdleTimeoutMs) {
      this.attempt?.channel.suspect()
      if (!this.requestEnded && !this.answered) this.fail(408, 'request timeout', 'downstream', 'request-timeout', errorCode.cancel)
      else this.fail(504, 'upstream request timeout', 'upstream', 'timeout', errorCode.cancel)
    }
  }

  // What the client's stream says.

  data(bytes: Buffer, end: boolean): void {
    this.moved = true
    if (this.settled) {
      this.client.consumed(bytes.length)
      return
    }
    this.outcome.requestBytes += bytes.length
    if (this.replayable && this.outcome.requestBytes > this.limits.replayBytes && this.attempt !== undefined) this.forget()
    if (this.replayable || this.attempt === undefined) this.kept.push(bytes)
    this.attempt?.send(bytes, end)
    if (end) this.requestEnd()
  }

  /** Trailers of the request. */
  headers(head: Head): void {
    this.moved = true
    if (this.settled) return
    this.requestTrailers = trailersOf(head)
    this.requestSensitive = head.sensitive
    if (this.requestTrailers === undefined) {
      this.client.fault(errorCode.protocolError)
      return
    }
    this.attempt?.stream!.sendTrailers(this.requestTrailers, this.requestSensitive)
    this.requestEnd()
  }

  /** Bytes of the response left. */
  sent(length: number): void {
    this.moved = true
    this.attempt?.stream!.consumed(length)
  }

  closed(code: number, by: EndedBy): void {
    if (!this.settled && by !== 'both') {
      this.outcome.source = 'downstream'
      this.outcome.reason = 'client-abort'
      this.settle()
    }
    // Where the response was written but not read, its stream is of no use any more.
    this.dropUpstream(passable(code) ? code : errorCode.cancel)
    this.host.ended(this, by === 'peer' || by === 'fault')
  }

  // What the upstream's stream says.

  answerHeaders(attempt: Attempt, head: Head, end: boolean): void {
    if (this.attempt !== attempt || this.settled) return
    this.moved = true
    try {
      if (this.answered) this.trailers(head, end)
      else this.head(attempt, head, end)
    } catch (error) {
      this.mistake(error)
    }
  }

  answerData(attempt: Attempt, bytes: Buffer, end: boolean): void {
    const { length } = bytes
    if (this.attempt !== attempt || this.settled) return attempt.stream!.consumed(length)
    if (!this.answered) return this.misread('body before its response')
    this.moved = true
    this.outcome.responseBytes += length
    // A server that gives up (node's own, for one) may end its stream right before it resets it: then this is no end.
    const isEnd = end && this.requestEnded
    if (isEnd) this.settle()
    attempt.stream!.consumed(this.client.sendData(bytes, isEnd))
    if (!end || isEnd) return
    this.responseEnded = true
    setImmediate(() => this.attempt === attempt && this.endResponse())
  }

  passedOn(attempt: Attempt): void {
    if (this.attempt !== attempt) return
    this.moved = true
    this.credit(attempt.passed)
  }

  attemptClosed(attempt: Attempt, code: number): void {
    if (this.attempt !== attempt) return
    this.attempt = undefined
    if (this.settled) return
    if (this.responseEnded && code === errorCode.noError) this.endResponse()
    else if (!this.answered) this.lost(code === errorCode.refusedStream, attempt.channel.session.closing)
    else
      this.fail(502, '', 'upstream', 'upstream-reset', passable(code) && code !== errorCode.refusedStream ? code : errorCode.internalError)
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
    const attempt = new Attempt(this, got, this.fields, !this.hasBody)
    // It went away between being chosen and being used: nothing was sent.
    if (attempt.stream === undefined) return this.lost(true, true)
    this.attempt = attempt
    if (this.hasBody) this.sendKept(attempt)
  }

  private sendKept(attempt: Attempt): void {
    for (const piece of this.kept.pieces()) attempt.send(piece, false)
    if (this.outcome.requestBytes > this.limits.replayBytes) this.forget()
    if (!this.requestEnded) return
    if (this.requestTrailers !== undefined) attempt.stream!.sendTrailers(this.requestTrailers, this.requestSensitive)
    else attempt.stream!.end()
  }

  private requestEnd(): void {
    this.requestEnded = true
    this.requestComplete()
  }

  /** The upstream has taken so much of the body: as much may come again. */
  private credit(passed: number): void {
    if (passed <= this.credited) return
    this.client.consumed(passed - this.credited)
    this.credited = passed
  }

  private head(attempt: Attempt, head: Head, end: boolean): void {
    const response = readResponse(head)
    if (response === undefined || (response.status < 200 && end)) return this.misread('malformed response')
    if (response.status < 200) this.interim(response)
    else this.response(attempt, response, end)
  }

  private interim(head: ResponseHead): void {
    if (++this.interims > this.limits.interimResponses) this.misread('too many interim responses')
    // There is no protocol to switch to (RFC 9113 8.6).
    else if (head.status === 101) this.misread('unasked-for upgrade')
    else this.client.sendHeaders(outgoingResponse(head), head.sensitive, false)
  }

  private response(attempt: Attempt, head: ResponseHead, end: boolean): void {
    const { status } = head
    const unreached = attempt.channel.own && head.unreached
    if (unreached && this.goesOn(attempt)) return
    const bodiless = this.fields.method === 'HEAD' || status === 204 || status === 304
    if (!bodiless && head.length >= 0) {
      if (end && head.length > 0) return this.misread('malformed response')
      attempt.stream!.expect(head.length)
    }
    this.forget()
    this.outcome.status = status
    const fields = outgoingResponse(head, edited => this.request.responding?.(edited))
    if (unreached && this.door.tellUnreached === true) fields.push(...unreachedFields)
    this.answered = true
    const complete = bodiless || end
    if (complete) this.settle()
    this.client.sendHeaders(fields, head.sensitive, complete)
    if (complete) this.stopRequest()
  }

  private trailers(head: Head, end: boolean): void {
    const fields = end ? trailersOf(head) : undefined
    if (fields === undefined) return this.misread('malformed trailers')
    this.settle()
    this.client.sendTrailers(fields, head.sensitive)
    this.stopRequest()
  }

  private endResponse(): void {
    if (this.settled) return
    this.settle()
    this.client.end()
    this.stopRequest()
  }

  /** The response was written whole; what the client still sends is unwanted (RFC 9113 8.1). */
  private stopRequest(): void {
    if (this.requestEnded) return
    this.dropUpstream(errorCode.cancel)
    this.client.stop()
  }

  /** A mistake of ours costs this request, never the process. */
  private mistake(error: unknown): void {
    this.door.threw(error)
    this.fail(broken.status, broken.body, 'internal', broken.reason, errorCode.internalError)
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
      this.fail(503, resetText('connection termination'), 'upstream', 'upstream-reset', errorCode.internalError)
      return
    }
    if (!refused || !ending) this.retries += 1
    this.outcome.retried = true
    this.connect()
  }

  /** No app has it, or only a try that may be made again: one of us is told so. */
  private unreached({ status = 503, reset, body = resetText(reset) }: ConnectFailure): void {
    const told = this.door.tellUnreached === true && saysUnreached(status, reset)
    this.fail(status, body, 'upstream', reset, errorCode.cancel, told ? unreachedFields : undefined)
  }

  /** The server is one of us and could not reach the app: elsewhere, if the request can still be sent whole. */
  private goesOn(attempt: Attempt): boolean {
    const news = attempt.channel.appUnreached() || attempt.isLastResort
    const again = this.replayable && this.moves < this.limits.maxMoves
    const other = this.request.unreached?.(attempt.channel.endpoint, again, news)
    if (other === undefined) return false
    this.moves += 1
    this.outcome.retried = true
    this.dropUpstream(errorCode.cancel)
    this.channels = other
    this.connect()
    return true
  }

  private misread(reason: string): void {
    this.fail(502, resetText('protocol error'), 'upstream', reason, errorCode.internalError)
  }

  /** Told to the client where nothing was sent yet; otherwise its stream is reset with `code`. */
  private fail(status: number, body: string, source: Outcome['source'], reason: string, code: number, headers?: readonly string[]): void {
    if (!this.answered) {
      this.respond(status, body, source, reason, headers)
      return
    }
    this.outcome.source = source
    this.outcome.reason = reason
    this.settle()
    this.dropUpstream(errorCode.cancel)
    this.client.reset(code)
  }

  private respond(status: number, body: string, source: Outcome['source'], reason: string, headers?: readonly string[]): void {
    const { outcome } = this
    outcome.source = source
    outcome.reason = reason
    outcome.responseBytes = body.length
    this.answered = true
    outcome.status = reply(this.client, this.fields, status, body, headers)
    this.settle()
    this.dropUpstream(errorCode.cancel)
    if (!this.requestEnded) this.client.stop()
  }

  private dropUpstream(code: number): void {
    const { attempt } = this
    this.attempt = undefined
    attempt?.drop(code)
  }

  /** It will not be sent again. */
  private forget(): void {
    this.replayable = false
    this.kept.clear()
  }

  private settle(): void {
    if (this.settled) return
    this.settled = true
    this.forget()
    this.outcome.durationMs = this.host.nowMs() - this.startedAt
    this.request.finished(this.outcome, this.attempt?.channel.endpoint)
    // What nobody took is of no use any more.
    this.credit(this.outcome.requestBytes)
  }
}

/** A code that may be told to the other side as it came. */
function passable(code: number): boolean {
  return code > errorCode.noError && code <= errorCode.http11Required
}
