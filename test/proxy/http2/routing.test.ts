/** Calls over HTTP/2 through a chain: routes and their edits, and a target that cannot be reached. */
import t from 'tap'
import { names } from '../../../src/mesh/snapshot.ts'
import { serviceId } from '../../../src/mesh/spiffe.ts'
import { chainOf } from '../../support/chain-entries.ts'
import { apiId, apiSni, eastDomain, endpointAt, until, upstreamOf } from '../../support/proxy-scene.ts'
import { ask, openSession, startApp, startHttp2Scene } from './scene.ts'

t.test('a call takes its route, is edited by it, and goes on to the peer when nobody nearer can be reached', async t => {
  const seen: Record<string, unknown>[] = []
  const app = await startApp((stream, headers) => {
    seen.push(headers)
    stream.respond({ ':status': 200, 'x-drop': '1' })
    if (!stream.writableEnded) stream.end(`api ${headers[':path']}`)
  })
  const scene = await startHttp2Scene(app.port, { protocol: 'http2' })
  const entries = [
    { Kind: 'proxy-defaults', Config: { protocol: 'http2' } },
    { Kind: 'service-resolver', Name: 'shop', Failover: { '*': { Targets: [{ Service: 'api', Peer: 'west' }] } } },
    {
      Kind: 'service-router',
      Name: 'shop',
      Routes: [
        {
          Match: { HTTP: { PathPrefix: '/pkg.', Header: [{ Name: 'x-v', Exact: '2' }] } },
          Destination: {
            Service: 'api',
            Peer: 'west',
            PrefixRewrite: '/new.',
            RequestHeaders: { Set: { 'x-set': 's' }, Remove: ['x-secret'] },
            ResponseHeaders: { Remove: ['x-drop'], Add: { 'x-by': 'route' } },
          },
        },
        { Match: { HTTP: { PathExact: '/none' } }, Destination: { Service: 'nobody' } },
      ],
    },
  ]
  const chain = chainOf('shop', 'east', eastDomain, entries)
  const { listen: _, ...peered } = upstreamOf('api', 'http2', apiSni, apiId)
  const [mine, theirs] = ['shop.default.default.east', 'api.default.default.external.west']
  const own = { ...peered, peer: '', sni: 'x', spiffeIds: [serviceId(eastDomain, 'east', 'shop')], endpoints: 'gone' }
  scene.east.tell('web-sidecar-proxy', [
    ['upstream', names.target('shop', mine), own],
    ['upstream', names.target('shop', theirs), peered],
    ['endpoints', 'gone', { endpoints: [endpointAt(1)] }],
    [
      'chain',
      'shop',
      {
        protocol: 'http2',
        listen: { address: '127.0.0.1', port: 0 },
        chain,
        targets: { [mine]: names.target('shop', mine), [theirs]: names.target('shop', theirs) },
      },
    ],
  ])
  await until(() => scene.web.port('shop') !== undefined)
  const session = openSession(scene.web.port('shop')!)
  t.teardown(async () => {
    session.destroy()
    await scene.close()
    app.close()
  })
  const routed = await ask(session, { ':path': '/pkg.Svc/Do?x=1', 'x-v': '2', 'x-secret': 'k', 'x-set': 'a' })
  t.match(routed, { status: 200, body: 'api /new.Svc/Do?x=1', headers: { 'x-by': 'route' } })
  t.notOk('x-drop' in routed.headers)
  t.match(seen.at(-1), { 'x-set': 's' })
  t.notOk('x-secret' in seen.at(-1)!)
  t.match(
    await ask(session, { ':path': '/pkg.Svc/Do' }),
    { status: 200, body: 'api /pkg.Svc/Do', headers: { 'x-drop': '1' } },
    'failed over',
  )
  t.match(await ask(session, { ':path': '/pkg.Svc/Do' }), { status: 200 })
  t.match(await ask(session, { ':path': '/none' }), { status: 503 }, 'nobody there')
  const denied = await ask(session, { ':method': 'OPTIONS', ':path': '*' })
  t.equal(denied.status, 404)
})
