/**
 * Carries one session: moves messages between its state machine and a gRPC stream, sets its timer, and has what it imports stored
 * and what it exports computed. It decides nothing. Reading pauses while more waits than may wait, so that a peer that sends
 * faster than we store, or does not read our answers, is held back by flow control instead of filling memory.
 */
import type { Clock, Timer } from '../../lib/clock.ts'
import { messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import type { ReplicationMessage } from '../../wire/gen/peerstream.ts'
import { readHeartbeat } from '../../wire/freshness.ts'
import { grpcCodes } from '../../wire/peer-stream.ts'
import type { Changed, Tables } from '../catalog/tables.ts'
import type { Exporter } from './exporter.ts'
import type { Importer } from './importer.ts'
import { intakeSize } from './intake.ts'
import type { Offer } from './offer.ts'
import { newSession, nextTickMs, step, type Effect, type Event, type Identity, type SessionStatus, type Status } from './session.ts'

/** The gRPC stream under a session, the same for both ends. */
export interface Link {
  /** `taken` is called once the transport has it, or never. */
  send(message: ReplicationMessage, taken: () => void): void
  halfClose(): void
  close(status: Status): void
  pause(): void
  resume(): void
}

/** What the session's side of a stream takes from the transport. */
export interface StreamHandler {
  /** `marked`: what was accepted is an Open with the mark of wire/freshness.ts. */
  open(marked?: boolean): void
  receive(message: ReplicationMessage): void
  ended(error: Status | undefined): void
}

export interface DriverOptions {
  identity: Identity
  link: Link
  tables: Tables
  exporter: Exporter
  importer: Importer
  clock: Clock
  logger: Logger
  /** What an earlier stream of this peering left to tell. */
  previous?: SessionStatus
  /** The other side deleted the peering. */
  onTerminated: () => void
  /** Called once, after the last effect. */
  onClosed: (status: SessionStatus) => void
}

/** Beyond this many things, or bytes, that wait for the store or for the transport, reading pauses. */
const maxWaiting = 256
const maxWaitingBytes = 16 * 1024 * 1024
/** It looks at everything that was imported. */
const auditSpacingMs = 500
/** Lines of the log that one stream may cause in a while: a peer that lies in every message must not fill a disk. */
const maxNotices = 20
const noticeWindowMs = 10_000

export class SessionDriver {
  readonly #options: DriverOptions
  #state: ReturnType<typeof newSession>
  #timer: Timer | undefined
  #subscription: { close(): void } | undefined
  /** Of the last reading, and those on which the subscription waits. */
  #topics: readonly string[] = []
  #waitedOn: readonly string[] = []
  #offered: Offer | undefined
  readonly #events: Event[] = []
  #stepping = false
  #untaken = 0
  #paused = false
  #lastHeardMs: number
  #auditedMs = -Infinity
  #notices = { sinceMs: -Infinity, count: 0 }

  constructor(options: DriverOptions) {
    this.#options = options
    this.#state = newSession(options.identity, this.#now(), options.previous)
    this.#lastHeardMs = options.clock.monotonicMs()
  }

  get status(): SessionStatus {
    return this.#state.status
  }

  /** How long nothing at all has come from the other side. */
  get silentMs(): number {
    return this.#options.clock.monotonicMs() - this.#lastHeardMs
  }

  /** Begins; `link` is up. */
  open(marked = false): void {
    this.dispatch({ type: 'opened', marked })
    this.#offer()
    this.#subscription = this.#options.tables.subscribe(
      () => (this.#waitedOn = this.#topics),
      changed => this.#offer(changed),
    )
  }

  receive(message: ReplicationMessage): void {
    this.#lastHeardMs = this.#options.clock.monotonicMs()
    if (readHeartbeat(message)?.digest) this.#audit()
    this.dispatch({ type: 'message', message })
  }

  /** A digest is compared with what is in the store, not with what was put there; of a peer that sends many, now and then. */
  #audit(): void {
    const { clock, importer } = this.#options
    if (clock.monotonicMs() - this.#auditedMs < auditSpacingMs) return
    this.#auditedMs = clock.monotonicMs()
    this.dispatch({ type: 'audited', ...importer.audit() })
  }

  dispatch(event: Event): void {
    this.#events.push(event)
    if (this.#stepping) return
    this.#stepping = true
    try {
      for (let next = this.#events.shift(); next; next = this.#events.shift()) {
        const [state, effects] = step(this.#state, next, this.#now())
        this.#state = state
        for (const effect of effects) this.#carryOut(effect)
      }
    } catch (error) {
      this.#fail(error)
    } finally {
      this.#stepping = false
    }
    if (this.#state.phase === 'closed') this.#timer?.cancel()
    else this.#settle()
  }

  /** A mistake of ours costs this stream, never the process. */
  #fail(error: unknown): void {
    const { logger, identity, link } = this.#options
    logger.error({ peer: identity.peerName, error: messageOf(error) }, 'a peering session failed')
    this.#events.length = 0
    const [state, effects] = step(this.#state, { type: 'leave' }, this.#now())
    this.#state = state
    if (effects.length > 0) this.#finish({ code: grpcCodes.internal, message: 'internal error' })
    else link.close({ code: grpcCodes.internal, message: 'internal error' })
  }

  #finish(status: Status): void {
    this.#subscription?.close()
    this.#timer?.cancel()
    this.#options.link.close(status)
    this.#options.onClosed(this.#state.status)
  }

  #carryOut(effect: Effect): void {
    const { link, importer, identity } = this.#options
    switch (effect.type) {
      case 'send':
        this.#untaken += 1
        link.send(effect.message, () => this.#taken())
        break
      case 'store':
        void importer.apply(effect.change).then(error => this.dispatch({ type: 'stored', ticket: effect.ticket, error }))
        break
      case 'look':
        this.#look().catch(error => this.#fail(error))
        break
      case 'terminated':
        this.#options.onTerminated()
        break
      case 'half-close':
        link.halfClose()
        break
      case 'close':
        this.#finish(effect.status)
        break
      case 'notice':
        this.#notice({ peer: identity.peerName, ...effect.fields }, effect.message)
        break
    }
  }

  #notice(fields: Record<string, unknown>, message: string): void {
    const { clock, logger } = this.#options
    const nowMs = clock.monotonicMs()
    if (nowMs - this.#notices.sinceMs >= noticeWindowMs) {
      const unsaid = this.#notices.count - maxNotices
      if (unsaid > 0) logger.warn({ peer: fields['peer'], lines: unsaid }, 'more was refused than is logged')
      this.#notices = { sinceMs: nowMs, count: 0 }
    }
    this.#notices.count += 1
    if (this.#notices.count <= maxNotices) logger.warn(fields, message)
  }

  #taken(): void {
    this.#untaken -= 1
    if (this.#untaken === 0) this.dispatch({ type: 'drained' })
    else this.#settle()
  }

  #offer(changed?: Changed): void {
    try {
      const { offer, topics } = this.#options.exporter.read(this.#offered && { changed, waitedOn: this.#waitedOn, offer: this.#offered })
      this.#topics = topics
      this.#offered = offer
      this.dispatch({ type: 'offer', offer })
    } catch (error) {
      this.#fail(error)
    }
  }

  /** Reads the offer from tables that have caught up with the store. */
  async #look(): Promise<void> {
    const { tables, exporter } = this.#options
    await tables.current()
    if (this.#state.phase === 'closed') return
    const { offer, topics } = exporter.read()
    this.#topics = topics
    this.#offered = offer
    this.dispatch({ type: 'looked', offer })
  }

  /** Sets the timer and the tap to what the state asks for. */
  #settle(): void {
    const { clock, link } = this.#options
    this.#timer?.cancel()
    const due = nextTickMs(this.#state)
    if (due !== Infinity) this.#timer = clock.after(Math.max(0, due - clock.monotonicMs()), () => this.dispatch({ type: 'tick' }))
    const { items, bytes } = intakeSize(this.#state.intake)
    const full = items > maxWaiting || bytes > maxWaitingBytes || this.#untaken > maxWaiting
    if (full === this.#paused) return
    this.#paused = full
    if (full) link.pause()
    else link.resume()
  }

  #now(): { monoMs: number; wallMs: number } {
    return { monoMs: this.#options.clock.monotonicMs(), wallMs: this.#options.clock.nowMs() }
  }
}
