import { createServer as createApp, request as dial, type RequestListener } from 'node:http'
import { createServer, type Server, type Socket } from 'node:net'
import autocannon from 'autocannon'
import t, { type Test } from 'tap'
import { defaultHttp1Limits, serveHttp1, type HttpDoor } from '../../../src/proxy/http1/connection.ts'
import { bytes, eventually, listen, once, RawClient, serve, type Served } from './harness.ts'
import { MemoryStream, turn } from './node-reader.ts'

/** An app with node:http behind a served connection. */
async function behind(t: Test, app: RequestListener, options: Parameters<typeof serve>[1] = {}): Promise<Served> {
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
async function raw(
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

const get = (path = '/'): string => `GET ${path} HTTP/1.1\r\nHost: api\r\n\r\n`
const ok = (body: string): string => `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body}`
const good = { status: 200, source: 'app', reason: 'ok', requestBytes: 0, responseBytes: 0, retried: false }

t.test('requests of one connection ride one upstream connection', async t => {
  const served = await behind(t, (request, response) => response.end(`${request.method} ${request.url} ${request.headers['host']}`))
  const client = new RawClient(served.port)
  for (let i = 0; i < 3; i++) {
    client.send(get(`/${i}`))
    await client.until(`GET /${i} api`)
    t.notMatch(client.take().toLowerCase(), /connection:|keep-alive/, 'hop-by-hop fields of the app stay on its hop')
  }
  client.socket.destroy()
  t.strictSame([served.pool.dialled, served.pool.reused, served.pool.released, served.pool.destroyed], [1, 2, 3, 0])
  t.strictSame(
    served.door.outcomes,
    [good, good, good].map(outcome => ({ ...outcome, responseBytes: 10 })),
  )
})

t.test('pipelined requests are answered in order, one at a time', async t => {
  let underway = 0
  const served = await behind(t, (request, response) => {
    t.equal(++underway, 1)
    setTimeout(
      () => {
        underway--
        response.end(`<${request.url}>`)
      },
      request.url === '/0' ? 30 : 1,
    )
  })
  const client = new RawClient(served.port)
  client.send('\r\n' + get('/0') + get('/1') + 'POST /2 HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\nabc' + get('/3').slice(0, 20))
  await client.until('</2>')
  client.send(get('/3').slice(20))
  await client.until('</3>')
  t.strictSame(client.received.match(/<.*?>/g), ['</0>', '</1>', '</2>', '</3>'])
  client.socket.destroy()
})

t.test('a refused request is answered and the next one of the connection goes on', async t => {
  const served = await behind(t, (_, response) => response.end('app'), {
    judge: head => (head.path === '/no' ? { ok: false, status: 403, body: 'RBAC: access denied', reason: 'denied' } : undefined),
  })
  const client = new RawClient(served.port)
  client.send('POST /no HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\nabcHEAD /no HTTP/1.1\r\nHost: api\r\n\r\n' + get('/yes'))
  const received = await client.until('app')
  const denied = 'HTTP/1.1 403 Forbidden\r\ncontent-length: 19\r\ncontent-type: text/plain\r\n\r\n'
  t.ok(received.startsWith(`${denied}RBAC: access denied${denied}HTTP/1.1 200 OK\r\n`))
  t.strictSame(
    served.door.outcomes.map(outcome => [outcome.status, outcome.source, outcome.reason]),
    [
      [403, 'internal', 'denied'],
      [403, 'internal', 'denied'],
      [200, 'app', 'ok'],
    ],
  )
  client.send('POST /no HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\n')
  t.match(
    await client.end(),
    /403 Forbidden\r\ncontent-length: 19\r\ncontent-type: text\/plain\r\nconnection: close\r\n/,
    'a body still to come ends the connection',
  )
})

t.test('ten thousand refused requests in one go neither recurse nor pile up', async t => {
  const served = await behind(t, (_, response) => response.end(), {
    judge: () => ({ ok: false, status: 403, body: 'no', reason: 'denied' }),
  })
  const client = new RawClient(served.port)
  client.send(get().repeat(10_000))
  await client.until(
    received => received.length === 10_000 * 'HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nno'.length,
  )
  t.equal(served.door.outcomes.length, 10_000)
  client.socket.destroy()
})

t.test('a malformed request is answered and ends the connection', async t => {
  const served = await behind(t, (_, response) => response.end('app'))
  const smuggled =
    'POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: api\r\n\r\n'
  t.equal(
    await once(served.port, smuggled),
    'HTTP/1.1 400 Bad Request\r\ncontent-length: 41\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nboth transfer-encoding and content-length',
  )
  t.match(await once(served.port, 'GET / HTTP/1.1\r\n\r\n'), /^HTTP\/1.1 400 .*missing host$/s)
  t.match(await once(served.port, `GET / HTTP/1.1\r\nHost: api\r\nx: ${'y'.repeat(70_000)}`), /^HTTP\/1.1 431 /)
  t.match(await once(served.port, `GET /${'y'.repeat(70_000)}`), /^HTTP\/1.1 414 /)
  t.match(await once(served.port, 'CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n'), /^HTTP\/1.1 501 /)
  t.strictSame(served.door.outcomes, [])
  t.equal(served.door.refused.length, 5)
})

t.test('a body whose chunks break off is refused and its upstream never reused', async t => {
  const served = await behind(t, (request, response) =>
    request
      .resume()
      .on('end', () => response.end('app'))
      .on('error', () => {}),
  )
  const answer = await once(served.port, 'POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n')
  t.match(answer, /^HTTP\/1.1 400 .*connection: close\r\n\r\ninvalid chunk size$/s)
  t.strictSame([served.pool.released, served.pool.destroyed], [0, 1])
})

t.test('HEAD, 204, 304 and interim responses have no body', async t => {
  const served = await behind(t, (request, response) => {
    if (request.url === '/hints') response.writeEarlyHints({ link: '</x>; rel=preload' })
    response.statusCode = request.url === '/304' ? 304 : request.url === '/204' ? 204 : 200
    if (request.method === 'HEAD') response.setHeader('content-length', 100)
    response.end(response.statusCode === 200 && request.method !== 'HEAD' ? 'body' : undefined)
  })
  const client = new RawClient(served.port)
  client.send('HEAD / HTTP/1.1\r\nHost: api\r\n\r\n' + get('/304') + get('/204') + get('/hints') + get('/last'))
  const received = await client.until(text => text.split('body').length === 3)
  t.strictSame(received.match(/HTTP\/1.1 \d+/g), [
    'HTTP/1.1 200',
    'HTTP/1.1 304',
    'HTTP/1.1 204',
    'HTTP/1.1 103',
    'HTTP/1.1 200',
    'HTTP/1.1 200',
  ])
  t.match(received, /content-length: 100\r\n/i)
  t.equal(served.pool.dialled, 1)
  client.socket.destroy()
})

t.test('100-continue is asked of the app and answered by it', async t => {
  const served = await behind(t, (request, response) => {
    let body = ''
    request.on('data', chunk => (body += chunk)).on('end', () => response.end(`got ${body}`))
  })
  const client = new RawClient(served.port)
  client.send('POST / HTTP/1.1\r\nHost: api\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n')
  t.equal(await client.until('\r\n\r\n'), 'HTTP/1.1 100 Continue\r\n\r\n')
  client.send('hello')
  await client.until('got hello')
  t.equal(await once(served.port, 'POST / HTTP/1.1\r\nHost: api\r\nExpect: wonders\r\n\r\n').then(text => text.slice(9, 12)), '417')
  client.socket.destroy()
})

t.test('a chunked answer goes through as it is, and decoded to HTTP/1.0', async t => {
  const served = await behind(t, (_, response) => {
    response.setHeader('trailer', 'x-sum')
    response.write('hello ')
    response.write('world')
    response.addTrailers({ 'x-sum': '42' })
    response.end()
  })
  const client = new RawClient(served.port)
  client.send(get())
  t.match(await client.until('x-sum: 42\r\n\r\n'), /Transfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\nx-sum: 42\r\n\r\n$/)
  client.socket.destroy()
  const old = await once(served.port, 'GET / HTTP/1.0\r\nHost: api\r\nConnection: keep-alive\r\n\r\n')
  t.match(old, /^HTTP\/1.1 200 OK\r\n.*connection: close\r\n\r\nhello world$/s)
  t.notMatch(old, /chunked/i)
})

t.test('HTTP/1.0 with keep-alive is kept alive', async t => {
  const served = await behind(t, (_, response) => response.setHeader('content-length', 3).end('app'))
  const client = new RawClient(served.port)
  const message = 'GET / HTTP/1.0\r\nHost: api\r\nConnection: keep-alive\r\n\r\n'
  client.send(message)
  t.match(await client.until('app'), /connection: keep-alive\r\n\r\napp$/)
  client.take()
  client.send(message)
  await client.until('app')
  client.socket.destroy()
})

t.test('an answer that ends with its connection is chunked for the client, whose connection stays', async t => {
  const served = await raw(t, socket => socket.end('HTTP/1.1 200 OK\r\nserver: old\r\n\r\nall of it'))
  const client = new RawClient(served.port)
  client.send(get())
  t.equal(
    await client.until('0\r\n\r\n'),
    'HTTP/1.1 200 OK\r\nserver: old\r\ntransfer-encoding: chunked\r\n\r\n9\r\nall of it\r\n0\r\n\r\n',
  )
  t.equal(client.ended, false)
  t.equal(served.pool.released, 0)
  client.socket.destroy()
  t.equal(
    await once(served.port, 'GET / HTTP/1.0\r\nHost: api\r\n\r\n'),
    'HTTP/1.1 200 OK\r\nserver: old\r\nconnection: close\r\n\r\nall of it',
  )
})

t.test('an upstream that cannot be reached, or breaks off, is a 503 in the words of Envoy', async t => {
  const text = (reset: string): string => `upstream connect error or disconnect/reset before headers. reset reason: ${reset}`
  const closed = createServer()
  const port = await listen(closed)
  await new Promise(resolve => closed.close(resolve))
  const unreachable = await serve(port)
  t.teardown(() => unreachable.close())
  t.ok(
    (await once(unreachable.port, get().replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'))).endsWith(text('remote connection failure')),
  )
  const breaking = await raw(t, (socket, chunk) => {
    if (chunk.includes('/reset')) socket.resetAndDestroy()
    else if (chunk.includes('/nonsense')) socket.write('HTTP/1.1 2oo OK\r\n')
    else if (chunk.includes('/half')) socket.end('HTTP/1.1 200 OK\r\nA:')
    else socket.end()
  })
  const client = new RawClient(breaking.port)
  for (const [path, status, reset] of [
    ['/end', 503, 'connection termination'],
    ['/reset', 503, 'connection termination'],
    ['/half', 503, 'connection termination'],
    ['/nonsense', 502, 'protocol error'],
  ] as const) {
    client.take()
    client.send(get(path))
    t.match(await client.until(text(reset)), new RegExp(`^HTTP/1.1 ${status} `), path)
  }
  t.equal(client.ended, false, 'the client keeps its connection')
  client.socket.destroy()
  t.equal(breaking.pool.released, 0)
})

t.test('an answer that breaks off breaks the client off', async t => {
  const served = await raw(t, (socket, chunk) => {
    if (chunk.includes('/length')) socket.end('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart')
    else socket.end('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n')
  })
  t.match(await once(served.port, get('/length')), /part$/)
  t.match(await once(served.port, get('/chunked')), /part\r\n$/, 'without its last chunk')
  const old = new RawClient(served.port)
  old.send('GET /chunked HTTP/1.0\r\nHost: api\r\n\r\n')
  t.match(await old.end(), /\r\n\r\n(part)?$/)
  t.equal(old.error, 'ECONNRESET', 'a client that reads to the end is told that it is not the end')
  t.strictSame(
    served.door.outcomes.map(outcome => [outcome.source, outcome.reason]),
    [
      ['upstream', 'upstream-reset'],
      ['upstream', 'upstream-reset'],
      ['upstream', 'upstream-reset'],
    ],
  )
})

t.test('a pooled stream that died is replaced once, where that cannot do anything twice', async t => {
  // Each connection answers once and breaks at its second request.
  const seen: string[] = []
  const counts = new Map<Socket, number>()
  const served = await raw(t, (socket, chunk) => {
    const count = (counts.get(socket) ?? 0) + 1
    counts.set(socket, count)
    seen.push(chunk.slice(0, chunk.indexOf(' HTTP')))
    if (count === 1) socket.write(ok('fine'))
    else socket.destroy()
  })
  const client = new RawClient(served.port)
  const ask = async (message: string, wanted: string): Promise<void> => {
    client.take()
    client.send(message)
    await client.until(wanted)
  }
  await ask(get('/1'), 'fine')
  await ask(get('/2'), 'fine')
  t.equal(served.door.outcomes.at(-1)?.retried, true)
  await ask('POST /3 HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n', 'connection termination')
  await ask(get('/4'), 'fine')
  await ask('PUT /5 HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\nab', 'connection termination')
  t.strictSame(seen, ['GET /1', 'GET /2', 'GET /2', 'POST /3', 'GET /4', 'PUT /5'])
  client.socket.destroy()
})

t.test('a pooled stream that ended while idle is not used, whatever the method', async t => {
  const served: Served = await raw(t, socket => socket.write(ok('fine')), {
    judge: head => void (head.path === '/2' && served.pool.idle[0]!.destroy()),
  })
  const client = new RawClient(served.port)
  client.send(get('/1'))
  await client.until('fine')
  client.take()
  client.send('POST /2 HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\nab')
  await client.until('fine')
  t.strictSame([served.pool.reused, served.pool.dialled], [1, 2])
  client.socket.destroy()
})

t.test('a stream that answers unasked is destroyed and answers nobody', async t => {
  const served = await raw(t, socket => {
    socket.write(ok('first'))
    setTimeout(() => socket.write(ok('forged')), 20)
  })
  const client = new RawClient(served.port)
  client.send(get('/1'))
  await client.until('first')
  await eventually(() => served.pool.idle.length === 0)
  client.take()
  client.send(get('/2'))
  t.match(await client.until('first'), /first$/)
  client.socket.destroy()
})

t.test('an answer with bytes behind it is passed on without them, and its stream is not reused', async t => {
  const served = await raw(t, socket => socket.write(ok('first') + ok('forged')))
  const client = new RawClient(served.port)
  client.send(get('/1') + get('/2'))
  t.equal(await client.until(text => text.split('first').length === 3), ok('first') + ok('first'))
  t.strictSame([served.pool.dialled, served.pool.released, served.pool.destroyed], [2, 0, 2])
  client.socket.destroy()
})

t.test('an answer that comes before the end of its request is given, and ends the connection', async t => {
  const served = await raw(t, (socket, chunk) => {
    if (chunk.startsWith('POST')) socket.write('HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig')
  })
  const client = new RawClient(served.port)
  client.send('POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 1000000\r\n\r\nsome')
  await client.until('big')
  client.send('more')
  t.equal(await client.end(), 'HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig')
  t.strictSame([served.pool.released, served.pool.destroyed], [0, 1])
})

t.test('both bodies may be under way at once', async t => {
  const served = await behind(t, (request, response) => {
    response.write('>')
    request.pipe(response)
  })
  const client = new RawClient(served.port)
  client.send('POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n')
  await client.until('>')
  for (const word of ['one', 'two']) {
    client.send(`3\r\n${word}\r\n`)
    await client.until(word)
  }
  client.send('0\r\n\r\n')
  await client.until('0\r\n\r\n')
  t.equal(served.pool.released, 1)
  client.socket.destroy()
})

t.test('a client that goes away takes its upstream with it', async t => {
  let aborted = 0
  const served = await behind(t, (request, response) => {
    response.on('close', () => (aborted += response.writableFinished ? 0 : 1))
    if (request.url === '/stream') response.write('part')
  })
  for (const [path, leave] of [
    ['/wait', (client: RawClient) => client.socket.resetAndDestroy()],
    ['/wait', (client: RawClient) => client.socket.end()],
    ['/stream', (client: RawClient) => client.socket.resetAndDestroy()],
  ] as const) {
    const before = served.door.outcomes.length
    const client = new RawClient(served.port)
    client.send(get(path))
    if (path === '/stream') await client.until('part')
    else await eventually(() => served.pool.dialled === before + 1)
    leave(client)
    await eventually(() => served.door.outcomes.length === before + 1)
  }
  await eventually(() => aborted >= 2)
  t.strictSame(
    served.door.outcomes.map(({ status, source, reason }) => [status, source, reason]),
    [
      [0, 'downstream', 'client-abort'],
      [0, 'downstream', 'client-abort'],
      [200, 'downstream', 'client-abort'],
    ],
  )
  t.equal(served.pool.released, 0)
})

t.test('timeouts: a slow head, a slow app, an idle connection, a slow body', async t => {
  const served = await behind(t, () => {}, {
    limits: { headTimeoutMs: 60, requestTimeoutMs: 80, idleTimeoutMs: 100, bodyIdleTimeoutMs: 120, lingerMs: 50 },
    judge: head => (head.path === '/long' ? { timeoutMs: 300 } : undefined),
  })
  t.match(await once(served.port, 'GET / HTTP/1.1\r\nHo'), /^HTTP\/1.1 408 .*connection: close\r\n\r\nrequest timeout$/s)
  t.equal(await once(served.port, ''), '', 'an idle connection just ends')
  const client = new RawClient(served.port)
  client.send(get())
  t.match(await client.until('upstream request timeout'), /^HTTP\/1.1 504 /)
  client.socket.destroy()
  const started = Date.now()
  const patient = new RawClient(served.port)
  patient.send(get('/long'))
  await patient.until('upstream request timeout')
  t.ok(Date.now() - started >= 280, 'a door may give a request more time')
  patient.socket.destroy()
  t.match(await once(served.port, 'POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 5\r\n\r\nab'), /^HTTP\/1.1 408 /)
})

t.test('draining ends each connection with its next answer, not before', async t => {
  const served = await behind(t, (_, response) => response.end('app'))
  const client = new RawClient(served.port)
  client.send(get())
  await client.until('app')
  for (const connection of served.connections) connection.drain()
  await new Promise(resolve => setTimeout(resolve, 20))
  t.equal(client.ended, false)
  client.take()
  client.send(get())
  t.match(await client.end(), /connection: close\r\n.*app/s)
})

t.test('an upgrade becomes a tunnel that a new plan can end', async t => {
  const server = createApp()
  server.on('upgrade', (request, socket: Socket, head) => {
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${request.headers['sec-websocket-key']}\r\n\r\n`,
    )
    socket.write(`early:${head.toString()}`)
    socket.on('data', chunk => socket.write(`echo:${chunk.toString()}`))
    socket.on('end', () => socket.end('bye'))
    socket.on('error', () => {})
  })
  const served = await serve(await listen(server))
  t.teardown(async () => {
    await served.close()
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  })
  const ask = 'GET /ws HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n'
  const first = new RawClient(served.port)
  first.send(`${ask}frame`)
  await first.until(text => /early:.*frame/s.test(text) || text.includes('echo:frame'))
  t.match(
    first.received,
    /^HTTP\/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: abc\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n/,
  )
  first.send('one')
  await first.until('echo:one')
  first.socket.end()
  t.match(await first.end(), /bye$/, 'half-close goes through')
  await eventually(() => served.door.outcomes.length === 1)
  t.match(served.door.outcomes[0], { status: 101, source: 'app', reason: 'ok', requestBytes: 8 })

  const second = new RawClient(served.port)
  second.send(ask)
  await second.until('early:')
  for (const connection of served.connections) connection.reauthorize()
  second.send('still')
  await second.until('echo:still')
  served.door.allowed = false
  for (const connection of served.connections) connection.reauthorize()
  await second.end()
  t.match(served.door.outcomes[1], { status: 101, reason: 'denied' })

  const third = new RawClient(served.port)
  third.send(ask)
  await third.until('early:')
  for (const connection of served.connections) connection.close()
  await third.end()
  t.match(served.door.outcomes.slice(2), [{ status: 101, reason: 'closed' }], 'it ends once')
  t.equal(served.pool.released, 0)
})

t.test('an app that switches protocols unasked is a 502', async t => {
  const served = await raw(t, socket => socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'))
  const client = new RawClient(served.port)
  client.send(get())
  t.match(await client.until('protocol error'), /^HTTP\/1.1 502 /)
  client.socket.destroy()
})

t.test('an app that sends interim answers for ever is a 502', async t => {
  const served = await raw(t, socket => socket.write('HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(30)))
  const client = new RawClient(served.port)
  client.send(get())
  t.match(await client.until('protocol error'), /HTTP\/1.1 502 /)
  client.socket.destroy()
})

t.test('10 MiB go up and down with bounded memory, at the pace of the slower side', async t => {
  const size = 10 * 1024 * 1024
  let taken = 0
  const served = await behind(t, (request, response) => {
    // Reads slowly, and answers as much.
    request.on('data', (chunk: Buffer) => {
      taken += chunk.length
      request.pause()
      setTimeout(() => request.resume(), 1)
    })
    request.on('end', () => {
      response.setHeader('content-length', size)
      let sent = 0
      const more = (): void => {
        while (sent < size) {
          const piece = Buffer.alloc(Math.min(65_536, size - sent), 'x')
          sent += piece.length
          if (!response.write(piece)) {
            response.once('drain', more)
            return
          }
        }
        response.end()
      }
      more()
    })
  })
  let buffered = 0
  const watch = setInterval(() => {
    for (const socket of served.sockets) buffered = Math.max(buffered, socket.writableLength + socket.readableLength)
  }, 1)
  t.teardown(() => clearInterval(watch))
  const received = await new Promise<number>((resolve, reject) => {
    const request = dial(
      { port: served.port, host: '127.0.0.1', method: 'POST', headers: { 'transfer-encoding': 'chunked' } },
      response => {
        let count = 0
        response.on('data', (chunk: Buffer) => {
          count += chunk.length
          if (count % 20 !== 0) return
          response.pause()
          setTimeout(() => response.resume(), 1)
        })
        response.on('end', () => resolve(count))
      },
    )
    request.on('error', reject)
    let sent = 0
    const more = (): void => {
      while (sent < size) {
        sent += 65_536
        if (!request.write(Buffer.alloc(65_536, 'y'))) {
          request.once('drain', more)
          return
        }
      }
      request.end()
    }
    more()
  })
  t.equal(taken, size)
  t.equal(received, size)
  t.ok(buffered < 512 * 1024, `at most ${buffered} bytes waited in the client's socket`)
  t.equal(served.door.outcomes[0]?.responseBytes, size)
})

t.test('under load every request is answered and upstream connections are few', async t => {
  const served = await behind(t, (request, response) => {
    let size = 0
    request.on('data', (chunk: Buffer) => (size += chunk.length)).on('end', () => response.end(String(size)))
  })
  const result = await autocannon({
    url: `http://127.0.0.1:${served.port}`,
    connections: 20,
    amount: 4_000,
    requests: [
      { method: 'GET', path: '/a' },
      { method: 'POST', path: '/b', body: 'x'.repeat(20_000) },
    ],
  })
  t.strictSame([result['2xx'], result.non2xx, result.errors, result.timeouts], [4_000, 0, 0, 0])
  t.strictSame(new Set(served.door.outcomes.map(outcome => `${outcome.status} ${outcome.requestBytes}`)), new Set(['200 0', '200 20000']))
  t.ok(served.pool.dialled <= 20, `${served.pool.dialled} connections to the app`)
})

t.test('an exchange is the same when both sides send single bytes', async t => {
  const asked =
    'POST /x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n'
  const answer =
    'HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nKeep-Alive: x\r\nTransfer-Encoding: chunked\r\n\r\n3;z\r\nabc\r\n0\r\nT: 2\r\nHost: no\r\n\r\n'
  const run = async (pieces: (text: string) => string[]): Promise<{ got: string; received: string; released: boolean }> => {
    const upstream = new MemoryStream()
    const client = new MemoryStream()
    let released = false
    let ended = false
    const door: HttpDoor = {
      open: () => ({
        ok: true,
        connect: () => ({ stream: upstream, reusable: false, release: () => void (released = true), destroy: () => upstream.destroy() }),
      }),
      finished: () => void (ended = true),
    }
    const served = serveHttp1(client, door, defaultHttp1Limits)
    for (const piece of pieces(asked)) {
      client.push(bytes(piece))
      await turn()
    }
    for (const piece of pieces(answer)) {
      upstream.push(bytes(piece))
      await turn()
    }
    t.equal(ended, true)
    served.close()
    upstream.destroy()
    return { got: upstream.written, received: client.written, released }
  }
  const expected = {
    got: 'POST /x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n',
    received: 'HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 2\r\n\r\n',
    released: true,
  }
  t.strictSame(await run(text => [text]), expected)
  t.strictSame(await run(text => text.split('')), expected)
  for (let size = 2; size < 30; size++) {
    const pieces = (text: string): string[] =>
      Array.from({ length: Math.ceil(text.length / size) }, (_, i) => text.slice(i * size, (i + 1) * size))
    t.strictSame(await run(pieces), expected, `pieces of ${size}`)
  }
})

t.test('a door may edit answers and add fields to a refusal', async t => {
  const upstream = new MemoryStream()
  const client = new MemoryStream()
  const door: HttpDoor = {
    open: head =>
      head.path === '/no'
        ? { ok: false, status: 429, body: 'later', reason: 'limited', headers: ['retry-after', '1'] }
        : { ok: true, connect: () => ({ stream: upstream, reusable: false, release() {}, destroy: () => upstream.destroy() }) },
    responding: head => head.set('server', 'isthmus'),
    finished() {},
  }
  const served = serveHttp1(client, door, defaultHttp1Limits)
  client.push(bytes(get('/no') + get('/yes')))
  await turn()
  upstream.push(bytes('HTTP/1.1 200 OK\r\nServer: app\r\nContent-Length: 2\r\n\r\nhi'))
  await turn()
  t.equal(
    client.written,
    'HTTP/1.1 429 Too Many Requests\r\ncontent-length: 5\r\ncontent-type: text/plain\r\nretry-after: 1\r\n\r\nlater' +
      'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nserver: isthmus\r\n\r\nhi',
  )
  served.close()
  upstream.destroy()
})
