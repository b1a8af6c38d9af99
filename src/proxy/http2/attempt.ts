/** A request on its way to one upstream. Invariant: the stream that was reserved on the channel is given back exactly once. */
import type { Channel } from './channels.ts'
import type { RequestFields } from './fields.ts'
import type { Head } from './wire/session.ts'
import type { EndedBy, Http2Stream, StreamOwner } from './wire/stream.ts'

export interface AttemptOwner {
  /** A header list: interim, the response, or trailers. */
  answerHeaders(attempt: Attempt, head: Head, end: boolean): void
  answerData(attempt: Attempt, bytes: Buffer, end: boolean): void
  /** More of the body of the request has left. */
  passedOn(attempt: Attempt): void
  attemptClosed(attempt: Attempt, code: number): void
}

export class Attempt implements StreamOwner {
  readonly channel: Channel
  /** There was no channel that leads to an app, as far as was known. */
  readonly isLastResort: boolean
  /** undefined: its session takes no more streams, and nothing was sent. */
  readonly stream: Http2Stream | undefined
  /** Bytes of the body that left. */
  passed = 0
  private readonly owner: AttemptOwner

  /** `end`: the request has no body. */
  constructor(owner: AttemptOwner, channel: Channel, fields: RequestFields, end: boolean) {
    this.owner = owner
    this.channel = channel
    this.isLastResort = channel.isShunned
    this.stream = channel.session.request(fields.outgoing(), fields.sensitive, end, this)
    if (this.stream === undefined) channel.release()
  }

  send(bytes: Buffer, end: boolean): void {
    this.sent(this.stream!.sendData(bytes, end))
  }

  /** Its response goes to nobody. */
  drop(code: number): void {
    this.stream!.reset(code)
  }

  headers(head: Head, end: boolean): void {
    this.owner.answerHeaders(this, head, end)
  }

  data(bytes: Buffer, end: boolean): void {
    this.owner.answerData(this, bytes, end)
  }

  sent(length: number): void {
    this.passed += length
    this.owner.passedOn(this)
  }

  closed(code: number, _by: EndedBy): void {
    this.channel.release()
    this.owner.attemptClosed(this, code)
  }
}
