/** Against node:http: what is generated valid is read the same by both, and whatever we let through, node reads as what was judged. */
import assert from 'node:assert/strict'
import { createServer as createApp, request as dial } from 'node:http'
import { createServer } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import { answerDisagreements, compareAnswers, compareRequests, requestDisagreements, Tally } from './disagreements.ts'
import { bytes, listen, parseRequest, serve } from './harness.ts'
import { canary, hostileAnswers, hostileRequests, nodeAnswer, nodeReadings, weAnswer, weRead, type Reading } from './hostile.ts'
import { nodeReads, turn } from './node-reader.ts'

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
    { numRuns: deep ? 20_000 : 200 },
  )
})

t.test(
  'whatever a hostile client sends, an upstream gets one request and it is the one that was judged, as node:http reads it or not at all',
  async t => {
    const tally = new Tally(requestDisagreements)
    await fc.assert(
      fc.asyncProperty(hostileRequests, async pieces => {
        const { forwarded, stopped } = await weRead(pieces)
        const ours: Reading[] = []
        for (const { judged, got } of forwarded) {
          if (got === '') continue
          const { requests, error } = await nodeReads(bytes(got))
          // node may refuse more (it knows a list of methods); it may never see something else.
          if (error !== undefined && requests.length === 0) {
            ours.push({ method: judged.method, url: judged.url, body: error })
            continue
          }
          if (requests.length !== 1) throw new Error(`${requests.length} requests in ${JSON.stringify(got)}`)
          const [{ method, url, headers, body, complete }] = requests as [(typeof requests)[0]]
          const flat = lower(headers)
          const upgrade = flat.indexOf('connection')
          if (upgrade >= 0) flat.splice(upgrade, 4)
          assert.deepEqual({ method, url, headers: flat }, judged)
          if (complete) ours.push({ method, url, body, chunked: flat.includes('transfer-encoding') })
        }
        tally.count(compareRequests({ whole: ours, stopped }, await nodeReadings(pieces)))
      }),
      { numRuns: deep ? 200_000 : 2_000 },
    )
    tally.report(t, deep)
  },
)

t.test(
  'whatever a hostile app answers, the next request of the connection gets its own answer, and the first what node:http reads or none',
  async t => {
    const tally = new Tally(answerDisagreements)
    let kept = 0
    await fc.assert(
      fc.asyncProperty(hostileAnswers, async pieces => {
        const { told, outcomes } = await weAnswer(pieces)
        const [first] = outcomes as [(typeof outcomes)[0]]
        const goesOn = told.endsWith(canary) && outcomes.length === 2
        if (goesOn) kept++
        else assert.ok(!told.includes('canary'), 'a connection that cannot go on says nothing more')
        const ours = await nodeAnswer(goesOn ? told.slice(0, -canary.length) : told)
        assert.equal(ours.status, first.status, 'what we say is what node:http reads of it')
        if (goesOn) assert.ok(ours.complete, 'the first answer ends where the second begins')
        const refused = first.reason === 'ok' ? undefined : first.reason
        tally.count(compareAnswers(ours, await nodeAnswer(Buffer.concat(pieces)), refused))
      }),
      { numRuns: deep ? 100_000 : 1_000 },
    )
    t.ok(kept > 200, `${kept} connections went on`)
    tally.report(t, deep)
  },
)

t.test('hostile input leaves memory flat', async t => {
  if (global.gc === undefined) {
    const { setFlagsFromString } = await import('node:v8')
    setFlagsFromString('--expose-gc')
    const { runInNewContext } = await import('node:vm')
    global.gc = runInNewContext('gc') as typeof global.gc
  }
  const inputs = fc.sample(hostileRequests, { numRuns: 500, seed: 7 })
  const run = async (): Promise<void> => {
    for (const pieces of inputs) await weRead(pieces)
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
