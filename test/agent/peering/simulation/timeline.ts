/**
 * Simulated time: what is due runs in the order of its time, of one time in the order of its setting, and everything that it causes has settled before
 * the next. All of a simulation runs on one of these, so that a seed always gives the same run.
 */
import type { Clock, Timer } from '../../../../src/lib/clock.ts'

interface Pending {
  atMs: number
  run: () => void
}

/** Times are whole multiples of a power of two, so that sums and differences of them are exact. */
const stepsPerMs = 1024
/** More events at one time are a timer that sets itself again and again. */
const maxAtOnce = 10_000
const epochMs = Date.UTC(2026, 0, 1)

export class Timeline implements Clock {
  #nowMs = 0
  /** The next one is last. */
  readonly #pending: Pending[] = []
  /** How many have run. */
  events = 0

  nowMs(): number {
    return epochMs + this.#nowMs
  }

  monotonicMs(): number {
    return this.#nowMs
  }

  after(ms: number, run: () => void): Timer {
    const pending = { atMs: Math.ceil((this.#nowMs + Math.max(0, ms)) * stepsPerMs) / stepsPerMs, run }
    let low = 0
    let high = this.#pending.length
    while (low < high) {
      const middle = (low + high) >> 1
      // What was set later comes before its equals, because it runs after them.
      if (this.#pending[middle]!.atMs > pending.atMs) low = middle + 1
      else high = middle
    }
    this.#pending.splice(low, 0, pending)
    return {
      cancel: () => {
        const at = this.#pending.lastIndexOf(pending)
        if (at >= 0) this.#pending.splice(at, 1)
      },
    }
  }

  wait(ms: number): Promise<void> {
    return new Promise(resolve => void this.after(ms, resolve))
  }

  /** Runs what is due until `stop` says so, which is asked after each event; answers why it could not. */
  async run(stop: () => boolean): Promise<string | undefined> {
    let atOnce = 0
    await settled()
    for (;;) {
      const next = this.#pending.pop()
      if (!next) return 'nothing happens any more'
      atOnce = next.atMs === this.#nowMs ? atOnce + 1 : 0
      if (atOnce > maxAtOnce) return 'time stands still'
      this.#nowMs = next.atMs
      this.events += 1
      next.run()
      await settled()
      if (stop()) return undefined
    }
  }
}

/** Promises that can go on have gone on, and the tables' subscribers have been called. */
async function settled(): Promise<void> {
  await new Promise(resolve => setImmediate(resolve))
  await new Promise(resolve => setImmediate(resolve))
}

/** The clock of one process: its timers end with it. */
export class ProcessClock implements Clock {
  readonly #timeline: Timeline
  readonly #startMs: number
  #dead = false

  constructor(timeline: Timeline) {
    this.#timeline = timeline
    this.#startMs = timeline.monotonicMs()
  }

  nowMs(): number {
    return this.#timeline.nowMs()
  }

  /** From the start of the process, as real ones count. */
  monotonicMs(): number {
    return this.#timeline.monotonicMs() - this.#startMs
  }

  after(ms: number, run: () => void): Timer {
    return this.#timeline.after(ms, () => {
      if (!this.#dead) run()
    })
  }

  die(): void {
    this.#dead = true
  }
}
