/**
 * Who talks to whom, as a service's page of a UI draws it (spec/http-api.md 6): upstreams and downstreams that proxies have registered,
 * and what the intentions say of each pair.
 */
import { compareText } from '../../lib/order.ts'
import { aggregateStatus } from '../../mesh/check.ts'
import { decidingIntention } from '../../mesh/intention.ts'
import type { NodeService } from '../../mesh/service.ts'
import type { Tables } from '../catalog/tables.ts'
import { ingressGateways } from './gateway-services.ts'
import type { Noting } from './noting.ts'
import { emptySummary, encodeSummary, summarise, type Summary } from './ui-summary.ts'

interface Context {
  tables: Tables
  datacenter: string
  defaultAllow: boolean
}

export function topology(service: string, context: Context, noting: Noting): unknown {
  const { tables } = context
  const proxies = [...noting.note(tables.services()).keys()]
    .flatMap(name => noting.note(tables.instances(name)).map(each => each.service))
    .filter(each => each.kind === 'connect-proxy')
  const upstreams = new Set(proxies.filter(each => isOf(each, service)).flatMap(each => localUpstreams(each, context.datacenter)))
  const downstreams = new Set(
    proxies.filter(each => localUpstreams(each, context.datacenter).includes(service)).map(each => each.proxy.destinationServiceName!),
  )
  for (const gateway of ingressGateways(tables, service, noting)) downstreams.add(gateway)
  const item = (name: string, source: string, destination: string) => ({
    ...encodeSummary(summaryOf(name, tables, noting), 'plain'),
    Source: 'proxy-registration',
    Intention: intentionOf(source, destination, context, noting),
  })
  const own = noting.note(tables.connectInstances(service))
  return {
    Protocol: noting.note(tables.protocol(service)),
    TransparentProxy: own.length > 0 && own.every(each => each.service.proxy.mode === 'transparent'),
    Upstreams: [...upstreams].sort(compareText).map(name => item(name, service, name)),
    Downstreams: [...downstreams].sort(compareText).map(name => item(name, name, service)),
    FilteredByACLs: false,
  }
}

function isOf(proxy: NodeService, service: string): boolean {
  return proxy.proxy.destinationServiceName?.toLowerCase() === service.toLowerCase()
}

function localUpstreams(proxy: NodeService, datacenter: string): string[] {
  if (!proxy.proxy.destinationServiceName) return []
  return (proxy.proxy.upstreams ?? [])
    .filter(each => each.destinationType === 'service' && !each.destinationPeer && (!each.datacenter || each.datacenter === datacenter))
    .map(each => each.destinationName)
}

/** One of our services by its name; without instances where there are none. */
export function summaryOf(name: string, tables: Tables, noting: Noting): Summary {
  return summarise(noting.note(tables.instances(name)))[0] ?? emptySummary(name)
}

function intentionOf(source: string, destination: string, { tables, defaultAllow }: Context, noting: Noting): unknown {
  const entries = noting.note(tables.configEntries('service-intentions'))
  const intention = decidingIntention(entries, source, destination)
  const hasPermissions = (intention?.permissions ?? []).length > 0
  return {
    Allowed: intention ? !hasPermissions && intention.action === 'allow' : defaultAllow,
    HasPermissions: hasPermissions,
    ExternalSource: intention?.meta?.['external-source'] ?? '',
    HasExact: intention !== undefined && intention.sourceName === source && intention.destinationName === destination,
    DefaultAllow: defaultAllow,
  }
}

interface Count {
  Name?: string
  Total: number
  Passing: number
  Warning: number
  Critical: number
}

/** How many nodes, instances and checks are in which state. */
export function overview(tables: Tables): { Nodes: Count[]; Services: Count[]; Checks: Count[] } {
  const nodes = emptyCount()
  for (const { node } of tables.nodes().value) add(nodes, aggregateStatus(tables.checksOfInstance(node, '')))
  const services = [...tables.services().value.keys()].map(name => {
    const count: Count = { Name: name, ...emptyCount() }
    for (const { checks } of tables.instances(name).value) add(count, aggregateStatus(checks))
    return count
  })
  const checks = new Map<string, Count>()
  for (const { name, status } of tables.checksInState('any').value) {
    let count = checks.get(name)
    if (!count) checks.set(name, (count = { Name: name, ...emptyCount() }))
    add(count, status)
  }
  const byName = (a: Count, b: Count) => compareText(a.Name ?? '', b.Name ?? '')
  return { Nodes: [nodes], Services: services.sort(byName), Checks: [...checks.values()].sort(byName) }
}

function emptyCount(): Count {
  return { Total: 0, Passing: 0, Warning: 0, Critical: 0 }
}

function add(count: Count, status: string): void {
  count.Total += 1
  if (status === 'passing') count.Passing += 1
  else if (status === 'warning') count.Warning += 1
  else count.Critical += 1
}
