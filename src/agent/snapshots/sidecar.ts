/**
 * What a sidecar is told: who it is, who may come in, what they may do, and where it may dial. Only what its registration and the
 * config entries say: nothing that this service does not need is in it, so that a proxy cannot learn what is not its own.
 */
import { aggregateStatus } from '../../mesh/check.ts'
import { compileSources, providersAsked } from '../../mesh/intention-sources.ts'
import { providerResource } from '../../mesh/jwt-provider.ts'
import type { ExposePath } from '../../mesh/proxy-settings.ts'
import { lanAddress, type CheckServiceNode, type NodeService } from '../../mesh/service.ts'
import type { Intentions, Self } from '../../mesh/snapshot.ts'
import { serviceId } from '../../mesh/spiffe.ts'
import { isDown } from './endpoints.ts'
import { callersOf } from './exports.ts'
import type { Gathering, SnapshotContext } from './gathering.ts'
import { localRoots, rootsOfPeer } from './roots.ts'
import { gatherUpstreams } from './upstreams.ts'

export function gatherSidecar(instance: CheckServiceNode, gathering: Gathering, context: SnapshotContext): void {
  const service = instance.service.proxy.destinationServiceName ?? ''
  const inboundPeers = callersOf(service, gathering, context).filter(peer => rootsOfPeer(peer, gathering, context))
  localRoots(gathering, context)
  gathering.add('self', instance.service.id, sidecarSelf(instance, service, inboundPeers, gathering, context))
  const intentions = intentionsOf(service, gathering, context)
  gathering.add('intentions', service, intentions)
  gatherProviders(intentions, gathering, context)
  gatherUpstreams(instance, gathering, context)
}

function sidecarSelf(
  instance: CheckServiceNode,
  service: string,
  inboundPeers: string[],
  gathering: Gathering,
  context: SnapshotContext,
): Self {
  const { tables, datacenter, defaultAction } = context
  const { proxy } = instance.service
  const defaults = gathering.read(tables.configEntry('service-defaults', service))
  const global = gathering.read(tables.configEntry('proxy-defaults', 'global'))
  const setting = (name: string, central?: number) =>
    positive(proxy.config?.[name]) ?? positive(central) ?? positive(global?.config?.[name])
  return {
    proxyId: instance.service.id,
    kind: 'sidecar',
    service,
    serviceId: proxy.destinationServiceId ?? '',
    datacenter,
    trustDomain: context.ca.trustDomain,
    spiffeId: serviceId(context.ca.trustDomain, datacenter, service),
    protocol: gathering.read(tables.protocol(service)),
    listen: listenAddress(instance),
    lanNamesOnWan: false,
    app: appOf(instance.service),
    expose: firstPaths(proxy.expose.paths, defaults?.expose.paths, global?.expose.paths),
    defaultAction,
    inboundPeers,
    draining: isDraining(instance, service, gathering, context),
    maxInboundConnections: setting('max_inbound_connections', defaults?.maxInboundConnections) ?? 0,
    localConnectTimeoutMs: setting('local_connect_timeout_ms', defaults?.localConnectTimeoutMs) ?? 5000,
    localRequestTimeoutMs: setting('local_request_timeout_ms', defaults?.localRequestTimeoutMs) ?? 15_000,
  }
}

/**
 * `bind_address` and `bind_port` of the registration, else the address that is advertised. Unlike Envoy's, it is never every address
 * of the machine unless that is what was asked for.
 */
export function listenAddress(instance: CheckServiceNode): { address: string; port: number } {
  const config = instance.service.proxy.config
  const { address, port } = lanAddress(instance)
  const bind = config?.['bind_address']
  return { address: typeof bind === 'string' && bind !== '' ? bind : address, port: positive(config?.['bind_port']) ?? port }
}

function appOf({ proxy }: NodeService): NonNullable<Self['app']> {
  const app = { address: proxy.localServiceAddress || '127.0.0.1', port: proxy.localServicePort ?? 0 }
  return proxy.localServiceSocketPath ? { ...app, socketPath: proxy.localServiceSocketPath } : app
}

function positive(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) && value > 0 ? value : undefined
}

/** The most particular list that is not empty wins whole (spec/data-plane.md 11.3). */
function firstPaths(...lists: (ExposePath[] | undefined)[]): ExposePath[] {
  return lists.find(list => list !== undefined && list.length > 0) ?? []
}

/**
 * By the health of the app's own instance. A sidecar's own check starts critical and says only whether the sidecar listens, so it
 * counts only for a sidecar that stands before no registered instance.
 */
function isDraining(proxy: CheckServiceNode, service: string, gathering: Gathering, context: SnapshotContext): boolean {
  const own = aggregateStatus(proxy.checks)
  if (own === 'maintenance') return true
  const id = proxy.service.proxy.destinationServiceId
  const here = gathering.read(context.tables.instances(service)).filter(each => each.node.node === proxy.node.node)
  const app = id ? here.find(each => each.service.id === id) : here[0]
  return isDown(app === undefined ? own : aggregateStatus(app.checks))
}

function intentionsOf(service: string, gathering: Gathering, context: SnapshotContext): Intentions {
  return compileSources(name => gathering.read(context.tables.configEntry('service-intentions', name)), service)
}

/** The providers whose tokens the intentions ask for. One that is not there vouches for nobody. */
function gatherProviders(intentions: Intentions, gathering: Gathering, context: SnapshotContext): void {
  for (const name of providersAsked(intentions)) {
    const entry = gathering.read(context.tables.configEntry('jwt-provider', name))
    if (entry !== undefined) gathering.add('jwt-provider', name, providerResource(entry))
  }
}
