/**
 * /v1/connect/intentions (spec/http-api.md 9): who may call whom, one source and destination at a time. Intentions ARE the sources of
 * service-intentions entries; nothing else is stored. Every write goes through the entry's own compare-and-set.
 */
import { randomUUID } from 'node:crypto'
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import type { ServiceIntentions } from '../../mesh/intention-entry.ts'
import { Intention, isConnectionAllowed, listIntentions, matchIntentions } from '../../mesh/intention.ts'
import { readHeaders } from './answers.ts'
import { blockingRead } from './blocking.ts'
import { badRequest } from './errors.ts'
import { applyFilter } from './filter.ts'
import { IntentionRequest, parseIntentionName, sourceOf } from './intention-request.ts'
import { json, metaHeaders, type Reply } from './reply.ts'
import { decodeBody, type Query } from './request.ts'
import type { Call, Route } from './route.ts'
import { requireConnect } from './connect.ts'

const kind = 'service-intentions'
const decodeTexts = { prefix: 'Failed to decode request body' } as const

const encodeIntention = (intention: Intention) => encode(Intention, intention)

function entriesOf(call: Call): ServiceIntentions[] {
  return call.agent.tables.configEntries(kind).value
}

function allIntentions(call: Call): Intention[] {
  return listIntentions(entriesOf(call))
}

async function list(call: Call): Promise<Reply> {
  requireConnect(call)
  const reading = await blockingRead(call, () => call.agent.tables.configEntries(kind))
  return json(applyFilter(call.query, Intention, allIntentions(call)).map(encodeIntention), metaHeaders(reading))
}

function nameParam(query: Query, param: 'source' | 'destination', peerAllowed = false): { name: string; peer: string } {
  const text = query.get(param)
  if (text === '') throw new MeshError('invalid', `required query parameter '${param}' not set`)
  return parseIntentionName(param, text, peerAllowed)
}

function exactGet(call: Call): Reply {
  const source = nameParam(call.query, 'source', true)
  const destination = nameParam(call.query, 'destination')
  const found = allIntentions(call).find(
    each => each.sourceName === source.name && (each.sourcePeer ?? '') === source.peer && each.destinationName === destination.name,
  )
  if (!found) throw new MeshError('not-found', 'Intention not found')
  return json(encodeIntention(found))
}

type Sources = ServiceIntentions['sources']

/** Edits one destination's sources; tries again when another write came in between. */
async function edit(call: Call, destination: string, change: (sources: Sources) => Sources | undefined): Promise<void> {
  for (let attempt = 0; attempt < 10; attempt += 1) {
    const before = call.agent.tables.configEntry(kind, destination).value
    const sources = change(before?.sources ?? [])
    if (sources === undefined) return
    const cas = before?.modifyIndex ?? 0
    const entry: ServiceIntentions = { ...(before ?? { kind, name: destination, createIndex: 0, modifyIndex: 0 }), sources }
    const done =
      sources.length === 0
        ? await call.agent.configEntries.delete(kind, destination, cas)
        : await call.agent.configEntries.write(entry, cas)
    if (done) return
  }
  throw new MeshError('unavailable', `intentions of ${JSON.stringify(destination)} change too fast; try again`)
}

async function exactPut(call: Call): Promise<Reply> {
  const source = nameParam(call.query, 'source')
  const destination = nameParam(call.query, 'destination')
  const request = decodeBody(call.body, IntentionRequest, decodeTexts)
  if (request.sourcePeer) throw new MeshError('invalid', 'SourcePeer field is not supported on this endpoint. Use config entries instead')
  await edit(call, destination.name, sources => {
    const made = sourceOf(request, source.name)
    const at = sources.findIndex(each => each.name === source.name && !each.peer)
    return at === -1 ? [...sources, made] : sources.with(at, { ...made, ...legacyOf(sources[at]!) })
  })
  return json(true)
}

/** An intention that has an id keeps it, and says when it changed. */
function legacyOf(source: Sources[number]): Partial<Sources[number]> {
  if (source.legacyId === undefined) return {}
  return { legacyId: source.legacyId, legacyCreateTime: source.legacyCreateTime, legacyUpdateTime: new Date().toISOString() }
}

async function exactDelete(call: Call): Promise<Reply> {
  const source = nameParam(call.query, 'source')
  const destination = nameParam(call.query, 'destination')
  await edit(call, destination.name, sources => {
    const kept = sources.filter(each => each.name !== source.name || each.peer)
    return kept.length === sources.length ? undefined : kept
  })
  return json(true)
}

async function match(call: Call): Promise<Reply> {
  const by = call.query.get('by')
  if (by === '') throw new MeshError('invalid', "required query parameter 'by' not set")
  if (by !== 'source' && by !== 'destination') throw new MeshError('invalid', "'by' parameter must be one of 'source' or 'destination'")
  const asked = call.query.all('name')
  if (asked.length === 0) throw new MeshError('invalid', "required query parameter 'name' not set")
  const names = asked.map(text => [text, parseIntentionName('name', text, false).name] as const)
  const reading = await blockingRead(call, () => call.agent.tables.configEntries(kind))
  const entries = entriesOf(call)
  const found = names.map(([text, name]) => [text, matchIntentions(entries, by, name).map(encodeIntention)] as const)
  return json(Object.fromEntries(found), readHeaders(call, reading, { cacheable: true }))
}

function check(call: Call): Reply {
  const source = nameParam(call.query, 'source')
  const destination = nameParam(call.query, 'destination')
  const type = call.query.get('source-type') || 'consul'
  if (type !== 'consul') throw new MeshError('invalid', `unsupported SourceType: ${JSON.stringify(type)}`)
  return json({ Allowed: isConnectionAllowed(entriesOf(call), source.name, destination.name, call.agent.defaultAclPolicy) })
}

async function create(call: Call): Promise<Reply> {
  const request = decodeBody(call.body, IntentionRequest, decodeTexts)
  if (request.id) throw badRequest('ID must be empty when creating a new intention')
  refuseNamespaces(request)
  refusePeerSource(request)
  const id = randomUUID()
  const now = new Date().toISOString()
  const name = required(request.sourceName, 'SourceName')
  await edit(call, required(request.destinationName, 'DestinationName'), sources => [
    ...sources,
    { ...sourceOf(request, name), legacyId: id, legacyCreateTime: now, legacyUpdateTime: now },
  ])
  return json({ ID: id })
}

function required(value: string | undefined, field: string): string {
  if (!value) throw new MeshError('invalid', `${field} must be set`)
  return value
}

/** The community edition has the default namespace only. */
function refuseNamespaces(request: IntentionRequest): void {
  for (const [field, value] of [
    ['SourceNS', request.sourceNs],
    ['DestinationNS', request.destinationNs],
  ] as const) {
    if (value && value !== 'default') throw badRequest(`Invalid ${field}(${value}): Namespaces is a Consul Enterprise feature`)
  }
}

function refusePeerSource(request: IntentionRequest): void {
  if (request.sourcePeer) throw new MeshError('invalid', 'SourcePeer field is not supported on this endpoint. Use config entries instead')
}

function byId(call: Call): Intention | undefined {
  if (call.rest.length !== 36) throw badRequest('failed config entry lookup: index error: UUID must be 36 characters')
  return allIntentions(call).find(each => each.id === call.rest.toLowerCase())
}

function getById(call: Call): Reply {
  const found = byId(call)
  if (!found) throw new MeshError('not-found', 'Intention not found')
  return json(encodeIntention(found))
}

async function putById(call: Call): Promise<Reply> {
  const found = byId(call)
  const request = decodeBody(call.body, IntentionRequest, decodeTexts)
  refuseNamespaces(request)
  refusePeerSource(request)
  if (!found?.id) throw new MeshError('invalid', `Cannot modify non-existent intention: '${call.rest}'`)
  const destination = request.destinationName || found.destinationName
  if (destination !== found.destinationName) throw new MeshError('invalid', 'Cannot modify DestinationName for an intention')
  const { id } = found
  await edit(call, destination, sources =>
    sources.map(each => (each.legacyId === id ? { ...sourceOf(request, request.sourceName || each.name), ...legacyOf(each) } : each)),
  )
  return json({ ID: id })
}

async function deleteById(call: Call): Promise<Reply> {
  const found = byId(call)
  if (!found) throw new MeshError('invalid', `Cannot delete non-existent intention: '${call.rest}'`)
  await edit(call, found.destinationName, sources => sources.filter(each => each.legacyId !== found.id))
  return json(true)
}

export const intentionRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/connect/intentions',
    takes: ['index', 'wait', 'filter'],
    what: 'all intentions, the one that counts first',
    handler: list,
  },
  {
    method: 'POST',
    path: '/v1/connect/intentions',
    body: IntentionRequest,
    what: 'creates an intention with an id (deprecated in Consul; its CLI uses it)',
    handler: create,
  },
  {
    method: 'GET',
    path: '/v1/connect/intentions/match',
    takes: ['index', 'wait', 'by', 'name', 'cached'],
    what: 'the intentions that concern a source or a destination',
    handler: match,
  },
  {
    method: 'GET',
    path: '/v1/connect/intentions/check',
    takes: ['source', 'destination', 'source-type'],
    what: 'may this source call this destination?',
    handler: check,
  },
  {
    method: 'GET',
    path: '/v1/connect/intentions/exact',
    takes: ['source', 'destination'],
    what: 'the intention of one source and destination',
    handler: exactGet,
  },
  {
    method: 'PUT',
    path: '/v1/connect/intentions/exact',
    takes: ['source', 'destination'],
    body: IntentionRequest,
    what: 'writes the intention of one source and destination',
    handler: exactPut,
  },
  {
    method: 'DELETE',
    path: '/v1/connect/intentions/exact',
    takes: ['source', 'destination'],
    what: 'deletes the intention of one source and destination',
    handler: exactDelete,
  },
  { method: 'GET', path: '/v1/connect/intentions/*', what: 'an intention by its id', handler: getById },
  { method: 'PUT', path: '/v1/connect/intentions/*', body: IntentionRequest, what: 'rewrites an intention by its id', handler: putById },
  { method: 'DELETE', path: '/v1/connect/intentions/*', what: 'deletes an intention by its id', handler: deleteById },
]
