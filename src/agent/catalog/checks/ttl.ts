/** A TTL check: somebody reports its status, and when nobody does for the time to live it is critical. */
import type { Clock, Timer } from '../../../lib/clock.ts'
import type { CheckRunner, Report } from './poll.ts'

export class Ttl implements CheckRunner {
  readonly #clock: Clock
  readonly #ttlMs: number
  readonly #report: Report
  #lastOutput: string
  #firstMs: number
  #timer: Timer | undefined

  /** `remainingMs` is what a report from before a restart still has to live. */
  constructor(options: { clock: Clock; ttlMs: number; report: Report; remainingMs?: number; lastOutput?: string }) {
    this.#clock = options.clock
    this.#ttlMs = options.ttlMs
    this.#report = options.report
    this.#firstMs = options.remainingMs ?? options.ttlMs
    this.#lastOutput = options.lastOutput ?? ''
  }

  start(): void {
    this.#wait(this.#firstMs)
  }

  stop(): void {
    this.#timer?.cancel()
  }

  /** Notes a report of somebody: the time to live starts again. */
  renew(output: string): void {
    this.#lastOutput = output
    this.#timer?.cancel()
    this.#wait(this.#ttlMs)
  }

  #wait(ms: number): void {
    this.#timer = this.#clock.after(ms, () => {
      const last = this.#lastOutput === '' ? '' : ` (last output before timeout follows): ${this.#lastOutput}`
      this.#report('critical', `TTL expired${last}`)
    })
  }
}

/** Cut to the size that the definition allows; says so. */
export function limitOutput(output: string, limit: number): string {
  const bytes = Buffer.from(output)
  if (bytes.length <= limit) return output
  return `${bytes.subarray(0, limit).toString('utf8')} ... (captured ${limit} of ${bytes.length} bytes)`
}
