/**
 * Where a sidecar may dial: its registered upstreams, in our own cluster and in peers. A peered name is exactly what the peer says
 * of it (SNI and identities are never computed), and has no listener until it is imported (spec/data-plane.md 5, 11.1).
 */
import { aggregateStatus } from '../../mesh/check.ts'
import type { ServiceDefaults } from '../../mesh/config-entry.ts'
import type { Locality } from '../../mesh/node.ts'
import type { CheckServiceNode, NodeService, PeerMeta, Upstream } from '../../mesh/service.ts'
import { names, type UpstreamResource } from '../../mesh/snapshot.ts'
import { gatherChain } from './chains.ts'
import { allDown, isDown, lanEndpoints, localityOf, wanEndpoints } from './endpoints.ts'
import { snapshotLimits, type Gathering, type SnapshotContext } from './gathering.ts'
import { rootsOfPeer } from './roots.ts'
import { overrideFor, trafficOf } from './traffic.ts'

export function gatherUpstreams(instance: CheckServiceNode, gathering: Gathering, context: SnapshotContext): void {
  const proxy = instance.service
  const locality = localityOf(instance)
  const client = gathering.read(context.tables.configEntry('service-defaults', proxy.proxy.destinationServiceName ?? ''))
  for (const upstream of (proxy.proxy.upstreams ?? []).slice(0, snapshotLimits.maxUpstreams)) {
    if (upstream.destinationType !== 'service' || (upstream.datacenter && upstream.datacenter !== context.datacenter)) continue
    const dialled = { upstream, proxy, client, locality }
    if (upstream.destinationPeer) gatherPeered(dialled, gathering, context)
    else gatherChain(dialled, gathering, context)
  }
}

/** Where an upstream of a proxy leads, and by whose settings. */
export interface Dialled {
  upstream: Upstream
  proxy: NodeService
  /** The caller's own service-defaults. */
  client: ServiceDefaults | undefined
  /** Where the caller is. */
  locality: Locality | undefined
}

function gatherPeered(dialled: Dialled, gathering: Gathering, context: SnapshotContext): void {
  const { upstream, client, locality } = dialled
  const { destinationName: service, destinationPeer: peer = '' } = upstream
  const found = peerTarget(service, peer, dialled, gathering, context)
  if (found === undefined) return
  // A peered upstream has no chain that a resolver could begin (spec/data-plane.md 5.5); only the balancing of its name counts.
  const loadBalancer = gathering.read(context.tables.configEntry('service-resolver', service))?.loadBalancer
  const resolver = loadBalancer && { loadBalancer }
  const name = names.upstream(service, peer)
  const traffic = trafficOf({ upstream, client, resolver, peered: true, locality })
  gathering.add('upstream', name, { ...found, listen: listenOf(upstream), ...traffic })
}

/** Where a service of a peer is reached, with its endpoints; undefined while that is not known. */
export function peerTarget(
  service: string,
  peer: string,
  { upstream, proxy, client }: Dialled,
  gathering: Gathering,
  context: SnapshotContext,
): Pick<UpstreamResource, 'service' | 'peer' | 'protocol' | 'sni' | 'spiffeIds' | 'endpoints'> | undefined {
  const instances = gathering.read(context.tables.connectInstances(service, peer))
  const meta = peerMetaOf(instances)
  if (meta === undefined || !rootsOfPeer(peer, gathering, context)) return undefined
  const name = names.upstream(service, peer)
  const global = gathering.read(context.tables.configEntry('proxy-defaults', 'global'))
  // Else the peer's gateways, as the synthetic proxies that it sent carry them: their WAN addresses and their health.
  const local = gatewayMode(upstream, proxy, client, global?.meshGateway.mode) === 'local'
  const endpoints = local ? lanEndpoints(gathering.read(context.tables.gateways())) : wanEndpoints(instances)
  if (hasNoInstance(service, peer, gathering, context)) gathering.add('endpoints', name, allDown(endpoints))
  else gathering.add('endpoints', name, { ...endpoints, instances: healthyInstances(service, peer, gathering, context) })
  return { service, peer, protocol: meta.protocol, sni: meta.sni[0]!, spiffeIds: meta.spiffeId, endpoints: name }
}

/** What the peer says of the name; undefined while it says nothing usable. */
export function peerMetaOf(instances: readonly CheckServiceNode[]): PeerMeta | undefined {
  for (const { service } of instances) {
    const meta = service.connect.peerMeta
    if (meta !== undefined && (meta.sni[0] ?? '') !== '' && meta.spiffeId.length > 0) return meta
  }
  return undefined
}

/**
 * The synthetic proxies carry the gateways' health only, so a service that is down behind healthy gateways would still be dialled.
 * Its plain instances say so: where there are some and all are down, there is nobody to dial. None at all says nothing.
 */
export function hasNoInstance(service: string, peer: string, gathering: Gathering, context: SnapshotContext): boolean {
  const instances = gathering.read(context.tables.instances(service, peer))
  return instances.length > 0 && instances.every(({ checks }) => isDown(aggregateStatus(checks)))
}

function healthyInstances(service: string, peer: string, gathering: Gathering, context: SnapshotContext): number {
  return gathering.read(context.tables.instances(service, peer)).filter(({ checks }) => !isDown(aggregateStatus(checks))).length
}

export function listenOf(upstream: Upstream): { address: string; port: number; socketPath?: string; socketMode?: string } {
  const address = upstream.localBindAddress || '127.0.0.1'
  const port = upstream.localBindPort ?? 0
  if (!upstream.localBindSocketPath) return { address, port }
  return {
    address,
    port,
    socketPath: upstream.localBindSocketPath,
    ...(upstream.localBindSocketMode ? { socketMode: upstream.localBindSocketMode } : {}),
  }
}

/** The mode that counts, highest first (spec/data-plane.md 5.2). The exporter's modes have no say. */
function gatewayMode(upstream: Upstream, proxy: NodeService, client: ServiceDefaults | undefined, globalMode: string | undefined): string {
  return (
    upstream.meshGateway.mode ||
    overrideFor(upstream, client)?.meshGateway.mode ||
    proxy.proxy.meshGateway.mode ||
    client?.upstreamConfig?.defaults?.meshGateway.mode ||
    client?.meshGateway.mode ||
    globalMode ||
    ''
  )
}
