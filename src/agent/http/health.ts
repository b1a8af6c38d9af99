/** /v1/health (spec/http-api.md 5): instances with their nodes and checks; with ?peer= those that a peer exports to us, and no others. */
import { encode } from '../../lib/shape.ts'
import { HealthCheck } from '../../mesh/check.ts'
import { Freshness } from '../../mesh/freshness.ts'
import { CheckServiceNode } from '../../mesh/service.ts'
import { sidecarSuffix } from '../../wire/peer-stream.ts'
import type { Reading, Tables } from '../catalog/tables.ts'
import { hasNodeMeta, hasTags, readHeaders } from './answers.ts'
import { blockingRead, waitParams } from './blocking.ts'
import { writeInstances } from './encoding.ts'
import { badRequest } from './errors.ts'
import { applyFilter } from './filter.ts'
import { json, metaHeaders, type Reply, written } from './reply.ts'
import { ingressGateways } from './gateway-services.ts'
import { noted } from './noting.ts'
import { parseBool, type Query } from './request.ts'
import type { Call, Route } from './route.ts'
import { importedNodes } from './ui-summary.ts'

function onlyPassing(query: Query): boolean {
  if (!query.has('passing')) return false
  const text = query.get('passing')
  const value = text === '' ? true : parseBool(text)
  if (value === undefined) throw badRequest('Invalid value for ?passing')
  return value
}

/** What Consul serves from its streaming backend (1.8): no jitter, and the leader unknown. */
function isStreaming(query: Query, cached: boolean): boolean {
  return (waitParams(query).index > 0 || cached) && !query.has('near') && !query.has('merge-central-config')
}

/** `setOf`: what the instances of a peer are replicated as (spec/peering-wire.md 7.4). */
function instanceList(
  read: (tables: Tables, name: string, peer: string) => Reading<CheckServiceNode[]>,
  setOf: (name: string) => string,
): (call: Call) => Promise<Reply> {
  return async call => {
    if (call.rest === '') throw badRequest('Missing service name')
    const passing = onlyPassing(call.query)
    const streaming = isStreaming(call.query, call.read.cached)
    const peer = call.query.get('peer')
    const reading = await blockingRead(call, () => read(call.agent.tables, call.rest, peer), { jitter: !streaming })
    const tags = call.query.all('tag')
    const meta = call.query.all('node-meta')
    const selected = reading.value.filter(
      each =>
        hasTags(each.service.tags, tags) &&
        hasNodeMeta(each.node.meta, meta) &&
        (!passing || each.checks.every(check => check.status === 'passing')),
    )
    const headers = metaHeaders(reading, {
      consistency: call.read.consistency,
      backend: streaming ? 'streaming' : 'blocking-query',
      cached: call.read.cached,
    })
    const found = applyFilter(call.query, CheckServiceNode, selected)
    if (peer === '') return written(writeInstances(found), headers)
    // isthmus's own: how old what a peer told us may be, as of this answer. Ages wake no blocking query.
    const freshness = encode(Freshness, call.agent.peerings.freshness(peer, setOf(call.rest)))
    return written(writeInstances(found, { Freshness: freshness }), headers)
  }
}

/** The checks that `select` leaves of our own, or of what a peer exports to us. */
function checkList(
  missing: string,
  read: (tables: Tables, name: string) => Reading<HealthCheck[]>,
  select: (check: HealthCheck, name: string) => boolean,
): (call: Call) => Promise<Reply> {
  return async call => {
    if (call.rest === '') throw badRequest(missing)
    const { tables } = call.agent
    const peer = call.query.get('peer')
    const imported = () => noted(noting => importedNodes(tables, peer, noting).flatMap(view => view.checks))
    const reading = await blockingRead(call, peer === '' ? () => read(tables, call.rest) : imported)
    const meta = call.query.all('node-meta')
    const found = peer === '' ? reading.value : reading.value.filter(check => select(check, call.rest))
    const selected = meta.length === 0 ? found : found.filter(check => hasNodeMeta(tables.node(check.node).value?.meta, meta))
    return json(
      applyFilter(call.query, HealthCheck, selected).map(check => encode(HealthCheck, check)),
      readHeaders(call, reading),
    )
  }
}

/** Names are looked up without regard to case. */
function isSame(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase()
}

/** Instances of the ingress gateways that expose a service: of its own cluster, as gateways are. */
const ingress = instanceList(
  (tables, name, peer) =>
    noted(noting => (peer === '' ? ingressGateways(tables, name, noting).flatMap(gateway => noting.note(tables.instances(gateway))) : [])),
  name => name,
)

export const healthRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/health/service/*',
    takes: ['index', 'wait', 'peer', 'tag', 'passing', 'near', 'node-meta', 'filter', 'cached'],
    what: 'instances of a service with their checks; ?peer= for those of a peer',
    handler: instanceList(
      (tables, name, peer) => tables.instances(name, peer),
      name => name,
    ),
  },
  {
    method: 'GET',
    path: '/v1/health/connect/*',
    takes: ['index', 'wait', 'peer', 'tag', 'passing', 'near', 'node-meta', 'filter', 'cached'],
    what: 'what reaches a service over the mesh, with checks; ?peer= for the gateways of a peer',
    handler: instanceList(
      (tables, name, peer) => tables.connectInstances(name, peer),
      name => `${name}${sidecarSuffix}`,
    ),
  },
  {
    method: 'GET',
    path: '/v1/health/ingress/*',
    takes: ['index', 'wait', 'passing', 'near', 'node-meta', 'filter', 'cached'],
    what: 'ingress gateways that expose a service, as far as any are registered',
    handler: ingress,
  },
  {
    method: 'GET',
    path: '/v1/health/node/*',
    takes: ['index', 'wait', 'filter', 'peer'],
    what: 'checks of a node',
    handler: checkList(
      'Missing node name',
      (tables, name) => tables.checksOfNode(name),
      (check, name) => isSame(check.node, name),
    ),
  },
  {
    method: 'GET',
    path: '/v1/health/checks/*',
    takes: ['index', 'wait', 'filter', 'node-meta', 'near', 'peer'],
    what: 'checks of a service',
    handler: checkList(
      'Missing service name',
      (tables, name) => tables.checksOfService(name),
      (check, name) => isSame(check.serviceName, name),
    ),
  },
  {
    method: 'GET',
    path: '/v1/health/state/*',
    takes: ['index', 'wait', 'filter', 'node-meta', 'near', 'peer'],
    what: 'checks in a state; any for all',
    handler: checkList(
      'Missing check state',
      (tables, state) => tables.checksInState(state),
      (check, state) => state === 'any' || check.status === state,
    ),
  },
]
