/**
 * One downstream connection of HTTP/2, over a socket that was accepted and is through its handshake. Frames, header compression and
 * flow control are `node:http2`'s; judging when a client asks for too much, and how a connection ends, is here. Invariant: every stream has one
 * exchange and is in `exchanges` until it is gone, so that whoever resets streams cannot have more of them at work than others.
 */
import { constants, type IncomingHttpHeaders, type ServerHttp2Session, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { ServedConnection } from '../http1/connection.ts'
import { sharedDeadlines, type Deadlines, type Watched } from '../../lib/deadlines.ts'
import { refusalOf } from '../http1/refusals.ts'
import { reply as http1Reply } from '../http1/writer.ts'
import type { Http2Door } from './door.ts'
import { Exchange, type Host } from './exchange.ts'
import { RequestFields } from './fields.ts'
import { Allowance, type Http2Limits } from './limits.ts'
import { reply } from './replies.ts'
import { endEarly, endSession, onStream, ownHttp2, serverSession } from './session.ts'

const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1')
/** Of what is no preface, as much is read to see whether it is a request. */
const requestLineBytes = 2048
/** RFC 9113 6.8: a first GOAWAY that still takes every stream that is under way. */
const lastStreamId = 2 ** 31 - 1
const { NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_NO_ERROR, NGHTTP2_REFUSED_STREAM, NGHTTP2_FLAG_END_STREAM } = constants

/** Serves `socket` until it ends. Its errors are handled by whoever accepted it. */
export function serveHttp2(socket: Socket, door: Http2Door, limits: Http2Limits, deadlines: Deadlines = sharedDeadlines): ServedConnection {
  return new Connection(socket, door, limits, deadlines)
}

class Connection implements ServedConnection, Host, Watched {
  private readonly socket: Socket
  private readonly door: Http2Door
  private readonly limits: Http2Limits
  private readonly deadlines: Deadlines
  private readonly exchanges = new Set<Exchange>()
  private readonly resets: Allowance
  private readonly control: Allowance
  private session: ServerHttp2Session | undefined
  private head: Buffer | undefined
  /** Since when there is no stream. */
  private idleSinceMs: number
  private served = false
  private draining = false
  /** When a drained connection takes no more streams; 0 is not yet. */
  private closesMs = 0

  constructor(socket: Socket, door: Http2Door, limits: Http2Limits, deadlines: Deadlines) {
    this.socket = socket
    this.door = door
    this.limits = limits
    this.deadlines = deadlines
    this.resets = new Allowance(limits.resetBurst, limits.resetsPerSecond)
    this.control = new Allowance(limits.controlBurst, limits.controlPerSecond)
    this.idleSinceMs = this.nowMs()
    if (socket.destroyed) return
    // A client that ends its side has nothing more to ask; half-open connections are for tunnels.
    socket.allowHalfOpen = false
    socket.once('close', () => deadlines.delete(this))
    deadlines.add(this)
    const { alpnProtocol } = socket as TLSSocket
    if (alpnProtocol === 'h2' || alpnProtocol === ownHttp2) this.start()
    else socket.on('data', this.peek)
  }

  nowMs(): number {
    return this.deadlines.clock.monotonicMs()
  }

  drain(): void {
    this.draining = true
    if (this.exchanges.size > 0) this.notice()
    // One that nobody has used yet still carries what its client is about to ask.
    else if (this.served) this.session!.close()
  }

  close(): void {
    if (this.session) endSession(this.session, NGHTTP2_NO_ERROR)
    this.socket.destroy()
  }

  reauthorize(): void {
    for (const exchange of this.exchanges) exchange.reauthorize()
  }

  /** Nothing was agreed on, so the first bytes decide. */
  private readonly peek = (chunk: Buffer): void => {
    const head = this.head === undefined ? chunk : Buffer.concat([this.head, chunk])
    const length = Math.min(head.length, preface.length)
    if (head.compare(preface, 0, length, 0, length) !== 0) {
      this.turnAway(head)
      return
    }
    this.head = head
    if (length < preface.length) return
    this.socket.off('data', this.peek)
    this.socket.pause()
    this.head = undefined
    this.socket.unshift(head)
    this.start()
  }

  /** HTTP/1.1 is not translated: its client is told so. Anything else is told nothing. */
  private turnAway(head: Buffer): void {
    const { socket } = this
    socket.off('data', this.peek)
    this.deadlines.delete(this)
    if (/^[A-Z]+ [^ \r\n]+ HTTP\/1\.[01]\r\n/.test(head.toString('latin1', 0, requestLineBytes))) {
      socket.write(http1Reply(505, 'this service speaks HTTP/2: use prior knowledge', 'connection: close\r\n', false), 'latin1')
    }
    socket.resume()
    socket.destroySoon()
  }

  private start(): void {
    const session = serverSession(this.socket, this.limits)
    this.session = session
    session.on('error', () => {})
    onStream(session, (stream, headers, flags, raw) => this.stream(stream, headers, flags, raw))
    session.on('ping', () => this.controlled())
    session.on('remoteSettings', () => this.controlled())
  }

  private stream(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, flags: number, raw: readonly string[]): void {
    // Before anything else: one that was reset meanwhile says so after this.
    stream.on('error', () => {})
    if (stream.destroyed || stream.closed) {
      this.wasReset()
      return
    }
    this.served = true
    if (this.exchanges.size >= this.limits.maxConcurrentStreams) {
      stream.close(NGHTTP2_REFUSED_STREAM)
      this.wasReset()
      return
    }
    const hasBody = (flags & NGHTTP2_FLAG_END_STREAM) === 0
    const fields = new RequestFields()
    const code = fields.read(raw, headers, this.limits)
    if (code < 0) {
      this.refuse(stream, code, fields, hasBody)
      return
    }
    const exchange = new Exchange(this, this.door, this.limits, stream, fields, hasBody)
    this.exchanges.add(exchange)
    if (this.draining) this.notice()
    exchange.begin()
  }

  /** Not a request that anybody could judge. */
  private refuse(stream: ServerHttp2Stream, code: number, fields: RequestFields, hasBody: boolean): void {
    const { status, reason } = refusalOf(code)
    reply(stream, status, reason, fields.grpc)
    if (hasBody) endEarly(stream)
    this.wasReset()
  }

  ended(exchange: Exchange, reset: boolean): void {
    this.exchanges.delete(exchange)
    if (this.exchanges.size === 0) this.idleSinceMs = this.nowMs()
    if (reset) this.wasReset()
  }

  /** Cancelling is a client's right; doing nothing else is an attack. */
  private wasReset(): void {
    if (!this.resets.take(this.nowMs())) this.calm()
  }

  private controlled(): void {
    if (!this.control.take(this.nowMs())) this.calm()
  }

  private calm(): void {
    if (this.session === undefined || this.session.destroyed) return
    this.door.flooded?.()
    endSession(this.session, NGHTTP2_ENHANCE_YOUR_CALM)
  }

  /** Tells the client to open no more streams here; those that are under way to us are still taken. */
  private notice(): void {
    if (this.closesMs > 0 || this.session === undefined || this.session.destroyed) return
    this.closesMs = this.nowMs() + this.limits.goawayGraceMs
    this.session.goaway(NGHTTP2_NO_ERROR, lastStreamId)
  }

  check(nowMs: number): void {
    const { session, limits } = this
    if (session === undefined) {
      if (nowMs - this.idleSinceMs >= limits.prefaceTimeoutMs) this.socket.destroy()
      return
    }
    const wallMs = this.deadlines.clock.nowMs()
    for (const exchange of this.exchanges) exchange.check(nowMs, wallMs)
    if (this.closesMs > 0 && nowMs >= this.closesMs) session.close()
    if (this.exchanges.size > 0) return
    const idleMs = nowMs - this.idleSinceMs
    if (session.closed || session.destroyed) {
      if (idleMs >= limits.lingerMs) this.socket.destroy()
    } else if (idleMs >= limits.idleTimeoutMs) session.close()
  }
}
