/** node:http as a second opinion: what its parser makes of some bytes. */
import { createServer, type IncomingMessage } from 'node:http'
import { Duplex } from 'node:stream'

export interface Read {
  method: string
  url: string
  headers: string[]
  body: string
  complete: boolean
}

/** A stream whose other end is the test: `push` is what it receives, `written` what is sent into it. */
export class MemoryStream extends Duplex {
  written = ''
  onWrite: ((chunk: Buffer) => void) | undefined

  override _read(): void {}

  override _write(chunk: Buffer, _: BufferEncoding, callback: () => void): void {
    this.written += chunk.toString('latin1')
    this.onWrite?.(chunk)
    callback()
  }
}

/** A turn of the event loop, in which streams of this process have moved what they had. */
export const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/** The requests that node:http reads from these bytes; `error` when it refuses them, `upgraded` when it leaves the rest to another protocol. */
export async function nodeReads(message: Buffer): Promise<{ requests: Read[]; error: string | undefined; upgraded: boolean }> {
  const requests: Read[] = []
  let error: string | undefined
  let upgraded = false
  const server = createServer({ maxHeaderSize: 128 * 1024, requireHostHeader: false }, (request: IncomingMessage, response) => {
    const read: Read = { method: request.method ?? '', url: request.url ?? '', headers: request.rawHeaders, body: '', complete: false }
    requests.push(read)
    request.on('data', (chunk: Buffer) => (read.body += chunk.toString('latin1')))
    request.on('end', () => (read.complete = true))
    request.on('error', () => {})
    response.end()
  })
  server.on('checkContinue', (request, response) => server.emit('request', request, response))
  server.on('checkExpectation', (request, response) => server.emit('request', request, response))
  server.on('clientError', (problem: NodeJS.ErrnoException) => (error = problem.code ?? problem.message))
  server.on('upgrade', (request: IncomingMessage) => {
    upgraded = true
    requests.push({ method: request.method ?? '', url: request.url ?? '', headers: request.rawHeaders, body: '', complete: true })
  })
  const stream = new MemoryStream()
  stream.on('error', () => {})
  server.emit('connection', stream)
  stream.push(message)
  for (let i = 0; i < 3; i++) await turn()
  stream.destroy()
  return { requests, error, upgraded }
}
