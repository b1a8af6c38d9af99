// Ports that nobody listens on at this moment, for processes whose addresses must survive a restart. Everything else uses port 0.
import { createServer, type Server } from 'node:net'

/** `count` different free ports on 127.0.0.1: all are held at once, then let go together. */
export async function freePorts(count: number): Promise<number[]> {
  const servers: Server[] = []
  try {
    for (let i = 0; i < count; i += 1) {
      const server = createServer()
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject)
        server.listen(0, '127.0.0.1', resolve)
      })
      servers.push(server)
    }
    return servers.map(server => (server.address() as { port: number }).port)
  } finally {
    await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))))
  }
}
