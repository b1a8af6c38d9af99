/**
 * DNS over TCP (RFC 7766): messages after a two-byte length, answered in order. Every way to hold on to memory has a limit: how many
 * connections, in all and for one address, how long one may idle or take over a message, how long a message is, how much is unread.
 */
import type { Server, Socket } from 'node:net'
import { createServer } from 'node:net'
import type { Clock, Timer } from '../../lib/clock.ts'

export const tcpLimits = {
  maxConnections: 1024,
  maxConnectionsPerAddress: 128,
  /** From the opening, or the last reply, to the end of the next message: a slow trickle does not extend it. */
  messageTimeoutMs: 8_000,
  /** A query is a name and a few options; nothing honest is longer. */
  maxMessageBytes: 4_096,
} as const

export type Respond = (message: Buffer) => Buffer | undefined | Promise<Buffer | undefined>

export interface TcpOptions {
  respond: Respond
  clock: Clock
  onConnections: (count: number) => void
}

export interface TcpDoor {
  server: Server
  close(): Promise<void>
}

/** A server that is not yet listening. */
export function createTcpDoor(options: TcpOptions): TcpDoor {
  const open = new Set<Socket>()
  const perAddress = new Map<string, number>()
  const server = createServer({ noDelay: true }, socket => {
    const address = socket.remoteAddress ?? ''
    const here = perAddress.get(address) ?? 0
    if (open.size >= tcpLimits.maxConnections || here >= tcpLimits.maxConnectionsPerAddress) {
      socket.destroy()
      return
    }
    open.add(socket)
    perAddress.set(address, here + 1)
    options.onConnections(open.size)
    socket.on('close', () => {
      open.delete(socket)
      const left = perAddress.get(address)! - 1
      if (left === 0) perAddress.delete(address)
      else perAddress.set(address, left)
      options.onConnections(open.size)
    })
    serve(socket, options)
  })
  const close = async () => {
    for (const socket of open) socket.destroy()
    await new Promise<void>(resolve => server.close(() => resolve()))
  }
  return { server, close }
}

function serve(socket: Socket, { respond, clock }: TcpOptions): void {
  let received: Buffer = Buffer.alloc(0)
  let busy = false
  let ended = false
  let timer: Timer | undefined
  const awaitMessage = () => {
    timer?.cancel()
    timer = clock.after(tcpLimits.messageTimeoutMs, () => socket.destroy())
  }
  const next = async () => {
    if (busy) return
    busy = true
    try {
      for (let message = take(); message; message = take()) {
        const reply = await respond(message)
        if (socket.destroyed) return
        if (reply && !socket.write(Buffer.concat([lengthPrefix(reply), reply]))) await drained(socket)
        awaitMessage()
      }
    } finally {
      busy = false
    }
    if (ended) socket.end()
    else socket.resume()
  }
  /** The next whole message, cut off what was received. */
  const take = (): Buffer | undefined => {
    if (socket.destroyed || received.length < 2) return undefined
    const length = received.readUInt16BE(0)
    if (length > tcpLimits.maxMessageBytes) {
      socket.destroy()
      return undefined
    }
    if (received.length < 2 + length) return undefined
    const message = received.subarray(2, 2 + length)
    received = received.subarray(2 + length)
    return message
  }
  awaitMessage()
  socket.on('error', () => socket.destroy())
  socket.on('close', () => timer?.cancel())
  // A client may close its half after the last question; the answers still go out.
  socket.on('end', () => {
    ended = true
    void next()
  })
  socket.on('data', chunk => {
    // Read no further until what has come is answered.
    socket.pause()
    received = received.length === 0 ? chunk : Buffer.concat([received, chunk])
    void next()
  })
}

function lengthPrefix(reply: Buffer): Buffer {
  return Buffer.from([reply.length >> 8, reply.length & 0xff])
}

function drained(socket: Socket): Promise<void> {
  return new Promise(resolve => {
    const done = () => {
      socket.off('drain', done)
      socket.off('close', done)
      resolve()
    }
    socket.on('drain', done)
    socket.on('close', done)
  })
}
