/** At most so many signatures a second, with a burst of one second's worth: a token bucket on the monotonic clock. */
import type { Clock } from '../../lib/clock.ts'
import { MeshError } from '../../lib/errors.ts'

export class CsrLimiter {
  readonly #clock: Clock
  #perSecond = 0
  #tokens = 0
  #at = 0

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** 0: no limit. */
  configure(perSecond: number): void {
    if (perSecond === this.#perSecond) return
    this.#perSecond = perSecond
    this.#tokens = perSecond
    this.#at = this.#clock.monotonicMs()
  }

  /** Takes one, or throws `unavailable`. */
  take(): void {
    if (this.#perSecond === 0) return
    const now = this.#clock.monotonicMs()
    this.#tokens = Math.min(Math.max(1, this.#perSecond), this.#tokens + ((now - this.#at) / 1000) * this.#perSecond)
    this.#at = now
    if (this.#tokens < 1) {
      throw new MeshError('unavailable', 'rate limit of certificate requests reached; try again in a second, or raise CSRMaxPerSecond')
    }
    this.#tokens -= 1
  }
}
