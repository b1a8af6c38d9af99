/**
 * What a cluster exports to a peer by its catalog, and what a cluster has imported of one, in the same words, so that the two can be
 * compared. The first is told from the specification alone (spec/peering-wire.md 7), not by the exporter under test.
 */
import { aggregateStatus } from '../../../../src/mesh/check.ts'
import { isTypical, type CheckServiceNode } from '../../../../src/mesh/service.ts'
import type { Tables } from '../../../../src/agent/catalog/tables.ts'
import { trustDomainFor } from './cluster.ts'

/** Instances of each service as text, by its name in lower case; what has no instances is not in it. */
export type View = ReadonlyMap<string, string>

/** No simulated service is so large and fits. */
const tooManyBytes = 8_000_000

const known = new WeakMap<readonly CheckServiceNode[], string>()

export function exportedNames(tables: Tables, peer: string): string[] {
  const rows = tables.configEntry('exported-services', 'default').value?.services ?? []
  const names = new Set<string>()
  for (const { name, consumers } of rows) {
    if (!consumers.some(consumer => consumer.peer === peer)) continue
    if (name !== '*') names.add(name)
    else for (const each of tables.services().value.keys()) if (typical(tables.instances(each).value).length > 0) names.add(each)
  }
  names.delete('consul')
  return [...names].sort()
}

export function exportedView(tables: Tables, cluster: string, peer: string): View {
  const view = new Map<string, string>()
  const gateways = tables.gateways().value
  for (const name of exportedNames(tables, peer)) {
    const plain = plainText(tables.instances(name).value)
    if (plain !== '') view.set(name, plain)
    if (gateways.length === 0 || tables.connectInstances(name).value.length === 0) continue
    const { value: protocol } = tables.protocol(name)
    const names = `${name}.default.default.${peer}.external.${trustDomainFor(cluster)} ${protocol}`
    const lines = gateways.map(({ node, service, checks }, i) => {
      const id = `${name}-sidecar-proxy-instance-${i}`
      return `${node.node} ${id} connect-proxy ${service.address}:${service.port} ${names} ${statusOf(checks)}`
    })
    view.set(`${name}-sidecar-proxy`, lines.sort().join('\n'))
  }
  return view
}

export function importedView(tables: Tables, peer: string): View {
  const view = new Map<string, string>()
  for (const { service } of tables.importedServices(peer).value) view.set(service.toLowerCase(), importedText(tables, peer, service))
  return view
}

/** Empty when nothing is imported under the name. */
export function importedText(tables: Tables, peer: string, service: string): string {
  const instances = tables.instances(service, peer).value
  const before = known.get(instances)
  if (before !== undefined) return before
  const text = instances.map(imported).sort().join('\n')
  known.set(instances, text)
  return text
}

function imported(instance: CheckServiceNode): string {
  const { node, service, checks } = instance
  if (service.kind !== 'connect-proxy') return lineOf(instance)
  const { sni, protocol } = service.connect.peerMeta ?? { sni: [], protocol: '' }
  return `${node.node} ${service.id} connect-proxy ${service.address}:${service.port} ${sni.join()} ${protocol} ${statusOf(checks)}`
}

function plainText(instances: CheckServiceNode[]): string {
  const before = known.get(instances)
  if (before !== undefined) return before
  const plain = typical(instances)
  const bytes = plain.reduce((sum, { service }) => sum + service.tags.join().length, 0)
  // What does not fit into a message is exported without instances.
  const text = bytes > tooManyBytes ? '' : plain.map(lineOf).sort().join('\n')
  known.set(instances, text)
  return text
}

function lineOf({ node, service, checks }: CheckServiceNode): string {
  const meta = Object.entries(service.meta ?? {}).map(([key, value]) => `${key}=${value}`)
  return `${node.node} ${service.id} ${service.address}:${service.port} ${service.tags.map(short).join()} ${meta.join()} ${statusOf(checks)}`
}

function short(text: string): string {
  return text.length > 64 ? `${text[0]} x ${text.length}` : text
}

function statusOf(checks: CheckServiceNode['checks']): string {
  if (checks.length === 0) return 'unchecked'
  return checks.some(check => check.status === 'maintenance') ? 'maintenance' : aggregateStatus(checks)
}

function typical(instances: CheckServiceNode[]): CheckServiceNode[] {
  return instances.filter(instance => isTypical(instance.service.kind))
}
