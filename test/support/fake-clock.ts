/** A clock that moves only when a test says so. Timers run in the order of their times; a timer set by a timer runs in the same advance when it is due. */
import type { Clock, Timer } from '../../src/lib/clock.ts'

interface Pending {
  at: number
  order: number
  callback: () => void
}

export class FakeClock implements Clock {
  #now: number
  #monotonic = 0
  #order = 0
  readonly #pending = new Set<Pending>()

  constructor(nowMs = Date.UTC(2026, 0, 1)) {
    this.#now = nowMs
  }

  nowMs(): number {
    return this.#now
  }

  monotonicMs(): number {
    return this.#monotonic
  }

  after(ms: number, callback: () => void): Timer {
    const pending = { at: this.#monotonic + Math.max(0, ms), order: this.#order++, callback }
    this.#pending.add(pending)
    return { cancel: () => void this.#pending.delete(pending) }
  }

  /** How many timers are set. */
  get timers(): number {
    return this.#pending.size
  }

  /** Moves time and runs what is due, letting promises settle after each timer. */
  async advance(ms: number): Promise<void> {
    const end = this.#monotonic + ms
    for (;;) {
      const next = this.#next(end)
      if (!next) break
      this.#pending.delete(next)
      this.#moveTo(next.at)
      next.callback()
      await settle()
    }
    this.#moveTo(end)
    await settle()
  }

  /** Turns the wall clock alone, as an operator or NTP would. */
  setWallClock(nowMs: number): void {
    this.#now = nowMs
  }

  #next(end: number): Pending | undefined {
    let best: Pending | undefined
    for (const each of this.#pending) {
      if (each.at > end) continue
      if (!best || each.at < best.at || (each.at === best.at && each.order < best.order)) best = each
    }
    return best
  }

  #moveTo(at: number): void {
    this.#now += at - this.#monotonic
    this.#monotonic = at
  }
}

/** Lets microtasks and immediates that are already queued run. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 3; i += 1) await new Promise(resolve => setImmediate(resolve))
}
