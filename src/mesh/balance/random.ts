/** Random, in proportion to the weights. */
import type { Endpoint } from '../snapshot.ts'
import { firstFrom, pickable, realSources, weightOf, type Picker, type Skip, type Sources } from './picker.ts'
import { Sampler } from './sampler.ts'

export class Random implements Picker {
  readonly size: number
  readonly #endpoints: readonly Endpoint[]
  readonly #sampler: Sampler
  readonly #random: () => number

  constructor(endpoints: readonly Endpoint[], { random }: Sources = realSources) {
    this.#endpoints = pickable(endpoints)
    this.size = this.#endpoints.length
    this.#sampler = new Sampler(this.#endpoints.map(weightOf))
    this.#random = random
  }

  pick(skip?: Skip): Endpoint | undefined {
    const at = this.#sampler.draw(this.#random)
    if (at < 0) return undefined
    if (skip === undefined || !skip(this.#endpoints[at]!)) return this.#endpoints[at]
    // A second draw spreads what was meant for the passed-over; only then in order, so that the neighbour does not get all of it.
    return firstFrom(this.#sampler.draw(this.#random), this.#endpoints, skip)
  }
}
