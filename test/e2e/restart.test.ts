// Proxies are replaced while they work: not one request fails over the restarts of any of them, a tunnel lives on in the process that
// opened it, and a successor that cannot serve leaves everything as it was.
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { call, isAlive, until, within, type ClusterProcess } from '../support/processes.ts'
import { SteadyTraffic } from '../support/steady-traffic.ts'
import { startTwoClusters, type Seen } from '../support/two-clusters.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const restarts = deep ? 10 : 2
const requests = deep ? 100_000 : 2000

/** Says something through a tunnel and waits for the echo. */
function conversation(port: number): { say(text: string): Promise<string>; end(): void } {
  const socket = connect(port, '127.0.0.1')
  let problem = ''
  socket.on('error', error => (problem = error.message))
  socket.on('close', () => (problem ||= 'closed'))
  return {
    say(text) {
      const echo = new Promise<string>((resolve, reject) => {
        if (problem !== '') return reject(new Error(problem))
        socket.once('data', chunk => resolve(chunk.toString()))
        socket.once('close', () => reject(new Error(problem)))
        socket.write(text)
      })
      return within(`the echo of ${text}`, echo)
    },
    end: () => void socket.destroy(),
  }
}

t.test('proxies are replaced', async t => {
  const cacheDir = mkdtempSync(join(tmpdir(), 'isthmus-cache-'))
  t.teardown(() => rmSync(cacheDir, { recursive: true, force: true }))
  const scene = await startTwoClusters({ proxyFlags: { web: ['--cache-dir', cacheDir] } })
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const each: [string, ClusterProcess][] = [
    ['web', east],
    ['api', west],
    ['gateway', west],
  ]

  await t.test(`no request of ${requests} fails over ${restarts} restarts of each sidecar and of the gateway`, async t => {
    const isRight = ({ status, json }: { status: number; json: unknown }, body: string) => status === 200 && (json as Seen).body === body
    const tunnel = await until('db is reached', async () => {
      const made = conversation(scene.dbPort)
      return (await made.say('before')) === 'BEFORE' && made
    })
    t.teardown(() => tunnel.end())
    const traffic = new SteadyTraffic(scene.apiPort, { keepAlive: 4, fresh: 2, isRight })
    const took: Record<string, number[]> = { web: [], api: [], gateway: [] }
    const first = new Map(each.map(([name, cluster]) => [name, cluster.pid(name)]))
    for (let i = 0; i < restarts; i += 1) {
      for (const [name, cluster] of each) {
        await traffic.reached(((i + 1) * requests) / (restarts + 1))
        took[name]!.push(Math.round(await cluster.restartProxy(name)))
        t.equal((await call(cluster.adminPort(name), '/ready')).text, 'LIVE\n', `${name} is ready the whole time`)
      }
    }
    await traffic.reached(requests)
    await traffic.end()
    t.same(traffic.failures.slice(0, 10), [], `0 failed of ${traffic.done}`)
    t.comment(`requests ${traffic.done}, ms of a restart: ${JSON.stringify(took)}`)
    t.equal(await tunnel.say('after'), 'AFTER', 'the tunnel goes on where it was opened')
    t.ok(isAlive(first.get('web')!), 'which waits for it')
    tunnel.end()
    await until('the first web ends when nothing is open', () => Promise.resolve(!isAlive(first.get('web')!)), 5000)
    t.equal((await west.api('GET', '/v1/agent/services')).text.includes('mesh-gateway'), true, 'the gateway is still registered')
  })

  await t.test('a successor that fails changes nothing, and the next one that can takes over', async t => {
    const pid = east.pid('web')
    const web = east.proxies.get('web')!
    // A directory that others can read is refused at the start.
    chmodSync(cacheDir, 0o755)
    process.kill(pid, 'SIGUSR2')
    await until('it says so', () => Promise.resolve(web.log().includes('the successor failed')), 60_000)
    t.match(web.log(), /"problem":"it ended with exit code 1"/)
    t.equal(east.pid('web'), pid)
    t.equal((await call(east.adminPort('web'), '/ready')).text, 'LIVE\n')
    t.equal((await call(scene.apiPort, '/')).status, 200)

    chmodSync(cacheDir, 0o700)
    await east.restartProxy('web')
    await until('the one before ends', () => Promise.resolve(!isAlive(pid)), 5000)
    t.equal((await call(scene.apiPort, '/')).status, 200)
  })
})
