/**
 * The steps of a discovery chain that need nothing but what they are given: where a redirect or a failover leads from a target, and what a
 * split within a split becomes (spec/data-plane.md 9.3, 9.5).
 */
import { targetId, type ChainTarget } from './discovery-chain.ts'
import type { HeaderModifiers } from './entry-members.ts'
import type { FailoverTarget, ResolverFailover, Split } from './routing-entry.ts'

export type Target = Pick<ChainTarget, 'service' | 'serviceSubset' | 'datacenter' | 'peer'>

/** A target with what a redirect or a failover says instead. Another service has other subsets. */
export function rewritten(target: Target, by: FailoverTarget): Target {
  const service = by.service || target.service
  if (by.peer) return { service, peer: by.peer }
  const inherited = service === target.service && !target.peer ? target.serviceSubset : undefined
  const serviceSubset = by.serviceSubset || inherited
  return { service, datacenter: by.datacenter || target.datacenter, ...(serviceSubset ? { serviceSubset } : {}) }
}

/** In order of preference, without the target itself. */
export function failoverTargets(target: Target, section: ResolverFailover): Target[] {
  const { datacenters = [], targets = [] } = section
  const others =
    datacenters.length > 0
      ? datacenters.map(datacenter => rewritten(target, { ...section, datacenter }))
      : targets.length > 0
        ? targets.map(each => rewritten(target, each))
        : [rewritten(target, section)]
  return others.filter(each => targetId(each) !== targetId(target))
}

/** Of requests the inner split has the last word, of responses the outer. */
export function mergedSplit(inner: Split, outer: Split): Split {
  const requestHeaders = mergedModifiers(outer.requestHeaders, inner.requestHeaders)
  const responseHeaders = mergedModifiers(inner.responseHeaders, outer.responseHeaders)
  return { ...inner, ...(requestHeaders ? { requestHeaders } : {}), ...(responseHeaders ? { responseHeaders } : {}) }
}

function mergedModifiers(base: HeaderModifiers | undefined, over: HeaderModifiers | undefined): HeaderModifiers | undefined {
  if (base === undefined || over === undefined) return base ?? over
  return {
    add: { ...base.add, ...over.add },
    set: { ...base.set, ...over.set },
    remove: [...(base.remove ?? []), ...(over.remove ?? [])],
  }
}
