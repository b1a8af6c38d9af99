/**
 * Slow start: an endpoint that has just become healthy gets a share of its turns that grows over a time, so that its caches and pools
 * are warm before it carries a full load. It is put around another picker, only where it is asked for; the endpoints of the first plan
 * start as they are, because there is nobody to take their turns meanwhile.
 */
import { addressOf, type Endpoint } from '../snapshot.ts'
import type { Loads } from './load.ts'
import { pickable, realSources, type Picker, type Skip, type Sources } from './picker.ts'

export const slowStartLimits = {
  /** The share that one begins with. */
  share: 0.1,
  /** Picks given back in a row before one is taken whatever its age. */
  tries: 8,
} as const

export class SlowStart implements Picker {
  /** The picker that this one is around. */
  readonly inner: Picker
  readonly #windowMs: number
  readonly #sources: Sources
  /** Since when an address is healthy. */
  readonly #since = new Map<string, number>()
  /** When the last one is through; 0 when all are. */
  #untilMs = 0

  constructor(
    inner: Picker,
    endpoints: readonly Endpoint[],
    windowMs: number,
    before: SlowStart | undefined,
    sources: Sources = realSources,
  ) {
    this.inner = inner
    this.#windowMs = windowMs
    this.#sources = sources
    const now = sources.now()
    for (const endpoint of pickable(endpoints)) {
      const address = addressOf(endpoint)
      const since = before === undefined ? now - windowMs : (before.#since.get(address) ?? now)
      this.#since.set(address, since)
      this.#untilMs = Math.max(this.#untilMs, since + windowMs)
    }
  }

  get size(): number {
    return this.inner.size
  }

  get loads(): Loads | undefined {
    return this.inner.loads
  }

  get tier(): number | undefined {
    return this.inner.tier
  }

  pick(skip?: Skip, hash?: number): Endpoint | undefined {
    const picked = this.inner.pick(skip, hash)
    return this.#untilMs === 0 || picked === undefined ? picked : this.#settle(picked, skip, hash)
  }

  #settle(first: Endpoint, skip: Skip | undefined, hash: number | undefined): Endpoint | undefined {
    const now = this.#sources.now()
    if (now >= this.#untilMs) {
      this.#untilMs = 0
      return first
    }
    let picked: Endpoint | undefined = first
    for (let tried = 0; tried < slowStartLimits.tries && picked !== undefined; tried++) {
      const age = (now - this.#since.get(addressOf(picked))!) / this.#windowMs
      if (age >= 1 || this.#sources.random() < Math.max(slowStartLimits.share, age)) return picked
      picked = this.inner.pick(skip, hash)
    }
    return picked
  }
}
