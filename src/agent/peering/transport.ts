/**
 * How a dialer reaches another cluster: the two calls of the peer stream service, over gRPC. A new connection for every call; no
 * client certificate; the server is verified by the name in the token, whatever the address (spec/peering-wire.md 2, 4). Whoever
 * dials knows only the interface, so that time and the network can be a test's.
 */
import { Client, credentials, Metadata, type ClientDuplexStream, type ServiceError } from '@grpc/grpc-js'
import type { Clock } from '../../lib/clock.ts'
import type { ExchangeSecretRequest, ReplicationMessage } from '../../wire/gen/peerstream.ts'
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

/** How a stream ended; it lived when a message had come. */
export interface StreamEnd {
  status: Status
  lived: boolean
}

export interface PeerTransport {
  /** One attempt at one address; a call that is never answered ends at the deadline (a real dialer would wait for ever). */
  exchange(
    target: Target,
    request: ExchangeSecretRequest,
    deadlineMs: number,
  ): Promise<{ ok: true; streamSecret: string } | { ok: false; status: Status }>
  /** Opens the stream, has `begin` put a session onto it and opens that; `over` is called once, when it has ended. */
  openStream(
    target: Target,
    begin: (link: Link) => StreamHandler,
    clock: Clock,
    over: (end: StreamEnd) => void,
  ): { link: Link; ended: Promise<void> }
}

/** From dialling to the first message. An acceptor subscribes at once; who is silent is no server, or one that hangs. */
const answerMs = 10_000

const { exchangeSecret, streamResources } = peerStreamService

export const grpcTransport: PeerTransport = {
  exchange(target, request, deadlineMs) {
    const client = connect(target)
    return new Promise(resolve => {
      client.makeUnaryRequest(
        exchangeSecret.path,
        exchangeSecret.requestSerialize,
        exchangeSecret.responseDeserialize,
        request,
        new Metadata(),
        { deadline: Date.now() + deadlineMs },
        (error: ServiceError | null, response) => {
          client.close()
          resolve(
            error
              ? { ok: false, status: { code: error.code, message: error.details } }
              : { ok: true, streamSecret: response!.StreamSecret },
          )
        },
      )
    })
  },

  openStream(target, begin, clock, over) {
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
  },
}

/** A client on a connection of its own. */
function connect({ address, serverName, caPems }: Target): Client {
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
