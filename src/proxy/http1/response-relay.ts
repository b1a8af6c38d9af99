/**
 * Reads one response from its upstream and writes it to the client: interim heads, the final head with the first body bytes in one write, then the body.
 * Invariant: a head is written only after all of it, and the body bytes that came with it, were found good; what the client
 * is told about the length of the body is how the body is then written.
 */
import type { ByteStream } from '../../lib/byte-stream.ts'
import { TurnWriter } from '../../lib/turn-writer.ts'
import { BodyReader } from './body.ts'
import { ResponseHead, type RequestHead } from './head.ts'
import type { Http1Limits } from './limits.ts'
import { Pending } from './pending.ts'
import { refusalOf } from './refusals.ts'
import { part, writeChunk, writeHead } from './writer.ts'

/** Whoever awaits the response. Each call may start the next request at once, so nothing of this one is touched after it. */
export interface Awaiting {
  /** True when this final head is not wanted: nothing of it is written, and the response that is awaited is another one. */
  declines(head: ResponseHead): boolean
  /** The final head may still be edited. Answers the `connection` line that goes with it. */
  answering(head: ResponseHead): string
  /** All of it is written. `clean`: the upstream sent nothing behind it. */
  answered(clean: boolean): void
  /** A 101; `rest` came behind it. */
  switching(head: ResponseHead, rest: Buffer): void
  /** The upstream broke the protocol, before (`headDone` is false) or after something was written. */
  misread(reason: string): void
}

export class ResponseRelay {
  readonly head: ResponseHead
  /** A byte came. */
  heard = false
  /** The final head was written. */
  headDone = false
  /** Body bytes written, as on the wire of the upstream. */
  bytes = 0
  private readonly body: BodyReader
  private readonly partial = new Pending()
  private readonly request: RequestHead
  private readonly client: ByteStream
  private readonly writer: TurnWriter
  private readonly awaiting: Awaiting
  private readonly limits: Http1Limits
  /** An until-close body that is chunked for the client. */
  private rechunk = false
  private interims = 0

  constructor(request: RequestHead, client: ByteStream, awaiting: Awaiting, limits: Http1Limits) {
    this.request = request
    this.client = client
    this.writer = new TurnWriter(client)
    this.awaiting = awaiting
    this.limits = limits
    this.head = new ResponseHead(limits)
    this.body = new BodyReader(limits)
  }

  /** Before each response. */
  begin(): void {
    this.heard = this.headDone = this.rechunk = false
    this.bytes = this.interims = 0
    this.partial.clear()
    this.head.begin()
  }

  /** The body is written whole. */
  get bodyDone(): boolean {
    return this.body.done
  }

  /** The client takes the end of its connection for the end of the body. */
  get endless(): boolean {
    return this.request.version === 0 && (this.head.framing === 'until-close' || this.head.framing === 'chunked')
  }

  /** Bytes of the upstream, which is paused when the client takes no more. */
  data(chunk: Buffer, upstream: ByteStream): void {
    if (this.headDone) {
      this.forward(chunk, 0, chunk.length, upstream)
      return
    }
    this.heard = true
    if (this.partial.length === 0) this.heads(chunk, upstream)
    else {
      this.partial.append(chunk, 0, chunk.length)
      this.heads(this.partial.bytes(), upstream)
    }
  }

  /** The upstream ended; true when that is the end of the response. */
  end(): boolean {
    if (!this.headDone || this.head.framing !== 'until-close') return false
    this.body.finish()
    this.complete(true)
    return true
  }

  /** Reads heads up to the final one. */
  private heads(buffer: Buffer, upstream: ByteStream): void {
    const { head } = this
    const end = buffer.length
    let at = 0
    for (;;) {
      const after = head.parse(buffer, at, end, this.request.method)
      if (after < 0) {
        this.awaiting.misread(refusalOf(after).reason)
        return
      }
      if (after === 0) {
        if (at === 0 && this.partial.length > 0) return
        this.partial.clear()
        this.partial.append(buffer, at, end)
        return
      }
      if (head.status >= 200) {
        this.final(buffer, at, after, upstream)
        return
      }
      if (head.status === 101) {
        this.awaiting.switching(head, buffer.subarray(after))
        return
      }
      if (++this.interims > this.limits.interimResponses) {
        this.awaiting.misread('too many interim responses')
        return
      }
      // HTTP/1.0 knows no interim responses (RFC 9110 15.2).
      if (this.request.version === 1) this.client.write(head.forwarded(''), 'latin1')
      head.begin()
      at = after
    }
  }

  /** The final head, with the body bytes that came with it, in one write. */
  private final(buffer: Buffer, base: number, start: number, upstream: ByteStream): void {
    const { head, body, client } = this
    if (head.status >= 400 && this.awaiting.declines(head)) return
    const end = buffer.length
    const old = this.request.version === 0
    let more = ''
    if (old && head.chunked) head.dropFraming()
    if (head.framing === 'until-close' && !old) {
      this.rechunk = true
      more = 'transfer-encoding: chunked\r\n'
    }
    body.begin(head.framing, head.contentLength, !old)
    let at = start
    if (!body.done && at < end) {
      at = body.read(buffer, at, end)
      if (at < 0) {
        this.awaiting.misread(refusalOf(at).reason)
        return
      }
    }
    more += this.awaiting.answering(head)
    this.headDone = true
    this.partial.clear()
    const from = at === start ? start : body.from
    const to = at === start ? start : body.to
    this.bytes = to - from
    let room: boolean
    if (this.rechunk) {
      client.cork()
      room = client.write(head.forwarded(more), 'latin1')
      if (to > from) room = writeChunk(client, buffer, from, to)
      client.uncork()
    } else if (more === '' && from === start && head.verbatim) room = client.write(part(client, buffer, base, to))
    else room = writeHead(client, head.forwarded(more), buffer, from, to, this.limits.coalesceBytes)
    if (!room) upstream.pause()
    this.forward(buffer, at, end, upstream)
  }

  private forward(buffer: Buffer, start: number, end: number, upstream: ByteStream): void {
    const { body, client } = this
    let at = start
    while (at < end && !body.done) {
      at = body.read(buffer, at, end)
      if (at < 0) {
        this.awaiting.misread(refusalOf(at).reason)
        return
      }
      const size = body.to - body.from
      if (size === 0) continue
      this.bytes += size
      const room = this.rechunk ? writeChunk(client, buffer, body.from, body.to) : this.writer.write(buffer.subarray(body.from, body.to))
      if (!room) upstream.pause()
    }
    // Bytes after the message belong to no request of ours.
    if (body.done) this.complete(at === end)
  }

  private complete(clean: boolean): void {
    if (this.rechunk) this.client.write('0\r\n\r\n', 'latin1')
    else if (this.body.closing !== '') this.client.write(this.body.closing, 'latin1')
    this.awaiting.answered(clean)
  }
}
