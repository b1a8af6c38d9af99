/** What an agent is asked to run: registered, checked, persisted, and in the catalog before the call answers. */
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import { ConfiguredServices } from '../../../src/agent/catalog/configured-services.ts'
import { LocalAgent } from '../../../src/agent/catalog/local-agent.ts'
import type { Store } from '../../../src/agent/store/store.ts'
import { MeshError } from '../../../src/lib/errors.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import type { CheckDefinition } from '../../../src/mesh/check.ts'
import { catalogScene, type CatalogScene } from '../../support/catalog-scene.ts'
import { FakeClock, settle } from '../../support/fake-clock.ts'
import { eventually } from '../../support/until.ts'

type MeshFailure = { code: string; message: string | RegExp }

interface AgentScene extends CatalogScene {
  agent: LocalAgent
  clock: FakeClock
  restart(): Promise<void>
}

async function scene(t: import('tap').Test): Promise<AgentScene> {
  const base = await catalogScene()
  const clock = new FakeClock()
  const make = () =>
    new LocalAgent({
      store: base.store,
      tables: base.tables,
      catalog: base.catalog,
      node: {
        id: '',
        node: 'alpha',
        address: '127.0.0.1',
        datacenter: 'dc1',
        taggedAddresses: { lan: '127.0.0.1' },
        meta: { rack: 'r1' },
        createIndex: 0,
        modifyIndex: 0,
      },
      clock,
      logger: silentLogger(),
      sidecarPorts: { min: 21000, max: 21255 },
      serverService: { port: 8300, meta: { grpc_tls_port: '8503' } },
      checkUpdateIntervalMs: 300_000,
    })
  const made: AgentScene = Object.assign(base, {
    clock,
    agent: make(),
    async restart() {
      await made.agent.close()
      await base.reopen()
      made.agent = make()
      await made.agent.start()
    },
  })
  t.teardown(async () => {
    await made.agent.close()
    await base.close()
  })
  await made.agent.start()
  return made
}

/** Status of each check of the catalog by its id. */
const statuses = ({ tables }: CatalogScene) =>
  Object.fromEntries(tables.checksOfNode('alpha').value.map(check => [check.checkId, check.status]))

/** As JSON has it: without absent members. */
const plain = (map: Map<string, object>) => JSON.parse(JSON.stringify([...map])) as unknown

/** Lets real writes to the store finish. */
t.test('the own node, its liveness and the server are in the catalog from the start', async t => {
  const made = await scene(t)
  const node = made.tables.nodeServices('alpha').value
  t.match(node?.node, { node: 'alpha', meta: { rack: 'r1' }, taggedAddresses: { lan: '127.0.0.1' } })
  t.match(node?.services, [{ id: 'consul', service: 'consul', port: 8300, meta: { grpc_tls_port: '8503' } }])
  t.match(made.tables.checksOfNode('alpha').value, [
    { checkId: 'serfHealth', name: 'Serf Health Status', status: 'passing', output: 'Agent alive and reachable' },
  ])
  t.same(made.agent.services(), new Map())
  t.same(made.agent.checks(), new Map())
})

t.test('a service with a sidecar is two services with the checks of Consul', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'api', port: 9000, tags: ['v1'], meta: { a: 'b' }, connect: { sidecarService: {} } })
  t.match(made.agent.service('api-sidecar-proxy'), {
    kind: 'connect-proxy',
    service: 'api-sidecar-proxy',
    port: 21000,
    tags: ['v1'],
    meta: { a: 'b' },
    proxy: { destinationServiceName: 'api', destinationServiceId: 'api', localServiceAddress: '127.0.0.1', localServicePort: 9000 },
  })
  t.match(made.tables.checksOfInstance('alpha', 'api-sidecar-proxy'), [
    {
      checkId: 'service:api-sidecar-proxy:1',
      name: 'Connect Sidecar Listening',
      type: 'tcp',
      interval: '10s',
      timeout: '',
      status: 'critical',
    },
    {
      checkId: 'service:api-sidecar-proxy:2',
      name: 'Connect Sidecar Aliasing api',
      type: 'alias',
      interval: '',
      status: 'passing',
      output: 'No checks found.',
    },
  ])
  t.match(made.tables.connectInstances('api').value[0]?.service.taggedAddresses, {
    'consul-virtual': { address: '240.0.0.1', port: 21000 },
  })
})

t.test('a sidecar keeps its port when it is registered again, and the next gets the next', async t => {
  const { agent } = await scene(t)
  const register = (name: string) => agent.registerService({ name, port: 9000, connect: { sidecarService: {} } })
  await Promise.all([register('a'), register('b')])
  const ports = () => ['a', 'b'].map(name => agent.service(`${name}-sidecar-proxy`)?.port)
  t.same(new Set(ports()), new Set([21000, 21001]))
  const before = ports()
  await register('b')
  await register('a')
  t.same(ports(), before)
  await agent.deregisterService('a')
  await register('c')
  t.equal(agent.service('c-sidecar-proxy')?.port, before[0])
})

t.test('deregistering a service removes its sidecar and every check', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'api', port: 9000, check: { ttlMs: 1000 }, connect: { sidecarService: {} } })
  await made.agent.deregisterService('api')
  t.same(statuses(made), { serfHealth: 'passing' })
  t.same([...made.agent.services().keys(), ...made.agent.checks().keys()], [])
  t.same((await made.store.list('local/')).entries, [])
  await t.rejects(made.agent.deregisterService('api'), {
    code: 'not-found',
    message: 'Unknown service ID "api". Ensure that the service ID is passed, not the service name.',
  })
})

t.test('checks of a service get their ids and names, and start critical unless told', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'one', check: { ttlMs: 1000 } })
  await made.agent.registerService({
    name: 'two',
    checks: [
      { ttlMs: 1000, status: 'passing' },
      { ttlMs: 1000, name: 'n2' },
    ],
  })
  t.same(
    [...made.agent.checks()].map(([id, { name, status, type, interval }]) => [id, name, status, type, interval]),
    [
      ['service:one', "Service 'one' check", 'critical', 'ttl', ''],
      ['service:two:1', "Service 'two' check", 'passing', 'ttl', ''],
      ['service:two:2', 'n2', 'critical', 'ttl', ''],
    ],
  )
  await made.agent.registerService({ name: 'two', check: { ttlMs: 1000 } }, { replaceExistingChecks: true })
  t.same(Object.keys(statuses(made)).sort(), ['serfHealth', 'service:one', 'service:two'])
})

t.test('an address of its own is shown as LAN and WAN address', async t => {
  const { agent } = await scene(t)
  await agent.registerService({
    name: 'web',
    address: '127.0.0.10',
    port: 8080,
    taggedAddresses: { wan: { address: '198.18.0.1', port: 80 } },
  })
  const own = { address: '127.0.0.10', port: 8080 }
  t.same(agent.service('web')?.taggedAddresses, { lan_ipv4: own, wan_ipv4: own, wan: { address: '198.18.0.1', port: 80 } })
})

t.test('an identical registration changes nothing that a reader sees', async t => {
  const made = await scene(t)
  const definition = { name: 'web', port: 1, check: { ttlMs: 60_000 } }
  await made.agent.registerService(definition)
  await made.agent.updateTtl('service:web', 'passing', 'fine')
  const { index, value } = made.tables.instances('web')
  await made.agent.registerService(definition)
  t.equal(made.tables.instances('web').index, index)
  t.same(made.tables.instances('web').value, value)
})

t.test('a TTL check follows its reports and expires without them', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'web', check: { ttlMs: 1000 } })
  await made.agent.updateTtl('service:web', 'passing', 'well')
  t.match(made.tables.instances('web').value[0]?.checks[1], { status: 'passing', output: 'well' })
  await made.clock.advance(1000)
  await eventually(() => statuses(made)['service:web'] === 'critical')
  t.match(made.tables.instances('web').value[0]?.checks[1], {
    status: 'critical',
    output: 'TTL expired (last output before timeout follows): well',
  })
  await made.agent.registerCheck({ name: 'tcp', tcp: '127.0.0.1:1', intervalMs: 60_000 })
  await t.rejects(made.agent.updateTtl('tcp', 'passing', ''), { code: 'invalid', message: 'CheckID "tcp" does not have associated TTL' })
  await t.rejects(made.agent.updateTtl('nope', 'passing', ''), { code: 'not-found' })
})

t.test('a change of the output alone waits for the update interval', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'web', check: { ttlMs: 3_600_000 } })
  await made.agent.updateTtl('service:web', 'passing', 'one')
  const reading = made.tables.instances('web')
  for (const output of ['two', 'three']) await made.agent.updateTtl('service:web', 'passing', output)
  await made.clock.advance(50_000)
  t.equal(made.tables.instances('web').index, reading.index)
  t.equal(made.agent.checks().get('service:web')?.output, 'three')
  await made.clock.advance(250_000)
  await made.tables.waitFor(reading.topics, reading.index, 2000)
  t.equal(made.tables.instances('web').value[0]?.checks[1]?.output, 'three')
})

t.test('an alias follows its service within one turn', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'api', port: 1, check: { ttlMs: 60_000, status: 'passing' }, connect: { sidecarService: {} } })
  const alias = 'service:api-sidecar-proxy:2'
  t.equal(statuses(made)[alias], 'passing')
  await made.agent.updateTtl('service:api', 'critical', 'down')
  t.match(made.agent.checks().get(alias), { status: 'critical', output: `Aliased check "Service 'api' check" failing: down` })
  await eventually(() => statuses(made)[alias] === 'critical')
  t.equal(statuses(made)[alias], 'critical')
})

t.test('an alias of another node follows the catalog', async t => {
  const made = await scene(t)
  await made.agent.registerCheck({ name: 'follow', aliasNode: 'beta', aliasService: 'db' })
  t.match(made.agent.checks().get('follow'), { status: 'critical', output: 'Service db on node beta could not be found' })
  await made.catalog.register({
    node: 'beta',
    address: '10.0.0.2',
    service: { service: 'db' },
    check: { checkId: 'c', name: 'c', serviceId: 'db', status: 'passing' },
  })
  await eventually(() => statuses(made)['follow'] === 'passing')
  t.equal(statuses(made)['follow'], 'passing')
})

t.test('an HTTP check runs and tells the catalog', async t => {
  const made = await scene(t)
  let code = 200
  const server = http.createServer((_request, response) => response.writeHead(code).end('ok'))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  await made.agent.registerService({ name: 'web', check: { http: url, intervalMs: 1000 } })
  await made.clock.advance(1000)
  await eventually(() => statuses(made)['service:web'] === 'passing')
  t.equal(statuses(made)['service:web'], 'passing')
  code = 429
  await settle()
  await made.clock.advance(1000)
  await eventually(() => statuses(made)['service:web'] === 'warning')
  t.equal(statuses(made)['service:web'], 'warning')
})

t.test('everything comes back after a restart: services, ports, reports, maintenance', async t => {
  const made = await scene(t)
  await made.agent.registerService({
    name: 'api',
    port: 1,
    checks: [{ ttlMs: 60_000 }, { tcp: '127.0.0.1:1', intervalMs: 60_000, status: 'passing' }],
    connect: { sidecarService: { port: 21007 } },
  })
  await made.agent.updateTtl('service:api:1', 'warning', 'so so')
  await made.agent.setNodeMaintenance(true, 'works')
  const before = {
    services: made.agent.services(),
    checks: made.agent.checks(),
    seen: statuses(made),
    index: made.tables.instances('api').index,
  }
  await made.restart()
  t.same(plain(made.agent.services()), plain(before.services))
  t.same(plain(made.agent.checks()), plain(before.checks))
  t.same(statuses(made), before.seen)
  await made.clock.advance(59_000)
  t.equal(made.agent.checks().get('service:api:1')?.status, 'warning')
  await made.clock.advance(1000)
  t.equal(made.agent.checks().get('service:api:1')?.status, 'critical')
})

t.test('after a restart the catalog forgets what nobody asked this agent for', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'mine', port: 1 })
  await made.catalog.register({ node: 'alpha', address: '127.0.0.1', skipNodeUpdate: true, service: { service: 'left-over' } })
  await made.catalog.deregister({ node: 'alpha', serviceId: 'mine' })
  await made.restart()
  t.same(
    made.tables.nodeServices('alpha').value?.services.map(service => service.id),
    ['consul', 'mine'],
  )
})

t.test('what was taken out of the catalog behind its back is put back', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'mine', port: 1 })
  await made.catalog.deregister({ node: 'alpha' })
  await made.clock.advance(60_000)
  await eventually(() => made.tables.instances('mine').value.length === 1)
  t.equal(made.tables.instances('mine').value.length, 1)
})

t.test('maintenance is a critical check of its own kind', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'web', port: 1 })
  await made.agent.setServiceMaintenance('web', true)
  await made.agent.setServiceMaintenance('web', true, 'again')
  t.match(made.agent.checks().get('_service_maintenance:web'), {
    name: 'Service Maintenance Mode',
    status: 'critical',
    type: 'maintenance',
    serviceId: 'web',
    notes: 'Maintenance mode is enabled for this service, but no reason was provided. This is a default message.',
  })
  await made.agent.registerService({ name: 'web', port: 2 }, { replaceExistingChecks: true })
  t.equal(statuses(made)['_service_maintenance:web'], 'critical')
  await made.agent.setServiceMaintenance('web', false)
  t.same(statuses(made), { serfHealth: 'passing' })
  await t.rejects(made.agent.setServiceMaintenance('nope', true), { code: 'not-found' })
})

t.test('a service that is critical for too long is deregistered, never before a minute', async t => {
  const made = await scene(t)
  await made.agent.registerService({ name: 'web', port: 1, check: { ttlMs: 3_600_000, deregisterCriticalServiceAfterMs: 1000 } })
  await made.clock.advance(45_000)
  t.ok(made.agent.service('web'))
  await made.agent.updateTtl('service:web', 'passing', '')
  await made.agent.updateTtl('service:web', 'critical', '')
  await made.clock.advance(45_000)
  t.ok(made.agent.service('web'))
  await made.clock.advance(45_000)
  await eventually(() => made.tables.instances('web').value.length === 0)
  t.equal(made.agent.service('web'), undefined)
  t.same(made.tables.instances('web').value, [])
})

t.test('checks that mean nothing are refused', async t => {
  const { agent } = await scene(t)
  const refused: [CheckDefinition, MeshFailure][] = [
    [{ ttlMs: 1000 }, { code: 'bad-request', message: 'Missing check name' }],
    [
      { name: 'a', ttlMs: 1000, status: 'zz' },
      { code: 'bad-request', message: 'Bad check status' },
    ],
    [{ name: 'a' }, { code: 'bad-request', message: 'Invalid check: TTL must be > 0 for TTL checks' }],
    [
      { name: 'a', args: ['sh'], intervalMs: 1 },
      { code: 'bad-request', message: /^Invalid check: Script checks are not supported/ },
    ],
    [
      { name: 'a', ttlMs: 1000, serviceId: 'nope' },
      { code: 'not-found', message: 'ServiceID "nope" does not exist' },
    ],
  ]
  for (const [definition, error] of refused) await t.rejects(agent.registerCheck(definition), error)
  await t.rejects(agent.deregisterCheck('nope'), {
    message: 'Unknown check ID "nope". Ensure that the check ID is passed, not the check name.',
  })
  t.same(agent.checks(), new Map())
})

t.test('a registration that could not be kept is not run', async t => {
  const made = await scene(t)
  const full: Store = Object.assign(Object.create(made.store) as Store, {
    txn: () => Promise.reject(new MeshError('unavailable', 'the disk is full')),
    list: (prefix: string) => made.store.list(prefix),
  })
  const agent = new LocalAgent({
    store: full,
    tables: made.tables,
    catalog: made.catalog,
    node: made.tables.node('alpha').value!,
    clock: made.clock,
    logger: silentLogger(),
    sidecarPorts: { min: 21000, max: 21255 },
  })
  await agent.start()
  t.teardown(() => agent.close())
  await t.rejects(agent.registerService({ name: 'web', port: 1, check: { ttlMs: 1000 }, connect: { sidecarService: {} } }), {
    message: 'the disk is full',
  })
  t.same([...agent.services().keys(), ...agent.checks().keys()], [])
  t.same(made.tables.instances('web').value, [])
})

t.test('of two reloads at once the second decides, and what a failed one could not take away goes with the next', async t => {
  const { agent } = await scene(t)
  const files = new ConfiguredServices(agent)
  const named = (...names: string[]) => ({ services: names.map(name => ({ name })), checks: [] })
  const running = () => [...agent.services().keys()].sort()
  await Promise.all([files.apply(named('a', 'b')), files.apply(named('b', 'c')), files.apply(named('c'))])
  t.same(running(), ['c'])
  await t.rejects(files.apply({ services: [{ name: 'd' }, { name: '' }], checks: [] }))
  await files.apply(named('e'))
  t.same(running(), ['e'])
})
