/**
 * The gRPC service between two peered clusters, as grpc-js takes it, and the small vocabulary of its stream: type URLs, nonces and
 * the shapes of a subscription, an acknowledgement and a refusal (spec/peering-wire.md 3 and 5). Messages come from `gen`.
 */
import type { BinaryReader } from '@bufbuild/protobuf/wire'
import type { MethodDefinition } from '@grpc/grpc-js'
import { decodeBounded } from './bounded-reader.ts'
import { ExchangeSecretRequest, ExchangeSecretResponse, Operation, ReplicationMessage } from './gen/peerstream.ts'

const servicePath = '/hashicorp.consul.internal.peerstream.PeerStreamService'

/** The only four types that travel; each is both `ResourceURL` and the `type_url` of the Any beside it. */
export const typeUrls = {
  service: 'type.googleapis.com/hashicorp.consul.internal.peerstream.ExportedService',
  list: 'type.googleapis.com/hashicorp.consul.internal.peerstream.ExportedServiceList',
  bundle: 'type.googleapis.com/hashicorp.consul.internal.peering.PeeringTrustBundle',
  addresses: 'type.googleapis.com/hashicorp.consul.internal.peering.PeeringServerAddresses',
} as const
export type TypeUrl = (typeof typeUrls)[keyof typeof typeUrls]

const known = new Set<string>(Object.values(typeUrls))
export function isTypeUrl(url: string): url is TypeUrl {
  return known.has(url)
}

/** What Consul puts into `ResourceID` where the type alone says it all. */
export const resourceIds = { list: 'exported-service-list', bundle: 'roots', addresses: 'server-addrs' } as const

/** The name under which the virtual destination of a mesh service is exported (7.4). */
export const sidecarSuffix = '-sidecar-proxy'

/**
 * Bytes of a message. A real dialer takes no more than `sent`, so nobody is sent more; a real acceptor takes `received`, and so do we
 * in both roles: a peer that sends more than a real dialer would take shall not make the stream flap (5.6).
 */
export const messageLimits = { sent: 8 * 1024 * 1024, received: 50 * 1024 * 1024 } as const

export const grpcCodes = {
  ok: 0,
  cancelled: 1,
  unknown: 2,
  invalidArgument: 3,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  aborted: 10,
  internal: 13,
  unavailable: 14,
} as const

/** Numbers of one direction of one stream: eight hex digits, counted over all types (5.3). */
export function formatNonce(counter: number): string {
  return counter.toString(16).padStart(8, '0')
}

export function subscription(resourceUrl: string, peerId: string): ReplicationMessage {
  return request({ PeerID: peerId, ResourceURL: resourceUrl })
}

export function acknowledgement(resourceUrl: string, nonce: string): ReplicationMessage {
  return request({ ResponseNonce: nonce, ResourceURL: resourceUrl })
}

export function refusal(resourceUrl: string, nonce: string, code: number, message: string): ReplicationMessage {
  return request({ ResponseNonce: nonce, ResourceURL: resourceUrl, Error: { code, message, details: [] } })
}

function request(fields: RequestFields): ReplicationMessage {
  return { Payload: { $case: 'request', value: { PeerID: '', ResponseNonce: '', Error: undefined, ...fields } } }
}

interface RequestFields {
  PeerID?: string
  ResponseNonce?: string
  ResourceURL: string
  Error?: { code: number; message: string; details: [] }
}

export function upsert(resourceUrl: string, resourceId: string, nonce: string, value: Uint8Array): ReplicationMessage {
  return {
    Payload: {
      $case: 'response',
      value: {
        Nonce: nonce,
        ResourceURL: resourceUrl,
        ResourceID: resourceId,
        // The Any must be there even when its value is empty: that is how a resource is deleted (5.4).
        Resource: { typeUrl: resourceUrl, value: asBuffer(value) },
        operation: Operation.OPERATION_UPSERT,
      },
    },
  }
}

export const heartbeat: ReplicationMessage = { Payload: { $case: 'heartbeat', value: {} } }
export const terminated: ReplicationMessage = { Payload: { $case: 'terminated', value: {} } }

/** The same bytes as a Buffer, without a copy. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** An envelope has a few dozen fields; what it carries is one of them. Anybody who reaches the port may send one. */
const maxEnvelopeReads = 1000

interface Codec<T> {
  encode(message: T): { finish(): Uint8Array }
  decode(input: BinaryReader | Uint8Array): T
}

function serialize<T>(codec: Codec<T>): (message: T) => Buffer {
  return message => asBuffer(codec.encode(message).finish())
}

function method<Req, Res>(name: string, stream: boolean, request: Codec<Req>, response: Codec<Res>): MethodDefinition<Req, Res> {
  return {
    path: `${servicePath}/${name}`,
    requestStream: stream,
    responseStream: stream,
    requestSerialize: serialize(request),
    requestDeserialize: bytes => decodeBounded(request, bytes, maxEnvelopeReads),
    responseSerialize: serialize(response),
    responseDeserialize: bytes => decodeBounded(response, bytes, maxEnvelopeReads),
  }
}

/** For `Server.addService` and `Client.make*Request`. */
export const peerStreamService = {
  exchangeSecret: method('ExchangeSecret', false, ExchangeSecretRequest, ExchangeSecretResponse),
  streamResources: method('StreamResources', true, ReplicationMessage, ReplicationMessage),
} as const
