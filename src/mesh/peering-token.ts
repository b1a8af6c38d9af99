/**
 * The peering token: base64 of one line of JSON that carries everything a dialer needs (spec/peering-wire.md 1). Encoding prints
 * Consul's keys in Consul's order; decoding takes what a real Consul takes and refuses with its texts, because clients match them.
 */
import { splitHostPort } from '../lib/address.ts'
import { isObject } from '../lib/shape.ts'
import type { Locality } from './node.ts'

export interface PeeringToken {
  /** Roots of the acceptor; empty means plaintext, which a dialer takes only when allowed to. */
  ca: string[]
  /** When not empty, only these are dialled. */
  manualServerAddresses: string[]
  serverAddresses: string[]
  serverName: string
  peerId: string
  establishmentSecret: string
  remote: { partition: string; datacenter: string; locality?: Locality }
}

export type TokenResult = { ok: true; token: PeeringToken } | { ok: false; message: string }

const maxTokenLength = 1024 * 1024

export function encodeToken(token: PeeringToken): string {
  const { locality } = token.remote
  const json = JSON.stringify({
    CA: listOrNull(token.ca),
    ManualServerAddresses: listOrNull(token.manualServerAddresses),
    ServerAddresses: listOrNull(token.serverAddresses),
    ServerName: token.serverName,
    PeerID: token.peerId,
    EstablishmentSecret: token.establishmentSecret,
    Remote: {
      Partition: token.remote.partition,
      Datacenter: token.remote.datacenter,
      Locality: locality ? { Region: locality.region ?? '', Zone: locality.zone ?? '' } : null,
    },
  })
  // Go's encoder writes these three as escapes; so do we, that the same token gives the same text.
  const escaped = json.replace(/[<>&]/g, char => `\\u00${char.charCodeAt(0).toString(16)}`)
  let binary = ''
  for (const byte of new TextEncoder().encode(escaped)) binary += String.fromCharCode(byte)
  return btoa(binary)
}

function listOrNull(list: string[]): string[] | null {
  return list.length === 0 ? null : list
}

/** Reads a token and checks it as a dialer does; the message is the one a real Consul answers (spec 1.2). */
export function decodeToken(text: string): TokenResult {
  if (text.length > maxTokenLength) return refuse(`peering token is longer than ${maxTokenLength} characters`)
  const bytes = decodeBase64(text)
  if (typeof bytes === 'number') return refuse(`failed to decode token: illegal base64 data at input byte ${bytes}`)
  const json = new TextDecoder().decode(bytes)
  let input: unknown
  try {
    input = JSON.parse(json)
  } catch (error) {
    return refuse(goJsonError(json, error))
  }
  const read = readFields(input)
  if (typeof read === 'string') return refuse(read)
  const problem = checkToken(read)
  return problem === undefined ? { ok: true, token: read } : refuse(problem)
}

function refuse(message: string): TokenResult {
  return { ok: false, message }
}

/** Rules between the fields; undefined when all hold. */
function checkToken(token: PeeringToken): string | undefined {
  if (token.ca.some(pem => !/-----BEGIN [A-Z0-9 ]+-----[\s\S]*-----END [A-Z0-9 ]+-----/.test(pem))) {
    return 'peering token invalid CA: no PEM-encoded data found'
  }
  if (token.serverAddresses.length === 0 && token.manualServerAddresses.length === 0) return 'peering token server addresses value is empty'
  const dialled = token.manualServerAddresses.length > 0 ? token.manualServerAddresses : token.serverAddresses
  const bad = dialled.find(address => !isHostPort(address))
  if (bad !== undefined) return `${bad} is not a valid peering server address`
  if (token.ca.length > 0 && token.serverName === '') return 'peering token server name value is empty'
  if (token.peerId === '') return 'peering token peer ID value is empty'
  return undefined
}

/** `host:port`, an IPv6 host in brackets, the port in 1..65535. */
export function isHostPort(address: string): boolean {
  return splitHostPort(address) !== undefined
}

type Fields = Record<string, unknown>

/** Picks the known keys without regard to case; a string answers with Go's complaint about a wrong type. */
function readFields(input: unknown): PeeringToken | string {
  if (input === null) return emptyToken()
  if (!isObject(input)) return typeError(input, '', 'structs.PeeringToken')
  const problems: string[] = []
  const text = (from: Fields, key: string, path: string): string => {
    const value = from[key.toLowerCase()] ?? ''
    if (typeof value === 'string') return value
    problems.push(typeError(value, `${path}${key}`, 'string'))
    return ''
  }
  const list = (from: Fields, key: string): string[] => {
    const value = from[key.toLowerCase()] ?? []
    if (!Array.isArray(value)) problems.push(typeError(value, `PeeringToken.${key}`, '[]string'))
    else {
      const wrong: unknown = value.find(each => typeof each !== 'string' && each !== null)
      if (wrong === undefined) return value.map(each => (each as string | null) ?? '')
      problems.push(typeError(wrong, `PeeringToken.${key}`, 'string'))
    }
    return []
  }
  const struct = (from: Fields, key: string, path: string, type: string): Fields | undefined => {
    const value = from[key.toLowerCase()] ?? undefined
    if (value === undefined) return undefined
    if (isObject(value)) return fold(value)
    problems.push(typeError(value, `${path}${key}`, type))
    return undefined
  }
  const top = fold(input)
  const remote = struct(top, 'Remote', 'PeeringToken.', 'structs.PeeringTokenRemote') ?? {}
  const locality = struct(remote, 'Locality', 'PeeringTokenRemote.Remote.', 'structs.Locality')
  const token: PeeringToken = {
    ca: list(top, 'CA'),
    manualServerAddresses: list(top, 'ManualServerAddresses'),
    serverAddresses: list(top, 'ServerAddresses'),
    serverName: text(top, 'ServerName', 'PeeringToken.'),
    peerId: text(top, 'PeerID', 'PeeringToken.'),
    establishmentSecret: text(top, 'EstablishmentSecret', 'PeeringToken.'),
    remote: {
      partition: text(remote, 'Partition', 'PeeringTokenRemote.Remote.'),
      datacenter: text(remote, 'Datacenter', 'PeeringTokenRemote.Remote.'),
      ...(locality && {
        locality: {
          region: text(locality, 'Region', 'Locality.Remote.Locality.'),
          zone: text(locality, 'Zone', 'Locality.Remote.Locality.'),
        },
      }),
    },
  }
  return problems[0] ?? token
}

function emptyToken(): PeeringToken {
  return {
    ca: [],
    manualServerAddresses: [],
    serverAddresses: [],
    serverName: '',
    peerId: '',
    establishmentSecret: '',
    remote: { partition: '', datacenter: '' },
  }
}

/** Keys in lower case; of two spellings the last wins, as in Go. */
function fold(input: Record<string, unknown>): Fields {
  const out: Fields = Object.create(null) as Fields
  for (const [key, value] of Object.entries(input)) out[key.toLowerCase()] = value
  return out
}

function typeError(value: unknown, field: string, type: string): string {
  const is = Array.isArray(value) ? 'array' : typeof value === 'boolean' ? 'bool' : typeof value
  return field === ''
    ? `json: cannot unmarshal ${is} into Go value of type ${type}`
    : `json: cannot unmarshal ${is} into Go struct field ${field} of type ${type}`
}

/** What Go says of the same text: where V8 stopped, or that the text ended too early. */
function goJsonError(json: string, error: unknown): string {
  const message = error instanceof Error ? error.message : ''
  const position = /at position (\d+)/.exec(message)?.[1]
  const token = /token '?(.)'?,/su.exec(message)?.[1]
  const char = position === undefined ? (token ?? json.trimStart()[0]) : json[Number(position)]
  if (/end of JSON|Unterminated/.test(message) || char === undefined) return 'unexpected end of JSON input'
  const where = /after property value/.test(message)
    ? 'after object key:value pair'
    : /after array element/.test(message)
      ? 'after array element'
      : /property name/.test(message)
        ? 'looking for beginning of object key string'
        : /after JSON|non-whitespace/.test(message)
          ? 'after top-level value'
          : 'looking for beginning of value'
  return `invalid character '${char}' ${where}`
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'
const sextets = new Map(Array.from(alphabet).map((char, value) => [char, value]))

/** Standard alphabet with padding, line breaks ignored; a number is the offset of the first byte that Go would complain about. */
function decodeBase64(text: string): Uint8Array | number {
  const out = new Uint8Array(Math.ceil((text.length * 3) / 4))
  let length = 0
  let quantum = 0
  let filled = 0
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at]!
    if (char === '\n' || char === '\r') continue
    const value = sextets.get(char)
    if (value !== undefined) {
      quantum = (quantum << 6) | value
      filled += 1
      if (filled < 4) continue
      out[length] = quantum >> 16
      out[length + 1] = quantum >> 8
      out[length + 2] = quantum
      length += 3
      quantum = 0
      filled = 0
      continue
    }
    if (char !== '=' || filled < 2) return at
    const problem = paddingProblem(text, at, filled)
    if (problem !== undefined) return problem
    out[length] = filled === 2 ? quantum >> 4 : quantum >> 10
    if (filled === 3) out[length + 1] = quantum >> 2
    return out.subarray(0, length + filled - 1)
  }
  return filled === 0 ? out.subarray(0, length) : text.length - filled
}

/** `=` stands at `at` with `filled` sextets before it: two of it are needed after two, and nothing may follow. */
function paddingProblem(text: string, at: number, filled: number): number | undefined {
  const skip = (from: number) => {
    while (text[from] === '\n' || text[from] === '\r') from += 1
    return from
  }
  let next = skip(at + 1)
  if (filled === 2) {
    if (next === text.length) return text.length
    if (text[next] !== '=') return next - 1
    next = skip(next + 1)
  }
  return next < text.length ? next : undefined
}
