// What a sidecar is told, from the records of a catalog.
import t from 'tap'
import { resourcesFor } from '../../../src/agent/snapshots/snapshots.ts'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { compile, resourceKey } from '../../../src/mesh/plan.ts'
import { externalSni, internalSni } from '../../../src/mesh/sni.ts'
import type { Resource } from '../../../src/mesh/snapshot.ts'
import { meshGatewayId, serviceId } from '../../../src/mesh/spiffe.ts'
import { east, own, valuesOf, World } from './world.ts'

const proxyId = 'web-sidecar-proxy'
let world: World
t.beforeEach(async () => void (world = await World.open()))
t.afterEach(() => world.close())

function resources(): Resource[] {
  return resourcesFor(proxyId, world.context).reading.value
}
const self = () => valuesOf(resources(), 'self')[proxyId]!

/** Health of the endpoints of an upstream, by address. */
function health(upstream: string): Record<string, boolean> {
  const found = valuesOf(resources(), 'endpoints')[upstream]
  return Object.fromEntries(found?.endpoints.map(({ address, port, healthy }) => [`${address}:${port}`, healthy]) ?? [])
}

t.test('only a proxy of this node is found', async t => {
  await world.meshService('web')
  await world.put(keys.node('n2'), { node: 'n2', address: '10.0.0.2' })
  await world.service({ id: 'far-sidecar-proxy', service: 'far-sidecar-proxy', kind: 'connect-proxy' }, 'n2')
  const found = (id: string) => resourcesFor(id, world.context).found
  t.same([proxyId, 'web', 'far-sidecar-proxy', 'nobody', ''].map(found), [true, false, false, false, false])
})

t.test('a sidecar is told who it is', async t => {
  await world.meshService('web', { config: { max_inbound_connections: 7 } })
  t.same(self(), {
    proxyId,
    kind: 'sidecar',
    service: 'web',
    serviceId: 'web',
    datacenter: 'dc1',
    trustDomain: own,
    spiffeId: serviceId(own, 'dc1', 'web'),
    protocol: 'tcp',
    listen: { address: '10.0.0.1', port: 21_000 },
    lanNamesOnWan: false,
    app: { address: '127.0.0.1', port: 8000 },
    expose: [],
    defaultAction: 'deny',
    inboundPeers: [],
    draining: false,
    maxInboundConnections: 7,
    localConnectTimeoutMs: 5000,
    localRequestTimeoutMs: 15_000,
  })
  t.same(valuesOf(resources(), 'roots'), { '@local': { trustDomain: own, peer: '', exportedPartition: '', pems: ['own pem'] } })
})

t.test('its settings come from the registration, then service-defaults, then proxy-defaults', async t => {
  const path = (listenerPort: number) => ({ listenerPort, path: '/health', localPathPort: 8000, protocol: 'http' })
  const config = { bind_address: '127.0.0.1', bind_port: 4444, local_connect_timeout_ms: 100 }
  await world.meshService('web', { config, localServiceSocketPath: '/run/web.sock' })
  await world.entry({
    kind: 'proxy-defaults',
    name: 'global',
    config: { protocol: 'http', local_connect_timeout_ms: 300, local_request_timeout_ms: 300 },
    expose: { paths: [path(1)] },
  })
  t.match(self(), {
    listen: { address: '127.0.0.1', port: 4444 },
    app: { socketPath: '/run/web.sock' },
    protocol: 'http',
    localConnectTimeoutMs: 100,
    localRequestTimeoutMs: 300,
    expose: [path(1)],
  })
  const defaults = { localConnectTimeoutMs: 200, localRequestTimeoutMs: 200, maxInboundConnections: 2 }
  await world.entry({ kind: 'service-defaults', name: 'web', protocol: 'grpc', expose: { paths: [path(2)] }, ...defaults })
  t.match(self(), {
    protocol: 'grpc',
    localConnectTimeoutMs: 100,
    localRequestTimeoutMs: 200,
    maxInboundConnections: 2,
    expose: [path(2)],
  })
  await world.meshService('web', { expose: { paths: [path(3)] } })
  t.match(self(), { expose: [path(3)] })
})

t.test('it drains while its app is critical or in maintenance, not for its own check', async t => {
  await world.meshService('web')
  await world.check('listening', 'critical', proxyId)
  t.equal(self().draining, false)
  for (const [status, draining] of [
    ['critical', true],
    ['warning', false],
    ['passing', false],
  ] as const) {
    await world.check('app', status, 'web')
    t.equal(self().draining, draining, status)
  }
  await world.check('_service_maintenance:web', 'critical', 'web')
  t.equal(self().draining, true, 'maintenance of the app')
  await world.delete(keys.check('n1', '_service_maintenance:web'))
  await world.check('_node_maintenance', 'critical')
  t.equal(self().draining, true, 'maintenance of the node')
})

t.test('a sidecar that names no instance drains with the one of its node; with none there, by its own checks', async t => {
  await world.meshService('web', { destinationServiceId: undefined })
  await world.check('own', 'critical', proxyId)
  t.equal(self().draining, false)
  await world.check('app', 'critical', 'web')
  t.equal(self().draining, true)
  await world.check('app', 'passing', 'web')
  await world.delete(keys.service('n1', 'web'))
  t.equal(self().draining, true, 'nothing but its own checks')
  await world.check('own', 'passing', proxyId)
  t.equal(self().draining, false)
})

t.test('it is told every intention for its service or for all, by precedence', async t => {
  await world.meshService('web')
  const source = (name: string, action: string) => ({ name, action, type: 'consul', precedence: 0 })
  await world.entry({ kind: 'service-intentions', name: '*', sources: [source('*', 'deny'), source('app', 'deny')] })
  await world.entry({
    kind: 'service-intentions',
    name: 'web',
    sources: [source('*', 'allow'), { ...source('app', 'allow'), peer: 'east' }],
  })
  await world.entry({ kind: 'service-intentions', name: 'other', sources: [source('app', 'allow')] })
  t.same(valuesOf(resources(), 'intentions')['web'], {
    sources: [
      { ...source('app', 'allow'), peer: 'east', destination: 'web', precedence: 9 },
      { ...source('*', 'allow'), destination: 'web', precedence: 8 },
      { ...source('app', 'deny'), destination: '*', precedence: 6 },
      { ...source('*', 'deny'), destination: '*', precedence: 5 },
    ],
  })
})

t.test('what an entry wants of every caller goes with each source, and the providers that it names come with it', async t => {
  await world.meshService('web')
  const sources = [{ name: 'app', action: 'allow', type: 'consul', precedence: 9 }]
  const jwt = { providers: [{ name: 'okta' }, { name: 'absent' }] }
  await world.entry({ kind: 'service-intentions', name: 'web', sources, jwt, meta: { 'isthmus-audit': 'true' } })
  await world.entry({ kind: 'jwt-provider', name: 'okta', issuer: 'me', jsonWebKeySet: { local: { jwks: 'e30=' } } })
  await world.entry({ kind: 'jwt-provider', name: 'other', issuer: 'you' })
  t.same(valuesOf(resources(), 'intentions')['web']!.sources, [{ ...sources[0], destination: 'web', jwt, audit: true }])
  t.same(valuesOf(resources(), 'jwt-provider'), {
    okta: { issuer: 'me', audiences: [], locations: [], clockSkewSeconds: 30, jwks: 'e30=' },
  })
})

t.test('callers of a peer come in when the service is exported to it and its bundle is known', async t => {
  await world.meshService('web')
  await world.meshService('db')
  const inbound = () => [self().inboundPeers, Object.keys(valuesOf(resources(), 'roots')).sort()]
  await world.exports([
    { name: 'web', peers: ['east', 'nobody'] },
    { name: 'db', peers: ['west'] },
  ])
  t.same(inbound(), [[], ['@local']], 'no such peering yet')
  await world.peer('east', east)
  await world.peer('west', 'west.consul')
  t.same(inbound(), [['east'], ['@local', 'east']])
  await world.exports([
    { name: '*', peers: ['west'] },
    { name: 'web', peers: ['east'] },
  ])
  t.same(inbound(), [
    ['east', 'west'],
    ['@local', 'east', 'west'],
  ])
  await world.delete(keys.trustBundle('east'))
  t.same(inbound(), [['west'], ['@local', 'west']], 'no bundle any more')
  await world.put(keys.peering('west'), { id: 'w', name: 'west', state: 'DELETING' })
  t.same(inbound(), [[], ['@local']], 'being deleted')
})

const upstream = (destinationName: string, more: object = {}) => ({
  destinationType: 'service',
  destinationName,
  localBindPort: 9001,
  meshGateway: {},
  ...more,
})

t.test('a local upstream goes to every healthy sidecar of the service', async t => {
  await world.meshService('web', { upstreams: [upstream('api')] })
  t.same(valuesOf(resources(), 'upstream'), {
    api: {
      service: 'api',
      peer: '',
      protocol: 'tcp',
      listen: { address: '127.0.0.1', port: 9001 },
      sni: internalSni('api', 'dc1', own),
      spiffeIds: [serviceId(own, 'dc1', 'api')],
      connectTimeoutMs: 5000,
      endpoints: 'api',
    },
  })
  t.same(health('api'), {}, 'it has a listener before it has endpoints')
  await world.meshService('api', {}, 21_001)
  await world.put(keys.node('n2'), { node: 'n2', address: '10.0.0.2' })
  const proxy = { mode: '', meshGateway: {}, expose: {}, destinationServiceName: 'api' }
  await world.service({ id: 'two', service: 'x', kind: 'connect-proxy', port: 21_002, address: '10.1.1.1', proxy }, 'n2')
  await world.service({ id: 'three', service: 'api', port: 21_003, connect: { native: true } }, 'n2')
  await world.service({ id: 'portless', service: 'x', kind: 'connect-proxy', port: 0, proxy }, 'n2')
  await world.check('one', 'critical', 'api-sidecar-proxy')
  await world.check('two', 'warning', 'two', 'n2')
  t.same(health('api'), { '10.0.0.1:21001': false, '10.1.1.1:21002': true, '10.0.0.2:21003': true })
  await world.check('_node_maintenance', 'critical', '', 'n2')
  t.same(health('api'), { '10.0.0.1:21001': false, '10.1.1.1:21002': false, '10.0.0.2:21003': false })
})

t.test('an upstream listens where it is told and connects within what it is told', async t => {
  const overrides = [{ name: 'api', connectTimeoutMs: 300, meshGateway: {} }]
  const defaults = { connectTimeoutMs: 400, meshGateway: {} }
  await world.entry({ kind: 'service-defaults', name: 'web', upstreamConfig: { overrides, defaults } })
  await world.meshService('web', {
    upstreams: [
      upstream('api', { localBindAddress: '127.0.0.2', config: { protocol: 'HTTP' } }),
      upstream('db', { localBindPort: undefined, localBindSocketPath: '/run/db.sock', localBindSocketMode: '0600' }),
      upstream('cache', { config: { connect_timeout_ms: 100 } }),
      upstream('query', { destinationType: 'prepared_query' }),
      upstream('far', { datacenter: 'dc9' }),
    ],
  })
  const all = valuesOf(resources(), 'upstream')
  t.same(Object.keys(all), ['api', 'db', 'cache'])
  t.match(all['api'], { listen: { address: '127.0.0.2', port: 9001 }, protocol: 'http', connectTimeoutMs: 300 })
  t.match(all['db'], { listen: { port: 0, socketPath: '/run/db.sock', socketMode: '0600' }, connectTimeoutMs: 400 })
  t.match(all['cache'], { connectTimeoutMs: 100 })
})

const peered = upstream('api', { destinationPeer: 'east' })
const name = 'api?peer=east'

t.test('a peered upstream has no listener until it is imported, and then is what the peer says', async t => {
  await world.meshService('web', { upstreams: [peered] })
  t.same(valuesOf(resources(), 'upstream'), {}, 'no peering')
  await world.peer('east', east)
  t.same(valuesOf(resources(), 'upstream'), {}, 'not imported')
  await world.importedInstances('east', 'api', ['passing'])
  t.same(valuesOf(resources(), 'upstream'), {}, 'not in the mesh there')
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }, { wan: '192.0.2.2', status: 'critical' }])
  t.same(valuesOf(resources(), 'upstream')[name], {
    service: 'api',
    peer: 'east',
    protocol: 'http',
    listen: { address: '127.0.0.1', port: 9001 },
    sni: externalSni('api', 'us', east),
    spiffeIds: [serviceId(east, 'dc2', 'api'), meshGatewayId(east, 'dc2')],
    connectTimeoutMs: 5000,
    endpoints: name,
  })
  t.same(health(name), { '192.0.2.1:9443': true, '192.0.2.2:9443': false })
  t.match(valuesOf(resources(), 'roots')['east'], { trustDomain: east, pems: ['east pem'] })
  t.same(self().inboundPeers, [], 'a peer that is dialled may not call for that')
  const plan = compile(new Map(resources().map(each => [resourceKey(each), each])))!
  t.same(plan.problems, [])
  await world.delete(keys.trustBundle('east'))
  t.same(valuesOf(resources(), 'upstream'), {}, 'no bundle')
})

t.test('a peer that names nothing to verify is not dialled', async t => {
  await world.meshService('web', { upstreams: [peered] })
  await world.peer('east', east)
  for (const meta of [{ sni: [] }, { sni: [''] }, { spiffeId: [] }]) {
    await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }], meta)
    t.same(valuesOf(resources(), 'upstream'), {}, JSON.stringify(meta))
  }
})

t.test('a peered service whose instances are all down is not dialled through healthy gateways', async t => {
  await world.meshService('web', { upstreams: [peered] })
  await world.peer('east', east)
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }])
  const cases: [string[], boolean][] = [
    [['critical', 'passing'], true],
    [['critical', 'critical'], false],
    [['critical', 'maintenance'], false],
    [['critical', 'warning'], true],
    [[], true],
  ]
  for (const [statuses, healthy] of cases) {
    await world.importedInstances('east', 'api', statuses)
    t.same(health(name), { '192.0.2.1:9443': healthy }, statuses.join())
  }
})

t.test('the mode of the mesh gateway decides who is dialled, and the most particular setting decides the mode', async t => {
  await world.peer('east', east)
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }])
  await world.service({ id: 'gateway', service: 'mesh-gateway', kind: 'mesh-gateway', address: '10.0.0.9', port: 8443 })
  const remote = { '192.0.2.1:9443': true }
  const local = { '10.0.0.9:8443': true }
  await world.meshService('web', { upstreams: [peered] })
  t.same(health(name), remote, 'unset')
  await world.entry({ kind: 'proxy-defaults', name: 'global', meshGateway: { mode: 'local' } })
  t.same(health(name), local, 'proxy-defaults')
  const entry = { kind: 'service-defaults', name: 'web' } as const
  await world.entry({ ...entry, meshGateway: { mode: 'remote' } })
  t.same(health(name), remote, 'service-defaults')
  await world.entry({ ...entry, meshGateway: { mode: 'remote' }, upstreamConfig: { defaults: { meshGateway: { mode: 'local' } } } })
  t.same(health(name), local, 'its upstream defaults')
  await world.meshService('web', { upstreams: [peered], meshGateway: { mode: 'none' } })
  t.same(health(name), remote, 'the registration; none is remote')
  const overrides = [
    { name: 'api', meshGateway: { mode: 'remote' } },
    { name: 'api', peer: 'east', meshGateway: { mode: 'local' } },
  ]
  await world.entry({ ...entry, upstreamConfig: { overrides } })
  t.same(health(name), local, 'an override for this peer')
  await world.meshService('web', { upstreams: [{ ...peered, meshGateway: { mode: 'remote' } }] })
  t.same(health(name), remote, 'the upstream itself')
  await world.meshService('web', { upstreams: [{ ...peered, meshGateway: { mode: 'local' } }] })
  await world.check('gateway', 'critical', 'gateway')
  t.same(health(name), { '10.0.0.9:8443': false }, 'a critical gateway')
  await world.check('gateway', 'passing', 'gateway')
  await world.importedInstances('east', 'api', ['critical'])
  t.same(health(name), { '10.0.0.9:8443': false }, 'a service that is down there')
})

t.test('a sidecar learns nothing of services, peers and intentions that are not its own', async t => {
  await world.peer('east', east)
  await world.peer('west', 'west.consul')
  await world.meshService('web', { upstreams: [upstream('api')] })
  const before = JSON.stringify(resources())
  await world.meshService('secret', { upstreams: [peered] }, 21_009)
  await world.exports([{ name: 'secret', peers: ['east', 'west'] }])
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }])
  await world.entry({
    kind: 'service-intentions',
    name: 'secret',
    sources: [{ name: 'x', action: 'allow', type: 'consul', precedence: 9 }],
  })
  t.equal(JSON.stringify(resources()), before)
})

t.test('equal content has an equal version', async t => {
  await world.meshService('web', { upstreams: [upstream('api')] })
  const versions = () => resources().map(each => `${each.kind}/${each.name} ${each.version}`)
  const before = versions()
  await world.meshService('web', { upstreams: [upstream('api')] })
  t.same(versions(), before)
  await world.meshService('api', {}, 21_001)
  t.equal(versions().filter(each => !before.includes(each)).length, 1)
})
