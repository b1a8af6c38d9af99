/**
 * Active recovery: an address that could not be reached is dialled in the background before its time is up, so that no caller has to
 * find out. One timer for all addresses of an upstream, and none while all can be reached.
 */
import type { Outlier } from '../mesh/balance/outlier.ts'

export class Probes {
  readonly #outlier: Outlier
  readonly #dial: (address: string) => void
  #timer: NodeJS.Timeout | undefined
  #closed = false

  /** `dial` reports to the outlier how it went, and calls `later` again when it failed. */
  constructor(outlier: Outlier, dial: (address: string) => void) {
    this.#outlier = outlier
    this.#dial = dial
  }

  /** An address was left out: see to it that it is probed. `probeMs` is how long an attempt may take. */
  later(probeMs: number): void {
    const atMs = this.#outlier.nextProbeMs
    if (atMs === undefined || this.#timer !== undefined || this.#closed) return
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined
        for (const address of this.#outlier.takeProbes(probeMs)) this.#dial(address)
        this.later(probeMs)
      },
      Math.max(1, atMs - performance.now()),
    )
    this.#timer.unref()
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }
}
