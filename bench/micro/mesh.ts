/** Deciding and routing: what every request of a sidecar asks its plan, with few and with many intentions. */
import type { Decision, HttpFacts } from '../../src/mesh/authorize.ts'
import type { SidecarPlan } from '../../src/mesh/plan.ts'
import { names } from '../../src/mesh/snapshot.ts'
import type { Case } from './measure.ts'
import { callerOf, crowded, crowdedCaller, planOf, planWith } from './plans.ts'

/** Numbers of intentions. What a decision costs must be the same for all of them. */
export const sizes = [10, 1000, 10_000] as const

const headers = ['host', 'api', 'user-agent', 'bench/1', 'accept', '*/*', 'x-team', 'red', 'content-type', 'application/json']
const plain: HttpFacts = { method: 'GET', path: '/v1/items/42', headers }
const odd: HttpFacts = { method: 'GET', path: '/v1//items/%34%32/../43', headers }

export function casesOf(intentions: number): Case[] {
  const plan = planOf(intentions, 100)
  const label = (what: string) => `${what}, ${intentions} intentions`
  return [
    { name: label('authorize: allowed by name'), run: deciding(plan, callers(intentions - 2), plain) },
    { name: label('authorize: no source, denied'), run: deciding(plan, [callerOf(intentions + 1), callerOf(intentions + 2)], plain) },
    { name: label('authorize: L7 permissions'), run: deciding(plan, [callerOf(intentions - 1), callerOf(intentions - 2)], plain) },
    { name: label('authorize: L7, path in two forms'), run: deciding(plan, [callerOf(intentions - 1), callerOf(intentions - 2)], odd) },
    { name: label('route: upstream and endpoint'), run: routing(plan) },
  ]
}

/** A few dozen of them, spread over all, so that no one entry stays in the fastest cache alone. */
function callers(count: number) {
  const step = Math.max(1, Math.floor(count / 64))
  return Array.from({ length: Math.min(64, count) }, (_, i) => callerOf((i * step) % count))
}

function deciding(plan: SidecarPlan, principals: ReturnType<typeof callers>, request: HttpFacts): Case['run'] {
  const { authorizer } = plan
  return times => {
    let allowed = 0
    let last: Decision | undefined
    for (let i = 0; i < times; i++) {
      last = authorizer.authorize(principals[i % principals.length]!, request)
      if (last.allow) allowed += 1
    }
    return [allowed, last]
  }
}

function routing(plan: SidecarPlan): Case['run'] {
  const wanted = Array.from({ length: 100 }, (_, i) => names.upstream(`up-${i}`, 'east'))
  return times => {
    let ports = 0
    for (let i = 0; i < times; i++) ports += plan.upstreams.get(wanted[i % wanted.length]!)!.picker.pick()!.port
    return ports
  }
}

/**
 * What an intention may cost at worst: the caller's own source, among ten thousand exact ones and two `*`, has fifty permissions by
 * prefix and header of which only the last holds; beside the smallest thing there is, ten plain sources.
 */
export function worstCases(): Case[] {
  const request: HttpFacts = { method: 'GET', path: '/v1/items/42', headers: [...headers, 'x-tenant', 'blue'] }
  return [
    { name: 'authorize: 10 plain sources', run: deciding(planOf(10, 1), [callerOf(1)], request) },
    {
      name: 'authorize: 10000 sources and 50 permissions, the last one holds',
      run: deciding(planWith(crowded()), [callerOf(crowdedCaller)], request),
    },
  ]
}
