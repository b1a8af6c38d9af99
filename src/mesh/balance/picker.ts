/** What every way of choosing an endpoint has in common. A picker is made with the plan and holds healthy endpoints only. */
import type { Endpoint } from '../snapshot.ts'
import type { Loads } from './load.ts'

/** Names the endpoints to pass over, such as the ejected or already tried. */
export type Skip = (endpoint: Endpoint) => boolean

export interface Picker {
  /** How many healthy endpoints there are to choose from. */
  readonly size: number
  /** Where near ones come before far ones: the index of the group in use (locality.ts). */
  readonly tier?: number | undefined
  /** How busy each endpoint is, where the choice depends on it: whoever sends a request says there when it begins and when it ends. */
  readonly loads?: Loads | undefined
  /** The next endpoint, or undefined where none is left. `hash` is what equal requests share; only hashing pickers look at it. */
  pick(skip?: Skip, hash?: number): Endpoint | undefined
}

/** Where time and chance come from, so that a test can be exact. */
export interface Sources {
  /** Milliseconds of a monotonic clock. */
  readonly now: () => number
  /** As Math.random. */
  readonly random: () => number
}

export const realSources: Sources = { now: () => performance.now(), random: Math.random }

/** Weights are 1..128 (spec/data-plane.md 9.3). */
export const maxWeight = 128

export function weightOf({ weight }: Endpoint): number {
  return Math.min(maxWeight, Math.max(1, Math.trunc(weight)))
}

/** What may be picked at all. An endpoint that the catalog calls critical never is, however few others there are: Consul's panic threshold is 0. */
export function pickable(endpoints: readonly Endpoint[]): readonly Endpoint[] {
  return endpoints.filter(endpoint => endpoint.healthy && endpoint.weight > 0)
}

/** Entries of a table that a hashing pick looks at before it goes through the endpoints themselves. */
export const walkLimit = 64

/** The first from `start` on, in a circle, that is not to be passed over. */
export function firstFrom(start: number, endpoints: readonly Endpoint[], skip: Skip): Endpoint | undefined {
  const { length } = endpoints
  for (let tried = 0, at = start; tried < length; tried++) {
    const endpoint = endpoints[at]!
    if (!skip(endpoint)) return endpoint
    at = at + 1 === length ? 0 : at + 1
  }
  return undefined
}
