/** HTTP/2 calls from app to app through a sidecar pair, over real sockets: what is passed on, and what is not. */
import type { IncomingHttpHeaders } from 'node:http2'
import t from 'tap'
import { apiId, webId } from '../../support/proxy-scene.ts'
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
      { 'x-tail': 'end', host: 'elsewhere' },
    )
    t.equal(answer.headers[':status'], 200)
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
    t.equal(hints.headers[':status'], 200)
    const head = await ask(session, { ':method': 'HEAD', ':path': '/x' })
    t.strictSame([head.headers[':status'], head.body, head.code], [200, '', 0])
    for (const status of [204, 304]) {
      const answer = await ask(session, { ':path': `/${status}` })
      t.strictSame([answer.headers[':status'], answer.body, answer.code], [status, '', 0])
    }
  })
})
