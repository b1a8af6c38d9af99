/**
 * The sending half of a session. Frames of one turn of the event loop gather in a batch and leave as one write, hence one TLS record
 * where they fit. Where several left together of late, a batch waits for the next turn as long as each turn brings more, because a record costs
 * both sides more than all that is in it. Invariant: one write is under way at a time; what comes meanwhile gathers in the next one, because the
 * stream below would copy what it has to queue.
 */
import type { Duplex } from 'node:stream'
import { Batch } from './batch.ts'
import { frame, headerBytes, writeHeader } from './frames.ts'
import type { MuxLimits } from './limits.ts'

/** When a batch waits: from so many frames a batch on, as a mean in which the last one counts an eighth; for no more than so many turns. */
const gathering = { fromFrames: 1.3, weight: 1 / 8, maxTurns: 4 } as const

export class Sender {
  /** More waits than should: writers wait for `onRoom`. */
  congested = false
  private readonly socket: Duplex
  private readonly limits: MuxLimits
  private readonly onRoom: () => void
  /** Full ones, in order, before the one that is being filled. */
  private readonly full: Batch[] = []
  private batch: Batch | undefined
  /** Bytes that the connection has not taken. */
  private pending = 0
  private writing = false
  private scheduled = false
  /** Of the batch at hand: its frames, how many there were a turn ago, and the turns that it has waited. */
  private frames = 0
  private framesBefore = 0
  private turns = 0
  /** Frames in a batch, on average. */
  private usualFrames = 1
  private ending = false

  constructor(socket: Duplex, limits: MuxLimits, onRoom: () => void) {
    this.socket = socket
    this.limits = limits
    this.onRoom = onRoom
  }

  /** A frame without bytes behind it. */
  control(type: number, flags: number, streamId: number, length: number): void {
    if (this.ending) return
    const batch = this.batchFor(headerBytes)
    writeHeader(batch.bytes, batch.length, type, flags, streamId, length)
    this.filled(batch, headerBytes)
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
      this.filled(batch, headerBytes + size)
      at += size
    }
  }

  /** What is there leaves now. */
  flush(): void {
    if (!this.writing) this.writeNext()
  }

  /** Half-closes the connection behind what is on its way. */
  end(): void {
    if (this.ending) return
    this.ending = true
    if (!this.writing) this.writeNext()
  }

  private batchFor(bytes: number): Batch {
    const { batch } = this
    if (batch !== undefined && (batch.room >= bytes || batch.length === 0)) return batch
    if (batch !== undefined) this.full.push(batch)
    return (this.batch = Batch.take())
  }

  private filled(batch: Batch, bytes: number): void {
    batch.length += bytes
    this.pending += bytes
    this.frames += 1
    if (this.pending > this.limits.maxUnsentBytes) this.congested = true
    if (batch.length >= this.limits.flushBytes) this.flush()
    else if (!this.scheduled) {
      this.scheduled = true
      setImmediate(this.flushScheduled)
    }
  }

  private readonly flushScheduled = (): void => {
    const { frames } = this
    if (this.usualFrames >= gathering.fromFrames && this.turns < gathering.maxTurns && frames > this.framesBefore) {
      this.turns += 1
      this.framesBefore = frames
      setImmediate(this.flushScheduled)
      return
    }
    this.scheduled = false
    this.usualFrames += (frames - this.usualFrames) * gathering.weight
    this.frames = this.framesBefore = this.turns = 0
    this.flush()
  }

  private writeNext(): void {
    let batch = this.full.shift()
    if (batch === undefined) {
      batch = this.batch
      this.batch = undefined
    }
    if (batch === undefined) {
      if (this.ending) this.socket.end()
      return
    }
    this.writing = true
    this.socket.write(batch.bytes.subarray(0, batch.length), error => this.wrote(batch, error))
  }

  private wrote(batch: Batch, error: Error | null | undefined): void {
    this.writing = false
    // The connection is gone; who knows who still reads these bytes.
    if (error) return
    this.pending -= batch.length
    batch.giveBack()
    this.writeNext()
    if (!this.congested || this.pending > this.limits.maxUnsentBytes / 2) return
    this.congested = false
    this.onRoom()
  }
}

/** What `write(…, 'latin1')` ends in, without its way there: this is called for every head. */
function writeLatin1(into: Buffer, text: string, at: number): void {
  ;(into as Buffer & { latin1Write(text: string, at: number, length: number): number }).latin1Write(text, at, text.length)
}
