/**
 * How old what a peer told us may be, and by what evidence we say so (DESIGN 5). An age claims no more than is known: it counts on
 * the monotonic clock from the last moment at which the data was known to be the peer's, a heartbeat proves nothing, and what was
 * known before a restart of this process has no age at all.
 */
import * as z from 'zod'

/**
 * FRESH: confirmed `freshMs` ago at most, and not contradicted since. STALE: everything else, and all that is wrong with it is that
 * nobody can say. FROZEN: the peer can confirm, it is connected and its heartbeats come, yet it has confirmed nothing for `frozenMs`.
 * A real Consul cannot confirm, so that a quiet one is STALE and never FROZEN: that its data stands still is no sign of anything.
 */
export const freshnessStates = ['FRESH', 'STALE', 'FROZEN'] as const
export type FreshnessState = (typeof freshnessStates)[number]

/**
 * `digest`: the peer's digest of all that it exports to us agreed with what we hold. `resync`: it was the first set of the service on
 * a stream, on which everything is sent again, or one that we asked for. `received`: the peer sent it as a change.
 */
export const evidences = ['digest', 'resync', 'received'] as const
export type Evidence = (typeof evidences)[number]

export const freshnessLimits = {
  /** A digest leaves this often. */
  digestMs: 15_000,
  /** Two intervals, and time to look and to travel: one digest may be lost. */
  freshMs: 35_000,
  /** Four intervals. */
  frozenMs: 60_000,
  /** Heartbeats come every 15 s; after three that are missing the stream is taken to carry nothing. */
  silentMs: 45_000,
} as const

export const Freshness = z.object({
  state: z.enum(freshnessStates),
  /** null: not known since this process began. */
  ageMs: z.number().nullable(),
  evidence: z.enum(evidences).nullable(),
})
export type Freshness = z.infer<typeof Freshness>

/** Nothing is known. */
export const unknownFreshness: Freshness = { state: 'STALE', ageMs: null, evidence: null }

/** When something was last known to be the peer's own word, on the monotonic clock. */
export interface Confirmed {
  atMs: number
  evidence: Evidence
}

/** The stream that is up. */
export interface ConfirmingStream {
  openedMs: number
  lastHeartbeatMs: number
  /** The peer has said that it sends digests. */
  confirms: boolean
}

export interface FreshnessFacts {
  confirmed: Confirmed | undefined
  /** When a digest last disagreed; -Infinity when none did. */
  contradictedMs: number
  stream: ConfirmingStream | undefined
}

export function judgeFreshness({ confirmed, contradictedMs, stream }: FreshnessFacts, nowMs: number): Freshness {
  // Rounded up: an age is never shorter than it is.
  const ageMs = confirmed === undefined ? null : Math.ceil(nowMs - confirmed.atMs)
  const seen = { ageMs, evidence: confirmed?.evidence ?? null }
  const contradicted = confirmed !== undefined && contradictedMs >= confirmed.atMs
  if (ageMs !== null && ageMs <= freshnessLimits.freshMs && !contradicted) return { state: 'FRESH', ...seen }
  const beats = stream !== undefined && nowMs - stream.lastHeartbeatMs <= freshnessLimits.silentMs
  // A stream that has only begun has had no time to confirm.
  const unconfirmedMs = stream && nowMs - Math.max(stream.openedMs, confirmed?.atMs ?? -Infinity)
  const frozen = beats && stream.confirms && unconfirmedMs! > freshnessLimits.frozenMs
  return { state: frozen ? 'FROZEN' : 'STALE', ...seen }
}

/** As people read it: `FRESH 12.3s (digest)`. */
export function describeFreshness({ state, ageMs, evidence }: Freshness): string {
  return `${state} ${ageMs === null ? 'age unknown' : `${(ageMs / 1000).toFixed(1)}s`}${evidence === null ? '' : ` (${evidence})`}`
}
