/**
 * The leaves that this agent holds for GET /v1/agent/connect/ca/leaf: one for each service, the same until it is due. It is due at a
 * random point of 60 to 90 % of its life, or within 30 seconds after the active root changed, so that a cluster does not renew in
 * one moment (spec/data-plane.md 2.3). Bounded, because any name may be asked for.
 */
import type { Clock } from '../../lib/clock.ts'
import type { OwnLeaf } from './authority.ts'

interface Held {
  leaf: OwnLeaf
  /** Monotonic clock, ms. */
  dueAt: number
}

export const leafCacheLimits = { maxServices: 4096, rotationJitterMs: 30_000 } as const

export class LeafCache {
  readonly #clock: Clock
  readonly #random: () => number
  readonly #issue: (service: string) => Promise<OwnLeaf>
  /** In the order of last use. */
  readonly #held = new Map<string, Held>()
  readonly #pending = new Map<string, Promise<OwnLeaf>>()
  readonly #waiting = new Set<() => void>()
  #closed = false

  constructor(options: { clock: Clock; random: () => number; issue: (service: string) => Promise<OwnLeaf> }) {
    this.#clock = options.clock
    this.#random = options.random
    this.#issue = options.issue
  }

  async get(service: string): Promise<OwnLeaf> {
    const held = this.#held.get(service)
    if (held && held.dueAt > this.#clock.monotonicMs()) {
      this.#held.delete(service)
      this.#held.set(service, held)
      return held.leaf
    }
    const pending = this.#pending.get(service) ?? this.#renew(service)
    this.#pending.set(service, pending)
    return pending
  }

  async waitFor(service: string, index: number, timeoutMs: number, signal?: AbortSignal): Promise<OwnLeaf> {
    const deadline = this.#clock.monotonicMs() + timeoutMs
    for (;;) {
      const leaf = await this.get(service)
      const now = this.#clock.monotonicMs()
      if (leaf.index > index || now >= deadline || signal?.aborted || this.#closed) return leaf
      const dueAt = this.#held.get(service)?.dueAt ?? now + 1
      await this.#sleep(Math.max(1, Math.min(deadline, dueAt) - now), signal)
    }
  }

  /** Every leaf becomes due soon, each at its own moment. */
  rootChanged(): void {
    const now = this.#clock.monotonicMs()
    for (const held of this.#held.values()) {
      held.dueAt = Math.min(held.dueAt, now + this.#random() * leafCacheLimits.rotationJitterMs)
    }
    this.#wake()
  }

  /** Ends all waiting. */
  close(): void {
    this.#closed = true
    this.#wake()
  }

  async #renew(service: string): Promise<OwnLeaf> {
    try {
      const leaf = await this.#issue(service)
      const share = 0.6 + 0.3 * this.#random()
      const lifeMs = leaf.validBeforeMs - leaf.validAfterMs
      const dueInMs = leaf.validAfterMs + lifeMs * share - this.#clock.nowMs()
      this.#held.delete(service)
      this.#held.set(service, { leaf, dueAt: this.#clock.monotonicMs() + dueInMs })
      if (this.#held.size > leafCacheLimits.maxServices) this.#held.delete(this.#held.keys().next().value!)
      return leaf
    } finally {
      this.#pending.delete(service)
    }
  }

  #sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise(resolve => {
      const done = (): void => {
        timer.cancel()
        signal?.removeEventListener('abort', done)
        this.#waiting.delete(done)
        resolve()
      }
      const timer = this.#clock.after(ms, done)
      signal?.addEventListener('abort', done)
      this.#waiting.add(done)
    })
  }

  #wake(): void {
    for (const done of this.#waiting) done()
  }
}
