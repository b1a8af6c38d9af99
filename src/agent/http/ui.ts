/** /v1/internal/ui (spec/http-api.md 6): what the pages of a UI read. `?peer=` shows one peer's services, its absence ours and everybody's. */
import { blockingRead } from './blocking.ts'
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import { Intention, listIntentions } from '../../mesh/intention.ts'
import { exportable, exportedNames } from '../peering/exported-names.ts'
import { badRequest } from './errors.ts'
import { applyFilter } from './filter.ts'
import { addressesOf, gatewayServices } from './gateway-services.ts'
import { noted } from './noting.ts'
import { empty, json, metaHeaders, type Reply } from './reply.ts'
import { refusePeer } from './request.ts'
import type { Call, Route } from './route.ts'
import { emptySummary, encodeNodeView, encodeSummary, importedNodes, instancesOf, ownNodes, peersOf, summarise } from './ui-summary.ts'
import { overview, summaryOf, topology } from './ui-topology.ts'
import { CheckServiceNode } from '../../mesh/service.ts'

async function services(call: Call): Promise<Reply> {
  const { tables } = call.agent
  const peer = call.query.get('peer')
  const reading = await blockingRead(call, () =>
    noted(noting => {
      const peers = peer === '' ? ['', ...peersOf(tables, noting)] : [peer]
      return peers.flatMap(each => instancesOf(tables, each, noting))
    }),
  )
  const selected = applyFilter(call.query, CheckServiceNode, reading.value)
  return json(
    summarise(selected).map(each => encodeSummary(each, 'listing')),
    metaHeaders(reading),
  )
}

async function nodes(call: Call): Promise<Reply> {
  const { tables } = call.agent
  const peer = call.query.get('peer')
  const reading = await blockingRead(call, () =>
    noted(noting => {
      const peers = peer === '' ? peersOf(tables, noting) : [peer]
      const imported = peers.flatMap(each => importedNodes(tables, each, noting))
      return peer === '' ? [...ownNodes(tables, noting), ...imported] : imported
    }),
  )
  return json(reading.value.map(encodeNodeView), metaHeaders(reading))
}

async function node(call: Call): Promise<Reply> {
  if (call.rest === '') throw badRequest('Missing node name')
  const { tables } = call.agent
  const peer = call.query.get('peer')
  const name = call.rest.toLowerCase()
  const reading = await blockingRead(call, () =>
    noted(noting => {
      const views = peer === '' ? ownNodes(tables, noting) : importedNodes(tables, peer, noting)
      return views.find(each => each.node.node.toLowerCase() === name)
    }),
  )
  return reading.value ? json(encodeNodeView(reading.value), metaHeaders(reading)) : empty({}, 404)
}

async function exportedServices(call: Call): Promise<Reply> {
  const { tables, config } = call.agent
  const peer = call.query.get('peer')
  if (peer === '') throw badRequest('Missing peer name')
  const reading = await blockingRead(call, () =>
    noted(noting =>
      exportedNames(
        tables,
        peer,
        each => noting.note(each),
        name => exportable(name, noting.note(tables.instances(name))).length > 0,
      ),
    ),
  )
  return json(
    reading.value.map(name => encodeSummary({ ...emptySummary(name), datacenter: config.datacenter }, 'listing')),
    metaHeaders(reading),
  )
}

function catalogOverview(call: Call): Reply {
  refusePeer(call, 'the overview is of this cluster')
  return json(overview(call.agent.tables))
}

async function serviceTopology(call: Call): Promise<Reply> {
  refusePeer(call, 'the topology is of this cluster')
  if (call.rest === '') throw badRequest('Missing service name')
  if (!call.query.has('kind')) throw badRequest('Missing service kind')
  const kind = call.query.get('kind')
  if (kind !== '' && kind !== 'ingress-gateway') throw badRequest(`Unsupported service kind ${JSON.stringify(kind)}`)
  const { tables, config, defaultAclPolicy } = call.agent
  const context = { tables, datacenter: config.datacenter, defaultAllow: defaultAclPolicy === 'allow' }
  const reading = await blockingRead(call, () => noted(noting => topology(call.rest, context, noting)))
  return json(reading.value, metaHeaders(reading))
}

async function gatewayServicesNodes(call: Call): Promise<Reply> {
  refusePeer(call, 'gateways are of this cluster')
  if (call.rest === '') throw badRequest('Missing gateway name')
  const { tables, config } = call.agent
  const reading = await blockingRead(call, () =>
    noted(noting =>
      gatewayServices(tables, call.rest, noting).map(row => ({
        ...summaryOf(row.service, tables, noting),
        addresses: addressesOf(row, config.datacenter, config.domain),
      })),
    ),
  )
  return json(
    reading.value.map(each => encodeSummary(each, 'plain')),
    metaHeaders(reading),
  )
}

async function gatewayIntentions(call: Call): Promise<Reply> {
  refusePeer(call, 'gateways are of this cluster')
  if (call.rest === '') throw badRequest('Missing gateway name')
  const { tables } = call.agent
  const reading = await blockingRead(call, () =>
    noted(noting => {
      const names = new Set(gatewayServices(tables, call.rest, noting).map(row => row.service))
      return listIntentions(noting.note(tables.configEntries('service-intentions'))).filter(each => names.has(each.destinationName))
    }),
  )
  return json(
    reading.value.map(each => encode(Intention, each)),
    metaHeaders(reading),
  )
}

/** Metrics of others are for the UI's own door, which is not here. */
function metricsProxy(): never {
  throw new MeshError('not-found', 'UI is not enabled')
}

export const uiRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/internal/ui/services',
    takes: ['index', 'wait', 'peer', 'filter'],
    what: 'services, ours and imported, with their health; ?peer=',
    handler: services,
  },
  {
    method: 'GET',
    path: '/v1/internal/ui/nodes',
    takes: ['index', 'wait', 'peer'],
    what: 'nodes with what is on them, ours and imported; ?peer=',
    handler: nodes,
  },
  {
    method: 'GET',
    path: '/v1/internal/ui/node/*',
    takes: ['index', 'wait', 'peer'],
    what: 'one node; ?peer= for an imported one',
    handler: node,
  },
  {
    method: 'GET',
    path: '/v1/internal/ui/exported-services',
    takes: ['index', 'wait', 'peer'],
    what: 'what ?peer= may know of',
    handler: exportedServices,
  },
  { method: 'GET', path: '/v1/internal/ui/catalog-overview', what: 'counts of nodes, services and checks', handler: catalogOverview },
  {
    method: 'GET',
    path: '/v1/internal/ui/service-topology/*',
    takes: ['index', 'wait', 'kind'],
    what: 'who a service talks to',
    handler: serviceTopology,
  },
  {
    method: 'GET',
    path: '/v1/internal/ui/gateway-services-nodes/*',
    takes: ['index', 'wait'],
    what: 'the services of an ingress or terminating gateway, with their health',
    handler: gatewayServicesNodes,
  },
  {
    method: 'GET',
    path: '/v1/internal/ui/gateway-intentions/*',
    takes: ['index', 'wait'],
    what: 'the intentions of those services',
    handler: gatewayIntentions,
  },
  { method: 'GET', path: '/v1/internal/ui/metrics-proxy/*', what: 'refused: the UI is not enabled', handler: metricsProxy },
]
