/**
 * What the peerings count. The labels are the local name of a peer, which operators choose, and a state out of a closed list;
 * nothing a peer says becomes one, so that imported services are told of by number and by the oldest among them.
 */
import { Counter, Gauge, type Registry } from '../../lib/metrics.ts'
import { freshnessStates } from '../../mesh/freshness.ts'
import { peeringStates, type PeeringFreshness, type PeeringState } from '../../mesh/peering.ts'
import type { ImportedAges } from './ages.ts'
import type { SessionStatus } from './session.ts'

/** A peering as the metrics see it. */
export interface PeeringCondition {
  name: string
  state: PeeringState
  silentMs: number | undefined
  status: SessionStatus | undefined
  freshness: PeeringFreshness | undefined
  /** Looks at every imported service. */
  imported: () => ImportedAges
}

/** Gauges that are read when somebody scrapes. */
export function peeringMetrics(registry: Registry, read: () => PeeringCondition[]): void {
  const gauge = (name: string, help: string, value: (seen: PeeringCondition) => number | undefined) =>
    new Gauge({
      name,
      help,
      labelNames: ['peer'] as const,
      registers: [registry],
      collect() {
        this.reset()
        for (const seen of read()) {
          const now = value(seen)
          if (now !== undefined) this.set({ peer: seen.name }, now)
        }
      },
    })
  gauge('isthmus_peering_active', 'Whether the stream to the peer is up and has shown life (1 or 0).', seen =>
    seen.state === 'ACTIVE' ? 1 : 0,
  )
  gauge(
    'isthmus_peering_state',
    "The state by Consul's number: 1 PENDING, 2 ESTABLISHING, 3 ACTIVE, 4 FAILING, 5 DELETING, 6 TERMINATED.",
    seen => peeringStates.indexOf(seen.state),
  )
  gauge('isthmus_peering_age_seconds', 'Time since the peer last said anything on the stream that is up; absent while none is.', seen =>
    seen.silentMs === undefined ? undefined : seen.silentMs / 1000,
  )
  gauge(
    'isthmus_peering_imported_services',
    'Services on the last list that the peer sent.',
    seen => seen.status?.importedServices?.length ?? 0,
  )
  gauge(
    'isthmus_peering_exported_services',
    'Services on the last list that was sent to the peer.',
    seen => seen.status?.exportedServices?.length ?? 0,
  )
  gauge(
    'isthmus_peering_oversized_services',
    'Services too large for one message, exported without instances.',
    seen => seen.status?.oversized.length ?? 0,
  )
  gauge('isthmus_peering_trust_bundle_refused', 'Whether the last trust bundle of the peer was refused (1 or 0).', seen =>
    seen.status?.refusedBundle === undefined ? 0 : 1,
  )
  gauge('isthmus_peering_last_heartbeat_seconds', 'When the peer last sent a heartbeat, in seconds since the epoch.', seen =>
    seen.status?.lastHeartbeatMs === undefined ? undefined : seen.status.lastHeartbeatMs / 1000,
  )
  freshnessMetrics(registry, read, gauge)
}

type OfPeer = (name: string, help: string, value: (seen: PeeringCondition) => number | undefined) => void

/** An age that is not known is +Inf: no alert on an age may miss it. */
function freshnessMetrics(registry: Registry, read: () => PeeringCondition[], gauge: OfPeer): void {
  gauge(
    'isthmus_peering_freshness_state',
    'Of everything that the peer exports to us: 0 FRESH, 1 STALE, 2 FROZEN.',
    seen => seen.freshness && freshnessStates.indexOf(seen.freshness.state),
  )
  gauge(
    'isthmus_peering_confirmed_age_seconds',
    'Time since everything that the peer exports to us was last confirmed; +Inf when it never was in this process.',
    seen => seen.freshness && (seen.freshness.ageMs ?? Infinity) / 1000,
  )
  gauge(
    'isthmus_peering_imported_oldest_age_seconds',
    'Time since the imported service that was confirmed longest ago was confirmed; +Inf when one never was in this process.',
    seen => seen.imported().oldestMs / 1000,
  )
  void new Gauge({
    name: 'isthmus_peering_imported_services_by_freshness',
    help: 'Imported services by the state of their freshness.',
    labelNames: ['peer', 'state'] as const,
    registers: [registry],
    collect() {
      this.reset()
      for (const { name, imported } of read()) {
        const { count } = imported()
        for (const state of freshnessStates) this.set({ peer: name, state }, count[state])
      }
    },
  })
  const counter = (name: string, help: string, value: (freshness: PeeringFreshness) => number) =>
    new Counter({
      name,
      help,
      labelNames: ['peer'] as const,
      registers: [registry],
      collect() {
        this.reset()
        for (const seen of read()) this.inc({ peer: seen.name }, seen.freshness ? value(seen.freshness) : 0)
      },
    })
  counter(
    'isthmus_peering_repairs_total',
    'Imported resources that were not what the peer exports and were put right.',
    seen => seen.repairs,
  )
  counter('isthmus_peering_disagreements_total', 'Digests of the peer that disagreed with what was held.', seen => seen.disagreements)
}
