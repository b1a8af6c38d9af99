/** Which peers a service is exported to (spec/data-plane.md 9.7): by its own row or by `*`. The `consul` service is never exported. */
import { consumersIn, leadsTo, neverExported } from '../../mesh/exported.ts'
import { chainNames, readChain } from '../catalog/chains.ts'
import type { Gathering, SnapshotContext } from './gathering.ts'

/** Names of the peerings that the service is exported to, sorted. A consumer that is no peering of ours is nobody. */
export function consumersOf(service: string, gathering: Gathering, context: SnapshotContext): string[] {
  const entry = gathering.read(context.tables.configEntry('exported-services', 'default'))
  return consumersIn(entry, service)
    .filter(peer => isLive(gathering.read(context.tables.peering(peer))))
    .sort()
}

/** Names that may be exported to somebody: those given by name, and with `*` every service and every name that has a chain. */
export function exportableNames(gathering: Gathering, context: SnapshotContext): string[] {
  const { tables } = context
  const entry = gathering.read(tables.configEntry('exported-services', 'default'))
  const names = new Set(entry?.services.map(({ name }) => name).filter(name => name !== '*'))
  if (entry?.services.some(({ name }) => name === '*')) {
    for (const name of gathering.read(tables.services()).keys()) names.add(name)
    for (const name of gathering.read(chainNames(tables))) names.add(name)
  }
  names.delete(neverExported)
  return [...names].sort()
}

/** Peers whose callers may come to a service: those that it is exported to, by its own name or by one whose chain leads to it. */
export function callersOf(service: string, gathering: Gathering, context: SnapshotContext): string[] {
  const peers = new Set(consumersOf(service, gathering, context))
  const { tables, datacenter } = context
  // Where nothing is exported, no chain is looked at: whoever writes one wakes nobody.
  if (!gathering.read(tables.configEntry('exported-services', 'default'))) return []
  for (const name of gathering.read(chainNames(tables))) {
    const consumers = name === service ? [] : consumersOf(name, gathering, context)
    if (consumers.every(peer => peers.has(peer))) continue
    const compiled = gathering.read(readChain(tables, { service: name, datacenter, trustDomain: context.ca.trustDomain }))
    if (!compiled.ok || !leadsTo(compiled.chain, service)) continue
    for (const peer of consumers) peers.add(peer)
  }
  return [...peers].sort()
}

/** A peering that is being deleted, or that the other side has ended, lets nobody in. */
function isLive(peering: { state: string } | undefined): boolean {
  return peering !== undefined && peering.state !== 'DELETING' && peering.state !== 'TERMINATED'
}
