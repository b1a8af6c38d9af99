/**
 * An upstream of our own cluster: what its discovery chain leads to. Where that is one target and nothing that would need a look at a
 * request, it is told as a plain upstream, which costs a proxy least; else as a chain with its targets.
 */
import type { ChainNode, ChainTarget, DiscoveryChain } from '../../mesh/discovery-chain.ts'
import { names, type ChainResource, type UpstreamResource } from '../../mesh/snapshot.ts'
import { serviceId } from '../../mesh/spiffe.ts'
import { readChain } from '../catalog/chains.ts'
import { subsetEndpoints } from './endpoints.ts'
import type { Gathering, SnapshotContext } from './gathering.ts'
import { trafficOf } from './traffic.ts'
import { listenOf, peerTarget, type Dialled } from './upstreams.ts'

export function gatherChain(dialled: Dialled, gathering: Gathering, context: SnapshotContext): void {
  const { upstream } = dialled
  const service = upstream.destinationName
  const chain = chainOf(dialled, gathering, context)
  const listen = listenOf(upstream)
  if (chain !== undefined) gatherWay(chain, listen, dialled, gathering, context)
  else {
    // Entries that make no chain lead nowhere: the app sees an error, and not another service.
    gathering.add('upstream', service, {
      service,
      peer: '',
      protocol: 'tcp',
      listen,
      sni: '',
      spiffeIds: [],
      connectTimeoutMs: 5000,
      endpoints: '',
    })
  }
}

/** What a proxy must know of a chain to send requests by it. Without a listener they come from a peer, at the gateway. */
export function gatherWay(
  chain: DiscoveryChain,
  listen: ChainResource['listen'],
  dialled: Dialled,
  gathering: Gathering,
  context: SnapshotContext,
): void {
  const { serviceName: service, protocol } = chain
  const at = listen === undefined ? {} : { listen }
  const only = onlyResolver(chain)
  if (only !== undefined) {
    const target = chain.targets[only.resolver!.target]
    const told = target && targetOf(target, only, dialled, gathering, context)
    if (told !== undefined) {
      const requestTimeoutMs = only.resolver!.requestTimeoutMs
      gathering.add('upstream', service, { ...told, protocol, ...at, ...(requestTimeoutMs ? { requestTimeoutMs } : {}) })
    }
    // A name that leads to a peer has no listener until it is imported, like an upstream of that peer.
    return
  }
  const targets: Record<string, string> = {}
  for (const [node, target] of targetsOf(chain)) {
    const told = targetOf(target, node, dialled, gathering, context)
    if (told === undefined) continue
    const name = names.target(service, target.id)
    targets[target.id] = name
    gathering.add('upstream', name, { ...told, protocol })
  }
  gathering.add('chain', service, resourceOf(chain, { protocol, ...at, chain, targets }))
}

function chainOf({ upstream }: Dialled, gathering: Gathering, context: SnapshotContext): DiscoveryChain | undefined {
  const protocol = upstream.config?.['protocol']
  const overrideProtocol = typeof protocol === 'string' ? protocol.toLowerCase() : ''
  const { datacenter, tables } = context
  const overrides = { overrideMeshGateway: {}, overrideProtocol }
  const request = { service: upstream.destinationName, datacenter, trustDomain: context.ca.trustDomain, overrides }
  const compiled = gathering.read(readChain(tables, request))
  return compiled.ok ? compiled.chain : undefined
}

/** The resolver that the chain is, where it has one target. */
function onlyResolver({ nodes, startNode }: DiscoveryChain): ChainNode | undefined {
  const start = nodes[startNode]!
  return start.resolver !== undefined && start.resolver.failover === undefined ? start : undefined
}

/** Every target once, with the resolver whose settings it goes by: the one that prefers it, else the first that would fall back on it. */
function targetsOf({ nodes, targets }: DiscoveryChain): [ChainNode, ChainTarget][] {
  const found = new Map<string, ChainNode>()
  const resolvers = Object.values(nodes).filter(node => node.resolver !== undefined)
  for (const node of resolvers) found.set(node.resolver!.target, node)
  for (const node of resolvers) {
    for (const id of node.resolver!.failover?.targets ?? []) if (!found.has(id)) found.set(id, node)
  }
  return [...found].flatMap(([id, node]) => (targets[id] ? [[node, targets[id]] as [ChainNode, ChainTarget]] : []))
}

/** What a proxy must know to dial a target; undefined for one that cannot be reached from here. */
function targetOf(
  target: ChainTarget,
  node: ChainNode,
  dialled: Dialled,
  gathering: Gathering,
  context: SnapshotContext,
): Omit<UpstreamResource, 'listen'> | undefined {
  const { upstream, client, locality } = dialled
  const { connectTimeoutMs } = node.resolver!
  const peered = target.peer !== undefined
  const resolver = { connectTimeoutMs, loadBalancer: node.loadBalancer }
  const traffic = trafficOf({ upstream, client, resolver, peered, locality })
  if (target.peer !== undefined) {
    const found = peerTarget(target.service, target.peer, dialled, gathering, context)
    return found && { ...found, ...traffic }
  }
  const { service, datacenter, subset, sni = '' } = target
  if (datacenter !== context.datacenter) return undefined
  const endpoints = targetEndpoints(target)
  gathering.add('endpoints', endpoints, subsetEndpoints(gathering.read(context.tables.connectInstances(service)), subset))
  const { trustDomain } = context.ca
  return { service, peer: '', protocol: '', sni, spiffeIds: [serviceId(trustDomain, datacenter, service)], endpoints, ...traffic }
}

/** What was made of a chain: told again as the same object, so that it is not hashed again (see gathering.ts). */
const made = new WeakMap<DiscoveryChain, Map<string, ChainResource>>()

function resourceOf(chain: DiscoveryChain, resource: ChainResource): ChainResource {
  let known = made.get(chain)
  if (known === undefined) made.set(chain, (known = new Map()))
  const key = JSON.stringify([resource.listen, resource.targets])
  const before = known.get(key)
  if (before !== undefined) return before
  known.set(key, resource)
  return resource
}

/** The name of the endpoints of a target of our own. */
export function targetEndpoints({ service, serviceSubset = '' }: ChainTarget): string {
  return serviceSubset === '' ? names.upstream(service, '') : `${service}#${serviceSubset}`
}
