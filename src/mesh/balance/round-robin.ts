/**
 * Weighted round robin. The order is laid out once, when the plan is made, so that a pick is one array read: each endpoint appears
 * as often as its weight says, as evenly spread as it can be.
 */
import type { Endpoint } from '../snapshot.ts'
import { pickable, weightOf, type Picker, type Skip } from './picker.ts'

/** A schedule that would take more steps than this to lay out gives each endpoint one turn. */
export const roundRobinLimits = { maxSteps: 1_000_000 } as const

export class RoundRobin implements Picker {
  readonly size: number
  readonly #schedule: readonly Endpoint[]
  #next: number

  /** `after`: the picker that this one replaces; going on where it stood keeps a change of endpoints from favouring the first. */
  constructor(endpoints: readonly Endpoint[], after?: RoundRobin) {
    const healthy = pickable(endpoints)
    this.size = healthy.length
    this.#schedule = schedule(healthy)
    this.#next = after === undefined || this.#schedule.length === 0 ? 0 : after.#next % this.#schedule.length
  }

  pick(skip?: Skip): Endpoint | undefined {
    const { length } = this.#schedule
    for (let tried = 0; tried < length; tried++) {
      const endpoint = this.#schedule[this.#next]!
      this.#next = this.#next + 1 === length ? 0 : this.#next + 1
      if (skip === undefined || !skip(endpoint)) return endpoint
    }
    return undefined
  }
}

/** Smooth weighted round robin, as nginx does it: each turn the one that lags most behind its share. */
function schedule(endpoints: readonly Endpoint[]): readonly Endpoint[] {
  const clamped = endpoints.map(weightOf)
  const divisor = clamped.reduce(greatestCommonDivisor, 0)
  const weights = clamped.map(weight => weight / divisor)
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  if (total === endpoints.length || total * endpoints.length > roundRobinLimits.maxSteps) return [...endpoints]
  const credit = weights.map(() => 0)
  const out: Endpoint[] = []
  for (let turn = 0; turn < total; turn++) {
    let best = 0
    for (let i = 0; i < weights.length; i++) {
      credit[i]! += weights[i]!
      if (credit[i]! > credit[best]!) best = i
    }
    credit[best]! -= total
    out.push(endpoints[best]!)
  }
  return out
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b)
}
