/** Ten instances behind one gateway: an importer sees one address, and yet its requests reach all of them alike, and leave one that goes. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import type { Endpoint } from '../../src/mesh/snapshot.ts'
import { sessionLimits, type SessionLimits } from '../../src/proxy/sessions.ts'
import { endpointAt, Load, metricOf, sidecarSelf, startInstance, startScene, until } from '../support/proxy-scene.ts'

const count = 10
t.setTimeout(120_000)

t.test('ten instances behind one gateway', async t => {
  // Renewals within the test: three for each session.
  const limits = sessionLimits as SessionLimits
  const { maxAgeMs } = limits
  limits.maxAgeMs = 2000
  t.teardown(() => (limits.maxAgeMs = maxAgeMs))
  const scene = await startScene()
  t.teardown(() => scene.close())
  const names = Array.from({ length: count }, (_, i) => `api${i}`)
  const apps = await Promise.all(
    names.map(async name => {
      const server = createServer((_, response) => void response.end(name))
      await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
      t.teardown(() => server.close())
      return (server.address() as AddressInfo).port
    }),
  )
  const sidecars = await Promise.all(names.map((name, i) => startInstance(scene, name, apps[i]!)))
  t.teardown(() => Promise.all(sidecars.map(sidecar => sidecar.close())))
  /** What the gateway is told of the instances, and the importer of their number. */
  const tell = (healthy: (name: string) => boolean) => {
    const endpoints: Endpoint[] = names.map((name, i) => endpointAt(sidecars[i]!.port('public')!, healthy(name)))
    scene.west.tell('gateway', [['endpoints', 'api', { endpoints }]])
    const instances = names.filter(healthy).length
    scene.east.tell('web-sidecar-proxy', [
      ['endpoints', 'api-endpoints', { endpoints: [endpointAt(scene.gateway.port('wan')!)], instances }],
    ])
  }
  tell(() => true)
  const load = new Load(() => scene.web.port('api?peer=west')!, 20)
  t.teardown(() => load.stop())
  const shares = (answers: Load['answers']) => names.map(name => answers.filter(({ body }) => body === name).length)
  const spread = (t: Test, answers: Load['answers'], among: number) => {
    const each = shares(answers)
    const mean = answers.length / among
    t.strictSame(load.statuses, { 200: load.answers.length })
    t.strictSame(
      each.filter(share => share > 0 && Math.abs(share - mean) > 0.3 * mean),
      [],
      `${each.join(' ')}: mean ${Math.round(mean)}`,
    )
    t.equal(each.filter(share => share > 0).length, among)
  }
  const during = async (ms: number) => {
    const from = load.answers.length
    await new Promise(resolve => setTimeout(resolve, ms))
    return load.answers.slice(from)
  }

  await t.test('each answers within 30 % of the mean', async t => {
    await until(async () => (await metricOf(scene.web, 'isthmus_proxy_mux_sessions')) >= count)
    spread(t, await during(1000), count)
  })

  await t.test('and so it stays while sessions grow old and are renewed', async t => {
    const before = await metricOf(scene.web, 'isthmus_proxy_dials_total')
    for (let i = 0; i < 3; i += 1) spread(t, await during(2000), count)
    const dials = (await metricOf(scene.web, 'isthmus_proxy_dials_total')) - before
    t.ok(dials >= 2 * count, `${dials} sessions were renewed`)
  })

  await t.test('traffic that is kept alive leaves an instance that turns critical within a second, and no request fails', async t => {
    const self = sidecarSelf('west', 'api', 'http', apps[3]!, { proxyId: 'api3', serviceId: 'api3', draining: true })
    scene.west.tell('api3', [['self', 'api3', self]])
    tell(name => name !== 'api3')
    const flipped = performance.now()
    await until(() => load.answers.findLast(({ body }) => body === 'api3')!.atMs < performance.now() - 1000)
    const last = load.answers.findLast(({ body }) => body === 'api3')!.atMs - flipped
    t.ok(last < 1000, `the last request after ${Math.round(last)} ms`)
    spread(t, await during(2000), count - 1)
  })

  await t.test('and comes back to it', async t => {
    const self = sidecarSelf('west', 'api', 'http', apps[3]!, { proxyId: 'api3', serviceId: 'api3' })
    scene.west.tell('api3', [['self', 'api3', self]])
    tell(() => true)
    await until(() => load.answers.slice(-200).some(({ body }) => body === 'api3'))
    await during(500)
    spread(t, await during(1500), count)
  })
})
