// What goes wrong behind a served connection: dead, slow and lying apps, and what the client is told.
import { createServer, type Socket } from 'node:net'
import t from 'tap'
import { behind, get, ok, raw } from './apps.ts'
import { eventually } from '../../support/until.ts'
import { listen, once, RawClient, serve, type Served } from './harness.ts'

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

t.test('a new stream that dies under its first request is replaced once, where that cannot do anything twice', async t => {
  const last = (start: string) => `${start} HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`
  const alive = new Set<Socket>()
  const served = await raw(t, (socket, chunk) => {
    if (chunk.includes('/never') || alive.size === 0) {
      alive.add(socket)
      socket.destroy()
    } else socket.write(ok('fine'))
  })
  t.match(await once(served.port, last('GET /1')), /^HTTP\/1.1 200 /)
  t.match(await once(served.port, last('GET /never')), /^HTTP\/1.1 503 /)
  alive.clear()
  t.match(await once(served.port, last('POST /3')), /^HTTP\/1.1 503 /)
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

t.test('an app that sends interim answers for ever is a 502', async t => {
  const served = await raw(t, socket => socket.write('HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(30)))
  const client = new RawClient(served.port)
  client.send(get())
  t.match(await client.until('protocol error'), /HTTP\/1.1 502 /)
  client.socket.destroy()
})
