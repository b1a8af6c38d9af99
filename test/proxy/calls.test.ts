/** Calls from app to app over real sockets: app, sidecar, gateway, sidecar, app; and what changes of the plan do to them. */
import { Agent } from 'node:http'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import {
  apiId,
  call,
  converse,
  dbId,
  dbSni,
  eastDomain,
  endpointAt,
  sidecarSelf,
  source,
  startScene,
  until,
  upstreamOf,
  webId,
  westResources,
  type Scene,
} from '../support/proxy-scene.ts'

const denied = { status: 403, body: 'RBAC: access denied', type: 'text/plain' }
const summary = (answer: Awaited<ReturnType<typeof call>>) => ({
  status: answer.status,
  body: answer.body,
  type: answer.headers['content-type'],
})

function open(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' }, () => resolve(socket))
    socket.once('error', reject)
  })
}

function hears(socket: Socket, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let heard = ''
    const onData = (chunk: Buffer) => {
      heard += chunk.toString()
      if (!heard.includes(text)) return
      socket.off('data', onData)
      resolve()
    }
    socket.on('data', onData)
    socket.once('close', () => reject(new Error(`closed after ${heard}`)))
  })
}

function tellApi(scene: Scene, sources: ReturnType<typeof source>[]): void {
  scene.west.tell('api-sidecar-proxy', [['intentions', 'api', { sources }]])
}

t.test('calls', async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const api = () => scene.web.port('api?peer=west')!
  const db = () => scene.web.port('db?peer=west')!
  const keepAlive = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => keepAlive.destroy())

  await t.test('a request reaches the app of the other cluster, which is told who called', async t => {
    const answer = await call(api(), '/hello?x=1', {
      method: 'POST',
      body: 'body',
      headers: { 'x-forwarded-client-cert': 'By=x;URI=spiffe://forged' },
    })
    t.strictSame(summary(answer), { status: 200, body: 'api POST /hello?x=1', type: 'text/plain' })
    const seen = scene.apiApp.seen.at(-1)!
    t.equal(seen.body, 'body')
    t.match(
      seen.headers['x-forwarded-client-cert'],
      new RegExp(`^By=${apiId};Hash=[0-9a-f]{64};Cert="[^",;]+";Chain="[^",;]+";Subject="";URI=${webId}$`),
    )
  })

  await t.test('bytes reach the app of the other cluster, and half-close passes through every hop', async t => {
    t.strictSame(await converse(db(), 'ping'), { heard: 'hello from db\nping', error: '' })
  })

  await t.test('a large body passes whole both ways', async t => {
    const big = 'x'.repeat(8 * 1024 * 1024)
    const { heard } = await converse(db(), big)
    t.equal(heard.length, big.length + 'hello from db\n'.length)
  })

  await t.test('requests share a few connections to the gateway', async t => {
    for (let i = 0; i < 5; i += 1) await call(api(), '/again', { agent: keepAlive })
    const metrics = (await call(scene.web.admin!.port, '/metrics')).body
    const dials = /isthmus_proxy_dials_total\{upstream="api\?peer=west",outcome="ok",component="sidecar"\} (\d+)/.exec(metrics)
    t.ok(Number(dials?.[1]) <= 4, `${dials?.[1]} connections`)
  })

  await t.test('a new intention applies to the next request of an existing connection, and its end too', async t => {
    t.equal((await call(api(), '/', { agent: keepAlive })).status, 200)
    tellApi(scene, [source('web', 'deny', 'partner-east')])
    await until(async () => (await call(api(), '/', { agent: keepAlive })).status === 403)
    t.strictSame(summary(await call(api(), '/', { agent: keepAlive })), denied)
    tellApi(scene, [source('web', 'allow', 'partner-east')])
    await until(async () => (await call(api(), '/', { agent: keepAlive })).status === 200)
  })

  await t.test('a peer is denied where no intention names it, even if local callers are allowed by default', async t => {
    const self = sidecarSelf('west', 'api', 'http', scene.apiApp.port, { defaultAction: 'allow' })
    scene.west.tell('api-sidecar-proxy', westResources(self, scene, [source('*', 'allow')]))
    await until(async () => (await call(api(), '/')).status === 403)
    t.strictSame(summary(await call(api(), '/')), denied)
    scene.west.tell(
      'api-sidecar-proxy',
      westResources(sidecarSelf('west', 'api', 'http', scene.apiApp.port), scene, [source('web', 'allow', 'partner-east')]),
    )
    await until(async () => (await call(api(), '/')).status === 200)
  })

  await t.test('an upgraded connection passes bytes until an intention forbids it', async () => {
    const socket = await open(api())
    socket.write('GET /ws HTTP/1.1\r\nhost: api\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n')
    await hears(socket, '\r\n\r\n')
    socket.write('over the tunnel')
    await hears(socket, 'over the tunnel')
    const closed = new Promise(resolve => socket.once('close', resolve))
    tellApi(scene, [])
    await closed
    tellApi(scene, [source('web', 'allow', 'partner-east')])
    await until(async () => (await call(api(), '/')).status === 200)
  })

  await t.test('an open tunnel of bytes ends when an intention forbids it, and a denied caller hears nothing of the app', async t => {
    const socket = await open(db())
    await hears(socket, 'hello from db\n')
    const closed = new Promise(resolve => socket.once('close', resolve))
    socket.on('error', () => {})
    scene.west.tell('db-sidecar-proxy', [['intentions', 'db', { sources: [source('web', 'deny', 'partner-east', 'db')] }]])
    await closed
    t.strictSame((await converse(db(), 'ping')).heard, '')
    scene.west.tell('db-sidecar-proxy', [['intentions', 'db', { sources: [source('web', 'allow', 'partner-east', 'db')] }]])
    await until(async () => (await converse(db(), 'ping')).heard !== '')
  })

  await t.test('a caller that waits in silence is let through when an intention allows it', async () => {
    scene.west.tell('db-sidecar-proxy', [['intentions', 'db', { sources: [] }]])
    await until(async () => (await converse(db(), 'ping')).heard === '')
    const socket = await open(db())
    await new Promise(resolve => setTimeout(resolve, 100))
    const greeted = hears(socket, 'hello from db\n')
    scene.west.tell('db-sidecar-proxy', [['intentions', 'db', { sources: [source('web', 'allow', 'partner-east', 'db')] }]])
    await greeted
    socket.destroy()
  })

  await t.test('an upstream comes and goes with the plan, and the others notice nothing', async t => {
    const socket = await open(db())
    await hears(socket, 'hello from db\n')
    scene.east.tell('web-sidecar-proxy', [['upstream', 'more', upstreamOf('db', 'tcp', dbSni, dbId)]])
    await until(() => scene.web.port('more') !== undefined)
    const port = scene.web.port('more')!
    t.equal((await converse(port, 'new')).heard, 'hello from db\nnew')
    const other = await open(port)
    await hears(other, 'hello from db\n')
    const closed = new Promise(resolve => other.once('close', resolve))
    scene.east.tell('web-sidecar-proxy', [['upstream', 'more', null]])
    await closed
    t.equal((await converse(port, 'gone')).error, 'ECONNREFUSED')
    socket.write('still here')
    await hears(socket, 'still here')
    socket.destroy()
  })

  await t.test('a port in use is tried again until it is free, and nothing else suffers', async t => {
    const holder = createServer()
    await new Promise<void>(resolve => holder.listen(0, '127.0.0.1', resolve))
    const { port } = holder.address() as AddressInfo
    const upstream = { ...upstreamOf('db', 'tcp', dbSni, dbId), listen: { address: '127.0.0.1', port } }
    scene.east.tell('web-sidecar-proxy', [['upstream', 'held', upstream]])
    await until(async () =>
      (JSON.parse((await call(scene.web.admin!.port, '/plan')).body) as { upstreams: { name: string }[] }).upstreams.some(
        each => each.name === 'held',
      ),
    )
    t.equal((await call(api(), '/')).status, 200)
    await new Promise(resolve => holder.close(resolve))
    await until(async () => (await converse(port, 'x')).heard === 'hello from db\nx')
    scene.east.tell('web-sidecar-proxy', [['upstream', 'held', null]])
  })

  await t.test('a dead gateway is passed over while another one lives', async t => {
    const live = endpointAt(scene.gateway.port('wan')!)
    const dead = await new Promise<number>(resolve => {
      const server = createServer().listen(0, '127.0.0.1', () => {
        const { port } = server.address() as AddressInfo
        server.close(() => resolve(port))
      })
    })
    scene.east.tell('web-sidecar-proxy', [['endpoints', 'db-endpoints', { endpoints: [endpointAt(dead), live] }]])
    await until(async () => (await call(scene.web.admin!.port, '/plan')).body.includes(`e${dead}`))
    for (let i = 0; i < 4; i += 1) t.equal((await converse(db(), 'x')).heard, 'hello from db\nx')
    scene.east.tell('web-sidecar-proxy', [['endpoints', 'db-endpoints', { endpoints: [endpointAt(dead, false)] }]])
    await until(async () => (await converse(db(), 'x')).error === 'ECONNRESET')
    scene.east.tell('web-sidecar-proxy', [['endpoints', 'db-endpoints', { endpoints: [live] }]])
    await until(async () => (await converse(db(), 'x')).error === '')
  })

  await t.test('an upstream without a healthy endpoint answers 503', async t => {
    const endpoints = [endpointAt(scene.gateway.port('wan')!)]
    scene.east.tell('web-sidecar-proxy', [
      ['endpoints', 'api-endpoints', { endpoints: endpoints.map(each => ({ ...each, healthy: false })) }],
    ])
    await until(async () => (await call(api(), '/')).status === 503)
    t.equal((await call(api(), '/')).body, 'no healthy upstream')
    scene.east.tell('web-sidecar-proxy', [['endpoints', 'api-endpoints', { endpoints }]])
    await until(async () => (await call(api(), '/')).status === 200)
  })

  await t.test('a service that is no longer exported loses its tunnels, and its name is as unknown as any other', async t => {
    const socket = await open(db())
    socket.on('error', () => {})
    await hears(socket, 'hello from db\n')
    const closed = new Promise(resolve => socket.once('close', resolve))
    scene.west.tell('gateway', [['exported', dbSni, null]])
    await closed
    t.equal((await converse(db(), 'x')).error, 'ECONNRESET')
    scene.west.tell('gateway', [['exported', dbSni, { sni: dbSni, service: 'db', peer: 'partner-east', endpoints: 'db' }]])
    await until(async () => (await converse(db(), 'x')).error === '')
  })

  await t.test('a root that a peer has given up takes the connections that it vouched for with it', async t => {
    const roots = (pem: string) => ({ trustDomain: eastDomain, peer: 'partner-east', exportedPartition: '', pems: [pem] })
    const socket = await open(db())
    socket.on('error', () => {})
    await hears(socket, 'hello from db\n')
    const closed = new Promise(resolve => socket.once('close', resolve))
    const next = await scene.mint.root(eastDomain)
    scene.west.tell('db-sidecar-proxy', [['roots', 'partner-east', roots(next.certPem)]])
    await closed
    t.equal((await converse(db(), 'x')).heard, '')
    scene.west.tell('db-sidecar-proxy', [['roots', 'partner-east', roots(scene.eastRoot.certPem)]])
    await until(async () => (await converse(db(), 'x')).heard !== '')
  })

  await t.test('callers of a peer that is gone lose their connections at once', async t => {
    const socket = await open(db())
    socket.on('error', () => {})
    await hears(socket, 'hello from db\n')
    const closed = new Promise(resolve => socket.once('close', resolve))
    scene.west.tell('db-sidecar-proxy', [['roots', 'partner-east', null]])
    await closed
    t.equal((await converse(db(), 'x')).heard, '')
  })

  await t.test('everything goes on while the agents are down', async t => {
    await Promise.all([scene.east.stop(), scene.west.stop()])
    t.equal((await call(api(), '/', { agent: keepAlive })).status, 200)
    t.equal((await call(api(), '/')).status, 200)
    t.equal((await call(scene.web.admin!.port, '/ready')).body, 'LIVE\n')
  })
})
