/**
 * The admin door of a proxy: whether it is ready, its metrics, what it was told and when its leaf ends. Loopback only, read only, and
 * it shows no key. A Host that is a name and not ours is refused, so that a web page cannot reach it by rebinding its own.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { isIP, type AddressInfo } from 'node:net'
import { MeshError } from '../lib/errors.ts'
import { addUp, metricsType, type MetricsJson } from '../lib/metrics.ts'
import { isLoopbackHost } from '../lib/address.ts'
import { adminSocket, type ListeningSockets } from './listening-sockets.ts'

/** What there is to say, of one process or of several. */
export interface AdminSource {
  /** Of one process each. */
  metrics: () => Promise<MetricsJson[]>
  /** What is missing until traffic is served; empty when it is. */
  notReady: () => string[] | Promise<string[]>
  plan: () => unknown
  certs: () => unknown
}

export interface AdminDoor {
  port: number
  close(): Promise<void>
}

export async function startAdmin(at: { host: string; port: number }, source: AdminSource, sockets: ListeningSockets): Promise<AdminDoor> {
  const { host, port } = at
  if (!isLoopbackHost(host)) throw new MeshError('invalid', `the admin address ${host} is not a loopback address: use 127.0.0.1`)
  const make = () => {
    const server = createServer({ requestTimeout: 10_000, headersTimeout: 5000, maxHeaderSize: 16_384 }, (request, response) => {
      answer(request, response, source).catch((error: unknown) => response.destroy(error as Error))
    })
    server.maxConnections = 64
    return server
  }
  const server = await sockets.listen(adminSocket, { address: host, port }, make).catch((error: NodeJS.ErrnoException) => {
    throw new MeshError('unavailable', `cannot listen on the admin address ${host}:${port} (${error.code}): choose another one`)
  })
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise(resolve => {
        sockets.release(server)
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

async function answer(request: IncomingMessage, response: ServerResponse, source: AdminSource): Promise<void> {
  const say = (status: number, type: string, body: string) => {
    response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' }).end(body)
  }
  if (!hostAllowed(request.headers.host)) return say(403, 'text/plain', 'this host name is not served here: use the address\n')
  if (request.method !== 'GET' && request.method !== 'HEAD') return say(405, 'text/plain', 'only GET\n')
  const path = (request.url ?? '').split('?', 1)[0]
  if (path === '/ready') {
    const missing = await source.notReady()
    return missing.length === 0 ? say(200, 'text/plain', 'LIVE\n') : say(503, 'text/plain', `NOT READY: ${missing.join('; ')}\n`)
  }
  if (path === '/metrics' || path === '/stats/prometheus') return say(200, metricsType, await addUp(await source.metrics()))
  if (path === '/plan') return say(200, 'application/json', `${JSON.stringify(await source.plan(), undefined, 2)}\n`)
  if (path === '/certs') return say(200, 'application/json', `${JSON.stringify(await source.certs(), undefined, 2)}\n`)
  say(404, 'text/plain', '/ready /metrics /stats/prometheus /plan /certs\n')
}

/** An address, or `localhost`. */
function hostAllowed(host: string | undefined): boolean {
  if (host === undefined) return false
  const name = host.replace(/:\d{1,5}$/, '').replace(/^\[(.*)\]$/, '$1')
  return name.toLowerCase() === 'localhost' || isIP(name) !== 0
}
