/** The sending half of a session: writes its frames, which leave as lib/gathered-writer.ts says. What counts as a message is the end of a stream. */
import { GatheredWriter } from '../../../lib/gathered-writer.ts'
import { writeUint32 } from '../../../lib/uint32.ts'
import { flag, frame, headerBytes, minFrameSize, preface, writeHeader } from './frames.ts'
import { HpackEncoder } from './hpack-encoder.ts'

export class FrameWriter extends GatheredWriter {
  /** The table that the other side keeps for our header lists. */
  readonly encoder = new HpackEncoder()

  preface(): void {
    const batch = this.batchFor(preface.length)
    preface.copy(batch.bytes, batch.length)
    this.filled(batch, preface.length, 0)
  }

  /** A frame with a payload of 32-bit numbers. */
  control(type: number, flags: number, streamId: number, ...numbers: number[]): void {
    if (this.ending) return
    const length = 4 * numbers.length
    const batch = this.batchFor(headerBytes + length)
    writeHeader(batch.bytes, batch.length, length, type, flags, streamId)
    for (let i = 0; i < numbers.length; i++) writeUint32(batch.bytes, batch.length + headerBytes + 4 * i, numbers[i]!)
    this.filled(batch, headerBytes + length, 0)
  }

  settings(parameters: readonly (readonly [id: number, value: number])[]): void {
    if (this.ending) return
    const length = 6 * parameters.length
    const batch = this.batchFor(headerBytes + length)
    let at = batch.length + headerBytes
    writeHeader(batch.bytes, batch.length, length, frame.settings, 0, 0)
    for (const [id, value] of parameters) {
      batch.bytes[at] = 0
      batch.bytes[at + 1] = id
      writeUint32(batch.bytes, at + 2, value)
      at += 6
    }
    this.filled(batch, headerBytes + length, 0)
  }

  /** A header list: one frame, or as many as it needs. */
  headers(streamId: number, fields: readonly string[], sensitive: ReadonlySet<string> | undefined, end: boolean): void {
    if (this.ending) return
    const endFlag = end ? flag.endStream : 0
    const bound = this.encoder.bound(fields)
    if (bound > minFrameSize) return this.longHeaders(streamId, fields, sensitive, endFlag, bound)
    const batch = this.batchFor(headerBytes + bound)
    const at = batch.length + headerBytes
    const length = this.encoder.encode(fields, sensitive, batch.bytes, at) - at
    writeHeader(batch.bytes, batch.length, length, frame.headers, flag.endHeaders | endFlag, streamId)
    this.filled(batch, headerBytes + length, endFlag)
  }

  /** Bytes [start, end) of a body, in as few frames as they fit in; `last`: the stream ends with them. */
  data(streamId: number, bytes: Buffer, start: number, end: number, last: boolean): void {
    let at = start
    do {
      if (this.ending) return
      const size = Math.min(end - at, minFrameSize)
      const endFlag = last && at + size === end ? flag.endStream : 0
      const batch = this.batchFor(headerBytes + size)
      writeHeader(batch.bytes, batch.length, size, frame.data, endFlag, streamId)
      bytes.copy(batch.bytes, batch.length + headerBytes, at, at + size)
      this.filled(batch, headerBytes + size, endFlag)
      at += size
    } while (at < end)
  }

  private longHeaders(
    streamId: number,
    fields: readonly string[],
    sensitive: ReadonlySet<string> | undefined,
    endFlag: number,
    bound: number,
  ): void {
    const block = Buffer.allocUnsafe(bound)
    const length = this.encoder.encode(fields, sensitive, block, 0)
    for (let at = 0; at === 0 || at < length;) {
      const size = Math.min(length - at, minFrameSize)
      const flags = (at === 0 ? endFlag : 0) | (at + size === length ? flag.endHeaders : 0)
      const batch = this.batchFor(headerBytes + size)
      writeHeader(batch.bytes, batch.length, size, at === 0 ? frame.headers : frame.continuation, flags, streamId)
      block.copy(batch.bytes, batch.length + headerBytes, at, at + size)
      this.filled(batch, headerBytes + size, at + size === length ? endFlag : 0)
      at += size
    }
  }
}
