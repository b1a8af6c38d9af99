/**
 * What was sent of one body, as long as the request may have to go elsewhere because no app was reached. Invariant: it is all that was sent,
 * or nothing; and it is no more than the limit.
 */
import type { ByteStream } from '../../lib/byte-stream.ts'
import type { Http1Limits } from './limits.ts'
import { Pending } from './pending.ts'

export class Replay {
  /** All that was sent is here. */
  isWhole = true
  /** Mostly all; what follows is put together, so that a body in single bytes costs no more than any other. */
  private first: Buffer | undefined
  private readonly rest = new Pending()
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
    return this.first === undefined
  }

  /** Of a body of `length` bytes; -1 where that is not known. The bytes may be borrowed. */
  keep(buffer: Buffer, from: number, to: number, length: number): void {
    if (!this.isWhole || to === from) return
    this.bytes += to - from
    if (Math.max(this.bytes, length) > this.limits.replayBytes) this.forget()
    else if (this.first === undefined) this.first = Buffer.from(buffer.subarray(from, to))
    else this.rest.append(buffer, from, to)
  }

  /** From here on it cannot be sent again. */
  forget(): void {
    this.isWhole = false
    this.bytes = 0
    this.first = undefined
    if (this.rest.length > 0) this.rest.clear()
  }

  /** False: wait for `drain` before more. */
  send(stream: ByteStream): boolean {
    const more = this.first === undefined || stream.write(this.first)
    return this.rest.length > 0 ? stream.write(this.rest.bytes()) : more
  }
}
