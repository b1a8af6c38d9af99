/**
 * What a mesh gateway is told: an explicit row for every name it serves. Own services under their external names for each peer they
 * are exported to, the peering servers where the mesh entry says so, and for callers inside: own services under internal names and
 * the imported ones, each in its own peer's trust domain (spec/data-plane.md 5.4, DESIGN 6).
 */
import { wanAddress, type CheckServiceNode } from '../../mesh/service.ts'
import { externalSni, internalSni, peeringServerName } from '../../mesh/sni.ts'
import { names, type Self } from '../../mesh/snapshot.ts'
import { meshGatewayId } from '../../mesh/spiffe.ts'
import { passedThrough, readChain } from '../catalog/chains.ts'
import { targetEndpoints } from './chains.ts'
import { allDown, lanEndpoints, subsetEndpoints, wanEndpoints } from './endpoints.ts'
import { consumersOf, exportableNames, neverExported } from './exports.ts'
import { snapshotLimits, type Gathering, type SnapshotContext } from './gathering.ts'
import { localRoots, rootsOfPeer } from './roots.ts'
import { listenAddress } from './sidecar.ts'
import { hasNoInstance, peerMetaOf } from './upstreams.ts'
import { aggregateStatus } from '../../mesh/check.ts'

/** Asked for in the gateway's Proxy.Config by an operator whose gateway has one address only. */
const lanNamesOnWan = 'isthmus_lan_names_on_wan'

export function gatherGateway(instance: CheckServiceNode, gathering: Gathering, context: SnapshotContext): void {
  localRoots(gathering, context)
  gathering.add('self', instance.service.id, gatewaySelf(instance, context))
  gatherOwnServices(gathering, context)
  gatherServers(gathering, context)
  for (const { name } of gathering.read(context.tables.peerings())) gatherImported(name, gathering, context)
}

function gatewaySelf(instance: CheckServiceNode, context: SnapshotContext): Self {
  const { service } = instance
  return {
    proxyId: service.id,
    kind: 'mesh-gateway',
    service: service.service,
    serviceId: '',
    datacenter: context.datacenter,
    trustDomain: context.ca.trustDomain,
    spiffeId: meshGatewayId(context.ca.trustDomain, context.datacenter),
    protocol: 'tcp',
    listen: listenAddress(instance),
    wan: wanAddress(instance),
    lanNamesOnWan: service.proxy.config?.[lanNamesOnWan] === true,
    expose: [],
    defaultAction: 'deny',
    inboundPeers: [],
    // Not while it is critical: its own check says that until it has seen the gateway listen, and nobody else is there to take over.
    draining: aggregateStatus(instance.checks) === 'maintenance',
    maxInboundConnections: 0,
    localConnectTimeoutMs: 5000,
    localRequestTimeoutMs: 15_000,
  }
}

function gatherOwnServices(gathering: Gathering, context: SnapshotContext): void {
  const { tables, datacenter } = context
  const { trustDomain } = context.ca
  for (const service of gathering.read(tables.services()).keys()) {
    if (service === neverExported) continue
    const instances = gathering.read(tables.connectInstances(service))
    // A name is served only while something of it is in the mesh.
    if (instances.length === 0) continue
    const endpoints = names.upstream(service, '')
    gathering.add('endpoints', endpoints, lanEndpoints(instances))
    const internal = internalSni(service, datacenter, trustDomain)
    gathering.add('internal', internal, { sni: internal, service, peer: '', endpoints })
  }
  for (const service of exportableNames(gathering, context)) gatherExported(service, gathering, context)
}

/** Under its external names, where its chain leads to one target. Requests that would have to be looked at cannot be passed through. */
function gatherExported(service: string, gathering: Gathering, context: SnapshotContext): void {
  const { tables, datacenter } = context
  const { trustDomain } = context.ca
  const consumers = consumersOf(service, gathering, context)
  if (consumers.length === 0) return
  const compiled = gathering.read(readChain(tables, { service, datacenter, trustDomain }))
  const target = compiled.ok ? passedThrough(compiled.chain) : undefined
  if (target === undefined) return
  const instances = gathering.read(tables.connectInstances(target.service))
  if (instances.length === 0) return
  const endpoints = targetEndpoints(target)
  gathering.add('endpoints', endpoints, subsetEndpoints(instances, target.subset))
  for (const peer of consumers) {
    const sni = externalSni(service, peer, trustDomain)
    gathering.add('exported', sni, { sni, service, peer, endpoints })
  }
}

function gatherServers(gathering: Gathering, context: SnapshotContext): void {
  const mesh = gathering.read(context.tables.configEntry('mesh', 'mesh'))
  if (!mesh?.peering?.peerThroughMeshGateways) return
  const sni = peeringServerName(context.datacenter, context.ca.trustDomain)
  const servers = gathering.read(context.tables.instances('consul')).map(atGrpcTls)
  gathering.add('endpoints', sni, lanEndpoints(servers))
  gathering.add('server', sni, { sni, service: 'consul', peer: '', endpoints: sni })
}

/** A server's `consul` instance stands at its RPC port; the gRPC TLS port is in its meta. */
function atGrpcTls(server: CheckServiceNode): CheckServiceNode {
  return { ...server, service: { ...server.service, port: Number(server.service.meta?.['grpc_tls_port']) || 0 } }
}

function gatherImported(peer: string, gathering: Gathering, context: SnapshotContext): void {
  const { tables } = context
  if (!rootsOfPeer(peer, gathering, context)) return
  for (const service of importedNames(gathering.read(tables.importedServices(peer)))) {
    const instances = gathering.read(tables.connectInstances(service, peer))
    const sni = peerMetaOf(instances)?.sni[0]
    if (sni === undefined) continue
    const endpoints = names.upstream(service, peer)
    const theirs = wanEndpoints(instances)
    gathering.add('endpoints', endpoints, hasNoInstance(service, peer, gathering, context) ? allDown(theirs) : theirs)
    // Named after the service: two of them that claim one SNI are both seen, and refused, by the plan.
    gathering.add('imported', endpoints, { sni, service, peer, endpoints })
  }
}

/** A name of the mesh may come as its synthetic proxies alone, without plain instances. */
function importedNames(records: readonly { service: string }[]): string[] {
  const all = new Set(records.map(({ service }) => service.replace(/-sidecar-proxy$/, '')))
  return [...all].slice(0, snapshotLimits.maxImportedPerPeer)
}
