/**
 * How busy each endpoint is: requests under way, and how long they have taken lately. A load belongs to an address and outlives the
 * plan, so that what was begun under one plan is ended on the same object under the next. Nothing here is kept by the pickers that do not ask.
 */
import { addressOf, type Endpoint } from '../snapshot.ts'

export const loadLimits = {
  /** Half of what an endpoint took is forgotten after about 0.7 of this. */
  decayMs: 10_000,
  /** A failed request counts as one that took at least this long: failing fast must not attract more of them. */
  failureMs: 1000,
} as const

/** When a request last ended anywhere: the time against which measurements age, so that no pick reads a clock. */
interface Latest {
  ms: number
}

export class Load {
  /** Requests under way. */
  active = 0
  /** The peak-sensitive moving average: a slow answer counts at once, a fast one only slowly. Negative: nothing was measured. */
  #averageMs = -1
  #stampMs = 0
  readonly #latest: Latest

  constructor(latest: Latest) {
    this.#latest = latest
  }

  begin(): void {
    this.active += 1
  }

  /** One that was begun has ended after `ms`. */
  end(ms: number, failed: boolean, nowMs: number): void {
    if (this.active > 0) this.active -= 1
    const took = failed ? Math.max(ms, loadLimits.failureMs) : ms
    const average = this.#averageMs
    if (average < 0 || took > average) this.#averageMs = took
    else {
      const kept = Math.exp((this.#stampMs - nowMs) / loadLimits.decayMs)
      this.#averageMs = average * kept + took * (1 - kept)
    }
    this.#stampMs = this.#latest.ms = nowMs
  }

  /**
   * What the next request would cost here: time by the number under way. A measurement ages while others are made, so that an endpoint
   * that was slow is asked again; one that was never measured is tried once, and not by everybody at the same time.
   */
  cost(): number {
    if (this.#averageMs < 0) return this.active === 0 ? 0 : loadLimits.failureMs * (this.active + 1)
    return this.#averageMs * Math.exp((this.#stampMs - this.#latest.ms) / loadLimits.decayMs) * (this.active + 1)
  }
}

export class Loads {
  readonly #byAddress = new Map<string, Load>()
  readonly #byEndpoint = new Map<Endpoint, Load>()
  readonly #latest: Latest

  constructor(endpoints: readonly Endpoint[], before?: Loads) {
    this.#latest = before === undefined ? { ms: 0 } : before.#latest
    for (const endpoint of endpoints) {
      const address = addressOf(endpoint)
      const load = this.#byAddress.get(address) ?? before?.at(address) ?? new Load(this.#latest)
      this.#byAddress.set(address, load)
      this.#byEndpoint.set(endpoint, load)
    }
  }

  at(address: string): Load | undefined {
    return this.#byAddress.get(address)
  }

  /** Undefined for an address that is not of this plan. An endpoint of the plan before may ask as well. */
  of(endpoint: Endpoint): Load | undefined {
    return this.#byEndpoint.get(endpoint) ?? this.#byAddress.get(addressOf(endpoint))
  }
}
