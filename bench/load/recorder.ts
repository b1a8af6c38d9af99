/** What became of every request of a run, and the report of it. Times are milliseconds. */
import type { Outcome } from './connection.ts'

export interface Latency {
  mean: number
  p50: number
  p90: number
  p99: number
  max: number
}

export interface LoadReport {
  mode: 'open' | 'closed'
  connections: number
  /** Asked for, in the open loop. */
  rate?: number
  seconds: number
  /** Requests that were due; each is either answered or an error. */
  requests: number
  answered: number
  errors: number
  requestsPerSecond: number
  statuses: Record<string, number>
  failures: Record<string, number>
  /** From when a request was due, in the open loop; from when it was sent, in the closed one. */
  latencyMs: Latency
  /** How late the generator itself was in the open loop: a sign of a busy machine, not of a slow mesh. */
  lateMs?: Latency
}

/** Numbers that grow without an object for each. */
export class Samples {
  #values = new Float64Array(4096)
  #count = 0

  get count(): number {
    return this.#count
  }

  add(value: number): void {
    if (this.#count === this.#values.length) {
      const grown = new Float64Array(this.#count * 2)
      grown.set(this.#values)
      this.#values = grown
    }
    this.#values[this.#count] = value
    this.#count += 1
  }

  latency(): Latency {
    const sorted = this.#values.slice(0, this.#count).sort()
    const at = (q: number) => sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? 0
    const sum = sorted.reduce((total, each) => total + each, 0)
    return { mean: sorted.length === 0 ? 0 : sum / sorted.length, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: at(1) }
  }
}

export class Recorder {
  readonly latencies = new Samples()
  readonly #outcomes = new Map<Outcome | 'unanswered', number>()

  record(outcome: Outcome | 'unanswered', latencyMs: number): void {
    this.#outcomes.set(outcome, (this.#outcomes.get(outcome) ?? 0) + 1)
    if (typeof outcome === 'number') this.latencies.add(latencyMs)
  }

  report(run: { mode: 'open' | 'closed'; connections: number; rate?: number; seconds: number; lateMs?: Latency }): LoadReport {
    const all = [...this.#outcomes]
    const statuses = Object.fromEntries(all.filter(([outcome]) => typeof outcome === 'number'))
    const failures = Object.fromEntries(all.filter(([outcome]) => typeof outcome === 'string'))
    const bad = all.filter(([outcome]) => typeof outcome === 'string' || outcome >= 400)
    const { lateMs, ...rest } = run
    return {
      ...rest,
      requests: all.reduce((sum, [, count]) => sum + count, 0),
      answered: this.latencies.count,
      errors: bad.reduce((sum, [, count]) => sum + count, 0),
      requestsPerSecond: this.latencies.count / run.seconds,
      statuses,
      failures,
      latencyMs: this.latencies.latency(),
      ...(lateMs ? { lateMs } : {}),
    }
  }
}
