/**
 * Programs that know Consul and not us: its own Go client, the npm client and the Python client drive agents of ours. None of them is
 * ours to bring: where one cannot be had, nothing is tested with it, and that is said.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import Consul from 'consul'
import t from 'tap'
import { agentWithHttp } from '../support/agent-parts.ts'
import { buildGoProgram, loudly } from '../support/go-program.ts'

const run = promisify(execFile)
const directory = mkdtempSync(join(tmpdir(), 'isthmus-clients-'))
t.setTimeout(180_000)
t.teardown(() => rmSync(directory, { recursive: true, force: true }))

const goProgram = join(directory, 'api')
t.test(
  "Consul's Go client registers, watches, locks, peers and restores",
  { skip: loudly(await buildGoProgram('api', goProgram, "nothing was tested with Consul's Go client")) },
  async t => {
    const [west, east] = await Promise.all([
      agentWithHttp({ datacenter: 'dc1', nodeName: 'alpha' }),
      agentWithHttp({ datacenter: 'dc2', nodeName: 'beta', nodeId: '8763bfe0-31c7-80d5-0fc4-fd9d31364597' }),
    ])
    t.teardown(() => Promise.all([west.close(), east.close()]))
    const { stdout, stderr } = await run(goProgram, [west.url.slice('http://'.length), east.url.slice('http://'.length)], {
      timeout: 60_000,
    }).catch((error: { stdout: string; stderr: string }) => error)
    t.same(stderr, '')
    t.same(stdout.trim().split('\n'), ['services', 'locks', 'transactions', 'queries', 'peers', 'intentions', 'operations'])
  },
)

/** A Python that has py-consul: `.ci/run` makes one; PYTHON_BIN names another. */
const python = process.env['PYTHON_BIN'] ?? resolve('.build', 'python', 'bin', 'python')
const noPython = existsSync(python) ? undefined : `there is no ${python}: nothing was tested with the Python client`

t.test('the Python client registers, watches and locks', { skip: loudly(noPython) }, async t => {
  const agent = await agentWithHttp()
  t.teardown(() => agent.close())
  const args = [join('test', 'interop', 'clients.py'), '127.0.0.1', String(agent.door.port)]
  const { stdout, stderr } = await run(python, args, { timeout: 60_000 }).catch((error: { stdout: string; stderr: string }) => error)
  t.same([stdout.trim(), stderr.trim()], ['ok', ''])
})

/** What its own types do not know, or know otherwise than its documentation says. */
interface Client {
  agent: {
    self(): Promise<{ Config: { Datacenter: string } }>
    service: { register(options: object): Promise<void>; list(): Promise<object> }
    check: { pass(options: object): Promise<void> }
  }
  kv: {
    set(options: object): Promise<boolean>
    get(key: string): Promise<{ Value: string; Session?: string }>
    del(key: string): Promise<void>
  }
  session: { create(options: object): Promise<{ ID: string }>; renew(id: string): Promise<unknown[]>; destroy(id: string): Promise<void> }
  health: { service(options: object): Promise<{ Service: { ID: string } }[]> }
  catalog: { service: { list(): Promise<object> } }
  transaction: { create(operations: object[]): Promise<{ Results: unknown[] }> }
  query: { create(options: object): Promise<{ ID: string }>; execute(id: string): Promise<{ Nodes: unknown[] }> }
  event: { fire(options: object): Promise<{ ID: string }>; list(): Promise<unknown[]> }
  status: { leader(): Promise<string> }
}

t.test('the npm client registers, locks and asks', async t => {
  const agent = await agentWithHttp()
  t.teardown(() => agent.close())
  const consul = new Consul({ host: '127.0.0.1', port: agent.door.port }) as unknown as Client
  t.equal((await consul.agent.self()).Config.Datacenter, 'dc1')
  await consul.agent.service.register({ id: 'web-1', name: 'web', port: 80, tags: ['v1'], check: { ttl: '1h' } })
  t.same(Object.keys(await consul.agent.service.list()), ['web-1'])
  t.same(await consul.health.service({ service: 'web', passing: true }), [])
  await consul.agent.check.pass({ id: 'service:web-1', note: 'fine' })
  t.same(
    (await consul.health.service({ service: 'web', passing: true })).map(each => each.Service.ID),
    ['web-1'],
  )
  t.same(await consul.catalog.service.list(), { consul: [], web: ['v1'] })
  const { ID: session } = await consul.session.create({ ttl: '10s', lockdelay: '1s', behavior: 'release' })
  t.equal((await consul.session.renew(session)).length, 1)
  t.equal(await consul.kv.set({ key: 'lock', value: 'mine', acquire: session }), true)
  t.match(await consul.kv.get('lock'), { Value: 'mine', Session: session })
  await consul.session.destroy(session)
  t.equal((await consul.kv.get('lock')).Session, undefined, 'the end of its session frees a key')
  await consul.kv.del('lock')
  const results = await consul.transaction.create([{ KV: { Verb: 'set', Key: 'a', Value: 'MQ==' } }, { KV: { Verb: 'get', Key: 'a' } }])
  t.equal(results.Results.length, 2)
  const query = await consul.query.create({ name: 'webs', service: { service: 'web' } })
  t.equal((await consul.query.execute(query.ID)).Nodes.length, 1)
  const event = await consul.event.fire({ name: 'deploy', payload: 'x' })
  t.match(await consul.event.list(), [{ ID: event.ID, Name: 'deploy' }])
  t.equal(await consul.status.leader(), '127.0.0.1:8300')
})
