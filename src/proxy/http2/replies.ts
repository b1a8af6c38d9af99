/**
 * What this program itself answers on a stream: a text, or to a gRPC request the same as a gRPC status, trailers only (HTTP 200 with
 * grpc-status and grpc-message in its one header list), as Envoy does.
 */
import type { ServerHttp2Stream } from 'node:http2'

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

/** Sends it, with more fields (flat), and answers the HTTP status that was sent. The stream is open and nothing was sent on it. */
export function reply(stream: ServerHttp2Stream, status: number, body: string, grpc: boolean, headers: readonly string[] = []): number {
  const more: Record<string, string> = {}
  for (let i = 0; i + 1 < headers.length; i += 2) more[headers[i]!] = headers[i + 1]!
  if (grpc) {
    const message = encodeURI(body)
    stream.respond(
      { ...more, ':status': 200, 'content-type': 'application/grpc', 'grpc-status': String(grpcStatus(status)), 'grpc-message': message },
      { endStream: true },
    )
    return 200
  }
  stream.respond({ ...more, ':status': status, 'content-type': 'text/plain', 'content-length': Buffer.byteLength(body) })
  // After a HEAD, node has ended its side already.
  if (!stream.writableEnded) stream.end(body)
  return status
}
