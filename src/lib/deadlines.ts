/**
 * One timer for many connections: requests set a number, and a tick looks at all of them. A request therefore arms and
 * cancels nothing; what expires does so up to one tick late.
 */
import { systemClock, type Clock, type Timer } from './clock.ts'

export interface Watched {
  check(nowMs: number): void
}

export class Deadlines {
  readonly clock: Clock
  private readonly tickMs: number
  private readonly watched = new Set<Watched>()
  private timer: Timer | undefined

  constructor(clock: Clock = systemClock, tickMs = 500) {
    this.clock = clock
    this.tickMs = tickMs
  }

  add(entry: Watched): void {
    this.watched.add(entry)
    this.timer ??= this.clock.after(this.tickMs, this.tick)
  }

  delete(entry: Watched): void {
    this.watched.delete(entry)
  }

  private readonly tick = (): void => {
    this.timer = undefined
    const now = this.clock.monotonicMs()
    for (const entry of this.watched) entry.check(now)
    if (this.watched.size > 0) this.timer ??= this.clock.after(this.tickMs, this.tick)
  }
}

/** For connections that were given none. Holds nothing while no connection lives. */
export const sharedDeadlines = new Deadlines()
