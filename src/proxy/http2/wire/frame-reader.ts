/**
 * The receiving half of a session: finds the frames in what was read. DATA is handed on as it comes, every other frame as a whole. Invariant:
 * no more than one such frame is held, and its length was checked before.
 */
import { errorCode, flag, frame, headerBytes, minFrameSize, preface, readNumber31 } from './frames.ts'

export interface FrameSink {
  /** Nothing more is read. */
  readonly isClosed: boolean
  /** A DATA frame begins; `length` is that of its payload, padding and all. */
  dataBegins(streamId: number, length: number, flags: number): void
  /** So many bytes of it are padding. */
  dataPadding(length: number): void
  /** Bytes of its body, none perhaps where it has none; valid until this returns. `last`: the frame ends with them. */
  dataPart(bytes: Buffer, last: boolean): void
  /** Any other frame; its payload is bytes[start, end), valid until this returns. */
  frameIn(type: number, flags: number, streamId: number, bytes: Buffer, start: number, end: number): void
  /** What comes is no frame: ends it, with this code. */
  destroy(code: number): void
}

const nothing = Buffer.alloc(0)

export class FrameReader {
  private readonly sink: FrameSink
  /** How much of the preface was there. */
  private prefaceAt: number
  /** The frame at hand while it is not all there: its header, and the whole of it. */
  private readonly header = Buffer.alloc(headerBytes)
  private headerLength = 0
  private whole: Buffer | undefined
  private wholeLength = 0
  /** Of the DATA frame at hand: what is still to come of its body and of its padding, and whether the length of that is to come. */
  private left = 0
  private padding = 0
  private padded = false

  /** `prefaced`: the other side begins with the preface of a client. */
  constructor(sink: FrameSink, prefaced: boolean) {
    this.sink = sink
    this.prefaceAt = prefaced ? 0 : preface.length
  }

  read(chunk: Buffer): void {
    const { sink } = this
    const end = chunk.length
    let at = 0
    while (at < end && !sink.isClosed) {
      if (this.left > 0 || this.padding > 0) at = this.readData(chunk, at)
      else if (this.prefaceAt < preface.length) at = this.readPreface(chunk, at)
      else if (this.whole !== undefined) at = this.readRest(this.whole, chunk, at)
      else at = this.readFrame(chunk, at)
    }
  }

  private readPreface(chunk: Buffer, at: number): number {
    const size = Math.min(preface.length - this.prefaceAt, chunk.length - at)
    if (preface.compare(chunk, at, at + size, this.prefaceAt, this.prefaceAt + size) !== 0) this.sink.destroy(errorCode.protocolError)
    this.prefaceAt += size
    return at + size
  }

  /** What the chunk has of the DATA frame at hand. */
  private readData(chunk: Buffer, at: number): number {
    if (this.padded) {
      this.readPadLength(chunk[at]!)
      return at + 1
    }
    const there = chunk.length - at
    if (this.left === 0) {
      const size = Math.min(this.padding, there)
      this.padding -= size
      return at + size
    }
    const size = Math.min(this.left, there)
    this.left -= size
    this.sink.dataPart(chunk.subarray(at, at + size), this.left === 0)
    return at + size
  }

  private readPadLength(length: number): void {
    this.padded = false
    this.left -= 1 + length
    this.padding = length
    if (this.left < 0) return this.sink.destroy(errorCode.protocolError)
    this.sink.dataPadding(1 + length)
    if (this.left === 0) this.sink.dataPart(nothing, true)
  }

  private readFrame(chunk: Buffer, start: number): number {
    let at = start
    let header = chunk
    let base = at
    if (this.headerLength > 0 || chunk.length - at < headerBytes) {
      const size = Math.min(headerBytes - this.headerLength, chunk.length - at)
      chunk.copy(this.header, this.headerLength, at, at + size)
      this.headerLength += size
      at += size
      if (this.headerLength < headerBytes) return at
      this.headerLength = 0
      header = this.header
      base = 0
    } else at += headerBytes
    const length = (header[base]! << 16) | (header[base + 1]! << 8) | header[base + 2]!
    if (length > minFrameSize) this.sink.destroy(errorCode.frameSizeError)
    else if (header[base + 3] === frame.data) this.beginData(readNumber31(header, base + 5), length, header[base + 4]!)
    else if (length === 0 || (header === chunk && chunk.length - at >= length)) {
      this.handOn(header, base, length)
      return at + length
    } else {
      this.whole = Buffer.allocUnsafe(headerBytes + length)
      this.wholeLength = headerBytes
      header.copy(this.whole, 0, base, base + headerBytes)
    }
    return at
  }

  private beginData(streamId: number, length: number, flags: number): void {
    this.padded = (flags & flag.padded) !== 0
    if (this.padded && length === 0) return this.sink.destroy(errorCode.frameSizeError)
    this.left = length
    this.sink.dataBegins(streamId, length, flags)
    if (length === 0) this.sink.dataPart(nothing, true)
  }

  private readRest(whole: Buffer, chunk: Buffer, at: number): number {
    const size = Math.min(whole.length - this.wholeLength, chunk.length - at)
    chunk.copy(whole, this.wholeLength, at, at + size)
    this.wholeLength += size
    if (this.wholeLength === whole.length) {
      this.whole = undefined
      this.handOn(whole, 0, whole.length - headerBytes)
    }
    return at + size
  }

  private handOn(bytes: Buffer, at: number, length: number): void {
    const start = at + headerBytes
    this.sink.frameIn(bytes[at + 3]!, bytes[at + 4]!, readNumber31(bytes, at + 5), bytes, start, start + length)
  }
}
