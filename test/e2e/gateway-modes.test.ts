// Both modes of reaching a peer's gateway: straight (remote), or through a gateway of one's own cluster (local), which passes TLS on by
// name; a change of mode under traffic loses nothing, and the caller's identity stays end to end.
import t from 'tap'
import { freePorts } from '../support/free-ports.ts'
import { call, until } from '../support/processes.ts'
import { SteadyTraffic } from '../support/steady-traffic.ts'
import { startTwoClusters, type Seen } from '../support/two-clusters.ts'

t.test('mode local goes through the own gateway, mode remote does not', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east } = scene
  const [lan, wan] = (await freePorts(2)) as [number, number]
  await east.proxy('gateway', 'gateway', '--address', `127.0.0.1:${lan}`, '--wan-address', `127.0.0.1:${wan}`)
  await until(
    'the gateway is healthy',
    async () => ((await east.api('GET', '/v1/health/service/mesh-gateway?passing')).json as unknown[]).length === 1,
  )
  /** Connections that east's gateway has passed on so far. */
  const passed = async () => {
    const metrics = (await call(east.adminPort('gateway'), '/metrics')).text
    return Number(/^isthmus_proxy_connections_total\{door="gateway"[^}]*\} (\d+)/m.exec(metrics)?.[1] ?? 0)
  }
  const setMode = (mode: string) => east.api('PUT', '/v1/config', { Kind: 'proxy-defaults', Name: 'global', MeshGateway: { Mode: mode } })

  const traffic = new SteadyTraffic(scene.apiPort, { keepAlive: 0, fresh: 1 })
  t.teardown(() => traffic.end())

  const before = await passed()
  await setMode('local')
  await until('calls go through the own gateway', async () => (await passed()) > before, 5000)
  const seen = (await call(scene.apiPort, '/')).json as Seen
  t.match(
    seen.headers['x-forwarded-client-cert'],
    /;URI=spiffe:\/\/[^,]+\/dc\/east\/svc\/web$/,
    'the app still sees the real caller, and nobody else',
  )

  await setMode('remote')
  await new Promise(resolve => setTimeout(resolve, 500))
  const after = await passed()
  await new Promise(resolve => setTimeout(resolve, 300))
  t.equal(await passed(), after, 'nothing goes through it any more')

  await traffic.reached(50)
  await traffic.end()
  t.same(traffic.failures, [], `0 failed of ${traffic.done}`)
})
