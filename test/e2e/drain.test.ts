// SIGTERM: a proxy says that it is not ready, tells every caller to go elsewhere, accepts for a while, lets what is under way end and is
// gone within its time; a second signal ends it at once.
import { Agent } from 'node:http'
import { connect } from 'node:net'
import t from 'tap'
import { call, until, within, type Running } from '../support/processes.ts'
import { startTwoClusters } from '../support/two-clusters.ts'

const drainSeconds = 6

function ended(proxy: Running): Promise<{ code: number | null; afterMs: number }> {
  const beganMs = performance.now()
  const end = new Promise<{ code: number | null; afterMs: number }>(resolve =>
    proxy.child.once('exit', code => resolve({ code, afterMs: performance.now() - beganMs })),
  )
  return within('the proxy ends', end, 4 * drainSeconds * 1000)
}

/** A request whose body ends when the test says so. */
function slowRequest(port: number): { finish(): Promise<string> } {
  const socket = connect(port, '127.0.0.1')
  socket.write('POST /slow HTTP/1.1\r\nhost: api\r\ncontent-length: 10\r\n\r\nfirst')
  let heard = ''
  const closed = new Promise<string>((resolve, reject) => {
    socket.on('data', chunk => (heard += chunk.toString()))
    socket.on('error', reject)
    socket.on('close', () => resolve(heard))
  })
  return {
    finish() {
      socket.write('after')
      return closed
    },
  }
}

t.test('a sidecar that is asked to end', async t => {
  const flags = ['--drain-time', String(drainSeconds)]
  const scene = await startTwoClusters({ proxyFlags: { web: flags, api: flags, gateway: flags } })
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const admin = east.adminPort('web')
  const web = east.proxies.get('web')!
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  t.equal((await call(scene.apiPort, '/', { agent })).headers['connection'], undefined)
  const idle = connect(scene.apiPort, '127.0.0.1')
  const idleEnd = new Promise<number>(resolve => idle.once('close', () => resolve(performance.now())))
  idle.on('error', () => {})
  const slow = slowRequest(scene.apiPort)
  await new Promise(resolve => setTimeout(resolve, 100))

  const beganMs = performance.now()
  const end = ended(web)
  web.child.kill('SIGTERM')
  await until('it is not ready', async () => (await call(admin, '/ready')).text === 'NOT READY: draining\n', 1000, 5)
  const last = await call(scene.apiPort, '/', { agent })
  t.match([last.status, last.headers['connection']], [200, 'close'], 'a connection that is kept alive is told to go')
  const late = await call(scene.apiPort, '/')
  t.match([late.status, late.headers['connection']], [200, 'close'], 'a new one is still served')
  await until(
    'then it accepts no more',
    () =>
      call(scene.apiPort, '/').then(
        () => false,
        () => true,
      ),
    drainSeconds * 1000,
  )
  t.ok(performance.now() - beganMs > (drainSeconds * 1000) / 4, 'not before others had time to hear of it')
  t.match(
    await within('the slow request is answered', slow.finish()),
    /^HTTP\/1\.1 200 [^]*"body":"firstafter"/,
    'a request that was under way is answered',
  )
  const { code, afterMs } = await end
  t.equal(code, 0)
  t.ok(afterMs > (drainSeconds - 0.5) * 1000 && afterMs < (drainSeconds + 2) * 1000, `its time is up after ${Math.round(afterMs)} ms`)
  t.ok(
    (await within('the idle connection is closed', idleEnd)) - beganMs > (drainSeconds - 0.5) * 1000,
    'an idle connection is closed only then',
  )

  await t.test('a second signal ends it at once', async t => {
    const tunnel = connect(scene.westGatewayPort, '127.0.0.1')
    t.teardown(() => tunnel.destroy())
    await within('the gateway accepts', new Promise(resolve => tunnel.once('connect', resolve)))
    const gateway = west.proxies.get('gateway')!
    const end = ended(gateway)
    gateway.child.kill('SIGTERM')
    await until('it is deregistered first', async () => !(await west.api('GET', '/v1/agent/services')).text.includes('mesh-gateway'), 2000)
    gateway.child.kill('SIGTERM')
    const { code, afterMs } = await end
    t.equal(code, 1)
    t.ok(afterMs < 2500, `${Math.round(afterMs)} ms`)
  })
})
