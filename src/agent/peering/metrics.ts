/** What the peerings count. The only label is the local name of a peer, which operators choose; nothing a peer says becomes one. */
import { Gauge, type Registry } from '../../lib/metrics.ts'
import { peeringStates, type PeeringState } from '../../mesh/peering.ts'
import type { SessionStatus } from './session.ts'

/** A peering as the metrics see it. */
export interface PeeringCondition {
  name: string
  state: PeeringState
  silentMs: number | undefined
  status: SessionStatus | undefined
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
}
