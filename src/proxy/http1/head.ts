/**
 * Request and response heads, strict by RFC 9112 and 9110: whatever two parsers could read differently is refused. A head object lives as
 * long as its connection and is filled again for each message; `parse` may be called again with more bytes and
 * goes on where it stopped, and its answer does not depend on how the bytes were cut.
 */
import { isIPv6 } from 'node:net'
import { readLatin1 } from '../../lib/latin1.ts'
import { CR, hexByte, hostByte, isDigit, LF, methodByte, SP, targetByte, valueEnd } from './chars.ts'
import { Fields } from './fields.ts'
import { bad } from './refusals.ts'

export type Framing = 'none' | 'length' | 'chunked' | 'until-close'

/** A reason phrase longer than this is refused. */
const reasonBytes = 512

export class RequestHead extends Fields {
  method = ''
  /** As it will be forwarded: origin-form, or `*`. */
  target = ''
  /** The raw target without its query. */
  path = ''
  /** The minor version: HTTP/1.0 or HTTP/1.1. */
  version: 0 | 1 = 1
  host = ''
  framing: Framing = 'none'
  /** The client keeps the connection. */
  keepAlive = true
  /** The protocol asked for by an upgrade that may be forwarded; '' is none. */
  upgrade = ''
  expectContinue = false
  /** The start line may be forwarded as it came. */
  private plainStart = true
  private targetAt = 0
  private targetSeen = 0
  private targetEnd = 0
  private queryAt = -1

  /** Before each message. */
  begin(): void {
    this.reset()
    this.targetAt = this.targetSeen = this.targetEnd = 0
    this.queryAt = -1
  }

  /** The position after the head, which starts at `base`; 0 when more bytes are needed; negative when refused. */
  parse(buffer: Buffer, base: number, end: number): number {
    const longest = base + this.limits.headBytes
    const stop = end < longest ? end : longest
    if (this.fieldsAt === 0) {
      const at = this.startLine(buffer, base, stop)
      if (at === 0) return end > longest ? bad.headLong : 0
      if (at < 0) return at
      this.startFields(at - base)
    }
    const at = this.scan(buffer, base, stop)
    if (at === 0) return end > longest ? bad.headLong : 0
    if (at < 0) return at
    this.text = readLatin1(buffer, base, at)
    const code = this.settle(buffer, base)
    return code < 0 ? code : at
  }

  /** As the upstream gets it. */
  forwarded(): string {
    const more = this.upgrade === '' ? '' : `connection: upgrade\r\nupgrade: ${this.upgrade}\r\n`
    if (this.plainStart) return this.tail(0, more)
    return `${this.method} ${this.target} HTTP/1.1\r\n${this.tail(this.fieldsAt, more)}`
  }

  /** Asks for another path, with its query. */
  retarget(target: string): void {
    this.target = target
    const query = target.indexOf('?')
    this.path = query < 0 ? target : target.slice(0, query)
    this.plainStart = false
  }

  /** The bytes that came are exactly what `forwarded` would make. */
  get verbatim(): boolean {
    return this.plainStart && this.upgrade === '' && this.untouched
  }

  /** Sending it twice has the same effect as once (RFC 9110 9.2.2). */
  get idempotent(): boolean {
    switch (this.method) {
      case 'GET':
      case 'HEAD':
      case 'PUT':
      case 'DELETE':
      case 'OPTIONS':
      case 'TRACE':
        return true
      default:
        return false
    }
  }

  /** method SP target SP HTTP/1.x CRLF */
  private startLine(buffer: Buffer, base: number, stop: number): number {
    if (this.targetAt === 0) {
      let at = base
      while (at < stop && methodByte[buffer[at]!] !== 0) at++
      if (at - base > this.limits.methodBytes) return bad.method
      if (at === stop) return 0
      if (buffer[at] !== SP || at === base) return bad.method
      this.targetAt = this.targetSeen = at + 1 - base
    }
    let at = base + this.targetSeen
    const kinds = targetByte
    for (let kind = 0; at < stop; at++) {
      kind = kinds[buffer[at]!]!
      if (kind === 1) continue
      if (kind === 0) break
      if (kind === 2) {
        if (this.queryAt < 0) this.queryAt = at - base
      } else if (this.queryAt < 0) return bad.target
    }
    this.targetSeen = at - base
    if (this.targetSeen - this.targetAt > this.limits.targetBytes) return bad.targetLong
    if (at === stop) return 0
    if (buffer[at] !== SP || this.targetSeen === this.targetAt) return bad.target
    this.targetEnd = this.targetSeen
    return this.versionEnd(buffer, at + 1, stop)
  }

  private versionEnd(buffer: Buffer, at: number, stop: number): number {
    const minor = scanVersion(buffer, at, stop)
    if (minor < 0) return minor === needVersion ? 0 : minor
    this.version = minor as 0 | 1
    if (at + 8 >= stop) return 0
    if (buffer[at + 8] !== CR) return buffer[at + 8] === LF ? bad.bareLf : bad.requestLine
    if (at + 9 >= stop) return 0
    return buffer[at + 9] === LF ? at + 10 : bad.bareCr
  }

  /** What only the whole head tells. */
  private settle(buffer: Buffer, base: number): number {
    this.method = methodName(buffer, base, this.targetAt - 1, this.text)
    this.plainStart = this.version === 1
    if (this.method === 'CONNECT') return bad.connect
    const listed = this.dropListed()
    if (listed < 0) return listed
    if (this.hosts !== 1) return this.hosts === 0 ? bad.noHost : bad.hosts
    this.host = this.valueAt(this.hostLine)
    if (!validHost(this.host)) return bad.host
    this.target = this.text.slice(this.targetAt, this.targetEnd)
    this.path = this.queryAt < 0 ? this.target : this.text.slice(this.targetAt, this.queryAt)
    if (this.target.charCodeAt(0) !== 47) {
      const code = this.otherForms()
      if (code < 0) return code
    }
    if (this.chunked) {
      if (this.contentLength >= 0) return bad.framing
      if (this.version === 0) return bad.oldChunked
      this.framing = 'chunked'
    } else this.framing = this.contentLength > 0 ? 'length' : 'none'
    this.keepAlive = this.version === 1 ? !this.close : this.persist && !this.close
    // HTTP/1.0 has neither expectations (RFC 9110 10.1.1) nor upgrades (7.8).
    this.expectContinue = this.expectLine >= 0 && this.version === 1
    if (this.expectLine >= 0 && this.version === 0) this.drop(this.expectLine)
    this.upgrade = this.upgradeLine >= 0 && this.switching && this.version === 1 ? forwardableUpgrade(this.valueAt(this.upgradeLine)) : ''
    return 0
  }

  /** absolute-form is turned into origin-form; its authority must be the Host (RFC 9112 3.2.2). asterisk-form is for OPTIONS. */
  private otherForms(): number {
    if (this.target === '*') return this.method === 'OPTIONS' ? 0 : bad.target
    const scheme = this.target.slice(0, 8).toLowerCase()
    const start = scheme.startsWith('http://') ? 7 : scheme === 'https://' ? 8 : 0
    if (start === 0) return bad.target
    let end = start
    while (end < this.target.length && this.target.charCodeAt(end) !== 47 && this.target.charCodeAt(end) !== 63) end++
    if (this.target.slice(start, end).toLowerCase() !== this.host.toLowerCase()) return bad.hostMismatch
    const rest = this.target.slice(end)
    if (rest === '') this.target = this.method === 'OPTIONS' ? '*' : '/'
    else this.target = rest.charCodeAt(0) === 47 ? rest : `/${rest}`
    const query = this.target.indexOf('?')
    this.path = query < 0 ? this.target : this.target.slice(0, query)
    this.plainStart = false
    return 0
  }
}

export class ResponseHead extends Fields {
  status = 0
  version: 0 | 1 = 1
  framing: Framing = 'none'
  /** The upstream keeps the connection, as far as this head says. */
  keepAlive = true
  /** The protocol of a 101. */
  upgrade = ''
  private reasonAt = 0

  begin(): void {
    this.reset()
  }

  /** As for a request; `method` of the request that it answers decides on its body (RFC 9112 6.3). */
  parse(buffer: Buffer, base: number, end: number, method: string): number {
    const longest = base + this.limits.headBytes
    const stop = end < longest ? end : longest
    if (this.fieldsAt === 0) {
      const at = this.startLine(buffer, base, stop)
      if (at === 0) return end > longest ? bad.headLong : 0
      if (at < 0) return at
      this.startFields(at - base)
    }
    const at = this.scan(buffer, base, stop)
    if (at === 0) return end > longest ? bad.headLong : 0
    if (at < 0) return at
    this.text = readLatin1(buffer, base, at)
    const code = this.settle(method)
    return code < 0 ? code : at
  }

  /** As the client gets it. `more` are whole field lines: connection, and transfer-encoding where the framing changes. */
  forwarded(more: string): string {
    if (this.version === 1 && this.reasonAt > 0) return this.tail(0, more)
    const reason = this.reasonAt > 0 ? this.text.slice(this.reasonAt, this.fieldsAt - 2) : ''
    return `HTTP/1.1 ${this.status} ${reason}\r\n${this.tail(this.fieldsAt, more)}`
  }

  get verbatim(): boolean {
    return this.version === 1 && this.reasonAt > 0 && this.untouched
  }

  /** The framing will be another one: its fields must not be forwarded. */
  dropFraming(): void {
    if (this.lengthLine >= 0) this.drop(this.lengthLine)
    if (this.chunkedLine >= 0) this.drop(this.chunkedLine)
  }

  /** HTTP/1.x SP 3DIGIT [SP reason] CRLF */
  private startLine(buffer: Buffer, base: number, stop: number): number {
    const minor = scanVersion(buffer, base, stop)
    if (minor === needVersion) return 0
    if (minor < 0) return minor === bad.requestLine ? bad.statusLine : minor
    this.version = minor as 0 | 1
    let at = base + 8
    if (at >= stop) return 0
    if (buffer[at] !== SP) return bad.statusLine
    this.status = 0
    for (at++; at < base + 12; at++) {
      if (at >= stop) return 0
      const digit = buffer[at]! - 48
      if (digit < 0 || digit > 9) return bad.statusLine
      this.status = this.status * 10 + digit
    }
    if (this.status < 100 || this.status > 599) return bad.statusLine
    if (at >= stop) return 0
    this.reasonAt = 0
    if (buffer[at] === SP) {
      this.reasonAt = ++at - base
      at = valueEnd(buffer, at, stop)
      if (at - base - this.reasonAt > reasonBytes) return bad.statusLine
      if (at >= stop) return 0
    }
    if (buffer[at] !== CR) return buffer[at] === LF ? bad.bareLf : bad.statusLine
    if (at + 1 >= stop) return 0
    return buffer[at + 1] === LF ? at + 2 : bad.bareCr
  }

  private settle(method: string): number {
    const listed = this.dropListed()
    if (listed < 0) return listed
    if (this.chunked && this.contentLength >= 0) return bad.framing
    if (this.chunked && this.version === 0) return bad.oldChunked
    this.keepAlive = this.version === 1 ? !this.close : this.persist && !this.close
    this.upgrade = this.status === 101 && this.upgradeLine >= 0 && this.switching ? this.valueAt(this.upgradeLine) : ''
    if (this.status < 200 || this.status === 204) {
      // Neither may carry framing fields (RFC 9110 8.6, RFC 9112 6.1); a receiver that believed them would wait for a body.
      this.dropFraming()
      this.framing = 'none'
    } else if (this.status === 304 || method === 'HEAD') this.framing = 'none'
    else if (this.chunked) this.framing = 'chunked'
    else if (this.contentLength >= 0) this.framing = this.contentLength === 0 ? 'none' : 'length'
    else {
      this.framing = 'until-close'
      this.keepAlive = false
    }
    return 0
  }
}

/** Not a refusal: the bytes of the version are not all there. */
const needVersion = -1_000_000

/** The minor version of `HTTP/1.0` or `HTTP/1.1` at `at`, `needVersion`, or a refusal. */
function scanVersion(buffer: Buffer, at: number, stop: number): number {
  const known = 'HTTP/1.'
  for (let i = 0; i < 7; i++) {
    if (at + i >= stop) return needVersion
    if (buffer[at + i] === known.charCodeAt(i)) continue
    return i === 5 && isDigit(buffer[at + i]!) ? bad.version : bad.requestLine
  }
  if (at + 7 >= stop) return needVersion
  const minor = buffer[at + 7]! - 48
  if (minor === 0 || minor === 1) return minor
  return isDigit(minor + 48) ? bad.version : bad.requestLine
}

/** The method as a string that already exists, where it is a common one. */
function methodName(buffer: Buffer, base: number, length: number, text: string): string {
  const name = commonMethods[(buffer[base]! + 3 * length) & 31]
  if (name !== undefined && name.length === length && text.startsWith(name)) return name
  return text.slice(0, length)
}

/** At (first letter + 3 x length) mod 32, which tells these apart. */
const commonMethods: (string | undefined)[] = []
for (let i = 0; i < 32; i++) commonMethods.push(undefined)
for (const name of ['GET', 'POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS', 'PATCH'])
  commonMethods[(name.charCodeAt(0) + 3 * name.length) & 31] = name

/** uri-host [":" port] (RFC 9110 7.2) without userinfo, escapes and sub-delims, which name no service here and confuse parsers. */
export function validHost(host: string): boolean {
  let at = 0
  if (host.charCodeAt(0) === 91) {
    at = 1
    // Hexadecimal digits, `:` and `.`: an address with a zone, which isIPv6 would take, ends before it.
    while (at < host.length && (hexByte[host.charCodeAt(at)] !== 0 || host.charCodeAt(at) === 58 || host.charCodeAt(at) === 46)) at++
    if (host.charCodeAt(at) !== 93 || !isIPv6(host.slice(1, at))) return false
    at++
  } else {
    while (at < host.length && hostByte[host.charCodeAt(at)]! !== 0) at++
    if (at === 0) return false
  }
  if (at === host.length) return true
  if (host.charCodeAt(at) !== 58) return false
  const port = host.length - at - 1
  if (port < 1 || port > 5) return false
  for (at++; at < host.length; at++) if (!isDigit(host.charCodeAt(at))) return false
  return true
}

/**
 * An upgrade leaves what can be judged. `h2c`, other HTTP versions and TLS would carry requests past the intentions, so they are not forwarded: the
 * request goes on as if it had not asked (RFC 9110 7.8 allows it).
 */
function forwardableUpgrade(value: string): string {
  const protocol = value.toLowerCase()
  return protocol === '' || protocol.includes('h2') || protocol.includes('http') || protocol.includes('tls') ? '' : value
}
