/**
 * When requests are due in an open loop: a Poisson process, so that each comes without regard to the others, as those of many
 * independent users do. A thread of its own (arrivals-thread.ts) sleeps until the next one, because Node's timers know only whole milliseconds and a loop
 * that spins would take the core from what is measured.
 */
import { Worker } from 'node:worker_threads'

/** Milliseconds on a clock that all threads share. */
export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6
}

/** The time to the next arrival at `rate` a second, from a uniform number in [0, 1). */
export function exponentialGapMs(rate: number, uniform: number): number {
  return (-Math.log1p(-uniform) / rate) * 1000
}

export interface ArrivalsWish {
  rate: number
  durationMs: number
}

/** Calls `due` with the time of each arrival, as soon as that has come; ends with the last one. */
export function arrivals(wish: ArrivalsWish, due: (intendedMs: number) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const thread = new Worker(new URL('./arrivals-thread.js', import.meta.url), { workerData: wish })
    thread.on('message', due)
    thread.once('error', reject)
    thread.once('exit', () => resolve())
  })
}
