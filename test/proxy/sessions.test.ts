/** Sessions between real sidecars: how many there are, what ends them, and that no request notices. */
import { Agent, createServer as createHttpServer, request as requestHttp } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { connect, type AddressInfo } from 'node:net'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import { internalSni } from '../../src/mesh/sni.ts'
import { names, type UpstreamResource } from '../../src/mesh/snapshot.ts'
import { serviceId } from '../../src/mesh/spiffe.ts'
import { frame } from '../../src/proxy/mux/frames.ts'
import { defaultMuxLimits, type MuxLimits } from '../../src/proxy/mux/limits.ts'
import { sessionLimits, type SessionLimits } from '../../src/proxy/sessions.ts'
import { startSidecar, type RunningSidecar } from '../../src/proxy/sidecar.ts'
import { muxProtocol } from '../../src/proxy/tls.ts'
import {
  apiId,
  apiSni,
  call,
  eastDomain,
  endpointAt,
  Load,
  metricOf,
  sidecarSelf,
  source,
  startInstance,
  startScene,
  until,
  upstreamOf,
  webId,
  westDomain,
  westGatewayId,
  westResources,
  type Scene,
} from '../support/proxy-scene.ts'
import { startWay } from '../support/way.ts'

t.setTimeout(180_000)

const sessionsOf = (proxy: RunningSidecar) => metricOf(proxy, 'isthmus_proxy_mux_sessions')
const apiPort = (scene: Scene) => scene.web.port('api?peer=west')!
const webRoots = (pem: string, peer = '', trustDomain = eastDomain) => ({ trustDomain, peer, exportedPartition: '', pems: [pem] })
const tellWeb = (scene: Scene, ...ports: number[]) =>
  scene.east.tell('web-sidecar-proxy', [['endpoints', 'api-endpoints', { endpoints: ports.map(port => endpointAt(port)) }]])

/** An app whose answers a test holds back: `/slow` waits for `release`, anything else is answered at once with the app's name. */
async function startApp(t: Test, name = 'app') {
  const held: (() => void)[] = []
  const callers: string[] = []
  let most = 0
  const server = createHttpServer((request, response) => {
    callers.push(`${request.url} ${/URI=([^;,]*)$/.exec(String(request.headers['x-forwarded-client-cert']))?.[1]}`)
    if (!request.url!.startsWith('/slow')) return void response.end(name)
    response.write('begun ')
    held.push(() => response.end(name))
    most = Math.max(most, held.length)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  const release = () => {
    for (const end of held.splice(0)) end()
  }
  return { port: (server.address() as AddressInfo).port, release, callers, held, most: () => most }
}

/** The scene with that app behind `api`. */
async function start(t: Test) {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const app = await startApp(t)
  const tellApi = (more: Parameters<typeof sidecarSelf>[4] = {}, sources = [source('web', 'allow', 'partner-east')]) =>
    scene.west.tell('api-sidecar-proxy', westResources(sidecarSelf('west', 'api', 'http', app.port, more), scene, sources))
  tellApi()
  await until(async () => (await call(apiPort(scene), '/')).body === 'app')
  return { scene, app, tellApi }
}

/** What becomes of a request while it is under way. */
function slow(port: number): { begun: Promise<void>; outcome: Promise<string> } {
  let begun: () => void
  const started = new Promise<void>(resolve => (begun = resolve))
  const outcome = new Promise<string>(resolve => {
    const request = requestHttp({ port, host: '127.0.0.1', path: '/slow', agent: false }, response => {
      let text = ''
      response.on('data', chunk => {
        text += String(chunk)
        begun()
      })
      response.on('end', () => resolve(text))
      response.on('error', () => resolve('broken'))
    })
    request.on('error', () => resolve('failed'))
    request.end()
  })
  return { begun: started, outcome }
}

/** Limits of this process for one test. */
function set<L extends SessionLimits | MuxLimits>(t: Test, defaults: Readonly<L>, limits: Partial<L>): void {
  const before = { ...defaults }
  Object.assign(defaults, limits)
  t.teardown(() => Object.assign(defaults, before))
}

t.test('four sessions to a gateway, and not more however many requests there are', async t => {
  const { scene } = await start(t)
  const load = new Load(() => apiPort(scene), 30)
  await until(async () => (await sessionsOf(scene.web)) === 4)
  await new Promise(resolve => setTimeout(resolve, 300))
  await load.stop()
  t.strictSame([await sessionsOf(scene.web), await sessionsOf(scene.api)], [4, 4])
  t.strictSame(load.statuses, { 200: load.answers.length })
})

t.test('one session to an instance that is reached directly', async t => {
  const { scene } = await start(t)
  const app = await startApp(t, 'local')
  const localId = serviceId(eastDomain, 'east', 'local')
  scene.east.tell('local', [
    ['self', 'local', sidecarSelf('east', 'local', 'http', app.port, { proxyId: 'local' })],
    ['roots', names.localRoots, webRoots(scene.eastRoot.certPem)],
    ['intentions', 'local', { sources: [source('web', 'allow', undefined, 'local')] }],
  ])
  const local = await startSidecar({ proxyId: 'local', agent: { url: scene.east.url }, logger: silentLogger() })
  t.teardown(() => local.close())
  await local.ready()
  const upstream: UpstreamResource = {
    ...upstreamOf('local', 'http', internalSni('local', 'east', eastDomain), localId),
    peer: '',
    spiffeIds: [localId],
  }
  scene.east.tell('web-sidecar-proxy', [
    ['upstream', 'local', upstream],
    ['endpoints', 'local-endpoints', { endpoints: [endpointAt(local.port('public')!)] }],
  ])
  await until(() => scene.web.port('local') !== undefined)
  const before = await sessionsOf(scene.web)
  const load = new Load(() => scene.web.port('local')!, 20)
  await until(() => load.answers.length > 300)
  await load.stop()
  t.strictSame([load.statuses, (await sessionsOf(scene.web)) - before], [{ 200: load.answers.length }, 1])
})

t.test('many requests while the first session is being opened all ride it', async t => {
  const { scene, app } = await start(t)
  // A new upstream of the same place: nothing is open to it yet.
  scene.east.tell('web-sidecar-proxy', [
    ['upstream', 'cold?peer=west', { ...upstreamOf('api', 'http', apiSni, apiId), endpoints: 'api-endpoints' }],
  ])
  await until(() => scene.web.port('cold?peer=west') !== undefined)
  const answers = await Promise.all(Array.from({ length: 400 }, () => call(scene.web.port('cold?peer=west')!, '/cold')))
  t.strictSame([...new Set(answers.map(({ body }) => body))], ['app'])
  t.ok(app.callers.length >= 400)
  const dials = await metricOf(scene.web, 'isthmus_proxy_dials_total\\{upstream="cold[^}]*outcome="ok"[^}]*\\}')
  t.ok(dials >= 1 && dials <= 8, `${dials} connections for 400 requests`)
})

t.test('a server that offers http/1.1 only gets a connection for each request at a time', async t => {
  const { scene } = await start(t)
  const leaf = await scene.mint.leaf(scene.westRoot, { san: `URI:${apiId}` })
  const server = createHttpsServer(
    { cert: leaf.certPem, key: leaf.keyPem, requestCert: true, ca: scene.eastRoot.certPem },
    (_, response) => {
      setTimeout(() => response.end('plain'), 20)
    },
  )
  const sockets = new Set<object>()
  server.on('secureConnection', socket => {
    sockets.add(socket)
    if (socket.alpnProtocol !== 'http/1.1') t.fail(`${socket.alpnProtocol}`)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    server.closeAllConnections()
  })
  tellWeb(scene, (server.address() as AddressInfo).port)
  await until(async () => (await sessionsOf(scene.web)) === 0)
  const before = performance.now()
  for (let i = 0; i < 2; i += 1) {
    const answers = await Promise.all(Array.from({ length: 100 }, () => call(apiPort(scene), '/')))
    t.strictSame([...new Set(answers.map(({ body, status }) => `${status} ${body}`))], ['200 plain'])
  }
  t.ok(performance.now() - before < 5000)
  t.ok(sockets.size <= 110, `${sockets.size} connections for 100 requests at a time`)
  t.equal(await sessionsOf(scene.web), 0)
})

t.test('sessions that grow old are renewed, and no request fails', async t => {
  set(t, sessionLimits, { maxAgeMs: 1000 })
  const { scene, app } = await start(t)
  const load = new Load(() => apiPort(scene), 10)
  const began = await metricOf(scene.gateway, 'isthmus_proxy_connections_total')
  let most = 0
  for (let i = 0; i < 25; i += 1) {
    most = Math.max(most, await sessionsOf(scene.web))
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  // One that is under way longer than its session lives.
  const long = slow(apiPort(scene))
  await long.begun
  await new Promise(resolve => setTimeout(resolve, 2500))
  app.release()
  await load.stop()
  t.equal(await long.outcome, 'begun app')
  t.strictSame(load.statuses, { 200: load.answers.length })
  const opened = (await metricOf(scene.gateway, 'isthmus_proxy_connections_total')) - began
  t.ok(opened >= 8, `${opened} sessions were opened`)
  t.ok(most <= 8, `${most} sessions at a time`)
})

t.test('a renewed leaf opens new sessions, and what is under way on the old ones ends in peace', async t => {
  const { scene, app } = await start(t)
  const load = new Load(() => apiPort(scene), 10)
  await until(async () => (await sessionsOf(scene.web)) === 4)
  const long = slow(apiPort(scene))
  await long.begun
  const before = await metricOf(scene.gateway, 'isthmus_proxy_connections_total')
  const next = await scene.mint.root(eastDomain)
  const both = { ...webRoots(scene.eastRoot.certPem, 'partner-east'), pems: [scene.eastRoot.certPem, next.certPem] }
  scene.west.tell('api-sidecar-proxy', [['roots', 'partner-east', both]])
  const signed = scene.east.signed
  scene.east.root = next
  scene.east.tell('web-sidecar-proxy', [['roots', names.localRoots, webRoots(next.certPem)]])
  await until(() => scene.east.signed > signed)
  // Four new ones, and the old one that still has something under way.
  await until(async () => (await metricOf(scene.gateway, 'isthmus_proxy_connections_total')) - before === 4)
  await until(async () => (await sessionsOf(scene.web)) === 5)
  app.release()
  t.equal(await long.outcome, 'begun app')
  await until(async () => (await sessionsOf(scene.web)) === 4)
  await load.stop()
  t.strictSame(load.statuses, { 200: load.answers.length })
})

t.test('an instance that says go-away is left for another, and no request fails', async t => {
  const { scene, app, tellApi } = await start(t)
  const other = await startApp(t, 'other')
  const instance = await startInstance(scene, 'api2', other.port)
  t.teardown(() => instance.close())
  const endpoints = [scene.api, instance].map(each => endpointAt(each.port('public')!))
  scene.west.tell('gateway', [['endpoints', 'api', { endpoints }]])
  const load = new Load(() => apiPort(scene), 10)
  await until(() => load.answers.some(({ body }) => body === 'other') && load.answers.some(({ body }) => body === 'app'))
  scene.west.tell('gateway', [['endpoints', 'api', { endpoints: [{ ...endpoints[0]!, healthy: false }, endpoints[1]!] }]])
  tellApi({ draining: true })
  await until(() => load.answers.slice(-100).every(({ body }) => body === 'other'))
  await new Promise(resolve => setTimeout(resolve, 200))
  await load.stop()
  t.strictSame(load.statuses, { 200: load.answers.length })
  t.equal(await sessionsOf(scene.api), 0)
  t.ok(app.callers.length > 0)
})

t.test('an instance that drains is empty soon, one that is killed is replaced, and no request fails', async t => {
  const { scene } = await start(t)
  const apps = await Promise.all([1, 2, 3].map(i => startApp(t, `app${i}`)))
  const instances = await Promise.all(apps.map((app, i) => startInstance(scene, `api${i}`, app.port)))
  t.teardown(() => Promise.all(instances.map(instance => instance.close())))
  const endpoints = instances.map(each => endpointAt(each.port('public')!))
  scene.west.tell('gateway', [['endpoints', 'api', { endpoints }]])
  // The one that was there from the start.
  await scene.api.close()
  const load = new Load(() => apiPort(scene), 20)
  t.teardown(() => load.stop())
  await until(() => [1, 2, 3].every(i => load.answers.some(({ body }) => body === `app${i}`)))
  const began = performance.now()
  await instances[0]!.drain(5000)
  // By itself, not because its time is up.
  t.ok(performance.now() - began < 4000, `${Math.round(performance.now() - began)} ms`)
  t.strictSame(load.statuses, { 200: load.answers.length })
  await until(() => load.answers.slice(-100).every(({ body }) => body !== 'app1'))
  await until(async () => (await sessionsOf(scene.web)) === 4)
  await instances[1]!.close()
  await until(() => load.answers.slice(-100).every(({ body }) => body === 'app3'))
  await new Promise(resolve => setTimeout(resolve, 300))
  await load.stop()
  t.strictSame(load.statuses, { 200: load.answers.length })
})

t.test('a caller whose handshake was under way when the sidecar began to drain is told to go as well', async t => {
  const { scene } = await start(t)
  const raw = connect({ port: scene.api.port('public')!, host: '127.0.0.1' })
  await new Promise(resolve => raw.once('connect', resolve))
  await until(async () => (await metricOf(scene.api, 'isthmus_proxy_connections_open')) > 0)
  const drained = scene.api.drain(3000)
  const leaf = await scene.mint.leaf(scene.eastRoot, { san: `URI:${webId}` })
  const identity = { cert: leaf.certPem, key: leaf.keyPem, ca: scene.westRoot.certPem, checkServerIdentity: () => undefined }
  const socket = connectTls({ socket: raw, ALPNProtocols: [muxProtocol], ...identity })
  t.teardown(() => socket.destroy())
  const first = await new Promise<Buffer>((resolve, reject) => socket.once('data', resolve).once('error', reject))
  t.equal(first[1], frame.goAway)
  socket.destroy()
  await drained
})

t.test('an endpoint that is removed keeps what is under way and gets nothing new', async t => {
  const { scene, app } = await start(t)
  await until(async () => (await call(apiPort(scene), '/'), (await sessionsOf(scene.web)) === 4))
  const long = slow(apiPort(scene))
  await long.begun
  tellWeb(scene)
  await until(async () => (await call(apiPort(scene), '/')).status === 503)
  await until(async () => (await sessionsOf(scene.web)) === 1)
  app.release()
  t.equal(await long.outcome, 'begun app')
  await until(async () => (await sessionsOf(scene.web)) === 0)
})

t.test('a plan that no longer accepts the server closes at once, whatever is under way', async t => {
  const { scene } = await start(t)
  const long = slow(apiPort(scene))
  await long.begun
  scene.east.tell('web-sidecar-proxy', [
    ['upstream', 'api?peer=west', { ...upstreamOf('api', 'http', apiSni, apiId), spiffeIds: [westGatewayId] }],
  ])
  t.equal(await long.outcome, 'broken')
  t.equal(await sessionsOf(scene.web), 0)
})

t.test('a caller whose rights end is denied on the streams that it has', async t => {
  const { scene, tellApi } = await start(t)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  for (let i = 0; i < 8; i += 1) t.equal((await call(apiPort(scene), '/', { agent })).status, 200)
  const sessions = await sessionsOf(scene.api)
  tellApi({}, [])
  await until(async () => (await call(apiPort(scene), '/', { agent })).status === 403)
  for (let i = 0; i < 8; i += 1) t.equal((await call(apiPort(scene), '/', { agent })).status, 403)
  t.equal(await sessionsOf(scene.api), sessions, 'on the same sessions')
})

t.test('each stream says who calls, also where two callers come at once', async t => {
  const { scene, app, tellApi } = await start(t)
  tellApi({}, [source('web', 'allow', 'partner-east'), source('shop', 'allow', 'partner-east')])
  scene.east.tell('shop', [
    ['self', 'shop', sidecarSelf('east', 'shop', 'tcp', 1, { proxyId: 'shop' })],
    ['roots', names.localRoots, webRoots(scene.eastRoot.certPem)],
    ['roots', 'west', webRoots(scene.westRoot.certPem, 'west', westDomain)],
    ['intentions', 'shop', { sources: [] }],
    ['upstream', 'api?peer=west', upstreamOf('api', 'http', apiSni, apiId)],
    ['endpoints', 'api-endpoints', { endpoints: [endpointAt(scene.gateway.port('wan')!)] }],
  ])
  const shop = await startSidecar({ proxyId: 'shop', agent: { url: scene.east.url }, logger: silentLogger() })
  t.teardown(() => shop.close())
  await shop.ready()
  await until(async () => (await call(shop.port('api?peer=west')!, '/shop')).status === 200)
  const loads = [
    new Load(
      () => apiPort(scene),
      10,
      () => '/web',
    ),
    new Load(
      () => shop.port('api?peer=west')!,
      10,
      () => '/shop',
    ),
  ]
  await until(() => loads.every(load => load.answers.length > 200))
  await Promise.all(loads.map(load => load.stop()))
  const said = new Set(app.callers.filter(caller => /^\/(web|shop) /.test(caller)))
  t.strictSame([...said].sort(), [`/shop ${serviceId(eastDomain, 'east', 'shop')}`, `/web ${webId}`])
})

t.test('streams count as connections where those are limited', async t => {
  const { scene, app, tellApi } = await start(t)
  await until(async () => (await call(apiPort(scene), '/'), (await sessionsOf(scene.web)) === 4))
  tellApi({ maxInboundConnections: 12 })
  await new Promise(resolve => setTimeout(resolve, 200))
  const calls = Array.from({ length: 20 }, () => slow(apiPort(scene)).outcome)
  await until(() => app.held.length > 0)
  await new Promise(resolve => setTimeout(resolve, 500))
  const most = app.most()
  t.ok(most > 0 && most <= 8, `${most} at a time, besides four sessions`)
  app.release()
  const outcomes = await Promise.all(calls)
  t.equal(outcomes.filter(outcome => outcome === 'begun app').length, most)
  t.ok((await metricOf(scene.api, 'isthmus_proxy_refused_total\\{door="inbound",reason="limit"[^}]*\\}')) >= 20 - most)
})

t.test('a gateway that goes silent in the middle is noticed, and its requests go elsewhere', async t => {
  set(t, defaultMuxLimits, { pingAfterMs: 500, pongWithinMs: 500 })
  const { scene } = await start(t)
  const ways = [await startWay(t, scene.gateway.port('wan')!), await startWay(t, scene.gateway.port('wan')!)] as const
  tellWeb(scene, ways[0].port, ways[1].port)
  const load = new Load(() => apiPort(scene), 10)
  await until(async () => (await sessionsOf(scene.web)) === 8)
  const before = load.answers.length
  ways[0].silence()
  const silentAt = performance.now()
  await until(() => load.answers.slice(before).some(({ tookMs }) => tookMs > 500))
  const noticed = performance.now() - silentAt
  await new Promise(resolve => setTimeout(resolve, 1000))
  await load.stop()
  t.strictSame(load.statuses, { 200: load.answers.length }, 'every one was answered')
  t.ok(noticed < 3000, `noticed after ${Math.round(noticed)} ms; by the defaults ten times as long`)
  const late = load.answers.filter(({ atMs, tookMs }) => atMs - tookMs > silentAt + noticed + 200)
  t.ok(
    late.length > 20 && late.every(({ tookMs }) => tookMs < 500),
    `${Math.max(...late.map(({ tookMs }) => Math.round(tookMs)))} ms at most afterwards`,
  )
  t.equal(await sessionsOf(scene.web), 4)
})

t.test('nothing is left open by a dial that was under way when its upstream was removed', async t => {
  const { scene } = await start(t)
  const way = await startWay(t, scene.gateway.port('wan')!)
  tellWeb(scene, way.port)
  const asked = Promise.allSettled(Array.from({ length: 5 }, () => call(apiPort(scene), '/')))
  await new Promise(resolve => way.server.once('connection', resolve))
  scene.east.tell('web-sidecar-proxy', [['upstream', 'api?peer=west', null]])
  await asked
  await until(async () => (await sessionsOf(scene.web)) === 0)
  await new Promise(resolve => setTimeout(resolve, 200))
  t.strictSame([await sessionsOf(scene.web), await sessionsOf(scene.api)], [0, 0])
})
