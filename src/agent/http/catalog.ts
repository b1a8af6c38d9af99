/** /v1/catalog (spec/http-api.md 4): what is registered in this cluster, or with ?peer= what a peer exports to us; never both. */
import * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { HealthCheck } from '../../mesh/check.ts'
import { Locality, Node } from '../../mesh/node.ts'
import { type CheckServiceNode, NodeService } from '../../mesh/service.ts'
import type { Reading, Tables } from '../catalog/tables.ts'
import { hasNodeMeta, hasTags, readHeaders } from './answers.ts'
import { blockingRead } from './blocking.ts'
import { encodeNode, encodeService, encodeServiceNode, ServiceNode, serviceNodeOf } from './encoding.ts'
import { badRequest } from './errors.ts'
import { applyFilter, compileFilter } from './filter.ts'
import { encodeGatewayService, gatewayServices } from './gateway-services.ts'
import { noted } from './noting.ts'
import { cacheHeaders, json, type Reply } from './reply.ts'
import { checkDatacenter, decodeBody } from './request.ts'
import type { Call, Route } from './route.ts'
import { importedNodes, instancesOf } from './ui-summary.ts'

const stringMap = z.record(z.string(), z.string()).nullable().optional()

const Registration = z.object({
  node: z.string().default(''),
  address: z.string().optional(),
  id: z.string().optional(),
  datacenter: z.string().optional(),
  taggedAddresses: stringMap,
  nodeMeta: stringMap,
  locality: Locality.optional(),
  peerName: z.string().optional(),
  skipNodeUpdate: z.boolean().optional(),
  service: NodeService.partial().optional(),
  check: HealthCheck.partial().optional(),
  checks: z.array(HealthCheck.partial()).optional(),
  writeRequest: z.unknown().optional(),
})

const Deregistration = z.object({
  datacenter: z.string().optional(),
  node: z.string().default(''),
  serviceId: z.string().optional(),
  checkId: z.string().optional(),
  address: z.string().optional(),
  peerName: z.string().optional(),
})

const decodeTexts = { prefix: 'Request decode failed', namespaceHint: true } as const

async function register(call: Call): Promise<Reply> {
  const { writeRequest: _ignored, ...request } = decodeBody(call.body, Registration, decodeTexts)
  checkDatacenter(request.datacenter ?? '', call.agent.config.datacenter, call.agent.tables)
  await call.agent.catalog.register(request)
  return json(true)
}

async function deregister(call: Call): Promise<Reply> {
  const { node, serviceId, checkId, datacenter } = decodeBody(call.body, Deregistration, decodeTexts)
  checkDatacenter(datacenter ?? '', call.agent.config.datacenter, call.agent.tables)
  await call.agent.catalog.deregister({ node, serviceId: serviceId || undefined, checkId: checkId || undefined })
  return json(true)
}

async function nodes(call: Call): Promise<Reply> {
  const { tables } = call.agent
  const peer = call.query.get('peer')
  const imported = () => noted(noting => importedNodes(tables, peer, noting).map(view => view.node))
  const reading = await blockingRead(call, peer === '' ? () => tables.nodes() : imported)
  const wanted = call.query.all('node-meta')
  const found = applyFilter(call.query, Node, reading.value).filter(node => hasNodeMeta(node.meta, wanted))
  return json(found.map(encodeNode), readHeaders(call, reading))
}

async function services(call: Call): Promise<Reply> {
  const { tables } = call.agent
  const peer = call.query.get('peer')
  if (peer !== '') return importedServices(call, peer)
  const reading = await blockingRead(call, () => tables.services())
  const selects = call.query.get('filter') !== '' || call.query.has('node-meta')
  const all = selects
    ? selected(
        call,
        [...reading.value.keys()].flatMap(name => tables.instances(name).value),
      )
    : reading.value
  return json(Object.fromEntries(all), readHeaders(call, reading, { cacheable: true }))
}

async function importedServices(call: Call, peer: string): Promise<Reply> {
  const reading = await blockingRead(call, () => noted(noting => instancesOf(call.agent.tables, peer, noting)))
  return json(Object.fromEntries(selected(call, reading.value)), readHeaders(call, reading, { cacheable: true }))
}

/** The names and tags of the instances that the filter and the node meta leave. */
function selected(call: Call, instances: readonly CheckServiceNode[]): Map<string, string[]> {
  const filter = call.query.get('filter')
  const selects = filter === '' ? () => true : compileFilter(filter, ServiceNode)
  const wanted = call.query.all('node-meta')
  const found = new Map<string, Set<string>>()
  for (const each of instances) {
    if (!hasNodeMeta(each.node.meta, wanted) || !selects(serviceNodeOf(each))) continue
    const tags = found.get(each.service.service) ?? new Set()
    for (const tag of each.service.tags) tags.add(tag)
    found.set(each.service.service, tags)
  }
  return new Map([...found].map(([name, tags]) => [name, [...tags].sort()]))
}

function serviceList(read: (tables: Tables, name: string, peer: string) => Reading<CheckServiceNode[]>): (call: Call) => Promise<Reply> {
  return async call => {
    if (call.rest === '') throw badRequest('Missing service name')
    const reading = await blockingRead(call, () => read(call.agent.tables, call.rest, call.query.get('peer')))
    const tags = call.query.all('tag')
    const meta = call.query.all('node-meta')
    const found = reading.value.filter(each => hasTags(each.service.tags, tags) && hasNodeMeta(each.node.meta, meta)).map(serviceNodeOf)
    return json(applyFilter(call.query, ServiceNode, found).map(encodeServiceNode), readHeaders(call, reading, { cacheable: true }))
  }
}

type OnNode = { node: Node; services: NodeService[] } | undefined

async function nodeReading(call: Call): Promise<Reading<OnNode>> {
  if (call.rest === '') throw badRequest('Missing node name')
  const { tables } = call.agent
  const peer = call.query.get('peer')
  const imported = () =>
    noted((noting): OnNode => importedNodes(tables, peer, noting).find(view => view.node.node.toLowerCase() === call.rest.toLowerCase()))
  const reading = await blockingRead<OnNode>(call, peer === '' ? () => tables.nodeServices(nodeNamed(tables, call.rest)) : imported)
  if (!reading.value) return reading
  return { ...reading, value: { node: reading.value.node, services: applyFilter(call.query, NodeService, reading.value.services) } }
}

/** A node by its name, or by a prefix of its id (two characters at least) that only one node has. */
function nodeNamed(tables: Tables, text: string): string {
  if (tables.node(text).value !== undefined || text.length < 2 || !/^[0-9a-f-]+$/i.test(text)) return text
  const matches = tables.nodes().value.filter(node => node.id.startsWith(text.toLowerCase()))
  return matches.length === 1 ? matches[0]!.node : text
}

async function node(call: Call): Promise<Reply> {
  const reading = await nodeReading(call)
  const found = reading.value && {
    Node: encodeNode(reading.value.node),
    Services: Object.fromEntries(reading.value.services.map(service => [service.id, encodeService(service)])),
  }
  return json(found ?? null, readHeaders(call, reading))
}

async function nodeServices(call: Call): Promise<Reply> {
  const reading = await nodeReading(call)
  const found = reading.value && { Node: encodeNode(reading.value.node), Services: reading.value.services.map(encodeService) }
  return json(found ?? { Node: null, Services: null }, readHeaders(call, reading))
}

async function servicesOfGateway(call: Call): Promise<Reply> {
  if (call.rest === '') throw badRequest('Missing gateway name')
  const reading = await blockingRead(call, () => noted(noting => gatewayServices(call.agent.tables, call.rest, noting)))
  return json(reading.value.map(encodeGatewayService), readHeaders(call, reading))
}

function datacenters(call: Call): Reply {
  return json([call.agent.config.datacenter], call.read.cached ? cacheHeaders : {})
}

function virtualIps(): never {
  throw new MeshError('unsupported', 'manual virtual addresses are not supported; a service gets its own from 240.0.0.0/4')
}

export const catalogRoutes: Route[] = [
  {
    method: 'PUT',
    path: '/v1/catalog/register',
    body: Registration,
    what: 'registers a node, and a service or checks on it',
    handler: register,
  },
  {
    method: 'PUT',
    path: '/v1/catalog/deregister',
    body: Deregistration,
    what: 'removes a node, or one service or check of it',
    handler: deregister,
  },
  {
    method: 'GET',
    path: '/v1/catalog/datacenters',
    takes: ['cached'],
    what: 'lists the datacenters: this one; peers are not datacenters',
    handler: datacenters,
  },
  {
    method: 'GET',
    path: '/v1/catalog/nodes',
    takes: ['index', 'wait', 'filter', 'near', 'node-meta', 'peer'],
    what: 'lists the nodes of this cluster',
    handler: nodes,
  },
  {
    method: 'GET',
    path: '/v1/catalog/services',
    takes: ['index', 'wait', 'filter', 'node-meta', 'cached', 'peer'],
    what: 'lists the names of services with their tags',
    handler: services,
  },
  {
    method: 'GET',
    path: '/v1/catalog/service/*',
    takes: ['index', 'wait', 'filter', 'near', 'node-meta', 'tag', 'cached', 'peer'],
    what: 'lists the instances of a service',
    handler: serviceList((tables, name, peer) => tables.instances(name, peer)),
  },
  {
    method: 'GET',
    path: '/v1/catalog/connect/*',
    takes: ['index', 'wait', 'filter', 'near', 'node-meta', 'tag', 'cached', 'peer'],
    what: 'lists what reaches a service over the mesh: its sidecars and native instances',
    handler: serviceList((tables, name, peer) => tables.connectInstances(name, peer)),
  },
  {
    method: 'GET',
    path: '/v1/catalog/node/*',
    takes: ['index', 'wait', 'filter', 'peer'],
    what: 'one node with its services by id',
    handler: node,
  },
  {
    method: 'GET',
    path: '/v1/catalog/node-services/*',
    takes: ['index', 'wait', 'filter', 'peer'],
    what: 'one node with its services as a list',
    handler: nodeServices,
  },
  {
    method: 'GET',
    path: '/v1/catalog/gateway-services/*',
    takes: ['index', 'wait'],
    what: 'lists the services of an ingress or terminating gateway',
    handler: servicesOfGateway,
  },
  { method: 'PUT', path: '/v1/internal/service-virtual-ip', what: 'refuses manual virtual addresses', handler: virtualIps },
]
