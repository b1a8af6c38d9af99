/**
 * A connection that speaks HTTP/2 (RFC 9113), for either side. Invariants: the streams of the other side have ascending identifiers and an owner
 * from their first moment; header blocks are decoded in the order in which they came, whoever they are for; what breaks the protocol or a limit
 * ends its stream, or the session and with it every stream, and nothing that the other side says makes this side hold more than its windows.
 */
import type { Duplex } from 'node:stream'
import { Allowance } from '../../../lib/allowance.ts'
import type { Borrower } from '../../../lib/read-buffer.ts'
import { readUint32 } from '../../../lib/uint32.ts'
import { FrameReader, type FrameSink } from './frame-reader.ts'
import { FrameWriter } from './frame-writer.ts'
import { errorCode, flag, frame, initialWindow, max31, maxFrameSize, minFrameSize, readNumber31, setting } from './frames.ts'
import { HpackDecoder } from './hpack-decoder.ts'
import type { WireLimits } from './limits.ts'
import { Http2Stream, type StreamOwner } from './stream.ts'

/** A header list as it was decoded; it stays when the next one comes, but for what is read here. */
export interface Head {
  /** Flat: name, value, … in order; names in lower case, one character a byte. */
  readonly fields: string[]
  /** Names of fields that must never be put into a table (RFC 7541 7.1.3). */
  readonly sensitive: ReadonlySet<string> | undefined
  /** It had more bytes (1) or fields (2) than the limits allow; not all are there. */
  readonly tooLarge: 0 | 1 | 2
}

export interface SessionOwner {
  /** At a server: a stream of the client. Give it an owner or reset it before this returns. `end`: no body follows. */
  request?(stream: Http2Stream, head: Head, end: boolean): void
  /** How many streams the other side allows. */
  allowed?(maxStreams: number): void
  /** It takes no more streams, by a word or the end of the other side; those that it takes down with it end after this. */
  leaving?(): void
  /** A stream ended before it had an owner, by a fault of the other side. */
  faulted?(): void
  /** The session ends because of what the other side does with it. */
  flooded?(): void
  /** Once; every stream is gone. */
  closed(): void
}

/** Streams that we reset last: the other side may have more on its way for them. */
const remembered = 1024

export class Http2Session implements FrameSink {
  readonly socket: Duplex
  readonly streamWindow: number
  readonly streams = new Map<number, Http2Stream>()
  /** No new streams: either side said so. */
  closing = false
  isClosed = false
  /** The other side's preface came whole. */
  started = false
  /** Bytes of all streams that wait for a window. */
  unsent = 0
  private readonly role: 'client' | 'server'
  private readonly owner: SessionOwner
  private readonly limits: WireLimits
  private readonly reader: FrameReader
  private readonly writer: FrameWriter
  private readonly decoder = new HpackDecoder(4096)
  private readonly idle: Allowance
  /** The next stream of ours, the last one of theirs, and the last one of theirs that was taken. */
  private nextId = 1
  private lastId = 0
  private lastTaken = 0
  private readonly resets = new Set<number>()
  /** Streams that have bytes and a window for them, in the order of their turns. */
  private readonly waiting = new Set<Http2Stream>()
  private pumping = false
  /** What may be sent and what may come, on all streams together. */
  private sendWindow = initialWindow
  private receiveWindow: number
  private held = 0
  private peerStreamWindow = initialWindow
  private readonly pings: (() => void)[] = []
  /** The stream that the DATA frame at hand is for, unless that is gone, and whether its body ends with it. */
  private current: Http2Stream | undefined
  private endsCurrent = false
  /** The header block at hand while more of it is to come. */
  private block: Buffer[] | undefined
  private blockBytes = 0
  private blockStream = 0
  private blockEnds = false

  constructor(socket: Duplex, role: 'client' | 'server', limits: WireLimits, owner: SessionOwner) {
    this.socket = socket
    this.role = role
    this.owner = owner
    this.limits = limits
    this.streamWindow = limits.streamWindowBytes
    this.receiveWindow = limits.connectionWindowBytes
    this.idle = new Allowance(limits.idleFrameBurst, limits.idleFramesPerSecond)
    this.writer = new FrameWriter(socket, limits, () => this.pump())
    this.reader = new FrameReader(this, role === 'server')
    const borrower: Duplex & Borrower = socket
    borrower.borrows = true
    socket.on('data', (chunk: Buffer) => this.read(chunk))
    socket.on('end', () => {
      this.gone()
      socket.destroy()
    })
    // `close` follows and says it all.
    socket.on('error', () => {})
    socket.on('close', () => this.gone())
    if (role === 'client') this.writer.preface()
    this.writer.settings([
      role === 'client' ? [setting.enablePush, 0] : [setting.maxConcurrentStreams, limits.maxConcurrentStreams],
      [setting.initialWindowSize, this.streamWindow],
      [setting.maxHeaderListSize, limits.headerListBytes],
    ])
    this.sendWindowUpdate(0, limits.connectionWindowBytes - initialWindow)
    if (socket.destroyed) process.nextTick(() => this.gone())
  }

  /** What a client asks; undefined when this session takes no more streams. */
  request(
    fields: readonly string[],
    sensitive: ReadonlySet<string> | undefined,
    end: boolean,
    owner: StreamOwner,
  ): Http2Stream | undefined {
    if (this.closing || this.nextId > max31) return undefined
    const stream = this.add(this.nextId)
    this.nextId += 2
    stream.owner = owner
    this.idle.earn()
    stream.sendHeaders(fields, sensitive, end)
    return stream
  }

  /** Tells the other side to open no more streams; those that it opens before it hears of that are still taken. */
  goaway(): void {
    this.control(frame.goaway, 0, 0, max31, errorCode.noError)
  }

  /** Takes no more streams and ends with the last one. */
  close(): void {
    if (this.closing || this.isClosed) return
    this.leave()
    this.endIfUnused()
  }

  /**
   * Ends at once, with every stream, and says why. What the other side still sends is read to nowhere for a while, because a connection
   * that is closed on unread bytes takes back what it said last.
   */
  destroy(code: number): void {
    if (this.isClosed) return
    const { socket } = this
    this.writer.control(frame.goaway, 0, 0, this.lastTaken, code)
    this.writer.end()
    this.gone()
    setTimeout(() => socket.destroy(), this.limits.lingerMs).unref()
  }

  /** Asks whether the other side is there. */
  ping(answered: () => void): void {
    this.pings.push(answered)
    this.control(frame.ping, 0, 0, 0, 0)
  }

  // What streams call.

  /** Bytes that the other side has not taken. */
  get backlog(): number {
    return this.unsent + this.writer.pending
  }

  /** What all streams together may send now. */
  get sendRoom(): number {
    return this.writer.congested ? 0 : this.sendWindow
  }

  sendHeaders(stream: Http2Stream, fields: readonly string[], sensitive: ReadonlySet<string> | undefined, end: boolean): void {
    if (this.isClosed) return
    this.writer.headers(stream.id, fields, sensitive, end)
    if (this.writer.pending > this.limits.untakenBytes) this.calm()
  }

  sendData(stream: Http2Stream, bytes: Buffer, start: number, end: number, last: boolean): void {
    if (this.isClosed) return
    this.sendWindow -= end - start
    this.idle.earn()
    this.writer.data(stream.id, bytes, start, end, last)
  }

  sendReset(stream: Http2Stream, code: number): void {
    this.control(frame.rstStream, 0, stream.id, code)
    this.resets.add(stream.id)
    if (this.resets.size > remembered) this.resets.delete(this.resets.values().next().value!)
  }

  sendWindowUpdate(streamId: number, delta: number): void {
    this.control(frame.windowUpdate, 0, streamId, delta)
  }

  /** Bytes that came on any stream are held no more. */
  consumed(length: number): void {
    this.held -= length
    this.grant()
  }

  awaitRoom(stream: Http2Stream): void {
    this.waiting.add(stream)
    if (this.sendRoom > 0) this.pump()
  }

  forget(stream: Http2Stream): void {
    this.waiting.delete(stream)
    if (this.current === stream) this.current = undefined
    this.streams.delete(stream.id)
    this.endIfUnused()
  }

  /** Bytes of the other side, valid until this returns. */
  read(chunk: Buffer): void {
    this.reader.read(chunk)
  }

  // What the reader calls.

  dataBegins(streamId: number, length: number, flags: number): void {
    if (this.misplaced(frame.data) || this.isIdle(streamId)) return this.destroy(errorCode.protocolError)
    this.receiveWindow -= length
    if (this.receiveWindow < 0) return this.destroy(errorCode.flowControlError)
    this.held += length
    this.grant()
    this.endsCurrent = (flags & flag.endStream) !== 0
    this.current = undefined
    const stream = this.streams.get(streamId)
    if (stream === undefined) {
      if (this.expectsLate(streamId)) return
      this.control(frame.rstStream, 0, streamId, errorCode.streamClosed)
      this.idled()
    } else if (stream.remoteEnded) stream.fault(errorCode.streamClosed)
    else if (!stream.admit(length)) stream.fault(errorCode.flowControlError)
    else {
      this.current = stream
      if (length > 0 && (flags & flag.padded) === 0) this.idle.earn()
    }
  }

  dataPadding(length: number): void {
    if (this.current === undefined) this.consumed(length)
    else this.current.skipped(length)
  }

  dataPart(bytes: Buffer, last: boolean): void {
    const { current } = this
    const ends = last && this.endsCurrent
    if (last) this.current = undefined
    if (bytes.length === 0 && !ends) this.idled()
    else if (current === undefined) this.consumed(bytes.length)
    else current.take(bytes, ends)
  }

  /** SETTINGS come first, and nothing comes between the parts of a header block. */
  private misplaced(type: number, streamId = 0): boolean {
    if (this.block !== undefined) return type !== frame.continuation || streamId !== this.blockStream
    return !this.started && type !== frame.settings
  }

  frameIn(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void {
    if (this.misplaced(type, streamId)) return this.destroy(errorCode.protocolError)
    const length = end - start
    switch (type) {
      case frame.headers:
        return this.headersFrame(bytes, start, end, flags, streamId)
      case frame.continuation:
        return this.continuationFrame(bytes, start, end, flags)
      case frame.windowUpdate:
        return this.windowUpdateFrame(bytes, start, length, streamId)
      case frame.rstStream:
        return this.resetFrame(bytes, start, length, streamId)
      case frame.settings:
        return this.settingsFrame(bytes, start, length, flags, streamId)
      case frame.ping:
        return this.pingFrame(bytes, start, length, flags, streamId)
      case frame.goaway:
        return this.goawayFrame(bytes, start, length, streamId)
      case frame.priority:
        if (length !== 5) return this.destroy(errorCode.frameSizeError)
        if (streamId === 0 || readNumber31(bytes, start) === streamId) return this.destroy(errorCode.protocolError)
        return void this.idled()
      case frame.pushPromise:
        return this.destroy(errorCode.protocolError)
      default:
        return void this.idled()
    }
  }

  private headersFrame(bytes: Buffer, from: number, to: number, flags: number, streamId: number): void {
    let start = from
    let end = to
    if ((flags & flag.padded) !== 0) {
      if (start >= end) return this.destroy(errorCode.frameSizeError)
      end -= bytes[start]!
      start += 1
    }
    if ((flags & flag.priority) !== 0) {
      if (end - start >= 5 && readNumber31(bytes, start) === streamId) return this.destroy(errorCode.protocolError)
      start += 5
    }
    // A server has nothing to say on streams that were never opened, nor a client on such as only a server may open.
    const isOpening = this.role === 'server' && streamId > this.lastId && streamId % 2 === 1
    if (start > end || (!isOpening && this.isIdle(streamId))) return this.destroy(errorCode.protocolError)
    this.blockStream = streamId
    this.blockEnds = (flags & flag.endStream) !== 0
    if ((flags & flag.endHeaders) !== 0) return this.blockIn(bytes, start, end)
    this.blockBytes = end - start
    this.block = [Buffer.from(bytes.subarray(start, end))]
  }

  private continuationFrame(bytes: Buffer, start: number, end: number, flags: number): void {
    const { block, limits } = this
    if (block === undefined) return this.destroy(errorCode.protocolError)
    this.blockBytes += end - start
    if (this.blockBytes > limits.headerBlockBytes || block.length > limits.continuations) return this.calm()
    block.push(Buffer.from(bytes.subarray(start, end)))
    if ((flags & flag.endHeaders) === 0) return
    this.block = undefined
    this.blockIn(Buffer.concat(block), 0, this.blockBytes)
  }

  /** A whole header block: decoded whoever it is for, because the next one builds on it. */
  private blockIn(bytes: Buffer, start: number, end: number): void {
    const { decoder, blockStream: streamId, blockEnds: ends } = this
    if (!decoder.decode(bytes, start, end, this.limits)) return this.destroy(errorCode.compressionError)
    const known = this.streams.get(streamId)
    if (known !== undefined) {
      if (known.remoteEnded) known.fault(errorCode.streamClosed)
      else if (decoder.malformed || (this.role === 'server' && !ends)) known.fault(errorCode.protocolError)
      else if (decoder.tooLarge !== 0) known.fault(errorCode.enhanceYourCalm)
      else known.takeHeaders(decoder, ends)
      return
    }
    if (this.role === 'client' || streamId <= this.lastId) {
      if (this.expectsLate(streamId)) this.idled()
      else this.destroy(errorCode.streamClosed)
      return
    }
    this.lastId = streamId
    if (this.closing) return void this.idled()
    this.lastTaken = streamId
    this.idle.earn()
    const stream = this.add(streamId)
    stream.remoteEnded = ends
    if (!decoder.malformed) return this.owner.request!(stream, decoder, ends)
    stream.fault(errorCode.protocolError)
    this.owner.faulted?.()
  }

  private windowUpdateFrame(bytes: Buffer, start: number, length: number, streamId: number): void {
    if (length !== 4) return this.destroy(errorCode.frameSizeError)
    const delta = readNumber31(bytes, start)
    if (streamId === 0) {
      this.sendWindow += delta
      if (delta === 0) this.destroy(errorCode.protocolError)
      else if (this.sendWindow > max31) this.destroy(errorCode.flowControlError)
      else this.pump()
      return
    }
    if (this.isIdle(streamId)) return this.destroy(errorCode.protocolError)
    const stream = this.streams.get(streamId)
    if (stream === undefined) this.idled()
    else if (delta === 0) stream.fault(errorCode.protocolError)
    else if (!stream.widen(delta)) stream.fault(errorCode.flowControlError)
  }

  private resetFrame(bytes: Buffer, start: number, length: number, streamId: number): void {
    if (length !== 4) return this.destroy(errorCode.frameSizeError)
    if (this.isIdle(streamId)) return this.destroy(errorCode.protocolError)
    const stream = this.streams.get(streamId)
    if (stream === undefined) this.idled()
    else stream.close(readUint32(bytes, start), 'peer')
  }

  private settingsFrame(bytes: Buffer, start: number, length: number, flags: number, streamId: number): void {
    if (streamId !== 0) return this.destroy(errorCode.protocolError)
    if (length % 6 !== 0 || ((flags & flag.ack) !== 0 && length > 0)) return this.destroy(errorCode.frameSizeError)
    if (!this.idled()) return
    if ((flags & flag.ack) !== 0) {
      if (!this.started) this.destroy(errorCode.protocolError)
      return
    }
    if (length > 6 * this.limits.settingsParameters) return this.calm()
    let maxStreams = this.started ? undefined : Infinity
    this.started = true
    // What a larger window lets go leaves behind the acknowledgement: before it, the other side counts with the smaller one.
    this.pumping = true
    for (let at = start; at < start + length && !this.isClosed; at += 6) {
      const id = bytes[at]! * 256 + bytes[at + 1]!
      const value = readUint32(bytes, at + 2)
      if (id === setting.maxConcurrentStreams) maxStreams = value
      else this.parameter(id, value)
    }
    this.pumping = false
    if (this.isClosed) return
    this.control(frame.settings, flag.ack, 0)
    if (maxStreams !== undefined) this.owner.allowed?.(maxStreams)
    this.pump()
  }

  private parameter(id: number, value: number): void {
    const { writer } = this
    if (id === setting.headerTableSize) writer.encoder.setTableBytes(value)
    else if (id === setting.enablePush && (value > 1 || (value === 1 && this.role === 'client'))) this.destroy(errorCode.protocolError)
    else if (id === setting.initialWindowSize) {
      if (value > max31) return this.destroy(errorCode.flowControlError)
      const delta = value - this.peerStreamWindow
      this.peerStreamWindow = value
      for (const stream of this.streams.values()) if (!stream.widen(delta)) return this.destroy(errorCode.flowControlError)
    } else if (id === setting.maxFrameSize) {
      if (value < minFrameSize || value > maxFrameSize) this.destroy(errorCode.protocolError)
    }
  }

  private pingFrame(bytes: Buffer, start: number, length: number, flags: number, streamId: number): void {
    if (streamId !== 0) return this.destroy(errorCode.protocolError)
    if (length !== 8) return this.destroy(errorCode.frameSizeError)
    if ((flags & flag.ack) !== 0) {
      const answered = this.pings.shift()
      if (answered === undefined) this.idled()
      else answered()
    } else if (this.idled()) this.control(frame.ping, flag.ack, 0, readUint32(bytes, start), readUint32(bytes, start + 4))
  }

  private goawayFrame(bytes: Buffer, start: number, length: number, streamId: number): void {
    if (streamId !== 0) return this.destroy(errorCode.protocolError)
    if (length < 8) return this.destroy(errorCode.frameSizeError)
    const last = readNumber31(bytes, start)
    if (!this.idled()) return
    if (!this.closing) {
      this.leave()
      this.owner.leaving?.()
    }
    // Nobody looked at these.
    if (this.role === 'client')
      for (const stream of this.streams.values()) if (stream.id > last) stream.close(errorCode.refusedStream, 'peer')
    this.endIfUnused()
  }

  private add(id: number): Http2Stream {
    const stream = new Http2Stream(this, id, this.peerStreamWindow, this.streamWindow)
    this.streams.set(id, stream)
    return stream
  }

  /** Nobody has opened it. */
  private isIdle(id: number): boolean {
    if (id % 2 === 0) return true
    return this.role === 'server' ? id > this.lastId : id >= this.nextId
  }

  /** What was on its way when the stream ended here is ordinary. */
  private expectsLate(id: number): boolean {
    return this.role === 'client' || this.closing || this.resets.has(id)
  }

  /** What came on all streams may come again as long as not too much is held: each stream has a window of its own. */
  private grant(): void {
    const { connectionWindowBytes, heldBytes } = this.limits
    const taken = connectionWindowBytes - this.receiveWindow
    if (taken < connectionWindowBytes / 2 || this.held > heldBytes) return
    this.receiveWindow += taken
    this.sendWindowUpdate(0, taken)
  }

  /** A frame of our own that carries nothing of a message. */
  private control(type: number, flags: number, streamId: number, ...numbers: number[]): void {
    if (this.isClosed) return
    this.writer.control(type, flags, streamId, ...numbers)
    if (this.writer.pending > this.limits.untakenBytes) this.calm()
  }

  /** Each that waits sends a frame in its turn, as long as there is room. */
  private pump(): void {
    if (this.pumping) return
    this.pumping = true
    while (this.waiting.size > 0 && this.sendRoom > 0 && !this.isClosed) {
      for (const stream of this.waiting) {
        this.waiting.delete(stream)
        if (stream.pump()) this.waiting.add(stream)
        break
      }
    }
    this.pumping = false
  }

  private leave(): void {
    if (this.closing) return
    this.closing = true
    this.control(frame.goaway, 0, 0, this.lastTaken, errorCode.noError)
  }

  /** What is still on its way goes first. */
  private endIfUnused(): void {
    if (this.closing && this.streams.size === 0 && !this.isClosed) this.writer.end()
  }

  /** A frame that does nothing for a request; too many of them are an attack. False: the session has ended. */
  private idled(): boolean {
    if (this.idle.take(performance.now())) return true
    this.calm()
    return false
  }

  private calm(): void {
    if (this.isClosed) return
    this.owner.flooded?.()
    this.destroy(errorCode.enhanceYourCalm)
  }

  private gone(): void {
    if (this.isClosed) return
    const { closing } = this
    this.isClosed = this.closing = true
    if (!closing) this.owner.leaving?.()
    this.waiting.clear()
    this.block = undefined
    for (const stream of this.streams.values()) stream.close(errorCode.cancel, 'session')
    this.owner.closed()
  }
}
