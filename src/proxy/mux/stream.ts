/**
 * One stream of a session: a ByteStream. Invariants: no more is sent than the other side's window allows; the own window is opened
 * again only for bytes that the consumer took while it was not paused, so a slow consumer holds at most one window.
 */
import { EventEmitter } from 'node:events'
import type { ByteStream } from '../../lib/byte-stream.ts'
import { initialWindow } from './frames.ts'
import type { MuxSession } from './session.ts'

export class MuxStream extends EventEmitter implements ByteStream {
  readonly id: number
  readonly session: MuxSession
  destroyed = false
  closed = false
  readableEnded = false
  readableLength = 0
  writableNeedDrain = false
  /** The first frame of an opened stream says so, that of an accepted one acknowledges. */
  firstFlags: number
  /** What the other side may still send, and what it has been granted anew but not told. */
  private receiveWindow = initialWindow
  private taken = 0
  private sendWindow = initialWindow
  /** Waiting for a window: at most what was written before the writer heard that it must wait. */
  private unsent: Buffer[] = []
  private received: Buffer[] = []
  private paused = false
  private resuming = false
  /** The other side ended; `end` follows what is still held. */
  private remoteEnded = false
  private ending = false
  private finSent = false

  constructor(session: MuxSession, id: number, firstFlags: number) {
    super()
    this.session = session
    this.id = id
    this.firstFlags = firstFlags
  }

  get writable(): boolean {
    return !this.ending && !this.destroyed
  }

  isPaused(): boolean {
    return this.paused
  }

  pause(): this {
    this.paused = true
    return this
  }

  resume(): this {
    if (!this.paused) return this
    this.paused = false
    if (!this.resuming && (this.received.length > 0 || this.remoteEnded)) {
      this.resuming = true
      process.nextTick(() => this.deliverHeld())
    }
    return this
  }

  write(data: string | Buffer, _encoding?: 'latin1'): boolean {
    if (!this.writable) return false
    if (this.unsent.length > 0) this.unsent.push(bytesOf(data))
    else {
      const sent = this.sendWindow < data.length ? this.sendWindow : data.length
      if (sent > 0) this.session.sendData(this, data, 0, sent)
      this.sendWindow -= sent
      if (sent < data.length) this.unsent.push(bytesOf(data).subarray(sent))
    }
    if (this.unsent.length === 0 && !this.session.congested) return true
    this.session.awaitDrain(this)
    this.writableNeedDrain = true
    return false
  }

  end(done?: () => void): this {
    if (!this.ending && !this.destroyed) {
      this.ending = true
      this.sendFin()
    }
    if (done !== undefined) process.nextTick(done)
    return this
  }

  /** Frames of a turn leave together anyway. */
  cork(): void {}

  uncork(): void {}

  destroy(): this {
    if (this.destroyed) return this
    if (!this.finSent || !this.remoteEnded) this.session.reset(this)
    this.gone()
    return this
  }

  /** Bytes of the other side. */
  take(chunk: Buffer, from: number, to: number): void {
    const bytes = from === 0 && to === chunk.length ? chunk : chunk.subarray(from, to)
    if (this.paused || this.resuming || this.received.length > 0) {
      this.received.push(bytes)
      this.readableLength += bytes.length
      return
    }
    this.grant(bytes.length)
    this.emit('data', bytes)
  }

  /** A data frame of that length begins; false when it is more than its window. */
  admit(length: number): boolean {
    this.receiveWindow -= length
    return this.receiveWindow >= 0
  }

  /** The other side ended its half. */
  remoteEnd(): void {
    if (this.remoteEnded) return
    this.remoteEnded = true
    if (this.received.length === 0 && !this.paused && !this.resuming) this.emitEnd()
  }

  /** The other side granted more; false when that is more than a window can be. */
  widen(delta: number): boolean {
    this.sendWindow += delta
    if (this.sendWindow > maxWindow) return false
    const { unsent } = this
    while (unsent.length > 0 && this.sendWindow > 0) {
      const bytes = unsent[0]!
      const sent = this.sendWindow < bytes.length ? this.sendWindow : bytes.length
      this.session.sendData(this, bytes, 0, sent)
      this.sendWindow -= sent
      if (sent === bytes.length) unsent.shift()
      else unsent[0] = bytes.subarray(sent)
    }
    if (unsent.length === 0) {
      if (this.ending) this.sendFin()
      else if (!this.session.congested) this.drained()
    }
    return true
  }

  /** The connection below has room again. */
  drained(): void {
    if (!this.writableNeedDrain || this.unsent.length > 0 || this.destroyed) return
    this.writableNeedDrain = false
    this.emit('drain')
  }

  /** Without a word to the other side: it reset the stream, or the session is gone. */
  gone(): void {
    if (this.destroyed) return
    this.destroyed = true
    this.received.length = this.unsent.length = 0
    this.readableLength = 0
    this.session.forget(this)
    process.nextTick(() => {
      this.closed = true
      this.emit('close')
    })
  }

  private deliverHeld(): void {
    this.resuming = false
    while (this.received.length > 0 && !this.paused && !this.destroyed) {
      const bytes = this.received.shift()!
      this.readableLength -= bytes.length
      this.grant(bytes.length)
      this.emit('data', bytes)
    }
    if (this.remoteEnded && this.received.length === 0 && !this.paused && !this.destroyed) this.emitEnd()
  }

  private emitEnd(): void {
    if (this.readableEnded) return
    this.readableEnded = true
    this.emit('end')
    this.finished()
  }

  /** The consumer takes these bytes: half a window of them is told at once. */
  private grant(length: number): void {
    this.taken += length
    if (this.taken < initialWindow / 2) return
    this.receiveWindow += this.taken
    this.session.sendWindow(this, this.taken)
    this.taken = 0
  }

  private sendFin(): void {
    if (this.finSent || this.unsent.length > 0) return
    this.finSent = true
    this.session.sendFin(this)
    this.finished()
  }

  /** Both halves have ended. */
  private finished(): void {
    if (this.finSent && this.readableEnded) this.gone()
  }
}

/** No window may be wider (a number of 32 bits on the wire). */
const maxWindow = 0xffff_ffff

function bytesOf(data: string | Buffer): Buffer {
  return typeof data === 'string' ? Buffer.from(data, 'latin1') : data
}
