/** The trailer section of a chunked body (RFC 9112 7.1.2): parsed as strictly as a head; fields that decide on anything are dropped. */
import { readLatin1 } from '../../lib/latin1.ts'
import { Fields } from './fields.ts'
import { Pending } from './pending.ts'
import { bad } from './refusals.ts'

/** RFC 9110 6.5.1: framing, routing, authentication, request modifiers and content fields never come in trailers. */
const forbidden: readonly string[] = [
  'age authorization cache-control connection content-encoding content-length content-range content-type cookie date expect expires host if-match',
  'if-modified-since if-none-match if-range if-unmodified-since keep-alive location max-forwards pragma range retry-after set-cookie te trailer',
  'transfer-encoding upgrade vary warning www-authenticate x-forwarded-client-cert x-forwarded-for x-forwarded-host x-forwarded-proto',
].flatMap(line => line.split(' '))

/** For whoever reads trailers of another codec. */
export const neverInTrailers: ReadonlySet<string> = new Set(forbidden)

export class Trailers extends Fields {
  private readonly pending = new Pending()

  begin(): void {
    this.reset()
    this.pending.clear()
  }

  /** Takes bytes; the position after the blank line, `end` when more are needed (`complete` tells), or a refusal. */
  take(buffer: Buffer, at: number, end: number): number {
    const before = this.pending.length
    const room = this.limits.trailerBytes - before
    this.pending.append(buffer, at, Math.min(end, at + room))
    const bytes = this.pending.bytes()
    const after = this.scan(bytes, 0, bytes.length)
    if (after === 0) return end - at > room ? bad.trailers : end
    if (after < 0) return after
    this.text = readLatin1(bytes, 0, after)
    for (const name of forbidden) this.remove(name)
    const listed = this.dropListed()
    return listed < 0 ? listed : at + after - before
  }

  get complete(): boolean {
    return this.text !== ''
  }

  /** The lines that may go on, and the blank line. */
  forwarded(): string {
    return this.tail(0, '')
  }
}
