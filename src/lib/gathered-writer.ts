/**
 * The sending half of a connection that carries many streams. Frames of one turn of the event loop gather in a batch and leave as one
 * write, hence one TLS record where they fit. Where several messages left together of late, a batch waits for the next turn as long as each turn
 * brings more, because a record costs both sides more than all that is in it. Invariant: one write is under way at a time; what comes
 * meanwhile gathers in the next one, because the stream below would copy what it has to queue.
 */
import type { Duplex } from 'node:stream'
import { Batch } from './batch.ts'

export interface GatherLimits {
  /** Bytes waiting in the connection below, above which writers are told to wait. */
  maxUnsentBytes: number
  /** Bytes that leave at once, without waiting for the end of the turn. */
  flushBytes: number
}

/** When a batch waits: from so many messages a batch on, as a mean in which the last one counts an eighth; for no more than so many turns. */
const gathering = { fromMessages: 1.3, weight: 1 / 8, maxTurns: 4 } as const

export class GatheredWriter {
  /** More waits than should: writers wait for `onRoom`. */
  congested = false
  /** Bytes that the connection has not taken. */
  pending = 0
  /** Nothing is written behind the end. */
  protected ending = false
  private readonly socket: Duplex
  private readonly limits: GatherLimits
  private readonly onRoom: () => void
  /** Full ones, in order, before the one that is being filled. */
  private readonly full: Batch[] = []
  private batch: Batch | undefined
  private writing = false
  private scheduled = false
  /** Of the batch at hand: its messages, how many there were a turn ago, and the turns that it has waited. */
  private messages = 0
  private messagesBefore = 0
  private turns = 0
  /** Messages in a batch, on average. */
  private usualMessages = 1

  constructor(socket: Duplex, limits: GatherLimits, onRoom: () => void) {
    this.socket = socket
    this.limits = limits
    this.onRoom = onRoom
  }

  /** What is there leaves now. */
  flush(): void {
    if (!this.writing) this.writeNext()
  }

  /** Half-closes the connection behind what is on its way. */
  end(): void {
    if (this.ending) return
    this.ending = true
    this.flush()
  }

  /** A batch with room for so many bytes in one piece, if any batch has it. */
  protected batchFor(bytes: number): Batch {
    const { batch } = this
    if (batch !== undefined && (batch.room >= bytes || batch.length === 0)) return batch
    if (batch !== undefined) this.full.push(batch)
    return (this.batch = Batch.take())
  }

  /** So many bytes were put at the end of the batch; with them so many messages, or last parts of one, are in it. */
  protected filled(batch: Batch, bytes: number, messages: number): void {
    batch.length += bytes
    this.pending += bytes
    this.messages += messages
    if (this.pending > this.limits.maxUnsentBytes) this.congested = true
    if (batch.length >= this.limits.flushBytes) this.flush()
    else if (!this.scheduled) {
      this.scheduled = true
      setImmediate(this.flushScheduled)
    }
  }

  private readonly flushScheduled = (): void => {
    const { messages } = this
    if (this.usualMessages >= gathering.fromMessages && this.turns < gathering.maxTurns && messages > this.messagesBefore) {
      this.turns += 1
      this.messagesBefore = messages
      setImmediate(this.flushScheduled)
      return
    }
    this.scheduled = false
    this.usualMessages += (messages - this.usualMessages) * gathering.weight
    this.messages = this.messagesBefore = this.turns = 0
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
