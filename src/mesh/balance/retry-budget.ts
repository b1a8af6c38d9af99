/**
 * How many requests may be tried again at a time: a share of those under way, and a few always. When an upstream fails as a whole, retries
 * would double what it has to bear; a budget keeps them a part of it.
 */
import type { RetryLimits } from './config.ts'

export class RetryBudget {
  #limits: RetryLimits
  #retrying = 0

  constructor(limits: RetryLimits) {
    this.#limits = limits
  }

  update(limits: RetryLimits): void {
    this.#limits = limits
  }

  /** Retries under way. */
  get retrying(): number {
    return this.#retrying
  }

  /** True when one more may begin; then `end` is called once. `requests` are under way. */
  begin(requests: number): boolean {
    const { budgetMinimum, budgetPercent } = this.#limits
    if (this.#retrying >= Math.max(budgetMinimum, (requests * budgetPercent) / 100)) return false
    this.#retrying += 1
    return true
  }

  end(): void {
    this.#retrying -= 1
  }
}
