/** /v1/query (spec/http-api.md 13): prepared queries, stored and executed. A stored token is never told. */
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import { PreparedQuery } from '../../mesh/prepared-query.ts'
import type { CheckServiceNode } from '../../mesh/service.ts'
import { badId } from '../catalog/queries.ts'
import { readHeaders } from './answers.ts'
import { blockingRead } from './blocking.ts'
import { encodeInstance } from './encoding.ts'
import { empty, failedMeta, json, type Reply, text } from './reply.ts'
import { decodeBody, parseBool } from './request.ts'
import type { Call, Route } from './route.ts'
import { queryMeta, tagless } from './txn.ts'

const hidden = '<hidden>'
const decodeTexts = { prefix: 'Request decode failed' } as const

function encodeQuery(query: PreparedQuery): unknown {
  return encode(PreparedQuery, query.token === '' ? query : { ...query, token: hidden })
}

function notFound(): Reply {
  return text('Query not found', 404, failedMeta)
}

async function list(call: Call): Promise<Reply> {
  const reading = await blockingRead(call, () => call.agent.tables.preparedQueries())
  return json(reading.value.map(encodeQuery), readHeaders(call, reading))
}

async function create(call: Call): Promise<Reply> {
  const query = decodeBody(call.body, PreparedQuery, decodeTexts)
  if (query.id !== '') throw new MeshError('invalid', 'ID must be empty when creating a new prepared query')
  return json({ ID: await call.agent.queries.create(withoutHidden(query)) })
}

/** What was read can be written back only with its token. */
function withoutHidden(query: PreparedQuery): PreparedQuery {
  if (query.token !== hidden) return query
  throw new MeshError(
    'invalid',
    `Invalid prepared query: Bad Token '${hidden}', it looks like a query definition with a redacted token was submitted`,
  )
}

function idOf(call: Call): string {
  return call.params['id'] ?? ''
}

async function read(call: Call): Promise<Reply> {
  const id = idOf(call)
  if (id.length !== 36) throw badId()
  const reading = await blockingRead(call, () => call.agent.tables.preparedQuery(id))
  return reading.value ? json([encodeQuery(reading.value)], readHeaders(call, reading)) : notFound()
}

async function update(call: Call): Promise<Reply> {
  const query = decodeBody(call.body, PreparedQuery, decodeTexts)
  await call.agent.queries.update({ ...withoutHidden(query), id: idOf(call) })
  return empty()
}

async function remove(call: Call): Promise<Reply> {
  await call.agent.queries.delete(idOf(call))
  return empty()
}

function limitOf(call: Call): number {
  const limit = call.query.get('limit')
  if (limit === '') return 0
  if (!/^[+-]?\d{1,9}$/.test(limit))
    throw new MeshError('invalid', `Bad limit: strconv.Atoi: parsing ${JSON.stringify(limit)}: invalid syntax`)
  return Math.max(0, Number(limit))
}

function connectOf(call: Call): true | undefined {
  const given = call.query.get('connect')
  if (given === '') return undefined
  const connect = parseBool(given)
  if (connect === undefined) {
    throw new MeshError('invalid', `Error parsing 'connect' value: strconv.ParseBool: parsing ${JSON.stringify(given)}: invalid syntax`)
  }
  return connect || undefined
}

function execute(call: Call): Reply {
  const limit = limitOf(call)
  const connect = connectOf(call)
  const { queries } = call.agent
  const query = queries.resolve(idOf(call))
  if (!query) return notFound()
  const found = queries.execute(query, { limit, connect })
  return json(
    {
      Service: query.service.service,
      Nodes: found.nodes.map(encodeNode),
      DNS: { TTL: query.dns.ttl },
      Datacenter: found.datacenter,
      PeerName: found.peerName,
      Failovers: found.failovers,
      ...queryMeta(call.read.consistency),
    },
    readHeaders(call, { index: 1 }, { cacheable: true }),
  )
}

function encodeNode(instance: CheckServiceNode): unknown {
  const wire = encodeInstance(instance) as { Service: unknown; Checks: unknown[] }
  return { ...wire, Service: tagless(wire.Service, 'Tags'), Checks: wire.Checks.map(check => tagless(check, 'ServiceTags')) }
}

function explain(call: Call): Reply {
  const query = call.agent.queries.resolve(idOf(call))
  if (!query) return notFound()
  return json({ Query: encodeQuery(query), ...queryMeta(call.read.consistency) }, readHeaders(call, { index: 1 }))
}

export const queryRoutes: Route[] = [
  { method: 'GET', path: '/v1/query', takes: ['index', 'wait'], what: 'all prepared queries', handler: list },
  { method: 'POST', path: '/v1/query', body: PreparedQuery, what: 'stores a prepared query', handler: create },
  {
    method: 'GET',
    path: '/v1/query/:id',
    takes: ['index', 'wait'],
    what: 'one prepared query, in a list',
    handler: read,
    ownOptions: true,
  },
  { method: 'PUT', path: '/v1/query/:id', body: PreparedQuery, what: 'rewrites a prepared query', handler: update, ownOptions: true },
  { method: 'DELETE', path: '/v1/query/:id', what: 'deletes a prepared query', handler: remove, ownOptions: true },
  {
    method: 'GET',
    path: '/v1/query/:id/execute',
    takes: ['limit', 'near', 'connect', 'cached'],
    what: 'the instances that a query finds, here or at its first target that has any',
    handler: execute,
    ownOptions: true,
  },
  { method: 'GET', path: '/v1/query/:id/explain', what: 'the query that a name stands for', handler: explain, ownOptions: true },
]
