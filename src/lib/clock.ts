/**
 * Time as a dependency: whatever waits or compares ages takes a Clock, so that tests drive it by hand.
 * Ages use `monotonicMs`, which a change of the wall clock cannot bend; dates shown to people use `nowMs`.
 */

export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Wall clock, ms since the epoch. */
  nowMs(): number
  /** Monotonic clock, ms since an arbitrary start. */
  monotonicMs(): number
  /** Runs `callback` once after `ms`. Timers do not keep the process alive. */
  after(ms: number, callback: () => void): Timer
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  after(ms, callback) {
    const handle = setTimeout(callback, Math.min(ms, 2 ** 31 - 1))
    handle.unref()
    return { cancel: () => clearTimeout(handle) }
  },
}
