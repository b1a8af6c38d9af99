/**
 * The gRPC door: the peering streams of other clusters, and nothing else. TLS is ours (node:tls) and its sockets are handed to
 * grpc-js, so that a renewed certificate serves the next handshake while streams go on, and so that clients are served with and
 * without ALPN: real Consuls offer h2, older stacks offer nothing (spec/peering-wire.md 2). No client certificate is asked for.
 */
import { once } from 'node:events'
import { createServer as createTcpServer, type AddressInfo, type Server as TcpServer, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import { Server, ServerCredentials } from '@grpc/grpc-js'
import { systemClock, type Clock, type Timer } from '../../lib/clock.ts'
import { MeshError, messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import { messageLimits, peerStreamService } from '../../wire/peer-stream.ts'
import type { CertificateAuthority } from '../ca/authority.ts'
import type { Peerings } from '../peering/peerings.ts'

export interface GrpcDoorOptions {
  address: string
  /** TLS port; 0 picks one. */
  port: number
  /** Also serve in plaintext here; port 0 picks one. */
  plaintext?: { host: string; port: number }
  ca: Pick<CertificateAuthority, 'issueServerCertificate' | 'onRootsChanged'>
  peerings: Pick<Peerings, 'handlers' | 'release'>
  logger: Logger
  clock?: Clock
}

export interface GrpcDoor {
  port: number
  plaintextPort?: number
  close(): Promise<void>
}

/** A connection that has not finished its handshake by then, or that speaks no HTTP/2, is dropped. */
const handshakeTimeoutMs = 10_000
/** A dialer needs one connection and one stream; what strangers may make us buffer is bounded by the product of both. */
const maxConnections = 512
const maxStreams = 4
/** A connection on which nobody calls anything is let go; real dialers open one for each call. */
const maxIdleMs = 10_000
/** For the status of streams that end because the door closes. */
const lastWordsMs = 30
/** Asking the CA again after a failure. */
const retryMs = 5000

export async function startGrpcDoor(options: GrpcDoorOptions): Promise<GrpcDoor> {
  const { address, port, plaintext, ca, peerings, logger, clock = systemClock } = options
  const grpc = new Server({
    'grpc.max_receive_message_length': messageLimits.received,
    // Sessions check before they send.
    'grpc.max_send_message_length': messageLimits.sent,
    'grpc.max_concurrent_streams': maxStreams,
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 20_000,
    'grpc.max_connection_idle_ms': maxIdleMs,
    'grpc.enable_channelz': 0,
  })
  grpc.addService(peerStreamService, { ...peerings.handlers })
  // TLS is terminated before the sockets come here; to grpc-js they are plain.
  const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure())
  const sockets = new Set<Socket>()

  const first = await ca.issueServerCertificate()
  const tls = createTlsServer({
    key: first.privateKeyPem,
    cert: first.certPem,
    ALPNProtocols: ['h2'],
    minVersion: 'TLSv1.2',
    handshakeTimeout: handshakeTimeoutMs,
  })
  tls.on('secureConnection', (socket: TLSSocket) => {
    // node:http2 serves a TLS socket only when h2 was negotiated; a client that offers no ALPN speaks it by prior knowledge.
    socket.alpnProtocol = 'h2'
    injector.injectConnection(socket)
  })
  tls.on('tlsClientError', error => logger.debug({ error: messageOf(error) }, 'grpc handshake failed'))
  const rotation = keepCertificateFresh(
    ca,
    first,
    next => tls.setSecureContext({ key: next.privateKeyPem, cert: next.certPem }),
    clock,
    logger,
  )

  const plain = plaintext && createTcpServer(socket => injector.injectConnection(socket))
  const doors: TcpServer[] = plain ? [tls, plain] : [tls]
  for (const door of doors) {
    door.maxConnections = maxConnections
    door.on('connection', (socket: Socket) => {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
      // A socket may break at any moment, also before anybody else listens.
      socket.on('error', () => undefined)
    })
  }
  const close = async () => {
    rotation.close()
    if (peerings.release()) await new Promise(resolve => setTimeout(resolve, lastWordsMs))
    injector.destroy()
    const closed = doors.map(door => new Promise(resolve => door.close(resolve)))
    grpc.forceShutdown()
    for (const socket of sockets) socket.destroy()
    await Promise.all(closed)
  }
  try {
    const boundPort = await listen(tls, address, port, 'grpc_tls')
    const plaintextPort = plain && (await listen(plain, plaintext.host, plaintext.port, 'grpc'))
    logger.debug({ address, port: boundPort, plaintextPort }, 'grpc door is open')
    return { port: boundPort, ...(plaintextPort !== undefined && { plaintextPort }), close }
  } catch (error) {
    // What is open would keep the process from ending.
    await close()
    throw error
  }
}

async function listen(server: TcpServer, host: string, port: number, key: string): Promise<number> {
  server.listen(port, host)
  await once(server, 'listening').catch((error: unknown) => {
    throw new MeshError(
      'unavailable',
      `cannot listen for gRPC on ${host}:${port}: ${messageOf(error)}; stop what uses it, or set ports.${key}`,
      { cause: error },
    )
  })
  return (server.address() as AddressInfo).port
}

interface ServerCertificate {
  certPem: string
  privateKeyPem: string
  validAfterMs: number
  validBeforeMs: number
}

/** Asks for a new certificate when the roots change and when two thirds of the life of this one have passed. */
function keepCertificateFresh(
  ca: GrpcDoorOptions['ca'],
  first: ServerCertificate,
  use: (certificate: ServerCertificate) => void,
  clock: Clock,
  logger: Logger,
): { close(): void } {
  let timer: Timer | undefined
  let closed = false
  const schedule = ({ validAfterMs, validBeforeMs }: ServerCertificate) => {
    const dueMs = validAfterMs + ((validBeforeMs - validAfterMs) * 2) / 3
    timer = clock.after(Math.max(retryMs, dueMs - clock.nowMs()), renew)
  }
  const renew = (): void => {
    timer?.cancel()
    if (closed) return
    ca.issueServerCertificate().then(
      certificate => {
        if (closed) return
        use(certificate)
        schedule(certificate)
      },
      (error: unknown) => {
        logger.error({ error: messageOf(error) }, 'no new certificate for the grpc door; the old one stays')
        if (!closed) timer = clock.after(retryMs, renew)
      },
    )
  }
  schedule(first)
  const roots = ca.onRootsChanged(renew)
  return {
    close() {
      closed = true
      timer?.cancel()
      roots.close()
    },
  }
}
