/**
 * The circuit limits of one upstream (Consul's UpstreamConfig.Limits, Envoy's circuit breakers): plain counts that may not be exceeded.
 * What is over a limit is refused at once with Envoy's word `overflow`, except that a request without a connection waits for one while
 * there is room among the pending. Every `begin…` that answers true is ended once.
 */
import type { CircuitLimits } from './config.ts'

export class Circuit {
  #limits: CircuitLimits
  #requests = 0
  #pending = 0
  #connections = 0
  readonly #waiting: (() => void)[] = []

  constructor(limits: CircuitLimits) {
    this.#limits = limits
  }

  update(limits: CircuitLimits): void {
    this.#limits = limits
    this.freed()
  }

  /** Requests under way: admitted and not yet answered. */
  get requests(): number {
    return this.#requests
  }

  get pending(): number {
    return this.#pending
  }

  get connections(): number {
    return this.#connections
  }

  beginRequest(): boolean {
    if (this.#requests >= this.#limits.maxConcurrentRequests) return false
    this.#requests += 1
    return true
  }

  endRequest(): void {
    this.#requests -= 1
  }

  /** A request waits for a connection: one that is being made, or one that is given back. */
  beginPending(): boolean {
    if (this.#pending >= this.#limits.maxPendingRequests) return false
    this.#pending += 1
    return true
  }

  endPending(): void {
    this.#pending -= 1
  }

  /** A connection that is being made counts already. */
  beginConnection(): boolean {
    if (this.#connections >= this.#limits.maxConnections) return false
    this.#connections += 1
    return true
  }

  endConnection(): void {
    this.#connections -= 1
    this.freed()
  }

  /**
   * In turn, when a connection is free or may be made. `again`: it was its turn already, and somebody else was quicker. Whoever has no
   * use for it any more says so with `forget`.
   */
  wait(resume: () => void, again = false): void {
    if (again) this.#waiting.unshift(resume)
    else this.#waiting.push(resume)
  }

  /** At once: it may take for ever until a connection is free. */
  forget(resume: () => void): void {
    const at = this.#waiting.indexOf(resume)
    if (at >= 0) this.#waiting.splice(at, 1)
  }

  /** A connection was given back or has ended: whoever waits longest may have it. */
  freed(): void {
    this.#waiting.shift()?.()
  }
}
