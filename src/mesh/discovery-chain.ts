/**
 * The discovery chain: where requests for one name go, as a graph of router, splitter and resolver nodes and the targets that they end at
 * (spec/data-plane.md 10). It is data: discovery-chain-compiler.ts makes it of config entries, routing.ts compiles it for a proxy, and the
 * API shows it. `via` is ours: the resolvers that led on to a node (a redirect, a default subset), so that a decision can name its entries.
 */
import * as z from 'zod'
import { duration } from '../lib/shape.ts'
import { LoadBalancer } from './entry-members.ts'
import { ResolverSubset, Route, Split } from './routing-entry.ts'
import { MeshGatewayMode, TransparentProxy } from './proxy-settings.ts'

export const defaultConnectTimeoutMs = 5000

export const ChainTarget = z.object({
  connectTimeoutMs: duration('ConnectTimeout'),
  id: z.string(),
  service: z.string(),
  serviceSubset: z.string().optional(),
  namespace: z.string().default('default'),
  partition: z.string().default('default'),
  /** Absent for a target in a peer. */
  datacenter: z.string().optional(),
  peer: z.string().optional(),
  meshGateway: MeshGatewayMode.default({}),
  subset: ResolverSubset.default({}),
  transparentProxy: TransparentProxy.default({}),
  external: z.boolean().optional(),
  /** Absent for a target in a peer: its name is what the peer says. */
  sni: z.string().optional(),
  name: z.string().optional(),
})
export type ChainTarget = z.infer<typeof ChainTarget>

const via = z.array(z.string()).default([])

const wireRoute = z.object({ definition: Route, nextNode: z.string() })
const wireSplit = z.object({ definition: Split, weight: z.number(), nextNode: z.string() })

const resolver = z.object({
  connectTimeoutMs: duration('ConnectTimeout'),
  requestTimeoutMs: duration('RequestTimeout', 'nanoseconds').optional(),
  default: z.boolean().optional(),
  target: z.string(),
  failover: z.object({ targets: z.array(z.string()) }).optional(),
})

const wireNode = z.object({
  type: z.enum(['router', 'splitter', 'resolver']),
  name: z.string(),
  routes: z.array(wireRoute).optional(),
  splits: z.array(wireSplit).optional(),
  resolver: resolver.optional(),
  loadBalancer: LoadBalancer.optional(),
})

export const ChainNode = wireNode.extend({
  routes: z.array(wireRoute.extend({ via })).optional(),
  /** `entry` is the split of the config entry that it was, before splitters within splitters were made flat: `service-splitter/sp[0]`. */
  splits: z.array(wireSplit.extend({ via, entry: z.string().default('') })).optional(),
})
export type ChainNode = z.infer<typeof ChainNode>

const wireChain = z.object({
  serviceName: z.string(),
  namespace: z.string().default('default'),
  partition: z.string().default('default'),
  datacenter: z.string(),
  customizationHash: z.string().optional(),
  /** There is nothing but a default resolver for the name itself. */
  default: z.boolean().optional(),
  protocol: z.string(),
  serviceMeta: z.record(z.string(), z.string()).optional(),
  startNode: z.string(),
  nodes: z.record(z.string(), wireNode),
  targets: z.record(z.string(), ChainTarget),
})

export const DiscoveryChain = wireChain.extend({ nodes: z.record(z.string(), ChainNode), startVia: via })
export type DiscoveryChain = z.infer<typeof DiscoveryChain>

/** As the API shows it. */
export const ChainAnswer = z.object({
  chain: wireChain.extend({
    autoVirtualIps: z.array(z.string()).nullable().meta({ wire: 'AutoVirtualIPs' }),
    manualVirtualIps: z.array(z.string()).nullable().meta({ wire: 'ManualVirtualIPs' }),
  }),
})

/** What may be asked for instead of what is configured (POST). */
export const ChainOverrides = z.object({
  overrideMeshGateway: MeshGatewayMode.default({}),
  overrideProtocol: z.string().optional(),
  overrideConnectTimeoutMs: duration('OverrideConnectTimeout').optional(),
})
export type ChainOverrides = z.infer<typeof ChainOverrides>

export function targetId({
  service,
  serviceSubset = '',
  datacenter,
  peer = '',
}: Pick<ChainTarget, 'service' | 'serviceSubset' | 'datacenter' | 'peer'>): string {
  if (peer !== '') return `${service}.default.default.external.${peer}`
  const name = `${service}.default.default.${datacenter ?? ''}`
  return serviceSubset === '' ? name : `${serviceSubset}.${name}`
}
