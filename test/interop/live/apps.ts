/**
 * The apps of one cluster, in the process of the suite: http with upgrades, http2 and grpc over h2c, and bytes. Each answers with what it
 * saw and whose it is, so that a caller knows where its call ended.
 */
import { createServer as createHttpServer, type IncomingHttpHeaders } from 'node:http'
import { createServer as createHttp2Server, type ServerHttp2Session } from 'node:http2'
import { createServer as createTcpServer, type AddressInfo, type Server, type Socket } from 'node:net'

export interface Seen {
  app: string
  method: string
  url: string
  headers: IncomingHttpHeaders
  body: string
}

export interface Apps {
  http: number
  http2: number
  tcp: number
  close(): void
}

export async function startApps(owner: string): Promise<Apps> {
  const sockets = new Set<Socket>()
  const sessions = new Set<ServerHttp2Session>()
  const http = createHttpServer({ keepAliveTimeout: 60_000, maxHeaderSize: 128 * 1024 }, (request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('error', () => {})
    request.on('end', () => {
      const { method = '', url = '', headers } = request
      const seen: Seen = { app: owner, method, url, headers, body: Buffer.concat(chunks).toString() }
      // Traffic wants to know whether it arrived, not to carry its certificates home.
      if (/^\/\d+$/.test(url)) return void response.end(JSON.stringify({ body: seen.body }))
      const status = Number(/^\/status\/(\d{3})$/.exec(url)?.[1] ?? 200)
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(seen))
    })
  })
  http.on('upgrade', (_request, socket) => {
    socket.on('error', () => {})
    socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n')
    socket.on('data', (chunk: Buffer) => socket.write(chunk.toString().toUpperCase()))
    socket.on('end', () => socket.end())
  })
  const http2 = createHttp2Server({ settings: { maxHeaderListSize: 128 * 1024 } })
  http2.on('session', session => {
    sessions.add(session)
    session.on('close', () => sessions.delete(session))
    session.on('error', () => {})
  })
  http2.on('stream', (stream, headers) => {
    const isGrpc = headers['content-type'] === 'application/grpc'
    const chunks: Buffer[] = []
    stream.on('error', () => {})
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('end', () => {
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
      const type = isGrpc ? 'application/grpc' : 'application/json'
      stream.respond({ ':status': 200, 'content-type': type }, { waitForTrailers: isGrpc })
      const seen = { app: owner, method: headers[':method'], url: headers[':path'], headers, body: Buffer.concat(chunks).toString() }
      stream.end(isGrpc ? Buffer.concat(chunks) : JSON.stringify(seen))
    })
  })
  const tcp = createTcpServer({ allowHalfOpen: true }, socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => socket.destroy())
    socket.on('data', (chunk: Buffer) => socket.write(chunk.toString().toUpperCase()))
    socket.on('end', () => socket.end())
  })
  const [httpPort, http2Port, tcpPort] = await Promise.all([http, http2, tcp].map(listen))
  return {
    http: httpPort!,
    http2: http2Port!,
    tcp: tcpPort!,
    close() {
      for (const server of [http, http2, tcp]) server.close()
      http.closeAllConnections()
      for (const session of sessions) session.destroy()
      for (const socket of sockets) socket.destroy()
    },
  }
}

async function listen(server: Server | ReturnType<typeof createHttp2Server> | ReturnType<typeof createHttpServer>): Promise<number> {
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}
