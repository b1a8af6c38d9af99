/**
 * Services: what an agent is asked to run beside (ServiceDefinition) and an instance in the catalog (NodeService), with the
 * proxy block that both share. Facts: spec/http-api.md 2 and 3, data-plane.md 11.
 */
import * as z from 'zod'
import { CheckDefinition, HealthCheck } from './check.ts'
import { Locality, Node } from './node.ts'
import { AccessLogs, Expose, MeshGatewayMode, TransparentProxy } from './proxy-settings.ts'

export const ServiceAddress = z.object({ address: z.string().default(''), port: z.number().int().default(0) })
export type ServiceAddress = z.infer<typeof ServiceAddress>

export const Weights = z.object({ passing: z.number().int().default(1), warning: z.number().int().default(1) })

const opaque = z.record(z.string(), z.unknown())

export const Upstream = z.object({
  destinationType: z.string().default('service'),
  destinationPeer: z.string().optional(),
  destinationName: z.string().default(''),
  datacenter: z.string().optional(),
  localBindAddress: z.string().optional(),
  localBindPort: z.number().int().optional(),
  localBindSocketPath: z.string().optional(),
  localBindSocketMode: z.string().optional(),
  config: opaque.optional(),
  meshGateway: MeshGatewayMode.default({}),
})
export type Upstream = z.infer<typeof Upstream>

export const ProxyConfig = z.object({
  destinationServiceName: z.string().optional(),
  destinationServiceId: z.string().optional(),
  localServiceAddress: z.string().optional(),
  localServicePort: z.number().int().optional(),
  localServiceSocketPath: z.string().optional(),
  mode: z.string().default(''),
  config: opaque.optional(),
  upstreams: z.array(Upstream).optional(),
  meshGateway: MeshGatewayMode.default({}),
  expose: Expose.default({}),
  /** Kept and shown; our proxies do neither. Consul's own clients send both, empty, with every proxy. */
  transparentProxy: TransparentProxy.meta({ sparse: true }).optional(),
  accessLogs: AccessLogs.meta({ sparse: true }).optional(),
})
export type ProxyConfig = z.infer<typeof ProxyConfig>

/** What an importer needs to dial a service of a peer (spec/data-plane.md 5.1). */
export const PeerMeta = z.object({
  sni: z.array(z.string()).default([]).meta({ wire: 'SNI' }),
  spiffeId: z.array(z.string()).default([]).meta({ wire: 'SpiffeID' }),
  protocol: z.string().default('tcp'),
})
export type PeerMeta = z.infer<typeof PeerMeta>

export const NodeService = z.object({
  kind: z.string().optional(),
  id: z.string(),
  service: z.string(),
  tags: z.array(z.string()).default([]),
  address: z.string().default(''),
  taggedAddresses: z.record(z.string(), ServiceAddress).optional(),
  meta: z.record(z.string(), z.string()).nullable().default(null),
  port: z.number().int().optional(),
  socketPath: z.string().optional(),
  weights: Weights.default({ passing: 1, warning: 1 }),
  enableTagOverride: z.boolean().default(false),
  proxy: ProxyConfig.default({ mode: '', meshGateway: {}, expose: {} }),
  connect: z.object({ native: z.boolean().optional(), peerMeta: PeerMeta.optional() }).default({}),
  peerName: z.string().default(''),
  locality: Locality.optional(),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
})
export type NodeService = z.infer<typeof NodeService>

/** An instance with its node and every check that counts for it. */
export const CheckServiceNode = z.object({ node: Node, service: NodeService, checks: z.array(HealthCheck) })
export type CheckServiceNode = z.infer<typeof CheckServiceNode>

const definitionFields = {
  kind: z.string().optional(),
  name: z
    .string()
    .default('')
    .meta({ aliases: ['Service'] }),
  tags: z.array(z.string()).optional(),
  address: z.string().optional(),
  taggedAddresses: z.record(z.string(), ServiceAddress).optional(),
  meta: z.record(z.string(), z.string()).optional(),
  port: z.number().int().min(0).max(65535).optional(),
  socketPath: z.string().optional(),
  check: CheckDefinition.optional(),
  checks: z.array(CheckDefinition).optional(),
  weights: z.object({ passing: z.number().int(), warning: z.number().int().optional() }).optional(),
  enableTagOverride: z.boolean().optional(),
  proxy: ProxyConfig.optional(),
  token: z.string().optional(),
  locality: Locality.optional(),
}

/** The body of PUT /v1/agent/service/register and of `services` in a configuration file. */
export const ServiceDefinition = z.object({
  ...definitionFields,
  id: z.string().optional(),
  connect: z
    .object({
      native: z.boolean().optional(),
      /** `id` is here only so that giving one can be refused by name. */
      sidecarService: z
        .object({
          ...definitionFields,
          name: z
            .string()
            .optional()
            .meta({ aliases: ['Service'] }),
          id: z.string().optional(),
          /** A nested sidecar is read so that it can be refused by name. */
          connect: z.object({ native: z.boolean().optional(), sidecarService: z.record(z.string(), z.unknown()).optional() }).optional(),
        })
        .optional(),
    })
    .optional(),
})
export type ServiceDefinition = z.infer<typeof ServiceDefinition>

/** True for the kinds that stand for a service in front of its clients, never for gateways. */
export function isTypical(kind: string | undefined): boolean {
  return kind === undefined || kind === ''
}

/** An address to dial and, for gateways seen from another cluster, the WAN one (spec/data-plane.md 5.2). */
export function lanAddress(instance: { node: Node; service: NodeService }): ServiceAddress {
  return { address: instance.service.address || instance.node.address, port: instance.service.port ?? 0 }
}

/** Service `wan` tagged address, else service address, else the node's `wan`, else the node's address. */
export function wanAddress(instance: { node: Node; service: NodeService }): ServiceAddress {
  const { node, service } = instance
  const tagged = service.taggedAddresses?.['wan']
  if (tagged?.address) return { address: tagged.address, port: tagged.port || (service.port ?? 0) }
  return { address: service.address || node.taggedAddresses?.['wan'] || node.address, port: service.port ?? 0 }
}
