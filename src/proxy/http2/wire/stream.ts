/**
 * One stream of a session. Invariants: no more is sent than both windows of the other side allow; the own windows are opened again only for
 * bytes that the owner says it is done with, so a slow owner holds one window at most; the owner hears `closed` exactly once, and nothing after it.
 */
import { ByteQueue } from '../../../lib/byte-queue.ts'
import { errorCode, max31, minFrameSize } from './frames.ts'
import type { Head, Http2Session } from './session.ts'

/** How a stream ended: both sides had ended it; the other side reset it; we did; the other side broke the protocol; its session is gone. */
export type EndedBy = 'both' | 'peer' | 'us' | 'fault' | 'session'

export interface StreamOwner {
  /** A header list behind the first one of the other side: of a response, or trailers. `end`: nothing follows it. */
  headers(head: Head, end: boolean): void
  /** Bytes of the body, valid until this returns; say `consumed` for each of them. `end`: nothing follows them. */
  data(bytes: Buffer, end: boolean): void
  /** So many of the bytes that waited to be sent have left. */
  sent(length: number): void
  closed(code: number, by: EndedBy): void
}

const nothing = Buffer.alloc(0)

export class Http2Stream {
  readonly id: number
  readonly session: Http2Session
  owner: StreamOwner | undefined
  localEnded = false
  remoteEnded = false
  isClosed = false
  /** What may be sent, and what may come. */
  private sendWindow: number
  private receiveWindow: number
  /** Bytes that the owner is done with, and the other side was not told of. */
  private granted = 0
  /** Bytes that the owner has. */
  private held = 0
  /** Of the body that comes: how long it is, if that was said, and how much came. */
  private expected = -1
  private received = 0
  /** Waiting for a window, and what follows them. */
  private unsent: ByteQueue | undefined
  private endsBehind = false
  private trailers: { fields: readonly string[]; sensitive: ReadonlySet<string> | undefined } | undefined
  private stopping = false

  constructor(session: Http2Session, id: number, sendWindow: number, receiveWindow: number) {
    this.session = session
    this.id = id
    this.sendWindow = sendWindow
    this.receiveWindow = receiveWindow
  }

  /** A header list that comes before the body; flat, pseudo-header fields first. */
  sendHeaders(fields: readonly string[], sensitive: ReadonlySet<string> | undefined, end: boolean): void {
    if (this.isClosed || this.localEnded) return
    this.session.sendHeaders(this, fields, sensitive, end)
    if (end) this.localEnd()
  }

  /** Sends these bytes now as far as the windows allow, and copies the rest; answers how many left now. `end`: nothing follows them. */
  sendData(bytes: Buffer, end: boolean): number {
    const { length } = bytes
    if (this.isClosed || this.localEnded || this.endsBehind) return length
    if (this.unsent !== undefined) {
      this.unsent.push(bytes)
      this.session.unsent += length
      this.endsBehind = end
      return 0
    }
    const room = Math.max(0, Math.min(length, this.sendWindow, this.session.sendRoom))
    if (room === length) {
      this.write(bytes, 0, length, end)
      if (end) this.localEnd()
      return length
    }
    if (room > 0) this.write(bytes, 0, room, false)
    this.unsent = new ByteQueue()
    this.unsent.push(bytes.subarray(room))
    this.session.unsent += length - room
    this.endsBehind = end
    this.waitForRoom()
    return room
  }

  end(): void {
    this.sendData(nothing, true)
  }

  /** Ends the stream with these fields, behind what still waits. */
  sendTrailers(fields: readonly string[], sensitive: ReadonlySet<string> | undefined): void {
    if (this.unsent === undefined) this.sendHeaders(fields, sensitive, true)
    else {
      this.trailers = { fields, sensitive }
      this.endsBehind = true
    }
  }

  /** What the other side still sends is unwanted: it is told so when our side has ended (RFC 9113 8.1). */
  stop(): void {
    this.stopping = true
    if (this.localEnded && !this.remoteEnded) this.reset(errorCode.noError)
  }

  /** Ends it at once, with this code where the other side has not heard its end yet. */
  reset(code: number): void {
    if (this.isClosed) return
    if (this.localEnded && this.remoteEnded) this.close(errorCode.noError, 'both')
    else this.abort(code, 'us')
  }

  /** Tells the other side of its fault. */
  fault(code: number): void {
    if (!this.isClosed) this.abort(code, 'fault')
  }

  /** The body that comes has exactly so many bytes. */
  expect(length: number): void {
    this.expected = length
  }

  /** The owner is done with so many bytes. */
  consumed(length: number): void {
    if (this.isClosed || length === 0) return
    this.held -= length
    this.session.consumed(length)
    if (!this.remoteEnded) this.grant(length)
  }

  // What the session calls.

  /** A DATA frame of that length begins, padding and all; false when it is more than the window. */
  admit(length: number): boolean {
    this.receiveWindow -= length
    return this.receiveWindow >= 0
  }

  /** Padding, or what nobody wants: done with as soon as it came. */
  skipped(length: number): void {
    this.session.consumed(length)
    this.grant(length)
  }

  take(bytes: Buffer, end: boolean): void {
    this.received += bytes.length
    if (this.expected >= 0 && (this.received > this.expected || (end && this.received < this.expected))) {
      this.session.consumed(bytes.length)
      this.fault(errorCode.protocolError)
      return
    }
    this.held += bytes.length
    this.remoteEnded ||= end
    this.owner?.data(bytes, end)
    if (end) this.ended()
  }

  /** A header list; what it says was checked. */
  takeHeaders(head: Head, end: boolean): void {
    if (end && this.expected >= 0 && this.received < this.expected) return this.fault(errorCode.protocolError)
    this.remoteEnded ||= end
    this.owner?.headers(head, end)
    if (end) this.ended()
  }

  /** The other side granted more; false when that is more than a window can be. A changed setting may also take some away. */
  widen(delta: number): boolean {
    this.sendWindow += delta
    if (this.sendWindow > max31) return false
    if (this.unsent !== undefined) this.waitForRoom()
    return true
  }

  /** Sends one frame of what waits. True when more could follow. */
  pump(): boolean {
    const { session, unsent } = this
    if (unsent === undefined) return false
    const bytes = unsent.first()
    const room = Math.min(bytes.length, this.sendWindow, session.sendRoom, minFrameSize)
    if (room <= 0) return this.sendWindow > 0
    const last = room === unsent.length
    if (last) this.unsent = undefined
    this.write(bytes, 0, room, last && this.endsBehind && this.trailers === undefined)
    unsent.drop(room)
    session.unsent -= room
    if (last && this.endsBehind) {
      if (this.trailers !== undefined) session.sendHeaders(this, this.trailers.fields, this.trailers.sensitive, true)
      this.localEnd()
    }
    if (!this.isClosed) this.owner?.sent(room)
    return this.unsent !== undefined && this.sendWindow > 0
  }

  /** Without a word to the other side. */
  close(code: number, by: EndedBy): void {
    if (this.isClosed) return
    this.isClosed = true
    if (this.unsent !== undefined) this.session.unsent -= this.unsent.length
    this.unsent = undefined
    this.session.forget(this)
    if (this.held > 0) this.session.consumed(this.held)
    this.owner?.closed(code, by)
  }

  private write(bytes: Buffer, start: number, end: number, last: boolean): void {
    this.sendWindow -= end - start
    this.session.sendData(this, bytes, start, end, last)
  }

  private waitForRoom(): void {
    if (this.sendWindow > 0) this.session.awaitRoom(this)
  }

  private abort(code: number, by: EndedBy): void {
    this.session.sendReset(this, code)
    this.close(code, by)
  }

  private grant(length: number): void {
    this.granted += length
    if (this.granted < this.session.streamWindow / 2) return
    this.receiveWindow += this.granted
    this.session.sendWindowUpdate(this.id, this.granted)
    this.granted = 0
  }

  private ended(): void {
    if (this.localEnded) this.close(errorCode.noError, 'both')
  }

  private localEnd(): void {
    if (this.isClosed) return
    this.localEnded = true
    if (this.remoteEnded) this.close(errorCode.noError, 'both')
    else if (this.stopping) this.reset(errorCode.noError)
  }
}
