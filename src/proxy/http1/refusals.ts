/**
 * Why a message is refused: one small negative number per reason, so that a parser answers with a number and builds nothing. `status` is what a client
 * is told about its request; a response that is refused is always a 502.
 */

export interface Refusal {
  status: number
  reason: string
}

const refusals: Refusal[] = []

function refusal(status: number, reason: string): number {
  refusals.push({ status, reason })
  return -refusals.length
}

/** The reason behind a negative result of a parser. */
export function refusalOf(code: number): Refusal {
  return refusals[-code - 1]!
}

export const bad = {
  method: refusal(400, 'invalid method token'),
  target: refusal(400, 'invalid request target'),
  targetLong: refusal(414, 'request target too long'),
  requestLine: refusal(400, 'malformed request line'),
  statusLine: refusal(400, 'malformed status line'),
  version: refusal(505, 'http version not supported'),
  connect: refusal(501, 'connect is not supported'),
  name: refusal(400, 'invalid field name'),
  fold: refusal(400, 'line folding or leading space'),
  colon: refusal(400, 'space before colon'),
  value: refusal(400, 'invalid byte in field value'),
  bareCr: refusal(400, 'carriage return without line feed'),
  bareLf: refusal(400, 'line feed without carriage return'),
  headLong: refusal(431, 'head too large'),
  headCount: refusal(431, 'too many fields'),
  noHost: refusal(400, 'missing host'),
  hosts: refusal(400, 'more than one host'),
  host: refusal(400, 'invalid host'),
  hostMismatch: refusal(400, 'host differs from the request target'),
  contentLength: refusal(400, 'invalid content-length'),
  contentLengths: refusal(400, 'more than one content-length'),
  transferEncoding: refusal(501, 'transfer-encoding other than chunked'),
  transferEncodings: refusal(400, 'more than one transfer-encoding'),
  framing: refusal(400, 'both transfer-encoding and content-length'),
  oldChunked: refusal(400, 'transfer-encoding in http/1.0'),
  tab: refusal(400, 'tab beside a host or a framing value'),
  alias: refusal(400, 'underscore in a framing field'),
  connection: refusal(400, 'connection names a field that is not hop-by-hop'),
  connectionSyntax: refusal(400, 'invalid connection field'),
  expect: refusal(417, 'unknown expectation'),
  chunkSize: refusal(400, 'invalid chunk size'),
  chunkEnd: refusal(400, 'chunk data without its line end'),
  chunkExtension: refusal(400, 'invalid or oversized chunk extension'),
  trailers: refusal(400, 'invalid or oversized trailers'),
  /** Of HTTP/2, where it is told by a reset. */
  malformed: refusal(400, 'malformed message'),
} as const
