/**
 * Programs that find their targets in Consul: Prometheus's consul_sd and Traefik's Consul catalog provider, each its own code in a small Go
 * program, over an agent of ours. To compile them takes up to a minute, so they run under ISTHMUS_DEEP=1 only.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { agentWithHttp } from '../support/agent-parts.ts'
import { buildGoProgram, loudly } from '../support/go-program.ts'
import { call, until } from '../support/processes.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const directory = mkdtempSync(join(tmpdir(), 'isthmus-discovery-'))
t.setTimeout(600_000)
t.teardown(() => rmSync(directory, { recursive: true, force: true }))

/** The lines of JSON that a program has printed so far. */
function follow<T>(t: Test, program: string, address: string): T[] {
  const child = spawn(program, [address], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = new Promise(resolve => child.once('exit', resolve))
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const lines: T[] = []
  let rest = ''
  child.stdout.on('data', (chunk: Buffer) => {
    const parts = (rest + chunk.toString()).split('\n')
    rest = parts.pop()!
    lines.push(...parts.map(line => JSON.parse(line) as T))
  })
  return lines
}

async function scene(t: Test) {
  const agent = await agentWithHttp()
  t.teardown(() => agent.close())
  const { port } = agent.door
  const register = (definition: object) => call(port, '/v1/agent/service/register', { method: 'PUT', body: definition })
  const deregister = (id: string) => call(port, `/v1/agent/service/deregister/${id}`, { method: 'PUT' })
  return { port, address: `127.0.0.1:${port}`, register, deregister }
}

async function program(name: string, whose: string): Promise<{ path: string; skip: string | false }> {
  const path = join(directory, name)
  const nothing = `nothing was tested with ${whose}`
  if (!deep) return { path, skip: loudly(`without ISTHMUS_DEEP=1 ${nothing}`) }
  return { path, skip: loudly(await buildGoProgram(name, path, nothing)) }
}

interface Group {
  source: string
  labels: Record<string, string> | null
  targets: Record<string, string>[] | null
}

const prometheus = await program('prometheus', "Prometheus's discovery")
const traefik = await program('traefik', "Traefik's Consul catalog provider")

t.test('Prometheus finds targets with their labels, and sees them come, change and go', { skip: prometheus.skip }, async t => {
  const { port, address, register, deregister } = await scene(t)
  const web = {
    Name: 'web',
    ID: 'web-1',
    Address: '10.0.0.1',
    Port: 80,
    Tags: ['v1', 'prod'],
    Meta: { team: 'pay' },
    Check: { TTL: '1h', Status: 'passing' },
  }
  await register(web)
  const groups = follow<Group>(t, prometheus.path, address)
  const last = () => groups.findLast(each => each.source === 'web')
  await until('it finds the target', async () => last()?.targets?.length === 1)
  t.same(last(), {
    source: 'web',
    labels: { __meta_consul_service: 'web', __meta_consul_dc: 'dc1' },
    targets: [
      {
        __address__: '10.0.0.1:80',
        __meta_consul_address: '127.0.0.1',
        __meta_consul_health: 'passing',
        __meta_consul_metadata_consul_network_segment: '',
        __meta_consul_metadata_consul_version: '1.16.4',
        __meta_consul_namespace: '',
        __meta_consul_node: 'alpha',
        __meta_consul_service_address: '10.0.0.1',
        __meta_consul_service_id: 'web-1',
        __meta_consul_service_metadata_team: 'pay',
        __meta_consul_service_port: '80',
        __meta_consul_tagged_address_lan: '127.0.0.1',
        __meta_consul_tagged_address_lan_ipv4: '127.0.0.1',
        __meta_consul_tagged_address_wan: '127.0.0.1',
        __meta_consul_tagged_address_wan_ipv4: '127.0.0.1',
        __meta_consul_tags: ',v1,prod,',
      },
    ],
  })
  await call(port, '/v1/agent/check/fail/service:web-1', { method: 'PUT' })
  await until('it sees the check fail', async () => last()?.targets?.[0]?.['__meta_consul_health'] === 'critical')
  await register({ ...web, ID: 'web-2', Port: 81 })
  await until('it sees another instance', async () => last()?.targets?.length === 2)
  await register({ Name: 'api', Port: 90 })
  await until('it sees another service', async () => groups.some(each => each.source === 'api'))
  await deregister('web-1')
  await deregister('web-2')
  await until('it sees the service go', async () => (last()?.targets ?? []).length === 0)
})

interface Routes {
  routers?: Record<string, { rule: string; service: string; entryPoints?: string[] }>
  services?: Record<string, { loadBalancer: { servers: { url: string }[] } }>
}

t.test('Traefik makes a router of tags, with the instances that are healthy', { skip: traefik.skip }, async t => {
  const { port, address, register } = await scene(t)
  const check = { TTL: '1h', Status: 'passing' }
  const tags = ['traefik.enable=true', 'traefik.http.routers.web.rule=Host(`web.test`)', 'traefik.http.routers.web.entrypoints=public']
  await register({ Name: 'web', ID: 'web-1', Address: '10.0.0.1', Port: 80, Tags: tags, Check: check })
  await register({ Name: 'web', ID: 'web-2', Address: '10.0.0.2', Port: 80, Tags: tags, Check: check })
  await register({ Name: 'hidden', Port: 81 })
  const found = follow<Routes>(t, traefik.path, address)
  const servers = () => found.at(-1)?.services?.['web']?.loadBalancer.servers.map(each => each.url)
  await until('it has the router', async () => servers()?.length === 2)
  t.match(found.at(-1)!.routers, { web: { rule: 'Host(`web.test`)', service: 'web', entryPoints: ['public'] } })
  t.same(Object.keys(found.at(-1)!.routers!), ['web'])
  t.same(servers(), ['http://10.0.0.1:80', 'http://10.0.0.2:80'])
  await call(port, '/v1/agent/check/fail/service:web-1', { method: 'PUT' })
  await until('it drops the instance that fails', async () => servers()?.length === 1)
  t.same(servers(), ['http://10.0.0.2:80'])
})
