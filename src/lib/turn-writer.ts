/**
 * Writes the pieces of a long body. They may be borrowed: they are copied into blocks that serve again and again, since memory of its own
 * for every piece keeps the garbage collector busier than the proxy. TLS hands out records of 16 KiB one by one: what comes in one turn of
 * the event loop leaves as one write to the system. Invariant: bytes stay in order with everything else that is written to the stream.
 */
import type { ByteStream } from './byte-stream.ts'

/** Bytes that are not held back for the end of the turn, and of a block. */
const enough = 64 * 1024
/** Free blocks that are kept. */
const maxFree = 32

/** A ByteStream or a stream of Node. */
type Written = Pick<ByteStream, 'cork' | 'uncork' | 'copies' | 'writableLength'> & {
  write(data: Buffer, written?: (error?: Error | null) => void): boolean
}

/** Memory whose pieces are being written; free again when the last of them is. */
class Block {
  private static readonly free: Block[] = []
  readonly bytes = Buffer.allocUnsafeSlow(enough)
  filled = 0
  owner: TurnWriter | undefined
  private pending = 0

  static take(owner: TurnWriter): Block {
    const block = Block.free.pop() ?? new Block()
    block.owner = owner
    block.filled = 0
    return block
  }

  /** Copies what fits of the bytes from `at` on; the copy, to be written with `written`. */
  add(bytes: Buffer, at: number): Buffer {
    const from = this.filled
    this.filled += bytes.copy(this.bytes, from, at)
    this.pending += 1
    return this.bytes.subarray(from, this.filled)
  }

  readonly written = (error?: Error | null): void => {
    this.pending -= 1
    // The stream is gone; who knows who still reads these bytes.
    if (error) this.pending = Infinity
    if (this.pending > 0) return
    this.owner?.gaveUp(this)
    if (Block.free.length < maxFree) Block.free.push(this)
  }
}

export class TurnWriter {
  private readonly stream: Written
  private readonly gathers: boolean
  private block: Block | undefined
  private corked = false

  /** `gathers`: pieces wait for others of the same turn. */
  constructor(stream: Written, gathers = true) {
    this.stream = stream
    this.gathers = gathers
  }

  /** False: wait for `drain` before more. */
  write(bytes: Buffer): boolean {
    const { stream } = this
    // It gathers what it copies by itself.
    if (stream.copies === true) return stream.write(bytes)
    if (this.gathers && !this.corked && bytes.length < enough) {
      this.corked = true
      stream.cork()
      setImmediate(this.release)
    }
    let more = true
    for (let at = 0; at < bytes.length;) {
      const block = (this.block ??= Block.take(this))
      const piece = block.add(bytes, at)
      at += piece.length
      if (block.filled === enough) this.gaveUp(block)
      more = stream.write(piece, block.written)
    }
    if (this.corked && stream.writableLength >= enough) this.uncork()
    return more
  }

  /** The block is full, or free. */
  gaveUp(block: Block): void {
    block.owner = undefined
    if (this.block === block) this.block = undefined
  }

  private readonly release = (): void => {
    if (this.corked) this.uncork()
  }

  private uncork(): void {
    this.corked = false
    this.stream.uncork()
  }
}
