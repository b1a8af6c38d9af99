// Ports that nobody listens on at this moment, for processes whose addresses must survive a restart. Everything else uses port 0.
import { createServer } from 'node:net'

/** Below the ports that systems give to outgoing connections, which could take one between this look and its use. */
const range = { first: 20_000, last: 32_000 } as const
const handedOut = new Set<number>()

/** `count` different free ports on 127.0.0.1. */
export async function freePorts(count: number): Promise<number[]> {
  const found: number[] = []
  while (found.length < count) {
    const port = range.first + Math.floor(Math.random() * (range.last - range.first))
    if (handedOut.has(port) || !(await isFree(port))) continue
    handedOut.add(port)
    found.push(port)
  }
  return found
}

function isFree(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
