/** Runs a check again and again: the first time soon and at a random moment, and never while the last run has not ended. */
import type { Clock, Timer } from '../../../lib/clock.ts'
import type { CheckDefinition, CheckStatus } from '../../../mesh/check.ts'

export interface Outcome {
  status: CheckStatus
  output: string
}

export type Report = (status: CheckStatus, output: string) => void

/** Something that reports the status of one check until it is stopped. */
export interface CheckRunner {
  start(): void
  stop(): void
  /** There is a reason to look now. */
  lookSoon?(): void
}

/** A shorter interval would only load the machine. */
const minIntervalMs = 100
const maxFirstDelayMs = 1000
/** What was just registered is often just starting: until it is first found up, it is looked at this often, for this long. */
const eager = { intervalMs: 500, forMs: 30_000 } as const
/** What a process that was killed had open is closed one after another: a look at once might still be let in. */
const soonMs = 50
export const defaultTimeoutMs = 10_000
export const defaultOutputSize = 4096

export class Poll implements CheckRunner {
  readonly #clock: Clock
  readonly #intervalMs: number
  readonly #probe: (signal: AbortSignal) => Promise<Outcome>
  readonly #report: Report
  readonly #stop = new AbortController()
  #timer: Timer | undefined
  #running = false
  /** A look for which there was a reason is due. */
  #soon = false
  #again = false
  #eagerUntilMs = 0

  constructor(options: { clock: Clock; intervalMs: number; probe: (signal: AbortSignal) => Promise<Outcome>; report: Report }) {
    this.#clock = options.clock
    this.#intervalMs = Math.max(minIntervalMs, options.intervalMs)
    this.#probe = options.probe
    this.#report = options.report
  }

  start(): void {
    this.#eagerUntilMs = this.#clock.monotonicMs() + eager.forMs
    this.#next(Math.random() * Math.min(this.#intervalMs, maxFirstDelayMs))
  }

  stop(): void {
    this.#stop.abort()
    this.#timer?.cancel()
  }

  lookSoon(): void {
    // What is being looked at may be what was there before; and a look is put off by no reason for another.
    if (this.#running || this.#soon) this.#again = true
    else if (this.#timer !== undefined) {
      this.#timer.cancel()
      this.#soon = true
      this.#next(soonMs)
    }
  }

  #next(delayMs: number): void {
    if (!this.#stop.signal.aborted) this.#timer = this.#clock.after(delayMs, () => void this.#run())
  }

  async #run(): Promise<void> {
    const began = this.#clock.monotonicMs()
    this.#running = true
    this.#soon = false
    const { status, output } = await this.#probe(this.#stop.signal)
    this.#running = false
    if (this.#stop.signal.aborted) return
    this.#report(status, output)
    if (status !== 'critical') this.#eagerUntilMs = 0
    const intervalMs = began < this.#eagerUntilMs ? Math.min(eager.intervalMs, this.#intervalMs) : this.#intervalMs
    const delayMs = this.#again ? soonMs : Math.max(0, intervalMs - (this.#clock.monotonicMs() - began))
    this.#soon = this.#again
    this.#again = false
    this.#next(delayMs)
  }
}

/** A run ends before the next one is due, unless the definition says otherwise. */
export function timeoutOf({ timeoutMs, intervalMs }: CheckDefinition): number {
  return timeoutMs || Math.min(defaultTimeoutMs, intervalMs || defaultTimeoutMs)
}

/**
 * Several results in a row before a status changes: SuccessBeforePassing, FailuresBeforeWarning and FailuresBeforeCritical. The
 * first result of all always counts.
 */
export function withThresholds(definition: CheckDefinition, report: Report): Report {
  const { successBeforePassing = 0, failuresBeforeCritical = 0 } = definition
  const failuresBeforeWarning = definition.failuresBeforeWarning || failuresBeforeCritical
  let successes = successBeforePassing
  let failures = failuresBeforeCritical
  return (status, output) => {
    if (status !== 'critical') {
      successes += 1
      failures = 0
      if (successes >= successBeforePassing) report(status, output)
      return
    }
    failures += 1
    successes = 0
    if (failures >= failuresBeforeCritical) report('critical', output)
    else if (failures >= failuresBeforeWarning) report('warning', output)
  }
}
