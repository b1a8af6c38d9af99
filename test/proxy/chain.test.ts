/**
 * Requests through a chain, in real processes' terms: `shop` in east, whose versions are behind sidecars of their own, and `api` of the peer
 * west behind its gateway. What routes, splits and resolvers say is done, and a target that is lost costs no request.
 */
import { Agent } from 'node:http'
import t from 'tap'
import { nowhere } from '../../src/proxy/chain.ts'
import { RequestHead } from '../../src/proxy/http1/head.ts'
import { defaultHttp1Limits } from '../../src/proxy/http1/limits.ts'
import { ProxyMetrics } from '../../src/proxy/metrics.ts'
import { OutboundHttp, unrouted } from '../../src/proxy/outbound-http.ts'
import { routeLimits } from '../../src/mesh/routing.ts'
import type { RouteFacts } from '../../src/mesh/route-table.ts'
import { silentLogger } from '../../src/lib/log.ts'
import { failoverLimits } from '../../src/mesh/failover.ts'
import { internalSni } from '../../src/mesh/sni.ts'
import { serviceId } from '../../src/mesh/spiffe.ts'
import { chainOf } from '../support/chain-entries.ts'
import { listening, shopId, startWorld, subsets } from '../support/chain-world.ts'
import {
  call,
  converse,
  dbId,
  dbSni,
  eastDomain,
  endpointAt,
  Load,
  metricOf,
  startScene,
  until,
  upstreamOf,
} from '../support/proxy-scene.ts'

t.test('routes, splits and what they do to a request and its answer', async t => {
  const world = await startWorld(t)
  world.tell([
    { Kind: 'service-resolver', Name: 'shop', DefaultSubset: 'v1', Subsets: subsets },
    {
      Kind: 'service-router',
      Name: 'shop',
      Routes: [
        {
          Match: { HTTP: { PathPrefix: '/two', Methods: ['GET'] } },
          Destination: {
            ServiceSubset: 'v2',
            PrefixRewrite: '/',
            RequestHeaders: { Set: { 'x-set': 'b' }, Add: { 'x-add': '1' }, Remove: ['x-secret'] },
            ResponseHeaders: { Set: { 'x-app': 'edited' }, Remove: ['x-drop'] },
          },
        },
        { Match: { HTTP: { Header: [{ Name: 'x-go', Exact: 'west' }] } }, Destination: { Service: 'api', Peer: 'west' } },
      ],
    },
    {
      Kind: 'service-splitter',
      Name: 'shop',
      Splits: [
        { Weight: 50, ServiceSubset: 'v1' },
        { Weight: 50, ServiceSubset: 'v2' },
      ],
    },
  ])
  await listening(world)
  const headers = { 'x-set': 'a', 'x-secret': 's', 'x-kept': 'k', 'x-forwarded-client-cert': 'By=x;URI=spiffe://forged' }
  const routed = await call(world.port(), '/two/a?b=/c', { headers })
  t.match(routed, { status: 200, body: 'v2', headers: { 'x-app': 'edited' } })
  t.notOk('x-drop' in routed.headers)
  const [got] = world.seen['v2']!
  t.match(got, { url: '/a?b=/c', headers: { 'x-set': 'b', 'x-add': '1', 'x-kept': 'k' } })
  t.notOk('x-secret' in got!.headers)
  t.notMatch(got!.headers['x-forwarded-client-cert'], /forged/)
  t.match(await call(world.port(), '/any', { headers: { 'x-go': 'west' } }), { status: 200, body: 'api GET /any' })
  const bodies: string[] = []
  for (let i = 0; i < 60; i += 1) bodies.push((await call(world.port(), '/other')).body)
  const share = bodies.filter(body => body === 'v1').length
  t.ok(share > 10 && share < 50 && bodies.every(body => body === 'v1' || body === 'v2'), `${share} of 60 to v1`)
  t.match(await call(world.port(), '/two/x', { method: 'POST' }), { status: 200 }, 'another method is not that route')
  t.equal((await call(world.port(), '*', { method: 'OPTIONS' })).status, 404, 'what no route takes')
})

t.test('a route has its own tries and its own patience', async t => {
  const world = await startWorld(t)
  const route = (PathExact: string, Destination: object) => ({ Match: { HTTP: { PathExact } }, Destination })
  const Routes = [
    route('/third', { NumRetries: 2, RetryOnStatusCodes: [503] }),
    route('/once', { PrefixRewrite: '/third' }),
    route('/slow', { RequestTimeout: '200ms' }),
    route('/bad', { NumRetries: 4_000_000_000, RetryOnStatusCodes: [503] }),
  ]
  world.tell([
    { Kind: 'service-resolver', Name: 'shop', DefaultSubset: 'v1', Subsets: subsets },
    { Kind: 'service-router', Name: 'shop', Routes },
  ])
  await listening(world)
  t.equal((await call(world.port(), '/third')).status, 200)
  t.equal(world.seen['v1']!.length, 3)
  t.equal((await call(world.port(), '/once')).status, 503, 'nobody asked for more tries')
  t.equal(world.seen['v1']!.length, 4)
  const began = performance.now()
  t.equal((await call(world.port(), '/slow')).status, 504)
  t.ok(performance.now() - began < 2000)
  t.equal((await call(world.port(), '/bad')).status, 503)
  t.equal(world.seen['v1']!.filter(({ url }) => url === '/bad').length, 1 + routeLimits.mostRetries, 'whatever is asked for')
})

t.test('a name becomes a chain and changes again under the requests of one connection', async t => {
  const world = await startWorld(t)
  const { scene } = world
  const resolver = (DefaultSubset: string) => ({
    Kind: 'service-resolver',
    Name: 'shop',
    DefaultSubset,
    Subsets: subsets,
    Failover: { '*': { Service: 'other' } },
  })
  world.tell([resolver('v1')])
  await listening(world)
  const port = world.port()
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  let connections = 0
  agent.on('free', () => {})
  const ask = async () => {
    const { body, headers } = await call(port, '/', { agent })
    connections = Object.values(agent.freeSockets).flat().length
    return headers['connection'] === 'close' ? 'closed' : body
  }
  t.equal(await ask(), 'v1')
  world.tell([resolver('v2')])
  await until(async () => (await ask()) === 'v2')
  const plain = upstreamOf('shop', 'http', internalSni('shop', 'east', eastDomain), shopId)
  scene.east.tell('web-sidecar-proxy', [
    ['upstream', 'shop', { ...plain, peer: '', spiffeIds: [shopId], endpoints: 'shop#v1' }],
    ['chain', 'shop', null],
  ])
  await until(async () => (await ask()) === 'v1')
  t.equal(world.port(), port, 'its listener stays')
  t.equal(connections, 1)
})

t.test('no fail-back: a resolver goes on to a peer when its own are unhealthy, and comes back after a while', async t => {
  const limits = failoverLimits as { failBackMs: number }
  const { failBackMs } = limits
  limits.failBackMs = 400
  t.teardown(() => (limits.failBackMs = failBackMs))
  const world = await startWorld(t)
  const Failover = { '*': { Targets: [{ Service: 'api', Peer: 'west' }] } }
  world.tell([{ Kind: 'service-resolver', Name: 'shop', DefaultSubset: 'v1', Subsets: subsets, Failover }])
  await listening(world)
  t.equal((await call(world.port(), '/')).body, 'v1')
  const load = new Load(() => world.port(), 4)
  t.teardown(() => load.stop())
  const now = async () => (await call(world.port(), '/x')).body
  world.health({ v1: false })
  await until(async () => (await now()) === 'api GET /x')
  t.equal(await metricOf(world.scene.web, 'isthmus_proxy_failover_target'), 1)
  world.health({ v1: true })
  const backSinceMs = performance.now()
  await until(async () => (await now()) === 'v1')
  t.ok(performance.now() - backSinceMs >= 350, 'not at once')
  t.equal(await metricOf(world.scene.web, 'isthmus_proxy_failover_target'), 0)
  await load.stop()
  t.strictSame(load.statuses, { 200: load.answers.length }, 'nobody noticed')
  const changes = (direction: string) => metricOf(world.scene.web, `isthmus_proxy_failovers_total\\{[^}]*direction="${direction}"[^}]*\\}`)
  t.same([await changes('over'), await changes('back')], [1, 1])
  // Nobody asks and nobody looks meanwhile; the counter is read before the gauge, which looks itself.
  world.health({ v1: false })
  await new Promise(resolve => setTimeout(resolve, 100))
  world.health({ v1: true })
  await new Promise(resolve => setTimeout(resolve, 1100))
  t.same([await changes('over'), await changes('back')], [2, 2], 'it does not wait for a request to go back')
})

t.test('a target that cannot be reached costs no request, whatever the catalog says of it', async t => {
  const world = await startWorld(t)
  const Failover = { '*': { Targets: [{ ServiceSubset: 'v2' }, { Service: 'api', Peer: 'west' }] } }
  world.tell([{ Kind: 'service-resolver', Name: 'shop', DefaultSubset: 'v1', Subsets: subsets, Failover }])
  await listening(world)
  t.equal((await call(world.port(), '/')).body, 'v1')
  await world.sidecars['v1']!.close()
  for (let i = 0; i < 5; i += 1) t.match(await call(world.port(), '/'), { status: 200, body: 'v2' })
  await world.sidecars['v2']!.close()
  for (let i = 0; i < 5; i += 1) t.match(await call(world.port(), '/y'), { status: 200, body: 'api GET /y' })
  await world.scene.gateway.close()
  t.equal((await call(world.port(), '/')).status, 503, 'until nobody is left')
})

t.test('bytes go on to a peer as well', async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const failover = { Kind: 'service-resolver', Name: 'db', Failover: { '*': { Targets: [{ Peer: 'west' }] } } }
  const chain = chainOf('db', 'east', eastDomain, [failover])
  const { listen: _, ...peered } = upstreamOf('db', 'tcp', dbSni, dbId)
  const [mine, theirs] = ['db.default.default.east', 'db.default.default.external.west']
  const nobody = { ...peered, peer: '', sni: 'x', spiffeIds: [serviceId(eastDomain, 'east', 'db')], endpoints: 'gone' }
  scene.east.tell('web-sidecar-proxy', [
    ['upstream', 'db/mine', nobody],
    ['upstream', 'db/theirs', peered],
    ['endpoints', 'gone', { endpoints: [endpointAt(1)] }],
    [
      'chain',
      'db',
      { protocol: 'tcp', listen: { address: '127.0.0.1', port: 0 }, chain, targets: { [mine]: 'db/mine', [theirs]: 'db/theirs' } },
    ],
  ])
  await until(() => scene.web.port('db') !== undefined)
  for (let i = 0; i < 2; i += 1) t.same(await converse(scene.web.port('db')!, 'ping'), { heard: 'hello from db\nping', error: '' })
})

t.test('a route sees the caller that was proven, and no other', async t => {
  const requests = new ProxyMetrics('gateway').requests('gateway', 'api')
  for (const caller of [undefined, 'By=a;URI=b']) {
    let seen: readonly string[] = []
    const way = {
      ...nowhere,
      route: ({ headers }: RouteFacts) => {
        seen = headers
        return undefined
      },
    }
    const door = new OutboundHttp({
      name: 'api',
      way: () => way,
      requests,
      logger: silentLogger(),
      source: '',
      ...(caller ? { caller } : {}),
    })
    const head = new RequestHead(defaultHttp1Limits)
    const text = Buffer.from('GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Client-Cert: forged\r\n\r\n')
    head.begin()
    head.parse(text, 0, text.length)
    t.equal(door.open(head), unrouted)
    t.same(seen, ['host', 'a', ...(caller ? ['x-forwarded-client-cert', caller] : [])])
  }
})
