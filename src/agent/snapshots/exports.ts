/** Which peers a service is exported to (spec/data-plane.md 9.7): by its own row or by `*`. The `consul` service is never exported. */
import type { Gathering, SnapshotContext } from './gathering.ts'

export const neverExported = 'consul'

/** Names of the peerings that the service is exported to, sorted. A consumer that is no peering of ours is nobody. */
export function consumersOf(service: string, gathering: Gathering, context: SnapshotContext): string[] {
  const entry = gathering.read(context.tables.configEntry('exported-services', 'default'))
  if (entry === undefined || service === neverExported) return []
  const peers = new Set<string>()
  for (const row of entry.services) {
    if (row.name !== '*' && row.name !== service) continue
    for (const { peer } of row.consumers) if (peer) peers.add(peer)
  }
  return [...peers].filter(peer => isLive(gathering.read(context.tables.peering(peer)))).sort()
}

/** A peering that is being deleted, or that the other side has ended, lets nobody in. */
function isLive(peering: { state: string } | undefined): boolean {
  return peering !== undefined && peering.state !== 'DELETING' && peering.state !== 'TERMINATED'
}
