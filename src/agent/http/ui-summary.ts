/**
 * Services and nodes as the pages of a UI show them (spec/http-api.md 6): instances of a name added up, with the checks of their
 * sidecars. What a peer exports to us stands beside our own, under the peer's name.
 */
import { encode } from '../../lib/shape.ts'
import { compareText } from '../../lib/order.ts'
import { HealthCheck } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import type { CheckServiceNode, NodeService } from '../../mesh/service.ts'
import type { Tables } from '../catalog/tables.ts'
import { encodeService } from './encoding.ts'
import type { Noting } from './noting.ts'
import { tagless } from './txn.ts'

export interface Summary {
  kind: string
  name: string
  datacenter: string
  peer: string
  tags: string[]
  nodes: string[]
  externalSources: string[]
  instances: number
  transparentProxy: boolean
  connectNative: boolean
  connectedWithProxy: boolean
  connectedWithGateway: boolean
  addresses: string[]
  /** By node and id, so that a node's check counts once. */
  checks: Map<string, string>
}

/** Marks a service that something else than an operator has registered. */
const externalSource = 'external-source'

/** All instances of our own, or of one peer. */
export function instancesOf(tables: Tables, peer: string, noting: Noting): CheckServiceNode[] {
  const names =
    peer === '' ? [...noting.note(tables.services()).keys()] : noting.note(tables.importedServices(peer)).map(each => each.service)
  return names.flatMap(name => noting.note(tables.instances(name, peer)))
}

export function peersOf(tables: Tables, noting: Noting): string[] {
  return noting.note(tables.peerings()).map(peering => peering.name)
}

export function emptySummary(name: string, peer = ''): Summary {
  return {
    kind: '',
    name,
    datacenter: '',
    peer,
    tags: [],
    nodes: [],
    externalSources: [],
    instances: 0,
    transparentProxy: false,
    connectNative: false,
    connectedWithProxy: false,
    connectedWithGateway: false,
    addresses: [],
    checks: new Map(),
  }
}

/** By name, and by peer within that. */
export function summarise(instances: readonly CheckServiceNode[]): Summary[] {
  const summaries = new Map<string, Summary>()
  const of = (name: string, peer: string): Summary => {
    const key = `${name}\0${peer}`
    let summary = summaries.get(key)
    if (!summary) summaries.set(key, (summary = emptySummary(name, peer)))
    return summary
  }
  for (const instance of instances) {
    const { node, service } = instance
    const summary = of(service.service, service.peerName)
    summary.kind = service.kind ?? ''
    summary.datacenter = node.datacenter
    summary.instances += 1
    summary.connectNative ||= service.connect.native === true
    addTo(summary.nodes, [node.node])
    addTo(summary.tags, service.tags)
    const source = service.meta?.[externalSource]
    if (source) addTo(summary.externalSources, [source])
    addChecks(summary, instance)
    if (service.kind !== 'connect-proxy' || !service.proxy.destinationServiceName) continue
    const behind = of(service.proxy.destinationServiceName, service.peerName)
    behind.connectedWithProxy = true
    behind.transparentProxy ||= service.proxy.mode === 'transparent'
    addChecks(behind, instance)
  }
  return [...summaries.values()]
    .filter(summary => summary.instances > 0)
    .sort((a, b) => compareText(a.name, b.name) || compareText(a.peer, b.peer))
}

function addTo(list: string[], values: readonly string[]): void {
  for (const value of values) if (!list.includes(value)) list.push(value)
}

function addChecks(summary: Summary, { node, checks }: CheckServiceNode): void {
  for (const check of checks) summary.checks.set(`${node.node}\0${check.checkId}`, check.status)
}

/** `listing` is the form of a list of services, which says what stands before each; a topology's has no room for that. */
export function encodeSummary(summary: Summary, form: 'listing' | 'plain'): Record<string, unknown> {
  const count = (status: string) => [...summary.checks.values()].filter(each => each === status).length
  const orNull = (list: string[]) => (list.length === 0 ? null : [...list].sort(compareText))
  return {
    ...(summary.kind === '' ? {} : { Kind: summary.kind }),
    Name: summary.name,
    Datacenter: summary.datacenter,
    Tags: orNull(summary.tags),
    Nodes: orNull(summary.nodes),
    ExternalSources: orNull(summary.externalSources),
    InstanceCount: summary.instances,
    ChecksPassing: count('passing'),
    ChecksWarning: count('warning'),
    ChecksCritical: count('critical'),
    GatewayConfig: summary.addresses.length === 0 ? {} : { Addresses: summary.addresses },
    TransparentProxy: summary.transparentProxy,
    ConnectNative: summary.connectNative,
    ...(summary.peer === '' ? {} : { PeerName: summary.peer }),
    ...(form === 'listing' ? { ConnectedWithProxy: summary.connectedWithProxy, ConnectedWithGateway: summary.connectedWithGateway } : {}),
  }
}

export interface NodeView {
  node: Node
  services: NodeService[]
  checks: HealthCheck[]
}

export function encodeNodeView({ node, services, checks }: NodeView): unknown {
  return {
    ID: node.id,
    Node: node.node,
    ...(node.peerName ? { PeerName: node.peerName } : {}),
    Address: node.address,
    TaggedAddresses: node.taggedAddresses,
    Meta: node.meta,
    Services: services.map(service => tagless(encodeService(service), 'Tags')),
    Checks: checks.map(check => tagless(encode(HealthCheck, check), 'ServiceTags')),
  }
}

/** Our own nodes with everything on them, in the order of their names. */
export function ownNodes(tables: Tables, noting: Noting): NodeView[] {
  return noting.note(tables.nodes()).map(node => ({
    node,
    services: noting.note(tables.nodeServices(node.node))?.services ?? [],
    checks: noting.note(tables.checksOfNode(node.node)),
  }))
}

/** What a peer exports to us, by the nodes that it says they are on. */
export function importedNodes(tables: Tables, peer: string, noting: Noting): NodeView[] {
  const views = new Map<string, NodeView>()
  for (const { node, service, checks } of instancesOf(tables, peer, noting)) {
    const key = node.node.toLowerCase()
    let view = views.get(key)
    if (!view) views.set(key, (view = { node, services: [], checks: [] }))
    view.services.push(service)
    for (const check of checks) if (!view.checks.some(each => each.checkId === check.checkId)) view.checks.push(check)
  }
  for (const view of views.values()) {
    view.services.sort((a, b) => compareText(a.id, b.id))
    view.checks.sort((a, b) => compareText(a.checkId, b.checkId))
  }
  return [...views.values()].sort((a, b) => compareText(a.node.node, b.node.node))
}
