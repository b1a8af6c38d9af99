/**
 * Writes the pieces of a long body. TLS hands out records of 16 KiB one by one: what comes in one turn of the event loop leaves as one
 * write to the system, in order with everything else that is written to the stream.
 */
import type { ByteStream } from './byte-stream.ts'

/** Bytes that are not held back for the end of the turn. */
const enough = 64 * 1024

export class TurnWriter {
  private readonly stream: ByteStream
  private corked = false

  constructor(stream: ByteStream) {
    this.stream = stream
  }

  /** False: wait for `drain` before more. */
  write(bytes: Buffer): boolean {
    const { stream } = this
    // It gathers what it copies by itself.
    if (stream.copies === true) return stream.write(bytes)
    if (!this.corked) {
      if (bytes.length >= enough) return stream.write(bytes)
      this.corked = true
      stream.cork()
      setImmediate(this.release)
    }
    const more = stream.write(bytes)
    if (stream.writableLength >= enough) this.uncork()
    return more
  }

  private readonly release = (): void => {
    if (this.corked) this.uncork()
  }

  private uncork(): void {
    this.corked = false
    this.stream.uncork()
  }
}
