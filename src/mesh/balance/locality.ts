/**
 * Near before far: endpoints in the caller's own zone, then those in its region, then all others, each group balanced by the picker that
 * the policy asks for. A group is left at once when nobody in it is healthy, and come back to as a resolver comes back to a target
 * (failover.ts): only after a while without a break. Whom a caller must pass over in its group, it finds in the next one, without a change of groups.
 */
import { failoverLimits, firstTarget, followHealth, type FailoverState } from '../failover.ts'
import type { Locality } from '../node.ts'
import type { Endpoint } from '../snapshot.ts'
import { Loads } from './load.ts'
import { realSources, type Picker, type Skip, type Sources } from './picker.ts'

export const tiers = ['zone', 'region', 'elsewhere'] as const

/** Index of the group that an endpoint is in, as seen from `own`. Who does not say where it is, is elsewhere. */
export function tierOf({ locality }: Endpoint, own: Locality): number {
  if (!own.region || locality?.region !== own.region) return 2
  return own.zone && locality.zone === own.zone ? 0 : 1
}

/** Makes the picker of one group; `before` is the same group's in the plan before, `loads` those of all groups. */
export type MakeTier = (endpoints: readonly Endpoint[], before: Picker | undefined, loads: Loads) => Picker

export class ByLocality implements Picker {
  readonly size: number
  readonly loads: Loads | undefined
  readonly #tiers: readonly Picker[]
  readonly #usable: readonly boolean[]
  readonly #now: () => number
  #state: FailoverState

  constructor(
    endpoints: readonly Endpoint[],
    own: Locality,
    make: MakeTier,
    before: ByLocality | undefined,
    { now }: Sources = realSources,
  ) {
    // Of all groups: an endpoint that moves to another one has still its requests under way.
    const loads = new Loads(endpoints, before?.loads)
    const grouped = tiers.map((_, tier) => endpoints.filter(endpoint => tierOf(endpoint, own) === tier))
    this.#tiers = grouped.map((group, tier) => make(group, before && before.#tiers[tier], loads))
    this.loads = this.#tiers[0]!.loads && loads
    this.size = this.#tiers.reduce((sum, { size }) => sum + size, 0)
    this.#usable = this.#tiers.map(({ size }) => size > 0)
    this.#now = now
    this.#state = followHealth(before ? before.#state : firstTarget, this.#usable, now())
  }

  /** Index of the group in use. */
  get tier(): number {
    // Only what has come back before the one in use is waited for, and only then the clock has something to say.
    if (this.#state.current > 0 && this.#state.usableSinceMs.some(since => since !== undefined))
      this.#state = followHealth(this.#state, this.#usable, this.#now(), failoverLimits.failBackMs)
    return this.#state.current
  }

  pick(skip?: Skip, hash?: number): Endpoint | undefined {
    const { tier } = this
    const picked = this.#tiers[tier]!.pick(skip, hash)
    if (picked !== undefined) return picked
    for (let other = 0; other < this.#tiers.length; other++) {
      const found = other === tier ? undefined : this.#tiers[other]!.pick(skip, hash)
      if (found !== undefined) return found
    }
    return undefined
  }
}
