/**
 * What was sent of one body, as long as the request may have to go elsewhere because no app was reached. Invariant: it is all that was sent,
 * or nothing; and it is no more than the limit.
 */
import type { ByteStream } from '../../lib/byte-stream.ts'
import type { Http1Limits } from './limits.ts'

export class Replay {
  /** All that was sent is here. */
  isWhole = true
  private readonly kept: Buffer[] = []
  private bytes = 0
  private readonly limits: Http1Limits

  constructor(limits: Http1Limits) {
    this.limits = limits
  }

  /** Before each request. */
  begin(): void {
    this.isWhole = true
  }

  get isEmpty(): boolean {
    return this.kept.length === 0
  }

  /** Of a body of `length` bytes; -1 where that is not known. The bytes may be borrowed. */
  keep(buffer: Buffer, from: number, to: number, length: number): void {
    if (!this.isWhole || to === from) return
    this.bytes += to - from
    if (Math.max(this.bytes, length) > this.limits.replayBytes) this.forget()
    else this.kept.push(Buffer.from(buffer.subarray(from, to)))
  }

  /** From here on it cannot be sent again. */
  forget(): void {
    this.isWhole = false
    this.bytes = 0
    if (this.kept.length > 0) this.kept.length = 0
  }

  /** False: wait for `drain` before more. */
  send(stream: ByteStream): boolean {
    let more = true
    for (const bytes of this.kept) more = stream.write(bytes)
    return more
  }
}
