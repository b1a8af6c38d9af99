/** What a client may have a whole agent do, and watch it do. */
import { Resolver } from 'node:dns/promises'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { startAgent } from '../../../src/agent/agent.ts'
import { createLogger, LogTap } from '../../../src/lib/log.ts'
import { agentWithHttp } from '../../support/agent-parts.ts'
import { ask } from '../../support/golden-http.ts'

const directory = mkdtempSync(join(tmpdir(), 'isthmus-lifecycle-'))
t.teardown(() => rmSync(directory, { recursive: true, force: true }))
const file = join(directory, 'agent.json')

function configure(more: object): void {
  const ports = { http: 0, dns: -1, grpc: -1, grpc_tls: -1 }
  writeFileSync(
    file,
    JSON.stringify({ node_name: 'alpha', bind_addr: '127.0.0.1', data_dir: join(directory, 'data'), log_level: 'off', ports, ...more }),
  )
}

t.test('a reload registers what the files name now, takes away what they no longer name, and leaves the rest', async t => {
  configure({
    services: [
      { name: 'old', port: 1 },
      { name: 'kept', port: 2 },
    ],
    checks: [{ id: 'gone', name: 'gone', ttl: '1h' }],
  })
  const agent = await startAgent({ files: [file] })
  t.teardown(() => agent.close())
  const names = async (path: string) => Object.keys(JSON.parse((await ask(agent.httpUrl, 'GET', path)).body.toString()) as object).sort()
  await ask(agent.httpUrl, 'PUT', '/v1/agent/service/register', {}, JSON.stringify({ Name: 'asked', Port: 3 }))
  t.same(await names('/v1/agent/services'), ['asked', 'kept', 'old'])
  configure({
    services: [
      { name: 'kept', port: 4 },
      { name: 'new', port: 5 },
    ],
  })
  t.equal((await ask(agent.httpUrl, 'PUT', '/v1/agent/reload')).status, 200)
  t.same(await names('/v1/agent/services'), ['asked', 'kept', 'new'])
  t.same(await names('/v1/agent/checks'), [])
  t.same(await names('/v1/catalog/services'), ['asked', 'consul', 'kept', 'new'])
  writeFileSync(file, '{"nonsense": 1}')
  const refused = await ask(agent.httpUrl, 'PUT', '/v1/agent/reload')
  t.match([refused.status, refused.body.toString()], [500, /invalid config key nonsense/])
  t.same(await names('/v1/agent/services'), ['asked', 'kept', 'new'], 'what is wrong changes nothing')
})

t.test('an agent that is told to leave answers first', async t => {
  configure({})
  const agent = await startAgent({ files: [file] })
  t.teardown(() => agent.close())
  t.equal((await ask(agent.httpUrl, 'PUT', '/v1/agent/leave')).status, 200)
  await agent.left
})

t.test('a prepared query of the API is answered over DNS by its name', async t => {
  configure({ ports: { http: 0, dns: 0, grpc: -1, grpc_tls: -1 } })
  const agent = await startAgent({ files: [file] })
  t.teardown(() => agent.close())
  const send = (method: string, path: string, body: object) => ask(agent.httpUrl, method, path, {}, JSON.stringify(body))
  await send('PUT', '/v1/agent/service/register', { Name: 'web', Address: '127.0.0.9', Port: 80 })
  const resolver = new Resolver()
  resolver.setServers([`127.0.0.1:${agent.dnsPort}`])
  await t.rejects(resolver.resolve4('webs.query.consul'), { code: 'ENOTFOUND' })
  t.equal((await send('POST', '/v1/query', { Name: 'webs', Service: { Service: 'web' } })).status, 200)
  t.same(await resolver.resolve4('webs.query.consul'), ['127.0.0.9'])
})

t.test('a client sees the log as it is written, from its level on', async t => {
  const logs = new LogTap({ write: () => undefined })
  const logger = createLogger({ level: 'debug', stream: logs })
  const agent = await agentWithHttp({ logger, logs })
  t.teardown(() => agent.close())
  const watch = async (path: string) => {
    const response = await new Promise<IncomingMessage>(resolve => get(`${agent.url}${path}`, resolve))
    let text = ''
    response.on('data', (chunk: Buffer) => (text += chunk.toString()))
    response.on('error', () => undefined)
    return { end: () => response.destroy(), text: () => text }
  }
  const [plain, raw] = [await watch('/v1/agent/monitor?loglevel=warn'), await watch('/v1/agent/monitor?loglevel=debug&logjson')]
  logger.debug('fine detail')
  logger.warn({ peer: 'east', token: 'very secret' }, 'something is off')
  for (let i = 0; i < 100 && !(plain.text().includes('off') && raw.text().includes('off')); i += 1)
    await new Promise(resolve => setTimeout(resolve, 10))
  t.match(plain.text(), /^\S+Z \[WARN\]\s+agent: something is off: peer=east token=\[secret\]\n$/)
  t.match(raw.text(), /"msg":"fine detail"/)
  t.notMatch(plain.text() + raw.text(), /very secret/)
  plain.end()
  raw.end()
})

t.test('there is nobody to join and nobody to make leave', async t => {
  const agent = await agentWithHttp()
  t.teardown(() => agent.close())
  const put = async (path: string) => {
    const { status, body } = await ask(agent.url, 'PUT', path)
    return [status, body.toString()]
  }
  t.same(await put('/v1/agent/join/127.0.0.1'), [200, ''])
  t.same(await put('/v1/agent/join/127.0.0.1:8302?wan=1'), [200, ''])
  t.match(await put('/v1/agent/join/127.0.0.1:1'), [500, /^1 error occurred:\n\t\* Failed to join 127.0.0.1:1: /])
  t.match(await put('/v1/agent/join/10.0.0.1:8301'), [500, /does not gossip; join clusters with a peering/])
  t.same(await put('/v1/agent/force-leave/alpha'), [200, ''])
  t.same(await put('/v1/agent/force-leave/nope'), [500, "agent: No node found with name 'nope'"])
})
