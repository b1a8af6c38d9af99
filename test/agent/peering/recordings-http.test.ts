/**
 * Recordings of two real Consuls peered with each other, as their operators saw them over HTTP: the same things registered with two
 * agents of ours must read the same, and the same mistakes must be answered in the same words.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { agentWithHttp, type HttpTestAgent } from '../../support/agent-parts.ts'
import { ask } from '../../support/golden-http.ts'

const golden = (name: string): unknown => JSON.parse(readFileSync(join('test', 'golden', 'peering', name), 'utf8'))

interface Instance {
  Node: { ID: string; Node: string; Address: string; TaggedAddresses: object; Meta: object }
  Service: {
    ID: string
    Service: string
    Kind?: string
    Address: string
    Port: number
    Tags: string[]
    TaggedAddresses: object
    Connect: object
  }
  Checks: { Status: string }[]
}
type Views = Record<string, Instance[]>

const [dc1, dc2] = await Promise.all([
  agentWithHttp({ datacenter: 'dc1', nodeName: 'server-1' }),
  agentWithHttp({ datacenter: 'dc2', nodeName: 'server-2' }),
])
t.teardown(() => Promise.all([dc1.close(), dc2.close()]))

async function send(agent: HttpTestAgent, method: string, path: string, body?: unknown): Promise<{ status: number; text: string }> {
  const answer = await ask(agent.url, method, path, {}, body === undefined ? undefined : JSON.stringify(body))
  return { status: answer.status, text: answer.body.toString() }
}

async function good(agent: HttpTestAgent, method: string, path: string, body?: unknown): Promise<unknown> {
  const { status, text } = await send(agent, method, path, body)
  if (status !== 200) throw new Error(`${method} ${path}: ${status} ${text}`)
  return text === '' ? undefined : JSON.parse(text)
}

/** Without what differs from one run to the next (trust domains, indexes, virtual addresses), and without the age, which is ours alone. */
function neutral(value: unknown): unknown {
  const text = JSON.stringify(value, (key, each: unknown) => {
    if (key === 'Freshness') return undefined
    return key === 'CreateIndex' || key === 'ModifyIndex' ? 0 : each
  })
  return JSON.parse(text.replaceAll(/[0-9a-f-]{36}\.consul/g, 'TRUST-DOMAIN').replaceAll(/240\.0\.0\.\d+/g, 'VIRTUAL'))
}

/** Registers what a peer read of an instance, which has no proxies in it, and the proxy beside it. */
async function register({ Node, Service, Checks }: Instance, proxied: boolean): Promise<void> {
  const node = { Node: Node.Node, ID: Node.ID, Address: Node.Address, TaggedAddresses: Node.TaggedAddresses, NodeMeta: Node.Meta }
  const { Connect: _removed, ...service } = Service
  const native = Service.Service === 'nativesvc' ? { Connect: { Native: true } } : {}
  const check = Checks[0] && { Check: { CheckID: `${Service.ID}-ttl`, Name: 'ttl', Status: Checks[0].Status, ServiceID: Service.ID } }
  await good(dc1, 'PUT', '/v1/catalog/register', {
    ...node,
    Service: { ...service, PeerName: undefined, CreateIndex: undefined, ModifyIndex: undefined, ...native },
    ...check,
  })
  if (!proxied) return
  const name = `${Service.Service}-sidecar-proxy`
  const Proxy = { DestinationServiceName: Service.Service, DestinationServiceID: Service.ID }
  await good(dc1, 'PUT', '/v1/catalog/register', { ...node, Service: { ID: name, Service: name, Kind: 'connect-proxy', Port: 1, Proxy } })
}

async function registerGateway({ Node, Service, Checks }: Instance): Promise<void> {
  await good(dc1, 'PUT', '/v1/catalog/register', {
    Node: Node.Node,
    ID: Node.ID,
    Address: Node.Address,
    TaggedAddresses: Node.TaggedAddresses,
    NodeMeta: Node.Meta,
    Service: {
      ID: 'mesh-gateway',
      Service: 'mesh-gateway',
      Kind: 'mesh-gateway',
      Address: Service.Address,
      Port: Service.Port,
      TaggedAddresses: { ...Service.TaggedAddresses, 'consul-virtual': undefined },
    },
    ...(Checks[0] && { Check: { CheckID: 'gw-ttl', Name: 'ttl', Status: Checks[0].Status, ServiceID: 'mesh-gateway' } }),
  })
}

async function readsAs(t: Test, views: Views): Promise<void> {
  for (const [path, wanted] of Object.entries(views)) {
    for (let tries = 0; ; tries += 1) {
      const found = (await good(dc2, 'GET', path)) as Instance[]
      if (found.length === wanted.length || tries > 100) {
        t.same(neutral(found), neutral(wanted), path)
        break
      }
      await new Promise(resolve => setTimeout(resolve, 25))
    }
  }
}

t.test('what a peer imported reads as in real Consul, without a gateway and with one', async t => {
  const recorded = golden('real-to-real-views.json') as { without: Views; with: Views } & Record<string, object>
  const { PeeringToken } = (await good(dc1, 'POST', '/v1/peering/token', { PeerName: 'dc2', Meta: { env: 'golden' } })) as {
    PeeringToken: string
  }
  await good(dc2, 'POST', '/v1/peering/establish', { PeerName: 'dc1', PeeringToken, Meta: { env: 'golden2' } })
  await good(dc1, 'PUT', '/v1/config', { Kind: 'service-defaults', Name: 'websvc', Protocol: 'http' })
  const names = ['ghost', 'legacy', 'nativesvc', 'tcpsvc', 'websvc']
  const Services = names.map(Name => ({ Name, Consumers: [{ Peer: 'dc2' }] }))
  await good(dc1, 'PUT', '/v1/config', { Kind: 'exported-services', Name: 'default', Services })
  for (const name of names) {
    for (const instance of recorded.without[`/v1/health/service/${name}?peer=dc1`] ?? []) {
      await register(instance, name === 'tcpsvc' || name === 'websvc')
    }
  }
  await readsAs(t, recorded.without)
  await registerGateway(recorded.with['/v1/health/connect/websvc?peer=dc1']![0]!)
  await readsAs(t, recorded.with)

  const keysOf = (value: unknown) => Object.keys(value as object).filter(key => key !== 'Warnings')
  for (const [agent, path, view] of [
    [dc1, '/v1/peering/dc2', 'exporterRead'],
    [dc2, '/v1/peering/dc1', 'importerRead'],
  ] as const) {
    const found = (await good(agent, 'GET', path)) as Record<string, unknown> & { StreamStatus: Record<string, unknown> }
    const wanted = recorded[view] as typeof found
    t.same(keysOf(found), keysOf(wanted), path)
    for (const key of ['Name', 'Meta', 'State', 'Remote']) t.same(found[key], wanted[key], `${path} ${key}`)
    for (const key of ['ImportedServices', 'ExportedServices']) t.same(found.StreamStatus[key], wanted.StreamStatus[key], `${path} ${key}`)
  }
  await good(dc2, 'DELETE', '/v1/peering/dc1')
  for (let tries = 0; tries < 100; tries += 1) {
    const found = (await good(dc1, 'GET', '/v1/peering/dc2')) as { State: string }
    if (found.State === 'TERMINATED' || tries === 99) {
      t.same(keysOf(found), keysOf(recorded['terminatedRead']))
      break
    }
    await new Promise(resolve => setTimeout(resolve, 25))
  }
})

t.test('mistakes of operators are answered in the recorded words', async t => {
  interface Mistake {
    what: string
    request?: { method?: string; agent?: string; body?: unknown }
    status: number
    body: unknown
  }
  const mistakes = (golden('api-errors.json') as Mistake[]).filter(
    ({ request, status, body }) =>
      request?.method !== undefined &&
      (status === 400 || status === 500) &&
      !/errors occurred|existing|established|same cluster|missing secret/.test(String(body)),
  )
  t.ok(mistakes.length >= 18, `${mistakes.length} mistakes`)
  for (const { what, request, status, body } of mistakes) {
    const [method, path] = request!.method!.split(' ') as [string, string]
    t.same(await send(request!.agent === 'dc1' ? dc1 : dc2, method, path, request!.body), { status, text: body }, what)
  }
})

t.end()
