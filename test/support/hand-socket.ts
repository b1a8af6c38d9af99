/** A connection in a test's hand. */
import { Duplex } from 'node:stream'
import { settle } from './fake-clock.ts'

/** The connection below, in a test's hand: what is written is copied at once, as the kernel would, and taken only when the test says so. */
export class HandSocket extends Duplex {
  written: Buffer[] = []
  /** Writes are not finished while it is set. */
  blocked = false
  #waiting: (() => void) | undefined

  constructor() {
    super({ allowHalfOpen: true, writableHighWaterMark: 16 * 1024 })
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.written.push(Buffer.from(chunk))
    if (this.blocked) this.#waiting = done
    else done()
  }

  /** What the other side says, in one read each. */
  async hear(...chunks: readonly Buffer[]): Promise<void> {
    for (const chunk of chunks) {
      this.push(Buffer.from(chunk))
      await settle()
    }
  }

  unblock(): void {
    this.blocked = false
    const waiting = this.#waiting
    this.#waiting = undefined
    waiting?.()
  }
}
