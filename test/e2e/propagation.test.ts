// What is not exported is not visible, and every change of the exporter reaches the other cluster's API, DNS and routing, kept-alive
// connections included, within a second of the exporter's agent knowing it.
import { Agent } from 'node:http'
import { Resolver } from 'node:dns/promises'
import t from 'tap'
import { call, until, type ClusterProcess } from '../support/processes.ts'
import { startTwoClusters, westName } from '../support/two-clusters.ts'

const withinMs = 1000

interface Instance {
  Service: { ID: string }
  Checks: { Status: string }[]
}

async function imported(east: ClusterProcess, service: string, query = ''): Promise<Instance[]> {
  return (await east.api('GET', `/v1/health/service/${service}?peer=${westName}${query}`)).json as Instance[]
}

function resolver(cluster: ClusterProcess): Resolver {
  const dns = new Resolver({ timeout: 1000, tries: 1 })
  dns.setServers([`127.0.0.1:${cluster.ports.dns}`])
  return dns
}

/** The addresses behind a name; none where it does not exist. */
async function addresses(cluster: ClusterProcess, name: string): Promise<string[]> {
  try {
    return await resolver(cluster).resolve4(name)
  } catch (error) {
    if (['ENOTFOUND', 'ENODATA'].includes((error as NodeJS.ErrnoException).code ?? '')) return []
    throw error
  }
}

t.test('changes of the exporter reach the importer within a second', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const get = () => call(scene.apiPort, '/', { agent })
  const name = `api.service.${westName}.peer.consul`

  await t.test('the exported service is there, in API, DNS and routing', async t => {
    t.equal((await imported(east, 'api')).length, 1)
    t.same(await addresses(east, name), ['127.0.0.1'])
    const srv = await resolver(east).resolveSrv(name)
    t.match(srv, [{ port: scene.apiApp.port }])
    t.equal((await get()).status, 200)
  })

  await t.test('what is not exported is not visible: API, DNS', async t => {
    await west.api('PUT', '/v1/agent/service/register', { Name: 'hidden', Port: 1234, Connect: { SidecarService: {} } })
    await new Promise(resolve => setTimeout(resolve, 300))
    t.same(await imported(east, 'hidden'), [])
    t.same((await east.api('GET', `/v1/health/connect/hidden?peer=${westName}`)).json, [])
    t.same(await addresses(east, `hidden.service.${westName}.peer.consul`), [])
    t.same(await addresses(east, `hidden.virtual.${westName}.consul`), [])
    t.notMatch((await east.api('GET', '/v1/catalog/services')).text, /api|db|hidden/, 'imported services never appear among our own')
    const peering = (await east.api('GET', `/v1/peering/${westName}`)).json as { StreamStatus: { ImportedServices: string[] } }
    t.same(peering.StreamStatus.ImportedServices.toSorted(), ['api', 'db'])
  })

  await t.test('a failing check', async t => {
    await west.api('PUT', '/v1/agent/check/fail/api-ttl')
    await Promise.all([
      until('critical in the API', async () => (await imported(east, 'api'))[0]?.Checks[0]?.Status === 'critical', withinMs, 10),
      until('gone from DNS', async () => (await addresses(east, name)).length === 0, withinMs, 10),
      until('gone from routing', async () => (await get()).status === 503, withinMs, 10),
    ])
    await west.api('PUT', '/v1/agent/check/pass/api-ttl')
    await Promise.all([
      until('passing in the API', async () => (await imported(east, 'api', '&passing')).length === 1, withinMs, 10),
      until('back in DNS', async () => (await addresses(east, name)).length === 1, withinMs, 10),
      until('back in routing', async () => (await get()).status === 200, withinMs, 10),
    ])
    t.pass('there and back')
  })

  await t.test('an un-export', async t => {
    await scene.export(['db'])
    await Promise.all([
      until('gone from the API', async () => (await imported(east, 'api')).length === 0, withinMs, 10),
      until('gone from DNS', async () => (await addresses(east, name)).length === 0, withinMs, 10),
      until('gone from routing', async () => (await get().catch(() => ({ status: 503 }))).status === 503, withinMs, 10),
    ])
    await scene.export(['api', 'db'])
    await until('back in routing', async () => (await get().catch(() => ({ status: 0 }))).status === 200, 2 * withinMs, 10)
    t.pass('there and back')
  })

  await t.test('a deregistration', async t => {
    await west.api('PUT', '/v1/agent/service/deregister/api')
    await Promise.all([
      until('gone from the API', async () => (await imported(east, 'api')).length === 0, withinMs, 10),
      until('gone from DNS', async () => (await addresses(east, name)).length === 0, withinMs, 10),
      until('gone from routing', async () => (await get().catch(() => ({ status: 503 }))).status === 503, withinMs, 10),
    ])
    t.pass('gone')
  })
})
