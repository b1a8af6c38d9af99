/** Against node:http: what is generated valid is read the same by both, and whatever we let through, node reads as what was judged. */
import assert from 'node:assert/strict'
import { createServer as createApp, request as dial } from 'node:http'
import { createServer } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import type { HttpDoor, UpstreamStream } from '../../../src/proxy/http1/connection.ts'
import { Deadlines, serveHttp1 } from '../../../src/proxy/http1/connection.ts'
import { bytes, cut, limits, listen, parseRequest, serve } from './harness.ts'
import { MemoryStream, nodeReads, turn } from './node-reader.ts'

const deep = process.env.ISTHMUS_DEEP === '1'
t.setTimeout(deep ? 900_000 : 30_000)

const tokenChars = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
const chars = (text: string): string[] => text.split('')
const special = /^(host|connection|keep-alive|te|trailer|upgrade|expect|proxy.*|content-length|content_length|transfer[-_]encoding)$/i
const name = fc.string({ unit: fc.constantFrom(...chars(tokenChars)), minLength: 1, maxLength: 20 }).filter(text => !special.test(text))
const valueChars = Array.from({ length: 255 - 0x21 }, (_, i) => String.fromCharCode(0x21 + i)).filter(char => char !== '\x7f')
const value = fc.string({ unit: fc.constantFrom(...valueChars, ' ', '\t'), maxLength: 60 })
const space = fc.constantFrom('', ' ', '  ', '\t')
const fields = fc.array(fc.tuple(name, space, value, space), { maxLength: 12 })
const target = fc.string({ unit: fc.constantFrom(...chars("abz019-._~!$&'()*+,;=:@/%{}|^`[]?")), maxLength: 40 }).map(rest => `/${rest}`)
const method = fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'PROPFIND', 'M-SEARCH')
const body = fc.oneof(
  fc.constant({ framing: '', wire: '', data: '' }),
  fc
    .string({ unit: fc.constantFrom(...valueChars, '\r', '\n'), maxLength: 80 })
    .map(data => ({ framing: `Content-Length: ${data.length}\r\n`, wire: data, data })),
  fc.array(fc.string({ unit: fc.constantFrom(...valueChars, '\r', '\n'), minLength: 1, maxLength: 30 }), { maxLength: 4 }).map(chunks => ({
    framing: 'transfer-encoding: chunked\r\n',
    wire: `${chunks.map(chunk => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join('')}0\r\n\r\n`,
    data: chunks.join(''),
  })),
)

const lower = (flat: string[]): string[] => flat.map((text, i) => (i % 2 === 0 ? text.toLowerCase() : text))

t.test('a valid request is the same to node:http and to us, before and after we forward it', async () => {
  await fc.assert(
    fc.asyncProperty(method, target, fields, body, async (method, target, fields, { framing, wire, data }) => {
      const lines = fields.map(([name, before, value, after]) => `${name}:${before}${value}${after}\r\n`).join('')
      const message = `${method} ${target} HTTP/1.1\r\nHost: api\r\n${lines}${framing}\r\n`
      const ours = parseRequest([bytes(message + wire)])
      if (!('forwarded' in ours)) throw new Error(`refused: ${JSON.stringify([ours, message])}`)
      const expected = [{ method, url: target, headers: ours['headers'], body: data, complete: true }]
      for (const text of [message, ours['forwarded'] as string]) {
        const { requests, error } = await nodeReads(bytes(text + wire))
        assert.equal(error, undefined)
        assert.deepEqual(
          requests.map(request => ({ ...request, headers: lower(request.headers) })),
          expected,
        )
      }
    }),
    { numRuns: deep ? 5_000 : 200 },
  )
})

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
const seeds = [
  'GET /a?b HTTP/1.1\r\nHost: api\r\nX-A: 1\r\nAccept: */*\r\n\r\n',
  'POST /p HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nhello',
  'POST /c HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n',
  'GET http://api/abs HTTP/1.1\r\nHost: api\r\nConnection: keep-alive\r\n\r\n',
  'PUT /o HTTP/1.0\r\nHost: api\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab',
]
const mutated = fc
  .tuple(
    fc.array(fc.constantFrom(...seeds), { minLength: 1, maxLength: 3 }),
    fc.array(fc.tuple(fc.nat(), fc.nat(2), fc.oneof(fc.constantFrom(...nasty), fc.string({ unit: 'binary-ascii', maxLength: 3 }))), {
      maxLength: 4,
    }),
    fc.array(fc.nat(400), { maxLength: 4 }),
  )
  .map(([parts, edits, cuts]) => {
    let text = parts.join('')
    for (const [at, removed, insert] of edits) {
      const position = at % (text.length + 1)
      text = text.slice(0, position) + insert + text.slice(position + removed)
    }
    return cut(bytes(text), cuts)
  })

/** One hostile connection through `serveHttp1`, each upstream in memory: what was judged, and what each upstream got. */
async function hostile(pieces: Buffer[]): Promise<{ judged: { method: string; url: string; headers: string[] }; got: string }[]> {
  const seen: { judged: { method: string; url: string; headers: string[] }; got: string }[] = []
  const streams: MemoryStream[] = []
  const door: HttpDoor = {
    open(head) {
      const upstream = new MemoryStream()
      upstream.on('error', () => {})
      streams.push(upstream)
      const entry = { judged: { method: head.method, url: head.target, headers: [...head.headers] }, got: '' }
      seen.push(entry)
      upstream.onWrite = chunk => {
        if (entry.got === '') setImmediate(() => upstream.push('HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok'))
        entry.got += chunk.toString('latin1')
      }
      const stream: UpstreamStream = {
        stream: upstream,
        reusable: false,
        release: () => upstream.destroy(),
        destroy: () => upstream.destroy(),
      }
      return { ok: true, connect: () => stream }
    },
    finished() {},
  }
  const downstream = new MemoryStream()
  const connection = serveHttp1(downstream, door, limits, deadlines)
  for (const piece of pieces) {
    if (downstream.destroyed) break
    downstream.push(piece)
    await turn()
  }
  for (let i = 0; i < 6; i++) await turn()
  connection.close()
  return seen
}
const deadlines = new Deadlines()

t.test('whatever a hostile client sends, an upstream gets one request and it is the one that was judged', async t => {
  let forwarded = 0
  await fc.assert(
    fc.asyncProperty(mutated, async pieces => {
      for (const { judged, got } of await hostile(pieces)) {
        if (got === '') continue
        forwarded++
        const { requests, error } = await nodeReads(bytes(got))
        // node may refuse more (it knows a list of methods); it may never see something else.
        if (error !== undefined && requests.length === 0) continue
        if (requests.length !== 1) throw new Error(`${requests.length} requests in ${JSON.stringify(got)}`)
        const [{ method, url, headers }] = requests as [(typeof requests)[0]]
        const flat = lower(headers)
        const upgrade = flat.indexOf('connection')
        if (upgrade >= 0) flat.splice(upgrade, 4)
        assert.deepEqual({ method, url, headers: flat }, judged)
      }
    }),
    { numRuns: deep ? 50_000 : 1_000 },
  )
  t.ok(forwarded > 300, `${forwarded} requests went through`)
})

/** Pieces of answers that have led clients astray. */
const nastyAnswer = [
  ...nasty,
  'HTTP/1.1 200 OK\r\n',
  'HTTP/1.1 101 Switching Protocols\r\n',
  'HTTP/1.1 100 Continue\r\n\r\n',
  'HTTP/1.1 204 x\r\n\r\n',
  '304',
  '999',
]
const answers = fc
  .tuple(
    fc.constantFrom(
      'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello',
      'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nT: 1\r\n\r\n',
      'HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n',
      'HTTP/1.0 200 OK\r\nServer: x\r\n\r\nto the end',
    ),
    fc.array(fc.tuple(fc.nat(), fc.nat(2), fc.oneof(fc.constantFrom(...nastyAnswer), fc.string({ unit: 'binary-ascii', maxLength: 3 }))), {
      maxLength: 3,
    }),
    fc.array(fc.nat(200), { maxLength: 3 }),
  )
  .map(([seed, edits, cuts]) => {
    let text = seed
    for (const [at, removed, insert] of edits) {
      const position = at % (text.length + 1)
      text = text.slice(0, position) + insert + text.slice(position + removed)
    }
    return cut(bytes(text), cuts)
  })

t.test('whatever a hostile app answers, the next request of the connection gets its own answer', async t => {
  const canary = 'HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary'
  let kept = 0
  await fc.assert(
    fc.asyncProperty(answers, async pieces => {
      const finals: number[] = []
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
          const stream: UpstreamStream = {
            stream: upstream,
            reusable: false,
            release: () => upstream.destroy(),
            destroy: () => upstream.destroy(),
          }
          return { ok: true, connect: () => stream }
        },
        finished: outcome => void finals.push(outcome.status),
      }
      const downstream = new MemoryStream()
      const connection = serveHttp1(downstream, door, limits, deadlines)
      downstream.push(bytes('GET /1 HTTP/1.1\r\nHost: api\r\n\r\nGET /2 HTTP/1.1\r\nHost: api\r\n\r\n'))
      for (let i = 0; i < 8; i++) await turn()
      connection.close()
      // What node's client makes of the first answer ends exactly where the second begins.
      if (!downstream.written.endsWith(canary) || finals.length !== 2) {
        assert.ok(!downstream.written.includes('canary'), 'a connection that cannot go on says nothing more')
        return
      }
      kept++
      const first = await nodeAnswer(downstream.written)
      assert.deepEqual(first, { status: finals[0], rest: canary })
    }),
    { numRuns: deep ? 20_000 : 600 },
  )
  t.ok(kept > 200, `${kept} connections went on`)
})

/** The first final answer as node:http's client reads it; `rest` is what follows it. */
async function nodeAnswer(text: string): Promise<{ status: number | undefined; rest: string }> {
  const stream = new MemoryStream()
  const answered = new Promise<number | undefined>((resolve, reject) => {
    const request = dial({ createConnection: () => stream, method: 'GET', path: '/1' }, response => {
      response.resume()
      response.on('end', () => resolve(response.statusCode))
      response.on('error', reject)
    })
    request.on('error', reject)
    request.end()
  })
  const canaryAt = text.lastIndexOf('HTTP/1.1 200 OK\r\ncontent-length: 6')
  stream.push(bytes(text.slice(0, canaryAt)))
  const status = await Promise.race([answered, new Promise<undefined>(resolve => setTimeout(() => resolve(undefined), 500))])
  stream.destroy()
  return { status, rest: text.slice(canaryAt) }
}

t.test('hostile input leaves memory flat', async t => {
  if (global.gc === undefined) {
    const { setFlagsFromString } = await import('node:v8')
    setFlagsFromString('--expose-gc')
    const { runInNewContext } = await import('node:vm')
    global.gc = runInNewContext('gc') as typeof global.gc
  }
  const inputs = fc.sample(mutated, { numRuns: 500, seed: 7 })
  const run = async (): Promise<void> => {
    for (const pieces of inputs) await hostile(pieces)
  }
  const used = async (): Promise<number> => {
    await turn()
    global.gc!()
    return process.memoryUsage().heapUsed
  }
  await run()
  const before = await used()
  for (let i = 0; i < (deep ? 100 : 4); i++) await run()
  const grown = (await used()) - before
  t.ok(grown < 2 * 1024 * 1024, `grew by ${grown} bytes`)
})

t.test('a valid response is the same to a client of node:http, direct or through us', async t => {
  let message = ''
  const app = createServer(socket => {
    socket.on('data', () => socket.end(message, 'latin1'))
    socket.on('error', () => {})
  })
  const port = await listen(app)
  const served = await serve(port)
  t.teardown(async () => {
    await served.close()
    await new Promise(resolve => app.close(resolve))
  })
  const ask = (port: number, method: string): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const request = dial({ port, host: '127.0.0.1', method, agent: false }, response => {
        let body = ''
        response.on('data', (chunk: Buffer) => (body += chunk.toString('latin1')))
        response.on('end', () => {
          const headers = lower(response.rawHeaders).filter((_, i, flat) => !/^(connection|transfer-encoding)$/.test(flat[i - (i % 2)]!))
          resolve({ status: response.statusCode, headers, body, trailers: lower(response.rawTrailers) })
        })
        response.on('error', reject)
      })
      request.on('error', reject)
      request.end()
    })
  const open = body.map(({ framing, wire, data }) => (framing === '' ? { framing, wire: 'to the end', data } : { framing, wire, data }))
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(200, 201, 204, 302, 304, 404, 500),
      fc.constantFrom('GET', 'HEAD'),
      fields,
      open,
      async (status, method, fields, { framing, wire }) => {
        const lines = fields.map(([name, before, value, after]) => `${name}:${before}${value}${after}\r\n`).join('')
        const bodiless = status === 204 || status === 304 || method === 'HEAD'
        message = `HTTP/1.1 ${status} Some reason\r\n${lines}${status === 204 ? '' : framing}\r\n${bodiless ? '' : wire}`
        assert.deepEqual(await ask(served.port, method), await ask(port, method))
      },
    ),
    { numRuns: deep ? 2_000 : 100 },
  )
})

t.test('node:http as the app sees the same through us as directly', async t => {
  const app = createApp((request, response) => {
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString('latin1')))
    request.on('end', () => {
      const headers = lower(request.rawHeaders).filter((_, i, flat) => flat[i - (i % 2)] !== 'connection')
      response.end(JSON.stringify({ method: request.method, url: request.url, headers, body, trailers: request.rawTrailers }))
    })
  })
  const port = await listen(app)
  const served = await serve(port)
  t.teardown(async () => {
    await served.close()
    app.closeAllConnections()
    await new Promise(resolve => app.close(resolve))
  })
  for (const [method, data] of [
    ['GET', ''],
    ['POST', 'hello'],
    ['PUT', 'x'.repeat(100_000)],
  ] as const) {
    const ask = async (to: number): Promise<string> => {
      const response = await fetch(`http://127.0.0.1:${to}/a?b=c`, {
        method,
        headers: { host: 'api' },
        ...(data === '' ? {} : { body: data }),
      })
      return (await response.text()).replaceAll(`127.0.0.1:${to}`, 'api')
    }
    t.equal(await ask(served.port), await ask(port))
  }
})
