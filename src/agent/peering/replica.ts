/**
 * One service instance as it travels between clusters, to and from the form that the catalog keeps. Outward it holds only what a
 * real exporter sends (spec/peering-wire.md 7.2). Inward it is hostile until read here: what would crash a real importer (8.4), or
 * what no proxy could use, is an error; peer and partition are ours to say, whatever was sent (8.1).
 */
import { aggregateStatus, type HealthCheck } from '../../mesh/check.ts'
import { isTypical, type CheckServiceNode, type ServiceAddress } from '../../mesh/service.ts'
import * as wire from '../../wire/gen/service.ts'

export type Read<T> = { ok: true; value: T } | { ok: false; message: string }

/** Names and ids become keys of the store, which are at most 1,900 bytes after percent-encoding. */
export const maxNameLength = 256

/** `sharedIds`: node ids that more than one of the exported nodes has. */
export function toWire(instance: CheckServiceNode, sharedIds: ReadonlySet<string>): wire.CheckServiceNode {
  const { node, service } = instance
  return wire.CheckServiceNode.fromPartial({
    Node: nodeToWire(instance, sharedIds),
    Service: {
      ID: service.id,
      Service: service.service,
      Tags: service.tags,
      Address: service.address,
      // A real importer refuses the whole service for one key of this kind (8.3).
      Meta: new Map(Object.entries(service.meta ?? {}).filter(([key]) => !key.startsWith('consul-'))),
      Port: service.port ?? 0,
      Weights: { Passing: service.weights.passing, Warning: service.weights.warning },
      EnableTagOverride: service.enableTagOverride,
      TaggedAddresses: addressesToWire(service.taggedAddresses),
      EnterpriseMeta: {},
      SocketPath: service.socketPath ?? '',
      Locality: localityToWire(service.locality),
    },
    Checks: flatten(instance.checks, node.node, service.id, service.service),
  })
}

export function nodeToWire({ node }: Pick<CheckServiceNode, 'node'>, sharedIds: ReadonlySet<string>): wire.Node {
  return wire.Node.fromPartial({
    // Of two nodes with one id a real importer forgets the first, and what runs there; without an id it keeps both (8.3).
    ID: sharedIds.has(node.id) ? '' : node.id,
    Node: node.node,
    Address: node.address,
    Datacenter: node.datacenter,
    TaggedAddresses: mapOf(node.taggedAddresses),
    Meta: mapOf(node.meta),
    Locality: localityToWire(node.locality),
  })
}

export function addressesToWire(addresses: Record<string, ServiceAddress> | undefined): Map<string, wire.ServiceAddress> {
  const entries = Object.entries(addresses ?? {}).filter(([name]) => name !== 'consul-virtual')
  return new Map(entries.map(([name, { address, port }]) => [name, { Address: address, Port: port }]))
}

/** All checks of an instance as one; none when it has none (7.3). */
export function flatten(checks: readonly HealthCheck[], node: string, serviceId: string, service: string): wire.HealthCheck[] {
  if (checks.length === 0) return []
  return [
    wire.HealthCheck.fromPartial({
      Node: node,
      CheckID: `${serviceId}:overall-check`,
      Name: 'overall-check',
      Status: aggregateStatus(checks),
      ServiceID: serviceId,
      ServiceName: service,
      EnterpriseMeta: {},
    }),
  ]
}

function mapOf(record: Record<string, string> | null): Map<string, string> {
  return new Map(Object.entries(record ?? {}))
}

function localityToWire(locality: { region?: string; zone?: string } | undefined): { Region: string; Zone: string } | undefined {
  // A zone without a region is refused by newer Consuls (13): send neither.
  return locality?.region ? { Region: locality.region, Zone: locality.zone ?? '' } : undefined
}

/** Every instance of a message, deduplicated by node and id (the last counts), or the first thing that is wrong with them. */
export function fromWire(nodes: readonly wire.CheckServiceNode[], service: string, peerName: string): Read<CheckServiceNode[]> {
  const byId = new Map<string, CheckServiceNode>()
  for (const each of nodes) {
    const read = instanceFromWire(each, service, peerName)
    if (!read.ok) return read
    byId.set(`${read.value.node.node.toLowerCase()}\0${read.value.service.id}`, read.value)
  }
  return { ok: true, value: [...byId.values()] }
}

function instanceFromWire(instance: wire.CheckServiceNode, name: string, peerName: string): Read<CheckServiceNode> {
  const { Node: node, Service: service, Checks: checks } = instance
  if (!node) return wrong('an instance has no node')
  if (!service) return wrong('an instance has no service')
  const problem = problemOf(node, service, checks, name)
  if (problem !== undefined) return wrong(problem)
  return {
    ok: true,
    value: {
      node: {
        id: node.ID.toLowerCase(),
        node: node.Node,
        address: node.Address,
        datacenter: node.Datacenter,
        peerName,
        taggedAddresses: recordOf(node.TaggedAddresses),
        meta: recordOf(node.Meta),
        ...localityOf(node.Locality),
        createIndex: 0,
        modifyIndex: 0,
      },
      service: serviceFromWire(service, peerName),
      checks: checks.map(check => ({
        node: node.Node,
        checkId: check.CheckID,
        name: check.Name,
        status: check.Status,
        notes: check.Notes,
        output: check.Output,
        serviceId: check.ServiceID,
        serviceName: check.ServiceName,
        serviceTags: check.ServiceID === '' ? [] : service.Tags,
        type: check.Type,
        interval: '',
        timeout: '',
        exposedPort: 0,
        peerName,
        definition: {},
        createIndex: 0,
        modifyIndex: 0,
      })),
    },
  }
}

function serviceFromWire(service: wire.NodeService, peerName: string): CheckServiceNode['service'] {
  const meta = service.Connect?.PeerMeta
  const weights = service.Weights
  return {
    ...(service.Kind !== '' && { kind: service.Kind }),
    id: service.ID,
    service: service.Service,
    tags: service.Tags,
    address: service.Address,
    ...(service.TaggedAddresses.size > 0 && {
      taggedAddresses: Object.fromEntries(
        Array.from(service.TaggedAddresses, ([name, { Address, Port }]) => [name, { address: Address, port: Port }]),
      ),
    }),
    meta: recordOf(service.Meta),
    port: service.Port,
    ...(service.SocketPath !== '' && { socketPath: service.SocketPath }),
    weights: weights ? { passing: weights.Passing, warning: weights.Warning } : { passing: 1, warning: 1 },
    enableTagOverride: service.EnableTagOverride,
    // Of a proxy only what it stands for is taken over: configuration is not a peer's to give.
    proxy: {
      ...(service.Proxy && {
        destinationServiceName: service.Proxy.DestinationServiceName,
        destinationServiceId: service.Proxy.DestinationServiceID,
      }),
      mode: '',
      meshGateway: {},
      expose: {},
    },
    connect: meta ? { peerMeta: { sni: meta.SNI, spiffeId: meta.SpiffeID, protocol: meta.Protocol || 'tcp' } } : {},
    peerName,
    ...localityOf(service.Locality),
    createIndex: 0,
    modifyIndex: 0,
  }
}

/** What is wrong with one instance. Where real Consul refuses too, in its words (8.3). */
function problemOf(node: wire.Node, service: wire.NodeService, checks: wire.HealthCheck[], name: string): string | undefined {
  if (node.Node === '') return 'a node has no name'
  if (service.ID === '') return `an instance on node "${node.Node}" has no service ID`
  if (checks.some(check => check.CheckID === '')) return `a check of service "${service.ID}" has no ID`
  if ([node.Node, service.ID, service.Service].some(text => text.length > maxNameLength)) return `a name is longer than ${maxNameLength}`
  if (node.ID !== '' && !/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(node.ID)) {
    return register(
      name,
      'failed to register node: failed inserting node: node lookup failed: node lookup by ID failed: index error: UUID (without hyphens) must be even length',
    )
  }
  const reserved = Array.from(service.Meta).find(([key]) => key.startsWith('consul-'))
  if (reserved) {
    const at = `for node ${node.Node} and serviceID ${service.ID}`
    const pair = `Couldn't load metadata pair ('${reserved[0]}', '${reserved[1]}')`
    return register(
      name,
      `failed to register service: failed inserting service: Invalid Service Meta ${at}: ${pair}: Key prefix 'consul-' is reserved for internal use`,
    )
  }
  const stray = checks.find(check => check.Node !== '' && check.Node.toLowerCase() !== node.Node.toLowerCase())
  if (stray) return register(name, `failed to register check: check node "${stray.Node}" does not match node "${node.Node}"`)
  if (service.Service.toLowerCase() !== name.toLowerCase()) return `instance "${service.ID}" is of service "${service.Service}"`
  if (!isTypical(service.Kind) && service.Kind !== 'connect-proxy') return `instance "${service.ID}" is of kind "${service.Kind}"`
  const ports = [service.Port, ...Array.from(service.TaggedAddresses.values(), each => each.Port)]
  if (ports.some(port => port < 0 || port > 65_535)) return `instance "${service.ID}" has no valid port`
  return undefined
}

/** Real Consul's prefix, slip of the tongue included (5.4). */
function register(name: string, message: string): string {
  return `did not increment imported services count for service="${name}": ${message}`
}

function wrong(message: string): { ok: false; message: string } {
  return { ok: false, message }
}

function recordOf(map: Map<string, string>): Record<string, string> | null {
  return map.size === 0 ? null : Object.fromEntries(map)
}

function localityOf(locality: { Region: string; Zone: string } | undefined): { locality?: { region: string; zone: string } } {
  return locality && (locality.Region !== '' || locality.Zone !== '') ? { locality: { region: locality.Region, zone: locality.Zone } } : {}
}
