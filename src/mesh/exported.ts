/**
 * What exported-services says (spec/data-plane.md 9.7), and how far callers of a peer may follow the chain of an exported name: to no other
 * peer or datacenter, and by no failover (5.5). The `consul` service is never exported.
 */
import type { ExportedServices } from './config-entry.ts'
import type { DiscoveryChain } from './discovery-chain.ts'

export const neverExported = 'consul'

/** Peers that a name is exported to, by its own row or by `*`, whether there is such a peering or not. */
export function consumersIn(entry: ExportedServices | undefined, service: string): string[] {
  if (entry === undefined || service === neverExported) return []
  const peers = new Set<string>()
  for (const row of entry.services) {
    if (row.name !== '*' && row.name !== service) continue
    for (const { peer } of row.consumers) if (peer) peers.add(peer)
  }
  return [...peers]
}

const inside = new WeakMap<DiscoveryChain, DiscoveryChain>()

/** A chain as a peer's callers may go. */
export function withinCluster(chain: DiscoveryChain): DiscoveryChain {
  let made = inside.get(chain)
  if (made === undefined) inside.set(chain, (made = restricted(chain)))
  return made
}

function restricted(chain: DiscoveryChain): DiscoveryChain {
  const nodes = Object.entries(chain.nodes).map(([key, node]) => {
    const { failover: _, ...resolver } = node.resolver ?? {}
    return [key, node.resolver ? { ...node, resolver } : node] as const
  })
  const targets = Object.entries(chain.targets).filter(([, target]) => target.datacenter === chain.datacenter)
  return { ...chain, nodes: Object.fromEntries(nodes) as DiscoveryChain['nodes'], targets: Object.fromEntries(targets) }
}

export function leadsTo({ targets, datacenter }: DiscoveryChain, service: string): boolean {
  return Object.values(targets).some(target => target.service === service && target.datacenter === datacenter)
}
