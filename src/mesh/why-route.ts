/**
 * The part of `why` between a name and its targets: the discovery chain, the route that the request takes, the legs of its split, the
 * resolver and which of its targets health lets it use. Every step is the function that the proxy runs.
 */
import type { RetryLimits } from './balance/config.ts'
import type { CompiledChain } from './discovery-chain-compiler.ts'
import type { DiscoveryChain } from './discovery-chain.ts'
import { failoverLimits, firstTarget, followHealth } from './failover.ts'
import { forwarded } from './forwarded.ts'
import type { ChainPlan, UpstreamPlan } from './plan.ts'
import { route, type LegPlan, type ResolverPlan, type RoutePlan } from './routing.ts'
import type { RouteFacts } from './route-table.ts'
import type { Provenance, WhyStep } from './why-report.ts'

export interface RoutePlans {
  chains: ReadonlyMap<string, ChainPlan>
  upstreams: ReadonlyMap<string, UpstreamPlan>
}

/** A target that the call may end at; without a plan it is nowhere to be reached. */
export interface ReachedTarget {
  name: string
  plan: UpstreamPlan | undefined
  /** As it arrives there. */
  request: RouteFacts
}

export type From = (entry: string) => Provenance[]

/** Where a name of our own leads by the plan. */
export function explainRoute(
  name: string,
  compiled: CompiledChain,
  { chains, upstreams }: RoutePlans,
  request: RouteFacts,
  from: From,
): { steps: WhyStep[]; targets: ReachedTarget[] } {
  if (!compiled.ok) {
    const next = 'correct the entry that the text names; until then the name leads nowhere'
    return { steps: [{ step: 'chain', state: 'failed', code: 'chain-invalid', text: compiled.problem, next }], targets: [] }
  }
  const { chain } = compiled
  const steps = [chainStep(chain, from)]
  const plan = chains.get(name)
  if (plan === undefined) {
    const only = targetNames(chain)[0] ?? name
    const upstream = upstreams.get(name)
    if (upstream === undefined) steps.push(unreachable(`${name} leads to ${only}`))
    return { steps, targets: [{ name: only, plan: upstream, request }] }
  }
  const taken = route(plan.routing, request)
  if (taken === undefined) {
    const next = `add a route for it to service-router/${name}; a request that no route matches is answered with 404`
    return {
      steps: [...steps, { step: 'route', state: 'failed', code: 'no-route', text: 'no route matches the request', next }],
      targets: [],
    }
  }
  if (plan.routing.table !== undefined) steps.push(routeStep(taken, plan.routing.routes.length, from))
  const legs = taken.next.kind === 'split' ? taken.next.legs : [undefined]
  const targets: ReachedTarget[] = []
  for (const [i, leg] of legs.entries()) {
    const resolver = leg?.resolver ?? (taken.next as ResolverPlan)
    const made = chooseTarget(resolver, plan, upstreams, forwarded(request, taken, leg))
    // Two legs may end at one service, and change requests differently.
    const chosen = targets.some(({ name: other }) => other === made.name) ? { ...made, name: `${made.name} #${i}` } : made
    const target = legs.length > 1 ? chosen.name : undefined
    if (leg !== undefined && taken.next.kind === 'split') steps.push(splitStep(leg, share(taken.next, i), target, from))
    steps.push({ ...resolverStep(resolver, chosen, from), ...(target === undefined ? {} : { target }) })
    targets.push(chosen)
  }
  return { steps, targets }
}

function chainStep({ nodes, startNode, default: isDefault, protocol, startVia, serviceName }: DiscoveryChain, from: From): WhyStep {
  const what = isDefault
    ? 'no router, splitter or resolver: it leads to the service itself'
    : `${Object.keys(nodes).length} nodes, from ${startNode}`
  const via = startVia.flatMap(from)
  const own = startNode.startsWith('router:') ? from(`service-router/${serviceName}`) : []
  const sources = [...own, ...via]
  return { step: 'chain', state: 'ok', text: `${what}; ${protocol}`, ...(sources.length > 0 ? { from: sources } : {}) }
}

function routeStep({ entry, via, rewrite, timeoutMs, retry, retriesAsked }: RoutePlan, count: number, from: From): WhyStep {
  const caught = !entry.endsWith(']')
  const text = caught ? `none of the ${count - 1} routes matches; the router's own last one takes it` : `${entry} takes it`
  const details = [
    ...(rewrite === undefined ? [] : [`rewrites the path to begin with ${rewrite.to}`]),
    ...(timeoutMs === undefined ? [] : [`waits ${timeoutMs} ms at most`]),
    ...(retry === undefined ? [] : [retryText(retry, retriesAsked)]),
  ]
  return { step: 'route', state: 'ok', text, from: [entry, ...via].flatMap(from), ...(details.length > 0 ? { details } : {}) }
}

function retryText({ retries, statuses }: RetryLimits, asked: number): string {
  const times = retries === 1 ? 'once' : `${retries} times`
  const capped = asked > retries ? ` (${asked} are asked for, which is too many)` : ''
  return `tries again ${times}${capped}${statuses.length === 0 ? '' : `, on ${statusText(statuses)} too`}`
}

/** `500-599, 409`. */
function statusText(statuses: readonly number[]): string {
  const runs: [number, number][] = []
  for (const status of statuses) {
    const run = runs.at(-1)
    if (run !== undefined && run[1] === status - 1) run[1] = status
    else runs.push([status, status])
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(', ')
}

function share({ ends, total }: { ends: readonly number[]; total: number }, i: number): number {
  return ((ends[i]! - (i === 0 ? 0 : ends[i - 1]!)) / total) * 100
}

function splitStep({ entry, via }: LegPlan, percent: number, target: string | undefined, from: From): WhyStep {
  const text = `${Number(percent.toFixed(2))}% of requests take ${entry}`
  return { step: 'split', state: 'ok', text, ...(target === undefined ? {} : { target }), from: [entry, ...via].flatMap(from) }
}

interface Chosen extends ReachedTarget {
  order: { name: string; usable: boolean }[]
  current: number
}

/** What a proxy that has just started would use; one that runs comes back to a better target only after a while. */
function chooseTarget(
  { targets, name }: ResolverPlan,
  { resource }: ChainPlan,
  upstreams: RoutePlans['upstreams'],
  request: RouteFacts,
): Chosen {
  const plans = targets.map(id => upstreams.get(resource.targets[id] ?? ''))
  const usable = plans.map(plan => plan !== undefined && plan.picker.size > 0)
  const { current } = followHealth(firstTarget, usable, 0)
  const order = targets.map((id, i) => ({ name: targetName(resource.chain, id), usable: usable[i]! }))
  // A chain that is not whole has resolvers without targets.
  return { name: order[current]?.name ?? name, plan: plans[current], request, order, current }
}

function resolverStep({ entry, name }: ResolverPlan, { name: target, order, current, plan }: Chosen, from: From): WhyStep {
  const sources = entry === '' ? {} : { from: from(entry) }
  const list = order.map(
    ({ name: each, usable }, i) => `${i === current ? 'uses' : 'has'} ${each}${usable ? '' : ', which cannot be used now'}`,
  )
  const back = `a proxy that went on to another comes back when a better one was usable for ${failoverLimits.failBackMs / 1000} s`
  const details = order.length > 1 ? { details: [...list, back] } : {}
  const text = current === 0 ? `${name} leads to ${target}` : `${name} has failed over to ${target}`
  if (plan === undefined) return { ...unreachable(text), ...sources, ...details }
  if (current > 0) return { step: 'resolver', state: 'warning', code: 'failed-over', text, ...sources, ...details }
  return { step: 'resolver', state: 'ok', text, ...sources, ...details }
}

function unreachable(text: string): WhyStep {
  const next = 'a target in another datacenter, or one that its peer does not export, cannot be reached from here'
  return { step: 'resolver', state: 'failed', code: 'unreachable-target', text: `${text}, which cannot be reached from here`, next }
}

function targetNames(chain: DiscoveryChain): string[] {
  return Object.keys(chain.targets).map(id => targetName(chain, id))
}

/** `api`, `api (v2)`, `api@west`. */
export function targetName(chain: DiscoveryChain, id: string): string {
  const { service = id, serviceSubset = '', peer = '' } = chain.targets[id] ?? {}
  return `${service}${serviceSubset === '' ? '' : ` (${serviceSubset})`}${peer === '' ? '' : `@${peer}`}`
}
