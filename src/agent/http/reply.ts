/**
 * Answers. A handler returns one as a value; `send` is the only place that writes to a response: encoding, pretty printing,
 * compression and the headers that every registered route carries (spec/http-api.md 1.1, 1.7).
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { randomUUID } from 'node:crypto'
import { gzip } from 'node:zlib'
import type { Reading } from '../catalog/tables.ts'
import { httpLimits } from './limits.ts'

type Headers = Record<string, string>

export type Reply =
  | { kind: 'json'; status: number; headers: Headers; value: unknown }
  /** JSON that is written already. */
  | { kind: 'written'; status: number; headers: Headers; text: string }
  | { kind: 'bytes'; status: number; headers: Headers; body: Buffer | string }
  /** Writes for as long as it likes; called once the headers are out. */
  | { kind: 'stream'; status: number; headers: Headers; start: (response: ServerResponse) => void }

export function json(value: unknown, headers: Headers = {}, status = 200): Reply {
  return { kind: 'json', status, headers, value }
}

/** JSON that has been written before, and is sent as it is. */
export function written(text: string, headers: Headers = {}): Reply {
  return { kind: 'written', status: 200, headers, text }
}

/** 200 without a body, as Consul's handlers that have nothing to say. */
export function empty(headers: Headers = {}, status = 200): Reply {
  return { kind: 'bytes', status, headers, body: '' }
}

export function bytes(body: Buffer | string, contentType: string, headers: Headers = {}, status = 200): Reply {
  return { kind: 'bytes', status, headers: { 'Content-Type': contentType, ...headers }, body }
}

export function text(body: string, status: number, headers: Headers = {}): Reply {
  return bytes(body, 'text/plain; charset=utf-8', headers, status)
}

export interface MetaOptions {
  /** Set by the families that say it (1.6). */
  consistency?: 'leader' | 'stale' | 'consistent'
  backend?: 'blocking-query' | 'streaming'
  /** Set where the agent cache could have answered: our tables always do. */
  cached?: boolean
}

export const cacheHeaders: Headers = { 'X-Cache': 'HIT', Age: '0' }

/** 1.7. The Go client fails without a numeric Lastcontact beside the index; 0 is never sent as an index. */
export function metaHeaders(reading: Pick<Reading<unknown>, 'index'>, options: MetaOptions = {}): Headers {
  const streaming = options.backend === 'streaming'
  const headers: Headers = {
    'X-Consul-Index': String(Math.max(1, reading.index)),
    'X-Consul-Knownleader': String(!streaming),
    'X-Consul-Lastcontact': '0',
    'X-Consul-Query-Backend': options.backend ?? 'blocking-query',
  }
  if (options.consistency) headers['X-Consul-Effective-Consistency'] = options.consistency
  return options.cached ? { ...headers, ...cacheHeaders } : headers
}

/** What a GET says about the index when the read itself failed (1.7). */
export const failedMeta: Headers = {
  'X-Consul-Index': '1',
  'X-Consul-Knownleader': 'false',
  'X-Consul-Lastcontact': '0',
  'X-Consul-Query-Backend': 'blocking-query',
}

export interface SendOptions {
  request: IncomingMessage
  /** Headers of every registered route; empty for the others. */
  common: Headers
  pretty: boolean
  compress: boolean
  /** How long a client may read nothing of its answer. */
  timeoutMs: number
}

export function send(response: ServerResponse, reply: Reply, options: SendOptions): void {
  if (response.headersSent || response.destroyed) return
  response.statusCode = reply.status
  for (const [name, value] of Object.entries({ ...options.common, ...reply.headers })) response.setHeader(name, value)
  if (reply.kind === 'stream') {
    response.flushHeaders()
    reply.start(response)
    return
  }
  response.setTimeout(options.timeoutMs, () => response.destroy())
  if (reply.kind !== 'bytes') response.setHeader('Content-Type', 'application/json')
  const body = bodyOf(reply, options.pretty)
  if (options.compress && body.length >= httpLimits.gzipBytes && acceptsGzip(options.request)) return sendCompressed(response, body)
  response.setHeader('Content-Length', body.length)
  response.end(body)
}

function bodyOf(reply: Exclude<Reply, { kind: 'stream' }>, pretty: boolean): Buffer {
  if (reply.kind === 'bytes') return typeof reply.body === 'string' ? Buffer.from(reply.body) : reply.body
  if (reply.kind === 'json') return encodeJson(reply.value, pretty)
  return pretty ? encodeJson(JSON.parse(reply.text), true) : Buffer.from(reply.text)
}

/** Stands before the digits of a uint64 until they are out of their quotes; no client can know it. */
const digitsMark = `${randomUUID()}:`
const marked = new RegExp(`"${digitsMark}(\\d+)"`, 'g')

/** A uint64 for JSON, from its decimal digits: a JavaScript number is exact only to 2^53 (JSON.rawJSON would do; Node 20 has none). */
export function uint64(digits: string): unknown {
  const value = Number(digits)
  return Number.isSafeInteger(value) ? value : { toJSON: () => digitsMark + digits }
}

function encodeJson(value: unknown, pretty: boolean): Buffer {
  const written = pretty ? `${JSON.stringify(value, undefined, 4)}\n` : JSON.stringify(value)
  return Buffer.from(written.includes(digitsMark) ? written.replace(marked, '$1') : written)
}

function acceptsGzip(request: IncomingMessage): boolean {
  const header = request.headers['accept-encoding']
  return typeof header === 'string' && header.split(',').some(each => /^\s*gzip\s*(;\s*q=(?!0(\.0*)?\s*$).*)?$/i.test(each))
}

function sendCompressed(response: ServerResponse, body: Buffer): void {
  gzip(body, (error, packed) => {
    if (response.destroyed) return
    if (!error) response.setHeader('Content-Encoding', 'gzip')
    const out = error ? body : packed
    response.setHeader('Content-Length', out.length)
    response.end(out)
  })
}
