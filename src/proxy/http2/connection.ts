/**
 * One downstream connection of HTTP/2, over a socket that was accepted and is through its handshake: when a client asks for too much, and how a
 * connection ends. Invariant: every stream has one exchange and is in `exchanges` until it is gone, so that whoever resets streams cannot have
 * more of them at work than others.
 */
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { Allowance } from '../../lib/allowance.ts'
import type { ServedConnection } from '../http1/connection.ts'
import { sharedDeadlines, type Deadlines, type Watched } from '../../lib/deadlines.ts'
import { bad, refusalOf } from '../http1/refusals.ts'
import { reply as http1Reply } from '../http1/writer.ts'
import type { Http2Door } from './door.ts'
import { Exchange, type Host } from './exchange.ts'
import { RequestFields } from './fields.ts'
import type { Http2Limits } from './limits.ts'
import { ownHttp2 } from './own-alpn.ts'
import { reply } from './replies.ts'
import { errorCode, preface } from './wire/frames.ts'
import { Http2Session, type Head, type SessionOwner } from './wire/session.ts'
import type { Http2Stream } from './wire/stream.ts'

/** Of what is no preface, as much is read to see whether it is a request. */
const requestLineBytes = 2048

/** Serves `socket` until it ends. Its errors are handled by whoever accepted it. */
export function serveHttp2(socket: Socket, door: Http2Door, limits: Http2Limits, deadlines: Deadlines = sharedDeadlines): ServedConnection {
  return new Connection(socket, door, limits, deadlines)
}

class Connection implements ServedConnection, SessionOwner, Host, Watched {
  private readonly socket: Socket
  private readonly door: Http2Door
  private readonly limits: Http2Limits
  private readonly deadlines: Deadlines
  private readonly exchanges = new Set<Exchange>()
  private readonly resets: Allowance
  private session: Http2Session | undefined
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
    this.idleSinceMs = this.nowMs()
    if (socket.destroyed) return
    // A client that ends its side has nothing more to ask; half-open connections are for tunnels.
    socket.allowHalfOpen = false
    socket.once('close', () => this.closed())
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
    this.session?.destroy(errorCode.noError)
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
    this.head = undefined
    this.start().read(head)
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

  private start(): Http2Session {
    return (this.session = new Http2Session(this.socket, 'server', this.limits, this))
  }

  // What the session says.

  request(stream: Http2Stream, head: Head, end: boolean): void {
    this.served = true
    const { session, limits } = this
    // Streams whose refusal waits to be read count too.
    if (session!.streams.size > limits.maxConcurrentStreams || session!.backlog > limits.heldBytes) {
      stream.reset(errorCode.refusedStream)
      this.wasReset()
      return
    }
    const fields = new RequestFields()
    const code = fields.read(head, end, limits)
    if (code < 0) {
      this.refuse(stream, code, fields, end)
      return
    }
    if (fields.length >= 0) stream.expect(fields.length)
    const exchange = new Exchange(this, this.door, limits, stream, fields, !end)
    stream.owner = exchange
    this.exchanges.add(exchange)
    if (this.draining) this.notice()
    exchange.begin()
  }

  faulted(): void {
    this.wasReset()
  }

  flooded(): void {
    this.door.flooded?.()
  }

  closed(): void {
    this.deadlines.delete(this)
  }

  /** Not a request that anybody could judge. */
  private refuse(stream: Http2Stream, code: number, fields: RequestFields, end: boolean): void {
    if (code === bad.malformed) stream.fault(errorCode.protocolError)
    else {
      const { status, reason } = refusalOf(code)
      reply(stream, fields, status, reason)
      if (!end) stream.stop()
    }
    this.wasReset()
  }

  // What exchanges say.

  ended(exchange: Exchange, reset: boolean): void {
    this.exchanges.delete(exchange)
    if (this.exchanges.size === 0) this.idleSinceMs = this.nowMs()
    if (reset) this.wasReset()
  }

  /** Cancelling is a client's right; doing nothing else is an attack. */
  private wasReset(): void {
    if (!this.resets.take(this.nowMs())) this.calm()
  }

  private calm(): void {
    if (this.session === undefined || this.session.isClosed) return
    this.flooded()
    this.session.destroy(errorCode.enhanceYourCalm)
  }

  /** Tells the client to open no more streams here; those that are under way to us are still taken. */
  private notice(): void {
    if (this.closesMs > 0 || this.session === undefined || this.session.isClosed) return
    this.closesMs = this.nowMs() + this.limits.goawayGraceMs
    this.session.goaway()
  }

  check(nowMs: number): void {
    const { session, limits } = this
    if (session?.started !== true) {
      if (nowMs - this.idleSinceMs >= limits.prefaceTimeoutMs) this.socket.destroy()
      return
    }
    const wallMs = this.deadlines.clock.nowMs()
    for (const exchange of this.exchanges) exchange.check(nowMs, wallMs)
    if (this.closesMs > 0 && nowMs >= this.closesMs) session.close()
    if (this.exchanges.size > 0) return
    const idleMs = nowMs - this.idleSinceMs
    if (session.closing) {
      // What was answered and not taken yet is still read, as long as a stream may stand still.
      if (idleMs >= (session.backlog > 0 ? limits.bodyIdleTimeoutMs : limits.lingerMs)) this.socket.destroy()
    } else if (idleMs >= limits.idleTimeoutMs) session.close()
  }
}
