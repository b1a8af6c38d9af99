/** A bare gRPC client for tests of the door: one call, and everything that came back on it. */
import { connect as tlsConnect } from 'node:tls'
import { Client, credentials, Metadata, status, type ClientDuplexStream, type ServiceError } from '@grpc/grpc-js'
import type { ExchangeSecretRequest, ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { peerStreamService } from '../../../src/wire/peer-stream.ts'

const { exchangeSecret, streamResources } = peerStreamService

export class Caller {
  readonly client: Client

  /** Without roots: plaintext. */
  constructor(port: number, tls?: { roots: string[]; serverName: string }) {
    this.client = tls
      ? new Client(`127.0.0.1:${port}`, credentials.createSsl(Buffer.from(tls.roots.join('\n'))), {
          'grpc.ssl_target_name_override': tls.serverName,
          'grpc.use_local_subchannel_pool': 1,
        })
      : new Client(`127.0.0.1:${port}`, credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 })
  }

  exchange(request: ExchangeSecretRequest): Promise<{ secret: string } | { code: status; details: string }> {
    return new Promise(resolve => {
      const answer = (error: ServiceError | null, response?: { StreamSecret: string }) =>
        resolve(error ? { code: error.code, details: error.details } : { secret: response!.StreamSecret })
      this.client.makeUnaryRequest(
        exchangeSecret.path,
        exchangeSecret.requestSerialize,
        exchangeSecret.responseDeserialize,
        request,
        new Metadata(),
        answer,
      )
    })
  }

  stream(...messages: ReplicationMessage[]): CallerStream {
    const call = this.client.makeBidiStreamRequest(
      streamResources.path,
      streamResources.requestSerialize,
      streamResources.responseDeserialize,
      new Metadata(),
    )
    return new CallerStream(call, messages)
  }

  /** The status of a call of another method. */
  other(path: string): Promise<status> {
    const raw = (bytes: Buffer) => bytes
    return new Promise(resolve => {
      this.client.makeUnaryRequest(path, raw, raw, Buffer.alloc(0), new Metadata(), error => resolve(error?.code ?? status.OK))
    })
  }

  close(): void {
    this.client.close()
  }
}

export class CallerStream {
  readonly call: ClientDuplexStream<ReplicationMessage, ReplicationMessage>
  readonly received: ReplicationMessage[] = []
  readonly ended: Promise<{ code: status; message: string }>
  over = false

  constructor(call: ClientDuplexStream<ReplicationMessage, ReplicationMessage>, messages: ReplicationMessage[]) {
    this.call = call
    call.on('data', (message: ReplicationMessage) => this.received.push(message))
    call.on('error', () => undefined)
    this.ended = new Promise(resolve => {
      call.on('status', ({ code, details }) => {
        this.over = true
        resolve({ code, message: details })
      })
    })
    for (const message of messages) call.write(message)
  }
}

/** What a TLS handshake with this door negotiates. */
export function handshake(
  port: number,
  options: { servername: string; ca: string[]; ALPNProtocols?: string[] },
): Promise<{ alpn: string | false | null; subjectAltName: string | undefined; fingerprint: string }> {
  return new Promise((resolve, reject) => {
    const socket = tlsConnect({ host: '127.0.0.1', port, ...options }, () => {
      const certificate = socket.getPeerCertificate()
      resolve({ alpn: socket.alpnProtocol, subjectAltName: certificate.subjectaltname, fingerprint: certificate.fingerprint256 })
      socket.destroy()
    })
    socket.on('error', reject)
  })
}
