/**
 * A ring of hashes: each endpoint lies on it at many places, as many as its weight says, and a request goes to the next one after its
 * own hash. When an endpoint comes or goes, only the requests next to its places move: about its own share of them, and no others.
 */
import { addressOf, type Endpoint } from '../snapshot.ts'
import { ringLimits } from './config.ts'
import { hashText, mix } from './hash.ts'
import { firstFrom, maxWeight, pickable, realSources, walkLimit, weightOf, type Picker, type Skip, type Sources } from './picker.ts'

/** A place is position * 2^20 + index: 52 bits, so that sorting numbers sorts both. */
const indexSpan = 1_048_576

export class RingHash implements Picker {
  readonly size: number
  readonly #endpoints: readonly Endpoint[]
  readonly #positions: Uint32Array
  readonly #owners: Uint32Array
  readonly #random: () => number

  constructor(endpoints: readonly Endpoint[], sizes: { minimum?: number; maximum?: number } = {}, { random }: Sources = realSources) {
    this.#endpoints = pickable(endpoints)
    this.size = this.#endpoints.length
    this.#random = random
    const places = this.#lay(sizes.minimum ?? ringLimits.minimum, sizes.maximum ?? ringLimits.maximum)
    this.#positions = new Uint32Array(places.length)
    this.#owners = new Uint32Array(places.length)
    for (let i = 0; i < places.length; i++) {
      this.#positions[i] = Math.floor(places[i]! / indexSpan)
      this.#owners[i] = places[i]! % indexSpan
    }
  }

  /** Places on the ring. */
  get places(): number {
    return this.#positions.length
  }

  pick(skip?: Skip, hash: number = (this.#random() * 4_294_967_296) >>> 0): Endpoint | undefined {
    const positions = this.#positions
    const { length } = positions
    if (length === 0) return undefined
    let low = 0
    let high = length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (positions[middle]! < hash) low = middle + 1
      else high = middle
    }
    let at = low === length ? 0 : low
    if (skip === undefined) return this.#endpoints[this.#owners[at]!]
    for (let walked = 0; walked < walkLimit; walked++) {
      const endpoint = this.#endpoints[this.#owners[at]!]!
      if (!skip(endpoint)) return endpoint
      at = at + 1 === length ? 0 : at + 1
    }
    return firstFrom(hash % this.size, this.#endpoints, skip)
  }

  /**
   * Sorted. At least one place each, at least `minimum` in all, shares by weight. The places of a weight of 1 are a power of two, so that
   * they stay as they are while endpoints come and go, until there are half or twice as many.
   */
  #lay(minimum: number, maximum: number): Float64Array {
    const endpoints = this.#endpoints
    const weights = endpoints.map(weightOf)
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    const lightest = weights.reduce((least, weight) => Math.min(least, weight), maxWeight)
    const most = Math.min(maximum, ringLimits.places)
    let unit = 2 ** Math.ceil(Math.log2(Math.max(minimum / total, 1 / lightest)))
    while (unit * total > most && unit * maxWeight > 1) unit /= 2
    const counts = weights.map(weight => Math.max(1, Math.round(weight * unit)))
    const places = new Float64Array(counts.reduce((sum, count) => sum + count, 0))
    let next = 0
    for (const [index, count] of counts.entries()) {
      const seed = hashText(addressOf(endpoints[index]!))
      for (let i = 0; i < count; i++) places[next++] = mix(seed ^ Math.imul(i + 1, 0x9e3779b1)) * indexSpan + index
    }
    return places.sort()
  }
}
