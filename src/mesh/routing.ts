/**
 * A discovery chain compiled into what a request is routed by, each step a function of its own that names the config entry it followed:
 * `route` (router), `chooseLeg` (splitter), then a resolver's targets, among which failover.ts chooses. Everything that a step needs is
 * made here, with the plan; a step allocates nothing.
 */
import { defaultRetryLimits, type RetryLimits } from './balance/config.ts'
import type { ChainNode, DiscoveryChain } from './discovery-chain.ts'
import { compileHeaderEdit, type HeaderEdit } from './header-edit.ts'
import { byteString } from './path.ts'
import { noRoute, RouteTable, type RouteFacts } from './route-table.ts'
import { scaledWeight, type RouteDestination, type RouteMatch } from './routing-entry.ts'

/** An entry may ask for any number of retries, as in Consul (Envoy takes 2^32): no request is worth more tries than this. */
export const routeLimits = { mostRetries: 10 } as const

export interface ResolverPlan {
  kind: 'resolver'
  /** `service-resolver/fo`; empty where nobody wrote one. */
  entry: string
  name: string
  /** Ids of the chain's targets, the preferred one first. */
  targets: readonly string[]
}

export interface LegPlan {
  /** `service-splitter/sp[0]`. */
  entry: string
  /** The splits that led to it, and the resolvers that led on from it. */
  via: readonly string[]
  requestHeaders: HeaderEdit | undefined
  responseHeaders: HeaderEdit | undefined
  resolver: ResolverPlan
}

export interface SplitPlan {
  kind: 'split'
  /** Where each leg ends among `total` hundredths of a percent. */
  ends: readonly number[]
  total: number
  legs: readonly LegPlan[]
}

export interface RoutePlan {
  /** `service-router/rt[1]`; empty where there is no router. */
  entry: string
  via: readonly string[]
  rewrite: Rewrite | undefined
  requestHeaders: HeaderEdit | undefined
  responseHeaders: HeaderEdit | undefined
  /** Instead of the proxy's own. */
  timeoutMs: number | undefined
  retry: RetryLimits | undefined
  /** As the entry says it, where that may be more than is done. */
  retriesAsked: number
  next: SplitPlan | ResolverPlan
}

export interface Rewrite {
  /** How much of the path is replaced: the length of the prefix, or all of it. */
  length: number
  to: string
}

export interface RoutingPlan {
  /** Undefined where every request takes the only route. */
  table: RouteTable | undefined
  routes: readonly RoutePlan[]
  resolvers: readonly ResolverPlan[]
}

export function compileRouting(chain: DiscoveryChain, problems: string[]): RoutingPlan {
  const resolvers = new Map<string, ResolverPlan>()
  const start = chain.nodes[chain.startNode]
  if (start === undefined) {
    problems.push(`there is no ${chain.startNode}: its requests are answered 404`)
    return { table: undefined, routes: [], resolvers: [] }
  }
  const nextOf = (key: string) => compileNext(chain, key, resolvers, problems)
  const routes = start.routes
    ? start.routes.map((route, i) => compileRoute(`service-router/${chain.serviceName}[${i}]`, route, nextOf(route.nextNode), problems))
    : [{ ...plainRoute(nextOf(chain.startNode)), via: chain.startVia, timeoutMs: start.resolver?.requestTimeoutMs }]
  // The last one is the router's own catch-all, which nobody wrote.
  if (start.routes && routes.length > 0) routes[routes.length - 1]!.entry = `service-router/${chain.serviceName}`
  const table =
    start.routes &&
    new RouteTable(
      start.routes.map(({ definition }) => definition.match?.http),
      problems,
    )
  return { table, routes, resolvers: [...resolvers.values()] }
}

/** The route that a request takes; undefined when none matches. */
export function route({ table, routes }: RoutingPlan, facts: RouteFacts): RoutePlan | undefined {
  if (table === undefined) return routes[0]
  const index = table.match(facts)
  return index === noRoute ? undefined : routes[index]
}

/** The leg in which a point of [0, 1) lies. */
export function chooseLeg({ ends, total, legs }: SplitPlan, point: number): LegPlan {
  const at = point * total
  let i = 0
  while (i < ends.length - 1 && at >= ends[i]!) i += 1
  return legs[i]!
}

/** A path with its query, with the prefix replaced. Where both sides have a slash at the seam, one is enough. */
export function rewritten({ length, to }: Rewrite, target: string, path: string): string {
  const rest = target.slice(Math.min(length, path.length))
  if (to.endsWith('/') && rest.startsWith('/')) return to + rest.slice(1)
  const made = to + rest
  return made.startsWith('/') ? made : `/${made}`
}

type Definition = NonNullable<ChainNode['routes']>[number]

function compileRoute(entry: string, { definition, via }: Definition, next: SplitPlan | ResolverPlan, problems: string[]): RoutePlan {
  const { match, destination = {} } = definition
  return {
    ...plainRoute(next),
    entry,
    via,
    rewrite: rewriteOf(match?.http ?? {}, destination.prefixRewrite ?? ''),
    requestHeaders: compileHeaderEdit(destination.requestHeaders, problems),
    responseHeaders: compileHeaderEdit(destination.responseHeaders, problems),
    timeoutMs: destination.requestTimeoutMs || undefined,
    retry: retryOf(destination),
    retriesAsked: destination.numRetries ?? 0,
  }
}

/** A route that changes nothing. */
export function plainRoute(next: SplitPlan | ResolverPlan): RoutePlan {
  return {
    entry: '',
    via: [],
    rewrite: undefined,
    requestHeaders: undefined,
    responseHeaders: undefined,
    timeoutMs: undefined,
    retry: undefined,
    retriesAsked: 0,
    next,
  }
}

function rewriteOf({ pathExact, pathPrefix }: RouteMatch, to: string): Rewrite | undefined {
  if (to === '') return undefined
  return { length: pathExact ? Infinity : byteString(pathPrefix ?? '').length, to }
}

/** Statuses that Envoy's conditions stand for; a stream that broke before its answer is tried again anyway. */
const statusesOf: Record<string, readonly number[]> = {
  '5xx': Array.from({ length: 100 }, (_, i) => 500 + i),
  'gateway-error': [502, 503, 504],
  'retriable-4xx': [409],
}

function retryOf(destination: RouteDestination): RetryLimits | undefined {
  const { numRetries = 0, retryOnConnectFailure = false, retryOn = [], retryOnStatusCodes = [] } = destination
  if (numRetries === 0 && !retryOnConnectFailure && retryOn.length === 0 && retryOnStatusCodes.length === 0) return undefined
  const statuses = new Set([...retryOn.flatMap(condition => statusesOf[condition] ?? []), ...retryOnStatusCodes])
  const retries = Math.min(numRetries || 1, routeLimits.mostRetries)
  return { ...defaultRetryLimits, retries, statuses: [...statuses] }
}

/** For a chain that is not whole: it costs the requests that would have gone on there, and nothing else of the plan. */
const nowhere: ResolverPlan = { kind: 'resolver', entry: '', name: '', targets: [] }

function compileNext(
  chain: DiscoveryChain,
  key: string,
  resolvers: Map<string, ResolverPlan>,
  problems: string[],
): SplitPlan | ResolverPlan {
  const node = chain.nodes[key]
  if (node?.splits === undefined) return compileResolver(chain, key, resolvers, problems)
  const legs: LegPlan[] = []
  const ends: number[] = []
  let total = 0
  for (const { definition, weight, nextNode, via, entry } of node.splits) {
    if (scaledWeight(weight) <= 0) continue
    total += scaledWeight(weight)
    ends.push(total)
    legs.push({
      entry,
      via,
      requestHeaders: compileHeaderEdit(definition.requestHeaders, problems),
      responseHeaders: compileHeaderEdit(definition.responseHeaders, problems),
      resolver: compileResolver(chain, nextNode, resolvers, problems),
    })
  }
  if (legs.length > 0) return { kind: 'split', ends, total, legs }
  problems.push(`${key} has no split with a weight: its requests go nowhere`)
  return nowhere
}

function compileResolver(chain: DiscoveryChain, key: string, resolvers: Map<string, ResolverPlan>, problems: string[]): ResolverPlan {
  const known = resolvers.get(key)
  if (known !== undefined) return known
  const { resolver, name } = chain.nodes[key] ?? {}
  if (resolver === undefined || name === undefined) {
    problems.push(`${key} is no resolver of the chain: its requests go nowhere`)
    return nowhere
  }
  const { target, failover, default: isDefault } = resolver
  const service = chain.targets[target]?.service ?? ''
  const plan: ResolverPlan = {
    kind: 'resolver',
    entry: isDefault ? '' : `service-resolver/${service}`,
    name,
    targets: [target, ...(failover?.targets ?? [])],
  }
  resolvers.set(key, plan)
  return plan
}
