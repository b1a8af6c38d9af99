// Proxies with workers: one set of listening sockets and one admin door for all of them, none of whom is missed when it is killed, and
// all of whom are replaced by a restart without a request lost.
import t from 'tap'
import { call, isAlive, until, type ClusterProcess } from '../support/processes.ts'
import { SteadyTraffic } from '../support/steady-traffic.ts'
import { startTwoClusters } from '../support/two-clusters.ts'

/** Process ids of the workers, as the log tells them; the last of each number. */
function workersOf(cluster: ClusterProcess, name: string): Map<number, number> {
  const lines = cluster.proxies.get(name)!.log().split('\n')
  const started = lines
    .filter(line => line.includes('"a worker was started"'))
    .map(line => JSON.parse(line) as { worker: number; pid: number })
  return new Map(started.map(({ worker, pid }) => [worker, pid]))
}

async function metric(cluster: ClusterProcess, name: string, pattern: RegExp): Promise<number> {
  const { text } = await call(cluster.adminPort(name), '/metrics')
  return text
    .split('\n')
    .filter(line => pattern.test(line))
    .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0)
}

t.test('a proxy with workers', async t => {
  const flags = ['--workers', '2', '--restart-drain-time', '5']
  const scene = await startTwoClusters({ proxyFlags: { web: flags, api: flags, gateway: flags } })
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const answered = /^isthmus_proxy_requests_total\{.*door="outbound".*class="2xx"/

  await t.test('serves, and says so once for all', async t => {
    t.equal(workersOf(east, 'web').size, 2)
    const before = await metric(east, 'web', answered)
    const traffic = new SteadyTraffic(scene.apiPort, { keepAlive: 4, fresh: 4 })
    await traffic.reached(300)
    await traffic.end()
    t.same(traffic.failures, [])
    t.equal((await metric(east, 'web', answered)) - before, traffic.done, 'requests are added up')
    t.equal(await metric(east, 'web', /^isthmus_proxy_agent_connected\{/), 1, 'but not whether the agent is connected')
    t.equal((await call(east.adminPort('web'), '/ready')).text, 'LIVE\n')
    const { workers } = (await call(east.adminPort('web'), '/certs')).json as { workers: { leaf: { serialNumber: string } }[] }
    t.equal(new Set(workers.map(each => each.leaf.serialNumber)).size, 2, 'each has a leaf of its own')
  })

  await t.test('one is killed: the others go on, it comes back, and no count is lost', async t => {
    const before = await metric(east, 'web', answered)
    const pids = workersOf(east, 'web')
    process.kill(pids.get(1)!, 'SIGKILL')
    await until('it is missed', async () => (await call(east.adminPort('web'), '/ready')).status === 503, 2000, 5)
    for (let i = 0; i < 20; i += 1) t.equal((await call(scene.apiPort, '/')).status, 200)
    await until('it is back', async () => (await call(east.adminPort('web'), '/ready')).status === 200, 60_000)
    t.not(workersOf(east, 'web').get(1), pids.get(1))
    t.equal(workersOf(east, 'web').get(2), pids.get(2), 'the other is the same')
    t.equal((await metric(east, 'web', answered)) - before, 20)
  })

  await t.test('a restart replaces the supervisor and all workers', async t => {
    const old = [east.pid('web'), ...workersOf(east, 'web').values()]
    const traffic = new SteadyTraffic(scene.apiPort, { keepAlive: 2, fresh: 2 })
    await traffic.reached(100)
    for (const [name, cluster] of [
      ['web', east],
      ['api', west],
      ['gateway', west],
    ] as const) {
      t.comment(`${name}: ${Math.round(await cluster.restartProxy(name))} ms`)
      await traffic.reached(traffic.done + 100)
    }
    await traffic.end()
    t.same(traffic.failures.slice(0, 5), [], `0 failed of ${traffic.done}`)
    await until('the old ones end', () => Promise.resolve(old.every(pid => !isAlive(pid))), 10_000)
    t.equal((await call(scene.apiPort, '/')).status, 200)
  })

  await t.test('ends in order, with all its workers', async t => {
    const pids = [east.pid('web'), ...workersOf(east, 'web').values()]
    process.kill(pids[0]!, 'SIGTERM')
    await until('all end', () => Promise.resolve(pids.every(pid => !isAlive(pid))), 10_000)
    t.equal((await call(scene.apiPort, '/').catch((error: NodeJS.ErrnoException) => error.code)) as unknown, 'ECONNREFUSED')
  })
})
