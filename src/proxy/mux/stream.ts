/**
 * One stream of a session: a ByteStream. Invariants: no more is sent than the other side's window allows; the own window is opened
 * again only for bytes that the consumer took while it was not paused, so a slow consumer holds at most one window.
 */
import { EventEmitter } from 'node:events'
import { ByteQueue } from '../../lib/byte-queue.ts'
import type { ByteStream } from '../../lib/byte-stream.ts'
import { readBuffer } from '../../lib/read-buffer.ts'
import { initialWindow } from './frames.ts'
import type { MuxSession } from './session.ts'

export class MuxStream extends EventEmitter implements ByteStream {
  readonly id: number
  readonly session: MuxSession
  readonly copies = true
  destroyed = false
  closed = false
  readableEnded = false
  writableNeedDrain = false
  /** The first frame of an opened stream says so, that of an accepted one acknowledges. */
  firstFlags: number
  /** What the other side may still send, and what it has been granted anew but not told. */
  private receiveWindow = initialWindow
  private taken = 0
  private sendWindow = initialWindow
  /** Waiting for a window: at most what was written before the writer heard that it must wait. */
  private readonly unsent = new ByteQueue()
  private readonly received = new ByteQueue(heldBlock)
  private paused = false
  private resuming = false
  /** The other side ended; `end` follows what is still held. */
  remoteEnded = false
  private ending = false
  private finSent = false
  private onFin: (() => void) | undefined

  constructor(session: MuxSession, id: number, firstFlags: number) {
    super()
    this.session = session
    this.id = id
    this.firstFlags = firstFlags
  }

  get writable(): boolean {
    return !this.ending && !this.destroyed
  }

  /** Bytes that wait for a window. */
  get writableLength(): number {
    return this.unsent.length
  }

  get readableLength(): number {
    return this.received.length
  }

  /** What a socket reads next fits the window. What does not is copied and kept, and that garbage costs as much as the encryption. */
  private get roomy(): boolean {
    return this.sendWindow >= readBuffer.length
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

  write(data: string | Buffer, _more?: unknown): boolean {
    if (!this.writable) return false
    if (this.unsent.length > 0) this.unsent.push(bytesOf(data))
    else {
      const sent = this.sendWindow < data.length ? this.sendWindow : data.length
      if (sent > 0) this.session.sendData(this, data, 0, sent)
      this.sendWindow -= sent
      if (sent < data.length) this.unsent.push(bytesOf(data).subarray(sent))
    }
    if (this.roomy && !this.session.congested) return true
    this.session.awaitDrain(this)
    this.writableNeedDrain = true
    return false
  }

  end(done?: () => void): this {
    if (this.destroyed) return this
    if (done !== undefined && this.finSent) process.nextTick(done)
    else this.onFin = done
    this.ending = true
    this.sendFin()
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
    if (this.paused || this.resuming || this.received.length > 0) return this.received.push(bytes)
    this.emit('data', bytes)
    this.grant(bytes.length)
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
      const bytes = unsent.first()
      const sent = this.sendWindow < bytes.length ? this.sendWindow : bytes.length
      unsent.drop(sent)
      this.session.sendData(this, bytes, 0, sent)
      this.sendWindow -= sent
    }
    if (unsent.length === 0) {
      if (this.ending) this.sendFin()
      else if (!this.session.congested) this.drained()
      else if (this.writableNeedDrain) this.session.awaitDrain(this)
    }
    return true
  }

  /** The connection below has room again. */
  drained(): void {
    if (!this.writableNeedDrain || !this.roomy || this.destroyed) return
    this.writableNeedDrain = false
    this.emit('drain')
  }

  /** The other side reset it, or the session is gone. What the other side had sent and ended before is whole, and still handed out. */
  lost(): void {
    if (!this.remoteEnded || this.readableEnded) return this.gone()
    this.ending = this.finSent = true
    this.unsent.clear()
  }

  /** Without a word to the other side. */
  gone(): void {
    if (this.destroyed) return
    this.destroyed = true
    this.received.clear()
    this.unsent.clear()
    this.session.forget(this)
    process.nextTick(() => {
      this.closed = true
      this.emit('close')
    })
  }

  private deliverHeld(): void {
    this.resuming = false
    while (this.received.length > 0 && !this.paused && !this.destroyed) {
      const bytes = this.received.first()
      this.received.drop(bytes.length)
      this.emit('data', bytes)
      this.grant(bytes.length)
    }
    if (this.remoteEnded && this.received.length === 0 && !this.paused && !this.destroyed) this.emitEnd()
  }

  private emitEnd(): void {
    if (this.readableEnded) return
    this.readableEnded = true
    this.emit('end')
    this.finished()
  }

  /** The consumer took these bytes: half a window of them is told at once. */
  private grant(length: number): void {
    this.taken += length
    if (this.taken < initialWindow / 2 || this.remoteEnded || this.destroyed) return
    this.receiveWindow += this.taken
    this.session.sendWindow(this, this.taken)
    this.taken = 0
  }

  private sendFin(): void {
    if (this.finSent || this.unsent.length > 0) return
    this.finSent = true
    this.session.sendFin(this)
    if (this.onFin !== undefined) process.nextTick(this.onFin)
    this.finished()
  }

  /** Both halves have ended. */
  private finished(): void {
    if (this.finSent && this.readableEnded) this.gone()
  }
}

/** What is held is handed out in pieces of this size. */
const heldBlock = 16 * 1024
/** No window may be wider (a number of 32 bits on the wire). */
const maxWindow = 0xffff_ffff

function bytesOf(data: string | Buffer): Buffer {
  return typeof data === 'string' ? Buffer.from(data, 'latin1') : data
}
