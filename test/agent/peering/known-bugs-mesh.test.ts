/** Bugs of peering that others have had, by name: those that a request meets. Agents, gateways and sidecars are processes of their own. */
import t from 'tap'
import { freePorts } from '../../support/free-ports.ts'
import { call, until } from '../../support/processes.ts'
import { startTwoClusters } from '../../support/two-clusters.ts'

t.test('host-name WAN address: a gateway that is known by name is dialled, and found anew', async t => {
  const [port] = (await freePorts(1)) as [number]
  const scene = await startTwoClusters({ proxyFlags: { gateway: ['--wan-address', `localhost:${port}`] } })
  t.teardown(() => scene.stop())
  const { east } = scene
  const [instance] = (await east.api('GET', '/v1/health/connect/api?peer=west')).json as {
    Service: { TaggedAddresses: { wan: { Address: string; Port: number } } }
  }[]
  t.match(instance!.Service.TaggedAddresses.wan, { Address: 'localhost', Port: port }, 'the name crossed as a name')
  t.equal((await call(scene.apiPort, '/')).status, 200)

  await t.test('dead services left in the gateway: what is no longer exported is reset there, for who knew its name, too', async () => {
    await scene.export(['db'])
    const served = async () => (await call(scene.apiPort, '/', { timeoutMs: 1000 }).catch(() => ({ status: 0 }))).status === 200
    await until('api is gone', async () => !(await served()))
    await scene.export(['api', 'db'])
    await until('api is back', served, 30_000)
  })
})

t.end()
