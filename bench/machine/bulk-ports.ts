/** Many ports at once, below those that tests and other benchmarks take one by one: nobody listens on them at this moment. */
import { createServer } from 'node:net'

const range = { first: 10_000, last: 19_999 } as const

export async function bulkPorts(count: number): Promise<number[]> {
  const found: number[] = []
  for (let port = range.first; port <= range.last && found.length < count; port++) if (await isFree(port)) found.push(port)
  if (found.length < count) throw new Error(`no ${count} free ports from ${range.first} to ${range.last}`)
  return found
}

function isFree(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const server = createServer()
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}
