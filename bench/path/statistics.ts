/**
 * What is said of a list of rounds. A machine's speed drifts, so two proxies are compared round by round (they ran seconds apart)
 * and the interval is that of the median of those ratios: the percentile bootstrap, from a fixed seed, so that a report is the same
 * however often it is made from the same rounds.
 */
import { seeded } from '../../test/support/seeded.ts'

export interface Summary {
  median: number
  p25: number
  p75: number
}

export interface Interval {
  median: number
  /** The bounds of the 95 % interval. */
  low: number
  high: number
}

const resamples = 4000

/** Linear between the two neighbours, as most tools have it. */
export function quantile(values: readonly number[], q: number): number {
  if (values.length === 0) return Number.NaN
  const sorted = [...values].sort((a, b) => a - b)
  const at = (sorted.length - 1) * q
  const below = Math.floor(at)
  return sorted[below]! + (sorted[Math.min(below + 1, sorted.length - 1)]! - sorted[below]!) * (at - below)
}

export function summarise(values: readonly number[]): Summary {
  return { median: quantile(values, 0.5), p25: quantile(values, 0.25), p75: quantile(values, 0.75) }
}

/** The median of the values, and where the median of other such rounds would lie. */
export function bootstrap(values: readonly number[], seed = 1): Interval {
  const random = seeded(seed)
  const medians = Array.from({ length: resamples }, () =>
    quantile(
      values.map(() => values[Math.floor(random() * values.length)]!),
      0.5,
    ),
  )
  return { median: quantile(values, 0.5), low: quantile(medians, 0.025), high: quantile(medians, 0.975) }
}

/** Of round i's `ours` over round i's `theirs`. */
export function pairedRatio(ours: readonly number[], theirs: readonly number[]): Interval {
  return bootstrap(paired(ours, theirs).map(([our, their]) => our / their))
}

/** Of round i's `ours` less round i's `theirs`. */
export function pairedDifference(ours: readonly number[], theirs: readonly number[]): Interval {
  return bootstrap(paired(ours, theirs).map(([our, their]) => our - their))
}

function paired(ours: readonly number[], theirs: readonly number[]): [number, number][] {
  return ours.slice(0, theirs.length).map((our, i) => [our, theirs[i]!])
}
