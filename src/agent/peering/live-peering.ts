/**
 * One peering while this process serves it: its importer, its exporter and, while there is one, its stream. Whatever ends the
 * stream, what was imported stays until the peer says otherwise or the peering goes (spec/peering-wire.md 8.1).
 */
import type { Clock } from '../../lib/clock.ts'
import type { Logger } from '../../lib/log.ts'
import { freshnessLimits } from '../../mesh/freshness.ts'
import type { Peering, PeeringState, StreamStatus } from '../../mesh/peering.ts'
import type { Tables } from '../catalog/tables.ts'
import { Dialer } from './dialer.ts'
import { SessionDriver, type Link, type StreamHandler } from './driver.ts'
import type { Exporter } from './exporter.ts'
import type { Importer } from './importer.ts'
import type { Identity, SessionStatus } from './session.ts'
import type { PeerTransport, Target } from './transport.ts'

export interface LiveOptions {
  id: string
  name: string
  tables: Tables
  importer: Importer
  exporter: Exporter
  transport: PeerTransport
  clock: Clock
  random: () => number
  logger: Logger
  onTerminated: () => void
}

/** Clients wait for ESTABLISHING after an establish, so it is shown for a moment even when the stream is faster (http-api.md 6). */
const establishingMs = 60
/** A stream on which nothing has been heard for so long may be replaced by another of the same dialer; heartbeats come every 15 s. */
const presumedDeadMs = 20_000

export class LivePeering {
  readonly id: string
  readonly name: string
  readonly #options: LiveOptions
  readonly #importer: Importer
  #driver: SessionDriver | undefined
  #last: SessionStatus | undefined
  #dialer: Dialer | undefined
  #establishedAtMs = -Infinity
  #closed = false

  constructor(options: LiveOptions) {
    this.id = options.id
    this.name = options.name
    this.#options = options
    this.#importer = options.importer
  }

  /** Dials until stopped. */
  dial(identity: Identity, targets: () => Target[], justEstablished: boolean): void {
    const { transport, clock, random, logger, name } = this.#options
    if (justEstablished) this.#establishedAtMs = clock.monotonicMs()
    this.#dialer = new Dialer({ transport, clock, random, logger, peer: name, targets, begin: link => this.begin(identity, link) })
    this.#dialer.start()
  }

  /** Time since the peer last said anything, by the monotonic clock; undefined while there is no stream. */
  get silentMs(): number | undefined {
    return this.#driver?.silentMs
  }

  get isBusy(): boolean {
    return this.#driver !== undefined && this.#driver.silentMs < presumedDeadMs
  }

  /** Puts a session onto a stream; one that is there still is ended. `anew`: the first stream after a token was spent. */
  begin(identity: Identity, link: Link, anew = false): StreamHandler {
    this.#importer.mayChangeTrustDomain = anew
    this.#driver?.dispatch({ type: 'ended', error: { code: 2, message: 'replaced by a new stream of the same peer' } })
    const { tables, exporter, clock, logger } = this.#options
    const driver: SessionDriver = new SessionDriver({
      identity,
      link,
      tables,
      exporter,
      importer: this.#importer,
      clock,
      logger,
      previous: this.#last,
      onTerminated: this.#options.onTerminated,
      onClosed: status => {
        this.#last = status
        if (this.#driver === driver) this.#driver = undefined
      },
    })
    this.#driver = driver
    return {
      open: marked => driver.open(marked),
      receive: message => driver.receive(message),
      ended: error => driver.dispatch(error ? { type: 'ended', error } : { type: 'ended' }),
    }
  }

  /** Tells the other side that the peering is deleted, if a stream is up; resolves when it has ended, within a second. */
  async terminate(): Promise<void> {
    this.#closed = true
    const driver = this.#driver
    const stopped = this.#dialer?.stop({ cancel: false })
    driver?.dispatch({ type: 'terminate' })
    await stopped
    await this.#importer.close()
  }

  /** No more dialling, no more storing; a stream that is in its farewell may finish it. */
  async stop({ cancel }: { cancel: boolean }): Promise<void> {
    this.#closed = true
    if (cancel) this.leave()
    void this.#dialer?.stop({ cancel })
    await this.#importer.close()
  }

  /** Ends the stream, if one is up, and lets the other side know that it may come back at once. */
  leave(): void {
    this.#driver?.dispatch({ type: 'leave' })
  }

  /** Another cluster dialled us, and its stream is up. */
  get isDialled(): boolean {
    return this.#driver !== undefined && this.#dialer === undefined
  }

  get status(): SessionStatus | undefined {
    return this.#driver?.status ?? this.#last
  }

  /** What a reader sees in place of the stored state (9). Hearing nothing is not being active, from the first moment or any more. */
  stateOf(peering: Peering): PeeringState {
    if (peering.state === 'DELETING' || peering.state === 'TERMINATED' || this.#closed) return peering.state
    const driver = this.#driver
    if (!driver) return this.#last?.error ? 'FAILING' : peering.state
    if (driver.silentMs > freshnessLimits.silentMs) return 'FAILING'
    const tooSoon = this.#options.clock.monotonicMs() - this.#establishedAtMs < establishingMs
    if (driver.status.alive && !tooSoon) return 'ACTIVE'
    return this.#last?.error && !tooSoon ? 'FAILING' : peering.state
  }
}

/** Go's zero time: there is a stream, and nothing has happened on it (10). */
const zeroTime = '0001-01-01T00:00:00Z'

export function streamStatusOf(status: SessionStatus | undefined): StreamStatus {
  const names = (list: string[] | undefined) => (list === undefined || list.length === 0 ? null : list)
  const date = (ms: number | undefined, none: string | null) => (ms === undefined ? none : new Date(ms).toISOString())
  if (!status) return { importedServices: null, exportedServices: null, lastHeartbeat: null, lastReceive: null, lastSend: null }
  return {
    importedServices: names(status.importedServices),
    exportedServices: names(status.exportedServices),
    lastHeartbeat: date(status.lastHeartbeatMs, null),
    lastReceive: date(status.lastReceiveMs, zeroTime),
    lastSend: date(status.lastSendMs, zeroTime),
  }
}
