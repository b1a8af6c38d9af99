/** After a 101 the two streams are joined byte for byte, with backpressure and half-close both ways. Nothing of either is ever reused. */
import type { ByteStream } from '../../lib/byte-stream.ts'
import type { UpstreamStream } from './door.ts'
import type { Link, UpstreamOwner } from './link.ts'
import { part } from './writer.ts'

export class Tunnel implements UpstreamOwner {
  clientBytes = 0
  upstreamBytes = 0
  private readonly client: ByteStream
  private readonly upstream: UpstreamStream
  private readonly touched: () => void
  private readonly closed: (reason: string) => void
  private open = true
  /** The client has ended, and all that it sent was written. */
  private clientDone = false
  private upstreamEnded = false

  /** `touched` is called for every byte that moves, `closed` once, when the tunnel is gone and its upstream destroyed; 'ok' when both sides ended. */
  constructor(client: ByteStream, upstream: UpstreamStream, link: Link, touched: () => void, closed: (reason: string) => void) {
    this.client = client
    this.upstream = upstream
    this.touched = touched
    this.closed = closed
    link.owner = this
  }

  clientData(chunk: Buffer): void {
    this.clientBytes += chunk.length
    this.touched()
    if (!this.upstream.stream.write(part(this.upstream.stream, chunk, 0, chunk.length))) this.client.pause()
  }

  clientEnd(): void {
    this.upstream.stream.end(() => {
      this.clientDone = true
      if (this.upstreamEnded) this.close('ok')
    })
  }

  clientDrain(): void {
    this.upstream.stream.resume()
  }

  upstreamData(chunk: Buffer): void {
    this.upstreamBytes += chunk.length
    this.touched()
    if (!this.client.write(part(this.client, chunk, 0, chunk.length))) this.upstream.stream.pause()
  }

  upstreamEnd(): void {
    this.upstreamEnded = true
    this.client.end()
    if (this.clientDone) this.close('ok')
  }

  upstreamDrain(): void {
    this.client.resume()
  }

  upstreamClosed(): void {
    // After a clean end the client still gets what is under way to it.
    this.close(this.upstreamEnded ? 'ok' : 'upstream-reset')
  }

  /** Breaks both sides, unless the reason is 'ok'. */
  close(reason: string): void {
    if (!this.open) return
    this.open = false
    this.upstream.destroy()
    if (reason !== 'ok') this.client.destroy()
    this.closed(reason)
  }
}
