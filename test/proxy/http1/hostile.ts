/**
 * Hostile messages made from good and bad ones, and what becomes of them: in `serveHttp1`, with everything around it in memory, and in node:http.
 */
import { request as dial } from 'node:http'
import * as fc from 'fast-check'
import { Deadlines, serveHttp1, type HttpDoor, type UpstreamStream } from '../../../src/proxy/http1/connection.ts'
import { bytes, cut, limits } from './harness.ts'
import { MemoryStream, nodeReads, turn } from './node-reader.ts'
import { answerAttacks } from './smuggling-answers.ts'
import { attacks } from './smuggling-requests.ts'

/** Pieces that have led parsers astray. */
const nasty = [
  '\r',
  '\n',
  '\r\n',
  '\0',
  '\t',
  ' ',
  ':',
  ',',
  ';',
  '\x0b',
  '\x0c',
  '\x85',
  '\xa0',
  '#',
  '?',
  '\\',
  '//',
  '..',
  '%2e',
  '%00',
  'Content-Length: 5\r\n',
  'content-length: 0\r\n',
  'Content-Length: 5, 6\r\n',
  'Transfer-Encoding: chunked\r\n',
  'Transfer-Encoding : chunked\r\n',
  'transfer-encoding: identity\r\n',
  'Transfer-Encoding:\x0bchunked\r\n',
  ' folded\r\n',
  'Host: evil\r\n',
  'Connection: X-A, close\r\n',
  'Connection: transfer-encoding\r\n',
  'Upgrade: h2c\r\nConnection: upgrade\r\n',
  'Expect: 100-continue\r\n',
  'GET /x HTTP/1.1\r\nHost: x\r\n\r\n',
  '0\r\n\r\n',
  '5\r\nhello\r\n',
  'ffffffff\r\n',
  '-1\r\n',
  '5;x=\r\n',
  'HTTP/1.0',
  'HTTP/1.1',
  'HTTP/2.0',
  'http://evil/',
  'CONNECT ',
  'Trailer: x\r\n',
]
/** Longer ones are about limits, which node:http has others of. */
const seedBytes = 400
const seeds = [
  'GET /a?b HTTP/1.1\r\nHost: api\r\nX-A: 1\r\nAccept: */*\r\n\r\n',
  'POST /p HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello',
  'POST /c HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n',
  'GET http://api/abs HTTP/1.1\r\nHost: api\r\nConnection: keep-alive\r\n\r\n',
  'PUT /o HTTP/1.0\r\nHost: api\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab',
  'POST /t HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nConnection: close\r\n\r\n',
  'PUT /o HTTP/1.0\r\nHost: api\r\nConnection: close\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab',
]
const badSeeds = attacks.map(({ send }) => send).filter(send => send.length < seedBytes)

const edits = (pieces: readonly string[], most: number) =>
  fc.array(fc.tuple(fc.nat(), fc.nat(2), fc.oneof(fc.constantFrom(...pieces), fc.string({ unit: 'binary-ascii', maxLength: 3 }))), {
    maxLength: most,
  })

function edited(text: string, changes: [at: number, removed: number, insert: string][]): string {
  for (const [at, removed, insert] of changes) {
    const position = at % (text.length + 1)
    text = text.slice(0, position) + insert + text.slice(position + removed)
  }
  return text
}

/** Requests of one connection, in pieces. */
export const hostileRequests = fc
  .tuple(
    fc.array(fc.oneof({ weight: 3, arbitrary: fc.constantFrom(...seeds) }, { weight: 1, arbitrary: fc.constantFrom(...badSeeds) }), {
      minLength: 1,
      maxLength: 3,
    }),
    edits(nasty, 4),
    fc.array(fc.nat(400), { maxLength: 4 }),
  )
  .map(([parts, changes, cuts]) => cut(bytes(edited(parts.join(''), changes)), cuts))

/** One request as it was read whole. */
export interface Reading {
  method: string
  url: string
  body: string
  /** Told by us only. */
  chunked?: boolean
}

export interface Readings {
  whole: Reading[]
  /** Why nothing is read after them; undefined: nothing more came, or more is awaited. */
  stopped: string | undefined
}

export interface Forwarded {
  judged: { method: string; url: string; headers: string[] }
  got: string
}

const deadlines = new Deadlines()

/** One connection through `serveHttp1`: what was judged, what each upstream got, and why the connection was given up. */
export async function weRead(pieces: Buffer[]): Promise<{ forwarded: Forwarded[]; stopped: string | undefined }> {
  const forwarded: Forwarded[] = []
  let stopped: string | undefined
  const door: HttpDoor = {
    open(head) {
      const entry: Forwarded = { judged: { method: head.method, url: head.target, headers: [...head.headers] }, got: '' }
      forwarded.push(entry)
      if (!head.keepAlive) stopped = 'close'
      const upstream = new MemoryStream()
      upstream.on('error', () => {})
      let answered = false
      upstream.onWrite = chunk => {
        entry.got += chunk.toString('latin1')
        if (answered || !isWhole(entry.got)) return
        answered = true
        setImmediate(() => upstream.push('HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok'))
      }
      const release = () => void upstream.destroy()
      const stream: UpstreamStream = { stream: upstream, reusable: false, release, destroy: release }
      return { ok: true, connect: () => stream }
    },
    finished({ source, reason }) {
      if (source === 'downstream' && reason !== 'closed') stopped = reason
    },
    malformed: (_, reason) => void (stopped = reason),
  }
  const downstream = new MemoryStream()
  const connection = serveHttp1(downstream, door, limits, deadlines)
  for (const piece of pieces) {
    if (downstream.destroyed) break
    downstream.push(piece)
    await turn()
  }
  // Until nothing has moved for a while: each request of a pipeline takes some turns.
  for (let quiet = 0, before = forwarded.length; quiet < 8; quiet++, before = forwarded.length) {
    await turn()
    if (forwarded.length > before) quiet = 0
  }
  const seen = stopped
  connection.close()
  return { forwarded, stopped: seen }
}

/** Whether a request that we wrote, and so is well-formed, has all come. */
function isWhole(request: string): boolean {
  const end = request.indexOf('\r\n\r\n')
  if (end < 0) return false
  const length = /\r\ncontent-length: *(\d+)/i.exec(request.slice(0, end))?.[1]
  if (length !== undefined) return request.length - end - 4 >= Number(length)
  if (!/\r\ntransfer-encoding:/i.test(request.slice(0, end))) return true
  let at = end + 4
  for (;;) {
    const line = request.indexOf('\r\n', at)
    if (line < 0) return false
    const size = Number.parseInt(request.slice(at, line), 16)
    if (size === 0) return request.startsWith('\r\n', line + 2) || request.includes('\r\n\r\n', line)
    at = line + 4 + size
  }
}

/** The same bytes as node:http reads them. */
export async function nodeReadings(pieces: Buffer[]): Promise<Readings & { upgraded: boolean }> {
  const { requests, error, upgraded } = await nodeReads(Buffer.concat(pieces))
  const whole = requests.filter(({ complete }) => complete).map(({ method, url, body }) => ({ method, url, body }))
  return { whole, stopped: error, upgraded }
}

const nastyAnswer = [
  ...nasty,
  'HTTP/1.1 200 OK\r\n',
  'HTTP/1.1 101 Switching Protocols\r\n',
  'HTTP/1.1 100 Continue\r\n\r\n',
  'HTTP/1.1 204 x\r\n\r\n',
  '304',
  '999',
]
const badAnswers = answerAttacks
  .map(({ pieces }) => pieces.filter(piece => typeof piece === 'string').join(''))
  .filter(text => text.length < seedBytes)

/** An answer to GET, in pieces. */
export const hostileAnswers = fc
  .tuple(
    fc.oneof(
      {
        weight: 3,
        arbitrary: fc.constantFrom(
          'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello',
          'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: 1\r\n\r\n',
          'HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n',
          'HTTP/1.1 103 Early Hints\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello',
          'HTTP/1.1 200 OK\r\nExpect: a\r\nContent-Length: 0\r\n\r\n',
          'HTTP/1.1 200 OK\r\rX: y\r\n\r\nto the end',
          'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\nto the end',
          'HTTP/1.0 200 OK\r\nServer: x\r\n\r\nto the end',
        ),
      },
      { weight: 1, arbitrary: fc.constantFrom(...badAnswers) },
    ),
    edits(nastyAnswer, 3),
    fc.array(fc.nat(200), { maxLength: 3 }),
  )
  .map(([seed, changes, cuts]) => cut(bytes(edited(seed, changes)), cuts))

export const canary = 'HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary'

/** A client asks twice; the app answers the first with these pieces and ends, and the second with the canary. What the client is told, and how each ended. */
export async function weAnswer(
  pieces: Buffer[],
): Promise<{ told: string; outcomes: { status: number; source: string; reason: string }[] }> {
  const outcomes: { status: number; source: string; reason: string }[] = []
  let nth = 0
  const door: HttpDoor = {
    open() {
      const mine = nth++ === 0 ? pieces : [bytes(canary)]
      const upstream = new MemoryStream()
      upstream.on('error', () => {})
      upstream.onWrite = () => {
        for (const piece of mine) upstream.push(piece)
        upstream.push(null)
      }
      const release = () => void upstream.destroy()
      const stream: UpstreamStream = { stream: upstream, reusable: false, release, destroy: release }
      return { ok: true, connect: () => stream }
    },
    finished: ({ status, source, reason }) => void outcomes.push({ status, source, reason }),
  }
  const downstream = new MemoryStream()
  const connection = serveHttp1(downstream, door, limits, deadlines)
  downstream.push(bytes('POST /1 HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\nGET /2 HTTP/1.1\r\nHost: api\r\n\r\n'))
  for (let i = 0; i < 8; i++) await turn()
  connection.close()
  return { told: downstream.written, outcomes }
}

export interface AnswerReading {
  /** Of the final answer; undefined: none was read. */
  status: number | undefined
  body: string
  complete: boolean
  chunked: boolean
  /** Why there is none. */
  error: string | undefined
}

/** An answer and the end of its connection as node:http's client reads them. */
export async function nodeAnswer(answer: Buffer | string): Promise<AnswerReading> {
  const read: AnswerReading = { status: undefined, body: '', complete: false, chunked: false, error: undefined }
  const stream = new MemoryStream()
  const request = dial({ createConnection: () => stream, method: 'POST', path: '/1', headers: { 'content-length': 0 } }, response => {
    read.status = response.statusCode
    read.chunked = response.headers['transfer-encoding'] !== undefined
    response.on('data', (chunk: Buffer) => (read.body += chunk.toString('latin1')))
    response.on('end', () => (read.complete = response.complete))
    response.on('error', () => {})
  })
  request.on('upgrade', response => (read.status = response.statusCode))
  request.on('error', (error: NodeJS.ErrnoException) => (read.error ??= error.code ?? error.message))
  request.end()
  await turn()
  stream.push(typeof answer === 'string' ? bytes(answer) : answer)
  stream.push(null)
  for (let i = 0; i < 4; i++) await turn()
  stream.destroy()
  return read
}
