/**
 * Frames of the yamux framing (its public specification): a header of twelve bytes, big endian, and for data the bytes behind it. Pure:
 * nothing here knows a session or a socket.
 */
import { writeUint32 } from '../../lib/uint32.ts'

export const headerBytes = 12

/** What a frame is. `length` of a header is bytes for data, a delta for a window, an opaque value for a ping, a code for a go-away. */
export const frame = { data: 0, window: 1, ping: 2, goAway: 3 } as const

export const flag = { syn: 1, ack: 2, fin: 4, rst: 8 } as const

/** Codes of a go-away. */
export const goAway = { normal: 0, protocolError: 1, internalError: 2 } as const

/** Every stream starts with this window both ways, whatever the sides would like. */
export const initialWindow = 256 * 1024

/** Writes a header at `at`. */
export function writeHeader(into: Buffer, at: number, type: number, flags: number, streamId: number, length: number): void {
  into[at] = 0
  into[at + 1] = type
  into[at + 2] = 0
  into[at + 3] = flags
  writeUint32(into, at + 4, streamId)
  writeUint32(into, at + 8, length)
}
