/**
 * The dialling end: one stream, made anew whenever it ends. A new connection for every attempt, the next address each time; the
 * wait grows with failures and starts again after a stream that lived (spec/peering-wire.md 2, 4, 6). No client certificate; the
 * server is verified by the name in the token, whatever the address. An address that takes the call and says nothing holds up nobody.
 */
import { Client, credentials, Metadata, type ClientDuplexStream } from '@grpc/grpc-js'
import { Backoff } from '../../lib/backoff.ts'
import type { Clock, Timer } from '../../lib/clock.ts'
import type { Logger } from '../../lib/log.ts'
import type { ReplicationMessage } from '../../wire/gen/peerstream.ts'
import { grpcCodes, messageLimits, peerStreamService } from '../../wire/peer-stream.ts'
import type { Link, StreamHandler } from './driver.ts'
import type { Status } from './session.ts'

export interface Target {
  address: string
  /** SNI, and the name that the certificate must carry. */
  serverName: string
  /** Empty: plaintext. */
  caPems: readonly string[]
}

/** A client on a connection of its own. */
export function connect({ address, serverName, caPems }: Target): Client {
  const secure = caPems.length > 0
  return new Client(address, secure ? credentials.createSsl(Buffer.from(caPems.join('\n'))) : credentials.createInsecure(), {
    ...(secure && { 'grpc.ssl_target_name_override': serverName }),
    ...(serverName !== '' && { 'grpc.default_authority': serverName }),
    'grpc.max_receive_message_length': messageLimits.received,
    'grpc.max_send_message_length': messageLimits.sent,
    // Servers punish clients that ping more often than every 15 s (2).
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.keepalive_permit_without_calls': 1,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_retries': 0,
    'grpc.enable_channelz': 0,
    'grpc.enable_http_proxy': 0,
    'grpc.service_config_disable_resolution': 1,
  })
}

const { streamResources } = peerStreamService

export interface DialerOptions {
  clock: Clock
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

/** From dialling to the first message. An acceptor subscribes at once; who is silent is no server, or one that hangs. */
const answerMs = 10_000

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
      ordinary: new Backoff(waits.ordinary),
      again: new Backoff(waits.again),
      oversized: new Backoff(waits.oversized),
      unwanted: new Backoff(waits.unwanted),
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
    const { begin, clock } = this.#options
    const { link, ended } = openStream(target, begin, clock, failure => this.#over(target, failure))
    this.#current = { link, ended }
  }

  #over(target: Target, end: { status: Status; lived: boolean }): void {
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

function openStream(
  target: Target,
  begin: (link: Link) => StreamHandler,
  clock: Clock,
  over: (end: { status: Status; lived: boolean }) => void,
): { link: Link; ended: Promise<void> } {
  const client = connect(target)
  const call: ClientDuplexStream<ReplicationMessage, ReplicationMessage> = client.makeBidiStreamRequest(
    streamResources.path,
    streamResources.requestSerialize,
    streamResources.responseDeserialize,
    new Metadata(),
    {},
  )
  let lived = false
  let finished = false
  let silent = false
  const patience = clock.after(answerMs, () => {
    silent = true
    call.cancel()
  })
  const link: Link = {
    send: (message, taken) => {
      if (!finished && !call.writableEnded) call.write(message, () => taken())
    },
    halfClose: () => void call.end(),
    close: () => call.cancel(),
    pause: () => void call.pause(),
    resume: () => void call.resume(),
  }
  const handler = begin(link)
  const ended = new Promise<void>(resolve => {
    call.on('data', (message: ReplicationMessage) => {
      lived = true
      patience.cancel()
      handler.receive(message)
    })
    // Every call ends with exactly one status; 'error' repeats a bad one and must have a listener.
    call.on('error', () => undefined)
    call.on('status', ({ code, details }) => {
      finished = true
      patience.cancel()
      client.close()
      const status: Status = silent
        ? { code: grpcCodes.unavailable, message: `no answer within ${answerMs / 1000} s` }
        : { code, message: details }
      handler.ended(status.code === grpcCodes.ok ? undefined : status)
      resolve()
      over({ status, lived })
    })
  })
  handler.open()
  return { link, ended }
}
