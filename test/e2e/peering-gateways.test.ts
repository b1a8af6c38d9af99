// Peering through the mesh gateways of both sides (spec/peering-wire.md 11): the dialer's servers go through their own gateway, which
// knows the name of the acceptor's servers, and come in by the acceptor's. Where a gateway is away the next address is tried.
import t, { type Test } from 'tap'
import { freePorts } from '../support/free-ports.ts'
import { ClusterProcess, call, until } from '../support/processes.ts'

interface Side {
  cluster: ClusterProcess
  /** The other one, as this one calls it. */
  peer: string
}

const state =
  ({ cluster, peer }: Side) =>
  async () => {
    const read = await cluster.api('GET', `/v1/peering/${peer}`, undefined, true)
    return (read.json as { State?: string } | undefined)?.State === 'ACTIVE'
  }

async function gateway({ cluster }: Side): Promise<void> {
  const [lan, wan] = (await freePorts(2)) as [number, number]
  await cluster.proxy('gateway', 'gateway', '--address', `127.0.0.1:${lan}`, '--wan-address', `127.0.0.1:${wan}`)
}

/** Connections that the gateway has passed on under a name. */
async function passed({ cluster }: Side, name: string): Promise<number> {
  const metrics = (await call(cluster.adminPort('gateway'), '/metrics')).text
  const line = metrics
    .split('\n')
    .find(each => each.startsWith('isthmus_proxy_dials_total{') && each.includes(`"${name}"`) && each.includes('"ok"'))
  return Number(line?.split(' ').at(-1) ?? 0)
}

async function spend(east: Side, west: Side): Promise<void> {
  const { json } = await west.cluster.api('POST', '/v1/peering/token', { PeerName: west.peer })
  const { PeeringToken } = json as { PeeringToken: string }
  await east.cluster.api('POST', '/v1/peering/establish', { PeerName: east.peer, PeeringToken })
  for (const side of [east, west]) await until(`${side.peer} is ACTIVE`, state(side))
}

async function scene(t: Test): Promise<{ east: Side; west: Side }> {
  const clusters = await Promise.all([ClusterProcess.start('east'), ClusterProcess.start('west')])
  t.teardown(() => Promise.all(clusters.map(each => each.stop())))
  const [east, west] = clusters.map((cluster, i): Side => ({ cluster, peer: i === 0 ? 'west' : 'east' })) as [Side, Side]
  for (const side of [east, west]) {
    await side.cluster.api('PUT', '/v1/config', { Kind: 'mesh', Peering: { PeerThroughMeshGateways: true } })
  }
  await Promise.all([gateway(east), gateway(west)])
  return { east, west }
}

t.test('the secret and the stream pass both gateways, and go straight to the next address without ours', async t => {
  const { east, west } = await scene(t)
  await spend(east, west)
  const ours = await passed(east, 'consul?peer=west')
  t.ok(ours >= 2, `the exchange and the stream passed the dialer's gateway: ${ours}`)
  t.ok((await passed(west, 'consul')) >= 2, "and the acceptor's")
  t.equal(await passed(west, 'consul?peer=east'), 0, 'an acceptor dials nobody')

  await spend(east, west)
  t.ok((await passed(east, 'consul?peer=west')) >= ours + 2, 'a new token goes the same way')

  await east.cluster.proxies.get('gateway')!.stop('SIGKILL')
  await until('the peering lives without our gateway', state(east))
  await east.cluster.api('PUT', '/v1/config', {
    Kind: 'exported-services',
    Name: 'default',
    Services: [{ Name: 'web', Consumers: [{ Peer: 'west' }] }],
  })
  await east.cluster.api('PUT', '/v1/agent/service/register', { Name: 'web', Port: 9 })
  await until(
    'and carries news',
    async () => ((await west.cluster.api('GET', '/v1/health/service/web?peer=east')).json as unknown[]).length === 1,
  )
})
