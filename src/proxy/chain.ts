/**
 * Where the requests of one listener go: straight to one upstream, or through a chain. A chain at work is the upstreams of its targets, and
 * for each resolver which of them requests go to now. The choice is mesh/failover's; what it goes by is what the catalog says of the
 * endpoints and whether they can be reached from here.
 */
import { sharedDeadlines, type Watched } from '../lib/deadlines.ts'
import { firstTarget, followHealth, type FailoverState } from '../mesh/failover.ts'
import type { ChainPlan } from '../mesh/plan.ts'
import { chooseLeg, plainRoute, route, type LegPlan, type ResolverPlan, type RoutePlan } from '../mesh/routing.ts'
import type { RouteFacts } from '../mesh/route-table.ts'
import type { ProxyMetrics } from './metrics.ts'
import type { Upstream } from './upstream.ts'

/** What was decided for one request before it goes anywhere. */
export interface Routed {
  route: RoutePlan
  leg: LegPlan | undefined
  resolver: ResolverPlan
}

export interface Way {
  /** Where a request goes; undefined when no route matches. */
  route(facts: RouteFacts): Routed | undefined
  /** The target in use; undefined where it is nowhere to be reached from here. */
  target(resolver: ResolverPlan): Upstream | undefined
  /** Another target for a request that could not reach those it tried, the one most liked first. */
  other(resolver: ResolverPlan, tried: ReadonlySet<Upstream>): Upstream | undefined
}

const straight: ResolverPlan = { kind: 'resolver', entry: '', name: '', targets: [] }
const straightOn: Routed = { route: plainRoute(straight), leg: undefined, resolver: straight }

/** For a name that is not there any more, as long as somebody still asks for it. */
export const nowhere: Way = { route: () => straightOn, target: () => undefined, other: () => undefined }

/** One upstream and nothing to decide. */
export class Direct implements Way {
  readonly #upstream: Upstream

  constructor(upstream: Upstream) {
    this.#upstream = upstream
  }

  route(): Routed {
    return straightOn
  }

  target(): Upstream {
    return this.#upstream
  }

  other(): undefined {
    return undefined
  }
}

interface Resolver {
  plan: ResolverPlan
  /** In order of preference; undefined for one that cannot be reached from here at all. */
  targets: readonly (Upstream | undefined)[]
  state: FailoverState
}

export class Chain implements Way, Watched {
  readonly #metrics: ProxyMetrics
  /** By the resolver's name, so that a choice outlives the plan it was made under. */
  readonly #resolvers = new Map<string, Resolver>()
  #plan: ChainPlan

  constructor(plan: ChainPlan, upstreams: ReadonlyMap<string, Upstream>, metrics: ProxyMetrics) {
    this.#plan = plan
    this.#metrics = metrics
    this.update(plan, upstreams)
  }

  get plan(): ChainPlan {
    return this.#plan
  }

  /** `upstreams` by the names of their resources. */
  update(plan: ChainPlan, upstreams: ReadonlyMap<string, Upstream>): void {
    this.#plan = plan
    const { gauges } = this.#metrics
    const gone = new Set(this.#resolvers.keys())
    for (const each of plan.routing.resolvers) {
      gone.delete(each.name)
      const before = this.#resolvers.get(each.name)
      const same = before !== undefined && before.plan.targets.join() === each.targets.join()
      const resolver: Resolver = {
        plan: each,
        targets: each.targets.map(id => upstreams.get(plan.resource.targets[id] ?? '')),
        state: same ? before.state : firstTarget,
      }
      this.#resolvers.set(each.name, resolver)
      if (resolver.targets.length > 1) gauges.failover.set(this.#label(each.name), () => this.#current(each.name))
      this.#follow(resolver)
    }
    for (const name of gone) this.#forget(name)
  }

  route(facts: RouteFacts): Routed | undefined {
    const found = route(this.#plan.routing, facts)
    if (found === undefined) return undefined
    if (found.next.kind === 'resolver') return { route: found, leg: undefined, resolver: found.next }
    const leg = chooseLeg(found.next, Math.random())
    return { route: found, leg, resolver: leg.resolver }
  }

  target({ name }: ResolverPlan): Upstream | undefined {
    const resolver = this.#resolvers.get(name)
    if (resolver === undefined) return undefined
    const [first] = resolver.targets
    // The usual case, without a look at the clock.
    if (resolver.state.current === 0 && (resolver.targets.length === 1 || (first !== undefined && first.reaches))) return first
    this.#follow(resolver)
    return resolver.targets[resolver.state.current]
  }

  other({ name }: ResolverPlan, tried: ReadonlySet<Upstream>): Upstream | undefined {
    const left = this.#resolvers.get(name)?.targets.filter(each => each !== undefined && !tried.has(each)) ?? []
    return left.find(each => each!.reaches)
  }

  close(): void {
    sharedDeadlines.delete(this)
    for (const name of this.#resolvers.keys()) this.#forget(name)
  }

  /** While a resolver uses another target than the one it prefers: whether it may go back does not wait for a request to ask. */
  check(): void {
    for (const resolver of this.#resolvers.values()) this.#follow(resolver)
    if ([...this.#resolvers.values()].every(({ state }) => state.current === 0)) sharedDeadlines.delete(this)
  }

  #follow(resolver: Resolver): void {
    if (resolver.targets.length < 2) return
    const usable = resolver.targets.map(each => each !== undefined && each.reaches)
    const before = resolver.state.current
    resolver.state = followHealth(resolver.state, usable, performance.now())
    const { current } = resolver.state
    if (current > 0) sharedDeadlines.add(this)
    if (current === before) return
    this.#metrics.failovers(this.#plan.name, resolver.plan.targets[current]!, current > before ? 'over' : 'back').count += 1
  }

  /** As it is now, also where no request has come since something changed. */
  #current(name: string): number {
    const resolver = this.#resolvers.get(name)
    if (resolver === undefined) return 0
    this.#follow(resolver)
    return resolver.state.current
  }

  #forget(name: string): void {
    this.#resolvers.delete(name)
    this.#metrics.gauges.failover.delete(this.#label(name))
  }

  #label(resolver: string): string {
    return `${this.#plan.name}/${resolver}`
  }
}
