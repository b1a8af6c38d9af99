// Mistakes of ours, of a registration and of whoever is at the other end cost a request or a connection, never the process; and a
// certificate that ends takes what it vouched for with it.
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import t from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import { dialPlain } from '../../src/proxy/dial.ts'
import { inboundLimits } from '../../src/proxy/inbound.ts'
import { Expose } from '../../src/proxy/expose.ts'
import { Listener } from '../../src/proxy/listener.ts'
import { freePorts } from '../support/free-ports.ts'
import { apiSni, call, converse, dbSni, endpointAt, sidecarSelf, startScene, until, webId } from '../support/proxy-scene.ts'

const logger = silentLogger()
const onConnection = (socket: Socket) => socket.destroy()

t.test('a port that is none and a mode that is none end nothing', async t => {
  const listener = new Listener({ at: { address: '127.0.0.1', port: 70_000 }, purpose: 'test', logger, onConnection })
  t.teardown(() => listener.close())
  await listener.tried()
  t.equal(listener.listening, false)
  t.match(await dialPlain({ address: '127.0.0.1', port: 70_000 }, 1000), { ok: false, reason: 'refused' })
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-socket-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  for (const [socketMode, mode] of [
    ['0666', 0o666],
    ['rwx', 0o600],
  ] as const) {
    const socketPath = join(dir, socketMode)
    const open = new Listener({ at: { address: '', port: 0, socketPath, socketMode }, purpose: 'test', logger, onConnection })
    t.teardown(() => open.close())
    await open.tried()
    t.equal(open.listening, true)
    t.equal(statSync(socketPath).mode & 0o777, mode, socketMode)
  }
})

t.test('in a scene', async t => {
  const scene = await startScene()
  t.teardown(() => scene.close())
  const { mint, eastRoot } = scene
  const web = await mint.leaf(eastRoot, { san: `URI:${webId}` })

  const dial = (port: number, servername: string): Promise<TLSSocket> =>
    new Promise((resolve, reject) => {
      const socket = connectTls(
        { port, host: '127.0.0.1', servername, cert: web.certPem, key: web.keyPem, rejectUnauthorized: false },
        () => resolve(socket),
      )
      socket.on('error', reject)
    })
  const heard = (socket: TLSSocket) =>
    new Promise<string>(resolve => {
      socket.once('data', (data: Buffer) => resolve(data.toString()))
      socket.once('close', () => resolve('closed'))
    })

  await t.test('an endpoint that accepts and says nothing costs a few callers its timeout, and the rest nothing', async t => {
    const silent = createServer()
    const sockets = new Set<Socket>()
    silent.on('connection', socket => sockets.add(socket.on('error', () => {})))
    await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', resolve))
    t.teardown(() => {
      silent.close()
      for (const socket of sockets) socket.destroy()
    })
    const live = endpointAt(scene.gateway.port('wan')!)
    const dead = endpointAt((silent.address() as AddressInfo).port)
    scene.east.tell('web-sidecar-proxy', [['endpoints', 'db-endpoints', { endpoints: [dead, live] }]])
    const port = scene.web.port('db?peer=west')!
    await until(async () => (await converse(port, 'x')).heard === 'hello from db\nx' && sockets.size > 0)
    const before = sockets.size
    const all = await Promise.all(Array.from({ length: 20 }, () => converse(port, 'x')))
    t.same(
      all.filter(each => each.heard !== 'hello from db\nx'),
      [],
    )
    t.equal(sockets.size, before, 'nobody else waited for it')
    scene.east.tell('web-sidecar-proxy', [['endpoints', 'db-endpoints', { endpoints: [live] }]])
  })

  await t.test('handshakes that are begun and left keep nobody out', async t => {
    const port = scene.api.port('public')!
    const left = Array.from({ length: inboundLimits.maxHandshakes + 16 }, () => connect({ port, host: '127.0.0.1' }).on('error', () => {}))
    t.teardown(() => left.map(each => each.destroy()))
    await Promise.all(left.map(each => new Promise(resolve => each.once('connect', resolve))))
    const socket = await dial(port, apiSni)
    const answer = heard(socket)
    socket.write('GET /x HTTP/1.1\r\nhost: x\r\n\r\n')
    t.match(await answer, /^HTTP\/1\.1 200 /)
    socket.destroy()
  })

  await t.test('a binding that cannot be read costs a request, not the process', async t => {
    const socket = await dial(scene.api.port('public')!, apiSni)
    t.teardown(() => socket.destroy())
    const ask = () => {
      const answer = heard(socket)
      socket.write('GET /x HTTP/1.1\r\nhost: x\r\n\r\n')
      return answer
    }
    t.match(await ask(), /^HTTP\/1\.1 200 /)
    const real = Date.now
    Date.now = () => {
      const mistake = new Error('a mistake of ours')
      // Only the judge's: the scene goes on around it.
      if (mistake.stack?.includes('inbound-judge')) throw mistake
      return real()
    }
    const failed = ask()
    await new Promise(resolve => socket.once('data', resolve))
    Date.now = real
    t.match(await failed, /^HTTP\/1\.1 500 [\s\S]*internal error$/)
    t.match(await ask(), /^HTTP\/1\.1 200 /, 'and the next one of the connection is served')
  })

  await t.test('a leaf that ends while its connections are open: requests are denied, and connections close', async t => {
    const [http, tcp] = await Promise.all([dial(scene.api.port('public')!, apiSni), dial(scene.db.port('public')!, dbSni)])
    t.teardown(() => [http, tcp].map(each => each.destroy()))
    const closed = new Promise(resolve => tcp.once('close', resolve))
    tcp.resume()
    let answer = heard(http)
    http.write('GET /x HTTP/1.1\r\nhost: x\r\n\r\n')
    t.match(await answer, /^HTTP\/1\.1 200 /)
    const reached = scene.apiApp.seen.length
    const real = Date.now
    t.teardown(() => {
      Date.now = real
    })
    // Leaves live for three days here, roots for thirty.
    Date.now = () => real() + 4 * 86_400_000
    answer = heard(http)
    http.write('GET /x HTTP/1.1\r\nhost: x\r\n\r\n')
    t.match(await answer, /^HTTP\/1\.1 403 |^closed$/)
    t.equal(scene.apiApp.seen.length, reached)
    await closed
  })
})

t.test('an exposed path whose port is none answers 503', async t => {
  const [port] = (await freePorts(1)) as [number]
  const expose = new Expose(logger)
  t.teardown(() => expose.close())
  const path = { path: '/health', listenerPort: port, localPathPort: 70_000, protocol: 'http' }
  await expose.update(sidecarSelf('west', 'api', 'http', 1, { expose: [path] }))
  t.match(await call(port, '/health'), { status: 503 })
  const upgrade = 'GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n'
  t.equal((await converse(port, upgrade, false)).heard, '')
})
