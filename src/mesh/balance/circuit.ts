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
  readonly #waiting: (() => boolean)[] = []

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
   * In turn, when a connection is free or may be made. `resume` answers false when it has no use for it, so that it goes to the next.
   * `again`: it was its turn already, and somebody else was quicker.
   */
  wait(resume: () => boolean, again = false): void {
    if (again) this.#waiting.unshift(resume)
    else this.#waiting.push(resume)
  }

  /** A connection was given back or has ended: whoever waits longest may have it. */
  freed(): void {
    while (this.#waiting.length > 0) if (this.#waiting.shift()!()) return
  }
}
