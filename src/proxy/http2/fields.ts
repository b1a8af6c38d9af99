/**
 * Header lists as `node:http2` hands them over, flat: name, value, … (names in lower case, one character a byte). nghttp2 has refused what
 * breaks the protocol (RFC 9113 8.2 and 8.3); this refuses or drops what two programs could still read differently.
 * Invariant: what is shown (`headers`) is what `outgoing` sends.
 */
import { sensitiveHeaders, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http2'
import type { EditableHead } from '../../mesh/header-edit.ts'
import { methodByte, targetByte } from '../http1/chars.ts'
import { validHost } from '../http1/head.ts'
import { bad } from '../http1/refusals.ts'
import { neverInTrailers } from '../http1/trailers.ts'
import { unreachedHeader } from '../http1/unreached.ts'
import type { Http2Limits } from './limits.ts'

const dropped = 1
const once = 2
const crumbs = 3
const host = 4
const expectation = 5
const te = 6

/** Fields that are not simply passed on. */
const special = new Map<string, number>([
  // Hop-by-hop (RFC 9110 7.6.1, RFC 9113 8.2.2; nghttp2 has refused most), and `proxy`, which CGI applications read as HTTP_PROXY.
  ...['connection', 'keep-alive', 'transfer-encoding', 'upgrade', 'http2-settings', 'proxy-connection', 'proxy'].map(
    name => [name, dropped] as const,
  ),
  [unreachedHeader, dropped],
  ...['proxy-authenticate', 'proxy-authorization', 'proxy-authentication-info'].map(name => [name, dropped] as const),
  // node sends these once only: several become one list (RFC 9110 5.3), and the judge sees that list.
  ...[
    'access-control-allow-credentials access-control-max-age access-control-request-method age authorization content-encoding',
    'content-language content-length content-location content-md5 content-range content-type date dnt etag expires from if-match',
    'if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards range referer retry-after tk',
    'upgrade-insecure-requests user-agent x-content-type-options',
  ].flatMap(line => line.split(' ').map(name => [name, once] as const)),
  // Split for the sake of compression (RFC 9113 8.2.3): one field for whoever judges it, as the app reads it.
  ['cookie', crumbs],
  ['host', host],
  ['expect', expectation],
  ['te', te],
])

/** RFC 9113 6.5.2. */
const fieldOverhead = 32

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
  private sensitive: string[] | undefined

  /** Reads one request; negative when it is refused (refusalOf). */
  read(raw: readonly string[], incoming: IncomingHttpHeaders, limits: Http2Limits): number {
    this.sensitive = sensitiveOf(incoming)
    let named: string | undefined
    let bytes = 0
    for (let i = 0; i + 1 < raw.length; i += 2) {
      const name = raw[i]!
      const value = raw[i + 1]!
      // node holds a client to this only once that has acknowledged our settings.
      bytes += name.length + value.length + fieldOverhead
      if (bytes > limits.headerListBytes) return bad.headLong
      if (name.charCodeAt(0) === 58) {
        if (!this.pseudo(name, value)) return bad.requestLine
        continue
      }
      const kind = special.get(name)
      if (kind === host) {
        if (named !== undefined) return bad.hosts
        named = value
      } else if (kind === expectation && value.toLowerCase() !== '100-continue') return bad.expect
      else if (kind === undefined && name.includes('_') && framing.has(name.replaceAll('_', '-'))) return bad.alias
      else add(this.headers, name, value, kind)
    }
    return this.settle(named, limits)
  }

  /** Drops every field of that name (lower case), also where it is spelt with `_` for `-`, which some applications read as the same. */
  remove(name: string): void {
    removeField(this.headers, name)
  }

  /** One more field, or the rest of one that is sent once only. */
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

  outgoing(): OutgoingHttpHeaders {
    const out = outgoingOf(this.headers, this.sensitive)
    out[':method'] = this.method
    out[':scheme'] = this.scheme
    out[':authority'] = this.authority
    out[':path'] = this.target
    return out
  }

  private pseudo(name: string, value: string): boolean {
    switch (name) {
      case ':method':
        this.method = value
        return true
      case ':scheme':
        this.scheme = value
        return true
      case ':authority':
        this.authority = value
        return true
      case ':path':
        this.target = value
        return true
      default:
        return false
    }
  }

  /** What only the whole list tells. */
  private settle(named: string | undefined, limits: Http2Limits): number {
    if (this.method === 'CONNECT') return bad.connect
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

/** A response as the client gets it. `edit` may change its fields, flat. */
export function responseHeaders(
  raw: readonly string[],
  incoming: IncomingHttpHeaders,
  edit?: (head: EditableHead) => void,
): OutgoingHttpHeaders {
  const flat: string[] = []
  for (let i = 0; i + 1 < raw.length; i += 2) if (raw[i]!.charCodeAt(0) !== 58) add(flat, raw[i]!, raw[i + 1]!, special.get(raw[i]!))
  edit?.({ remove: name => removeField(flat, name), append: (name, value) => add(flat, name, value, special.get(name)) })
  const out = outgoingOf(flat, sensitiveOf(incoming))
  out[':status'] = Number(incoming[':status'])
  return out
}

/** Trailers that may go on: none that decides on anything (RFC 9110 6.5.1). */
export function trailersOf(raw: readonly string[]): OutgoingHttpHeaders {
  const flat: string[] = []
  for (let i = 0; i + 1 < raw.length; i += 2) {
    const name = raw[i]!
    if (name.charCodeAt(0) === 58 || neverInTrailers.has(name.replaceAll('_', '-'))) continue
    add(flat, name, raw[i + 1]!, special.get(name))
  }
  return outgoingOf(flat, undefined)
}

function sensitiveOf(incoming: IncomingHttpHeaders): string[] | undefined {
  return (incoming as Record<symbol, string[] | undefined>)[sensitiveHeaders]
}

function add(flat: string[], name: string, value: string, kind: number | undefined): void {
  // TE is hop-by-hop; `trailers` alone means the same on every hop (RFC 9110 10.1.4), and node sends it in this spelling only, and once.
  if (kind === dropped || (kind === te && (value !== 'trailers' || indexOf(flat, name) >= 0))) return
  if (kind === once || kind === crumbs) {
    const at = indexOf(flat, name)
    if (at >= 0) {
      const before = flat[at + 1]!
      // Nothing is added for what is empty: a value that ends in a space is none (RFC 9113 8.2.1), and would be lost on the way.
      if (before === '' || value === '') flat[at + 1] = before + value
      else flat[at + 1] = before + (kind === crumbs ? '; ' : ', ') + value
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

function outgoingOf(flat: readonly string[], sensitive: string[] | undefined): OutgoingHttpHeaders {
  const out = { __proto__: null } as unknown as OutgoingHttpHeaders
  for (let i = 0; i < flat.length; i += 2) {
    const name = flat[i]!
    const known = out[name]
    if (known === undefined) out[name] = flat[i + 1]!
    else if (Array.isArray(known)) known.push(flat[i + 1]!)
    else out[name] = [known as string, flat[i + 1]!]
  }
  // Fields that must never be put into a table (RFC 7541 7.1.3) stay so on the next hop.
  if (sensitive !== undefined && sensitive.length > 0) (out as Record<symbol, unknown>)[sensitiveHeaders] = sensitive
  return out
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
