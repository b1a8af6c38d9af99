/**
 * How plain sockets are made and read. Node makes a buffer of 64 KiB for every read and cuts it to size, which for small messages is a
 * large part of what a read costs; here sockets read into one shared buffer, and what came is copied out of it. Invariant: whoever is
 * given bytes owns them, but for those who asked to borrow them (read-buffer.ts). A socket on which much comes at once reads into buffers of its own, which are given away whole.
 */
import { Socket, type OnReadOpts, type SocketConstructorOpts } from 'node:net'
import { readBuffer, type Borrower } from '../lib/read-buffer.ts'

/** More than this is not copied out of a buffer of its own. */
const copyBytes = 16 * 1024

/**
 * Of every socket and server. Half-open: the end of a request must not end its answer. The mark is above what one read brings, or every
 * read of a long body would pause its source although the system took all of it at once.
 */
export const socketOptions = { allowHalfOpen: true, noDelay: true, highWaterMark: 2 * readBuffer.length } as const

/** The `onread` option of one new socket: bytes are emitted as `data`, as if by the stream. */
export function readingOptions(): OnReadOpts {
  let current: Buffer = readBuffer
  return {
    buffer: () => current,
    callback(this: Socket, length: number): boolean {
      let bytes: Buffer
      if (length > copyBytes && current === readBuffer && (this as Borrower).borrows === true && this.readableLength === 0) {
        this.emit('data', readBuffer.subarray(0, length))
        return true
      }
      if (length > copyBytes && current !== readBuffer) {
        bytes = current.subarray(0, length)
        current = Buffer.allocUnsafeSlow(readBuffer.length)
      } else {
        bytes = Buffer.allocUnsafe(length)
        current.copy(bytes, 0, 0, length)
        current = length > copyBytes ? Buffer.allocUnsafeSlow(readBuffer.length) : readBuffer
      }
      if (this.readableLength === 0 && this.emit('data', bytes)) return true
      // Nobody listens yet, or what came before still waits for them: kept in order for whoever does.
      return this.push(bytes)
    },
  }
}

/**
 * An accepted socket that is read in this way. Node offers it for sockets that connect only, so the handle moves to a new socket (the
 * `handle` option, which Node's own cluster uses); where there is no handle to be had the socket stays as it is. The server must have
 * been made with `pauseOnConnect`.
 */
export function adopt(accepted: Socket): Socket {
  const holder = accepted as unknown as { _handle?: object | null }
  const { _handle: handle } = holder
  if (!handle) return accepted.resume()
  holder._handle = null
  const socket = new Socket({ ...socketOptions, handle, onread: readingOptions() } as SocketConstructorOpts)
  // The server counts the one it accepted.
  socket.once('close', () => accepted.destroy())
  return socket
}
