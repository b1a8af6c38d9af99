/**
 * One request and its response, from the judged head to the last byte; one object a connection, used again for each request.
 * Invariants: the upstream stream is given back exactly once, by `release` only when both messages ended cleanly and nothing came after
 * them; the client gets exactly one final response, or its connection is broken so that it cannot mistake a part for the whole.
 */
import type { ByteStream } from '../../lib/byte-stream.ts'
import { BodyReader } from './body.ts'
import type { ConnectFailure, HttpDoor, Opened, Outcome, Refused, Retry, RetryCause, UpstreamStream } from './door.ts'
import { RequestHead, type ResponseHead } from './head.ts'
import type { Http1Limits } from './limits.ts'
import { Link, type UpstreamOwner } from './link.ts'
import { refusalOf } from './refusals.ts'
import { Replay } from './replay.ts'
import { ResponseRelay, type Awaiting } from './response-relay.ts'
import { saysUnreached, unreachedFields, unreachedHeader } from './unreached.ts'
import { part, reply, resetText, writeHead } from './writer.ts'

/** What the exchange needs of the connection that it belongs to. */
export interface Host {
  readonly stream: ByteStream
  readonly draining: boolean
  nowMs(): number
  /** Bytes moved. */
  touched(): void
  /** The request has come whole: the clock for the response starts. */
  requestComplete(timeoutMs: number): void
  /** The upstream takes no more for now / again. */
  stall(): void
  unstall(): void
  /** The exchange can take request bytes that the connection holds. */
  feed(): void
  /** The response is written. `keep`: the connection may carry another request. */
  exchanged(keep: boolean): void
  /** Joins the two streams; `rest` came from the upstream after its 101. */
  joined(upstream: UpstreamStream, link: Link, rest: Buffer): void
  /** Breaks the connection off. `hard`: with a reset, because a plain end would look like the end of the message. */
  broken(hard: boolean): void
}

const nothing = Buffer.alloc(0)
const broken: Refused = { ok: false, status: 500, body: 'internal error', reason: 'internal-error' }
const brokenConnect: ConnectFailure = { reset: 'internal error', status: 500, body: 'internal error' }
const once: Retry = { retries: 1, perTryMs: 0, statuses: [], allow: () => true }
const closeLine = 'connection: close\r\n'

export class Exchange implements UpstreamOwner, Awaiting {
  readonly request: RequestHead
  private readonly requestBody: BodyReader
  private readonly relay: ResponseRelay
  private readonly host: Host
  private readonly door: HttpDoor
  private readonly limits: Http1Limits
  private readonly outcome: Outcome = {
    status: 0,
    source: 'app',
    reason: 'ok',
    durationMs: 0,
    requestBytes: 0,
    responseBytes: 0,
    retried: false,
  }
  private active = false
  /** Tells a late `connect` that its request is gone. */
  private generation = 0
  private startedAt = 0
  private opened: Opened | undefined
  private upstream: UpstreamStream | undefined
  private link: Link | undefined
  private sent = false
  /** Tries after the first, and those that only went elsewhere. */
  private retries = 0
  private moves = 0
  private readonly replay: Replay
  /** When the whole of it must be over, where each try has its own time; 0 is never. */
  private endsAt = 0
  private closing = false

  constructor(host: Host, door: HttpDoor, limits: Http1Limits) {
    this.host = host
    this.door = door
    this.limits = limits
    this.request = new RequestHead(limits)
    this.requestBody = new BodyReader(limits)
    this.replay = new Replay(limits)
    this.relay = new ResponseRelay(this.request, host.stream, this, limits)
  }

  /** Starts on the head in `request`, whose bytes are [base, at). Answers up to where the bytes were used. */
  begin(buffer: Buffer, base: number, at: number, end: number): number {
    const { request, outcome } = this
    this.active = true
    this.generation++
    this.startedAt = this.host.nowMs()
    this.requestBody.begin(request.framing, request.contentLength, true)
    this.sent = false
    this.replay.begin()
    this.retries = this.moves = 0
    this.relay.begin()
    outcome.status = outcome.requestBytes = outcome.responseBytes = 0
    outcome.source = 'app'
    outcome.reason = 'ok'
    outcome.retried = false
    this.closing = !request.keepAlive
    const opened = this.judge()
    if (!opened.ok) return this.refuse(opened, buffer, at, end)
    this.opened = opened
    if (this.requestBody.done) this.requestComplete(opened)
    const got = this.connect(false)
    if (!isPromise(got)) return this.start(got, buffer, base, at, end)
    this.wait(got)
    return at
  }

  /** Bytes of the client while the exchange is on. Answers up to where they were used: what is left belongs to the next request, or is early. */
  requestData(buffer: Buffer, at: number, end: number): number {
    if (this.requestBody.done || !this.sent) return at
    return this.forwardRequest(buffer, at, end)
  }

  /** The client is gone, or the connection is being closed. */
  abort(source: Outcome['source'], reason: string): void {
    if (!this.active) return
    this.outcome.source = source
    this.outcome.reason = reason
    this.outcome.responseBytes = this.relay.bytes
    this.dropUpstream()
    this.finish()
  }

  /** The response, or the rest of it, did not come in time. */
  timeout(): void {
    if (!this.active) return
    if (!this.requestBody.done && !this.relay.headDone) this.fail(408, 'request timeout', 'downstream', 'request-timeout')
    else if (!this.relay.heard && this.timeLeft && this.mayRetry('timeout')) this.again()
    else this.fail(504, 'upstream request timeout', 'upstream', 'timeout')
  }

  /** A body is under way. */
  get moving(): boolean {
    return this.relay.headDone || !this.requestBody.done
  }

  clientDrain(): void {
    this.upstream?.stream.resume()
  }

  /** A door that throws is a mistake of ours: it costs this request, never the process. Nothing was judged, so nothing goes on. */
  private judge(): Opened | Refused {
    try {
      return this.door.open(this.request)
    } catch (error) {
      this.door.threw?.(error)
      return broken
    }
  }

  private connect(fresh: boolean): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure> {
    try {
      return this.opened!.connect(fresh)
    } catch (error) {
      this.door.threw?.(error)
      return brokenConnect
    }
  }

  private wait(got: Promise<UpstreamStream | ConnectFailure>): void {
    const generation = this.generation
    const connected = (result: UpstreamStream | ConnectFailure): void => {
      if (this.active && this.generation === generation) {
        this.start(result, nothing, 0, 0, 0)
        if (this.active && this.sent && !this.requestBody.done) this.host.feed()
      } else if ('stream' in result) result.destroy()
    }
    got.then(connected, (error: unknown) => {
      this.door.threw?.(error)
      connected(brokenConnect)
    })
  }

  /** The stream is there: the head goes out, with the body bytes at hand behind it. */
  private start(got: UpstreamStream | ConnectFailure, buffer: Buffer, base: number, at: number, end: number): number {
    if (!('stream' in got)) {
      const after = this.swallow(buffer, at, end)
      if (this.active) this.unreached(got.status ?? 503, got.body ?? resetText(got.reset), got.reset)
      return after
    }
    const { request, requestBody } = this
    this.upstream = got
    this.link = Link.of(got.stream)
    this.link.owner = this
    if (got.stream.destroyed || !got.stream.writable || this.link.ended) {
      this.lost()
      return at
    }
    if (!this.replay.isEmpty) {
      this.resend(got)
      return at
    }
    let position = at
    if (!requestBody.done && at < end) {
      position = requestBody.read(buffer, at, end)
      if (position < 0) return this.badBody(position, end)
    }
    const { from, to } = requestBody
    const size = position === at ? 0 : to - from
    this.outcome.requestBytes = size
    this.sent = true
    let more: boolean
    if (request.verbatim && at > base) more = got.stream.write(part(got.stream, buffer, base, at + size))
    else more = writeHead(got.stream, request.forwarded(), buffer, at, at + size, this.limits.coalesceBytes)
    if (!more) this.host.stall()
    if (request.framing === 'none') return position
    this.keep(buffer, at, at + size)
    return this.forwardRequest(buffer, position, end)
  }

  /** The same request to another server, where none had it. */
  private resend(upstream: UpstreamStream): void {
    const { stream } = upstream
    const { replay, requestBody } = this
    this.sent = true
    stream.write(this.request.forwarded(), 'latin1')
    let more = replay.send(stream)
    if (upstream.appUnreached === undefined) replay.forget()
    if (requestBody.done && requestBody.closing !== '') more = stream.write(requestBody.closing, 'latin1')
    // The one before it may have taken no more.
    if (more) this.host.unstall()
    else this.host.stall()
  }

  /** A server that is none of us says nothing for which the body would be needed again. */
  private keep(buffer: Buffer, from: number, to: number): void {
    const { replay, upstream, opened, request } = this
    if (upstream!.appUnreached === undefined || opened!.retry?.unreached === undefined) replay.forget()
    else replay.keep(buffer, from, to, request.contentLength)
  }

  private forwardRequest(buffer: Buffer, start: number, end: number): number {
    const body = this.requestBody
    const { writer } = this.link!
    let at = start
    while (at < end && !body.done) {
      at = body.read(buffer, at, end)
      if (at < 0) return this.badBody(at, end)
      const size = body.to - body.from
      if (size === 0) continue
      this.outcome.requestBytes += size
      this.keep(buffer, body.from, body.to)
      if (!writer.write(buffer.subarray(body.from, body.to))) this.host.stall()
    }
    this.host.touched()
    if (body.done) {
      if (body.closing !== '') this.upstream!.stream.write(body.closing, 'latin1')
      this.requestComplete(this.opened!)
    }
    return at
  }

  /** The clock for the response starts, and that for the first try. */
  private requestComplete({ timeoutMs = this.limits.requestTimeoutMs, retry = once }: Opened): void {
    if (retry.perTryMs === 0) {
      this.host.requestComplete(timeoutMs)
      return
    }
    this.endsAt = timeoutMs === 0 ? 0 : this.host.nowMs() + timeoutMs
    this.awaitTry(retry.perTryMs)
  }

  /** Waits no longer than the whole may take. */
  private awaitTry(perTryMs: number): void {
    const { left } = this
    this.host.requestComplete(left === 0 ? perTryMs : Math.min(perTryMs, left))
  }

  /** Of the whole; 0 is no limit. */
  private get left(): number {
    return this.endsAt === 0 ? 0 : Math.max(1, this.endsAt - this.host.nowMs())
  }

  /** It was only this try that took too long. */
  private get timeLeft(): boolean {
    const { perTryMs } = this.opened!.retry ?? once
    return perTryMs > 0 && (this.endsAt === 0 || this.host.nowMs() < this.endsAt)
  }

  /** The client broke the framing of its body: nothing after it can be trusted. */
  private badBody(code: number, end: number): number {
    const { reason } = refusalOf(code)
    this.fail(400, reason, 'downstream', reason)
    return end
  }

  /** The door said no. A body that is all there is dropped and the connection goes on; otherwise it ends with the answer. */
  private refuse(refused: Refused, buffer: Buffer, start: number, end: number): number {
    const at = this.swallow(buffer, start, end)
    if (this.active) this.respond(refused.status, refused.body, 'internal', refused.reason, refused.headers)
    return at
  }

  /** Reads the body bytes at hand to nowhere. */
  private swallow(buffer: Buffer, start: number, end: number): number {
    let at = start
    while (at < end && !this.requestBody.done) {
      at = this.requestBody.read(buffer, at, end)
      if (at < 0) return this.badBody(at, end)
    }
    return at
  }

  private respond(status: number, body: string, source: Outcome['source'], reason: string, headers?: readonly string[]): void {
    const { outcome, host } = this
    if (!this.requestBody.done || host.draining) this.closing = true
    outcome.status = status
    outcome.source = source
    outcome.reason = reason
    outcome.responseBytes = this.request.method === 'HEAD' ? 0 : body.length
    host.stream.write(reply(status, body, this.connectionLine(), this.request.method === 'HEAD', headers), 'latin1')
    this.finish()
    host.exchanged(!this.closing)
  }

  private connectionLine(): string {
    if (this.closing) return closeLine
    return this.request.version === 1 ? '' : 'connection: keep-alive\r\n'
  }

  /** No app has it: one of us is told so. */
  private unreached(status: number, body: string, reason: string): void {
    const told = this.opened!.tellUnreached === true && saysUnreached(status, reason)
    this.fail(status, body, 'upstream', reason, told ? unreachedFields : undefined)
  }

  /** A failure: told to the client where nothing was sent yet, otherwise its connection breaks. */
  private fail(status: number, body: string, source: Outcome['source'], reason: string, headers?: readonly string[]): void {
    this.dropUpstream()
    if (!this.relay.headDone) {
      this.respond(status, body, source, reason, headers)
      return
    }
    this.abort(source, reason)
    this.host.broken(this.relay.endless)
  }

  private dropUpstream(): void {
    const { upstream, link } = this
    if (link !== undefined) link.owner = undefined
    this.upstream = this.link = undefined
    upstream?.destroy()
  }

  /** The upstream went away before its response. */
  private lost(): void {
    // It does not matter how old the stream was: its gateway may have died this moment.
    if (!this.relay.heard && this.mayRetry('broken')) this.again()
    else this.fail(503, resetText('connection termination'), 'upstream', 'upstream-reset')
  }

  /** Another try can do nothing twice, there is one left, and whoever pays for it agrees. */
  private mayRetry(cause: RetryCause): boolean {
    const { request } = this
    const retry = this.opened!.retry ?? once
    const harmless = !this.sent || (request.framing === 'none' && request.idempotent)
    if (!harmless || this.retries >= retry.retries || !retry.allow(cause)) return false
    this.retries++
    return true
  }

  /** The server is one of us and could not reach the app: elsewhere, if the request can still be sent whole. */
  private mayMove(): boolean {
    const { upstream, moves, limits, replay } = this
    const { retry } = this.opened!
    const news = upstream!.appUnreached!()
    if (retry?.unreached === undefined) return false
    const again = replay.isWhole && moves < limits.maxMoves
    if (again) this.moves++
    retry.unreached(again, news)
    return again
  }

  /** Once more, on a stream on which nothing was sent. */
  private again(fresh = true): void {
    this.dropUpstream()
    this.outcome.retried = true
    this.generation++
    this.sent = false
    this.relay.begin()
    const { perTryMs } = this.opened!.retry ?? once
    if (perTryMs > 0 && this.requestBody.done) this.awaitTry(perTryMs)
    const got = this.connect(fresh)
    this.wait(isPromise(got) ? got : Promise.resolve(got))
  }

  declines(head: ResponseHead): boolean {
    if (head.unreached && this.upstream!.appUnreached !== undefined) {
      if (this.mayMove()) {
        this.again(false)
        return true
      }
      if (this.opened!.tellUnreached === true) head.append(unreachedHeader, '1')
    }
    if (!(this.opened!.retry ?? once).statuses.includes(head.status) || !this.mayRetry('status')) return false
    this.again()
    return true
  }

  upstreamData(chunk: Buffer): void {
    this.host.touched()
    this.relay.data(chunk, this.upstream!.stream)
  }

  answering(head: ResponseHead): string {
    const { requestBody, host, relay } = this
    if (!this.replay.isEmpty) this.replay.forget()
    this.door.responding?.(head)
    // An answer before the end of its request mostly means that the rest of it is unwanted.
    if (!requestBody.done && (relay.bodyDone || !head.keepAlive)) this.closing = true
    if (relay.endless || host.draining) this.closing = true
    this.outcome.status = head.status
    // From here on it is no longer this try that is awaited, but the end of the answer.
    if (this.opened!.retry !== undefined && this.opened!.retry.perTryMs > 0 && requestBody.done) this.host.requestComplete(this.left)
    return this.connectionLine()
  }

  switching(head: ResponseHead, rest: Buffer): void {
    const { upstream, link } = this
    if (this.request.upgrade === '' || head.upgrade === '' || !this.requestBody.done) {
      this.misread('unasked-for upgrade')
      return
    }
    this.outcome.status = 101
    this.host.stream.write(head.forwarded(`connection: upgrade\r\nupgrade: ${head.upgrade}\r\n`), 'latin1')
    this.upstream = this.link = undefined
    this.host.joined(upstream!, link!, rest)
  }

  misread(reason: string): void {
    this.fail(502, resetText('protocol error'), 'upstream', reason)
  }

  /** The tunnel of this exchange is gone. */
  tunnelClosed(requestBytes: number, responseBytes: number, reason: string): void {
    this.outcome.requestBytes = requestBytes
    this.outcome.responseBytes = responseBytes
    this.outcome.reason = reason
    this.finish()
  }

  answered(clean: boolean): void {
    const { upstream, link } = this
    const { stream } = upstream!
    if (!this.requestBody.done) this.closing = true
    if (clean && this.requestBody.done && this.relay.head.keepAlive && !link!.ended && stream.writable) {
      link!.owner = undefined
      this.upstream = this.link = undefined
      if (stream.isPaused()) stream.resume()
      const { keptSeconds } = this.relay.head
      upstream!.release(keptSeconds < 0 ? undefined : keptSeconds)
    } else this.dropUpstream()
    this.outcome.responseBytes = this.relay.bytes
    this.finish()
    this.host.exchanged(!this.closing)
  }

  upstreamEnd(): void {
    if (!this.relay.end()) this.upstreamClosed()
  }

  upstreamClosed(): void {
    if (this.relay.headDone) this.fail(502, '', 'upstream', 'upstream-reset')
    else this.lost()
  }

  upstreamDrain(): void {
    this.host.unstall()
  }

  private finish(): void {
    const { outcome } = this
    this.active = false
    this.opened = undefined
    if (!this.replay.isEmpty) this.replay.forget()
    outcome.durationMs = this.host.nowMs() - this.startedAt
    this.door.finished(outcome)
  }
}

function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof (value as { then?: unknown }).then === 'function'
}
