/**
 * Maglev (Eisenbud et al., NSDI 2016): a table of fixed size in which every endpoint has its share of the entries, filled in turns by
 * each endpoint's own order of preference. A pick is one array read; shares are even to a percent; when an endpoint goes, its entries
 * are dealt out anew and few others move.
 */
import { addressOf, type Endpoint } from '../snapshot.ts'
import { hashText } from './hash.ts'
import { firstFrom, pickable, realSources, walkLimit, weightOf, type Picker, type Skip, type Sources } from './picker.ts'

/** Entries of the table: Envoy's size, a prime, a hundred times the endpoints that there may be. */
export const maglevEntries = 65_537

const none = 0xffff

export class Maglev implements Picker {
  readonly size: number
  readonly #endpoints: readonly Endpoint[]
  readonly #table: Uint16Array
  readonly #random: () => number

  constructor(endpoints: readonly Endpoint[], { random }: Sources = realSources) {
    // In an order that is the endpoints' own: whoever asks first gets the entry.
    this.#endpoints = [...pickable(endpoints)]
      .map(endpoint => ({ endpoint, address: addressOf(endpoint) }))
      .sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0))
      .slice(0, none)
      .map(each => each.endpoint)
    this.size = this.#endpoints.length
    this.#random = random
    this.#table = fill(this.#endpoints)
  }

  pick(skip?: Skip, hash: number = (this.#random() * 4_294_967_296) >>> 0): Endpoint | undefined {
    const table = this.#table
    const { length } = table
    if (length === 0) return undefined
    let at = hash % length
    if (skip === undefined) return this.#endpoints[table[at]!]
    for (let walked = 0; walked < walkLimit; walked++) {
      const endpoint = this.#endpoints[table[at]!]!
      if (!skip(endpoint)) return endpoint
      at = at + 1 === length ? 0 : at + 1
    }
    return firstFrom(hash % this.size, this.#endpoints, skip)
  }
}

function fill(endpoints: readonly Endpoint[]): Uint16Array {
  if (endpoints.length === 0) return new Uint16Array(0)
  const table = new Uint16Array(maglevEntries).fill(none)
  const weights = endpoints.map(weightOf)
  const heaviest = weights.reduce((most, weight) => Math.max(most, weight), 1)
  const next = Uint32Array.from(endpoints, endpoint => hashText(addressOf(endpoint), 1) % maglevEntries)
  const step = Uint32Array.from(endpoints, endpoint => (hashText(addressOf(endpoint), 2) % (maglevEntries - 1)) + 1)
  /** Turns that each endpoint has had by weight; the heaviest has one in every round. */
  const had = new Float64Array(endpoints.length)
  let filled = 0
  for (let round = 1; ; round++) {
    for (let i = 0; i < endpoints.length; i++) {
      if (round * weights[i]! < had[i]!) continue
      had[i]! += heaviest
      let at = next[i]!
      while (table[at] !== none) {
        at += step[i]!
        if (at >= maglevEntries) at -= maglevEntries
      }
      table[at] = i
      at += step[i]!
      next[i] = at >= maglevEntries ? at - maglevEntries : at
      if (++filled === maglevEntries) return table
    }
  }
}
