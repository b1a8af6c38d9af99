/** Go's duration notation ("1h30m", "250ms"), which Consul's API and configuration use, to and from milliseconds. */

const unitMs: Record<string, number> = { ns: 1e-6, us: 1e-3, µs: 1e-3, μs: 1e-3, ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** Go counts nanoseconds in 64 bits, so no duration is longer. */
const maxMs = 2 ** 63 / 1e6

/** Parses a Go duration into ms; undefined when it is not one. A bare "0" is the only number without a unit. */
export function parseDuration(text: string): number | undefined {
  const match = /^([+-]?)(.+)$/.exec(text)
  if (!match) return undefined
  const rest = match[2]!
  if (rest === '0') return 0
  if (text.length > 64 || !/^(?:\d+\.?\d*(?:ns|us|µs|μs|ms|s|m|h)|\.\d+(?:ns|us|µs|μs|ms|s|m|h))+$/.test(rest)) return undefined
  let total = 0
  for (const [, amount, unit] of rest.matchAll(/(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)/g)) {
    total += Number(amount) * unitMs[unit!]!
  }
  if (total >= maxMs) return undefined
  return match[1] === '-' ? -total : total
}

/** Formats ms as Go prints a duration: 5000 -> "5s", 90000 -> "1m30s", 1.5 -> "1.5ms", 0 -> "0s". */
export function formatDuration(ms: number): string {
  if (ms === 0) return '0s'
  const sign = ms < 0 ? '-' : ''
  const absolute = Math.abs(ms)
  if (absolute < 1e-3) return `${sign}${Math.round(absolute * 1e6)}ns`
  if (absolute < 1) return `${sign}${trim(absolute * 1e3)}µs`
  if (absolute < 1000) return `${sign}${trim(absolute)}ms`
  const hours = Math.floor(absolute / 3_600_000)
  const minutes = Math.floor((absolute % 3_600_000) / 60_000)
  const seconds = trim((absolute % 60_000) / 1000)
  return `${sign}${hours > 0 ? `${hours}h` : ''}${hours > 0 || minutes > 0 ? `${minutes}m` : ''}${seconds}s`
}

function trim(value: number): string {
  return String(Number(value.toFixed(9)))
}
