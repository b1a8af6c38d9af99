/** The sending half of a session: writes its frames, which leave as lib/gathered-writer.ts says. */
import { GatheredWriter } from '../../lib/gathered-writer.ts'
import { writeLatin1 } from '../../lib/latin1.ts'
import { frame, headerBytes, writeHeader } from './frames.ts'

export class Sender extends GatheredWriter {
  /** A frame without bytes behind it. */
  control(type: number, flags: number, streamId: number, length: number): void {
    if (this.ending) return
    const batch = this.batchFor(headerBytes)
    writeHeader(batch.bytes, batch.length, type, flags, streamId, length)
    this.filled(batch, headerBytes, 1)
  }

  /** The bytes [start, end), in as few frames as they fit in; `flags` are the first one's. Text is latin1. */
  data(flags: number, streamId: number, data: string | Buffer, start: number, end: number): void {
    let at = start
    while (at < end && !this.ending) {
      // Rather than being cut it goes into the next one.
      const batch = this.batchFor(headerBytes + end - at)
      const size = Math.min(end - at, batch.room - headerBytes)
      writeHeader(batch.bytes, batch.length, frame.data, at === start ? flags : 0, streamId, size)
      const into = batch.length + headerBytes
      if (typeof data === 'string') writeLatin1(batch.bytes, data.slice(at, at + size), into)
      else data.copy(batch.bytes, into, at, at + size)
      this.filled(batch, headerBytes + size, 1)
      at += size
    }
  }
}
