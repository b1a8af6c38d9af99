// The data plane under what goes wrong around it, on real processes: a gateway killed, agents killed, CAs rotated and a sidecar restarted,
// all under traffic on kept-alive connections; and what is taken back (an export, a peering), with an importer that does not hear of it.
import { Agent } from 'node:http'
import { connect, type Socket } from 'node:net'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { freePorts } from '../support/free-ports.ts'
import { call, until, type ClusterProcess } from '../support/processes.ts'
import { eastName, startTwoClusters, westName, type TwoClusters } from '../support/two-clusters.ts'

const perSecond = 200
const deep = process.env['ISTHMUS_DEEP'] === '1'
const rounds = deep ? 10 : 1

/** GETs at a steady rate, whatever their answers, on a few kept-alive connections. */
class Traffic {
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 8 })
  readonly #timer: NodeJS.Timeout
  readonly #open = new Set<Promise<void>>()
  sent = 0
  readonly failures: string[] = []
  slowestMs = 0

  constructor(port: number) {
    const began = performance.now()
    this.#timer = setInterval(() => {
      while (this.sent < ((performance.now() - began) / 1000) * perSecond) this.#send(port)
    }, 5)
  }

  #send(port: number): void {
    this.sent += 1
    const began = performance.now()
    const one = call(port, `/${this.sent}`, { agent: this.#agent, timeoutMs: 10_000 })
      .then(
        answer => void (answer.status === 200 || this.failures.push(`${this.sent}: ${answer.status} ${answer.text.slice(0, 120)}`)),
        (error: Error) => void this.failures.push(`${this.sent}: ${error.message}`),
      )
      .finally(() => {
        this.slowestMs = Math.max(this.slowestMs, performance.now() - began)
        this.#open.delete(one)
      })
    this.#open.add(one)
  }

  async stop(): Promise<this> {
    clearInterval(this.#timer)
    await Promise.all(this.#open)
    this.#agent.destroy()
    return this
  }
}

/** By its log: whether a proxy follows its agent at this moment. */
const follows = (log: string) => log.lastIndexOf('"following the agent"') > log.lastIndexOf('"not following the agent')

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

/** Waits until requests were answered for half a second without a break. */
async function steady(scene: TwoClusters): Promise<void> {
  let since = performance.now()
  await until('steady', async () => {
    const { status } = await call(scene.apiPort, '/').catch(() => ({ status: 0 }))
    if (status !== 200) since = performance.now()
    return performance.now() - since > 500
  })
}

/** A tunnel through the db upstream that has carried bytes. */
async function openTunnel(scene: TwoClusters): Promise<{ socket: Socket; closed: Promise<number> }> {
  const socket = connect({ port: scene.dbPort, host: '127.0.0.1' })
  socket.on('error', () => undefined)
  const closed = new Promise<number>(resolve => socket.once('close', () => resolve(performance.now())))
  await new Promise(resolve => {
    socket.once('data', resolve)
    socket.write('hello')
  })
  return { socket, closed }
}

const serials = async (cluster: ClusterProcess) =>
  ((await cluster.api('GET', '/v1/agent/connect/ca/roots')).json as { ActiveRootID: string; Roots: unknown[] }).ActiveRootID

t.test('the data plane goes on while things around it break', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east, west } = scene

  await t.test('a gateway is killed under traffic while another lives: no request of a method that may be repeated fails', async t => {
    const [port] = (await freePorts(1)) as [number]
    const second = await west.proxy('gateway-2', 'gateway', '--address', `127.0.0.1:${port}`, '--name', 'gateway-2')
    await until('east knows both gateways', async () => {
      const known = await east.api('GET', `/v1/health/connect/api?peer=${westName}&passing`)
      return (known.json as unknown[]).length === 2
    })
    const traffic = new Traffic(scene.apiPort)
    await pause(1000)
    await second.stop('SIGKILL')
    await pause(2500)
    await traffic.stop()
    t.ok(traffic.sent > 500, `${traffic.sent} requests`)
    t.same(traffic.failures, [])
  })

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
    t.ok((await tunnel.closed) - began < 1000)
    await scene.export(['api', 'db'])
    await until('back', async () => (await call(scene.apiPort, '/', { agent })).status === 200, 2000, 5)
    east.agent.child.kill('SIGCONT')
    // Now the importer hears of both, one after the other.
    await steady(scene)
  })

  await t.test('both CAs are rotated under traffic: no request fails', async t => {
    const before = [await serials(east), await serials(west)]
    const leafOfWeb = async () => /;Hash=([0-9a-f]+);/.exec(JSON.stringify((await call(scene.apiPort, '/')).json))?.[1]
    const leaf = await leafOfWeb()
    const traffic = new Traffic(scene.apiPort)
    for (const cluster of [west, east]) {
      await cluster.api('PUT', '/v1/connect/ca/configuration', {
        Provider: 'consul',
        Config: { PrivateKeyType: 'ec', PrivateKeyBits: 384 },
      })
      await pause(500)
    }
    // Leaves follow within half a minute, each at a moment of its own.
    if (deep) await until('a new leaf is in use', async () => (await leafOfWeb()) !== leaf, 40_000, 500)
    else await pause(1500)
    await traffic.stop()
    t.same(traffic.failures, [])
    t.notSame([await serials(east), await serials(west)], before)
  })

  await t.test('both agents are killed and come back under traffic: no request fails', async t => {
    const traffic = new Traffic(scene.apiPort)
    for (let round = 0; round < rounds; round += 1) {
      for (const cluster of [west, east]) {
        await cluster.killAgent()
        await pause(300)
        await cluster.restartAgent()
      }
    }
    await pause(1500)
    await traffic.stop()
    t.same(traffic.failures, [])
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
    t.ok((await tunnel.closed) - began < 1000)
    east.agent.child.kill('SIGCONT')
  })
})
