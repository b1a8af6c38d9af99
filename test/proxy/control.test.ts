/** A proxy and its agent: leaves, restarts without an agent, agents that lie or break off, and the admin door. */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { silentLogger } from '../../src/lib/log.ts'
import type { Plan } from '../../src/mesh/plan.ts'
import { Control } from '../../src/proxy/control.ts'
import { ProxyMetrics } from '../../src/proxy/metrics.ts'
import { parseLine } from '../../src/proxy/snapshot-client.ts'
import { startSidecar, type SidecarOptions } from '../../src/proxy/sidecar.ts'
import { AgentStandIn } from '../support/agent-stand-in.ts'
import { Mint } from '../support/mint.ts'
import {
  call,
  converse,
  eastDomain,
  sidecarSelf,
  source,
  startTcpApp,
  until,
  webId,
  westDomain,
  westResources,
} from '../support/proxy-scene.ts'
import { connect as connectTls } from 'node:tls'

async function start(t: Test) {
  const mint = new Mint()
  const [eastRoot, westRoot] = await Promise.all([mint.root(eastDomain), mint.root(westDomain)])
  const agent = new AgentStandIn(mint, westRoot)
  const app = await startTcpApp('hello')
  await agent.start()
  const cacheDir = mkdtempSync(join(tmpdir(), 'isthmus-cache-'))
  chmodSync(cacheDir, 0o700)
  const proxyId = 'db-sidecar-proxy'
  const self = sidecarSelf('west', 'db', 'tcp', app.port)
  agent.tell(proxyId, westResources(self, { eastRoot, westRoot }, [source('web', 'allow', 'partner-east', 'db')]))
  const web = await mint.leaf(eastRoot, { san: `URI:${webId}` })
  t.teardown(async () => {
    app.close()
    await agent.stop().catch(() => {})
    rmSync(cacheDir, { recursive: true, force: true })
    mint.remove()
  })
  const open = async (options: Partial<SidecarOptions> = {}) => {
    const sidecar = await startSidecar({
      proxyId,
      agent: { url: agent.url },
      admin: { host: '127.0.0.1', port: 0 },
      logger: silentLogger(),
      ...options,
    })
    t.teardown(() => sidecar.close())
    return sidecar
  }
  /** The serial number of the server's leaf, and what its app says first. */
  const greet = (port: number) =>
    new Promise<{ serial: string; heard: string }>((resolve, reject) => {
      const socket = connectTls({
        host: '127.0.0.1',
        port,
        servername: 'db',
        cert: web.certPem,
        key: web.keyPem,
        rejectUnauthorized: false,
      })
      socket.on('error', reject)
      socket.once('data', (chunk: Buffer) => {
        resolve({ serial: socket.getPeerCertificate().serialNumber, heard: chunk.toString() })
        socket.destroy()
      })
    })
  return { mint, eastRoot, westRoot, agent, cacheDir, proxyId, self, open, greet }
}

t.test('a proxy that is restarted without its agent serves from its cache, key and all, and says how old it is', async t => {
  const { agent, cacheDir, open, greet } = await start(t)
  const first = await open({ cacheDir })
  await first.ready()
  const before = await greet(first.port('public')!)
  await first.close()
  const { url } = agent
  await agent.stop()
  const again = await open({ cacheDir, agent: { url } })
  await again.ready()
  t.strictSame(await greet(again.port('public')!), before)
  const plan = JSON.parse((await call(again.admin!.port, '/plan')).body) as { ageSeconds: number; agent: string }
  t.ok(plan.ageSeconds > 0 && plan.ageSeconds < 60)
  t.not(plan.agent, 'connected')
  const modes = readdirSync(cacheDir).map(name => statSync(join(cacheDir, name)).mode & 0o777)
  t.strictSame(modes, [0o600, 0o600])
})

t.test('the agent is told once when the proxy serves, and need not be there for it', async t => {
  const { agent, cacheDir, proxyId, open, greet } = await start(t)
  const first = await open({ cacheDir })
  await first.ready()
  await until(() => agent.serving.length > 0)
  t.equal((await greet(first.port('public')!)).heard, 'hello', 'it serves when it says so')
  t.same(agent.serving, [proxyId])
  await first.close()
  await agent.stop()
  const again = await open({ cacheDir })
  await again.ready()
  t.equal((await greet(again.port('public')!)).heard, 'hello')
})

t.test('without a cache directory no key is written anywhere', async t => {
  const { cacheDir, open } = await start(t)
  const sidecar = await open()
  await sidecar.ready()
  t.strictSame(readdirSync(cacheDir), [])
})

t.test('a cache directory that is open to others is refused', async t => {
  const { cacheDir, open } = await start(t)
  chmodSync(cacheDir, 0o755)
  await t.rejects(open({ cacheDir }), { code: 'permission-denied' })
})

t.test('a cache that was tampered with is ignored, not fatal', async t => {
  const { cacheDir, open, greet } = await start(t)
  const first = await open({ cacheDir })
  await first.ready()
  await first.close()
  for (const name of readdirSync(cacheDir)) writeFileSync(join(cacheDir, name), '{"resources":[{"kind":"self"}],')
  const again = await open({ cacheDir })
  await again.ready()
  t.equal((await greet(again.port('public')!)).heard, 'hello')
})

t.test('a new root is followed by a new leaf, and a leaf whose root is gone is renewed at once', async t => {
  const { mint, eastRoot, agent, proxyId, self, open, greet } = await start(t)
  const sidecar = await open()
  await sidecar.ready()
  const before = await greet(sidecar.port('public')!)
  const next = await mint.root(westDomain)
  agent.root = next
  agent.tell(proxyId, westResources(self, { eastRoot, westRoot: next }, [source('web', 'allow', 'partner-east', 'db')]))
  await until(async () => (await greet(sidecar.port('public')!)).serial !== before.serial)
  t.equal(agent.signed, 2)
})

t.test('a leaf that is not ours is not used', async t => {
  const { eastRoot, westRoot, agent, proxyId, self, open, greet } = await start(t)
  const honest = { ...self }
  const sign = agent.signAs
  agent.signAs = 'spiffe://bbbbbbbb-0000-0000-0000-000000000002.consul/ns/default/dc/west/svc/admin'
  const sidecar = await open()
  await until(() => agent.signed > 0)
  t.match((await call(sidecar.admin!.port, '/ready')).body, /NOT READY: no leaf/)
  agent.signAs = sign
  agent.tell(proxyId, westResources(honest, { eastRoot, westRoot }, [source('web', 'allow', 'partner-east', 'db')]))
  await sidecar.ready()
  t.equal((await greet(sidecar.port('public')!)).heard, 'hello')
})

t.test('an agent that lies, stalls or breaks off never takes the plan away', async t => {
  const { agent, proxyId, open, greet } = await start(t)
  const sidecar = await open()
  await sidecar.ready()
  const lines = [
    '{"kind":"self","name":"x","version":"1","value":{"kind":"sidecar"}}\n{"kind":"sync","revision":9}\n',
    'not json\n',
    '{"kind":"sync","revision":"nine"}\n',
    '[]\n',
    'null\n',
    'x'.repeat(5 * 1024 * 1024),
  ]
  for (const line of lines) {
    await until(async () => (await call(sidecar.admin!.port, '/plan')).body.includes('"agent": "connected"'))
    agent.say(proxyId, line)
    await until(async () => !(await call(sidecar.admin!.port, '/plan')).body.includes('"agent": "connected"'))
    t.equal((await greet(sidecar.port('public')!)).heard, 'hello', line.slice(0, 20))
  }
})

t.test('an agent that comes back and says the same changes nothing', async t => {
  const { agent, proxyId } = await start(t)
  let changes = 0
  const control = new Control({
    proxyId,
    kind: 'sidecar',
    agent: { url: agent.url },
    logger: silentLogger(),
    metrics: new ProxyMetrics('sidecar'),
    onChange: () => (changes += 1),
  })
  t.teardown(() => control.close())
  control.start()
  await until(() => control.identity !== undefined)
  const { plan } = control
  t.equal(changes, 2, 'a plan, then a leaf')
  for (let i = 0; i < 2; i += 1) {
    await agent.stop()
    await until(() => !control.connected)
    await agent.start(Number(new URL(agent.url).port))
    await until(() => control.connected)
  }
  t.strictSame([changes, control.plan === plan], [2, true])
  agent.tell(proxyId, [['intentions', 'db', { sources: [] }]])
  await until(() => changes === 3)
})

t.test('what another version of the proxy kept holds until the agent answers, who is then read anew', async t => {
  const { agent, cacheDir, proxyId } = await start(t)
  const options = { proxyId, kind: 'sidecar', agent: { url: agent.url }, cacheDir, logger: silentLogger() } as const
  const allowed: boolean[] = []
  const onChange = (plan: Plan) => {
    if (plan.kind === 'sidecar') allowed.push(plan.authorizer.authorize(plan.authorizer.identify(webId)!, undefined).allow)
  }
  const open = () => {
    const control = new Control({ ...options, metrics: new ProxyMetrics('sidecar'), onChange })
    t.teardown(() => control.close())
    control.start()
    return control
  }
  const first = open()
  await until(() => first.plan !== undefined && first.identity !== undefined)
  first.close()
  const path = join(
    cacheDir,
    readdirSync(cacheDir).find(name => name.endsWith('.snapshot.json'))!,
  )
  interface Saved {
    by: string
    resources: { kind: string; value: { sources: object[] } }[]
  }
  // It did not know of sources yet, and dropped what it did not know.
  const saved = JSON.parse(readFileSync(path, 'utf8')) as Saved
  saved.by = 'another'
  for (const { kind, value } of saved.resources) if (kind === 'intentions') value.sources = []
  writeFileSync(path, JSON.stringify(saved))
  allowed.length = 0
  const again = open()
  await until(() => again.connected)
  t.strictSame([allowed[0], allowed.at(-1)], [false, true])
})

t.test('a kind of resource that is not known yet is passed over', t => {
  t.equal(parseLine('{"kind":"later","name":"x","version":"1","value":{}}'), undefined)
  t.throws(() => parseLine('{"kind":"__proto__","name":"x","version":1}'))
  t.equal(parseLine('{"kind":"constructor","name":"x","version":"1","value":null}'), undefined)
  t.end()
})

t.test('a proxy that is not registered waits and says so', async t => {
  const { open } = await start(t)
  const sidecar = await open({ proxyId: 'nobody' })
  await until(async () => (await call(sidecar.admin!.port, '/ready')).body.includes('is not registered'))
  const { status, body } = await call(sidecar.admin!.port, '/ready')
  t.strictSame([status, body], [503, 'NOT READY: nobody is not registered with the agent: register it\n'])
})

t.test('the admin door shows no key, answers only to an address, and opens on loopback only', async t => {
  const { open } = await start(t)
  await t.rejects(open({ admin: { host: '0.0.0.0', port: 0 } }), { code: 'invalid' })
  const sidecar = await open()
  await sidecar.ready()
  const { port } = sidecar.admin!
  const bodies = await Promise.all(['/plan', '/certs', '/metrics', '/stats/prometheus'].map(async path => (await call(port, path)).body))
  t.notMatch(bodies.join(''), /PRIVATE KEY/)
  t.match(bodies[1], /"uri": "spiffe:\/\/bbbbbbbb-0000-0000-0000-000000000002\.consul\/ns\/default\/dc\/west\/svc\/db"/)
  t.match(bodies[2], /isthmus_proxy_leaf_expiry_seconds\{component="sidecar"\} 259\d{3}/)
  const status = (host: string) =>
    new Promise(resolve =>
      request({ host: '127.0.0.1', port, path: '/plan', headers: { host } }, answer => resolve(answer.resume().statusCode)).end(),
    )
  t.strictSame(
    await Promise.all(['evil.example', '127.0.0.1:80', 'localhost', '[::1]:1', '127.0.0.1.evil.example'].map(status)),
    [403, 200, 200, 200, 403],
  )
  t.equal((await call(port, '/plan', { method: 'POST' })).status, 405)
})

t.test('a sidecar that is draining stops accepting and lets what is open end', async t => {
  const { open, greet } = await start(t)
  const sidecar = await open()
  await sidecar.ready()
  const port = sidecar.port('public')!
  t.equal((await greet(port)).heard, 'hello')
  await sidecar.drain(1000)
  t.equal((await converse(port, 'x')).error, 'ECONNREFUSED')
})
