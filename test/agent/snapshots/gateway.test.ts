// What a mesh gateway is told: an explicit row for each name, and nothing else.
import t from 'tap'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { resourcesFor } from '../../../src/agent/snapshots/snapshots.ts'
import { Peering } from '../../../src/mesh/peering.ts'
import { compile, resourceKey, type GatewayPlan } from '../../../src/mesh/plan.ts'
import { externalSni, internalSni, peeringServerName } from '../../../src/mesh/sni.ts'
import type { Resource } from '../../../src/mesh/snapshot.ts'
import { meshGatewayId, serviceId } from '../../../src/mesh/spiffe.ts'
import { east, own, valuesOf, World } from './world.ts'

let world: World
t.beforeEach(async () => {
  world = await World.open()
  await gateway()
})
t.afterEach(() => world.close())

const gateway = (config: Record<string, unknown> = {}) =>
  world.service({
    id: 'gw',
    service: 'mesh-gateway',
    kind: 'mesh-gateway',
    address: '10.0.0.9',
    port: 8443,
    taggedAddresses: { wan: { address: '198.51.100.1', port: 443 } },
    proxy: { mode: '', meshGateway: {}, expose: {}, config },
  })
const resources = (): Resource[] => resourcesFor('gw', world.context).reading.value
const rows = (kind: 'exported' | 'server' | 'internal' | 'imported' | 'peer-server') => Object.values(valuesOf(resources(), kind))
function plan(): GatewayPlan {
  const compiled = compile(new Map(resources().map(each => [resourceKey(each), each])))
  if (compiled?.kind !== 'gateway') throw new Error('no gateway plan')
  return compiled
}

t.test('a gateway is told who it is', async t => {
  t.match(valuesOf(resources(), 'self')['gw'], {
    kind: 'mesh-gateway',
    service: 'mesh-gateway',
    spiffeId: meshGatewayId(own, 'dc1'),
    listen: { address: '10.0.0.9', port: 8443 },
    wan: { address: '198.51.100.1', port: 443 },
    lanNamesOnWan: false,
    draining: false,
  })
  await gateway({ isthmus_lan_names_on_wan: true, bind_address: '0.0.0.0' })
  t.match(valuesOf(resources(), 'self')['gw'], { lanNamesOnWan: true, listen: { address: '0.0.0.0', port: 8443 } })
})

t.test('it drains in maintenance, not while its own check has not seen it listen', async t => {
  const draining = () => valuesOf(resources(), 'self')['gw']!.draining
  await world.check('listening', 'critical', 'gw')
  t.equal(draining(), false)
  await world.check('_service_maintenance:gw', 'critical', 'gw')
  t.equal(draining(), true)
})

t.test('an exported service has a name for each peer, while something of it is in the mesh', async t => {
  await world.peer('east', east)
  await world.peer('west', 'west.consul')
  await world.service({ service: 'plain' })
  await world.meshService('api', {}, 21_001)
  await world.meshService('db', {}, 21_002)
  await world.exports([
    { name: 'api', peers: ['west', 'east', 'nobody'] },
    { name: 'plain', peers: ['east'] },
    { name: 'ghost', peers: ['east'] },
  ])
  const row = (peer: string) => ({ sni: externalSni('api', peer, own), service: 'api', peer, endpoints: 'api' })
  t.same(rows('exported'), [row('east'), row('west')])
  t.match(valuesOf(resources(), 'endpoints')['api'], { endpoints: [{ address: '10.0.0.1', port: 21_001, healthy: true }] })
  await world.exports([{ name: '*', peers: ['east'] }])
  t.same(
    rows('exported').map(({ sni }) => sni),
    [externalSni('api', 'east', own), externalSni('db', 'east', own)],
    '* is every service of the mesh',
  )
  await world.exports([])
  t.same(rows('exported'), [])
})

t.test('where the gateway is told to, exported http ends at it and goes on to the service', async t => {
  await world.peer('east', east)
  await world.meshService('api', {}, 21_001)
  await world.meshService('db', {}, 21_002)
  await world.entry({ kind: 'service-defaults', name: 'api', protocol: 'http' })
  await world.exports([{ name: '*', peers: ['east'] }])
  t.same(Object.keys(valuesOf(resources(), 'upstream')), [], 'otherwise bytes pass')
  await gateway({ isthmus_terminate_http: true })
  const row = (service: string) => ({ sni: externalSni(service, 'east', own), service, peer: 'east', endpoints: service })
  t.same(rows('exported'), [{ ...row('api'), upstream: 'api' }, row('db')], 'bytes pass whatever was asked for')
  t.match(valuesOf(resources(), 'upstream'), {
    api: { peer: '', protocol: 'http', sni: internalSni('api', 'dc1', own), spiffeIds: [serviceId(own, 'dc1', 'api')], endpoints: 'api' },
  })
  t.ok(valuesOf(resources(), 'roots')['east'], 'it knows whom callers are believed by')
  const { wan, upstreams, problems } = plan()
  t.match([wan.get(externalSni('api', 'east', own))?.upstream, [...upstreams.keys()], problems], ['api', ['api'], []])
})

t.test('own services have internal names', async t => {
  await world.service({ service: 'plain' })
  await world.meshService('api', {}, 21_001)
  t.same(rows('internal'), [{ sni: internalSni('api', 'dc1', own), service: 'api', peer: '', endpoints: 'api' }])
  t.equal(plan().wan.size, 0)
  t.equal(
    plan()
      .lan.get(internalSni('api', 'dc1', own))!
      .picker.pick()?.port,
    21_001,
  )
})

t.test('the peering servers are served where the mesh entry says so', async t => {
  await world.service({ id: 'consul', service: 'consul', port: 8300, meta: { grpc_tls_port: '8503' } })
  t.same(rows('server'), [])
  await world.entry({ kind: 'mesh', peering: { peerThroughMeshGateways: true } })
  const sni = peeringServerName('dc1', own)
  t.match(rows('server'), [{ sni, service: 'consul' }])
  t.equal(plan().wan.get(sni)!.picker.pick()?.port, 8503)
  t.same(plan().problems, [])
})

t.test('the servers that our own dial are served to callers inside, and only while peering passes the gateways', async t => {
  const remote = peeringServerName('dc2', east)
  const dialled = (name: string, fields: object) =>
    world.put(keys.peering(name), { ...Peering.parse({ id: `id-${name}`, name, state: 'ESTABLISHING', peerId: 'x' }), ...fields })
  await dialled('east', { peerServerName: remote, peerServerAddresses: ['192.0.2.7:8503', 'gw.example:443', '[2001:db8::1]:8503', 'junk'] })
  t.same(rows('peer-server'), [], 'not where peering goes straight')
  await world.entry({ kind: 'mesh', peering: { peerThroughMeshGateways: true } })
  t.same(rows('peer-server'), [{ sni: remote, service: 'consul', peer: 'east', endpoints: remote }])
  const places = () =>
    plan()
      .lan.get(remote)!
      .endpoints.map(each => `${each.address} ${each.port}`)
  t.same(places(), ['192.0.2.7 8503', 'gw.example 443', '2001:db8::1 8503'])
  t.notOk(plan().wan.has(remote), 'strangers are not passed on to others')
  t.same(plan().problems, [])

  await dialled('again', { peerServerName: remote, peerServerAddresses: ['192.0.2.8:1'] })
  t.same(places(), ['192.0.2.8 1'], 'of two peerings with one cluster the last one written counts')
  await dialled('again', { peerServerName: remote, peerServerAddresses: ['192.0.2.8:1'], manualServerAddresses: ['192.0.2.9:1'] })
  t.same(places(), ['192.0.2.9 1'], 'addresses given by hand come before those told')
  const exchanging = { serverName: remote, addresses: ['192.0.2.10:1'] }
  await dialled('east', { peerServerName: remote, peerServerAddresses: ['192.0.2.7:8503'], exchanging })
  t.same(places(), ['192.0.2.10 1'], 'while its token is spent')
  await dialled('east', { state: 'TERMINATED', peerServerName: remote, peerServerAddresses: ['192.0.2.7:8503'] })
  await dialled('again', { state: 'TERMINATED', peerServerName: remote, peerServerAddresses: ['192.0.2.7:8503'] })
  t.same(rows('peer-server'), [])
})

t.test('a token that names our own server, or no server, makes no route', async t => {
  await world.service({ id: 'consul', service: 'consul', port: 8300, meta: { grpc_tls_port: '8503' } })
  await world.entry({ kind: 'mesh', peering: { peerThroughMeshGateways: true } })
  await world.meshService('api', {}, 21_001)
  for (const [name, peerServerName] of [
    ['one', internalSni('api', 'dc1', own)],
    ['two', externalSni('api', 'east', own)],
    ['three', 'example.org'],
  ] as const) {
    const fields = { id: name, name, state: 'ESTABLISHING', peerId: 'x', peerServerName, peerServerAddresses: ['192.0.2.66:1'] }
    await world.put(keys.peering(name), Peering.parse(fields))
  }
  const compiled = plan()
  t.equal(compiled.wan.get(peeringServerName('dc1', own))!.picker.pick()?.port, 8503)
  t.notOk([...compiled.lan.values()].some(route => route.endpoints.some(({ address }) => address === '192.0.2.66')))
})

t.test('imported names go to the gateways of their peer', async t => {
  await world.peer('east', east)
  await world.importedInstances('east', 'api', ['passing'])
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }, { wan: '192.0.2.2', status: 'critical' }])
  await world.importedInstances('east', 'plain', ['passing'])
  await world.importedProxies('east', 'virtual', [{ wan: '192.0.2.3' }])
  t.same(
    rows('imported').map(({ sni, service, peer }) => [sni, service, peer]),
    [
      [externalSni('api', 'us', east), 'api', 'east'],
      [externalSni('virtual', 'us', east), 'virtual', 'east'],
    ],
  )
  const route = plan().lan.get(externalSni('api', 'us', east))!
  t.same([route.picker.size, route.picker.pick()?.address], [1, '192.0.2.1'])
  t.equal(plan().wan.size, 0)
  await world.importedInstances('east', 'api', ['critical'])
  t.equal(plan().lan.get(externalSni('api', 'us', east))!.picker.size, 0, 'nobody is there')
  await world.delete(keys.trustBundle('east'))
  t.same(rows('imported'), [], 'no bundle')
})

t.test('a peer that claims names of ours gets no route, and takes none', async t => {
  await world.peer('east', east)
  await world.meshService('api', {}, 21_001)
  await world.exports([{ name: 'api', peers: ['east'] }])
  const ours = externalSni('api', 'east', own)
  await world.importedProxies('east', 'evil', [{ wan: '192.0.2.66' }], { sni: [internalSni('api', 'dc1', own)] })
  await world.importedProxies('east', 'evil2', [{ wan: '192.0.2.66' }], { sni: [peeringServerName('dc1', own)] })
  const compiled = plan()
  t.equal(compiled.problems.length >= 2, true)
  t.equal(compiled.wan.get(ours)!.picker.pick()?.port, 21_001)
  t.notOk([...compiled.lan.values()].some(route => route.endpoints.some(({ address }) => address === '192.0.2.66')))
})
