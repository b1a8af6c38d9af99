/**
 * What this program itself answers on a stream: a text, or to a gRPC request the same as a gRPC status, trailers only (HTTP 200 with
 * grpc-status and grpc-message in its one header list), as Envoy does.
 */
import type { RequestFields } from './fields.ts'
import type { Http2Stream } from './wire/stream.ts'

/** The HTTP status that a refusal would have, as a gRPC status (gRPC's http-grpc-status-mapping). */
function grpcStatus(status: number): number {
  switch (status) {
    case 400:
      return 13
    case 401:
      return 16
    case 403:
      return 7
    case 404:
      return 12
    case 429:
    case 502:
    case 503:
    case 504:
      return 14
    default:
      return 2
  }
}

/** Sends it, with more fields (flat), and answers the HTTP status that was sent. No header list but interim ones was sent on the stream. */
export function reply(stream: Http2Stream, request: RequestFields, status: number, body: string, headers: readonly string[] = []): number {
  if (request.grpc) {
    const message = encodeURI(body)
    const fields = ['content-type', 'application/grpc', 'grpc-status', String(grpcStatus(status)), 'grpc-message', message]
    stream.sendHeaders([':status', '200', ...fields, ...headers], undefined, true)
    return 200
  }
  const bytes = Buffer.from(body)
  const fields = ['content-type', 'text/plain', 'content-length', String(bytes.length)]
  const bodiless = request.method === 'HEAD'
  stream.sendHeaders([':status', String(status), ...fields, ...headers], undefined, bodiless)
  if (!bodiless) stream.sendData(bytes, true)
  return status
}
