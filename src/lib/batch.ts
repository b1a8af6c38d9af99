/**
 * Frames that leave together: one buffer, filled during a turn of the event loop and given to the connection as one write, hence one
 * TLS record where they fit. Buffers are lent by a pool and given back when the connection has taken their bytes, so a session that is
 * silent holds none.
 */

/** More than any `flushBytes` by what some frames of a turn need. */
const size = 272 * 1024
/** Free buffers that are kept for the next turn. */
const maxFree = 32

const free: Buffer[] = []

export class Batch {
  /** Bytes filled. */
  length = 0
  readonly bytes: Buffer

  private constructor(bytes: Buffer) {
    this.bytes = bytes
  }

  static take(): Batch {
    return new Batch(free.pop() ?? Buffer.allocUnsafeSlow(size))
  }

  get room(): number {
    return size - this.length
  }

  /** Its bytes were taken: nobody reads them any more. */
  giveBack(): void {
    if (free.length < maxFree) free.push(this.bytes)
  }
}
