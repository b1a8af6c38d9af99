/**
 * What header lists mean (RFC 9113 8). They are flat: name, value, … (names in lower case, one character a byte). What breaks the protocol is
 * `malformed` and ends its stream; what two programs could read differently is refused or dropped. Invariant: what is shown (`headers`) is what
 * `outgoing` sends.
 */
import type { EditableHead } from '../../mesh/header-edit.ts'
import { methodByte, targetByte } from '../http1/chars.ts'
import { validHost } from '../http1/head.ts'
import { bad } from '../http1/refusals.ts'
import { neverInTrailers } from '../http1/trailers.ts'
import { unreachedHeader } from '../http1/unreached.ts'
import type { Http2Limits } from './limits.ts'
import type { Head } from './wire/session.ts'

const dropped = 1
const forbidden = 2
const crumbs = 3
const host = 4
const expectation = 5
const te = 6
const length = 7

/** Fields that are not simply passed on. */
const special = new Map<string, number>([
  // Of HTTP/1.1 connections (RFC 9113 8.2.2).
  ...['connection', 'keep-alive', 'transfer-encoding', 'upgrade', 'proxy-connection'].map(name => [name, forbidden] as const),
  // Hop-by-hop (RFC 9110 7.6.1), and `proxy`, which CGI applications read as HTTP_PROXY.
  ...['http2-settings', 'proxy', 'proxy-authenticate', 'proxy-authorization', 'proxy-authentication-info'].map(
    name => [name, dropped] as const,
  ),
  [unreachedHeader, dropped],
  // Split for the sake of compression (RFC 9113 8.2.3): one field for whoever judges it, as the app reads it.
  ['cookie', crumbs],
  ['host', host],
  ['expect', expectation],
  ['te', te],
  ['content-length', length],
])

/** Spelt with `_`, these are the same to applications of the CGI family. */
const framing = new Set(['content-length', 'transfer-encoding'])

export class RequestFields {
  method = ''
  /** With its query. */
  target = ''
  /** The raw target without its query. */
  path = ''
  scheme = ''
  authority = ''
  /** A denial is told in gRPC's own way. */
  grpc = false
  /** What will be forwarded, flat, without pseudo-header fields. */
  readonly headers: string[] = []
  /** Bytes of the body, where that is said; else -1. */
  length = -1
  /** Fields that must never be put into a table (RFC 7541 7.1.3) stay so on the next hop. */
  sensitive: ReadonlySet<string> | undefined
  private hasAuthority = false
  /** A field that is no pseudo-header field was there. */
  private began = false

  /** Reads one request; negative when it is refused (refusalOf). `end`: no body follows. */
  read(head: Head, end: boolean, limits: Http2Limits): number {
    const { fields } = head
    if (head.tooLarge !== 0) {
      // Which says whether its refusal may have a body.
      this.method = valueOf(fields, ':method') ?? ''
      return head.tooLarge === 1 ? bad.headLong : bad.headCount
    }
    this.sensitive = head.sensitive
    let named: string | undefined
    let refused = 0
    for (let i = 0; i < fields.length; i += 2) {
      const name = fields[i]!
      const value = fields[i + 1]!
      if (name.charCodeAt(0) === 58) {
        if (!this.pseudo(name, value)) return bad.malformed
        continue
      }
      this.began = true
      const kind = special.get(name)
      if (kind === undefined) {
        if (name.includes('_') && framing.has(name.replaceAll('_', '-'))) refused ||= bad.alias
        else this.headers.push(name, value)
      } else if (kind === forbidden || (kind === te && value.toLowerCase() !== 'trailers')) return bad.malformed
      else if (kind === host) {
        if (named !== undefined) refused ||= bad.hosts
        named = value
      } else if (kind === expectation && value.toLowerCase() !== '100-continue') refused ||= bad.expect
      else {
        if (kind === length && (this.length >= 0 || (this.length = lengthOf(value)) < 0)) return bad.malformed
        add(this.headers, name, value, kind)
      }
    }
    if (end && this.length > 0) return bad.malformed
    return this.settle(named, limits) || refused
  }

  /** Drops every field of that name (lower case), also where it is spelt with `_` for `-`, which some applications read as the same. */
  remove(name: string): void {
    removeField(this.headers, name)
  }

  /** One more field. */
  append(name: string, value: string): void {
    add(this.headers, name, value, special.get(name))
  }

  /** Asks for another path, with its query. */
  retarget(target: string): void {
    this.target = target
    const query = target.indexOf('?')
    this.path = query < 0 ? target : target.slice(0, query)
  }

  /** The value of the first field of that name (lower case). */
  get(name: string): string | undefined {
    return valueOf(this.headers, name)
  }

  /** Sending it twice has the same effect as once (RFC 9110 9.2.2). */
  get idempotent(): boolean {
    return idempotent.has(this.method)
  }

  /** The whole list, as it is sent. */
  outgoing(): string[] {
    return [':method', this.method, ':scheme', this.scheme, ':authority', this.authority, ':path', this.target, ...this.headers]
  }

  /** They come before all others, each once (RFC 9113 8.3). */
  private pseudo(name: string, value: string): boolean {
    if (this.began) return false
    switch (name) {
      case ':method':
        if (this.method !== '' || value === '') return false
        this.method = value
        return true
      case ':scheme':
        if (this.scheme !== '' || value === '') return false
        this.scheme = value
        return true
      case ':authority':
        if (this.hasAuthority) return false
        this.hasAuthority = true
        this.authority = value
        return true
      case ':path':
        if (this.target !== '' || value === '') return false
        this.target = value
        return true
      default:
        return false
    }
  }

  /** What only the whole list tells. */
  private settle(named: string | undefined, limits: Http2Limits): number {
    if (this.method === 'CONNECT') return this.target === '' && this.scheme === '' && this.hasAuthority ? bad.connect : bad.malformed
    if (this.method === '' || this.scheme === '' || this.target === '') return bad.malformed
    if (!madeOf(this.method, methodByte) || this.method.length > limits.methodBytes) return bad.method
    if (this.scheme !== 'http' && this.scheme !== 'https') return bad.requestLine
    if (this.authority === '') {
      if (named === undefined) return bad.noHost
      this.authority = named
    } else if (named !== undefined && named.toLowerCase() !== this.authority.toLowerCase()) return bad.hostMismatch
    if (!validHost(this.authority)) return bad.host
    if (this.target.length > limits.targetBytes) return bad.targetLong
    const end = pathEnd(this.target)
    if (end < 0 || (this.target.charCodeAt(0) !== 47 && !(this.target === '*' && this.method === 'OPTIONS'))) return bad.target
    this.path = end === this.target.length ? this.target : this.target.slice(0, end)
    const type = valueOf(this.headers, 'content-type')
    this.grpc = type !== undefined && isGrpc(type)
    return 0
  }
}

const idempotent = new Set(['GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'TRACE'])

function removeField(headers: string[], name: string): void {
  const wanted = name.replaceAll('_', '-')
  for (let i = headers.length - 2; i >= 0; i -= 2) {
    const other = headers[i]!
    if (other.length === name.length && (other === wanted || other.replaceAll('_', '-') === wanted)) headers.splice(i, 2)
  }
}

/** The head of a response, interim or final. */
export interface ResponseHead {
  status: number
  /** Flat, without `:status`. */
  fields: string[]
  sensitive: ReadonlySet<string> | undefined
  /** Bytes of the body, where that is said; else -1. */
  length: number
  /** One of us says that no app was reached; to be believed only where it is one of us. */
  unreached: boolean
}

/** undefined: it is malformed. */
export function readResponse({ fields, sensitive }: Head): ResponseHead | undefined {
  const status = fields[1]
  if (fields[0] !== ':status' || status === undefined || !/^[1-5][0-9][0-9]$/.test(status)) return undefined
  const head: ResponseHead = { status: Number(status), fields: [], sensitive, length: -1, unreached: false }
  for (let i = 2; i < fields.length; i += 2) {
    const name = fields[i]!
    const value = fields[i + 1]!
    const kind = special.get(name)
    if (kind === undefined) {
      if (name.charCodeAt(0) === 58) return undefined
      head.fields.push(name, value)
    } else if (kind === forbidden) return undefined
    else if (kind === length) {
      if (head.length >= 0 || (head.length = lengthOf(value)) < 0) return undefined
      // Where there can be no body nothing is said of its length (RFC 9110 8.6).
      if (head.status >= 200 && head.status !== 204) head.fields.push(name, value)
    } else if (name === unreachedHeader) head.unreached = true
    else add(head.fields, name, value, kind)
  }
  return head
}

/** A response as the client gets it. `edit` may change its fields. */
export function outgoingResponse(head: ResponseHead, edit?: (head: EditableHead) => void): string[] {
  const { fields } = head
  edit?.({
    remove: name => removeField(fields, name),
    append: (name, value) => add(fields, name, value, special.get(name)),
  })
  return [':status', String(head.status), ...fields]
}

/** Trailers that may go on: none that decides on anything (RFC 9110 6.5.1). undefined: they are malformed. */
export function trailersOf({ fields }: Head): string[] | undefined {
  const flat: string[] = []
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i]!
    if (name.charCodeAt(0) === 58) return undefined
    if (neverInTrailers.has(name.includes('_') ? name.replaceAll('_', '-') : name)) continue
    const kind = special.get(name)
    if (kind === forbidden) return undefined
    add(flat, name, fields[i + 1]!, kind)
  }
  return flat
}

/** Bytes that a content-length says; -1 when it is none. */
function lengthOf(value: string): number {
  return /^[0-9]{1,15}$/.test(value) ? Number(value) : -1
}

function add(flat: string[], name: string, value: string, kind: number | undefined): void {
  // TE is hop-by-hop; `trailers` alone means the same on every hop (RFC 9110 10.1.4).
  if (kind === dropped || kind === forbidden || (kind === te && (value.toLowerCase() !== 'trailers' || indexOf(flat, name) >= 0))) return
  if (kind === crumbs) {
    const at = indexOf(flat, name)
    if (at >= 0) {
      const before = flat[at + 1]!
      // Nothing is added for what is empty: a value that ends in a space is none (RFC 9113 8.2.1), and would be lost on the way.
      flat[at + 1] = before === '' || value === '' ? before + value : `${before}; ${value}`
      return
    }
  }
  flat.push(name, value)
}

function indexOf(flat: readonly string[], name: string): number {
  for (let i = 0; i < flat.length; i += 2) if (flat[i] === name) return i
  return -1
}

function valueOf(flat: readonly string[], name: string): string | undefined {
  const at = indexOf(flat, name)
  return at < 0 ? undefined : flat[at + 1]
}

function isGrpc(type: string): boolean {
  if (!type.startsWith('application/grpc')) return false
  const next = type.charCodeAt('application/grpc'.length)
  // The end, `+proto`, `;…`
  return Number.isNaN(next) || next === 43 || next === 59
}

function madeOf(text: string, bytes: Uint8Array): boolean {
  if (text === '') return false
  for (let i = 0; i < text.length; i++) if (!bytes[text.charCodeAt(i)]) return false
  return true
}

/** Where the path of a target ends and its query begins; -1 when a byte in it may not be there (as in http1/head.ts). */
function pathEnd(target: string): number {
  let query = -1
  for (let i = 0; i < target.length; i++) {
    const kind = targetByte[target.charCodeAt(i)]
    if (kind === 1) continue
    if (kind === 2) {
      if (query < 0) query = i
    } else if (!kind || query < 0) return -1
  }
  if (target === '') return -1
  return query < 0 ? target.length : query
}
