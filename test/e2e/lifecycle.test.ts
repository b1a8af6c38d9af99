// The life of peerings between real processes: deleted by either side, made again, restarted, killed, re-established, renamed, and
// three clusters at once. What a peering gave is gone with it, at once and on both sides; what is local is never touched.
import { Resolver } from 'node:dns/promises'
import t from 'tap'
import { ClusterProcess, until } from '../support/processes.ts'

interface Seen {
  ID: string
  State: string
  PeerID?: string
  warnings?: string[]
  StreamStatus: { ImportedServices: string[] | null }
}

async function tokenOf(cluster: ClusterProcess, peer: string): Promise<string> {
  return ((await cluster.api('POST', '/v1/peering/token', { PeerName: peer })).json as { PeeringToken: string }).PeeringToken
}

function establish(cluster: ClusterProcess, peer: string, token: string, any = false) {
  return cluster.api('POST', '/v1/peering/establish', { PeerName: peer, PeeringToken: token }, any)
}

async function seen(cluster: ClusterProcess, peer: string): Promise<Seen | undefined> {
  const answer = await cluster.api('GET', `/v1/peering/${peer}`, undefined, true)
  return answer.status === 404 ? undefined : (answer.json as Seen)
}

/** Waits for a state, '' for a peering that is gone; answers how long it took. */
async function reaches(cluster: ClusterProcess, peer: string, state: string, timeoutMs = 5000): Promise<number> {
  const start = performance.now()
  await until(
    `${cluster.datacenter} sees ${peer} ${state || 'gone'}`,
    async () => {
      return ((await seen(cluster, peer))?.State ?? '') === state
    },
    timeoutMs,
  )
  return performance.now() - start
}

async function register(cluster: ClusterProcess, name: string, address: string): Promise<void> {
  await cluster.api('PUT', '/v1/agent/service/register', { Name: name, ID: `${name}-${address}`, Address: address, Port: 8080 })
}

async function exportTo(cluster: ClusterProcess, services: Record<string, string[]>): Promise<void> {
  const Services = Object.entries(services).map(([Name, peers]) => ({ Name, Consumers: peers.map(Peer => ({ Peer })) }))
  await cluster.api('PUT', '/v1/config', { Kind: 'exported-services', Name: 'default', Services })
}

/** Addresses of a service by the API and by DNS, which must agree. */
async function addresses(cluster: ClusterProcess, service: string, peer = ''): Promise<string[]> {
  const query = peer === '' ? '' : `?peer=${peer}`
  const answer = await cluster.api('GET', `/v1/health/service/${service}${query}`)
  const byApi = (answer.json as { Service: { Address: string } }[]).map(each => each.Service.Address).sort()
  const resolver = new Resolver({ timeout: 2000, tries: 2 })
  resolver.setServers([`127.0.0.1:${cluster.ports.dns}`])
  const name = peer === '' ? `${service}.service.consul` : `${service}.service.${peer}.peer.consul`
  const byDns = await resolver.resolve4(name).then(
    found => found.sort(),
    () => [],
  )
  if (byApi.join() !== byDns.join()) throw new Error(`the API says ${byApi.join() || 'nothing'}, DNS ${byDns.join() || 'nothing'}`)
  return byApi
}

async function has(cluster: ClusterProcess, service: string, peer: string, ...expected: string[]): Promise<void> {
  await until(
    `${cluster.datacenter} sees ${service} of ${peer} at ${expected.join() || 'nowhere'}`,
    async () => {
      return (await addresses(cluster, service, peer)).join() === expected.join()
    },
    5000,
  )
}

/** The acceptor calls the dialer by `dialerName` and the other way round. */
async function peer(acceptor: ClusterProcess, dialerName: string, dialer: ClusterProcess, acceptorName: string): Promise<void> {
  await establish(dialer, acceptorName, await tokenOf(acceptor, dialerName))
  await Promise.all([reaches(acceptor, dialerName, 'ACTIVE'), reaches(dialer, acceptorName, 'ACTIVE')])
}

t.test('two clusters', async t => {
  const [east, west] = await Promise.all([ClusterProcess.start('east'), ClusterProcess.start('west')])
  t.teardown(() => Promise.all([east.stop(), west.stop()]))
  await Promise.all([register(east, 'web', '10.1.0.1'), register(west, 'web', '10.2.0.1'), register(west, 'api', '10.2.0.2')])
  await exportTo(east, { web: ['west'] })
  await exportTo(west, { web: ['east'], api: ['east'] })
  const bothWays = async () => {
    await has(east, 'web', 'west', '10.2.0.1')
    await has(west, 'web', 'east', '10.1.0.1')
  }
  const nothingLeft = async () => {
    await has(east, 'web', 'west')
    await has(west, 'web', 'east')
    t.same(await addresses(east, 'web'), ['10.1.0.1'], 'what is local stays')
    t.same(await addresses(west, 'web'), ['10.2.0.1'], 'what is local stays')
  }
  // west is the acceptor all along.
  await peer(west, 'east', east, 'west')
  await bothWays()

  await t.test('deleted by the dialer', async t => {
    await east.api('DELETE', '/v1/peering/west')
    t.ok((await reaches(west, 'east', 'TERMINATED')) < 1500)
    t.ok((await reaches(east, 'west', '')) < 1500)
    await nothingLeft()
    const again = await establish(east, 'west', await tokenOf(west, 'east'), true)
    t.equal(again.status, 200, 'a TERMINATED peering takes a new token at once')
    await reaches(east, 'west', 'ACTIVE')
    await bothWays()
  })

  await t.test('deleted by the acceptor', async t => {
    await west.api('DELETE', '/v1/peering/east')
    t.ok((await reaches(east, 'west', 'TERMINATED')) < 1500)
    t.ok((await reaches(west, 'east', '')) < 1500)
    await nothingLeft()
    await peer(west, 'east', east, 'west')
    await bothWays()
  })

  await t.test('tokens: spent twice, replaced by a newer one, and one for a peering that runs', async t => {
    const before = await seen(east, 'west')
    const older = await tokenOf(west, 'east')
    const newer = await tokenOf(west, 'east')
    t.equal((await establish(east, 'west', older, true)).status, 403)
    t.equal((await seen(east, 'west'))?.State, 'ACTIVE', 'the live stream is not disturbed')
    t.equal((await seen(west, 'east'))?.State, 'ACTIVE')
    await establish(east, 'west', newer)
    await Promise.all([reaches(east, 'west', 'ACTIVE'), reaches(west, 'east', 'ACTIVE')])
    t.match(await seen(east, 'west'), { ID: before!.ID, PeerID: before!.PeerID })
    const spent = await establish(east, 'west', newer, true)
    t.same([spent.status, spent.text], [403, 'a new peering token must be generated: invalid peering establishment secret'])
    t.equal((await seen(east, 'west'))?.State, 'ACTIVE')
    await register(west, 'web', '10.2.0.9')
    await has(east, 'web', 'west', '10.2.0.1', '10.2.0.9')
    await west.api('PUT', '/v1/agent/service/deregister/web-10.2.0.9')
    await bothWays()
  })

  await t.test('restarted and killed, the one and the other, and what changed meanwhile is swept', async t => {
    for (const cluster of [west, east]) {
      for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
        if (signal === 'SIGKILL') await cluster.killAgent()
        await cluster.restartAgent()
        const [a, b] = await Promise.all([reaches(east, 'west', 'ACTIVE'), reaches(west, 'east', 'ACTIVE')])
        t.ok(Math.max(a, b) < 4000, `${cluster.datacenter} ${signal}: ACTIVE after ${Math.round(Math.max(a, b))} ms`)
        await bothWays()
      }
    }
    await has(east, 'api', 'west', '10.2.0.2')
    await east.killAgent()
    await exportTo(west, { web: ['east'] })
    await register(west, 'web', '10.2.0.8')
    await east.restartAgent()
    await has(east, 'api', 'west')
    await has(east, 'web', 'west', '10.2.0.1', '10.2.0.8')
    await west.api('PUT', '/v1/agent/service/deregister/web-10.2.0.8')
  })

  await t.test('deleted while the other side is down', async () => {
    await east.killAgent()
    await west.api('DELETE', '/v1/peering/east')
    await reaches(west, 'east', '')
    await east.restartAgent()
    await reaches(east, 'west', 'FAILING')
    await peer(west, 'east', east, 'west')
    await bothWays()
    await west.killAgent()
    await east.api('DELETE', '/v1/peering/west')
    await reaches(east, 'west', '')
    await has(east, 'web', 'west')
    await west.restartAgent()
    await has(west, 'web', 'east', '10.1.0.1')
    await peer(west, 'east', east, 'west')
    await bothWays()
  })
})

t.test('three clusters, of which two have the same datacenter name and export the same names', async t => {
  const [a, b, c] = await Promise.all([ClusterProcess.start('dc1'), ClusterProcess.start('dc1'), ClusterProcess.start('dc1')])
  t.teardown(() => Promise.all([a, b, c].map(each => each.stop())))
  await Promise.all([register(a, 'web', '10.1.0.1'), register(b, 'web', '10.2.0.1'), register(c, 'web', '10.3.0.1')])
  for (const cluster of [a, b]) await exportTo(cluster, { web: ['c'] })
  await peer(c, 'a', a, 'c')
  await peer(b, 'c', c, 'b')
  await has(c, 'web', 'a', '10.1.0.1')
  await has(c, 'web', 'b', '10.2.0.1')
  t.same(await addresses(c, 'web'), ['10.3.0.1'])
  // c exports its own web to both: neither sees the other's through c.
  await exportTo(c, { '*': ['a', 'b'] })
  for (const cluster of [a, b]) {
    await has(cluster, 'web', 'c', '10.3.0.1')
    t.same((await seen(cluster, 'c'))?.StreamStatus.ImportedServices, ['web'])
    t.equal((await cluster.api('GET', '/v1/catalog/services')).text.includes('peer'), false)
  }

  await t.test('one deleted, the other is not touched', async t => {
    await c.api('DELETE', '/v1/peering/a')
    await reaches(c, 'a', '')
    await has(c, 'web', 'a')
    t.same(await addresses(c, 'web', 'b'), ['10.2.0.1'])
    t.equal((await seen(c, 'b'))?.State, 'ACTIVE')
  })

  await t.test('a name that was removed serves another cluster', async t => {
    await c.api('DELETE', '/v1/peering/b')
    await reaches(c, 'b', '')
    await reaches(b, 'c', 'TERMINATED')
    // a becomes "b", and b becomes "a".
    await peer(c, 'b', a, 'c')
    await peer(b, 'c', c, 'a')
    await has(c, 'web', 'b', '10.1.0.1')
    await has(c, 'web', 'a', '10.2.0.1')
    for (const name of ['a', 'b']) t.same((await seen(c, name))?.warnings ?? [], [])
  })

  await t.test('a second peering with the same cluster is told why it cannot be used, until the first is gone', async () => {
    await establish(a, 'c-again', await tokenOf(c, 'b-again'))
    await reaches(a, 'c-again', 'ACTIVE')
    await until(
      'both say so',
      async () => {
        const both = [await a.cli('peering', 'read', '--name', 'c-again'), await c.cli('peering', 'read', '--name', 'b-again')]
        return both.every(each => each.stdout.includes('trust bundle'))
      },
      5000,
    )
    await a.api('DELETE', '/v1/peering/c')
    await reaches(a, 'c', '')
    await until(
      'the second one works',
      async () => {
        const both = [await a.cli('peering', 'read', '--name', 'c-again'), await c.cli('peering', 'read', '--name', 'b-again')]
        return both.every(each => each.code === 0 && !each.stdout.includes('trust bundle'))
      },
      5000,
    )
    await reaches(c, 'b-again', 'ACTIVE')
  })
})
