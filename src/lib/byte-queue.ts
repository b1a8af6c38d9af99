/**
 * Bytes that wait, in order. What is put in is copied: a small piece must neither keep all of the read in memory that it came with, nor cost an
 * object of its own. Invariant: it holds at most twice the memory of its bytes, and two blocks.
 */

const largestBlock = 16 * 1024

export class ByteQueue {
  /** Bytes that wait. */
  length = 0
  private readonly blocks: Buffer[] = []
  /** How far the first block is taken, and the last one filled. */
  private taken = 0
  private filled = 0
  private readonly firstBlock: number

  /** Bytes of the first block; each is twice the one before it, up to 16 KiB. */
  constructor(firstBlock = 256) {
    this.firstBlock = firstBlock
  }

  push(bytes: Buffer): void {
    let at = 0
    const { length } = bytes
    this.length += length
    while (at < length) {
      let block = this.blocks.at(-1)
      if (block === undefined || this.filled === block.length) {
        const next = block === undefined ? this.firstBlock : Math.min(2 * block.length, largestBlock)
        block = Buffer.allocUnsafe(Math.max(next, Math.min(length - at, largestBlock)))
        this.blocks.push(block)
        this.filled = 0
      }
      const size = Math.min(length - at, block.length - this.filled)
      bytes.copy(block, this.filled, at, at + size)
      this.filled += size
      at += size
    }
  }

  /** The first bytes, as many as lie in one piece; empty when none wait. Nobody writes over what was given out. */
  first(): Buffer {
    const block = this.blocks[0]
    return block === undefined ? none : block.subarray(this.taken, this.blocks.length === 1 ? this.filled : block.length)
  }

  /** Takes so many bytes away; no more than `first` has. */
  drop(length: number): void {
    this.length -= length
    this.taken += length
    const block = this.blocks[0]
    if (block === undefined || (this.taken < block.length && this.length > 0)) return
    this.blocks.shift()
    this.taken = 0
  }

  /** All of them, in order, in pieces. */
  *pieces(): Generator<Buffer> {
    for (const [i, block] of this.blocks.entries())
      yield block.subarray(i === 0 ? this.taken : 0, i === this.blocks.length - 1 ? this.filled : block.length)
  }

  clear(): void {
    this.length = this.taken = this.filled = this.blocks.length = 0
  }
}

const none = Buffer.alloc(0)
