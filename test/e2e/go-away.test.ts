// Callers who keep their connection through a gateway are pinned to one instance; when that one is critical, in maintenance or gone, its
// sidecar says go-away, and within a second they are served by another, without a request lost.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { call, until } from '../support/processes.ts'
import { SteadyTraffic } from '../support/steady-traffic.ts'
import { startTwoClusters, type Seen } from '../support/two-clusters.ts'

t.test('keep-alive traffic leaves an instance that is', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { west } = scene
  const other = createServer((request, response) => {
    request.resume()
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ app: 'api-2' }))
  })
  await new Promise<void>(resolve => other.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    other.close()
    other.closeAllConnections()
  })
  const second = { ID: 'api-2', Name: 'api', Port: (other.address() as AddressInfo).port, Connect: { SidecarService: {} } }
  const check = { CheckID: 'api-2-ttl', TTL: '1h', Status: 'passing' }
  await west.api('PUT', '/v1/agent/service/register', { ...second, Check: check })
  await west.proxy('api-2', 'sidecar', '--for', 'api-2')

  /** Until the gateway has so many instances to choose from; other clusters see no further than to it. */
  const healthy = (count: number) =>
    until(`${count} are healthy`, async () => {
      const { wan } = (await call(west.adminPort('gateway'), '/plan')).json as {
        wan: { service: string; endpoints: { healthy: boolean }[] }[]
      }
      return wan.find(row => row.service === 'api')?.endpoints.filter(each => each.healthy).length === count
    })
  await healthy(2)

  const lastMs = new Map<string, number>()
  const isRight = ({ status, json }: { status: number; json: unknown }) => {
    if (status === 200) lastMs.set((json as Seen).app, performance.now())
    return status === 200
  }
  const traffic = new SteadyTraffic(scene.apiPort, { keepAlive: 8, fresh: 1, isRight })
  t.teardown(() => traffic.end())
  await until('both serve', () => Promise.resolve(lastMs.size === 2))

  // Each time all that is kept alive has to move to the other one.
  const changes: [what: string, app: string, method: string, path: string, back: () => Promise<unknown>][] = [
    ['critical', 'api-2', 'PUT', '/v1/agent/check/fail/api-2-ttl', () => west.api('PUT', '/v1/agent/check/pass/api-2-ttl')],
    [
      'in maintenance',
      'api',
      'PUT',
      '/v1/agent/service/maintenance/api?enable=true',
      () => west.api('PUT', '/v1/agent/service/maintenance/api?enable=false'),
    ],
    ['deregistered', 'api-2', 'PUT', '/v1/agent/service/deregister/api-2', () => Promise.resolve()],
  ]
  for (const [what, app, method, path, back] of changes) {
    await t.test(what, async t => {
      const beganMs = performance.now()
      t.ok(beganMs - lastMs.get(app)! < 1000, 'it is served by the one that is about to leave')
      await west.api(method, path)
      await new Promise(resolve => setTimeout(resolve, 1500))
      const afterMs = lastMs.get(app)! - beganMs
      t.ok(afterMs < 1000, `the last request came to it after ${Math.round(afterMs)} ms`)
      t.same(traffic.failures.slice(0, 5), [], `0 failed of ${traffic.done}`)
      await back()
      await healthy(what === 'deregistered' ? 1 : 2)
    })
  }
})
