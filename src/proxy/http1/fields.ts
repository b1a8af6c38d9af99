/**
 * The field lines of one head (or trailer section): a strict, resumable scan into a table of offsets, the facts of framing and
 * connection found on the way, and edits. Invariant: what is shown (`headers`, `get`) is what `tail` writes; a line that is
 * not dropped is written byte for byte as it came. Nothing is made a string of its own before somebody asks for it.
 */
import { COLON, CR, folded, isDigit, LF, nameIs, SP, TAB, token, valueEnd, valueIs } from './chars.ts'
import type { Http1Limits } from './limits.ts'
import { bad } from './refusals.ts'
import { unreachedHeader } from './unreached.ts'

/** A field name longer than this is refused; it bounds what a resumed scan reads twice. */
const nameBytes = 256
/** Largest accepted Content-Length has this many digits, below 2^53. */
const lengthDigits = 15

const timeoutIs = 'timeout='

export class Fields {
  /** The whole head, start line included, as latin1. Set when the scan is complete. */
  text = ''
  /** -1: none. */
  contentLength = -1
  chunked = false
  /** It says that no app was reached; never forwarded. */
  unreached = false
  /** Seconds for which the other side keeps the connection while it carries nothing, if it says so (Keep-Alive: timeout); else -1. */
  keptSeconds = -1
  /** Connection: close, keep-alive, upgrade. */
  protected close = false
  protected persist = false
  protected switching = false
  protected hosts = 0
  /** Line numbers; -1 is none. */
  protected hostLine = -1
  protected upgradeLine = -1
  protected expectLine = -1
  protected lengthLine = -1
  protected chunkedLine = -1
  /** Offset of the first field line in `text`. */
  protected fieldsAt = 0
  protected readonly limits: Http1Limits
  protected count = 0
  /** Connection named something else than the three options above. */
  private listed = false
  /** Four offsets a line: name, colon, value, end of value. A dropped line has ~name. */
  private readonly table: number[] = []
  private dropped = 0
  private added = ''
  private readonly addedFlat: string[] = []
  private flat: string[] | undefined
  /** Where to resume, as offsets from the start of the head: the current line, and how far its value is known to be plain. */
  private lineAt = 0
  private plainTo = 0

  constructor(limits: Http1Limits) {
    this.limits = limits
  }

  /** Forgets the message before. */
  protected reset(): void {
    this.text = this.added = ''
    this.contentLength = this.keptSeconds = -1
    this.chunked = this.close = this.persist = this.switching = this.listed = this.unreached = false
    this.hostLine = this.upgradeLine = this.expectLine = this.lengthLine = this.chunkedLine = -1
    this.hosts = this.count = this.dropped = this.lineAt = this.plainTo = this.fieldsAt = 0
    if (this.addedFlat.length > 0) this.addedFlat.length = 0
    this.flat = undefined
  }

  /** What will be forwarded, flat: lower-case name, value, … Built when asked for. */
  get headers(): string[] {
    if (this.flat !== undefined) return this.flat
    const flat: string[] = []
    for (let line = 0; line < this.count; line++) {
      const at = line * 4
      if (this.table[at]! < 0) continue
      flat.push(this.text.slice(this.table[at], this.table[at + 1]).toLowerCase(), this.valueAt(line))
    }
    this.flat = flat.concat(this.addedFlat)
    return this.flat
  }

  /** The value of the first field of that name (lower case). */
  get(name: string): string | undefined {
    for (let line = 0; line < this.count; line++) if (this.lineIs(line, name, token)) return this.valueAt(line)
    for (let i = 0; i < this.addedFlat.length; i += 2) if (this.addedFlat[i] === name) return this.addedFlat[i + 1]
    return undefined
  }

  /** Drops every field of that name (lower case), also where it is spelt with `_` for `-`, which some applications read as the same. */
  remove(name: string): void {
    for (let line = 0; line < this.count; line++) if (this.lineIs(line, name, folded)) this.drop(line)
    if (this.addedFlat.includes(name)) this.rebuildAdded(name)
  }

  /** Adds a field. The value is our own text; one that would break the line is a mistake of ours. */
  append(name: string, value: string): void {
    if (value.includes('\n') || value.includes('\r')) throw new Error(`field ${name} has a line break in its value`)
    this.addedFlat.push(name, value)
    this.added += `${name}: ${value}\r\n`
    this.flat = undefined
  }

  /** Replaces every field of that name by one. */
  set(name: string, value: string): void {
    this.remove(name)
    this.append(name, value)
  }

  /** Nothing was dropped or added: the bytes that came may be forwarded as they are. */
  protected get untouched(): boolean {
    return this.dropped === 0 && this.added === ''
  }

  /** The head from offset `from` (0: the start line as it came; `fieldsAt`: without it), with `more` field lines, and the blank line. */
  protected tail(from: number, more: string): string {
    const { text, table } = this
    let out = ''
    let run = from
    if (this.dropped > 0) {
      for (let line = 0; line < this.count; line++) {
        const start = table[line * 4]!
        if (start >= 0) continue
        if (~start > run) out += text.slice(run, ~start)
        run = this.lineEnd(line)
      }
    }
    return out + text.slice(run, text.length - 2) + this.added + more + '\r\n'
  }

  protected valueAt(line: number): string {
    return this.text.slice(this.table[line * 4 + 2], this.table[line * 4 + 3])
  }

  protected drop(line: number): void {
    const start = this.table[line * 4]!
    if (start < 0) return
    this.table[line * 4] = ~start
    this.dropped++
    this.flat = undefined
  }

  /**
   * Scans field lines from where it stopped; `base` is where the head starts in this buffer, `stop` where its bytes end. Answers the
   * position after the blank line, 0 when more bytes are needed, or a refusal.
   */
  protected scan(buffer: Buffer, base: number, stop: number): number {
    for (;;) {
      const start = base + this.lineAt
      if (start >= stop) return 0
      const first = buffer[start]!
      if (first === CR) {
        if (start + 1 >= stop) return 0
        if (buffer[start + 1] !== LF) return bad.bareCr
        return start + 2
      }
      const next = this.scanLine(buffer, base, start, stop)
      if (next <= 0) return next
      this.lineAt = next - base
      this.plainTo = 0
    }
  }

  /** The first field line starts here; called once the start line is known to be complete. */
  protected startFields(offset: number): void {
    this.fieldsAt = offset
    this.lineAt = offset
  }

  /** One line. A value that is still coming is not read twice: `plainTo` remembers how far it is known. */
  private scanLine(buffer: Buffer, base: number, start: number, stop: number): number {
    let at = start
    if (this.plainTo > 0) {
      at = valueEnd(buffer, base + this.plainTo, stop)
      if (at === stop) {
        this.plainTo = at - base
        return 0
      }
      at = start
    }
    const names = token
    while (at < stop && names[buffer[at]!] !== 0) at++
    const colon = at
    if (colon - start > nameBytes) return bad.name
    if (at === stop) return 0
    if (buffer[at] !== COLON || at === start) return nameRefusal(buffer, start, at)
    at++
    while (at < stop && (buffer[at] === SP || buffer[at] === TAB)) at++
    const value = at
    at = valueEnd(buffer, at, stop)
    if (at === stop) {
      this.plainTo = at - base
      return 0
    }
    const last = buffer[at]!
    if (last !== CR) return last === LF ? bad.bareLf : bad.value
    if (at + 1 >= stop) return 0
    if (buffer[at + 1] !== LF) return bad.bareCr
    let end = at
    while (end > value && (buffer[end - 1] === SP || buffer[end - 1] === TAB)) end--
    const line = this.count++
    if (line >= this.limits.headerCount) return bad.headCount
    const slot = line * 4
    this.table[slot] = start - base
    this.table[slot + 1] = colon - base
    this.table[slot + 2] = value - base
    this.table[slot + 3] = end - base
    const code = this.note(buffer, line, start, colon - start, value, end)
    return code < 0 ? code : at + 2
  }

  /** `timeout=5` or `timeout=5, max=100`, as servers write it; a hint, so anything else says nothing. */
  private noteKept(buffer: Buffer, from: number, to: number): void {
    const digits = from + timeoutIs.length
    if (to <= digits || to > digits + 20) return
    for (let i = 0; i < timeoutIs.length; i++) if ((buffer[from + i]! | 0x20) !== timeoutIs.charCodeAt(i)) return
    let seconds = 0
    for (let at = digits; at < to && isDigit(buffer[at]!); at++) seconds = seconds * 10 + buffer[at]! - 48
    this.keptSeconds = seconds
  }

  /** The facts that decide on framing and connection; every other name is left alone. Told apart by length first. */
  private note(buffer: Buffer, line: number, name: number, length: number, from: number, to: number): number {
    switch (length) {
      case 2:
        // TE is hop-by-hop; `trailers` alone means the same on every hop (RFC 9110 10.1.4).
        if (nameIs(buffer, name, 'te') && !valueIs(buffer, from, to, 'trailers')) this.drop(line)
        return 0
      case 4:
        if (!nameIs(buffer, name, 'host')) return 0
        if (this.hosts++ === 0) this.hostLine = line
        return tabBeside(buffer, name + length, from, to) ? bad.tab : 0
      case 6:
        if (nameIs(buffer, name, 'expect')) return this.noteExpect(buffer, line, from, to)
        return 0
      case 7:
        if (nameIs(buffer, name, 'upgrade')) {
          this.drop(line)
          if (this.upgradeLine >= 0) return bad.connectionSyntax
          this.upgradeLine = line
        } else if (nameIs(buffer, name, 'trailer')) this.drop(line)
        return 0
      case 10:
        if (nameIs(buffer, name, 'connection')) {
          this.drop(line)
          return this.noteConnection(buffer, from, to)
        }
        if (nameIs(buffer, name, 'keep-alive')) {
          this.drop(line)
          this.noteKept(buffer, from, to)
        }
        return 0
      case 14:
        return nameIs(buffer, name, 'content-length') ? this.noteLength(buffer, line, name, from, to) : 0
      case 5:
        // Not hop-by-hop, but CGI applications read it as HTTP_PROXY (httpoxy); it has no meaning in HTTP.
        if (nameIs(buffer, name, 'proxy')) this.drop(line)
        return 0
      case 16:
        if (nameIs(buffer, name, 'proxy-connection')) this.drop(line)
        return 0
      case 18:
        if (nameIs(buffer, name, 'proxy-authenticate')) this.drop(line)
        return 0
      case 19:
        if (nameIs(buffer, name, 'proxy-authorization')) this.drop(line)
        return 0
      case unreachedHeader.length:
        if (nameIs(buffer, name, unreachedHeader)) {
          this.drop(line)
          this.unreached = true
        }
        return 0
      case 25:
        if (nameIs(buffer, name, 'proxy-authentication-info')) this.drop(line)
        return 0
      case 17:
        return nameIs(buffer, name, 'transfer-encoding') ? this.noteEncoding(buffer, line, name, from, to) : 0
      default:
        return 0
    }
  }

  private noteExpect(buffer: Buffer, line: number, from: number, to: number): number {
    if (this.expectLine >= 0 || !valueIs(buffer, from, to, '100-continue')) return bad.expect
    this.expectLine = line
    return 0
  }

  /** Content-Length (RFC 9110 8.6): one field, digits only, no leading zero that could be read as octal. */
  private noteLength(buffer: Buffer, line: number, name: number, from: number, to: number): number {
    if (buffer[name + 7] !== 45) return bad.alias
    if (tabBeside(buffer, name + 14, from, to)) return bad.tab
    if (this.contentLength >= 0) return bad.contentLengths
    if (to === from || to - from > lengthDigits || (to - from > 1 && buffer[from] === 48)) return bad.contentLength
    let length = 0
    for (let at = from; at < to; at++) {
      const digit = buffer[at]! - 48
      if (digit < 0 || digit > 9) return bad.contentLength
      length = length * 10 + digit
    }
    this.contentLength = length
    this.lengthLine = line
    return 0
  }

  /** Transfer-Encoding (RFC 9112 6.1): exactly one field that is exactly `chunked`. */
  private noteEncoding(buffer: Buffer, line: number, name: number, from: number, to: number): number {
    if (buffer[name + 8] !== 45) return bad.alias
    if (tabBeside(buffer, name + 17, from, to)) return bad.tab
    if (this.chunked) return bad.transferEncodings
    if (!valueIs(buffer, from, to, 'chunked')) return bad.transferEncoding
    this.chunked = true
    this.chunkedLine = line
    return 0
  }

  /** Connection (RFC 9110 7.6.1): a list of tokens. */
  private noteConnection(buffer: Buffer, from: number, to: number): number {
    let at = from
    while (at < to) {
      const start = at
      while (at < to && token[buffer[at]!] !== 0) at++
      const end = at
      while (at < to && (buffer[at] === SP || buffer[at] === TAB)) at++
      if (at < to && buffer[at] !== 44) return bad.connectionSyntax
      at++
      while (at < to && (buffer[at] === SP || buffer[at] === TAB)) at++
      if (end === start) continue
      if (valueIs(buffer, start, end, 'keep-alive')) this.persist = true
      else if (valueIs(buffer, start, end, 'close')) this.close = true
      else if (valueIs(buffer, start, end, 'upgrade')) this.switching = true
      else this.listed = true
    }
    return 0
  }

  /** Drops the fields that Connection named. One that decides on framing, routing or identity is never hop-by-hop: naming it is an attack. */
  protected dropListed(): number {
    if (!this.listed) return 0
    for (let line = 0; line < this.count; line++) {
      if (!this.lineWas(line, 'connection')) continue
      for (const part of this.valueAt(line).split(',')) {
        const name = part.trim().toLowerCase()
        if (name === '' || name === 'te') continue
        if (endToEnd.has(name)) return bad.connection
        for (let other = 0; other < this.count; other++) if (this.lineIs(other, name, token)) this.drop(other)
      }
    }
    return 0
  }

  /** Whether a line that is still there has this name, the characters of both seen through `fold`. */
  private lineIs(line: number, name: string, fold: Uint8Array): boolean {
    const start = this.table[line * 4]!
    if (start < 0 || this.table[line * 4 + 1]! - start !== name.length) return false
    for (let i = 0; i < name.length; i++) if (fold[this.text.charCodeAt(start + i)] !== fold[name.charCodeAt(i)]) return false
    return true
  }

  /** The same for a line that was dropped. */
  private lineWas(line: number, name: string): boolean {
    const start = this.table[line * 4]!
    return start < 0 && this.text.slice(~start, this.table[line * 4 + 1]).toLowerCase() === name
  }

  /** Where the line after this one starts; the blank line after the last. */
  private lineEnd(line: number): number {
    if (line + 1 >= this.count) return this.text.length - 2
    const next = this.table[line * 4 + 4]!
    return next < 0 ? ~next : next
  }

  private rebuildAdded(without: string): void {
    const kept = this.addedFlat.splice(0)
    this.added = ''
    this.flat = undefined
    for (let i = 0; i < kept.length; i += 2) if (kept[i] !== without) this.append(kept[i]!, kept[i + 1]!)
  }
}

const endToEnd = new Set([
  'host',
  'content-length',
  'transfer-encoding',
  'content-type',
  'expect',
  'authorization',
  'cookie',
  // Taken away, they would hide who calls (Envoy refuses these too).
  'x-forwarded-client-cert',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-proto',
])

/** A tab is white space around a value (RFC 9110 5.5), but nginx takes it for a part of it, and node:http refuses it behind a length. */
function tabBeside(buffer: Buffer, colon: number, from: number, to: number): boolean {
  for (let at = colon + 1; at < from; at++) if (buffer[at] === TAB) return true
  for (let at = to; buffer[at] !== CR; at++) if (buffer[at] === TAB) return true
  return false
}

function nameRefusal(buffer: Buffer, start: number, at: number): number {
  const byte = buffer[at]!
  if (byte === SP || byte === TAB) return at === start ? bad.fold : bad.colon
  if (byte === LF) return bad.bareLf
  if (byte === CR) return at === start ? bad.bareCr : bad.name
  return bad.name
}
