/**
 * Peerings as readers see them: the stored record with what its stream makes of it at this moment. Nothing here is stored, and
 * nothing changes a peering.
 */
import type { Clock } from '../../lib/clock.ts'
import { unknownFreshness, type Freshness } from '../../mesh/freshness.ts'
import type { Peering, StreamStatus } from '../../mesh/peering.ts'
import { sidecarSuffix } from '../../wire/peer-stream.ts'
import type { Reading, Tables } from '../catalog/tables.ts'
import { importedFreshness, peeringFreshness, setFreshness, summarize } from './ages.ts'
import { streamStatusOf, type LivePeering } from './live-peering.ts'
import type { PeeringCondition } from './metrics.ts'
import type { SessionStatus } from './session.ts'
import { warningsOf } from './warnings.ts'

export interface PeeringViewOptions {
  tables: Tables
  clock: Clock
  /** By the id of a peering. */
  live: (id: string) => LivePeering | undefined
}

export class PeeringView {
  readonly #options: PeeringViewOptions

  constructor(options: PeeringViewOptions) {
    this.#options = options
  }

  read(name: string): Reading<Peering | undefined> {
    const { tables, live } = this.#options
    const reading = tables.peering(name)
    const peering = reading.value
    if (!peering) return reading
    const status = live(peering.id)?.status
    const seen = this.#seen(peering)
    // What has ended is not expected to bring anything.
    const warnings = hasEnded(peering) ? [] : warningsOf(status, peering.name, tables, seen.streamStatus.freshness)
    const streamStatus = { ...seen.streamStatus, importedFreshness: this.#imported(peering, status) }
    return { ...reading, value: { ...seen, streamStatus, warnings } }
  }

  list(): Reading<Peering[]> {
    const reading = this.#options.tables.peerings()
    return { ...reading, value: reading.value.map(peering => this.#seen(peering)) }
  }

  freshness(peer: string, id: string): Freshness {
    const peering = this.#options.tables.peering(peer).value
    return peering && !hasEnded(peering) ? setFreshness(this.#options.live(peering.id)?.status, id, this.#nowMs) : unknownFreshness
  }

  /** For whoever scrapes. */
  conditions(): PeeringCondition[] {
    return this.#options.tables.peerings().value.map(peering => {
      const live = this.#options.live(peering.id)
      const { state, streamStatus } = this.#seen(peering)
      return {
        name: peering.name,
        state,
        silentMs: live?.silentMs,
        status: live?.status,
        freshness: streamStatus.freshness,
        imported: () => summarize(this.#imported(peering, live?.status)),
      }
    })
  }

  #seen(peering: Peering): Peering {
    const live = this.#options.live(peering.id)
    return { ...peering, state: live?.stateOf(peering) ?? peering.state, streamStatus: this.#streamStatus(peering, live?.status) }
  }

  #streamStatus(peering: Peering, status: SessionStatus | undefined): StreamStatus {
    const seen = streamStatusOf(status)
    // What is left of the time before a restart has an age that nobody knows.
    const imports = status !== undefined || this.#options.tables.importedServices(peering.name).value.length > 0
    if (!imports) return seen
    const freshness = peeringFreshness(status, this.#nowMs)
    return { ...seen, freshness: hasEnded(peering) ? { ...freshness, ...unknownFreshness } : freshness }
  }

  /** By the peer's list, or before it has come by what is left in the store; plain names either way. */
  #imported(peering: Peering, status: SessionStatus | undefined): ReturnType<typeof importedFreshness> {
    const held = () => this.#options.tables.importedServices(peering.name).value.map(record => record.service)
    const names = status?.importedServices ?? held().filter(name => !name.endsWith(sidecarSuffix))
    return importedFreshness(hasEnded(peering) ? undefined : status, names, this.#nowMs)
  }

  get #nowMs(): number {
    return this.#options.clock.monotonicMs()
  }
}

/** What was imported goes, or is gone: what is known of its age is no longer of anything. */
function hasEnded({ state }: Peering): boolean {
  return state === 'TERMINATED' || state === 'DELETING'
}
