/** /v1/config (spec/http-api.md 7): config entries, read, written and deleted one at a time, with compare-and-set. */
import * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import {
  absentKinds,
  type ConfigEntry,
  type ConfigEntryKind,
  configEntryKinds,
  isConfigEntryKind,
  parseConfigEntry,
} from '../../mesh/config-entry.ts'
import { notServedYet } from '../../mesh/gateway-entry.ts'
import { blockingRead } from './blocking.ts'
import { badRequest } from './errors.ts'
import { applyFilter } from './filter.ts'
import { parseJson } from './json.ts'
import { json, metaHeaders, type Reply } from './reply.ts'
import { uintParam } from './request.ts'
import type { Call, Route } from './route.ts'

/** A kind of ours; `empty` for a kind of Consul's of which this version never has an entry. */
function kindOf(text: string): { kind: ConfigEntryKind } | 'empty' | undefined {
  if (isConfigEntryKind(text)) return { kind: text }
  return absentKinds.has(text) ? 'empty' : undefined
}

function encodeEntry(entry: ConfigEntry): unknown {
  return encode(configEntryKinds[entry.kind] as typeof configEntryKinds.mesh, entry as never)
}

async function write(call: Call): Promise<Reply> {
  const cas = uintParam(call.query, 'cas')
  const parsed = parseJson(call.body)
  if (!parsed.ok) throw badRequest(`Request decoding failed: ${parsed.error}`)
  const decoded = parseConfigEntry(parsed.value)
  if (!decoded.ok)
    throw new MeshError(decoded.code, decoded.code === 'bad-request' ? `Request decoding failed: ${decoded.text}` : decoded.text)
  const note = notServedYet(decoded.value.kind)
  return json(await call.agent.configEntries.write(decoded.value, cas), note === undefined ? {} : { 'X-Isthmus-Note': note })
}

async function read(call: Call): Promise<Reply> {
  const { tables } = call.agent
  const slash = call.rest.indexOf('/')
  const kindText = slash === -1 ? call.rest : call.rest.slice(0, slash)
  const name = slash === -1 ? '' : call.rest.slice(slash + 1)
  if (kindText === '') return list(call, undefined)
  const known = kindOf(kindText)
  if (known === undefined) throw new MeshError('invalid', `invalid config entry kind: ${kindText}`)
  if (name === '') return list(call, known)
  const reading = await blockingRead(call, () =>
    known === 'empty' ? { ...tables.configEntries(), value: undefined } : tables.configEntry(known.kind, name),
  )
  if (reading.value) return json(encodeEntry(reading.value), metaHeaders(reading))
  const message = `Config entry not found for ${JSON.stringify(kindText)} / ${JSON.stringify(name)}`
  return { kind: 'bytes', status: 404, headers: { ...metaHeaders(reading), 'Content-Type': 'text/plain; charset=utf-8' }, body: message }
}

async function list(call: Call, known: { kind: ConfigEntryKind } | 'empty' | undefined): Promise<Reply> {
  const { tables } = call.agent
  const reading = await blockingRead(call, () => {
    const all = tables.configEntries(known === 'empty' ? undefined : known?.kind)
    return known === 'empty' ? { ...all, value: [] } : all
  })
  const schema = known === undefined || known === 'empty' ? undefined : configEntryKinds[known.kind]
  const selected = schema ? (applyFilter(call.query, schema, reading.value) as ConfigEntry[]) : reading.value
  return json(selected.map(encodeEntry), metaHeaders(reading))
}

async function remove(call: Call): Promise<Reply> {
  const slash = call.rest.indexOf('/')
  const name = slash === -1 ? '' : call.rest.slice(slash + 1)
  if (slash < 1 || name === '') throw new MeshError('not-found', 'Must provide both a kind and name to delete')
  const known = kindOf(call.rest.slice(0, slash))
  if (known === undefined) throw badRequest(`invalid config entry kind: ${call.rest.slice(0, slash)}`)
  const cas = uintParam(call.query, 'cas')
  const deleted = known === 'empty' ? true : await call.agent.configEntries.delete(known.kind, name, cas)
  return json(cas === undefined ? {} : deleted)
}

export const configRoutes: Route[] = [
  {
    method: 'PUT',
    path: '/v1/config',
    takes: ['cas'],
    body: z.record(z.string(), z.unknown()),
    what: 'writes a config entry; ?cas= only if its index is this',
    handler: write,
  },
  {
    method: 'GET',
    path: '/v1/config/*',
    takes: ['index', 'wait', 'filter'],
    what: 'one entry by kind and name, or all of a kind',
    handler: read,
  },
  { method: 'DELETE', path: '/v1/config/*', takes: ['cas'], what: 'deletes an entry; ?cas= only if its index is this', handler: remove },
]
