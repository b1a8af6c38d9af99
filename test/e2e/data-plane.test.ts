// What is taken back (an export, a peering) ends on the exporter's side alone, with an importer that does not hear of it; and a sidecar
// that is restarted without its agent. Everything on real processes; what goes on under traffic is in upheaval.test.ts.
import { Agent } from 'node:http'
import { connect, type Socket } from 'node:net'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { call, until, within } from '../support/processes.ts'
import { eastName, startTwoClusters, type TwoClusters } from '../support/two-clusters.ts'

/** By its log: whether a proxy follows its agent at this moment. */
const follows = (log: string) => log.lastIndexOf('"following the agent"') > log.lastIndexOf('"not following the agent')

/** Waits until requests were answered for half a second without a break. */
async function steady(scene: TwoClusters): Promise<void> {
  let since = performance.now()
  await until('steady', async () => {
    const { status } = await call(scene.apiPort, '/').catch(() => ({ status: 0 }))
    if (status !== 200) since = performance.now()
    return performance.now() - since > 500
  })
}

/** A tunnel through the db upstream that has carried bytes. One that is closed before it did is tried again: db may not be known yet. */
async function openTunnel(scene: TwoClusters): Promise<{ socket: Socket; closed: Promise<number> }> {
  const tunnel = await until('a tunnel that is not closed at once', async () => {
    const socket = connect({ port: scene.dbPort, host: '127.0.0.1' })
    socket.on('error', () => undefined)
    const closed = new Promise<number>(resolve => socket.once('close', () => resolve(performance.now())))
    const answered = new Promise<boolean>(resolve => {
      socket.once('data', () => resolve(true))
      socket.setTimeout(5000, () => resolve(false))
    })
    socket.write('hello')
    const first = await Promise.race([answered, closed])
    socket.setTimeout(0)
    return typeof first === 'boolean' && { socket, closed, answered: first }
  })
  if (!tunnel.answered) throw new Error('the tunnel is open, and nothing came back')
  return tunnel
}

t.test('the data plane keeps what it has, and gives up what is taken back', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east, west } = scene

  await t.test('an un-export ends kept-alive connections and tunnels within a second, whether or not the importer hears of it', async t => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    await until('peering is back', async () => (await call(scene.apiPort, '/', { agent })).status === 200)
    const tunnel = await openTunnel(scene)
    t.teardown(() => tunnel.socket.destroy())
    // The importer's side learns nothing from now on: what follows is the exporter's doing alone.
    east.agent.child.kill('SIGSTOP')
    t.teardown(() => east.agent.child.kill('SIGCONT'))
    const began = performance.now()
    await scene.export([])
    await until('denied', async () => (await call(scene.apiPort, '/', { agent })).status === 503, 1000, 5)
    t.equal(Object.values(agent.freeSockets).flat().length, 1, 'the app kept its connection, to its own sidecar')
    t.ok((await within('the tunnel is closed', tunnel.closed)) - began < 1000)
    await scene.export(['api', 'db'])
    await until('back', async () => (await call(scene.apiPort, '/', { agent })).status === 200, 2000, 5)
    east.agent.child.kill('SIGCONT')
    // Now the importer hears of both, one after the other.
    await steady(scene)
  })

  await t.test('a sidecar that is restarted with its cache while its agent is down serves', async t => {
    const cache = await mkdtemp(join(tmpdir(), 'isthmus-cache-'))
    t.teardown(() => rm(cache, { recursive: true, force: true }))
    await west.proxies.get('api')!.stop('SIGKILL')
    const args = ['sidecar', '--for', 'api', '--cache-dir', cache] as const
    const first = await west.proxy('api', ...args)
    await until('it serves', async () => (await call(scene.apiPort, '/')).status === 200)
    await west.killAgent()
    await first.stop('SIGKILL')
    const again = await west.proxy('api', 'sidecar', '--id', 'api-sidecar-proxy', '--cache-dir', cache)
    t.equal((await call(scene.apiPort, '/')).status, 200)
    await west.restartAgent()
    t.equal(again.child.exitCode, null)
  })

  await t.test('a peering that the exporter deletes ends kept-alive connections and tunnels within a second', async t => {
    await until('the proxies follow their agent again', async () =>
      [...west.proxies.values()].every(proxy => proxy.child.signalCode !== null || follows(proxy.log())),
    )
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    t.equal((await call(scene.apiPort, '/', { agent })).status, 200)
    const tunnel = await openTunnel(scene)
    t.teardown(() => tunnel.socket.destroy())
    east.agent.child.kill('SIGSTOP')
    t.teardown(() => east.agent.child.kill('SIGCONT'))
    const began = performance.now()
    await west.api('DELETE', `/v1/peering/${eastName}`)
    await until('denied', async () => (await call(scene.apiPort, '/', { agent })).status === 503, 1000, 5)
    t.ok((await within('the tunnel is closed', tunnel.closed)) - began < 1000)
    east.agent.child.kill('SIGCONT')
  })
})
