/** /v1/kv (spec/http-api.md 10): the key-value store of this cluster. It has no peers: a ?peer= is refused, not ignored. */
import type { KvRecord, Reading } from '../catalog/tables.ts'
import { blockingRead } from './blocking.ts'
import { encodeKvRecord } from './encoding.ts'
import { badRequest } from './errors.ts'
import { bytes, empty, json, metaHeaders, type Reply } from './reply.ts'
import { type Query, refusePeer, uint64Param, uintParam } from './request.ts'
import type { Call, Route } from './route.ts'

const shared = 'the key-value store is not shared between peers'

async function get(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  if (call.query.has('keys')) return keys(call)
  const recurse = call.query.has('recurse')
  if (call.rest === '' && !recurse) throw badRequest('Missing key name')
  if (recurse) {
    const reading = await blockingRead(call, () => call.agent.tables.kvList(call.rest))
    return reading.value.length === 0 ? empty(metaHeaders(reading), 404) : json(reading.value.map(encodeKvRecord), metaHeaders(reading))
  }
  const reading = await blockingRead(call, () => call.agent.tables.kv(call.rest))
  if (!reading.value) return empty(metaHeaders(reading), 404)
  return call.query.has('raw') ? raw(reading.value, reading) : json([encodeKvRecord(reading.value)], metaHeaders(reading))
}

/** The headers keep a browser from taking a stored value for a page. */
function raw(record: KvRecord, reading: Reading<unknown>): Reply {
  const headers = { ...metaHeaders(reading), 'X-Content-Type-Options': 'nosniff', 'Content-Security-Policy': 'sandbox' }
  return bytes(Buffer.from(record.value ?? '', 'base64'), 'text/plain', headers)
}

async function keys(call: Call): Promise<Reply> {
  const reading = await blockingRead(call, () => call.agent.tables.kvList(call.rest))
  const separator = call.query.get('separator') || call.query.get('seperator')
  const found = new Set(reading.value.map(record => collapsed(record.key, call.rest.length, separator)))
  if (found.size === 0 && call.rest !== '') return empty(metaHeaders(reading), 404)
  return json([...found], metaHeaders(reading))
}

function collapsed(key: string, prefixLength: number, separator: string): string {
  if (separator === '') return key
  const at = key.indexOf(separator, prefixLength)
  return at === -1 ? key : key.slice(0, at + separator.length)
}

/** At most one of them; Go prints the query in the order of its names. */
function refuseConflicts(query: Query, names: readonly string[]): void {
  const given = names.filter(name => query.has(name))
  if (given.length < 2) return
  throw badRequest(`Conflicting flags: ${given.map(name => `${name}=${encodeURIComponent(query.get(name))}`).join('&')}`)
}

async function put(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  if (call.rest === '') throw badRequest('Missing key name')
  refuseConflicts(call.query, ['acquire', 'cas', 'release'])
  const flags = uint64Param(call.query, 'flags')
  const cas = uintParam(call.query, 'cas')
  const session = (name: string) => (call.query.has(name) ? call.query.get(name) : undefined)
  return json(await call.agent.kv.put(call.rest, call.body, { flags, cas, acquire: session('acquire'), release: session('release') }))
}

async function remove(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  const recurse = call.query.has('recurse')
  if (call.rest === '' && !recurse) throw badRequest('Missing key name')
  refuseConflicts(call.query, ['cas', 'recurse'])
  return json(await call.agent.kv.delete(call.rest, { cas: uintParam(call.query, 'cas'), recurse }))
}

export const kvRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/kv/*',
    takes: ['index', 'wait', 'recurse', 'keys', 'separator', 'raw'],
    what: 'a value; ?recurse all below a prefix, ?keys their names, ?raw the bytes',
    handler: get,
  },
  {
    method: 'PUT',
    path: '/v1/kv/*',
    takes: ['cas', 'flags', 'acquire', 'release'],
    body: 'bytes',
    what: 'stores a value; ?cas= only if its index is this, ?acquire= and ?release= for locks, ?flags=',
    handler: put,
    bodyLimit: 'kvValueBytes',
  },
  {
    method: 'DELETE',
    path: '/v1/kv/*',
    takes: ['cas', 'recurse'],
    what: 'deletes a key, or with ?recurse all below a prefix',
    handler: remove,
  },
]
