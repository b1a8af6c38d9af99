/** Frames of HTTP/2 (RFC 9113 4 and 6): a header of nine bytes, big endian, and the payload behind it. Pure: nothing here knows a session. */
import { writeUint32 } from '../../../lib/uint32.ts'

export const headerBytes = 9

export const frame = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const

/** `ack` is `endStream` of SETTINGS and PING. */
export const flag = { ack: 1, endStream: 1, endHeaders: 4, padded: 8, priority: 32 } as const

export const setting = {
  headerTableSize: 1,
  enablePush: 2,
  maxConcurrentStreams: 3,
  initialWindowSize: 4,
  maxFrameSize: 5,
  maxHeaderListSize: 6,
} as const

/** Error codes (RFC 9113 7). */
export const errorCode = {
  noError: 0,
  protocolError: 1,
  internalError: 2,
  flowControlError: 3,
  streamClosed: 5,
  frameSizeError: 6,
  refusedStream: 7,
  cancel: 8,
  compressionError: 9,
  enhanceYourCalm: 11,
  inadequateSecurity: 12,
  http11Required: 13,
} as const

export const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1')

/** What both sides start with. */
export const initialWindow = 65_535
/** The longest payload that everybody takes; we send no longer ones, and ask for none. */
export const minFrameSize = 16_384
export const maxFrameSize = 2 ** 24 - 1
/** The greatest stream identifier, and the greatest window. */
export const max31 = 2 ** 31 - 1

export function writeHeader(into: Buffer, at: number, length: number, type: number, flags: number, streamId: number): void {
  into[at] = length >>> 16
  into[at + 1] = length >>> 8
  into[at + 2] = length
  into[at + 3] = type
  into[at + 4] = flags
  writeUint32(into, at + 5, streamId)
}

/** Reads a number of 31 bits; the bit before it is reserved. */
export function readNumber31(from: Buffer, at: number): number {
  return ((from[at]! & 127) << 24) | (from[at + 1]! << 16) | (from[at + 2]! << 8) | from[at + 3]!
}
