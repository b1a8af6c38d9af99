/**
 * The one buffer into which sockets read, lent to listeners that ask to borrow it: memory of their own for every read keeps the garbage
 * collector busier than the proxy. Invariant: borrowed bytes are valid until the listener returns; whoever keeps some keeps `kept` of them.
 */

export const readBuffer = Buffer.allocUnsafeSlow(64 * 1024)

/** A socket whose `data` listeners know of this. */
export interface Borrower {
  borrows?: boolean
}

export function isBorrowed(bytes: Buffer): boolean {
  return bytes.buffer === readBuffer.buffer
}

/** The same bytes for as long as they are needed. */
export function kept(bytes: Buffer): Buffer {
  return isBorrowed(bytes) ? Buffer.from(bytes) : bytes
}
