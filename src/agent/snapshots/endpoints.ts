/**
 * Instances of the catalog as endpoints of a plan. Only critical and maintenance make an endpoint unhealthy; a warning lowers its
 * weight (spec/data-plane.md 9.3). An instance without an address or port is none.
 */
import { aggregateStatus, type AggregateStatus } from '../../mesh/check.ts'
import { lanAddress, wanAddress, type CheckServiceNode, type ServiceAddress } from '../../mesh/service.ts'
import type { Endpoint } from '../../mesh/snapshot.ts'
import { snapshotLimits } from './gathering.ts'

export function isDown(status: AggregateStatus): boolean {
  return status === 'critical' || status === 'maintenance'
}

/** As seen from inside the cluster. */
export function lanEndpoints(instances: readonly CheckServiceNode[]): Endpoint[] {
  return endpointsAt(instances, lanAddress)
}

/** As seen from another cluster. */
export function wanEndpoints(instances: readonly CheckServiceNode[]): Endpoint[] {
  return endpointsAt(instances, wanAddress)
}

/** The same places, none of them to be used. */
export function allDown(endpoints: readonly Endpoint[]): Endpoint[] {
  return endpoints.map(endpoint => ({ ...endpoint, healthy: false }))
}

function endpointsAt(instances: readonly CheckServiceNode[], addressOf: (instance: CheckServiceNode) => ServiceAddress): Endpoint[] {
  const endpoints: Endpoint[] = []
  for (const instance of instances) {
    const { address, port } = addressOf(instance)
    if (address === '' || port < 1 || port > 65_535) continue
    const status = aggregateStatus(instance.checks)
    const { passing, warning } = instance.service.weights
    const weight = status === 'warning' ? warning : passing
    endpoints.push({
      id: `${instance.node.node}/${instance.service.id}`,
      address,
      port,
      weight: Math.min(128, Math.max(1, weight)),
      healthy: !isDown(status) && weight > 0,
    })
  }
  if (endpoints.length <= snapshotLimits.maxEndpoints) return endpoints
  return endpoints.sort((a, b) => Number(b.healthy) - Number(a.healthy)).slice(0, snapshotLimits.maxEndpoints)
}
