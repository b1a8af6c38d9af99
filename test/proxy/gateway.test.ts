/** The gateway as a router of bytes: resets, half-close, failover, time limits, and what a change of the plan does to its tunnels. */
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import { compile, resourceKey, type GatewayPlan, type Plan } from '../../src/mesh/plan.ts'
import { peeringServerName } from '../../src/mesh/sni.ts'
import { names, type Endpoint, type Resource } from '../../src/mesh/snapshot.ts'
import { Gateway, type GatewayLimits } from '../../src/proxy/gateway.ts'
import { ProxyMetrics } from '../../src/proxy/metrics.ts'
import { apiSni, dbSni, endpointAt, gatewaySelf, until, westDomain } from '../support/proxy-scene.ts'

const serverSni = peeringServerName(gatewaySelf().datacenter, westDomain)

/** A ClientHello as Node sends it, for a name. */
function helloFor(servername: string): Promise<Buffer> {
  return new Promise(resolve => {
    const server = createServer(socket =>
      socket.once('data', hello => {
        socket.destroy()
        server.close()
        resolve(hello)
      }),
    )
    server.listen(0, '127.0.0.1', () => {
      connectTls({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', servername }).on('error', () => {})
    })
  })
}

/** An endpoint that hears everything and says only what a test says. */
async function endpoint(t: Test): Promise<{ port: number; sockets: Socket[]; server: Server; heard: () => Buffer }> {
  const sockets: Socket[] = []
  const chunks: Buffer[] = []
  const server = createServer({ allowHalfOpen: true }, socket => {
    sockets.push(socket)
    socket.on('error', () => {})
    socket.on('data', chunk => chunks.push(chunk))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { port: (server.address() as AddressInfo).port, sockets, server, heard: () => Buffer.concat(chunks) }
}

async function start(t: Test, limits: Partial<GatewayLimits> = {}) {
  const metrics = new ProxyMetrics('gateway')
  const gateway = new Gateway({ metrics, logger: silentLogger(), limits })
  t.teardown(() => gateway.close())
  let previous: Plan | undefined
  let version = 0
  /** Routes by SNI. */
  const route = async (routes: Record<string, Endpoint[]>) => {
    const resources = new Map<string, Resource>()
    const add = (resource: Omit<Resource, 'version'>) =>
      resources.set(resourceKey(resource), { ...resource, version: String(version++) } as Resource)
    add({ kind: 'self', name: 'gateway', value: gatewaySelf() })
    add({ kind: 'roots', name: names.localRoots, value: { trustDomain: westDomain, peer: '', exportedPartition: '', pems: [] } })
    for (const [sni, endpoints] of Object.entries(routes)) {
      if (sni === serverSni) add({ kind: 'server', name: sni, value: { sni, service: 'consul', peer: '', endpoints: sni } })
      else add({ kind: 'exported', name: sni, value: { sni, service: 'api', peer: 'partner-east', endpoints: sni } })
      add({ kind: 'endpoints', name: sni, value: { endpoints } })
    }
    previous = compile(resources, previous, version)
    await gateway.update(previous as GatewayPlan, () => {})
  }
  const dial = () =>
    new Promise<{ socket: Socket; heard: () => string; end: Promise<string> }>(resolve => {
      const socket = connect({ port: gateway.port('wan')!, host: '127.0.0.1', allowHalfOpen: true })
      let text = ''
      let error = ''
      socket.on('data', chunk => {
        text += chunk.toString()
      })
      socket.on('error', failure => {
        error = (failure as NodeJS.ErrnoException).code!
      })
      const end = new Promise<string>(done => socket.on('close', () => done(error)))
      // A reset may come before the client has noticed that it was accepted.
      for (const event of ['connect', 'close']) socket.once(event, () => resolve({ socket, heard: () => text, end }))
    })
  return { gateway, metrics, route, dial }
}

const open = (metrics: ProxyMetrics) => metrics.gauges.open.get('gateway')!()

t.test('bytes pass untouched, hello first, and each half closes by itself', async t => {
  const { route, dial, metrics } = await start(t)
  const target = await endpoint(t)
  await route({ [apiSni]: [endpointAt(target.port)] })
  const hello = await helloFor(apiSni)
  const client = await dial()
  for (const byte of hello.subarray(0, 20)) client.socket.write(Buffer.from([byte]))
  client.socket.write(hello.subarray(20))
  await until(() => target.heard().length === hello.length)
  t.strictSame(target.heard(), hello)
  client.socket.end('last words')
  await until(() => target.heard().toString('latin1').endsWith('last words'))
  const [socket] = target.sockets
  await until(() => socket!.readableEnded)
  socket!.write('an answer after the end')
  await until(() => client.heard() === 'an answer after the end')
  socket!.end()
  t.equal(await client.end, '')
  await until(() => open(metrics) === 0)
})

t.test('a reset of either side resets the other', async t => {
  const { route, dial } = await start(t)
  const target = await endpoint(t)
  await route({ [apiSni]: [endpointAt(target.port)] })
  const client = await dial()
  client.socket.write(await helloFor(apiSni))
  await until(() => target.sockets.length === 1)
  target.sockets[0]!.resetAndDestroy()
  t.equal(await client.end, 'ECONNRESET')
})

t.test('a slow reader slows the sender down', async t => {
  const { route, dial } = await start(t)
  const target = await endpoint(t)
  await route({ [apiSni]: [endpointAt(target.port)] })
  const client = await dial()
  client.socket.write(await helloFor(apiSni))
  await until(() => target.sockets.length === 1)
  target.sockets[0]!.pause()
  const before = process.memoryUsage().arrayBuffers
  let accepted = 0
  const block = Buffer.alloc(1024 * 1024)
  for (let i = 0; i < 64; i += 1) {
    client.socket.write(block, () => {
      accepted += 1
    })
  }
  await new Promise(resolve => setTimeout(resolve, 300))
  t.ok(accepted < 32, `${accepted} of 64 MiB were taken from a client whose server does not read`)
  t.ok(process.memoryUsage().arrayBuffers - before < 200 * 1024 * 1024)
  target.sockets[0]!.resume()
  await until(() => accepted === 64)
  client.socket.destroy()
})

t.test('names are matched whatever their case, each to its own endpoints, healthy ones in turn', async t => {
  const { route, dial } = await start(t)
  const [one, two, other, ill] = [await endpoint(t), await endpoint(t), await endpoint(t), await endpoint(t)]
  await route({ [apiSni]: [endpointAt(one.port), endpointAt(two.port), endpointAt(ill.port, false)], [dbSni]: [endpointAt(other.port)] })
  const hello = await helloFor(apiSni.toUpperCase())
  for (let i = 0; i < 4; i += 1) (await dial()).socket.write(hello)
  await until(() => one.sockets.length + two.sockets.length === 4)
  t.strictSame(
    [one, two, other, ill].map(each => each.sockets.length),
    [2, 2, 0, 0],
  )
})

t.test('a new connection goes where the fewest are for the weight; one that has ended its half is not counted', async t => {
  const { route, dial } = await start(t)
  const targets = [await endpoint(t), await endpoint(t), await endpoint(t)]
  const counts = () => targets.map(each => each.sockets.length)
  const hello = await helloFor(apiSni)
  const clients: Socket[] = []
  const connectOne = async () => {
    const before = counts().reduce((sum, count) => sum + count, 0)
    const { socket } = await dial()
    clients.push(socket)
    socket.write(hello)
    await until(() => counts().reduce((sum, count) => sum + count, 0) > before)
  }
  const [a, b, c] = targets.map(each => endpointAt(each.port)) as [Endpoint, Endpoint, Endpoint]
  await route({ [apiSni]: [a] })
  for (let i = 0; i < 4; i += 1) await connectOne()
  await route({ [apiSni]: [a, b, { ...c, weight: 2 }] })
  for (let i = 0; i < 12; i += 1) await connectOne()
  t.strictSame(counts(), [4, 4, 8])
  // Two leave: one breaks off, one ends its half while the other side still has something to say.
  clients[0]!.destroy()
  clients[1]!.end()
  await until(() => targets[0]!.sockets.filter(socket => socket.destroyed || socket.readableEnded).length === 2)
  for (let i = 0; i < 2; i += 1) await connectOne()
  t.strictSame(counts(), [6, 4, 8])
  // What is unhealthy or has no weight gets none, however few it has.
  await route({ [apiSni]: [{ ...a, healthy: false }, { ...b, weight: 0 }, c] })
  await connectOne()
  t.strictSame(counts(), [6, 4, 9])
})

t.test('connections that come at once are counted while they are being opened, and go round where nobody stays', async t => {
  const { route, dial } = await start(t)
  const targets = [await endpoint(t), await endpoint(t), await endpoint(t), await endpoint(t)]
  const hello = await helloFor(apiSni)
  await route({ [apiSni]: targets.map(each => endpointAt(each.port)) })
  await Promise.all(Array.from({ length: 40 }, async () => (await dial()).socket.write(hello)))
  await until(() => targets.reduce((sum, each) => sum + each.sockets.length, 0) === 40)
  t.strictSame(
    targets.map(each => each.sockets.length),
    [10, 10, 10, 10],
  )
  for (let i = 0; i < 8; i += 1) {
    const { socket } = await dial()
    socket.write(hello)
    await until(() => targets.reduce((sum, each) => sum + each.sockets.length, 0) === 41 + i)
    socket.destroy()
    await until(() => targets.flatMap(each => each.sockets).filter(each => each.destroyed || each.readableEnded).length === i + 1)
  }
  t.strictSame(
    targets.map(each => each.sockets.length),
    [12, 12, 12, 12],
  )
})

t.test('an endpoint that cannot be reached is passed over; where none can, the client is reset', async t => {
  const { route, dial } = await start(t)
  const [dead, live] = [await endpoint(t), await endpoint(t)]
  await new Promise(resolve => dead.server.close(resolve))
  await route({ [apiSni]: [endpointAt(dead.port), endpointAt(live.port)], [dbSni]: [endpointAt(dead.port)] })
  const hello = await helloFor(apiSni)
  for (let i = 0; i < 4; i += 1) (await dial()).socket.write(hello)
  await until(() => live.sockets.length === 4)
  const client = await dial()
  client.socket.write(await helloFor(dbSni))
  t.equal(await client.end, 'ECONNRESET')
})

t.test('who does not finish a hello in time is reset, and so is who ends in the middle of it', async t => {
  const { route, dial, metrics } = await start(t, { peekMs: 100 })
  await route({ [apiSni]: [endpointAt(1)] })
  const hello = await helloFor(apiSni)
  const slow = await dial()
  slow.socket.write(hello.subarray(0, 50))
  t.equal(await slow.end, 'ECONNRESET')
  const half = await dial()
  half.socket.end(hello.subarray(0, 50))
  t.equal(await half.end, 'ECONNRESET')
  await until(() => open(metrics) === 0)
})

t.test('more connections than the limit are reset', async t => {
  const { route, dial } = await start(t, { maxConnections: 1 })
  await route({ [apiSni]: [endpointAt(1)] })
  await dial()
  t.equal(await (await dial()).end, 'ECONNRESET')
})

t.test('a tunnel to an endpoint that is gone runs until it is quiet; one whose name is gone is closed at once', async t => {
  const { route, dial } = await start(t, { drainQuietMs: 150, drainLimitMs: 2000 })
  const [one, two] = [await endpoint(t), await endpoint(t)]
  await route({ [apiSni]: [endpointAt(one.port)], [dbSni]: [endpointAt(one.port)] })
  const [api, db] = [await dial(), await dial()]
  api.socket.write(await helloFor(apiSni))
  db.socket.write(await helloFor(dbSni))
  await until(() => one.sockets.length === 2)
  await route({ [apiSni]: [endpointAt(two.port)] })
  await db.end
  for (let i = 0; i < 4; i += 1) {
    await new Promise(resolve => setTimeout(resolve, 60))
    t.equal(api.socket.destroyed, false)
    api.socket.write('still busy')
  }
  const began = performance.now()
  await api.end
  t.ok(performance.now() - began < 1500)
  const next = await dial()
  next.socket.write(await helloFor(apiSni))
  await until(() => two.sockets.length === 1)
})

t.test("a peer's stream to our servers is not cut when they are no longer reached through here: it is told so on that stream", async t => {
  const { route, dial } = await start(t, { drainQuietMs: 150, drainLimitMs: 2000 })
  const server = await endpoint(t)
  await route({ [serverSni]: [endpointAt(server.port)] })
  const peer = await dial()
  peer.socket.write(await helloFor(serverSni))
  await until(() => server.sockets.length === 1)
  await new Promise(resolve => setTimeout(resolve, 300))
  await route({})
  await new Promise(resolve => setTimeout(resolve, 50))
  server.sockets[0]!.write('dial me there')
  await until(() => peer.heard() === 'dial me there')
  t.equal(await peer.end, 'ECONNRESET', 'once it is quiet it ends')
  const next = await dial()
  next.socket.write(await helloFor(serverSni))
  t.equal(await next.end, 'ECONNRESET', 'and nobody comes in any more')
})
