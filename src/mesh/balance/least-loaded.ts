/**
 * The power of choices: a few endpoints are drawn in proportion to their weights, and the least loaded of them is taken. `least_request`
 * goes by requests under way for a share of weight; `peak_ewma`, which is isthmus's own, by the time that the next request would take.
 * Two choices are enough to keep away from a slow endpoint, and no caller looks at all of them, so callers do not all run to the same one.
 */
import type { Endpoint } from '../snapshot.ts'
import { choiceLimits } from './config.ts'
import { Loads, type Load } from './load.ts'
import { firstFrom, pickable, realSources, weightOf, type Picker, type Skip, type Sources } from './picker.ts'
import { Sampler } from './sampler.ts'

export type LoadMeasure = 'requests' | 'time'

export class LeastLoaded implements Picker {
  readonly size: number
  readonly loads: Loads
  readonly #endpoints: readonly Endpoint[]
  readonly #loads: readonly Load[]
  readonly #weights: Float64Array
  readonly #sampler: Sampler
  readonly #choices: number
  readonly #byTime: boolean
  readonly #random: () => number

  /** `before`: the loads of the picker that this one replaces. */
  constructor(
    endpoints: readonly Endpoint[],
    measure: LoadMeasure,
    choiceCount: number = choiceLimits.least,
    before?: Loads,
    { random }: Sources = realSources,
  ) {
    this.#endpoints = pickable(endpoints)
    this.size = this.#endpoints.length
    // Of all endpoints: one that is critical for a moment has still its requests under way.
    this.loads = new Loads(endpoints, before)
    this.#loads = this.#endpoints.map(endpoint => this.loads.of(endpoint)!)
    const weights = this.#endpoints.map(weightOf)
    this.#weights = Float64Array.from(weights)
    this.#sampler = new Sampler(weights)
    this.#choices = Math.min(choiceLimits.most, Math.max(choiceLimits.least, choiceCount))
    this.#byTime = measure === 'time'
    this.#random = random
  }

  pick(skip?: Skip): Endpoint | undefined {
    const { size } = this
    if (size === 0) return undefined
    const random = this.#random
    let best = -1
    let least = 0
    let last = -1
    for (let choice = 0; choice < this.#choices; choice++) {
      let at = this.#sampler.draw(random)
      // Comparing one with itself would be no choice.
      if (at === last && ++at === size) at = 0
      last = at
      if (skip !== undefined && skip(this.#endpoints[at]!)) continue
      const cost = this.#cost(at)
      if (best < 0 || cost < least) {
        best = at
        least = cost
      }
    }
    if (best >= 0) return this.#endpoints[best]
    return skip && firstFrom(this.#sampler.draw(random), this.#endpoints, skip)
  }

  #cost(at: number): number {
    const load = this.#loads[at]!
    return (this.#byTime ? load.cost() : load.active) / this.#weights[at]!
  }
}
