/**
 * Reads the body of one message by its framing (RFC 9112 6, 7) and says which stretches of the bytes at hand go on; nothing is copied.
 * Invariant: only bytes that were checked are ever in a stretch, and nothing after the end of the message is.
 *
 * A chunked body is read `framed` (stretches keep the chunk framing, less extensions, so that they can be sent on as they are)
 * or decoded (stretches are data alone, for a receiver of HTTP/1.0).
 */
import { CR, hexByte, LF, valueEnd } from './chars.ts'
import type { Framing } from './head.ts'
import type { Http1Limits } from './limits.ts'
import { bad } from './refusals.ts'
import { Trailers } from './trailers.ts'

const sizeState = 0
const extensionState = 1
const sizeLfState = 2
const dataState = 3
const dataCrState = 4
const dataLfState = 5
const trailerState = 6
const sizeCrState = 7

/** More hexadecimal digits could pass 2^53. */
const sizeDigits = 13

export class BodyReader {
  /** The stretch that the last `read` found; empty when `from` is `to`. */
  from = 0
  to = 0
  /** The message is complete. */
  done = true
  /** Trailer lines and blank line to send once the message is complete, in framed reading; '' when they are in a stretch or there are none. */
  trailer = ''
  private kind: Framing = 'none'
  private framed = true
  /** Of the body (length) or of the chunk at hand. */
  private remaining = 0
  private state = sizeState
  private size = 0
  private digits = 0
  private extensionBytes = 0
  private trailers: Trailers | undefined
  /** Trailer lines are being taken. */
  private collecting = false
  private readonly limits: Http1Limits

  constructor(limits: Http1Limits) {
    this.limits = limits
  }

  begin(kind: Framing, length: number, framed: boolean): void {
    this.kind = kind
    this.done = kind === 'none'
    this.remaining = kind === 'length' ? length : 0
    this.from = this.to = 0
    if (kind !== 'chunked') return
    this.framed = framed
    this.trailer = ''
    this.collecting = false
    this.state = sizeState
    this.size = this.digits = this.extensionBytes = 0
  }

  /** The chunked body's trailing lines are only sent where the framing is. */
  get closing(): string {
    return this.kind === 'chunked' && this.framed ? this.trailer : ''
  }

  /**
   * Reads from `at`; the position to go on from, or a refusal. Call again while it is before `end` and the message is not done;
   * forward the stretch after each call.
   */
  read(buffer: Buffer, at: number, end: number): number {
    if (this.kind === 'length') {
      const left = end - at
      const take = this.remaining < left ? this.remaining : left
      this.remaining -= take
      this.done = this.remaining === 0
      this.from = at
      return (this.to = at + take)
    }
    if (this.kind === 'chunked') return this.chunked(buffer, at, end)
    this.from = at
    return (this.to = this.kind === 'until-close' ? end : at)
  }

  /** The end of an until-close body. */
  finish(): void {
    if (this.kind === 'until-close') this.done = true
  }

  private chunked(buffer: Buffer, start: number, end: number): number {
    let at = start
    this.from = this.to = at
    while (at < end) {
      if (this.state === dataState) {
        const left = end - at
        const take = this.remaining < left ? this.remaining : left
        this.remaining -= take
        if (this.remaining === 0) this.state = dataCrState
        if (!this.framed) {
          this.from = at
          return (this.to = at + take)
        }
        at += take
      } else if (this.state === trailerState) {
        if (this.framed) this.to = at
        return this.ending(buffer, at, end)
      } else {
        const before = this.state
        at = this.framing(buffer, at, end)
        if (at < 0) return at
        if (!this.framed) continue
        if (before === extensionState) this.from = this.to = at
        else if (this.state === extensionState) return (this.to = at)
      }
    }
    if (this.framed) this.to = at
    else this.from = this.to = at
    return at
  }

  /** One step through what is around the data. */
  private framing(buffer: Buffer, start: number, end: number): number {
    let at = start
    const byte = buffer[at]!
    switch (this.state) {
      case sizeState: {
        let digit = hexByte[byte]!
        while (digit !== 0) {
          if (++this.digits > sizeDigits) return bad.chunkSize
          this.size = this.size * 16 + digit - 1
          if (++at === end) return at
          digit = hexByte[buffer[at]!]!
        }
        if (this.digits === 0) return bad.chunkSize
        if (buffer[at] === CR) {
          this.state = sizeLfState
          return at + 1
        }
        if (buffer[at] !== 59) return bad.chunkSize
        this.state = extensionState
        return at
      }
      case extensionState: {
        at = valueEnd(buffer, at, end)
        this.extensionBytes += at - start
        if (this.extensionBytes > this.limits.chunkExtensionBytes) return bad.chunkExtension
        if (at === end) return at
        if (buffer[at] !== CR) return bad.chunkExtension
        // The carriage return is left for the next stretch.
        this.state = sizeCrState
        return at
      }
      case sizeCrState:
        this.state = sizeLfState
        return at + 1
      case sizeLfState:
        if (byte !== LF) return bad.bareCr
        this.remaining = this.size
        this.state = this.size === 0 ? trailerState : dataState
        this.size = this.digits = 0
        return at + 1
      case dataCrState:
        if (byte !== CR) return bad.chunkEnd
        this.state = dataLfState
        return at + 1
      default:
        if (byte !== LF) return bad.chunkEnd
        this.state = sizeState
        return at + 1
    }
  }

  /** After the last chunk: usually the blank line alone, which then belongs to the stretch. */
  private ending(buffer: Buffer, at: number, end: number): number {
    if (!this.collecting && buffer[at] === CR && at + 1 < end && buffer[at + 1] === LF) {
      this.done = true
      if (this.framed) this.to = at + 2
      return at + 2
    }
    if (!this.collecting) {
      this.trailers ??= new Trailers(this.limits)
      this.trailers.begin()
      this.collecting = true
    }
    const after = this.trailers!.take(buffer, at, end)
    if (after >= 0 && this.trailers!.complete) {
      this.done = true
      this.trailer = this.trailers!.forwarded()
    }
    return after
  }
}
