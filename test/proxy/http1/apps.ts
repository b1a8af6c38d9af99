/** Apps for the tests to put behind a served connection, and the messages that they are sent. */
import { createServer as createApp, type RequestListener } from 'node:http'
import { createServer, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'
import { listen, serve, type Served } from './harness.ts'

/** An app with node:http behind a served connection. */
export async function behind(t: Test, app: RequestListener, options: Parameters<typeof serve>[1] = {}): Promise<Served> {
  const server = createApp({ keepAliveTimeout: 60_000 }, app)
  const served = await serve(await listen(server), options)
  t.teardown(async () => {
    await served.close()
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  })
  return served
}

/** An app that speaks raw bytes: `answer` is called for each connection's chunks. */
export async function raw(
  t: Test,
  answer: (socket: Socket, chunk: string, nth: number) => void,
  options: Parameters<typeof serve>[1] = {},
): Promise<Served> {
  const sockets: Socket[] = []
  const server: Server = createServer({ noDelay: true }, socket => {
    const nth = sockets.push(socket)
    socket.on('data', chunk => answer(socket, chunk.toString('latin1'), nth))
    socket.on('error', () => {})
  })
  const served = await serve(await listen(server), options)
  t.teardown(async () => {
    await served.close()
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  })
  return served
}

export const get = (path = '/'): string => `GET ${path} HTTP/1.1\r\nHost: api\r\n\r\n`
export const ok = (body: string): string => `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body}`
