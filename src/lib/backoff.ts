/** Exponential backoff with jitter. Unlike Consul's, it starts again after a success (spec/peering-wire.md 6.2 tells why that matters). */

export interface BackoffLimits {
  firstMs: number
  maxMs: number
  /** Share of the wait that is drawn at random, 0..1. */
  jitter: number
}

export class Backoff {
  readonly #limits: BackoffLimits
  readonly #random: () => number
  #failures = 0

  constructor(limits: BackoffLimits, random: () => number = Math.random) {
    this.#limits = limits
    this.#random = random
  }

  /** The wait before the next attempt, in ms, after one more failure. */
  nextMs(): number {
    const { firstMs, maxMs, jitter } = this.#limits
    const full = Math.min(maxMs, firstMs * 2 ** Math.min(this.#failures, 30))
    this.#failures += 1
    return full * (1 - jitter) + full * jitter * this.#random()
  }

  reset(): void {
    this.#failures = 0
  }
}
