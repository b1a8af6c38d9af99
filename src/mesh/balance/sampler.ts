/** Draws an index in proportion to its weight, in the same time however many there are (Vose's alias method). */
export class Sampler {
  readonly #length: number
  /** Absent where all weights are equal. For each column: the share that is its own, and whose the rest is. */
  readonly #share: Float64Array | undefined
  readonly #other: Uint32Array

  constructor(weights: readonly number[]) {
    this.#length = weights.length
    const equal = weights.every(weight => weight === weights[0])
    this.#share = equal ? undefined : new Float64Array(weights.length)
    this.#other = new Uint32Array(equal ? 0 : weights.length)
    if (!equal) this.#fill(weights)
  }

  /** 0..length-1; -1 where there is none. One random number serves for both the column and the side of it. */
  draw(random: () => number): number {
    if (this.#length === 0) return -1
    const at = random() * this.#length
    const column = Math.trunc(at)
    if (this.#share === undefined) return column
    return at - column < this.#share[column]! ? column : this.#other[column]!
  }

  #fill(weights: readonly number[]): void {
    const share = this.#share!
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    const small: number[] = []
    const large: number[] = []
    for (const [i, weight] of weights.entries()) {
      const own = (weight * weights.length) / total
      share[i] = own
      if (own < 1) small.push(i)
      else large.push(i)
    }
    while (small.length > 0 && large.length > 0) {
      const less = small.pop()!
      const more = large.at(-1)!
      this.#other[less] = more
      share[more]! -= 1 - share[less]!
      if (share[more]! < 1) {
        large.pop()
        small.push(more)
      }
    }
    // What is left over differs from 1 by rounding only.
    for (const i of [...small, ...large]) share[i] = 1
  }
}
