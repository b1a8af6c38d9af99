/**
 * Where a sidecar may dial: its registered upstreams, in our own cluster and in peers. A peered name is exactly what the peer says
 * of it (SNI and identities are never computed), and has no listener until it is imported (spec/data-plane.md 5, 11.1).
 */
import { aggregateStatus } from '../../mesh/check.ts'
import type { ServiceDefaults } from '../../mesh/config-entry.ts'
import type { CheckServiceNode, NodeService, PeerMeta, Upstream } from '../../mesh/service.ts'
import { internalSni } from '../../mesh/sni.ts'
import { names } from '../../mesh/snapshot.ts'
import { serviceId } from '../../mesh/spiffe.ts'
import { allDown, isDown, lanEndpoints, wanEndpoints } from './endpoints.ts'
import { snapshotLimits, type Gathering, type SnapshotContext } from './gathering.ts'
import { rootsOfPeer } from './roots.ts'

export function gatherUpstreams(proxy: NodeService, gathering: Gathering, context: SnapshotContext): void {
  const client = gathering.read(context.tables.configEntry('service-defaults', proxy.proxy.destinationServiceName ?? ''))
  for (const upstream of (proxy.proxy.upstreams ?? []).slice(0, snapshotLimits.maxUpstreams)) {
    if (upstream.destinationType !== 'service' || (upstream.datacenter && upstream.datacenter !== context.datacenter)) continue
    if (upstream.destinationPeer) gatherPeered(upstream, upstream.destinationPeer, proxy, client, gathering, context)
    else gatherLocal(upstream, client, gathering, context)
  }
}

function gatherLocal(upstream: Upstream, client: ServiceDefaults | undefined, gathering: Gathering, context: SnapshotContext): void {
  const service = upstream.destinationName
  const { datacenter, tables } = context
  const { trustDomain } = context.ca
  const name = names.upstream(service, '')
  const override = upstream.config?.['protocol']
  gathering.add('upstream', name, {
    service,
    peer: '',
    protocol: typeof override === 'string' && override !== '' ? override.toLowerCase() : gathering.read(tables.protocol(service)),
    listen: listenOf(upstream),
    sni: internalSni(service, datacenter, trustDomain),
    spiffeIds: [serviceId(trustDomain, datacenter, service)],
    connectTimeoutMs: connectTimeoutMs(upstream, client),
    endpoints: name,
  })
  gathering.add('endpoints', name, lanEndpoints(gathering.read(tables.connectInstances(service))))
}

function gatherPeered(
  upstream: Upstream,
  peer: string,
  proxy: NodeService,
  client: ServiceDefaults | undefined,
  gathering: Gathering,
  context: SnapshotContext,
): void {
  const service = upstream.destinationName
  const instances = gathering.read(context.tables.connectInstances(service, peer))
  const meta = peerMetaOf(instances)
  if (meta === undefined || !rootsOfPeer(peer, gathering, context)) return
  const name = names.upstream(service, peer)
  gathering.add('upstream', name, {
    service,
    peer,
    protocol: meta.protocol,
    listen: listenOf(upstream),
    sni: meta.sni[0]!,
    spiffeIds: meta.spiffeId,
    connectTimeoutMs: connectTimeoutMs(upstream, client),
    endpoints: name,
  })
  const global = gathering.read(context.tables.configEntry('proxy-defaults', 'global'))
  // Else the peer's gateways, as the synthetic proxies that it sent carry them: their WAN addresses and their health.
  const local = gatewayMode(upstream, proxy, client, global?.meshGateway.mode) === 'local'
  const endpoints = local ? lanEndpoints(gathering.read(context.tables.gateways())) : wanEndpoints(instances)
  if (hasNoInstance(service, peer, gathering, context)) gathering.add('endpoints', name, allDown(endpoints))
  else gathering.add('endpoints', name, { ...endpoints, instances: healthyInstances(service, peer, gathering, context) })
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

function listenOf(upstream: Upstream): { address: string; port: number; socketPath?: string; socketMode?: string } {
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

function connectTimeoutMs(upstream: Upstream, client: ServiceDefaults | undefined): number {
  const own = upstream.config?.['connect_timeout_ms']
  if (typeof own === 'number' && own > 0) return own
  return overrideFor(upstream, client)?.connectTimeoutMs || client?.upstreamConfig?.defaults?.connectTimeoutMs || 5000
}

function overrideFor(upstream: Upstream, client: ServiceDefaults | undefined) {
  return client?.upstreamConfig?.overrides?.find(
    each => each.name === upstream.destinationName && (each.peer ?? '') === (upstream.destinationPeer ?? ''),
  )
}
