/** One call of each kind through a caller's own sidecar, over a connection of its own. What comes of it is a short text, as the table shows it. */
import { request } from 'node:http'
import { connect as connectHttp2, type IncomingHttpHeaders } from 'node:http2'
import { connect } from 'node:net'
import { call } from '../../support/processes.ts'
import type { Seen } from './apps.ts'

const withinMs = 5000

export interface Asked {
  method?: string
  path?: string
  body?: string
  headers?: Record<string, string>
}

/** The status, with what the app saw where it answered. */
export async function http(port: number, { path = '/', ...asked }: Asked = {}): Promise<{ outcome: string; seen: Seen | undefined }> {
  try {
    const answer = await call(port, path, { ...asked, timeoutMs: withinMs })
    const seen = answer.json as Seen | undefined
    return { outcome: String(answer.status), seen: seen?.app === undefined ? undefined : seen }
  } catch (error) {
    return { outcome: (error as NodeJS.ErrnoException).code ?? (error as Error).message, seen: undefined }
  }
}

/** An upgrade and one exchange over it. */
export function websocket(port: number): Promise<string> {
  return new Promise(resolve => {
    const headers = {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==',
    }
    const outgoing = request({ host: '127.0.0.1', port, path: '/socket', headers, agent: false, timeout: withinMs })
    outgoing.on('timeout', () => outgoing.destroy(new Error('no answer')))
    outgoing.on('error', error => resolve(error.message))
    outgoing.on('response', response => {
      response.resume()
      resolve(String(response.statusCode))
    })
    outgoing.on('upgrade', (_response, socket) => {
      socket.once('data', (chunk: Buffer) => {
        socket.destroy()
        resolve(chunk.toString() === 'PING' ? '101' : `wrong echo: ${chunk.toString()}`)
      })
      socket.once('error', (error: Error) => resolve(error.message))
      socket.once('close', () => resolve('closed'))
      socket.write('ping')
    })
    outgoing.end()
  })
}

/** A gRPC call where `grpc` is said: then the outcome is its status. */
export function http2(port: number, { method = 'GET', path = '/', body = '', headers = {} }: Asked, grpc = false): Promise<string> {
  return new Promise(resolve => {
    const session = connectHttp2(`http://127.0.0.1:${port}`)
    const finish = (outcome: string) => {
      clearTimeout(timer)
      session.destroy()
      resolve(outcome)
    }
    const timer = setTimeout(() => finish('no answer'), withinMs)
    session.on('error', error => finish(error.message))
    const special = grpc ? { 'content-type': 'application/grpc', te: 'trailers' } : {}
    const stream = session.request({ ':method': grpc ? 'POST' : method, ':path': path, ...special, ...headers })
    let [answer, trailers]: IncomingHttpHeaders[] = [{}, {}]
    stream.on('response', received => (answer = received))
    stream.on('trailers', received => (trailers = received))
    stream.on('error', error => finish(error.message))
    stream.on('data', () => {})
    stream.on('close', () => {
      const status = answer![':status']
      const code = (trailers!['grpc-status'] ?? answer!['grpc-status']) as string | undefined
      finish(grpc ? `grpc-status ${code ?? `missing, ${String(status)}`}` : String(status))
    })
    stream.end(grpc ? Buffer.concat([Buffer.from([0, 0, 0, 0, body.length]), Buffer.from(body)]) : body || undefined)
  })
}

export function tcp(port: number): Promise<string> {
  return new Promise(resolve => {
    const socket = connect({ port, host: '127.0.0.1' })
    const finish = (outcome: string) => {
      clearTimeout(timer)
      socket.destroy()
      resolve(outcome)
    }
    const timer = setTimeout(() => finish('no answer'), withinMs)
    socket.on('error', (error: NodeJS.ErrnoException) => finish(error.code ?? error.message))
    socket.on('data', (chunk: Buffer) => finish(chunk.toString() === 'HELLO' ? 'echo' : `wrong echo: ${chunk.toString()}`))
    socket.on('close', () => finish('closed'))
    socket.write('hello')
  })
}
