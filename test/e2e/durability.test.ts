// kill -9 of an agent during writes: every acknowledged write is there after the restart, the peering is ACTIVE again by itself, and
// traffic through the proxies never stopped.
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { call, ClusterProcess, start, until } from '../support/processes.ts'
import { peeringActive, startTwoClusters } from '../support/two-clusters.ts'

t.test('both agents are killed while writing', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const traffic = { sent: 0, failed: [] as string[], stop: false }
  const driving = (async () => {
    while (!traffic.stop) {
      traffic.sent += 1
      const answer = await call(scene.apiPort, '/', { timeoutMs: 2000 }).catch((error: unknown) => ({ status: 0, text: String(error) }))
      if (answer.status !== 200) traffic.failed.push(`${answer.status} ${answer.text}`)
      await new Promise(resolve => setTimeout(resolve, 5))
    }
  })()

  for (const cluster of [scene.west, scene.east]) {
    const acknowledged: string[] = []
    const state = { killed: false }
    const writers = Array.from({ length: 8 }, async (_, writer) => {
      for (let i = 0; !state.killed; i += 1) {
        const key = `kept/${writer}/${i}`
        const answer = await call(cluster.ports.http, `/v1/kv/${key}`, { method: 'PUT', body: `value of ${key}` }).catch(() => undefined)
        if (answer?.text === 'true') acknowledged.push(key)
        else if (answer === undefined) return
      }
    })
    await new Promise(resolve => setTimeout(resolve, 700))
    await cluster.killAgent()
    state.killed = true
    await Promise.all(writers)
    t.ok(acknowledged.length > 20, `${acknowledged.length} writes were acknowledged before the kill`)
    await new Promise(resolve => setTimeout(resolve, 300))
    await cluster.restartAgent()
    const there = (await cluster.api('GET', '/v1/kv/kept/?recurse')).json as { Key: string; Value: string }[]
    const found = new Map(there.map(({ Key, Value }) => [Key, Buffer.from(Value, 'base64').toString()]))
    t.same(
      acknowledged.filter(key => found.get(key) !== `value of ${key}`),
      [],
      'every acknowledged write is there',
    )
    await peeringActive(scene)
    t.pass('the peering is ACTIVE again by itself')
  }

  traffic.stop = true
  await driving
  t.ok(traffic.sent > 100, `${traffic.sent} requests were sent`)
  t.same(traffic.failed, [], 'traffic never stopped')
})

const canTrace = spawnSync('strace', ['-f', '-e', 'trace=fdatasync', 'true']).status === 0

t.test(
  'no write is acknowledged before it is on the disk: with every sync delayed by 300 ms, none takes less',
  { skip: canTrace ? false : 'strace cannot trace here, so the order of disk and answer is NOT proved on this machine' },
  async t => {
    const west = await ClusterProcess.start('west')
    t.teardown(() => west.stop())
    const calls = 'fdatasync,fsync,msync'
    const pid = String(west.agent.child.pid)
    const tracer = start('strace', ['-f', '-p', pid, '-o', '/dev/null', '-e', `trace=${calls}`, '-e', `inject=${calls}:delay_enter=300000`])
    t.teardown(() => tracer.stop('SIGINT'))
    await until('strace has attached', async () => /attached/.test(tracer.log()))
    const writes: [string, string, unknown][] = [
      ['PUT', '/v1/kv/a', 'x'],
      ['PUT', '/v1/config', { Kind: 'service-defaults', Name: 'a', Protocol: 'http' }],
      ['PUT', '/v1/catalog/register', { Node: 'n', Address: '127.0.0.1' }],
      ['PUT', '/v1/agent/service/register', { Name: 'svc', Port: 1 }],
      ['POST', '/v1/peering/token', { PeerName: 'p' }],
      ['DELETE', '/v1/kv/a', undefined],
    ]
    for (const [method, path, body] of writes) {
      const began = performance.now()
      const answer = await call(west.ports.http, path, { method, body })
      t.equal(answer.status, 200, `${method} ${path} succeeds`)
      t.ok(performance.now() - began >= 300, `${method} ${path} was answered after ${Math.round(performance.now() - began)} ms`)
    }
  },
)
