/** What a sidecar is told of a name that has a chain: one target plainly, more as a chain with its targets, and nothing that cannot be reached. */
import t from 'tap'
import { readChain, readChainOnce } from '../../../src/agent/catalog/chains.ts'
import { resourcesFor } from '../../../src/agent/snapshots/snapshots.ts'
import { compile, resourceKey } from '../../../src/mesh/plan.ts'
import { externalSni } from '../../../src/mesh/sni.ts'
import { serviceId } from '../../../src/mesh/spiffe.ts'
import { entryOf } from '../../support/chain-entries.ts'
import { east, own, valuesOf, World } from './world.ts'

let world: World
t.beforeEach(async () => void (world = await World.open()))
t.afterEach(() => world.close())

const resources = () => resourcesFor('web-sidecar-proxy', world.context).reading.value
const upstream = (destinationName: string) => ({ destinationType: 'service', destinationName, localBindPort: 9001, meshGateway: {} })
const write = (body: Record<string, unknown>) => world.entry(entryOf(body))
const ports = (name: string) => valuesOf(resources(), 'endpoints')[name]?.endpoints.map(({ port, healthy }) => (healthy ? port : -port))

/** Instances of `api` in three versions, the last one with a warning. */
async function versions(): Promise<void> {
  for (const [i, v] of ['1', '2', '2'].entries()) {
    const id = `api-${i}-sidecar-proxy`
    const proxy = { mode: '', meshGateway: {}, expose: {}, destinationServiceName: 'api', destinationServiceId: `api-${i}` }
    await world.service({ id, service: 'api-sidecar-proxy', kind: 'connect-proxy', port: 22_000 + i, meta: { v }, proxy })
    await world.check(`check-${i}`, i === 2 ? 'warning' : 'passing', id)
  }
}

const Subsets = {
  v1: { Filter: 'Service.Meta.v == 1' },
  v2: { Filter: 'Service.Meta.v == 2', OnlyPassing: true },
  odd: { Filter: 'Nothing.Such == 1' },
}

t.test('a default subset is one target: a plain upstream with the endpoints that its filter selects', async t => {
  await versions()
  await world.meshService('web', { upstreams: [upstream('api')] })
  t.same(ports('api'), [22_000, 22_001, 22_002])
  await write({ Kind: 'service-resolver', Name: 'api', DefaultSubset: 'v2', Subsets, ConnectTimeout: '2s', RequestTimeout: '7s' })
  t.same(Object.keys(valuesOf(resources(), 'chain')), [])
  t.match(valuesOf(resources(), 'upstream')['api'], {
    service: 'api',
    peer: '',
    listen: { address: '127.0.0.1', port: 9001 },
    sni: `v2.api.default.dc1.internal.${own}`,
    spiffeIds: [serviceId(own, 'dc1', 'api')],
    endpoints: 'api#v2',
    connectTimeoutMs: 2000,
    requestTimeoutMs: 7000,
  })
  t.same(ports('api#v2'), [22_001, -22_002], 'a warning is not passing')
  await write({ Kind: 'service-resolver', Name: 'api', DefaultSubset: 'odd', Subsets })
  t.same(ports('api#odd'), [], 'a filter over nothing selects nothing')
})

t.test("a redirect to a peer is a plain upstream under the peer's names, once it is imported", async t => {
  await world.peer('east', east)
  await world.meshService('web', { upstreams: [upstream('shop')] })
  await write({ Kind: 'service-resolver', Name: 'shop', Redirect: { Service: 'api', Peer: 'east' } })
  t.same(valuesOf(resources(), 'upstream'), {}, 'nothing is known of it yet')
  await world.importedInstances('east', 'api', ['passing'])
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }])
  t.match(valuesOf(resources(), 'upstream'), {
    shop: { service: 'api', peer: 'east', sni: externalSni('api', 'us', east), endpoints: 'api?peer=east', listen: { port: 9001 } },
  })
})

t.test('more than one target is a chain, and its plan has them all; what a peer does not export is not among them', async t => {
  await versions()
  await world.peer('east', east)
  await world.importedInstances('east', 'api', ['passing'])
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }])
  await world.meshService('web', { upstreams: [upstream('api')] })
  await write({ Kind: 'proxy-defaults', Config: { protocol: 'http' } })
  const Targets = [{ Peer: 'east' }, { Service: 'gone', Peer: 'east' }, { Datacenter: 'dc7' }, { ServiceSubset: 'v1' }]
  const LoadBalancer = { Policy: 'least_request' }
  await write({
    Kind: 'service-resolver',
    Name: 'api',
    DefaultSubset: 'v2',
    Subsets,
    Failover: { v2: { Targets } },
    ConnectTimeout: '3s',
    LoadBalancer,
  })
  const [mine, other, theirs] = ['v2.api.default.default.dc1', 'v1.api.default.default.dc1', 'api.default.default.external.east']
  const told = resources()
  const { chain, targets, ...rest } = valuesOf(told, 'chain')['api']!
  t.same(rest, { protocol: 'http', listen: { address: '127.0.0.1', port: 9001 } })
  t.same(targets, { [mine]: `api/${mine}`, [theirs]: `api/${theirs}`, [other]: `api/${other}` })
  t.equal(chain.startNode, `resolver:${mine}`)
  const upstreams = valuesOf(told, 'upstream')
  t.same(Object.keys(upstreams).sort(), [`api/${mine}`, `api/${other}`, `api/${theirs}`].sort())
  for (const name of Object.keys(upstreams)) {
    t.match(upstreams[name], { connectTimeoutMs: 3000, balance: { policy: 'least_request' }, listen: undefined }, name)
  }
  const plan = compile(new Map(told.map(each => [resourceKey(each), each])))
  t.match(plan, { kind: 'sidecar', problems: [] })
  if (plan?.kind !== 'sidecar') return
  t.same(
    plan.chains.get('api')!.routing.resolvers.map(({ name }) => name),
    [mine],
  )
  t.equal(plan.upstreams.get(`api/${theirs}`)!.resource.sni, externalSni('api', 'us', east))
})

t.test('entries that make no chain lead nowhere', async t => {
  await versions()
  await world.meshService('web', { upstreams: [upstream('api')] })
  // Written past the check that would refuse it.
  await write({ Kind: 'service-router', Name: 'api', Routes: [] })
  t.match(valuesOf(resources(), 'upstream')['api'], { sni: '', spiffeIds: [], listen: { port: 9001 } })
  const plan = compile(new Map(resources().map(each => [resourceKey(each), each])))
  t.match(plan, { problems: ['upstream api: no identity to verify'] })
})

t.test("a gateway passes a peer's callers on to where the chain of an exported name leads, and its sidecar lets them in", async t => {
  await versions()
  await world.peer('east', east)
  await world.service({ id: 'gw', service: 'mesh-gateway', kind: 'mesh-gateway', port: 8443 })
  await world.entry({ kind: 'exported-services', name: 'default', services: [{ name: 'shop', consumers: [{ peer: 'east' }] }] })
  await write({ Kind: 'service-resolver', Name: 'api', Subsets })
  const gateway = () => resourcesFor('gw', world.context).reading.value
  const sidecar = () => valuesOf(resourcesFor('api-0-sidecar-proxy', world.context).reading.value, 'self')['api-0-sidecar-proxy']!
  t.same([valuesOf(gateway(), 'exported'), sidecar().inboundPeers], [{}, []], 'nothing is behind it yet')
  await write({ Kind: 'service-resolver', Name: 'shop', Redirect: { Service: 'api', ServiceSubset: 'v2' } })
  const sni = externalSni('shop', 'east', own)
  t.same(valuesOf(gateway(), 'exported'), { [sni]: { sni, service: 'shop', peer: 'east', endpoints: 'api#v2' } })
  t.same(
    valuesOf(gateway(), 'endpoints')['api#v2']!.endpoints.map(({ port }) => port),
    [22_001, 22_002],
  )
  t.same(sidecar().inboundPeers, ['east'])
  await write({ Kind: 'service-resolver', Name: 'shop', Redirect: { Service: 'api', Peer: 'east' } })
  t.same([valuesOf(gateway(), 'exported'), sidecar().inboundPeers], [{}, []], 'no peer is led on to a peer')
})

t.test('where requests must be looked at, they end at the gateway and go on by the chain, inside the cluster only', async t => {
  await versions()
  await world.peer('east', east)
  await world.service({ id: 'gw', service: 'mesh-gateway', kind: 'mesh-gateway', port: 8443 })
  await world.entry({
    kind: 'exported-services',
    name: 'default',
    services: [{ name: 'shop', consumers: [{ peer: 'east' }, { peer: 'unknown' }] }],
  })
  await write({ Kind: 'proxy-defaults', Config: { protocol: 'http' } })
  await write({ Kind: 'service-resolver', Name: 'api', Subsets, Failover: { '*': { Service: 'other' } } })
  const Routes = [
    { Match: { HTTP: { PathPrefix: '/v2' } }, Destination: { Service: 'api', ServiceSubset: 'v2' } },
    { Match: { HTTP: { PathPrefix: '/back' } }, Destination: { Service: 'theirs', Peer: 'east' } },
  ]
  await write({ Kind: 'service-router', Name: 'shop', Routes })
  const gateway = resourcesFor('gw', world.context).reading.value
  const sni = externalSni('shop', 'east', own)
  t.same(valuesOf(gateway, 'exported'), { [sni]: { sni, service: 'shop', peer: 'east', endpoints: 'shop', upstream: 'shop' } })
  const target = 'v2.api.default.default.dc1'
  const rest = 'shop.default.default.dc1'
  t.same(valuesOf(gateway, 'chain')['shop']!.targets, { [target]: `shop/${target}`, [rest]: `shop/${rest}` })
  t.match(valuesOf(gateway, 'upstream'), {
    [`shop/${target}`]: { sni: `v2.api.default.dc1.internal.${own}`, endpoints: 'api#v2', listen: undefined },
  })
  const plan = compile(new Map(gateway.map(each => [resourceKey(each), each])))
  t.match(plan, { kind: 'gateway', problems: [] })
  if (plan?.kind !== 'gateway') return
  t.same(
    plan.chains.get('shop')!.routing.resolvers.map(({ targets }) => targets),
    [[target], ['theirs.default.default.external.east'], [rest]],
  )
  t.equal(plan.wan.get(sni)?.upstream, 'shop')
})

t.test('a health flip tells the chain again as the same object', async t => {
  await versions()
  await world.meshService('web', { upstreams: [upstream('api')] })
  await write({ Kind: 'proxy-defaults', Config: { protocol: 'http' } })
  await write({ Kind: 'service-router', Name: 'api', Routes: [] })
  const chain = () => valuesOf(resources(), 'chain')['api']
  const before = chain()
  await world.check('check-0', 'critical', 'api-0-sidecar-proxy')
  t.same(ports('api'), [-22_000, 22_001, 22_002])
  t.equal(chain(), before)
  await write({ Kind: 'service-router', Name: 'api', Routes: [{ Match: { HTTP: { PathExact: '/x' } } }] })
  t.not(chain(), before)
})

t.test('a chain asked for in odd words is not remembered', async t => {
  const request = { service: 'api', datacenter: 'dc1', trustDomain: 'x.consul' }
  const { tables } = world.context
  const chain = readChain(tables, request)
  t.equal(readChain(tables, request), chain)
  t.same(readChainOnce(tables, request), chain)
  t.not(readChainOnce(tables, request), chain)
})
