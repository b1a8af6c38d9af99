/**
 * Exposed paths (data-plane.md 11.4): a plain, unauthenticated listener for exactly one path of the app, for health checkers outside
 * the mesh. The path is compared as it was sent, the query aside: no prefix, no normalising, nothing else of the app is reachable.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Logger } from '../lib/log.ts'
import type { Self } from '../mesh/snapshot.ts'
import { httpProxy } from './http-proxy.ts'
import { Listener } from './listener.ts'
import { ListeningSockets } from './listening-sockets.ts'
import { xfccHeader } from './xfcc.ts'

const limits = { maxConnections: 256, requestMs: 15_000, headersMs: 5000 } as const

interface Entry {
  listener: Listener
  server: Server
  close(): void
}

export class Expose {
  readonly #logger: Logger
  readonly #sockets: ListeningSockets
  readonly #entries = new Map<string, Entry>()

  constructor(logger: Logger, sockets = new ListeningSockets()) {
    this.#logger = logger
    this.#sockets = sockets
  }

  /** Brings the listeners in line with the plan. */
  async update({ expose, app, listen }: Self): Promise<void> {
    const wanted = new Map<string, { path: string; listenerPort: number; target: string }>()
    for (const { path, listenerPort, localPathPort } of expose) {
      const target = `http://${bracketed(app?.address || '127.0.0.1')}:${localPathPort}`
      wanted.set(JSON.stringify([listen.address, listenerPort, path, target]), { path, listenerPort, target })
    }
    for (const [key, entry] of this.#entries) {
      if (wanted.has(key)) continue
      this.#entries.delete(key)
      entry.close()
    }
    const tried: Promise<void>[] = []
    for (const [key, { path, listenerPort, target }] of wanted) {
      if (this.#entries.has(key)) continue
      const entry = this.#open(path, target, { address: listen.address, port: listenerPort })
      this.#entries.set(key, entry)
      tried.push(entry.listener.tried())
    }
    await Promise.all(tried)
  }

  close(): void {
    for (const entry of this.#entries.values()) entry.close()
    this.#entries.clear()
  }

  #open(path: string, target: string, at: { address: string; port: number }): Entry {
    const proxy = httpProxy().createProxyServer({ target, proxyTimeout: limits.requestMs, timeout: limits.requestMs, xfwd: false })
    const server = createServer({ requestTimeout: limits.requestMs, headersTimeout: limits.headersMs })
    // http-proxy reports a failure with either a response or a raw socket.
    proxy.on('error', (_error, _request, response) => {
      if (!('writeHead' in response)) return void response.destroy()
      if (response.headersSent) response.destroy()
      else response.writeHead(503, { 'content-type': 'text/plain' }).end('upstream connect error')
    })
    // http-proxy 1.18 waits for `aborted`, which Node does not send for a request that was read to its end: the app must see the client go.
    proxy.on('proxyReq', (toApp, _request, response) => {
      response.once('close', () => {
        if (!response.writableFinished) toApp.destroy()
      })
    })
    server.on('request', (request: IncomingMessage, response: ServerResponse) => {
      if (!exactly(path, request.url)) return void response.writeHead(404, { 'content-type': 'text/plain' }).end('not found')
      delete request.headers[xfccHeader]
      try {
        proxy.web(request, response)
      } catch {
        // Node throws at once for a port that is none, and http-proxy passes that on.
        response.writeHead(503, { 'content-type': 'text/plain' }).end('upstream connect error')
      }
    })
    server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      socket.on('error', () => socket.destroy())
      if (!exactly(path, request.url)) return void socket.end('HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n')
      delete request.headers[xfccHeader]
      try {
        proxy.ws(request, socket, head)
      } catch {
        socket.destroy()
      }
    })
    server.on('clientError', (_error, socket) => socket.destroy())
    let open = 0
    const sockets = new Set<Duplex>()
    const listener = new Listener({
      at,
      purpose: `exposed path ${path}`,
      logger: this.#logger,
      sockets: this.#sockets,
      onConnection: socket => {
        socket.on('error', () => {})
        if (open >= limits.maxConnections) return void socket.destroy()
        open += 1
        sockets.add(socket)
        socket.once('close', () => {
          open -= 1
          sockets.delete(socket)
        })
        server.emit('connection', socket)
      },
    })
    const close = () => {
      listener.close()
      proxy.close()
      for (const socket of sockets) socket.destroy()
    }
    return { listener, server, close }
  }
}

function exactly(path: string, url: string | undefined): boolean {
  if (url === undefined) return false
  const query = url.indexOf('?')
  return (query === -1 ? url : url.slice(0, query)) === path
}

function bracketed(address: string): string {
  return address.includes(':') ? `[${address}]` : address
}
