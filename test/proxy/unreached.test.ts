/**
 * An app that dies while its sidecar lives: the sidecar says that it reached nobody, and whoever asked goes elsewhere, at once and with
 * every request after it. Between our own, to a peer and back from one, through gateways that pass and gateways that end; and what an app or
 * a stranger says of the kind means nothing.
 */
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { connect as connectTls } from 'node:tls'
import t from 'tap'
import { MuxSession } from '../../src/proxy/mux/session.ts'
import { sessionLimits } from '../../src/proxy/sessions.ts'
import { muxProtocol } from '../../src/proxy/tls.ts'
import { listening, startWorld, subsets, type World } from '../support/chain-world.ts'
import { call, endAtGateway, endpointAt, Load, metricOf, startInstance, startScene, until, webId } from '../support/proxy-scene.ts'
import { startWay } from '../support/way.ts'

const mark = 'x-isthmus-app-unreached'
const large = 'x'.repeat(70_000)
const post = (body: string) => ({ method: 'POST', body })

const shop = (...targets: object[]) => ({
  Kind: 'service-resolver',
  Name: 'shop',
  DefaultSubset: 'v1',
  Subsets: subsets,
  Failover: { '*': { Targets: targets } },
})
const toPeer = { Service: 'api', Peer: 'west' }

/** As SIGKILL ends an app: what listens and what is open. */
function kill(app: Server): void {
  app.close()
  app.closeAllConnections()
}

/** Until the pooled streams to it are known to be gone, as they are a moment after it has died. */
const noticed = () => new Promise(resolve => setTimeout(resolve, 20))

async function withChain(world: World, ...targets: object[]): Promise<void> {
  world.tell([shop(...targets)])
  await listening(world)
  t.equal((await call(world.port(), '/')).body, 'v1')
}

t.test('an app dies and its sidecar lives: under load no request is lost, and none goes there any more', async t => {
  const world = await startWorld(t)
  await withChain(world, toPeer)
  const { web } = world.scene
  const app = world.apps['v1']!
  const [serve] = app.listeners('request') as [RequestListener]
  await t.test('an app that says it itself is not believed', async t => {
    let asked = 0
    app.off('request', serve)
    const lie: RequestListener = (_, response) => {
      asked += 1
      response.writeHead(503, { [mark]: '1', 'x-kept': '1' }).end('mine')
    }
    app.on('request', lie)
    const answer = await call(world.port(), '/', post('a'))
    t.match(answer, { status: 503, body: 'mine', headers: { 'x-kept': '1' } })
    t.same([asked, mark in answer.headers], [1, false])
    t.equal(await metricOf(web, 'isthmus_proxy_failover_target'), 0)
    app.off('request', lie)
    app.on('request', serve)
  })
  const load = new Load(() => world.port(), 4)
  await until(() => load.answers.length > 50)
  kill(app)
  await until(() => load.answers.slice(-20).every(({ body }) => body.startsWith('api')))
  await load.stop()
  t.strictSame(load.statuses, { 200: load.answers.length })
  t.equal(await metricOf(web, 'isthmus_proxy_failover_target'), 1)
  t.equal(await metricOf(web, 'isthmus_proxy_ejections_total\\{upstream="[^"]*",cause="app-unreached"[^}]*\\}'), 1)
  const told = () => metricOf(world.sidecars['v1']!, 'isthmus_proxy_requests_total\\{door="inbound",[^}]*class="5xx"[^}]*\\}')
  const before = await told()
  for (const options of [{}, post('a'), post(large)]) t.equal((await call(world.port(), '/', options)).status, 200)
  t.equal(await told(), before, 'it is asked no more')
})

t.test('on to a peer and back to our own, whatever the method, through a gateway that passes and one that ends', async t => {
  for (const ends of [false, true]) {
    const world = await startWorld(t)
    const { scene } = world
    if (ends) {
      endAtGateway(scene)
      await until(async () => (await call(scene.gateway.admin!.port, '/certs')).body.includes('gateway/mesh'))
    }
    await withChain(world, toPeer, { ServiceSubset: 'v2' })
    kill(world.apps['v1']!)
    await noticed()
    if (ends) {
      const lost = await call(world.port(), '/', post(large))
      t.match(lost, { status: 503, body: /reset reason: remote connection failure/ }, 'a body too large to be kept is lost, once')
      t.notOk(mark in lost.headers, 'the app hears nothing of how we speak')
      t.match(await call(world.port(), '/', post(large)), { status: 200, body: 'api POST /' })
    } else {
      t.equal((await call(world.port(), '/', post('not idempotent'))).body, 'api POST /')
      t.equal(scene.apiApp.seen.at(-1)!.body, 'not idempotent')
    }
    scene.apiApp.close()
    await noticed()
    t.match(await call(world.port(), '/', post('a')), { status: 200, body: 'v2' }, ends ? 'the gateway ends' : 'the gateway passes')
    t.equal((await call(world.port(), '/', post(large))).body, 'v2')
    kill(world.apps['v2']!)
    await noticed()
    const began = performance.now()
    t.match(await call(world.port(), '/', post('a')), { status: 503, body: /remote connection failure/ }, 'until nobody is left')
    t.ok(performance.now() - began < 1000)
  }
})

t.test('of two instances behind a gateway one has lost its app: the gateway stays, and the other serves', async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const app = createServer((_, response) => response.end('second'))
  await new Promise<void>(resolve => app.listen(0, '127.0.0.1', resolve))
  t.teardown(() => app.close())
  const second = await startInstance(scene, 'api-2', (app.address() as AddressInfo).port)
  t.teardown(() => second.close())
  const ports = [scene.api, second].map(each => endpointAt(each.port('public')!))
  scene.west.tell('gateway', [['endpoints', 'api', { endpoints: ports }]])
  scene.east.tell('web-sidecar-proxy', [
    ['endpoints', 'api-endpoints', { endpoints: [endpointAt(scene.gateway.port('wan')!)], instances: 2 }],
  ])
  const port = scene.web.port('api?peer=west')!
  const bodies = new Set<string>()
  await until(async () => bodies.add((await call(port, '/')).body).size === 2)
  scene.apiApp.close()
  await noticed()
  for (let i = 0; i < 20; i += 1) t.match(await call(port, '/', post('a')), { status: 200, body: 'second' })
  t.equal(await metricOf(scene.web, 'isthmus_proxy_ejected_endpoints\\{upstream="api\\?peer=west"[^}]*\\}'), 0)
})

t.test('nor is a gateway left out for one of two where nothing is open yet, or where the other one is slow', async t => {
  const { shunMs } = sessionLimits
  Object.assign(sessionLimits, { shunMs: 400 })
  t.teardown(() => Object.assign(sessionLimits, { shunMs }))
  const scene = await startScene()
  t.teardown(() => scene.close())
  let waitMs = 0
  const app = createServer((_, response) => void setTimeout(() => response.end('second'), waitMs))
  await new Promise<void>(resolve => app.listen(0, '127.0.0.1', resolve))
  t.teardown(() => app.close())
  const second = await startInstance(scene, 'api-2', (app.address() as AddressInfo).port)
  t.teardown(() => second.close())
  scene.apiApp.close()
  const ports = [scene.api, second].map(each => endpointAt(each.port('public')!))
  scene.west.tell('gateway', [['endpoints', 'api', { endpoints: ports }]])
  scene.east.tell('web-sidecar-proxy', [
    ['endpoints', 'api-endpoints', { endpoints: [endpointAt((await startWay(t, scene.gateway.port('wan')!, 15)).port)], instances: 2 }],
  ])
  const port = scene.web.port('api?peer=west')!
  t.equal((await call(port, '/', post('a'))).body, 'second', 'the first request of all')
  const told = await metricOf(scene.api, 'isthmus_proxy_requests_total\\{door="inbound",[^}]*class="5xx"[^}]*\\}')
  t.ok(told <= 1, 'does not go the same way again')
  for (let i = 0; i < 10; i += 1) await call(port, '/', post('a'))
  waitMs = 200
  await new Promise(resolve => setTimeout(resolve, 500))
  const answers = await Promise.all(Array.from({ length: 40 }, () => call(port, '/', post('a'))))
  t.strictSame(new Set(answers.map(({ status, body }) => `${status} ${body}`)), new Set(['200 second']), 'many at once')
  t.equal(await metricOf(scene.web, 'isthmus_proxy_ejections_total\\{upstream="[^"]*",cause="app-unreached"[^}]*\\}'), 0)
})

t.test('it is said to one of us and to nobody else', async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  scene.apiApp.close()
  const leaf = await scene.mint.leaf(scene.eastRoot, { san: `URI:${webId}` })
  const identity = { cert: leaf.certPem, key: leaf.keyPem, ca: scene.westRoot.certPem, checkServerIdentity: () => undefined }
  for (const [alpn, told] of [
    [muxProtocol, true],
    ['http/1.1', false],
  ] as const) {
    const socket = connectTls({ port: scene.api.port('public')!, host: '127.0.0.1', ALPNProtocols: [alpn], ...identity })
    t.teardown(() => socket.destroy())
    await new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject))
    const stream = told ? new MuxSession(socket, { role: 'client' }).open()! : socket
    const heard = new Promise<string>(resolve => stream.on('data', (chunk: Buffer) => resolve(chunk.toString())))
    stream.write('GET / HTTP/1.1\r\nhost: api\r\n\r\n', 'latin1')
    const answer = await heard
    t.match(answer, /^HTTP\/1\.1 503 [^]*remote connection failure$/)
    t.equal(answer.includes(`${mark}: 1\r\n`), told, alpn)
  }
})
