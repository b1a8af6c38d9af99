/**
 * Bytes that wait for more: part of a head, trailers, or a pipelined request. Grows by doubling, so that a sender of single bytes
 * costs no more than any other. What `bytes` gave out may still be in flight elsewhere, so `clear` lets go of the memory
 * and never reuses it.
 */

const empty = Buffer.alloc(0)

export class Pending {
  length = 0
  private buffer: Buffer = empty

  append(source: Buffer, from: number, to: number): void {
    const needed = this.length + to - from
    if (needed > this.buffer.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(needed, this.buffer.length * 2, 512))
      this.buffer.copy(grown, 0, 0, this.length)
      this.buffer = grown
    }
    source.copy(this.buffer, this.length, from, to)
    this.length = needed
  }

  /** All of it, without a copy. */
  bytes(): Buffer {
    return this.buffer.subarray(0, this.length)
  }

  clear(): void {
    this.length = 0
    this.buffer = empty
  }
}
