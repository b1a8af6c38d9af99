/**
 * How sockets are read. Node makes a buffer of 64 KiB for every read of a plain socket, and one for every TLS record, which is a large
 * part of what a small message costs and, as garbage, half of what a long one does. Here they read into one shared buffer, as with Node's
 * `onread`, which is to be had for sockets that connect without TLS only; so it is switched on here for all of them, in the way in which
 * Node does it itself. Where that way is not there, a socket stays as it is. Invariant: whoever is given bytes owns them, but for those
 * who asked to borrow them (read-buffer.ts), and nobody is given any while he has paused the socket.
 */
import { Socket, type SocketConstructorOpts } from 'node:net'
import { readBuffer, type Borrower } from '../lib/read-buffer.ts'

/**
 * Of every socket and server. Half-open: the end of a request must not end its answer. The mark is above what one read brings, or every
 * read of a long body would pause its source although the system took all of it at once.
 */
export const socketOptions = { allowHalfOpen: true, noDelay: true, highWaterMark: 2 * readBuffer.length } as const

/** Where Node keeps the options of `onread`. */
const slots = slotsOf(new Socket({ onread: { buffer: () => readBuffer, callback: () => true } } as SocketConstructorOpts))

/** From now on this socket is read in that way; call it before anything was read. */
export function readShared<S extends Socket>(socket: S): S {
  const { _handle: handle } = socket as unknown as { _handle?: { useUserBuffer?: (buffer: Buffer) => void } | null }
  if (slots === undefined || typeof handle?.useUserBuffer !== 'function') return socket
  Object.assign(socket, { [slots.kBuffer]: true, [slots.kBufferGen]: () => readBuffer, [slots.kBufferCb]: cameIn })
  handle.useUserBuffer(readBuffer)
  return socket
}

/** So many bytes are in the buffer; false stops the reading. */
function cameIn(this: Socket, length: number): boolean {
  const bytes = readBuffer.subarray(0, length)
  if (this.readableLength === 0 && !this.isPaused() && this.emit('data', (this as Borrower).borrows === true ? bytes : Buffer.from(bytes)))
    return true
  // Nobody listens yet, or what came before still waits for them: kept in order for whoever does.
  return this.push(Buffer.from(bytes))
}

function slotsOf(socket: Socket): { kBuffer: symbol; kBufferGen: symbol; kBufferCb: symbol } | undefined {
  const found = new Map(Object.getOwnPropertySymbols(socket).map(symbol => [symbol.description, symbol]))
  const [kBuffer, kBufferGen, kBufferCb] = ['kBuffer', 'kBufferGen', 'kBufferCb'].map(name => found.get(name))
  return kBuffer && kBufferGen && kBufferCb ? { kBuffer, kBufferGen, kBufferCb } : undefined
}
