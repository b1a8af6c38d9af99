/**
 * Ends a plain socket as a reset, so that nobody takes a part for the whole. Not while the end of its writing half is on its way: libuv refuses
 * to reset such a socket, and Node then takes it for closed, leaks it, and turns in a circle when the process ends.
 */
import type { Socket } from 'node:net'

export function resetSocket(socket: Socket): void {
  if (socket.writableEnded && !socket.writableFinished) socket.destroy()
  else if (!socket.destroyed) socket.resetAndDestroy()
}
