/**
 * One direction of a simulated stream, as TCP under gRPC gives it: in order and whole as far as it goes, late, no further than the
 * reader's window, and held up for as long as the network between the two is severed.
 */
import type { Timeline } from './timeline.ts'

export type Piece =
  | { kind: 'message'; bytes: Buffer; taken: () => void }
  /** END_STREAM. */
  | { kind: 'end' }
  | { kind: 'status'; code: number; message: string }

/** What may be on its way and unread; one message of any size always may. */
const windowBytes = 64 * 1024

export interface PipeOptions {
  timeline: Timeline
  latencyMs: () => number
  isSevered: () => boolean
  deliver: (piece: Piece) => void
}

export class Pipe {
  readonly #options: PipeOptions
  /** Written, beyond the window. */
  #waiting: Piece[] = []
  /** On its way: pieces that arrive together. */
  #burst: { writtenMs: number; pieces: Piece[] } | undefined
  #lastArrivalMs = 0
  /** Arrived, unread. */
  #unread: Piece[] = []
  #flightBytes = 0
  #paused = false
  #broken = false
  /** Written and not yet taken. */
  waitingBytes = 0

  constructor(options: PipeOptions) {
    this.#options = options
  }

  write(piece: Piece): void {
    if (this.#broken) return
    this.#waiting.push(piece)
    this.waitingBytes += sizeOf(piece)
    this.#pump()
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    // As a stream does: not in the middle of who resumes it.
    queueMicrotask(() => this.read())
  }

  /** Nothing comes out any more. */
  break(): void {
    this.#broken = true
    this.#waiting = []
    this.#unread = []
  }

  /** Hands over what has arrived; to be called when the network is whole again, too. */
  read(): void {
    while (this.#unread.length > 0 && !this.#paused && !this.#broken && !this.#options.isSevered()) {
      const piece = this.#unread.shift()!
      this.#flightBytes -= sizeOf(piece)
      this.#options.deliver(piece)
    }
    this.#pump()
  }

  #pump(): void {
    while (!this.#broken && this.#waiting.length > 0) {
      const size = sizeOf(this.#waiting[0]!)
      if (this.#flightBytes > 0 && this.#flightBytes + size > windowBytes) return
      const piece = this.#waiting.shift()!
      this.waitingBytes -= size
      this.#flightBytes += size
      this.#depart(piece)
      if (piece.kind === 'message') queueMicrotask(piece.taken)
    }
  }

  #depart(piece: Piece): void {
    const { timeline, latencyMs } = this.#options
    const nowMs = timeline.monotonicMs()
    if (this.#burst?.writtenMs === nowMs) {
      this.#burst.pieces.push(piece)
      return
    }
    const burst = { writtenMs: nowMs, pieces: [piece] }
    this.#burst = burst
    this.#lastArrivalMs = Math.max(this.#lastArrivalMs, nowMs + latencyMs())
    timeline.after(this.#lastArrivalMs - nowMs, () => {
      if (this.#burst === burst) this.#burst = undefined
      if (this.#broken) return
      this.#unread.push(...burst.pieces)
      this.read()
    })
  }
}

function sizeOf(piece: Piece): number {
  return piece.kind === 'message' ? piece.bytes.length : 0
}
