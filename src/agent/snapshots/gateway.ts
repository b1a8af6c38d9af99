/**
 * What a mesh gateway is told: an explicit row for every name it serves. Own services under their external names for each peer they
 * are exported to, the peering servers where the mesh entry says so, and for callers inside: own services under internal names, the
 * imported ones, each in its own peer's trust domain, and the servers that ours dial (spec/data-plane.md 5.4, peering-wire.md 11, DESIGN 6).
 */
import { hostPort, splitHostPort } from '../../lib/address.ts'
import { aggregateStatus } from '../../mesh/check.ts'
import { isHttpLike } from '../../mesh/protocol.ts'
import type { DiscoveryChain } from '../../mesh/discovery-chain.ts'
import { neverExported, withinCluster } from '../../mesh/exported.ts'
import { dialledServers } from '../../mesh/peering.ts'
import { wanAddress, type CheckServiceNode } from '../../mesh/service.ts'
import { externalSni, internalSni, peeringServerName } from '../../mesh/sni.ts'
import { names, type Self } from '../../mesh/snapshot.ts'
import { meshGatewayId } from '../../mesh/spiffe.ts'
import { passedThrough, readChain } from '../catalog/chains.ts'
import { gatherWay, targetEndpoints } from './chains.ts'
import { allDown, lanEndpoints, subsetEndpoints, wanEndpoints } from './endpoints.ts'
import { consumersOf, exportableNames } from './exports.ts'
import { snapshotLimits, type Gathering, type SnapshotContext } from './gathering.ts'
import { localRoots, rootsOfPeer } from './roots.ts'
import { listenAddress } from './sidecar.ts'
import { hasNoInstance, peerMetaOf } from './upstreams.ts'

/** Asked for in the gateway's Proxy.Config by an operator whose gateway has one address only. */
const lanNamesOnWan = 'isthmus_lan_names_on_wan'
/** The same: exported http, http2 and grpc end at the gateway, as at Consul's, although nothing needs their requests there. */
const terminateHttp = 'isthmus_terminate_http'

export function gatherGateway(instance: CheckServiceNode, gathering: Gathering, context: SnapshotContext): void {
  localRoots(gathering, context)
  gathering.add('self', instance.service.id, gatewaySelf(instance, context))
  gatherOwnServices(instance, gathering, context)
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

function gatherOwnServices(instance: CheckServiceNode, gathering: Gathering, context: SnapshotContext): void {
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
  for (const service of exportableNames(gathering, context)) gatherExported(service, instance, gathering, context)
}

/**
 * A name under its external names. Where its chain leads to one target, bytes pass through to it, so that identity is end to end; where
 * requests must be looked at, or the operator wants it so, they end here and go on by the chain (spec/data-plane.md 5.5).
 */
function gatherExported(service: string, instance: CheckServiceNode, gathering: Gathering, context: SnapshotContext): void {
  const { tables, datacenter } = context
  const { trustDomain } = context.ca
  const consumers = consumersOf(service, gathering, context)
  if (consumers.length === 0) return
  const compiled = gathering.read(readChain(tables, { service, datacenter, trustDomain }))
  if (!compiled.ok) return
  const { chain } = compiled
  const ends = isHttpLike(chain.protocol) && (chain.nodes[chain.startNode]!.type !== 'resolver' || isAsked(instance))
  const endpoints = ends ? names.upstream(service, '') : passedEndpoints(chain, gathering, context)
  if (endpoints === undefined) return
  // Without its roots nobody of the peer could come in.
  const peers = ends ? consumers.filter(peer => rootsOfPeer(peer, gathering, context)) : consumers
  if (ends && peers.length > 0) {
    const upstream = { destinationType: 'service', destinationName: service, meshGateway: {} }
    const dialled = { upstream, proxy: instance.service, client: undefined, locality: undefined }
    gatherWay(withinCluster(chain), undefined, dialled, gathering, context)
  }
  for (const peer of peers) {
    const sni = externalSni(service, peer, trustDomain)
    gathering.add('exported', sni, { sni, service, peer, endpoints, ...(ends ? { upstream: service } : {}) })
  }
}

function isAsked({ service }: CheckServiceNode): boolean {
  return service.proxy.config?.[terminateHttp] === true
}

/** The endpoints of the one target that bytes may pass to; undefined where there is none, or nothing of it in the mesh. */
function passedEndpoints(chain: DiscoveryChain, gathering: Gathering, context: SnapshotContext): string | undefined {
  const target = passedThrough(chain)
  const instances = target && gathering.read(context.tables.connectInstances(target.service))
  if (target === undefined || instances === undefined || instances.length === 0) return undefined
  const endpoints = targetEndpoints(target)
  gathering.add('endpoints', endpoints, subsetEndpoints(instances, target.subset))
  return endpoints
}

function gatherServers(gathering: Gathering, context: SnapshotContext): void {
  const mesh = gathering.read(context.tables.configEntry('mesh', 'mesh'))
  if (!mesh?.peering?.peerThroughMeshGateways) return
  const sni = peeringServerName(context.datacenter, context.ca.trustDomain)
  const servers = gathering.read(context.tables.instances('consul')).map(atGrpcTls)
  gathering.add('endpoints', sni, lanEndpoints(servers))
  gathering.add('server', sni, { sni, service: 'consul', peer: '', endpoints: sni })
  gatherPeerServers(gathering, context)
}

/** Of two peerings with one name of a server the one that was written last says where it is, and whose token is being spent, before both. */
function gatherPeerServers(gathering: Gathering, { tables }: SnapshotContext): void {
  const latest = gathering.read(tables.peerings()).toSorted((a, b) => b.modifyIndex - a.modifyIndex)
  const rows = [
    ...latest.flatMap(({ name, exchanging }) => (exchanging ? [{ name, servers: exchanging }] : [])),
    ...latest.filter(each => each.state !== 'TERMINATED').map(each => ({ name: each.name, servers: dialledServers(each) })),
  ]
  for (const { name, servers } of rows) {
    const sni = servers.serverName.toLowerCase()
    const places = servers.addresses.flatMap(text => splitHostPort(text) ?? []).slice(0, snapshotLimits.maxEndpoints)
    const endpoints = places.map(({ host, port }) => {
      const address = host || 'localhost'
      return { id: hostPort(address, port), address, port, weight: 1, healthy: true }
    })
    if (sni === '' || endpoints.length === 0) continue
    gathering.add('endpoints', sni, { endpoints })
    gathering.add('peer-server', sni, { sni, service: 'consul', peer: name, endpoints: sni })
  }
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
