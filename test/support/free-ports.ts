// Ports that nobody listens on at this moment, for processes whose addresses must survive a restart. Everything else uses port 0.
// They come out of blocks, and a block belongs to one process: to the one that listens on its first port. The system gives it back when
// that process ends, however it ends, so that tests that run at the same time never hand out the same port.
import { createServer, type Server } from 'node:net'

/** Below the ports that systems give to outgoing connections, and beside those of the demo and the examples. */
const range = { first: 23_000, last: 26_999 } as const
const blockSize = 200

let block = { next: 0, end: 0 }
/** Held for as long as the process lives. */
const held: Server[] = []

/** Who asks waits for who asked before. */
let turn: Promise<unknown> = Promise.resolve()

/** `count` different free ports on 127.0.0.1, in rising order; between the first and the last of them there are none of anybody else. */
export function freePorts(count: number): Promise<number[]> {
  const found = turn.then(() => take(count))
  turn = found.catch(() => undefined)
  return found
}

async function take(count: number): Promise<number[]> {
  if (count >= blockSize) throw new Error(`${count} ports are more than a block of ${blockSize} has`)
  const found: number[] = []
  while (found.length < count) {
    if (block.end - block.next < count - found.length) {
      block = await takeBlock()
      found.length = 0
    }
    const port = block.next
    block.next += 1
    if (await isFree(port)) found.push(port)
  }
  return found
}

async function takeBlock(): Promise<typeof block> {
  const blocks = (range.last + 1 - range.first) / blockSize
  const start = Math.floor(Math.random() * blocks)
  for (let i = 0; i < blocks; i += 1) {
    const first = range.first + ((start + i) % blocks) * blockSize
    const server = await listenOn(first)
    if (server === undefined) continue
    held.push(server.unref())
    return { next: first + 1, end: first + blockSize }
  }
  throw new Error(`every block of ports from ${range.first} to ${range.last} is taken`)
}

/** Whether nobody listens on a port of 127.0.0.1. */
export async function isFree(port: number): Promise<boolean> {
  const server = await listenOn(port)
  if (server === undefined) return false
  await new Promise(resolve => server.close(resolve))
  return true
}

function listenOn(port: number): Promise<Server | undefined> {
  return new Promise(resolve => {
    const server = createServer(socket => socket.destroy())
    server.once('error', () => resolve(undefined))
    server.listen(port, '127.0.0.1', () => resolve(server))
  })
}
