/**
 * One request and its response, from the judged head to the last byte; one object a connection, used again for each request.
 * Invariants: the upstream stream is given back exactly once, by `release` only when both messages ended cleanly and nothing came after
 * them; the client gets exactly one final response, or its connection is broken so that it cannot mistake a part for the whole.
 */
import type { Duplex } from 'node:stream'
import { BodyReader } from './body.ts'
import type { ConnectFailure, HttpDoor, Opened, Outcome, Refused, UpstreamStream } from './door.ts'
import { RequestHead, ResponseHead } from './head.ts'
import type { Http1Limits } from './limits.ts'
import { Link, type UpstreamOwner } from './link.ts'
import { Pending } from './pending.ts'
import { refusalOf } from './refusals.ts'
import { part, reply, resetText, writeChunk, writeHead } from './writer.ts'

/** What the exchange needs of the connection that it belongs to. */
export interface Host {
  readonly stream: Duplex
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
const closeLine = 'connection: close\r\n'

export class Exchange implements UpstreamOwner {
  readonly request: RequestHead
  private readonly response: ResponseHead
  private readonly requestBody: BodyReader
  private readonly responseBody: BodyReader
  private readonly partial = new Pending()
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
  private heard = false
  private headDone = false
  private rechunk = false
  private closing = false
  private clean = true
  private interims = 0

  constructor(host: Host, door: HttpDoor, limits: Http1Limits) {
    this.host = host
    this.door = door
    this.limits = limits
    this.request = new RequestHead(limits)
    this.response = new ResponseHead(limits)
    this.requestBody = new BodyReader(limits)
    this.responseBody = new BodyReader(limits)
  }

  /** Starts on the head in `request`, whose bytes are [base, at). Answers up to where the bytes were used. */
  begin(buffer: Buffer, base: number, at: number, end: number): number {
    const { request, outcome } = this
    this.active = true
    this.generation++
    this.startedAt = this.host.nowMs()
    this.requestBody.begin(request.framing, request.contentLength, true)
    this.sent = this.heard = this.headDone = this.rechunk = false
    this.clean = true
    this.interims = 0
    outcome.status = outcome.requestBytes = outcome.responseBytes = 0
    outcome.source = 'app'
    outcome.reason = 'ok'
    outcome.retried = false
    this.closing = !request.keepAlive
    const opened = this.door.open(request)
    if (!opened.ok) return this.refuse(opened, buffer, at, end)
    this.opened = opened
    if (this.requestBody.done) this.host.requestComplete(opened.timeoutMs ?? this.limits.requestTimeoutMs)
    const got = opened.connect(false)
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
    this.dropUpstream()
    this.finish()
  }

  /** The response, or the rest of it, did not come in time. */
  timeout(): void {
    if (!this.active) return
    if (!this.requestBody.done && !this.headDone) this.fail(408, 'request timeout', 'downstream', 'request-timeout')
    else this.fail(504, 'upstream request timeout', 'upstream', 'timeout')
  }

  /** A body is under way. */
  get moving(): boolean {
    return this.headDone || !this.requestBody.done
  }

  clientDrain(): void {
    this.upstream?.stream.resume()
  }

  private wait(got: Promise<UpstreamStream | ConnectFailure>): void {
    const generation = this.generation
    const connected = (result: UpstreamStream | ConnectFailure): void => {
      if (this.active && this.generation === generation) {
        this.start(result, nothing, 0, 0, 0)
        if (this.active && this.sent && !this.requestBody.done) this.host.feed()
      } else if ('stream' in result) result.destroy()
    }
    got.then(connected, () => connected({ reset: 'remote connection failure' }))
  }

  /** The stream is there: the head goes out, with the body bytes at hand behind it. */
  private start(got: UpstreamStream | ConnectFailure, buffer: Buffer, base: number, at: number, end: number): number {
    if (!('stream' in got)) {
      const after = this.swallow(buffer, at, end)
      if (this.active) this.fail(got.status ?? 503, got.body ?? resetText(got.reset), 'upstream', got.reset)
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
    if (request.verbatim && at > base) more = got.stream.write(part(buffer, base, at + size))
    else more = writeHead(got.stream, request.forwarded(), buffer, at, at + size, this.limits.coalesceBytes)
    if (!more) this.host.stall()
    if (request.framing === 'none') return position
    return this.forwardRequest(buffer, position, end)
  }

  private forwardRequest(buffer: Buffer, start: number, end: number): number {
    const body = this.requestBody
    const { stream } = this.upstream!
    let at = start
    while (at < end && !body.done) {
      at = body.read(buffer, at, end)
      if (at < 0) return this.badBody(at, end)
      const size = body.to - body.from
      if (size === 0) continue
      this.outcome.requestBytes += size
      if (!stream.write(part(buffer, body.from, body.to))) this.host.stall()
    }
    this.host.touched()
    if (body.done) {
      if (body.closing !== '') stream.write(body.closing, 'latin1')
      this.host.requestComplete(this.opened!.timeoutMs ?? this.limits.requestTimeoutMs)
    }
    return at
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

  /** A failure: told to the client where nothing was sent yet, otherwise its connection breaks. */
  private fail(status: number, body: string, source: Outcome['source'], reason: string): void {
    this.dropUpstream()
    if (!this.headDone) {
      this.respond(status, body, source, reason)
      return
    }
    this.abort(source, reason)
    this.host.broken(this.endless)
  }

  /** The client takes the end of the connection for the end of the body. */
  private get endless(): boolean {
    return this.request.version === 0 && (this.response.framing === 'until-close' || this.response.framing === 'chunked')
  }

  private dropUpstream(): void {
    const { upstream, link } = this
    if (link !== undefined) link.owner = undefined
    this.upstream = this.link = undefined
    upstream?.destroy()
  }

  /** The upstream went away before its response: once more on a fresh stream where that cannot do anything twice. */
  private lost(): void {
    const { request, outcome } = this
    const harmless = !this.sent || (request.framing === 'none' && request.idempotent)
    const again = this.upstream!.reusable && !outcome.retried && !this.heard && harmless
    if (!again) {
      this.fail(503, resetText('connection termination'), 'upstream', 'upstream-reset')
      return
    }
    this.dropUpstream()
    outcome.retried = true
    this.sent = false
    const got = this.opened!.connect(true)
    this.wait(isPromise(got) ? got : Promise.resolve(got))
  }

  upstreamData(chunk: Buffer): void {
    this.host.touched()
    if (this.headDone) {
      this.forwardResponse(chunk, 0, chunk.length)
      return
    }
    this.heard = true
    let buffer = chunk
    if (this.partial.length > 0) {
      this.partial.append(chunk, 0, chunk.length)
      buffer = this.partial.bytes()
    } else if (this.interims === 0) this.response.begin()
    this.responseHead(buffer, 0)
  }

  /** Reads heads up to the final one. */
  private responseHead(buffer: Buffer, start: number): void {
    const { response } = this
    const end = buffer.length
    let at = start
    for (;;) {
      const after = response.parse(buffer, at, end, this.request.method)
      if (after < 0) {
        this.partial.clear()
        this.fail(502, resetText('protocol error'), 'upstream', refusalOf(after).reason)
        return
      }
      if (after === 0) {
        if (at === 0 && this.partial.length > 0) return
        this.partial.clear()
        this.partial.append(buffer, at, end)
        return
      }
      if (response.status >= 200) {
        this.partial.clear()
        this.finalHead(buffer, at, after, end)
        return
      }
      if (response.status === 101) {
        this.partial.clear()
        this.switchProtocols(buffer, after)
        return
      }
      if (++this.interims > this.limits.interimResponses) {
        this.partial.clear()
        this.fail(502, resetText('protocol error'), 'upstream', 'too many interim responses')
        return
      }
      // HTTP/1.0 knows no interim responses (RFC 9110 15.2).
      if (this.request.version === 1) this.host.stream.write(response.forwarded(''), 'latin1')
      response.begin()
      at = after
    }
  }

  private switchProtocols(buffer: Buffer, at: number): void {
    const { request, response, upstream, link } = this
    if (request.upgrade === '' || response.upgrade === '' || !this.requestBody.done) {
      this.fail(502, resetText('protocol error'), 'upstream', 'unasked-for upgrade')
      return
    }
    this.headDone = true
    this.outcome.status = 101
    this.host.stream.write(response.forwarded(`connection: upgrade\r\nupgrade: ${response.upgrade}\r\n`), 'latin1')
    this.upstream = this.link = undefined
    this.host.joined(upstream!, link!, buffer.subarray(at))
  }

  /** The tunnel of this exchange is gone. */
  tunnelClosed(requestBytes: number, responseBytes: number, reason: string): void {
    this.outcome.requestBytes = requestBytes
    this.outcome.responseBytes = responseBytes
    this.outcome.reason = reason
    this.finish()
  }

  /** The final head, with the body bytes that came with it, in one write. */
  private finalHead(buffer: Buffer, base: number, start: number, end: number): void {
    const { request, response, responseBody: body, host, limits } = this
    this.door.responding?.(response)
    const old = request.version === 0
    let more = ''
    if (old && response.chunked) response.dropFraming()
    if (response.framing === 'until-close' && !old) {
      this.rechunk = true
      more = 'transfer-encoding: chunked\r\n'
    }
    body.begin(response.framing, response.contentLength, !old)
    let at = start
    if (!body.done && at < end) {
      at = body.read(buffer, at, end)
      if (at < 0) {
        this.fail(502, resetText('protocol error'), 'upstream', refusalOf(at).reason)
        return
      }
    }
    // The end of such a body is the end of the connection.
    if (this.endless) this.closing = true
    if (!this.requestBody.done && (body.done || !response.keepAlive)) this.closing = true
    if (host.draining) this.closing = true
    more += this.connectionLine()
    this.headDone = true
    this.outcome.status = response.status
    const from = at === start ? start : body.from
    const to = at === start ? start : body.to
    this.outcome.responseBytes = to - from
    let room: boolean
    if (this.rechunk) {
      host.stream.cork()
      room = host.stream.write(response.forwarded(more), 'latin1')
      if (to > from) room = writeChunk(host.stream, buffer, from, to)
      host.stream.uncork()
    } else if (more === '' && from === start && response.verbatim) room = host.stream.write(part(buffer, base, to))
    else room = writeHead(host.stream, response.forwarded(more), buffer, from, to, limits.coalesceBytes)
    if (!room) this.upstream!.stream.pause()
    this.forwardResponse(buffer, at, end)
  }

  private forwardResponse(buffer: Buffer, start: number, end: number): void {
    const { responseBody: body, host, outcome } = this
    let at = start
    while (at < end && !body.done) {
      at = body.read(buffer, at, end)
      if (at < 0) {
        this.fail(502, '', 'upstream', refusalOf(at).reason)
        return
      }
      const size = body.to - body.from
      if (size === 0) continue
      outcome.responseBytes += size
      const room = this.rechunk ? writeChunk(host.stream, buffer, body.from, body.to) : host.stream.write(part(buffer, body.from, body.to))
      if (!room) this.upstream!.stream.pause()
    }
    if (!body.done) return
    // Bytes after the message belong to no request of ours.
    if (at < end) this.clean = false
    this.responseDone()
  }

  private responseDone(): void {
    const { host, responseBody, upstream, link } = this
    if (this.rechunk) host.stream.write('0\r\n\r\n', 'latin1')
    else if (responseBody.closing !== '') host.stream.write(responseBody.closing, 'latin1')
    if (!this.requestBody.done) this.closing = true
    const reusable = this.clean && this.requestBody.done && this.response.keepAlive && !link!.ended && upstream!.stream.writable
    if (reusable) {
      link!.owner = undefined
      this.upstream = this.link = undefined
      if (upstream!.stream.isPaused()) upstream!.stream.resume()
      upstream!.release()
    } else this.dropUpstream()
    this.finish()
    host.exchanged(!this.closing)
  }

  upstreamEnd(): void {
    if (!this.headDone) this.lost()
    else if (this.response.framing === 'until-close') {
      this.responseBody.finish()
      this.responseDone()
    } else this.fail(502, '', 'upstream', 'upstream-reset')
  }

  upstreamClosed(): void {
    if (!this.headDone) this.lost()
    else this.fail(502, '', 'upstream', 'upstream-reset')
  }

  upstreamDrain(): void {
    this.host.unstall()
  }

  private finish(): void {
    const { outcome } = this
    this.active = false
    this.opened = undefined
    this.partial.clear()
    outcome.durationMs = this.host.nowMs() - this.startedAt
    this.door.finished(outcome)
  }
}

function isPromise<T>(value: T | Promise<T>): value is Promise<T> {
  return typeof (value as { then?: unknown }).then === 'function'
}
