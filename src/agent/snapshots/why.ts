/**
 * What this agent knows of one call, for mesh/why: the snapshots that the proxies on its way are told, gathered and compiled as they do
 * it, with the registrations, entries and peers that they were made of. It reads only.
 */
import { X509Certificate } from 'node:crypto'
import { aggregateStatus } from '../../mesh/check.ts'
import type { ConfigEntryKind } from '../../mesh/config-entry.ts'
import type { Freshness } from '../../mesh/freshness.ts'
import type { Peering } from '../../mesh/peering.ts'
import { compile, resourceKey, type GatewayPlan, type Plan, type Resources, type SidecarPlan } from '../../mesh/plan.ts'
import type { CheckServiceNode, Upstream } from '../../mesh/service.ts'
import type { Endpoint, Intentions, Resource } from '../../mesh/snapshot.ts'
import type { Judge } from '../../mesh/why-intentions.ts'
import type { WhyCertificate } from '../../mesh/why-report.ts'
import type { ImportedFacts } from '../../mesh/why-target.ts'
import type { CallerFacts, PeerFacts, Question, WhyScene } from '../../mesh/why.ts'
import { Tokens } from '../../wire/tokens.ts'
import { readChain } from '../catalog/chains.ts'
import { isDown } from './endpoints.ts'
import { consumersOf } from './exports.ts'
import { gatherGateway } from './gateway.ts'
import { Gathering, type SnapshotContext } from './gathering.ts'
import { gatherSidecar } from './sidecar.ts'

/** What only the peerings know. */
export interface PeeringFacts {
  read(name: string): { value: Peering | undefined }
  freshness(peer: string, service: string): Freshness
}

export function whyScene({ source, destination }: Question, context: SnapshotContext, peerings: PeeringFacts): WhyScene {
  const { tables, datacenter, ca } = context
  const { trustDomain } = ca
  return {
    nowMs: Date.now(),
    datacenter,
    trustDomain,
    indexOf: (kind, name) => indexOf(context, kind, name),
    chain: service => readChain(tables, { service, datacenter, trustDomain }).value,
    caller: source.peer === '' ? callerOf(source.service, destination, context) : undefined,
    peer: name => peerFacts(name, context, peerings),
    imported: (service, peer) => importedFacts(service, peer, context, peerings),
    consumers: service => consumersOf(service, new Gathering(), context),
    judge: service => judgeOf(service, context),
    gateways: () => gatewaysOf(context),
    health: (service, peer, endpoint) => healthOf(service, peer, endpoint, context),
    certificates: pems => certificatesOf(pems),
  }
}

function indexOf({ tables }: SnapshotContext, kind: ConfigEntryKind, name: string): number | undefined {
  return tables.configEntry(kind, name).value?.modifyIndex
}

/** Sidecars of a service: those of this node before others. */
function sidecarsOf(service: string, { tables, node }: SnapshotContext): CheckServiceNode[] {
  const isHere = (each: CheckServiceNode) => Number(each.node.node === node)
  const all = tables.connectInstances(service).value.filter(each => each.service.kind === 'connect-proxy')
  return all.toSorted((a, b) => isHere(b) - isHere(a))
}

function compiled(
  instance: CheckServiceNode,
  gather: typeof gatherSidecar,
  context: SnapshotContext,
): { plan: Plan; resources: Resource[] } {
  const gathering = new Gathering()
  gather(instance, gathering, { ...context, node: instance.node.node })
  const resources = gathering.finish().value
  const byKey: Resources = new Map(resources.map(each => [resourceKey(each), each]))
  // There is a `self`: an instance has just been gathered.
  return { plan: compile(byKey)!, resources }
}

function callerOf(service: string, destination: Question['destination'], context: SnapshotContext): WhyScene['caller'] {
  const { tables } = context
  const instances = tables.instances(service).value.length
  const proxies = sidecarsOf(service, context)
  const at = (proxy: CheckServiceNode) => upstreamAt(proxy, destination)
  // Of several sidecars one that has the upstream, if any has.
  const proxy = proxies.find(each => at(each) !== undefined) ?? proxies[0]
  if (proxy === undefined) return { missing: instances === 0 ? 'service' : 'sidecar' }
  const upstream = at(proxy)
  const { plan } = compiled(upstream === undefined ? withUpstream(proxy, destination) : proxy, gatherSidecar, context)
  const { id, modifyIndex } = proxy.service
  const facts: Omit<CallerFacts, 'plan'> = {
    instances,
    proxies: proxies.map(each => each.service.id),
    proxyId: id,
    index: modifyIndex,
    upstream,
  }
  return { ...facts, plan: plan as SidecarPlan }
}

function upstreamAt({ service }: CheckServiceNode, destination: Question['destination']): number | undefined {
  const isAsked = (each: Upstream) =>
    each.destinationType === 'service' && each.destinationName === destination.service && (each.destinationPeer ?? '') === destination.peer
  const at = (service.proxy.upstreams ?? []).findIndex(isAsked)
  return at === -1 ? undefined : at
}

/** As if it had been registered with the upstream. */
function withUpstream(instance: CheckServiceNode, { service, peer }: Question['destination']): CheckServiceNode {
  const { proxy } = instance.service
  const upstream: Upstream = {
    destinationType: 'service',
    destinationName: service,
    meshGateway: {},
    ...(peer === '' ? {} : { destinationPeer: peer }),
  }
  const upstreams = [upstream, ...(proxy.upstreams ?? [])]
  return { ...instance, service: { ...instance.service, proxy: { ...proxy, upstreams } } }
}

function judgeOf(service: string, context: SnapshotContext): Judge | undefined {
  const [proxy] = sidecarsOf(service, context)
  if (proxy === undefined) return undefined
  const { plan, resources } = compiled(proxy, gatherSidecar, context)
  const intentions = resources.find(({ kind }) => kind === 'intentions')!.value as Intentions
  const tokens = new Tokens((plan as SidecarPlan).jwtProviders)
  return { plan: plan as SidecarPlan, intentions, tokens: request => tokens.explain(request) }
}

function gatewaysOf(context: SnapshotContext): { proxyId: string; plan: GatewayPlan }[] {
  return context.tables
    .gateways()
    .value.map(each => ({ proxyId: each.service.id, plan: compiled(each, gatherGateway, context).plan as GatewayPlan }))
}

function peerFacts(name: string, { tables }: SnapshotContext, peerings: PeeringFacts): PeerFacts | undefined {
  const { value } = peerings.read(name)
  if (value === undefined) return undefined
  const { state, remote, modifyIndex, streamStatus } = value
  const bundle = tables.trustBundle(name).value
  return {
    state,
    index: modifyIndex,
    datacenter: remote.datacenter,
    freshness: streamStatus.freshness ?? peerings.freshness(name, ''),
    bundle: bundle && { trustDomain: bundle.trustDomain, exportedPartition: bundle.exportedPartition, pems: bundle.rootPems },
  }
}

function importedFacts(service: string, peer: string, { tables }: SnapshotContext, peerings: PeeringFacts): ImportedFacts | undefined {
  const instances = tables.instances(service, peer).value
  if (instances.length === 0 && tables.connectInstances(service, peer).value.length === 0) return undefined
  const healthy = instances.filter(({ checks }) => !isDown(aggregateStatus(checks))).length
  return { instances: instances.length, healthy, freshness: peerings.freshness(peer, service) }
}

/** The checks that make an endpoint what it is. */
function healthOf(service: string, peer: string, endpoint: Endpoint, { tables }: SnapshotContext): string {
  const known = [...tables.connectInstances(service, peer).value, ...tables.gateways().value]
  const instance = known.find(each => endpoint.id.startsWith(`${each.node.node}/${each.service.id}@`))
  if (instance === undefined) return ''
  const bad = instance.checks.filter(({ status }) => status !== 'passing')
  const named = bad.map(({ checkId, status, output }) => `${checkId} is ${status}${output === '' ? '' : ` (${firstLine(output)})`}`)
  return named.length === 0 ? 'passing' : named.join(', ')
}

const maxOutput = 120

function firstLine(output: string): string {
  return output.split('\n')[0]!.slice(0, maxOutput)
}

function certificatesOf(pems: readonly string[]): WhyCertificate[] {
  const now = Date.now()
  return pems.flatMap(pem => {
    try {
      const { subject, validFrom, validTo } = new X509Certificate(pem)
      const [notBefore, notAfter] = [new Date(validFrom), new Date(validTo)] as const
      const dates = { notBefore: notBefore.toISOString(), notAfter: notAfter.toISOString() }
      return [{ subject: subject ?? '', ...dates, expired: notAfter.getTime() <= now }]
    } catch {
      return []
    }
  })
}
