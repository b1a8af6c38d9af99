/**
 * One downstream connection of HTTP/1.1: reads request heads one after another, gives each to the exchange, and keeps what came early. Invariant:
 * requests are judged and answered in the order in which they came, one at a time; while one is under way at most what one read
 * brought is held back, and the client is not read.
 */
import { Socket } from 'node:net'
import type { ByteStream } from '../../lib/byte-stream.ts'
import { kept, type Borrower } from '../../lib/read-buffer.ts'
import { resetSocket } from '../../lib/socket-reset.ts'
import { TLSSocket } from 'node:tls'
import { CR, LF } from './chars.ts'
import { Deadlines, sharedDeadlines, type Watched } from '../../lib/deadlines.ts'
import type { HttpDoor, UpstreamStream } from './door.ts'
import { Exchange, type Host } from './exchange.ts'
import type { Http1Limits } from './limits.ts'
import type { Link } from './link.ts'
import { Pending } from './pending.ts'
import { bad, refusalOf } from './refusals.ts'
import { Tunnel } from './tunnel.ts'
import { reply } from './writer.ts'

export type { ConnectFailure, HttpDoor, Opened, Outcome, Refused, UpstreamStream } from './door.ts'
export type { RequestHead, ResponseHead } from './head.ts'
export { defaultHttp1Limits, type Http1Limits } from './limits.ts'
export { Deadlines } from '../../lib/deadlines.ts'

/** A connection that is being served. It ends with its stream. */
export interface ServedConnection {
  /** The next response says `connection: close`. An idle connection stays until its request comes or its time is up. */
  drain(): void
  /** Breaks the connection and what is under way on it. */
  close(): void
  /** The plan was swapped: a tunnel that is no longer allowed ends. */
  reauthorize(): void
}

/**
 * Serves `downstream` (already accepted, TLS done) until it ends. Errors of the stream are handled here. Both its socket and those of the upstreams
 * should be made with `allowHalfOpen`, or a half-closed tunnel loses what still comes the other way.
 */
export function serveHttp1(
  downstream: ByteStream,
  door: HttpDoor,
  limits: Http1Limits,
  deadlines: Deadlines = sharedDeadlines,
): ServedConnection {
  return new Connection(downstream, door, limits, deadlines)
}

/** Waiting for a request; with a part of its head; with a request under way; joined to an upstream; answered for the last time; gone. */
const idle = 0
const heading = 1
const busy = 2
const tunnelling = 3
const lingering = 4
const gone = 5

/** Empty lines before a request line that are forgiven (RFC 9112 2.2). */
const leadingLines = 4

class Connection implements ServedConnection, Host, Watched {
  readonly stream: ByteStream
  draining = false
  private readonly door: HttpDoor
  private readonly limits: Http1Limits
  private readonly deadlines: Deadlines
  private readonly exchange: Exchange
  private readonly pending = new Pending()
  private phase = idle
  /** Came early: belongs to the request under way while its upstream connects, or to the next one. */
  private held: Buffer | undefined
  private stalled = false
  private consuming = false
  private tunnel: Tunnel | undefined
  /** When the tunnel is to be judged again (wall clock). */
  private tunnelUntilMs = Infinity
  /** When this phase is over; 0 is never. */
  private deadline: number
  private moved = true
  private movedAt = 0
  private lingered = 0
  /** Where in `pending` the head starts, and the empty lines that came before it. */
  private headAt = 0
  private leading = 0

  constructor(stream: ByteStream, door: HttpDoor, limits: Http1Limits, deadlines: Deadlines) {
    this.stream = stream
    this.door = door
    this.limits = limits
    this.deadlines = deadlines
    this.exchange = new Exchange(this, door, limits)
    this.deadline = this.nowMs() + limits.idleTimeoutMs
    if (!stream.closed) deadlines.add(this)
    const borrower: ByteStream & Borrower = stream
    borrower.borrows = true
    stream.on('data', (chunk: Buffer) => this.data(chunk))
    stream.on('end', () => this.ended())
    stream.on('drain', () => this.drained())
    // `close` follows and says it all.
    stream.on('error', () => {})
    stream.on('close', () => this.closed())
  }

  drain(): void {
    this.draining = true
  }

  close(): void {
    if (this.tunnel === undefined) this.exchange.abort('internal', 'closed')
    else this.tunnel.close('closed')
    this.broken(false)
  }

  reauthorize(): void {
    if (this.tunnel === undefined) return
    // Before it is judged: what ends in between is looked at again.
    this.tunnelUntilMs = this.door.allowedUntilMs?.() ?? Infinity
    if (!this.stillAllowed()) this.tunnel.close('denied')
  }

  private stillAllowed(): boolean {
    try {
      return this.door.stillAllowed?.() !== false
    } catch (error) {
      this.door.threw?.(error)
      return false
    }
  }

  nowMs(): number {
    return this.deadlines.clock.monotonicMs()
  }

  touched(): void {
    this.moved = true
  }

  requestComplete(timeoutMs: number): void {
    this.deadline = timeoutMs === 0 ? 0 : this.nowMs() + timeoutMs
  }

  stall(): void {
    this.stalled = true
    this.stream.pause()
  }

  unstall(): void {
    if (!this.stalled) return
    this.stalled = false
    if (this.held === undefined) this.stream.resume()
  }

  feed(): void {
    const held = this.takeHeld()
    if (held === undefined) return
    this.data(held)
    if (this.held === undefined && !this.stalled && this.stream.isPaused()) this.stream.resume()
  }

  private data(chunk: Buffer): void {
    switch (this.phase) {
      case idle:
        this.consume(chunk, 0)
        return
      case heading: {
        this.pending.append(chunk, 0, chunk.length)
        const bytes = this.pending.bytes()
        this.consume(bytes, 0)
        return
      }
      case busy: {
        const at = this.held === undefined ? this.exchange.requestData(chunk, 0, chunk.length) : 0
        if (at < chunk.length) this.consume(chunk, at)
        return
      }
      case tunnelling:
        this.tunnel!.clientData(chunk)
        return
      case lingering:
        this.lingered += chunk.length
        if (this.lingered > this.limits.lingerBytes) this.stream.destroy()
        return
      default:
    }
  }

  /** Goes through the requests in these bytes until one has to wait for its upstream. */
  private consume(buffer: Buffer, start: number): void {
    const end = buffer.length
    let at = start
    this.consuming = true
    // A client that does not read its answers gets no more of them.
    while (at < end && (this.phase === heading || (this.phase === idle && !this.stream.writableNeedDrain))) {
      at = this.readHead(buffer, at, end)
    }
    this.consuming = false
    if (at >= end || this.phase >= tunnelling) {
      if (at < end && this.phase === tunnelling) this.tunnel!.clientData(buffer.subarray(at))
      else if (this.phase <= busy && !this.stalled && this.held === undefined && this.stream.isPaused()) this.stream.resume()
      return
    }
    const rest = buffer.subarray(at)
    this.held = this.held === undefined ? kept(rest) : Buffer.concat([this.held, rest])
    this.stream.pause()
  }

  private takeHeld(): Buffer | undefined {
    const { held } = this
    this.held = undefined
    return held
  }

  /** One request head at `start`, and its exchange. Answers up to where the bytes were used. */
  private readHead(buffer: Buffer, start: number, end: number): number {
    const { request } = this.exchange
    let at = this.phase === idle ? start : this.headAt
    if (this.phase === idle) request.begin()
    if (buffer[at] === CR) {
      at = this.skipLines(buffer, at, end)
      if (at < 0) return this.malformed(at, end)
    }
    const after = at < end && buffer[at] !== CR ? request.parse(buffer, at, end) : 0
    if (after > 0) {
      this.phase = busy
      this.deadline = this.leading = 0
      this.moved = true
      if (this.pending.length > 0) this.pending.clear()
      return this.exchange.begin(buffer, at, after, end)
    }
    if (after < 0) return this.malformed(after, end)
    if (this.phase === idle) {
      if (at === end) return end
      this.phase = heading
      this.deadline = this.nowMs() + this.limits.headTimeoutMs
      this.pending.append(buffer, at, end)
      this.headAt = 0
    } else this.headAt = at
    return end
  }

  /** Not a request that anybody could judge: the connection ends with the answer. */
  private malformed(code: number, end: number): number {
    const { status, reason } = refusalOf(code)
    this.door.malformed?.(status, reason)
    this.stream.write(reply(status, reason, 'connection: close\r\n', false), 'latin1')
    this.linger()
    return end
  }

  exchanged(keep: boolean): void {
    if (this.phase === gone) return
    if (!keep) {
      this.linger()
      return
    }
    this.phase = idle
    this.stalled = false
    this.deadline = this.nowMs() + this.limits.idleTimeoutMs
    if (this.consuming) return
    const held = this.takeHeld()
    if (held !== undefined) this.consume(held, 0)
    else if (this.stream.isPaused()) this.stream.resume()
  }

  joined(upstream: UpstreamStream, link: Link, rest: Buffer): void {
    this.phase = tunnelling
    this.deadline = 0
    this.moved = true
    const tunnel = new Tunnel(
      this.stream,
      upstream,
      link,
      () => this.touched(),
      reason => {
        this.exchange.tunnelClosed(tunnel.clientBytes, tunnel.upstreamBytes, reason)
        this.linger()
      },
    )
    this.tunnel = tunnel
    // A plan may have come, or a token ended, since it was asked for.
    this.reauthorize()
    if (this.tunnel === undefined) return
    if (rest.length > 0) tunnel.upstreamData(rest)
    const held = this.takeHeld()
    if (held !== undefined) tunnel.clientData(held)
    if (this.stream.isPaused() && !upstream.stream.writableNeedDrain) this.stream.resume()
  }

  broken(hard: boolean): void {
    // TLS needs no reset: it shows an end without close_notify.
    if (hard && this.stream instanceof Socket && !(this.stream instanceof TLSSocket)) resetSocket(this.stream)
    else this.stream.destroy()
  }

  /** Everything is said: end our side, and read on a little so that the client gets it before a reset (RFC 9112 9.6). */
  private linger(): void {
    if (this.phase === gone || this.phase === lingering) return
    this.phase = lingering
    this.tunnel = undefined
    this.held = undefined
    this.pending.clear()
    this.deadline = this.nowMs() + this.limits.bodyIdleTimeoutMs
    this.stream.end(() => {
      this.deadline = this.nowMs() + this.limits.lingerMs
    })
    this.stream.resume()
  }

  private drained(): void {
    if (this.phase === tunnelling) this.tunnel!.clientDrain()
    else if (this.phase === busy) this.exchange.clientDrain()
    else if (this.phase <= heading) {
      const held = this.takeHeld()
      if (held !== undefined) this.data(held)
    }
  }

  /** The client sends no more. A request that is under way is given up, as its client most likely is: TCP cannot tell the two apart. */
  private ended(): void {
    if (this.phase === tunnelling) this.tunnel!.clientEnd()
    else if (this.phase !== busy) this.linger()
    else {
      this.exchange.abort('downstream', 'client-abort')
      this.stream.destroy()
    }
  }

  private closed(): void {
    if (this.phase === gone) return
    const { tunnel } = this
    this.phase = gone
    this.tunnel = undefined
    this.held = undefined
    this.deadlines.delete(this)
    if (tunnel === undefined) this.exchange.abort('downstream', 'client-abort')
    else tunnel.close('client-abort')
  }

  check(nowMs: number): void {
    if (this.moved) {
      this.moved = false
      this.movedAt = nowMs
    }
    if (this.deadline > 0 && nowMs >= this.deadline) {
      this.expire()
      return
    }
    if (this.phase === busy && this.exchange.moving && nowMs - this.movedAt >= this.limits.bodyIdleTimeoutMs) this.exchange.timeout()
    if (this.phase !== tunnelling) return
    if (this.deadlines.clock.nowMs() >= this.tunnelUntilMs) this.reauthorize()
    const { tunnelIdleTimeoutMs } = this.limits
    if (this.tunnel !== undefined && tunnelIdleTimeoutMs > 0 && nowMs - this.movedAt >= tunnelIdleTimeoutMs) this.tunnel.close('timeout')
  }

  private expire(): void {
    this.deadline = 0
    if (this.phase === busy) this.exchange.timeout()
    else if (this.phase === heading) {
      this.door.malformed?.(408, 'head timeout')
      this.stream.write(reply(408, 'request timeout', 'connection: close\r\n', false), 'latin1')
      this.linger()
    } else if (this.phase === idle) this.linger()
    else this.stream.destroy()
  }

  /** Past the empty lines before a request line; at a lone CR that is the last byte, to that CR. */
  private skipLines(buffer: Buffer, start: number, end: number): number {
    let at = start
    while (at < end && buffer[at] === CR) {
      if (at + 1 === end) return at
      if (buffer[at + 1] !== LF) return bad.bareCr
      if (++this.leading > leadingLines) return bad.requestLine
      at += 2
    }
    return at
  }
}
