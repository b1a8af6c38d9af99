/** Ages as readers ask for them: of a peering, of one service, and of all services that a peer exports to us. Computed on reading. */
import {
  freshnessStates,
  judgeFreshness,
  unknownFreshness,
  type ConfirmingStream,
  type Freshness,
  type FreshnessState,
} from '../../mesh/freshness.ts'
import type { ImportedFreshness, PeeringFreshness } from '../../mesh/peering.ts'
import { sidecarSuffix } from '../../wire/peer-stream.ts'
import { confirmedOf, contradictedMsOf } from './confirmation.ts'
import { foldId } from './ledger.ts'
import type { SessionStatus } from './session.ts'

export function peeringFreshness(status: SessionStatus | undefined, nowMs: number): PeeringFreshness {
  if (!status) return { ...unknownFreshness, repairs: 0, disagreements: 0 }
  const { whole, contradictedMs, repairs, disagreements } = status.confirmation
  return { ...judgeFreshness({ confirmed: whole, contradictedMs, stream: streamOf(status) }, nowMs), repairs, disagreements }
}

/** Of one set: a plain service, or the virtual proxies of one. */
export function setFreshness(status: SessionStatus | undefined, id: string, nowMs: number): Freshness {
  if (!status) return unknownFreshness
  const { confirmation } = status
  const facts = { confirmed: confirmedOf(confirmation, id), contradictedMs: contradictedMsOf(confirmation, id) }
  return judgeFreshness({ ...facts, stream: streamOf(status) }, nowMs)
}

/** Of each service, with the virtual proxies by which it is called: the worse of the two. */
export function importedFreshness(status: SessionStatus | undefined, names: readonly string[], nowMs: number): ImportedFreshness[] {
  return names.map(service => {
    const plain = setFreshness(status, service, nowMs)
    if (!status?.confirmation.services.has(foldId(service + sidecarSuffix))) return { service, ...plain }
    const proxies = setFreshness(status, service + sidecarSuffix, nowMs)
    return { service, ...(isWorse(proxies, plain) ? proxies : plain) }
  })
}

export interface ImportedAges {
  count: Record<FreshnessState, number>
  /** Infinity: of one at least nothing is known. */
  oldestMs: number
}

export function summarize(all: readonly Freshness[]): ImportedAges {
  const count = Object.fromEntries(freshnessStates.map(state => [state, 0])) as ImportedAges['count']
  let oldestMs = 0
  for (const { state, ageMs } of all) {
    count[state] += 1
    oldestMs = Math.max(oldestMs, ageMs ?? Infinity)
  }
  return { count, oldestMs }
}

function isWorse(a: Freshness, b: Freshness): boolean {
  const [ofA, ofB] = [freshnessStates.indexOf(a.state), freshnessStates.indexOf(b.state)]
  return ofA === ofB ? (a.ageMs ?? Infinity) > (b.ageMs ?? Infinity) : ofA > ofB
}

function streamOf({ connected, confirmation }: SessionStatus): ConfirmingStream | undefined {
  if (!connected) return undefined
  const { openedMs, lastHeartbeatMs, confirms } = confirmation
  return { openedMs, lastHeartbeatMs, confirms }
}
