/**
 * The accepting end: judges a secret or an Open and answers with the codes and words of a real acceptor (spec/peering-wire.md 4,
 * 5.2). A stream that is refused leaves no trace on the one that runs, and refusals cost little: dialers of deleted peerings keep
 * coming for ever (6.5).
 */
import { Metadata, status, type ServerDuplexStream, type ServerUnaryCall, type sendUnaryData } from '@grpc/grpc-js'
import type { Clock } from '../../lib/clock.ts'
import type { Logger } from '../../lib/log.ts'
import { messageOf } from '../../lib/errors.ts'
import type { Peering } from '../../mesh/peering.ts'
import type {
  ExchangeSecretRequest,
  ExchangeSecretResponse,
  ReplicationMessage,
  ReplicationMessage_Open,
} from '../../wire/gen/peerstream.ts'
import { isMarked } from '../../wire/freshness.ts'
import { grpcCodes, terminated } from '../../wire/peer-stream.ts'
import type { Link, StreamHandler } from './driver.ts'
import type { PeeringRecords } from './records.ts'
import type { Tables } from '../catalog/tables.ts'
import { authorize, exchange, newSecret } from './secrets.ts'
import type { Status } from './session.ts'

export type StreamCall = ServerDuplexStream<ReplicationMessage, ReplicationMessage>

export interface PeerStreamHandlers {
  exchangeSecret(call: ServerUnaryCall<ExchangeSecretRequest, ExchangeSecretResponse>, answer: sendUnaryData<ExchangeSecretResponse>): void
  streamResources(call: StreamCall): void
}

export interface AcceptorOptions {
  tables: Tables
  records: PeeringRecords
  clock: Clock
  logger: Logger
  /** False while the certificate authority has no root. */
  ready: () => boolean
  /** A stream of this peering is running and shows signs of life. */
  isBusy: (peeringId: string) => boolean
  /** Takes over an Open that was found good; `anew` when it is the first after a token was spent. */
  begin: (peering: Peering, link: Link, anew: boolean) => StreamHandler
}

/** Of a unary call. */
interface ServiceRefusal {
  code: status
  details: string
}

/** `terminated`: the dialer is told first that its peering is gone. */
type Refusal = Status & { terminated?: boolean }
type Judgement = { peering: Peering; anew: boolean } | Refusal

/** The first message must come; a real acceptor would hold the call for ever. */
const openTimeoutMs = 30_000

export class Acceptor implements PeerStreamHandlers {
  readonly #options: AcceptorOptions

  constructor(options: AcceptorOptions) {
    this.#options = options
  }

  readonly exchangeSecret = (
    call: ServerUnaryCall<ExchangeSecretRequest, ExchangeSecretResponse>,
    answer: sendUnaryData<ExchangeSecretResponse>,
  ): void => {
    this.#exchange(call.request).then(
      result => ('StreamSecret' in result ? answer(null, result) : answer(result)),
      (error: unknown) => answer({ code: status.INTERNAL, details: messageOf(error) }),
    )
  }

  readonly streamResources = (call: StreamCall): void => {
    const stream = new AcceptedStream(call)
    const timer = this.#options.clock.after(openTimeoutMs, () =>
      stream.close(invalid('first message when initiating a peering must be: Open')),
    )
    stream.first(message => {
      timer.cancel()
      if (!message) return
      this.#open(message, stream).catch((error: unknown) => {
        this.#options.logger.error({ error: messageOf(error) }, 'opening a peering stream failed')
        stream.close({ code: grpcCodes.internal, message: 'failed to open the peering stream' })
      })
    })
  }

  async #exchange({
    PeerID: peerId,
    EstablishmentSecret: secret,
  }: ExchangeSecretRequest): Promise<ExchangeSecretResponse | ServiceRefusal> {
    const refused = { code: status.PERMISSION_DENIED, details: 'invalid peering establishment secret' }
    if (!isUuid(peerId)) return { code: status.INTERNAL, details: `failed to read peering secret: ${uuidError}` }
    const peering = this.#options.tables.peeringById(peerId)
    // Without secrets, and of the wrong end, everything is a wrong secret: an answer tells nothing about what there is.
    if (!peering || peering.state === 'TERMINATED' || peering.state === 'DELETING') return refused
    const { secrets, modRevision } = await this.#options.records.secrets(peerId)
    const streamSecret = newSecret()
    const next = secrets?.role === 'acceptor' ? exchange(secrets, secret, streamSecret) : undefined
    // Of two that spend the same secret at once only one succeeds.
    if (!next || !(await this.#options.records.swapSecrets(peerId, next, modRevision))) return refused
    return { StreamSecret: streamSecret }
  }

  async #open(message: ReplicationMessage, stream: AcceptedStream): Promise<void> {
    const { ready, begin, isBusy, logger, tables } = this.#options
    if (!ready()) {
      stream.close({ code: grpcCodes.unavailable, message: 'Connect CA is not yet initialized' })
      return
    }
    const payload = message.Payload
    const judgement: Judgement =
      payload?.$case === 'open' ? await this.#judge(payload.value) : invalid('first message when initiating a peering must be: Open')
    if ('code' in judgement) {
      logger.debug({ code: judgement.code, error: judgement.message }, 'refused a peering stream')
      if (judgement.terminated) stream.send(terminated, () => undefined)
      stream.close(judgement)
      return
    }
    const { peering, anew } = judgement
    // Whoever spent the newest token is the peer from now on; a stream of who was it before ends.
    if (!anew && isBusy(peering.id)) {
      const text = `failed to register stream: there is an active stream for the given PeerID "${peering.id}"`
      stream.close({ code: grpcCodes.unknown, message: text })
      return
    }
    // While its secret was being read the peering may have been deleted, or the dialer may have gone.
    const { state } = tables.peeringById(peering.id) ?? { state: 'DELETING' }
    if (state === 'DELETING' || state === 'TERMINATED') stream.close(deleted(peering.id))
    if (stream.finished) return
    const handler = begin(peering, stream, anew)
    handler.open(payload?.$case === 'open' && isMarked(payload.value))
    stream.serve(handler)
  }

  /** In the order of a real acceptor's checks. */
  async #judge(open: ReplicationMessage_Open): Promise<Judgement> {
    const { PeerID: id, StreamSecretID: secret } = open
    if (id === '') return invalid('initial subscription request must specify a PeerID')
    if (!isUuid(id)) return { code: grpcCodes.internal, message: `failed to find PeerID: ${id.slice(0, 256)}` }
    const peering = this.#options.tables.peeringById(id)
    if (!peering) return invalid(`initial subscription for unknown PeerID: ${id}`)
    if (peering.peerId !== undefined && peering.peerId !== '') {
      return invalid('expected PeerID to be empty; the wrong end of peering is being dialed')
    }
    if (peering.state === 'TERMINATED' || peering.state === 'DELETING') {
      return { ...deleted(id), terminated: peering.state === 'DELETING' }
    }
    const { secrets, modRevision } = await this.#options.records.secrets(id)
    if (secrets?.role !== 'acceptor') {
      return { code: grpcCodes.internal, message: 'unable to authorize connection, peering must be re-established' }
    }
    const authorized = authorize(secrets, secret)
    if (!authorized) return { code: grpcCodes.permissionDenied, message: 'invalid peering stream secret' }
    if (!authorized.promoted) return { peering, anew: false }
    // Only this Open tells where the peer is; later ones do not change it (5.1).
    const next = { ...peering, remote: remoteOf(open) }
    const stored = await this.#options.records.swapSecrets(id, authorized.secrets, modRevision, { from: peering, to: next })
    return stored
      ? { peering: next, anew: true }
      : { code: grpcCodes.unavailable, message: 'the secrets of this peering are being changed; try again' }
  }
}

function invalid(message: string): Status {
  return { code: grpcCodes.invalidArgument, message }
}

function deleted(id: string): Status {
  return { code: grpcCodes.aborted, message: `peering is marked as deleted: ${id}` }
}

const uuidError = 'index error: UUID must be 36 characters'

function isUuid(text: string): boolean {
  return /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)
}

function remoteOf({ Remote: remote }: ReplicationMessage_Open): Peering['remote'] {
  const locality = remote?.Locality
  return {
    partition: remote?.Partition ?? '',
    datacenter: remote?.Datacenter ?? '',
    ...(locality && { locality: { region: locality.Region, zone: locality.Zone } }),
  }
}

/** The server's end of a call as a Link. Ends once, whoever ends it. */
class AcceptedStream implements Link {
  readonly #call: StreamCall
  #handler: StreamHandler | undefined
  /** What arrived between Open and its judgement. */
  readonly #early: ReplicationMessage[] = []
  #onFirst: ((message: ReplicationMessage | undefined) => void) | undefined
  #remoteEnd: { error: Status | undefined } | undefined
  finished = false

  constructor(call: StreamCall) {
    this.#call = call
  }

  /** The first message, or undefined when none came. */
  first(onFirst: (message: ReplicationMessage | undefined) => void): void {
    this.#onFirst = onFirst
    const call = this.#call
    call.on('data', (message: ReplicationMessage) => this.#take(message))
    call.on('end', () => this.#ended(undefined))
    call.on('cancelled', () => this.#ended({ code: grpcCodes.cancelled, message: 'context canceled' }))
    call.on('error', (error: Partial<Status & { details: string }>) =>
      this.#ended({ code: error.code ?? grpcCodes.unknown, message: error.details ?? 'stream error' }),
    )
  }

  serve(handler: StreamHandler): void {
    this.#handler = handler
    for (const message of this.#early.splice(0)) handler.receive(message)
    this.#call.resume()
    if (this.#remoteEnd) handler.ended(this.#remoteEnd.error)
  }

  send(message: ReplicationMessage, taken: () => void): void {
    if (!this.finished) this.#call.write(message, () => taken())
  }

  /** A server ends its half with the status only. */
  halfClose(): void {}

  close({ code, message }: Status): void {
    if (this.finished) return
    this.finished = true
    if (code === grpcCodes.ok) this.#call.end()
    else this.#call.emit('error', { code, details: message, metadata: new Metadata() })
  }

  pause(): void {
    this.#call.pause()
  }

  resume(): void {
    this.#call.resume()
  }

  #take(message: ReplicationMessage): void {
    if (this.#handler) this.#handler.receive(message)
    else if (this.#onFirst) {
      const onFirst = this.#onFirst
      this.#onFirst = undefined
      // Until the Open is judged nothing more is read.
      this.#call.pause()
      onFirst(message)
    } else this.#early.push(message)
  }

  #ended(error: Status | undefined): void {
    if (this.finished || this.#remoteEnd) return
    this.#remoteEnd = { error }
    if (this.#handler) this.#handler.ended(error)
    else if (this.#onFirst) {
      this.#onFirst(undefined)
      this.close(invalid('first message when initiating a peering must be: Open'))
    }
  }
}
