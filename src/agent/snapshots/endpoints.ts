/**
 * Instances of the catalog as endpoints of a plan. Only critical and maintenance make an endpoint unhealthy; a warning lowers its
 * weight (spec/data-plane.md 9.3). An instance without an address or port is none.
 */
import { aggregateStatus, type AggregateStatus } from '../../mesh/check.ts'
import { compileFilter } from '../../mesh/filter/filter.ts'
import type { Locality } from '../../mesh/node.ts'
import type { ResolverSubset } from '../../mesh/routing-entry.ts'
import { CheckServiceNode, lanAddress, wanAddress, type ServiceAddress } from '../../mesh/service.ts'
import type { Endpoint, Endpoints } from '../../mesh/snapshot.ts'
import { snapshotLimits } from './gathering.ts'

export function isDown(status: AggregateStatus): boolean {
  return status === 'critical' || status === 'maintenance'
}

type AddressOf = (instance: CheckServiceNode) => ServiceAddress

/**
 * What was made of a set of instances. The tables give out the same array until one of its instances changes, so a health flip makes
 * the endpoints of one service anew and no others.
 */
const made = new Map<AddressOf, WeakMap<readonly CheckServiceNode[], Endpoints>>([
  [lanAddress, new WeakMap()],
  [wanAddress, new WeakMap()],
])

/** As seen from inside the cluster. */
export function lanEndpoints(instances: readonly CheckServiceNode[]): Endpoints {
  return endpointsOf(instances, lanAddress)
}

/** As seen from another cluster. */
export function wanEndpoints(instances: readonly CheckServiceNode[]): Endpoints {
  return endpointsOf(instances, wanAddress)
}

/** The same places, none of them to be used. */
export function allDown({ endpoints }: Endpoints): Endpoints {
  return { endpoints: endpoints.map(endpoint => ({ ...endpoint, healthy: false })) }
}

const subsets = new WeakMap<readonly CheckServiceNode[], Map<string, Endpoints>>()

/** Of a resolver's subset: the instances that its filter selects (none, where it selects nothing of this kind), as seen from inside. */
export function subsetEndpoints(instances: readonly CheckServiceNode[], { filter = '', onlyPassing = false }: ResolverSubset): Endpoints {
  if (filter === '' && !onlyPassing) return lanEndpoints(instances)
  const key = `${onlyPassing}/${filter}`
  let known = subsets.get(instances)
  if (known === undefined) subsets.set(instances, (known = new Map()))
  let value = known.get(key)
  if (value === undefined) {
    const compiled = filter === '' ? undefined : compileFilter(filter, CheckServiceNode)
    const selected = compiled === undefined ? instances : compiled.ok ? instances.filter(compiled.test) : []
    value = { endpoints: endpointsAt(selected, lanAddress, onlyPassing) }
    known.set(key, value)
  }
  return value
}

/** Its own, else that of its node; undefined where neither says a region. */
export function localityOf({ node, service }: CheckServiceNode): Locality | undefined {
  return [service.locality, node.locality].find(each => each?.region)
}

function endpointsOf(instances: readonly CheckServiceNode[], addressOf: AddressOf): Endpoints {
  const known = made.get(addressOf)!
  let value = known.get(instances)
  if (value === undefined) {
    value = { endpoints: endpointsAt(instances, addressOf) }
    known.set(instances, value)
  }
  return value
}

function endpointsAt(instances: readonly CheckServiceNode[], addressOf: AddressOf, onlyPassing = false): Endpoint[] {
  const endpoints: Endpoint[] = []
  for (const instance of instances) {
    const { address, port } = addressOf(instance)
    if (address === '' || port < 1 || port > 65_535) continue
    const status = aggregateStatus(instance.checks)
    const { passing, warning } = instance.service.weights
    const weight = status === 'warning' ? warning : passing
    const locality = localityOf(instance)
    endpoints.push({
      // With the address: a peer numbers its gateways anew when one of them goes, and an id must not move to another place.
      id: `${instance.node.node}/${instance.service.id}@${address}:${port}`,
      address,
      port,
      weight: Math.min(128, Math.max(1, weight)),
      healthy: !isDown(status) && weight > 0 && !(onlyPassing && status !== 'passing'),
      ...(locality && { locality }),
    })
  }
  if (endpoints.length <= snapshotLimits.maxEndpoints) return endpoints
  return endpoints.sort((a, b) => Number(b.healthy) - Number(a.healthy)).slice(0, snapshotLimits.maxEndpoints)
}
