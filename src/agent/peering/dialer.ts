/**
 * The dialling end: one stream, made anew whenever it ends, at the next address each time; the wait grows with failures and starts
 * again after a stream that lived (spec/peering-wire.md 6). An address that takes the call and says nothing holds up nobody.
 */
import { Backoff } from '../../lib/backoff.ts'
import type { Clock, Timer } from '../../lib/clock.ts'
import type { Logger } from '../../lib/log.ts'
import { grpcCodes } from '../../wire/peer-stream.ts'
import type { Link, StreamHandler } from './driver.ts'
import type { Status } from './session.ts'
import type { PeerTransport, StreamEnd, Target } from './transport.ts'

export interface DialerOptions {
  transport: PeerTransport
  clock: Clock
  /** 0..1, for the jitter of the waits. */
  random: () => number
  logger: Logger
  peer: string
  /** Where to dial now, in order; asked anew for every attempt. */
  targets: () => Target[]
  /** A stream is up: takes what arrives on it. */
  begin: (link: Link) => StreamHandler
}

/** Waits after ordinary failures; after a hint to come back at once; and where the other side no longer knows us (6.5, 14). */
const waits = {
  // Whoever is away for an hour is found again within seconds of its return; a dial costs both sides next to nothing.
  ordinary: { firstMs: 300, maxMs: 3000, jitter: 0.5 },
  again: { firstMs: 8, maxMs: 8192, jitter: 0.25 },
  oversized: { firstMs: 8192, maxMs: 8192, jitter: 0.1 },
  unwanted: { firstMs: 60_000, maxMs: 300_000, jitter: 0.25 },
} as const
type WaitKind = keyof typeof waits

export class Dialer {
  readonly #options: DialerOptions
  readonly #backoffs: Record<WaitKind, Backoff>
  #attempt = 0
  /** What the attempts went round: with other addresses the first one's turn is next (6.1). */
  #ring = ''
  #timer: Timer | undefined
  #current: { link: Link; ended: Promise<void> } | undefined
  #stopped = false
  /** At first, and since a stream lived until the next failure was told. */
  #wasUp = true

  constructor(options: DialerOptions) {
    this.#options = options
    this.#backoffs = {
      ordinary: new Backoff(waits.ordinary, options.random),
      again: new Backoff(waits.again, options.random),
      oversized: new Backoff(waits.oversized, options.random),
      unwanted: new Backoff(waits.unwanted, options.random),
    }
  }

  start(): void {
    if (!this.#stopped) this.#dial()
  }

  /** Stops dialling. A stream that is up goes on until it ends; `cancel` ends it now. */
  async stop({ cancel }: { cancel: boolean }): Promise<void> {
    this.#stopped = true
    this.#timer?.cancel()
    if (cancel) this.#current?.link.close({ code: grpcCodes.cancelled, message: 'the dialer stops' })
    await this.#current?.ended
  }

  #dial(): void {
    const targets = this.#options.targets()
    const ring = targets.map(each => each.address).join(' ')
    if (ring !== this.#ring) this.#attempt = 0
    this.#ring = ring
    const target = targets[this.#attempt % Math.max(1, targets.length)]
    this.#attempt += 1
    if (!target) {
      this.#options.logger.warn({ peer: this.#options.peer }, 'peer has no address to dial')
      this.#again('ordinary')
      return
    }
    const { transport, begin, clock } = this.#options
    this.#current = transport.openStream(target, begin, clock, end => this.#over(target, end))
  }

  #over(target: Target, end: StreamEnd): void {
    this.#current = undefined
    if (end.lived) for (const backoff of Object.values(this.#backoffs)) backoff.reset()
    if (this.#stopped) return
    const { logger, peer } = this.#options
    // Of a peer that stays away once is enough.
    const level = end.lived || this.#wasUp ? 'info' : 'debug'
    this.#wasUp = end.lived
    logger[level]({ peer, address: target.address, code: end.status.code, error: end.status.message }, 'stream to peer ended')
    this.#again(waitKind(end.status))
  }

  #again(kind: WaitKind): void {
    if (this.#stopped) return
    this.#timer = this.#options.clock.after(this.#backoffs[kind].nextMs(), () => this.#dial())
  }
}

function waitKind({ code, message }: Status): WaitKind {
  if (code === grpcCodes.failedPrecondition) return 'again'
  if (code === grpcCodes.resourceExhausted) return 'oversized'
  // The other side deleted the peering, or has forgotten it: it will not change its mind soon.
  if (code === grpcCodes.aborted || (code === grpcCodes.invalidArgument && message.includes('unknown PeerID'))) return 'unwanted'
  return 'ordinary'
}
