/**
 * A multiplexed session as a caller opened it: many streams, each of which is served as a connection of its own. Invariant: whatever is
 * said to the session is said to every stream that is open.
 */
import type { TLSSocket } from 'node:tls'
import { MuxSession } from './mux/session.ts'
import type { MuxStream } from './mux/stream.ts'

/** What is open at a door, and can be told that something changed. */
export interface Served {
  /** Judge again what is already open. */
  reauthorize(): void
  drain(): void
}

export interface MuxDoor {
  /** Undefined refuses the stream. */
  serve(stream: MuxStream): Served | undefined
  /** `fault` is what the other side did wrong; empty for an ordinary end. */
  closed(fault: string): void
}

export function serveMux(socket: TLSSocket, door: MuxDoor): Served {
  const streams = new Map<MuxStream, Served>()
  const session = new MuxSession(socket, {
    role: 'server',
    onStream: stream => {
      const served = door.serve(stream)
      if (served === undefined) return void stream.destroy()
      streams.set(stream, served)
      stream.once('close', () => streams.delete(stream))
    },
    onClose: () => door.closed(session.fault),
  })
  return {
    reauthorize: () => {
      for (const served of streams.values()) served.reauthorize()
    },
    drain: () => {
      session.goAway()
      for (const served of streams.values()) served.drain()
    },
  }
}
