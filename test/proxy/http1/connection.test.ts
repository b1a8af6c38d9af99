// One downstream connection over real sockets: keep-alive, pipelining, limits, drain.
import t from 'tap'
import { defaultHttp1Limits, serveHttp1, type HttpDoor } from '../../../src/proxy/http1/connection.ts'
import { behind, get, raw } from './apps.ts'
import { bytes, once, RawClient } from './harness.ts'
import { MemoryStream, turn } from './node-reader.ts'

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
    // One after the other, or newer Nodes put both into one chunk.
    response.write('hello ', () =>
      response.write('world', () => {
        response.addTrailers({ 'x-sum': '42' })
        response.end()
      }),
    )
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
