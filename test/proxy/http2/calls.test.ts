/** HTTP/2 calls from app to app through a sidecar pair, over real sockets: what is passed on, and what is not. */
import { constants, type IncomingHttpHeaders } from 'node:http2'
import t from 'tap'
import { apiId, source, until, webId } from '../../support/proxy-scene.ts'
import { block, endHeaders, frame, frames, RawClient, request } from './frames.ts'
import { ask, openSession, startApp, startHttp2Scene } from './scene.ts'

t.test('calls', async t => {
  const seen: { headers: IncomingHttpHeaders; body: string; trailers: IncomingHttpHeaders }[] = []
  const app = await startApp((stream, headers) => {
    const chunks: Buffer[] = []
    let trailers: IncomingHttpHeaders = {}
    stream.on('trailers', got => (trailers = got))
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('end', () => {
      seen.push({ headers, body: Buffer.concat(chunks).toString(), trailers })
      const path = headers[':path']!
      const status = Number(/^\/(\d+)$/.exec(path)?.[1] ?? 200)
      if (path === '/hints') stream.additionalHeaders({ ':status': 103, link: '</a>; rel=preload' })
      if (path === '/trailers') {
        stream.respond({ ':status': 200 }, { waitForTrailers: true })
        stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': '7', 'x-forwarded-client-cert': 'forged', 'content-type': 'no' }))
        stream.end('with trailers')
        return
      }
      stream.respond({ ':status': status, 'content-type': 'text/plain', 'set-cookie': ['a=1', 'b=2'], 'x-bytes': 'caf\xe9' })
      if (!stream.writableEnded) stream.end(`api ${headers[':method']} ${path}`)
    })
  })
  const scene = await startHttp2Scene(app.port, { protocol: 'http2' })
  const session = openSession(scene.port)
  t.teardown(async () => {
    session.destroy()
    await scene.close()
    app.close()
  })

  await t.test('a request reaches the app of the other cluster, which is told who called and not what the caller claims', async t => {
    const answer = await ask(
      session,
      {
        ':method': 'POST',
        ':path': '/hello?x=1',
        'x-forwarded-client-cert': 'By=x;URI=spiffe://forged',
        x_forwarded_client_cert: 'By=x;URI=spiffe://forged',
        'proxy-authorization': 'secret',
        te: 'trailers',
        'x-many': ['a', 'b'],
        cookie: ['c=1', 'd=2'],
        'x-bytes': 'caf\xe9',
      },
      'body',
      { 'x-tail': 'end', authorization: 'late' },
    )
    t.equal(answer.status, 200)
    t.equal(answer.body, 'api POST /hello?x=1')
    t.strictSame(answer.headers['set-cookie'], ['a=1', 'b=2'])
    t.equal(answer.headers['x-bytes'], 'caf\xe9')
    const got = seen.at(-1)!
    t.equal(got.body, 'body')
    t.equal(got.headers['x-many'], 'a, b')
    t.equal(got.headers.cookie, 'c=1; d=2')
    t.equal(got.headers['x-bytes'], 'caf\xe9')
    t.equal(got.headers.te, 'trailers')
    t.equal(got.headers['proxy-authorization'], undefined)
    t.equal(got.headers.x_forwarded_client_cert, undefined)
    t.strictSame(Object.entries(got.trailers), [['x-tail', 'end']], 'trailers arrive, without those that decide on anything')
    t.equal(got.headers[':authority'], `127.0.0.1:${scene.port}`)
    t.match(
      got.headers['x-forwarded-client-cert'],
      new RegExp(`^By=${apiId};Hash=[0-9a-f]{64};Cert="[^",;]+";Chain="[^",;]+";Subject="";URI=${webId}$`),
    )
  })

  await t.test('trailers of the app reach the caller, without those that decide on anything', async t => {
    const answer = await ask(session, { ':path': '/trailers' })
    t.equal(answer.body, 'with trailers')
    t.strictSame(Object.entries(answer.trailers), [['x-sum', '7']])
  })

  await t.test('interim responses, HEAD, 204 and 304 pass', async t => {
    const hints = await ask(session, { ':path': '/hints' })
    t.strictSame(
      hints.interims.map(each => [each[':status'], each.link]),
      [[103, '</a>; rel=preload']],
    )
    t.equal(hints.status, 200)
    const head = await ask(session, { ':method': 'HEAD', ':path': '/x' })
    t.strictSame([head.status, head.body, head.code], [200, '', 0])
    for (const status of [204, 304]) {
      const answer = await ask(session, { ':path': `/${status}` })
      t.strictSame([answer.status, answer.body, answer.code], [status, '', 0])
    }
  })

  await t.test('what two programs could read differently is refused, and the connection goes on', async t => {
    const told = async (headers: Record<string, string>) => {
      const answer = await ask(session, { ':path': '/', ...headers })
      return [answer.status, answer.body]
    }
    const before = seen.length
    t.strictSame(await told({ ':authority': 'api', host: 'elsewhere' }), [400, 'host differs from the request target'])
    t.strictSame(await told({ ':authority': 'api:x' }), [400, 'invalid host'])
    t.strictSame(await told({ ':scheme': 'ftp' }), [400, 'malformed request line'])
    t.strictSame(await told({ ':path': '/a\\b' }), [400, 'invalid request target'])
    t.strictSame(await told({ ':path': '/a#b' }), [400, 'invalid request target'])
    t.strictSame(await told({ ':path': `/${'x'.repeat(17_000)}` }), [414, 'request target too long'])
    t.strictSame(await told({ ':method': 'get' }), [400, 'invalid method token'])
    t.strictSame(await told({ content_length: '3' }), [400, 'underscore in a framing field'])
    t.strictSame(await told({ expect: 'the-best' }), [417, 'unknown expectation'])
    t.strictSame(await told({ ':path': '/a%00b' }), [400, 'malformed request path'])
    t.equal(seen.length, before)
    t.equal((await ask(session, { ':path': '/' })).status, 200)
  })

  await t.test('CONNECT is refused, the extended one too', async t => {
    const client = new RawClient(scene.port)
    client.send(
      frame(
        frames.headers,
        endHeaders,
        1,
        block([
          [':method', 'CONNECT'],
          [':authority', 'db:5432'],
        ]),
      ),
    )
    await until(() => client.heard.some(each => each.type === frames.data && each.stream === 1))
    t.match(client.heard.find(each => each.type === frames.data)!.payload.toString(), 'connect is not supported')
    client.send(frame(frames.headers, endHeaders, 3, request('/chat', [], 'CONNECT', [[':protocol', 'websocket']])))
    await until(() => client.reset(3) !== undefined)
    t.equal(client.reset(3), constants.NGHTTP2_PROTOCOL_ERROR)
    client.socket.destroy()
  })

  await t.test('a denial is a 403, and a flip of the intentions holds on the connection that is there', async t => {
    scene.tell([])
    await until(async () => (await ask(session, { ':path': '/' })).status === 403)
    const answer = await ask(session, { ':path': '/', ':method': 'POST' }, 'x'.repeat(100_000))
    t.strictSame([answer.status, answer.body, answer.headers['content-type']], [403, 'RBAC: access denied', 'text/plain'])
    const grpc = await ask(session, { ':path': '/', ':method': 'POST', 'content-type': 'application/grpc' }, 'x')
    t.match(grpc.headers, {
      ':status': 200,
      'content-type': 'application/grpc',
      'grpc-status': '7',
      'grpc-message': encodeURI('RBAC: access denied'),
    })
    scene.tell([source('web', 'allow', 'partner-east')])
    await until(async () => (await ask(session, { ':path': '/' })).status === 200)
  })

  await t.test('an app that cannot be reached is a 503', async t => {
    scene.tellSelf({ app: { address: '127.0.0.1', port: 1 } })
    await until(async () => (await ask(session, { ':path': '/' })).status === 503)
    t.match((await ask(session, { ':path': '/' })).body, 'reset reason: remote connection failure')
    scene.tellSelf({})
    await until(async () => (await ask(session, { ':path': '/' })).status === 200)
  })
})
