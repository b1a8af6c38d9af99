/**
 * Many streams over one connection (yamux framing), for either side. Invariants: a stream's frames stay in order; what one turn of the
 * event loop writes leaves as one write; what breaks the framing or a limit ends the session and with it every stream, and nothing
 * that the other side says makes this side hold more than its windows.
 */
import type { Duplex } from 'node:stream'
import { sharedDeadlines, type Deadlines, type Watched } from '../../lib/deadlines.ts'
import type { Borrower } from '../../lib/read-buffer.ts'
import { readUint32 } from '../../lib/uint32.ts'
import { flag, frame, goAway, headerBytes } from './frames.ts'
import { defaultMuxLimits, type MuxLimits } from './limits.ts'
import { Sender } from './sender.ts'
import { MuxStream } from './stream.ts'

export interface MuxOptions {
  /** The side that dialled opens streams; the other accepts them. */
  role: 'client' | 'server'
  onStream?: (stream: MuxStream) => void
  /** The other side takes no new streams. */
  onGoAway?: () => void
  /** Once; every stream is gone. */
  onClose?: () => void
  limits?: Partial<MuxLimits>
  deadlines?: Deadlines
}

/** Why a session ended by a fault, for a log; a constant. */
export type MuxFault = 'protocol' | 'window exceeded' | 'flood' | 'silent' | ''

const maxStreamId = 0xffff_fffd
/** The value of the ping that follows a go-away. */
const goAwayPing = 1
/** A window that is opened by less than this is of no use to anybody. */
const smallWindow = 4096

export class MuxSession implements Watched {
  readonly socket: Duplex
  fault: MuxFault = ''
  /** The other side said go-away, or we did. */
  leaving = false
  /** Both sides know: no stream is opened any more. */
  private understood = false
  /** Our side of the connection is ended: nothing is said any more. */
  private ending = false
  private readonly options: MuxOptions
  private readonly limits: MuxLimits
  private readonly deadlines: Deadlines
  private readonly streams = new Map<number, MuxStream>()
  private nextId: number
  private readonly sender: Sender
  private readonly waiting = new Set<MuxStream>()
  /** The header at hand while it is not all there. */
  private readonly partial = Buffer.alloc(headerBytes)
  private partialLength = 0
  /** Of the data frame at hand: what is still to come, and whose it is (nobody's when that stream is gone). */
  private left = 0
  private current: MuxStream | undefined
  private endsCurrent = false
  /** Frames of our own in answer to the other side while it takes nothing. */
  private untaken = 0
  private heardAt: number
  private heard = true
  private pingedAt = 0
  private idleFrames = 0
  private idleSince = 0
  private unusedSince: number
  private closed = false

  constructor(socket: Duplex, options: MuxOptions) {
    this.socket = socket
    this.options = options
    this.limits = { ...defaultMuxLimits, ...options.limits }
    this.deadlines = options.deadlines ?? sharedDeadlines
    this.sender = new Sender(socket, this.limits, () => this.drained())
    this.nextId = options.role === 'client' ? 1 : 2
    this.heardAt = this.unusedSince = this.deadlines.clock.monotonicMs()
    const borrower: Duplex & Borrower = socket
    borrower.borrows = true
    socket.on('data', (chunk: Buffer) => this.read(chunk))
    socket.on('end', () => {
      // Whoever accepted has nobody to answer any more.
      this.ended(options.role === 'server')
      socket.destroy()
    })
    // `close` follows and says it all.
    socket.on('error', () => {})
    socket.on('close', () => this.ended(true))
    if (socket.destroyed) process.nextTick(() => this.ended(true))
    else this.deadlines.add(this)
  }

  /** Streams that are open. */
  get size(): number {
    return this.streams.size
  }

  /** The connection below has more unsent bytes than it should: writers wait. */
  get congested(): boolean {
    return this.sender.congested
  }

  get isClosed(): boolean {
    return this.closed
  }

  /** A new stream; undefined when this session takes no more. The other side hears of it with the first bytes. */
  open(): MuxStream | undefined {
    if (this.closed || this.leaving || this.nextId > maxStreamId || this.streams.size >= this.limits.maxStreams) return undefined
    const stream = new MuxStream(this, this.nextId, flag.syn)
    this.nextId += 2
    this.streams.set(stream.id, stream)
    return stream
  }

  /**
   * Tells the other side to open no more streams. Those that are open go on, and so do those that it opens before it hears of this: the
   * answer to the ping behind the go-away says that it has. With the last stream the session ends.
   */
  goAway(): void {
    if (this.closed || this.leaving) return
    this.leave()
    this.control(frame.goAway, 0, 0, goAway.normal)
    if (this.options.role === 'client') this.understood = true
    else this.control(frame.ping, flag.syn, 0, goAwayPing)
    this.endIfUnused()
  }

  /** Ends it at once, with every stream. */
  destroy(): void {
    this.socket.destroy()
    this.ended(true)
  }

  // What streams call.

  sendData(stream: MuxStream, data: string | Buffer, start: number, end: number): void {
    if (!this.closed) this.sender.data(this.flagsOf(stream), stream.id, data, start, end)
  }

  sendWindow(stream: MuxStream, delta: number): void {
    this.control(frame.window, this.flagsOf(stream), stream.id, delta)
  }

  sendFin(stream: MuxStream): void {
    this.control(frame.window, this.flagsOf(stream) | flag.fin, stream.id, 0)
  }

  /** A stream that the other side never heard of needs no reset. */
  reset(stream: MuxStream): void {
    if ((stream.firstFlags & flag.syn) === 0) this.control(frame.window, flag.rst, stream.id, 0)
  }

  awaitDrain(stream: MuxStream): void {
    this.waiting.add(stream)
  }

  forget(stream: MuxStream): void {
    this.waiting.delete(stream)
    if (this.current === stream) this.current = undefined
    this.streams.delete(stream.id)
    if (this.streams.size > 0) return
    this.unusedSince = this.deadlines.clock.monotonicMs()
    this.endIfUnused()
  }

  /** Pings a silent connection, gives up a dead one, and closes one that nobody uses. */
  check(nowMs: number): void {
    const { pingAfterMs, pongWithinMs, unusedMs, farewellMs } = this.limits
    const unusedFor = this.streams.size > 0 ? 0 : nowMs - this.unusedSince
    if (this.leaving && unusedFor >= farewellMs) return this.destroy()
    if (this.heard) {
      this.heard = false
      this.heardAt = nowMs
      this.pingedAt = 0
    }
    if (this.pingedAt > 0 && nowMs - this.pingedAt >= pongWithinMs) this.fail('silent')
    else if (this.pingedAt === 0 && this.streams.size > 0 && nowMs - this.heardAt >= pingAfterMs) {
      this.pingedAt = nowMs
      this.control(frame.ping, flag.syn, 0, 0)
    } else if (this.options.role === 'server' && unusedFor >= unusedMs) this.goAway()
  }

  private flagsOf(stream: MuxStream): number {
    const flags = stream.firstFlags
    stream.firstFlags = 0
    return flags
  }

  private control(type: number, flags: number, streamId: number, length: number): void {
    if (this.closed) return
    this.sender.control(type, flags, streamId, length)
    if (this.sender.congested && ++this.untaken > this.limits.maxUntakenFrames) this.fail('flood')
  }

  private drained(): void {
    this.untaken = 0
    if (this.waiting.size === 0) return
    const waiting = [...this.waiting]
    this.waiting.clear()
    for (const stream of waiting) {
      if (this.congested) this.waiting.add(stream)
      else stream.drained()
    }
  }

  private read(chunk: Buffer): void {
    this.heard = true
    const end = chunk.length
    let at = 0
    while (at < end && !this.closed) {
      if (this.left > 0) {
        const size = this.left < end - at ? this.left : end - at
        this.left -= size
        at += size
        this.current?.take(chunk, at - size, at)
        if (this.left === 0) this.frameDone()
        continue
      }
      let header = chunk
      let base = at
      if (this.partialLength > 0 || end - at < headerBytes) {
        const size = Math.min(headerBytes - this.partialLength, end - at)
        chunk.copy(this.partial, this.partialLength, at, at + size)
        this.partialLength += size
        at += size
        if (this.partialLength < headerBytes) return
        this.partialLength = 0
        header = this.partial
        base = 0
      } else at += headerBytes
      this.frame(header, base)
    }
  }

  private frame(header: Buffer, at: number): void {
    const flags = header[at + 2]! * 256 + header[at + 3]!
    const streamId = readUint32(header, at + 4)
    const length = readUint32(header, at + 8)
    if (header[at] !== 0) return this.fail('protocol')
    switch (header[at + 1]) {
      case frame.data:
        return this.dataFrame(flags, streamId, length)
      case frame.window:
        return this.windowFrame(flags, streamId, length)
      case frame.ping:
        return this.pingFrame(flags, length)
      case frame.goAway:
        return this.goneAway(length)
      default:
        return this.fail('protocol')
    }
  }

  private pingFrame(flags: number, value: number): void {
    if (!this.mayBeIdle()) return
    if ((flags & flag.syn) !== 0) this.control(frame.ping, flag.ack, 0, value)
    else if (value === goAwayPing && this.leaving) {
      this.understood = true
      this.endIfUnused()
    }
  }

  private dataFrame(flags: number, streamId: number, length: number): void {
    const resets = (flags & flag.rst) !== 0
    if ((length === 0 || resets) && !this.mayBeIdle()) return
    const stream = this.streamOf(flags, streamId)
    if (this.closed) return
    this.left = length
    this.endsCurrent = (flags & flag.fin) !== 0
    if (stream === undefined) return
    if (!stream.admit(length)) return this.fail('window exceeded')
    // It said that no more would come.
    if (length > 0 && stream.remoteEnded) return this.fail('protocol')
    if (resets) return stream.lost()
    this.current = stream
    if (length === 0) this.frameDone()
  }

  private frameDone(): void {
    const stream = this.current
    this.current = undefined
    if (this.endsCurrent) stream?.remoteEnd()
  }

  private windowFrame(flags: number, streamId: number, length: number): void {
    const resets = (flags & flag.rst) !== 0
    const stream = this.streamOf(flags, streamId)
    if ((stream === undefined || resets || length < smallWindow) && !this.mayBeIdle()) return
    if (stream === undefined) return
    if (resets) return stream.lost()
    if (length > 0 && !stream.widen(length)) return this.fail('window exceeded')
    if ((flags & flag.fin) !== 0) stream.remoteEnd()
  }

  /** The stream a frame is for, made when the frame opens it. Undefined: a late word to one that is gone, which is ordinary. */
  private streamOf(flags: number, streamId: number): MuxStream | undefined {
    const known = this.streams.get(streamId)
    if ((flags & flag.syn) === 0) return known
    const theirs = this.options.role === 'server' && streamId % 2 === 1
    if (!theirs || known !== undefined) {
      this.fail('protocol')
      return undefined
    }
    if (this.understood || this.streams.size >= this.limits.maxStreams) {
      if (this.mayBeIdle()) this.control(frame.window, flag.rst, streamId, 0)
      return undefined
    }
    const stream = new MuxStream(this, streamId, flag.ack)
    this.streams.set(streamId, stream)
    this.options.onStream!(stream)
    if (stream.destroyed) return undefined
    // Said at once: the reference implementation counts what is not acknowledged.
    if (stream.firstFlags !== 0) this.sendWindow(stream, 0)
    return stream
  }

  private goneAway(code: number): void {
    if (!this.mayBeIdle()) return
    if (code !== goAway.normal) return this.destroy()
    this.leave()
    this.understood = true
    this.options.onGoAway?.()
    this.endIfUnused()
  }

  /** What was opened before is under way, even where the other side has not heard of it: it hears of it before anything else. */
  private leave(): void {
    if (this.leaving) return
    this.leaving = true
    this.unusedSince = this.deadlines.clock.monotonicMs()
    for (const stream of this.streams.values()) if (stream.firstFlags !== 0) this.sendWindow(stream, 0)
  }

  /** Counts a frame that is of no use; too many of them are an attack. */
  private mayBeIdle(): boolean {
    const now = this.deadlines.clock.monotonicMs()
    if (now - this.idleSince > 1000) {
      this.idleSince = now
      this.idleFrames = 0
    }
    if (++this.idleFrames <= this.limits.maxIdleFramesPerSecond) return true
    this.fail('flood')
    return false
  }

  private fail(fault: MuxFault): void {
    if (this.closed || this.fault !== '') return
    this.fault = fault
    if (fault !== 'silent') {
      this.control(frame.goAway, 0, 0, goAway.protocolError)
      this.sender.flush()
    }
    this.destroy()
  }

  /** Who said go-away, or heard it, closes with the last stream; what is still on its way goes first. */
  private endIfUnused(): void {
    if (!this.understood || this.closed || this.ending || this.streams.size > 0) return
    this.ending = true
    this.sender.end()
  }

  /** `hard`: what streams still hold goes as well, because the connection broke or may no longer be used. */
  private ended(hard: boolean): void {
    if (this.closed) return
    this.closed = true
    this.deadlines.delete(this)
    this.waiting.clear()
    for (const stream of this.streams.values()) {
      if (hard) stream.gone()
      else stream.lost()
    }
    this.streams.clear()
    this.options.onClose?.()
  }
}
