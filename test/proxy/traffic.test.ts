// Through a sidecar with real sockets: circuit limits, ejections and their end, retries, and who goes where.
import { request } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import t, { type Test } from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import { Balance, CircuitLimits, OutlierLimits, RetryLimits } from '../../src/mesh/balance/config.ts'
import { names, type UpstreamResource } from '../../src/mesh/snapshot.ts'
import { startSidecar } from '../../src/proxy/sidecar.ts'
import { AgentStandIn } from '../support/agent-stand-in.ts'
import { freePorts } from '../support/free-ports.ts'
import { Mint } from '../support/mint.ts'
import {
  apiId,
  apiSni,
  call,
  converse,
  eastDomain,
  endpointAt,
  sidecarSelf,
  until,
  upstreamOf,
  westDomain,
} from '../support/proxy-scene.ts'

const upstreamName = 'api?peer=west'
const proxyId = 'web-sidecar-proxy'
const overflowed = 'upstream connect error or disconnect/reset before headers. reset reason: overflow'

interface Server {
  port: number
  /** Connections open now, and requests heard. */
  open: Set<Socket>
  heard: string[]
  /** What it answers; none is silence. */
  answer: (request: string) => string | undefined
  /** Answers a request that was left without. */
  release(): void
  close(): Promise<void>
}

const ok = (body: string) => `HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\n\r\n${body}`
const failing = 'HTTP/1.1 500 X\r\ncontent-length: 3\r\n\r\nbad'

async function start(t: Test, change: Partial<UpstreamResource>, protocol = 'http') {
  const mint = new Mint()
  const [eastRoot, westRoot] = await Promise.all([mint.root(eastDomain), mint.root(westDomain)])
  const agent = new AgentStandIn(mint, eastRoot)
  await agent.start()
  agent.tell(proxyId, [
    ['self', proxyId, sidecarSelf('east', 'web', 'tcp', 1)],
    ['roots', names.localRoots, { trustDomain: eastDomain, peer: '', exportedPartition: '', pems: [eastRoot.certPem] }],
    ['roots', 'west', { trustDomain: westDomain, peer: 'west', exportedPartition: '', pems: [westRoot.certPem] }],
    ['intentions', 'web', { sources: [] }],
    ['upstream', upstreamName, { ...upstreamOf('api', protocol, apiSni, apiId), ...change }],
  ])
  const web = await startSidecar({ proxyId, agent: { url: agent.url }, admin: { host: '127.0.0.1', port: 0 }, logger: silentLogger() })
  await web.ready()
  const leaf = await mint.leaf(westRoot, { san: `URI:${apiId}` })
  const servers: Server[] = []
  t.teardown(async () => {
    await Promise.all(servers.map(each => each.close()))
    await web.close()
    await agent.stop()
    mint.remove()
  })
  /** A server with the right certificate, which speaks HTTP/1.1 and no sessions: every request has a connection. */
  const serve = async (port = 0): Promise<Server> => {
    const waiting: Socket[] = []
    const server = createTlsServer({ cert: leaf.certPem, key: leaf.keyPem, ALPNProtocols: ['http/1.1'] }, socket => {
      one.open.add(socket)
      socket.on('close', () => one.open.delete(socket))
      socket.on('error', () => {})
      socket.on('data', (chunk: Buffer) => {
        one.heard.push(chunk.toString())
        const answer = one.answer(chunk.toString())
        if (answer === undefined) waiting.push(socket)
        else socket.write(answer)
      })
    })
    server.on('tlsClientError', () => {})
    await new Promise<void>(resolve => server.listen(port, '127.0.0.1', resolve))
    const one: Server = {
      port: (server.address() as AddressInfo).port,
      open: new Set(),
      heard: [],
      answer: () => ok(String(one.port)),
      release: () => void waiting.shift()?.write(ok('late')),
      close: async () => {
        const closed = new Promise(resolve => server.close(resolve))
        for (const socket of one.open) socket.destroy()
        await closed
      },
    }
    servers.push(one)
    return one
  }
  const tell = async (ports: number[]) => {
    agent.tell(proxyId, [['endpoints', 'api-endpoints', { endpoints: ports.map(port => endpointAt(port)) }]])
    await until(async () => ports.every(async port => (await call(web.admin!.port, '/plan')).body.includes(`"e${port}"`)))
    await until(async () => (await call(web.admin!.port, '/plan')).body.includes(`"e${ports.at(-1)}"`))
  }
  const metric = async (name: string, labels = '') => {
    const { body } = await call(web.admin!.port, '/metrics')
    const line = body.split('\n').find(each => each.startsWith(`isthmus_proxy_${name}{`) && each.includes(labels))
    return line === undefined ? 0 : Number(line.slice(line.lastIndexOf(' ')))
  }
  const port = () => web.port(upstreamName)!
  const ask = async (path = '/', headers: Record<string, string> = {}) => (await call(port(), path, { headers })).body
  return { agent, web, serve, tell, metric, port, ask, change }
}

t.test('one request too many is answered at once, and one that ends makes room', async t => {
  const { serve, tell, metric, ask } = await start(t, { limits: CircuitLimits.parse({ maxConcurrentRequests: 2 }) })
  const server = await serve()
  server.answer = () => undefined
  await tell([server.port])
  const under = [ask(), ask()]
  await until(() => server.heard.length === 2)
  t.equal(await ask(), overflowed)
  t.equal(await metric('overflow_total', 'limit="requests"'), 1)
  server.release()
  await until(() => server.heard.length === 2)
  t.equal(await Promise.race(under), 'late')
  const third = ask()
  await until(() => server.heard.length === 3)
  server.release()
  server.release()
  t.same(await Promise.all([...under, third]), ['late', 'late', 'late'])
})

t.test('with all connections taken requests wait in turn, up to a limit, and have the one that is given back', async t => {
  const limits = CircuitLimits.parse({ maxConnections: 1, maxPendingRequests: 2 })
  const { serve, tell, metric, ask, port } = await start(t, { limits })
  const server = await serve()
  server.answer = () => undefined
  await tell([server.port])
  const first = ask('/first')
  await until(() => server.heard.length === 1)
  const second = ask('/second')
  await new Promise(resolve => setTimeout(resolve, 50))
  const third = call(port(), '/third')
  await new Promise(resolve => setTimeout(resolve, 50))
  t.equal(await ask('/fourth'), overflowed)
  t.same([server.heard.length, server.open.size], [1, 1])
  server.release()
  t.equal(await first, 'late')
  await until(() => server.heard.length === 2)
  t.match(server.heard[1], /^GET \/second /)
  for (const socket of server.open) socket.destroy()
  server.answer = () => ok('again')
  t.equal(await second, 'again', 'an idempotent one is tried again')
  t.equal((await third).body, 'again')
  t.equal(await metric('overflow_total', 'limit="pending"'), 1)
  t.equal(await ask('/fifth'), 'again', 'every count was given back')
  t.equal(server.open.size, 1)
})

t.test('who has gone does not wait, and keeps no place', async t => {
  const limits = CircuitLimits.parse({ maxConnections: 1, maxPendingRequests: 1 })
  const { serve, tell, ask, port } = await start(t, { limits })
  const server = await serve()
  server.answer = () => undefined
  await tell([server.port])
  const first = ask('/first')
  await until(() => server.heard.length === 1)
  const left = request({ port: port(), host: '127.0.0.1', path: '/left', agent: false }).end()
  left.on('error', () => {})
  await new Promise(resolve => setTimeout(resolve, 50))
  left.destroy()
  await new Promise(resolve => setTimeout(resolve, 50))
  const second = ask('/second')
  await new Promise(resolve => setTimeout(resolve, 50))
  server.answer = () => ok('second')
  server.release()
  t.same(await Promise.all([first, second]), ['late', 'second'])
  t.same(
    server.heard.map(each => each.split(' ')[1]),
    ['/first', '/second'],
  )
})

t.test('a tunnel over the limit of connections is reset, and one that ends makes room', async t => {
  const { serve, tell, metric, port } = await start(t, { limits: CircuitLimits.parse({ maxConnections: 1 }) }, 'tcp')
  const server = await serve()
  server.answer = () => undefined
  await tell([server.port])
  const first = converse(port(), 'one', false)
  await until(() => server.heard.length === 1)
  t.same(await converse(port(), 'two'), { heard: '', error: 'ECONNRESET' })
  t.equal(await metric('overflow_total', 'limit="connections"'), 1)
  for (const socket of server.open) socket.destroy()
  await first
  await until(async () => {
    void converse(port(), 'three', false)
    await new Promise(resolve => setTimeout(resolve, 20))
    return server.heard.includes('three')
  })
})

t.test('a burst over every limit answers everybody, and leaves no count behind', async t => {
  const limits = CircuitLimits.parse({ maxConnections: 3, maxPendingRequests: 5, maxConcurrentRequests: 12 })
  const { serve, tell, metric, ask } = await start(t, { limits })
  const servers = [await serve(), await serve()]
  for (const each of servers) {
    each.answer = () => {
      setTimeout(() => each.release(), 10)
      return undefined
    }
  }
  await tell(servers.map(each => each.port))
  for (let round = 0; round < 3; round++) {
    const answers = await Promise.all(Array.from({ length: 60 }, () => ask()))
    const good = answers.filter(each => each === 'late').length
    t.equal(good + answers.filter(each => each === overflowed).length, 60)
    t.ok(good >= 3, `${good} were served`)
    t.ok(servers.reduce((sum, each) => sum + each.open.size, 0) <= 3)
  }
  const over = (await metric('overflow_total', 'limit="requests"')) + (await metric('overflow_total', 'limit="pending"'))
  t.ok(over > 0)
  for (let i = 0; i < 12; i++) t.notMatch(await ask(), /overflow/)
})

t.test('what an app behind a peer answers ejects nobody, unless that is asked for, and then not the last one', async t => {
  const lone = await start(t, {})
  const server = await lone.serve()
  server.answer = () => failing
  await lone.tell([server.port])
  for (let i = 0; i < 12; i++) t.equal(await lone.ask(), 'bad')
  t.equal(await lone.metric('ejections_total'), 0)
  const asked = await start(t, { passiveHealthCheck: OutlierLimits.parse({ maxEjectionPercent: 100, maxFailures: 3 }) })
  const [good, bad] = [await asked.serve(), await asked.serve()]
  bad.answer = () => failing
  await asked.tell([good.port, bad.port])
  for (let i = 0; i < 8; i++) await asked.ask()
  const before = bad.heard.length
  t.equal(before, 3)
  for (let i = 0; i < 6; i++) t.equal(await asked.ask(), String(good.port))
  t.equal(await asked.metric('ejections_total', 'cause="responses"'), 1)
  t.equal(await asked.metric('ejected_endpoints', `upstream="${upstreamName}"`), 1)
  good.answer = () => failing
  for (let i = 0; i < 6; i++) t.equal(await asked.ask(), 'bad', 'the last one stays')
})

t.test('an address that could not be reached is probed, and is back before a caller has to try it', async t => {
  const { serve, tell, metric, ask } = await start(t, {})
  const good = await serve()
  const [later] = await freePorts(1)
  await tell([good.port, later!])
  for (let i = 0; i < 4; i++) t.equal(await ask(), String(good.port))
  t.equal(await metric('ejections_total', 'cause="unreachable"'), 1)
  const back = await serve(later)
  await until(() => back.open.size > 0)
  t.same(back.heard, [], 'the probe asks nothing')
  const answers = new Set(await Promise.all(Array.from({ length: 4 }, () => ask())))
  t.same(answers, new Set([String(good.port), String(later)]))
  t.equal(await metric('ejected_endpoints', `upstream="${upstreamName}"`), 0)
})

t.test('an unwanted status is tried elsewhere, within the budget', async t => {
  const retry = RetryLimits.parse({ retries: 1, statuses: [500], budgetMinimum: 1, budgetPercent: 0 })
  const { serve, tell, metric, ask, port } = await start(t, { retry })
  const [good, bad] = [await serve(), await serve()]
  bad.answer = () => failing
  await tell([good.port, bad.port])
  for (let i = 0; i < 6; i++) t.equal(await ask(), String(good.port))
  t.equal(await metric('retries_total', 'outcome="ok"'), bad.heard.length)
  t.ok(bad.heard.length >= 3)
  const posted = [await call(port(), '/', { method: 'POST', body: 'x' }), await call(port(), '/', { method: 'POST', body: 'x' })]
  t.same(
    posted.map(each => each.status).toSorted((a, b) => a - b),
    [200, 500],
  )
  good.answer = () => undefined
  const earlier = good.heard.length
  const refused = () => metric('retries_total', 'outcome="over-budget"')
  // Which of them meets the bad one is left open: a try elsewhere takes a turn as well, and comes before or after the next request.
  const slow: Promise<string>[] = []
  await until(async () => {
    slow.push(ask())
    await new Promise(resolve => setTimeout(resolve, 20))
    return (await refused()) > 0
  })
  const waiting = async () => slow.length - (await refused())
  await until(async () => good.heard.length === earlier + (await waiting()))
  await new Promise(resolve => setTimeout(resolve, 100))
  t.equal(good.heard.length, earlier + (await waiting()), 'one at a time has leave')
  for (let i = 0; i < slow.length; i++) good.release()
  const answers = await Promise.all(slow)
  t.equal(answers.filter(each => each === 'bad').length, await refused(), 'who has none gets the answer that came')
  t.equal(answers.filter(each => each === 'late').length, await waiting())
})

t.test('all that is under way to a server that dies is tried elsewhere, however much it is', async t => {
  const { serve, tell, metric, ask } = await start(t, { retry: RetryLimits.parse({ budgetMinimum: 0, budgetPercent: 0 }) })
  const [good, dying] = [await serve(), await serve()]
  dying.answer = () => undefined
  await tell([good.port, dying.port])
  const all = Array.from({ length: 20 }, () => ask())
  await until(() => dying.heard.length === 10)
  await dying.close()
  t.same(new Set(await Promise.all(all)), new Set([String(good.port)]))
  t.equal(await metric('retries_total', 'outcome="ok"'), 10)
})

t.test('equal requests go to the same endpoint; who has no cookie gets one that leads back', async t => {
  const balance = Balance.parse({
    policy: 'maglev',
    hashPolicies: [{ field: 'cookie', name: 'sid', generate: { ttlMs: 30_000, path: '/' } }],
  })
  const { serve, tell, port, ask } = await start(t, { balance })
  const servers = await Promise.all([serve(), serve(), serve()])
  await tell(servers.map(each => each.port))
  const places = new Set<string>()
  for (let i = 0; i < 12; i++) {
    const { body, headers } = await call(port(), '/')
    const [cookie] = headers['set-cookie'] ?? []
    t.match(cookie, /^sid=[0-9a-f]{16}; Max-Age=30; Path=\/; HttpOnly$/)
    places.add(body)
    const again = await call(port(), '/', { headers: { cookie: cookie!.split(';')[0]! } })
    t.same([again.body, again.headers['set-cookie']], [body, undefined])
  }
  t.ok(places.size > 1, 'callers are spread')
  t.equal(new Set(await Promise.all(Array.from({ length: 10 }, () => ask('/', { cookie: 'a=b; sid="mine"' })))).size, 1)
})

t.test('least_request goes where fewer are under way', async t => {
  const { serve, tell, ask } = await start(t, { balance: Balance.parse({ policy: 'least_request' }) })
  const [slow, fast] = [await serve(), await serve()]
  slow.answer = () => undefined
  await tell([slow.port, fast.port])
  const held: Promise<string>[] = []
  await until(async () => {
    held.push(ask())
    await new Promise(resolve => setTimeout(resolve, 20))
    return slow.heard.length > 0
  })
  for (let i = 0; i < 20; i++) t.equal(await ask(), String(fast.port))
  slow.release()
  await Promise.all(held)
})

t.test('an upstream that is taken away lets everybody go who waits', async t => {
  const { agent, serve, tell, ask, web } = await start(t, { limits: CircuitLimits.parse({ maxConnections: 1 }) })
  const server = await serve()
  server.answer = () => undefined
  await tell([server.port])
  const all = [ask(), ask()].map(each => each.catch((error: unknown) => (error as NodeJS.ErrnoException).code))
  await until(() => server.heard.length === 1)
  agent.tell(proxyId, [['upstream', upstreamName, null]])
  t.same(await Promise.all(all), ['ECONNRESET', 'ECONNRESET'])
  await until(() => web.port(upstreamName) === undefined)
})

t.test('a server that never finishes a handshake fills the limit of connections only for the time-out', async t => {
  const silent = createServer()
  const sockets = new Set<Socket>()
  silent.on('connection', socket => void sockets.add(socket.on('error', () => {})))
  await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    silent.close()
    for (const socket of sockets) socket.destroy()
  })
  const { serve, tell, ask } = await start(t, { connectTimeoutMs: 300, limits: CircuitLimits.parse({ maxConnections: 1 }) })
  await tell([(silent.address() as AddressInfo).port])
  t.match(await ask(), /connection timeout$/)
  const server = await serve()
  await tell([server.port])
  t.equal(await ask(), String(server.port))
})

t.test('one HTTP/2 request too many is answered at once', async t => {
  const { web, agent, metric } = await start(t, { limits: CircuitLimits.parse({ maxConcurrentRequests: 0 }) }, 'http2')
  const client = connectHttp2(`http://127.0.0.1:${web.port(upstreamName)!}`)
  t.teardown(() => client.destroy())
  const ask = () =>
    new Promise<string>((resolve, reject) => {
      let answer = ''
      const stream = client.request({ ':path': '/' }).setEncoding('utf8')
      stream.on('response', headers => (answer = `${headers[':status']} `))
      stream.on('data', text => (answer += String(text)))
      stream.on('end', () => resolve(answer))
      stream.on('error', reject)
    })
  t.equal(await ask(), `503 ${overflowed}`)
  t.equal(await metric('overflow_total', 'limit="requests"'), 1)
  agent.tell(proxyId, [['upstream', upstreamName, upstreamOf('api', 'http2', apiSni, apiId)]])
  await until(async () => (await ask()) === '503 no healthy upstream')
})
