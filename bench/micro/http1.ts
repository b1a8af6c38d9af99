/** The HTTP/1.1 code without sockets: heads as real clients send them, chunked bodies, and a whole exchange through streams in memory. */
import { Duplex } from 'node:stream'
import { BodyReader } from '../../src/proxy/http1/body.ts'
import {
  Deadlines,
  defaultHttp1Limits,
  serveHttp1,
  type HttpDoor,
  type Opened,
  type UpstreamStream,
} from '../../src/proxy/http1/connection.ts'
import { RequestHead, ResponseHead } from '../../src/proxy/http1/head.ts'

const requestText = [
  'GET /api/v1/orders/8231?expand=items&limit=20 HTTP/1.1',
  'Host: api.service.consul',
  'User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Safari/537.36',
  'Accept: application/json, text/plain, */*',
  'Accept-Encoding: gzip, deflate, br',
  'Accept-Language: en-US,en;q=0.9',
  'Authorization: Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl',
  'X-Request-Id: 3f2c1c9e-7c0e-4b27-9f7e-0d6a5d6f4b1a',
  'Connection: keep-alive',
  '\r\n',
].join('\r\n')
const responseText = [
  'HTTP/1.1 200 OK',
  'Content-Type: application/json; charset=utf-8',
  'ETag: W/"5f-HnLOGHLkX0sVZ8xgWQ"',
  'Date: Sun, 22 Nov 2026 08:00:00 GMT',
  'Connection: keep-alive',
  'Keep-Alive: timeout=5',
  'Content-Length: 95',
  '\r\n',
].join('\r\n')
const bareText = 'GET / HTTP/1.1\r\nHost: api\r\n\r\n'

const request = Buffer.from(requestText, 'latin1')
const response = Buffer.from(responseText, 'latin1')
const bare = Buffer.from(bareText, 'latin1')
const answer = Buffer.from(responseText + 'x'.repeat(95), 'latin1')
const chunked = Buffer.from(`400\r\n${'x'.repeat(1024)}\r\n`.repeat(16) + '0\r\n\r\n', 'latin1')
const xfcc = 'By=spiffe://td/ns/default/dc/dc1/svc/api;Hash=0123456789abcdef;URI=spiffe://td/ns/default/dc/dc1/svc/web'

/** Results are summed here, so that no work can be optimised away. */
let sink = 0

function parseOnly(iterations: number): void {
  const head = new RequestHead(defaultHttp1Limits)
  for (let i = 0; i < iterations; i++) {
    head.begin()
    sink += head.parse(request, 0, request.length)
  }
}

function forward(message: Buffer, iterations: number): void {
  const head = new RequestHead(defaultHttp1Limits)
  for (let i = 0; i < iterations; i++) {
    head.begin()
    sink += head.parse(message, 0, message.length)
    head.set('x-forwarded-client-cert', xfcc)
    sink += head.forwarded().length
  }
}

function respond(iterations: number): void {
  const head = new ResponseHead(defaultHttp1Limits)
  for (let i = 0; i < iterations; i++) {
    head.begin()
    sink += head.parse(response, 0, response.length, 'GET')
    sink += head.forwarded('').length
  }
}

function showHeaders(iterations: number): void {
  const head = new RequestHead(defaultHttp1Limits)
  for (let i = 0; i < iterations; i++) {
    head.begin()
    head.parse(request, 0, request.length)
    sink += head.headers.length
  }
}

function readChunked(iterations: number): void {
  const body = new BodyReader(defaultHttp1Limits)
  for (let i = 0; i < iterations; i++) {
    body.begin('chunked', 0, true)
    sink += body.read(chunked, 0, chunked.length)
  }
}

/** A stream whose writes go to a callback. */
class Wire extends Duplex {
  private readonly got: () => void

  constructor(got: () => void) {
    super({ decodeStrings: false })
    this.got = got
  }

  override _read(): void {}

  override _write(_: unknown, __: BufferEncoding, done: () => void): void {
    done()
    this.got()
  }
}

async function exchange(iterations: number): Promise<void> {
  let left = iterations
  let finish = (): void => {}
  const upstreamWire = new Wire(() => upstreamWire.push(answer))
  const upstream: UpstreamStream = { stream: upstreamWire, reusable: true, release() {}, destroy() {} }
  const opened: Opened = { ok: true, connect: () => upstream }
  const door: HttpDoor = {
    open(head) {
      head.set('x-forwarded-client-cert', xfcc)
      return opened
    },
    finished() {},
  }
  const client = new Wire(() => {
    if (--left > 0) client.push(request)
    else finish()
  })
  const served = serveHttp1(client, door, defaultHttp1Limits, new Deadlines())
  await new Promise<void>(resolve => {
    finish = resolve
    client.push(request)
  })
  served.close()
}

export const cases: { name: string; run(iterations: number): void | Promise<void> }[] = [
  { name: 'http1 request head: parse', run: parseOnly },
  { name: 'http1 request head: parse, edit, serialise', run: iterations => forward(request, iterations) },
  { name: 'http1 request head: the smallest, parse, edit, serialise', run: iterations => forward(bare, iterations) },
  { name: 'http1 request head: parse, all headers as strings', run: showHeaders },
  { name: 'http1 response head: parse, serialise', run: respond },
  { name: 'http1 chunked body: 16 KiB in 16 chunks', run: readChunked },
  { name: 'http1 exchange: one request through memory streams', run: exchange },
]

/** Keeps `sink` alive. */
export const checksum = (): number => sink
