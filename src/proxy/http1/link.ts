/**
 * The listeners on one upstream stream, attached once for its life. A pooled stream changes its owner with each request; an idle one has
 * none, and whatever arrives then (a late or unasked-for response) destroys it, so that it can never answer somebody else.
 */
import type { ByteStream } from '../../lib/byte-stream.ts'
import type { Borrower } from '../../lib/read-buffer.ts'
import { TurnWriter } from '../../lib/turn-writer.ts'

export interface UpstreamOwner {
  upstreamData(chunk: Buffer): void
  upstreamEnd(): void
  upstreamClosed(): void
  upstreamDrain(): void
}

const slot = Symbol('isthmus.http1.link')

export class Link {
  /** For bodies; text and heads go to the stream itself. */
  readonly writer: TurnWriter
  owner: UpstreamOwner | undefined
  /** The upstream has ended its side. */
  ended = false

  private constructor(stream: ByteStream) {
    this.ended = stream.readableEnded
    this.writer = new TurnWriter(stream)
    const borrower: ByteStream & Borrower = stream
    borrower.borrows = true
    stream.on('data', (chunk: Buffer) => {
      if (this.owner === undefined) stream.destroy()
      else this.owner.upstreamData(chunk)
    })
    stream.on('end', () => {
      this.ended = true
      if (this.owner === undefined) stream.destroy()
      else this.owner.upstreamEnd()
    })
    // `close` follows and says it all.
    stream.on('error', () => {})
    stream.on('close', () => {
      this.ended = true
      this.owner?.upstreamClosed()
    })
    stream.on('drain', () => this.owner?.upstreamDrain())
  }

  static of(stream: ByteStream): Link {
    const holder = stream as ByteStream & { [slot]?: Link }
    return (holder[slot] ??= new Link(stream))
  }
}
