/**
 * Keys that nobody may lock yet, because the session that held them has ended (spec/http-api.md 10, 11). They are this process's
 * own knowledge, as they are a Consul leader's: a restart forgets them. None lasts longer than a minute, so they stay few.
 */
import type { Clock } from '../../lib/clock.ts'

export class LockDelays {
  readonly #clock: Clock
  /** Keys with the monotonic time at which each is free. */
  readonly #until = new Map<string, number>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  start(key: string, ms: number): void {
    if (ms <= 0) return
    const until = this.#clock.monotonicMs() + ms
    if ((this.#until.get(key) ?? 0) >= until) return
    this.#until.set(key, until)
    this.#clock.after(ms, () => {
      if (this.#until.get(key) === until) this.#until.delete(key)
    })
  }

  has(key: string): boolean {
    return (this.#until.get(key) ?? 0) > this.#clock.monotonicMs()
  }
}
