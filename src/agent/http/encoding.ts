/**
 * Catalog objects in the forms of the API (spec/http-api.md 2): the nested one of health and catalog/node, and the flat ServiceNode.
 * The agent's own form is in agent-service.ts. Key sets are the contract: an absent member and an empty one differ.
 */
import * as z from 'zod'
import { encode } from '../../lib/shape.ts'
import { Locality, Node } from '../../mesh/node.ts'
import { CheckServiceNode, NodeService, PeerMeta, ProxyConfig, ServiceAddress, Weights } from '../../mesh/service.ts'
import type { KvRecord } from '../catalog/tables.ts'
import { uint64 } from './reply.ts'

/** The flat form of catalog/service and catalog/connect; also what their filters select in. */
export const ServiceNode = z.object({
  id: z.string(),
  node: z.string(),
  address: z.string(),
  datacenter: z.string(),
  taggedAddresses: z.record(z.string(), z.string()).nullable(),
  nodeMeta: z.record(z.string(), z.string()).nullable(),
  serviceKind: z.string(),
  serviceId: z.string(),
  serviceName: z.string(),
  serviceTags: z.array(z.string()),
  serviceAddress: z.string(),
  serviceTaggedAddresses: z.record(z.string(), ServiceAddress).optional(),
  serviceWeights: Weights,
  serviceMeta: z.record(z.string(), z.string()),
  servicePort: z.number(),
  serviceSocketPath: z.string(),
  serviceEnableTagOverride: z.boolean(),
  serviceProxy: ProxyConfig,
  serviceConnect: z.object({ native: z.boolean().optional(), peerMeta: PeerMeta.optional() }),
  serviceLocality: Locality.nullable(),
  peerName: z.string().optional(),
  createIndex: z.number(),
  modifyIndex: z.number(),
})
export type ServiceNode = z.infer<typeof ServiceNode>

export function serviceNodeOf({ node, service }: Pick<CheckServiceNode, 'node' | 'service'>): ServiceNode {
  return {
    id: node.id,
    node: node.node,
    address: node.address,
    datacenter: node.datacenter,
    taggedAddresses: node.taggedAddresses,
    nodeMeta: node.meta,
    serviceKind: service.kind ?? '',
    serviceId: service.id,
    serviceName: service.service,
    serviceTags: service.tags,
    serviceAddress: service.address,
    serviceTaggedAddresses: service.taggedAddresses,
    serviceWeights: service.weights,
    serviceMeta: service.meta ?? {},
    servicePort: service.port ?? 0,
    serviceSocketPath: service.socketPath ?? '',
    serviceEnableTagOverride: service.enableTagOverride,
    serviceProxy: service.proxy,
    serviceConnect: service.connect,
    serviceLocality: service.locality ?? null,
    peerName: service.peerName,
    createIndex: service.createIndex,
    modifyIndex: service.modifyIndex,
  }
}

export function encodeNode(node: Node): unknown {
  return encode(Node, node)
}

export function encodeServiceNode(entry: ServiceNode): unknown {
  const out = encode(ServiceNode, entry) as { ServiceProxy: WireProxy }
  printUpstreamDatacenters(out.ServiceProxy)
  return out
}

export function encodeService(service: NodeService): unknown {
  const out = encode(NodeService, service) as { Proxy: WireProxy }
  printUpstreamDatacenters(out.Proxy)
  return out
}

export function encodeInstance(instance: CheckServiceNode): unknown {
  const out = encode(CheckServiceNode, instance) as { Service: { Proxy: WireProxy } }
  printUpstreamDatacenters(out.Service.Proxy)
  return out
}

/** Instances of the tables stand until what they are made of changes, so each is written once for all its readers. */
const writtenInstances = new WeakMap<CheckServiceNode, string>()

/** A list of instances as JSON text; `more` are members that each of them gets besides. */
export function writeInstances(instances: readonly CheckServiceNode[], more?: Record<string, unknown>): string {
  const end = more && `,${JSON.stringify(more).slice(1)}`
  const parts = instances.map(instance => {
    let text = writtenInstances.get(instance)
    if (text === undefined) writtenInstances.set(instance, (text = JSON.stringify(encodeInstance(instance))))
    return end === undefined ? text : text.slice(0, -1) + end
  })
  return `[${parts.join(',')}]`
}

interface WireProxy {
  Upstreams?: Record<string, unknown>[]
}

/** Catalog and health print an upstream's empty Datacenter, the agent does not (spec/http-api.md 2, Upstream). */
function printUpstreamDatacenters(proxy: WireProxy): void {
  for (const upstream of proxy.Upstreams ?? []) upstream['Datacenter'] ??= ''
}

export function encodeKvRecord(record: KvRecord): unknown {
  return {
    LockIndex: record.lockIndex,
    Key: record.key,
    Flags: uint64(record.flags),
    Value: record.value,
    ...(record.session ? { Session: record.session } : {}),
    CreateIndex: record.createIndex,
    ModifyIndex: record.modifyIndex,
  }
}
