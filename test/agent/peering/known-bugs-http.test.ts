/** Bugs of peering that others have had, by name: those of the readers. Two agents, all of it over their HTTP doors. */
import t from 'tap'
import { agentWithHttp, type HttpTestAgent } from '../../support/agent-parts.ts'
import { ask } from '../../support/golden-http.ts'

const [west, east] = await Promise.all([
  agentWithHttp({ datacenter: 'dc1', nodeName: 'alpha' }),
  agentWithHttp({ datacenter: 'dc2', nodeName: 'beta' }),
])
t.teardown(() => Promise.all([west.close(), east.close()]))

interface Seen {
  index: number
  value: unknown
}

async function read(agent: HttpTestAgent, path: string): Promise<Seen> {
  const answer = await ask(agent.url, 'GET', path, {})
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${answer.body.toString()}`)
  return { index: Number(answer.headers['x-consul-index']), value: JSON.parse(answer.body.toString()) }
}

async function write(agent: HttpTestAgent, method: string, path: string, body?: unknown): Promise<unknown> {
  const answer = await ask(agent.url, method, path, {}, body === undefined ? undefined : JSON.stringify(body))
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${answer.body.toString()}`)
  return answer.body.length === 0 ? undefined : JSON.parse(answer.body.toString())
}

const token = async (peer: string) => (await write(west, 'POST', '/v1/peering/token', { PeerName: peer })) as { PeeringToken: string }
const names = ({ value }: Seen) => (value as { Name: string }[]).map(each => each.Name)

/** A read that waits for a change; `settled` says whether it has come back. */
function waiting(path: string, index: number) {
  const state = { settled: false, answer: undefined as unknown as Promise<Seen> }
  state.answer = read(west, `${path}?index=${index}&wait=10s`).finally(() => {
    state.settled = true
  })
  return state
}
const moment = () => new Promise(resolve => setTimeout(resolve, 150))

t.test('blocking list and read: each waits, and wakes for its own peerings alone', async t => {
  await token('first')
  const list = waiting('/v1/peerings', (await read(west, '/v1/peerings')).index)
  const one = waiting('/v1/peering/first', (await read(west, '/v1/peering/first')).index)
  await write(west, 'PUT', '/v1/agent/service/register', { Name: 'unrelated', Port: 1 })
  await moment()
  t.same([list.settled, one.settled], [false, false], 'not for what is no peering')
  await token('second')
  t.same(names(await list.answer), ['first', 'second'])
  await moment()
  t.equal(one.settled, false, 'nor for another peering')
  const listed = waiting('/v1/peerings', (await read(west, '/v1/peerings')).index)
  await write(west, 'DELETE', '/v1/peering/first')
  t.match((await one.answer).value, { Name: 'first', State: 'DELETING' })
  t.ok((await listed.answer).index > 0)
  for (;;) {
    const now = await read(west, '/v1/peerings')
    if (names(now).join() === 'second') break
    await read(west, `/v1/peerings?index=${now.index}&wait=5s`)
  }
  t.pass('a reader that follows the list sees the end of it')
})

t.test('?peer= on catalog: what is local is never given in the place of what a peer has', async t => {
  const { PeeringToken } = await token('east')
  await write(east, 'POST', '/v1/peering/establish', { PeerName: 'west', PeeringToken })
  for (const [agent, port] of [
    [west, 1],
    [east, 2],
  ] as const) {
    await write(agent, 'PUT', '/v1/agent/service/register', { Name: 'billing', Port: port })
  }
  const Services = [{ Name: 'billing', Consumers: [{ Peer: 'west' }] }]
  await write(east, 'PUT', '/v1/config', { Kind: 'exported-services', Name: 'default', Services })
  for (let last = await read(west, '/v1/health/service/billing?peer=east'); (last.value as unknown[]).length === 0;) {
    last = await read(west, `/v1/health/service/billing?peer=east&index=${last.index}&wait=5s`)
  }
  const ports = async (query: string) =>
    ((await read(west, `/v1/catalog/service/billing${query}`)).value as { ServicePort: number; PeerName?: string }[]).map(
      each => `${each.ServicePort} ${each.PeerName ?? 'ours'}`,
    )
  t.same(await ports(''), ['1 ours'])
  t.same(await ports('?peer=east'), ['2 east'])
  t.same(await ports('?peer=nobody'), [])
  t.same((await read(west, '/v1/catalog/connect/billing?peer=east')).value, [])
})

t.end()
