// What an operator does to two clusters in the course of a year, under traffic that never ends: both CAs rotated, the gateway replaced,
// agents restarted and killed. Not one request fails. A gateway that is killed costs at most what could not be sent again.
import t from 'tap'
import { freePorts } from '../support/free-ports.ts'
import { fullPace, halfPace, PacedTraffic, type Stretch } from '../support/paced-traffic.ts'
import { call, until, type ClusterProcess } from '../support/processes.ts'
import { eastName, startTwoClusters, westName, type Seen } from '../support/two-clusters.ts'

t.setTimeout(300_000)
const deep = process.env['ISTHMUS_DEEP'] === '1'
const rounds = deep ? 5 : 1
/** A new leaf follows a new root within half a minute. */
const renewalMs = 40_000

const pause = (ms: number) => new Promise<void>(resolve => setTimeout(resolve, ms))
const line = ({ what, sent, failed, lateHere, queued, own, slowestMs, exchanges, broken, ended }: Stretch) =>
  `${what}: ${failed.length} failed of ${sent}, slowest ${slowestMs} ms; ${broken.length} lost of ${exchanges} exchanges, ${ended} tunnels ended; ` +
  `generator: ${lateHere} late by itself, ${queued} queued, stood ${own.loopMs} ms, control ${own.controlMs} ms`

t.test('nothing fails while things around it change', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const isRight = ({ status, json }: { status: number; json: unknown }, body: string) => status === 200 && (json as Seen).body === body
  const ports = { httpPorts: [scene.apiPort], tunnelPort: scene.dbPort, appPort: scene.apiApp.port }
  const traffic = new PacedTraffic({ ...ports, isRight, pace: deep ? fullPace : halfPace })
  t.teardown(() => traffic.stop())
  t.ok(await traffic.settled(), 'while nothing happens, nothing fails')

  /** The leaf that the api app sees its caller with, and the one that a proxy says it has. */
  const leafOfWeb = async () => /;Hash=([0-9a-f]+);/.exec(JSON.stringify((await call(scene.apiPort, '/')).json))?.[1]
  const leafOf = async (cluster: ClusterProcess, proxy: string) => {
    const { leaf } = (await call(cluster.adminPort(proxy), '/certs')).json as { leaf: { fingerprint256: string } }
    return leaf.fingerprint256
  }
  const rotate = async (cluster: ClusterProcess) => {
    const roots = () => cluster.api('GET', '/v1/agent/connect/ca/roots')
    const before = ((await roots()).json as { ActiveRootID: string }).ActiveRootID
    const Config = { PrivateKeyType: 'ec', PrivateKeyBits: 384 }
    await cluster.api('PUT', '/v1/connect/ca/configuration', { Provider: 'consul', Config, ForceWithoutCrossSigning: false })
    t.not(((await roots()).json as { ActiveRootID: string }).ActiveRootID, before)
  }
  const check = (made: Stretch) => {
    t.comment(line(made))
    t.ok(made.sent > 100 && made.exchanges > 10, `${made.what}: ${made.sent} requests and ${made.exchanges} exchanges were made`)
    t.same(made.failed.slice(0, 10), [], `${made.what}: no request fails`)
    t.same(made.broken, [], `${made.what}: no exchange is lost`)
  }

  const knows = (count: number) =>
    until(`east knows ${count} gateways`, async () => {
      const known = await east.api('GET', `/v1/health/connect/api?peer=${westName}&passing`)
      return (known.json as unknown[]).length === count
    })

  await t.test('the CA of each side is rotated', async () => {
    for (const [cluster, proxy] of [
      [west, 'api'],
      [east, 'web'],
    ] as const) {
      const before = [await leafOf(cluster, proxy), await leafOfWeb()]
      const rotation = async () => {
        await rotate(cluster)
        if (!deep) return pause(1000)
        await until('its leaf is new', async () => (await leafOf(cluster, proxy)) !== before[0], renewalMs, 250)
        if (cluster === east) await until('it is in use', async () => (await leafOfWeb()) !== before[1], 5000, 100)
      }
      check(await traffic.during(`CA rotation in ${cluster.datacenter}`, rotation, deep ? 5000 : 300))
    }
  })

  await t.test('the gateway is replaced by a new process', async () => {
    for (let i = 0; i < rounds; i += 1)
      check(await traffic.during('planned gateway replacement', async () => void (await west.restartProxy('gateway'))))
  })

  await t.test('the agent of each side is restarted, and killed', async () => {
    for (let i = 0; i < rounds; i += 1) {
      for (const cluster of [west, east]) {
        check(await traffic.during(`agent restart in ${cluster.datacenter}`, () => cluster.restartAgent()))
        const kill = async () => {
          await cluster.killAgent()
          await cluster.restartAgent()
        }
        check(await traffic.during(`kill -9 of the agent in ${cluster.datacenter}`, kill))
      }
    }
  })

  await t.test('the gateway gives way to another one, at another address', async t => {
    const [port] = (await freePorts(1)) as [number]
    await until(
      'the peering is back',
      async () => {
        const states = await Promise.all([east.api('GET', `/v1/peering/${westName}`), west.api('GET', `/v1/peering/${eastName}`)])
        return states.every(({ json }) => (json as { State: string }).State === 'ACTIVE')
      },
      60_000,
    )
    const pid = west.pid('gateway')
    const made = await traffic.during('a gateway at another address', async () => {
      await west.proxy('gateway-2', 'gateway', '--address', `127.0.0.1:${port}`, '--name', 'gateway-2')
      await knows(2)
      process.kill(pid, 'SIGTERM')
      await knows(1)
      await pause(2000)
    })
    t.comment(line(made))
    t.same(made.failed.slice(0, 10), [], 'no request fails')
  })

  await t.test('a gateway is killed while another one lives: what is lost was under way and must not be sent twice', async t => {
    const [port] = (await freePorts(1)) as [number]
    await west.proxy('gateway-3', 'gateway', '--address', `127.0.0.1:${port}`, '--name', 'gateway-3')
    await knows(2)
    await pause(1000)
    const kill = () => west.proxies.get('gateway-2')!.stop('SIGKILL')
    const made = await traffic.during('kill -9 of a gateway', kill, 2000)
    t.comment(line(made))
    t.same(
      made.failed.filter(each => each.startsWith('GET')),
      [],
      'a GET is sent again',
    )
    t.ok(made.failed.length <= 32, `${made.failed.length} of at most 32 that were under way`)
  })
})
