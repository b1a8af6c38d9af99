/** Two agents joined by one token, all of it over their HTTP doors: what a peer may see, and where. */
import t from 'tap'
import { agentWithHttp, type HttpTestAgent } from '../../support/agent-parts.ts'
import { ask, type RawAnswer } from '../../support/golden-http.ts'
import { until } from '../../support/until.ts'

const [west, east] = await Promise.all([
  agentWithHttp({ datacenter: 'dc1', nodeName: 'alpha' }),
  agentWithHttp({ datacenter: 'dc2', nodeName: 'beta' }),
])
t.teardown(() => Promise.all([west.close(), east.close()]))

interface Confirmed {
  StreamStatus: { Freshness?: { Evidence: string | null }; ImportedFreshness?: object[] }
}

function json(answer: RawAnswer): unknown {
  return JSON.parse(answer.body.toString())
}

async function call(agent: HttpTestAgent, method: string, path: string, body?: unknown): Promise<RawAnswer> {
  return ask(agent.url, method, path, {}, body === undefined ? undefined : JSON.stringify(body))
}

/** Until a path answers what is waited for. */
async function becomes(agent: HttpTestAgent, path: string, done: (value: unknown) => boolean): Promise<unknown> {
  const found = await until(`${path} is ${done.toString()}`, async () => {
    const answer = await call(agent, 'GET', path)
    const value = answer.status === 200 ? json(answer) : answer.body.toString()
    return done(value) && { value }
  })
  return found.value
}

t.test('a token made here joins the clusters there', async t => {
  const { PeeringToken } = json(await call(west, 'POST', '/v1/peering/token', { PeerName: 'east' })) as { PeeringToken: string }
  const established = await call(east, 'POST', '/v1/peering/establish', { PeerName: 'west', PeeringToken })
  t.same([established.status, established.body.toString()], [200, '{}'])
  for (const [agent, name] of [
    [west, 'east'],
    [east, 'west'],
  ] as const) {
    t.ok(await becomes(agent, `/v1/peering/${name}`, value => (value as { State?: string }).State === 'ACTIVE'))
    t.notMatch((await call(agent, 'GET', '/v1/peerings')).body.toString(), /Secret/i, 'no secret is told')
  }
  const again = await call(east, 'POST', '/v1/peering/establish', { PeerName: 'west2', PeeringToken })
  t.equal(again.status, 403, 'a token is used once')
})

t.test('an exported service is seen with ?peer= on every endpoint of catalog and health, and nowhere without', async t => {
  await call(east, 'PUT', '/v1/agent/service/register', {
    Name: 'billing',
    Port: 7000,
    Address: '127.0.0.5',
    Tags: ['v2'],
    Check: { TTL: '1h', Status: 'passing' },
  })
  await call(east, 'PUT', '/v1/config', {
    Kind: 'exported-services',
    Name: 'default',
    Services: [{ Name: 'billing', Consumers: [{ Peer: 'west' }] }],
  })
  const seen = (await becomes(west, '/v1/health/service/billing?peer=east', value => (value as unknown[]).length > 0)) as {
    Node: Record<string, unknown>
    Service: Record<string, unknown>
    Checks: Record<string, unknown>[]
  }[]
  t.match(seen[0], {
    Node: { Node: 'beta', Datacenter: 'dc2', PeerName: 'east' },
    Service: { ID: 'billing', Service: 'billing', Port: 7000, Tags: ['v2'], PeerName: 'east' },
    Checks: [{ CheckID: 'billing:overall-check', Status: 'passing', PeerName: 'east' }],
    Freshness: { State: 'FRESH', AgeMs: Number, Evidence: /^(?:digest|resync|received)$/ },
  })
  t.notOk('Freshness' in (json(await call(east, 'GET', '/v1/health/service/billing')) as object[])[0]!, 'what is our own has no age')
  const confirmed = (value: unknown) => (value as Confirmed).StreamStatus.Freshness?.Evidence === 'digest'
  const { StreamStatus: status } = (await becomes(west, '/v1/peering/east', confirmed)) as Confirmed
  t.match(status.Freshness, { State: 'FRESH', AgeMs: Number, Evidence: 'digest', Repairs: 0, Disagreements: 0 })
  t.match(status.ImportedFreshness, [{ Service: 'billing', State: 'FRESH', AgeMs: Number, Evidence: 'digest' }])
  const [listed] = json(await call(west, 'GET', '/v1/peerings')) as Confirmed[]
  t.match(listed!.StreamStatus.Freshness, { State: 'FRESH', Evidence: 'digest' })
  t.notOk('ImportedFreshness' in listed!.StreamStatus, 'every service only where one peering is read')
  for (const path of [
    '/v1/health/service/billing',
    '/v1/health/checks/billing',
    '/v1/health/node/beta',
    '/v1/catalog/service/billing',
    '/v1/health/service/billing?peer=other',
    '/v1/catalog/service/billing?peer=other',
    '/v1/catalog/nodes?peer=other',
    '/v1/health/state/any?peer=other',
    '/v1/internal/ui/services?peer=other',
  ]) {
    t.same(json(await call(west, 'GET', path)), [], path)
  }
  const node = { Node: 'beta', PeerName: 'east', Datacenter: 'dc2' }
  const check = { CheckID: 'billing:overall-check', PeerName: 'east' }
  for (const [path, wanted] of [
    ['/v1/catalog/services', { billing: ['v2'] }],
    ['/v1/catalog/nodes', [node]],
    ['/v1/catalog/service/billing', [{ Node: 'beta', ServiceID: 'billing', PeerName: 'east' }]],
    ['/v1/catalog/connect/billing', []],
    ['/v1/catalog/node/beta', { Node: node, Services: { billing: { Port: 7000 } } }],
    ['/v1/catalog/node-services/beta', { Node: node, Services: [{ ID: 'billing' }] }],
    ['/v1/health/node/beta', [check]],
    ['/v1/health/checks/billing', [check]],
    ['/v1/health/state/passing', [check]],
    ['/v1/health/state/critical', []],
    ['/v1/internal/ui/services', [{ Name: 'billing', PeerName: 'east', InstanceCount: 1, ChecksPassing: 1 }]],
    ['/v1/internal/ui/nodes', [{ Node: 'beta', PeerName: 'east', Services: [{ ID: 'billing' }] }]],
    ['/v1/internal/ui/node/beta', { Node: 'beta', PeerName: 'east' }],
  ] as const) {
    t.match(json(await call(west, 'GET', `${path}?peer=east`)), wanted, path)
  }
  t.same(Object.keys(json(await call(west, 'GET', '/v1/catalog/services')) as object), ['consul'])
  t.same(
    (json(await call(west, 'GET', '/v1/catalog/nodes')) as { Node: string }[]).map(each => each.Node),
    ['alpha'],
  )
})

t.test("a peer's datacenter is no datacenter of ours, and the answer says where its services are", async t => {
  for (const [dc, hint] of [
    ['dc2', ': services of peer "east" are read with ?peer=east on /v1/health/service and /v1/health/connect'],
    ['east', ': services of peer "east" are read with ?peer=east on /v1/health/service and /v1/health/connect'],
    ['dc3', ''],
  ]) {
    const answer = await call(west, 'GET', `/v1/health/service/billing?dc=${dc}`)
    t.same([answer.status, answer.body.toString()], [500, `No path to datacenter${hint}`])
  }
})

t.test('a deleted peering takes what it imported with it', async t => {
  const deleted = await call(west, 'DELETE', '/v1/peering/east')
  t.same([deleted.status, deleted.body.length], [200, 0])
  t.same(await becomes(west, '/v1/health/service/billing?peer=east', value => (value as unknown[]).length === 0), [])
  await becomes(west, '/v1/peering/east', value => value === 'Peering not found for "east"')
  t.equal(
    ((await becomes(east, '/v1/peering/west', value => (value as { State?: string }).State === 'TERMINATED')) as { State: string }).State,
    'TERMINATED',
  )
})

t.end()
