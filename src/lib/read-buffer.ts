/**
 * The one buffer into which plain sockets read what comes much at once, for listeners that ask to borrow it: memory of their own for
 * every 64 KiB keeps the garbage collector busier than the proxy. Invariant: borrowed bytes are valid until the listener returns; whoever
 * keeps some keeps `kept` of them.
 */

export const readBuffer = Buffer.allocUnsafeSlow(64 * 1024)

/** A socket whose `data` listeners know of this. */
export interface Borrower {
  borrows?: boolean
}

/** The same bytes for as long as they are needed. */
export function kept(bytes: Buffer): Buffer {
  return bytes.buffer === readBuffer.buffer ? Buffer.from(bytes) : bytes
}
