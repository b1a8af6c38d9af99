/** Registrations and what readers see of them: values, indexes, topics. */
import t from 'tap'
import type { RegisterRequest } from '../../../src/agent/catalog/catalog.ts'
import type { Reading } from '../../../src/agent/catalog/tables.ts'
import { catalogScene, type CatalogScene } from '../../support/catalog-scene.ts'

async function scene(t: import('tap').Test): Promise<CatalogScene> {
  const made = await catalogScene()
  t.teardown(() => made.close())
  return made
}

const web: RegisterRequest = {
  node: 'N1',
  address: '10.0.0.1',
  service: { id: 'web-1', service: 'web', port: 80, tags: ['v1'] },
  checks: [
    { checkId: 'alive', name: 'alive', status: 'passing' },
    { checkId: 'service:web-1', name: 'web', status: 'warning', serviceId: 'web-1' },
  ],
}

/** True when a reader of `reading` would have been woken since. */
async function woken(scene: CatalogScene, reading: Reading<unknown>): Promise<boolean> {
  return scene.tables.waitFor(reading.topics, reading.index, 0)
}

t.test('a registration is one transaction, and the reader sees all of it', async t => {
  const { catalog, tables, store } = await scene(t)
  const before = store.revision
  await catalog.register(web)
  t.equal(store.revision, before + 1)
  const { value, index } = tables.instances('WEB')
  t.equal(index, store.revision)
  t.strictSame(JSON.parse(JSON.stringify(value)), [
    {
      node: {
        id: '',
        node: 'N1',
        address: '10.0.0.1',
        datacenter: 'dc1',
        taggedAddresses: null,
        meta: null,
        createIndex: index,
        modifyIndex: index,
      },
      service: {
        id: 'web-1',
        service: 'web',
        port: 80,
        tags: ['v1'],
        address: '',
        meta: null,
        weights: { passing: 1, warning: 1 },
        enableTagOverride: false,
        proxy: { mode: '', meshGateway: {}, expose: {} },
        connect: {},
        peerName: '',
        createIndex: index,
        modifyIndex: index,
      },
      checks: [check('alive', 'alive', 'passing', '', '', []), check('service:web-1', 'web', 'warning', 'web-1', 'web', ['v1'])],
    },
  ])

  function check(checkId: string, name: string, status: string, serviceId: string, serviceName: string, serviceTags: string[]): object {
    const rest = {
      notes: '',
      output: '',
      type: '',
      interval: '',
      timeout: '',
      exposedPort: 0,
      definition: {},
      createIndex: index,
      modifyIndex: index,
    }
    return { node: 'N1', checkId, name, status, serviceId, serviceName, serviceTags, ...rest }
  }
})

t.test('an identical registration writes nothing', async t => {
  const { catalog, store } = await scene(t)
  await catalog.register(web)
  const { revision } = store
  await catalog.register(web)
  await catalog.register({ ...web, node: 'N1' })
  t.equal(store.revision, revision)
})

t.test('a node registered again without its facts loses them, unless the node is to be left alone', async t => {
  const { catalog, tables } = await scene(t)
  const id = '40e4a748-2192-161a-0510-9bf59fe950b5'
  await catalog.register({ node: 'n1', address: '10.0.0.1', id, nodeMeta: { a: 'b' } })
  await catalog.register({ node: 'n1', address: '10.9.9.9', skipNodeUpdate: true, service: { service: 'web' } })
  t.match(tables.node('N1').value, { id, address: '10.0.0.1', meta: { a: 'b' } })
  await catalog.register({ node: 'n1', address: '10.0.0.1' })
  t.match(tables.node('N1').value, { id: '', meta: null })
})

t.test('a reader of a service wakes for that service alone', async t => {
  const made = await scene(t)
  const { catalog, tables } = made
  await catalog.register(web)
  const instances = tables.instances('web')
  const [nodes, services] = [tables.nodes(), tables.services()]
  await catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'db', port: 1 } })
  t.equal(tables.instances('web').index, instances.index)
  t.notOk(await woken(made, instances))
  t.ok(await woken(made, nodes))
  t.ok(await woken(made, services))
  const other = tables.instances('db')
  await catalog.register({
    node: 'n1',
    address: '10.0.0.1',
    check: { checkId: 'service:web-1', name: 'web', status: 'passing', serviceId: 'web-1' },
  })
  t.ok(await woken(made, instances))
  t.notOk(await woken(made, other))
})

t.test('a change of a node, or of a check of the node itself, touches every service of that node', async t => {
  const made = await scene(t)
  const { catalog, tables } = made
  await catalog.register(web)
  await catalog.register({ node: 'n1', address: '10.0.0.1', service: { service: 'db', port: 1 } })
  await catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'other', port: 1 } })
  const readings = () => ['web', 'db', 'other'].map(name => tables.instances(name))
  let before = readings()
  await catalog.register({ node: 'n1', address: '10.0.0.1', check: { checkId: 'alive', name: 'alive', status: 'critical' } })
  t.same(await Promise.all(before.map(reading => woken(made, reading))), [true, true, false])
  t.equal(tables.instances('db').value[0]?.checks[0]?.status, 'critical')
  before = readings()
  await catalog.register({ node: 'n1', address: '10.0.0.77' })
  t.same(await Promise.all(before.map(reading => woken(made, reading))), [true, true, false])
  t.equal(tables.instances('web').value[0]?.node.address, '10.0.0.77')
})

t.test('a missing service has the index of the last deletion, and its readers wake when it comes', async t => {
  const made = await scene(t)
  const { catalog, tables, store } = made
  await catalog.register(web)
  await catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'db', port: 1 } })
  const missing = tables.instances('nope')
  const instances = tables.instances('web')
  await catalog.deregister({ node: 'n2', serviceId: 'db' })
  t.equal(tables.instances('nope').index, store.revision)
  t.equal(tables.instances('db').index, store.revision)
  t.equal(tables.instances('web').index, instances.index)
  const waiting = tables.waitFor(missing.topics, tables.instances('nope').index, 5000)
  await catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'nope', port: 1 } })
  t.equal(await waiting, true)
})

t.test('deregistering a node takes its services and checks along, and other nodes stay', async t => {
  const { catalog, tables } = await scene(t)
  await catalog.register(web)
  await catalog.register({ node: 'n1x', address: '10.0.0.3', service: { service: 'web', port: 1 } })
  await catalog.deregister({ node: 'n1' })
  t.same(
    tables.nodes().value.map(node => node.node),
    ['n1x'],
  )
  t.same(
    tables.instances('web').value.map(instance => instance.node.node),
    ['n1x'],
  )
  t.same(tables.checksInState('any').value, [])
  await catalog.deregister({ node: 'unknown' })
  await catalog.deregister({ node: 'n1x', serviceId: 'unknown' })
  await catalog.deregister({ node: 'n1x', checkId: 'unknown' })
})

t.test('deregistering a service takes its checks along, a check goes alone', async t => {
  const { catalog, tables } = await scene(t)
  await catalog.register(web)
  await catalog.deregister({ node: 'n1', checkId: 'service:web-1' })
  t.same(
    tables.instances('web').value[0]?.checks.map(check => check.checkId),
    ['alive'],
  )
  await catalog.register(web)
  await catalog.deregister({ node: 'n1', serviceId: 'web-1' })
  t.same(
    tables.checksOfNode('n1').value.map(check => check.checkId),
    ['alive'],
  )
  t.same(tables.services().value, new Map())
})

t.test('registrations that mean nothing are refused with the texts of Consul', async t => {
  const { catalog, store } = await scene(t)
  const { revision } = store
  const cases: [RegisterRequest, string][] = [
    [{ node: '', address: '1.2.3.4' }, 'Must provide node'],
    [{ node: 'q' }, 'Must provide address if SkipNodeUpdate is not set'],
    [{ node: 'q', address: '1.2.3.4', id: 'abc' }, 'Bad node ID: uuid string is wrong length'],
    [{ node: 'q', address: '1.2.3.4', peerName: 'zz' }, 'cannot register requests with PeerName in them'],
    [{ node: 'q', address: '1.2.3.4', datacenter: 'zz' }, 'No path to datacenter'],
    [{ node: 'q', address: '1.2.3.4', service: { service: 'a', address: '0.0.0.0' } }, 'Invalid service address'],
    [{ node: 'q', address: '1.2.3.4', service: { id: 'a' } }, 'Must provide service name (Service.Service) when service ID is provided'],
    [
      { node: 'q', address: '1.2.3.4', check: { checkId: 'c', name: 'c', serviceId: 'nope' } },
      "Unknown service ID 'nope' for check ID 'c'",
    ],
  ]
  for (const [request, message] of cases) await t.rejects(catalog.register(request), { code: 'invalid', message })
  t.equal(store.revision, revision)
})

t.test('mesh endpoints get one virtual address for each service, and keep it', async t => {
  const made = await scene(t)
  const sidecar = (node: string, of: string, port: number): RegisterRequest => ({
    node,
    address: '10.0.0.1',
    service: {
      kind: 'connect-proxy',
      service: `${of}-sidecar-proxy`,
      port,
      proxy: { destinationServiceName: of, mode: '', meshGateway: {}, expose: {} },
    },
  })
  await Promise.all([made.catalog.register(sidecar('n1', 'web', 21000)), made.catalog.register(sidecar('n2', 'web', 21001))])
  await made.catalog.register(sidecar('n1', 'db', 21002))
  await made.catalog.register({ node: 'n1', address: '10.0.0.1', service: { service: 'native', port: 5, connect: { native: true } } })
  const addresses = () => ['web', 'db', 'native', 'plain'].map(name => made.tables.virtualIp(name).value)
  const given = addresses()
  t.equal(new Set(given).size, 4)
  t.same(given[3], undefined)
  for (const address of given.slice(0, 3)) t.match(address, /^240\.0\.0\.[1-4]$/)
  t.same(
    made.tables.connectInstances('web').value.map(({ node, service }) => [node.node, service.taggedAddresses]),
    [
      ['n1', { 'consul-virtual': { address: given[0], port: 21000 } }],
      ['n2', { 'consul-virtual': { address: given[0], port: 21001 } }],
    ],
  )
  await made.reopen()
  t.same(addresses(), given)
  await made.catalog.register(sidecar('n1', 'late', 21003))
  t.notOk(given.includes(made.tables.virtualIp('late').value))
})

t.test('indexes never fall over a restart, and nothing is lost', async t => {
  const made = await scene(t)
  await made.catalog.register(web)
  await made.catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'db', port: 1 } })
  await made.catalog.deregister({ node: 'n2', serviceId: 'db' })
  await made.kv.put('a/b', Buffer.from('1'))
  await made.kv.delete('a/b')
  const read = () => [
    made.tables.instances('web'),
    made.tables.instances('db'),
    made.tables.nodes(),
    made.tables.services(),
    made.tables.kvList('a/'),
    made.tables.kv('a/b'),
    made.tables.configEntries(),
  ]
  const before = read()
  await made.reopen()
  for (const [i, reading] of read().entries()) {
    t.strictSame(reading.value, before[i]!.value)
    t.ok(reading.index >= before[i]!.index)
  }
})

t.test('a subscriber is called once for many changes, and asked again what it reads', async t => {
  const { catalog, tables } = await scene(t)
  const reads = ['web']
  let calls = 0
  const subscription = tables.subscribe(
    () => reads.flatMap(name => tables.instances(name).topics),
    () => {
      calls += 1
      reads.push('db')
    },
  )
  await catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'db', port: 1 } })
  await turn()
  t.equal(calls, 0)
  await Promise.all([catalog.register(web), catalog.register({ node: 'n3', address: '10.0.0.3', service: { service: 'web', port: 1 } })])
  await turn()
  const after = calls
  t.ok(after >= 1 && after <= 2)
  await catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'db', port: 2 } })
  await turn()
  t.equal(calls, after + 1)
  subscription.close()
  await catalog.deregister({ node: 'n2' })
  await turn()
  t.equal(calls, after + 1)
})

t.test('a subscriber is told which of its topics have changed', async t => {
  const { catalog, tables } = await scene(t)
  const topics = ['web', 'db'].flatMap(name => [...tables.instances(name).topics])
  const told: (string[] | undefined)[] = []
  const subscription = tables.subscribe(
    () => topics,
    changed => told.push(changed && [...changed].sort()),
  )
  await catalog.register(web)
  await turn()
  await catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'db', port: 1 } })
  await turn()
  await catalog.register({ node: 'n2', address: '10.0.0.2', service: { service: 'other', port: 1 } })
  await turn()
  subscription.close()
  t.same(told, [['instances//web'], ['instances//db']])
})

t.test('of a large service one change makes one instance anew', async t => {
  const { catalog, tables } = await scene(t)
  const register = (i: number, status: string) =>
    catalog.register({
      node: `n${i}`,
      address: '10.0.0.2',
      service: { service: 'web', port: 1 },
      check: { name: 'alive', serviceId: 'web', status },
    })
  await Promise.all(Array.from({ length: 50 }, (_, i) => register(i, 'passing')))
  const before = tables.instances('web').value
  await register(7, 'critical')
  const after = tables.instances('web').value
  t.same(
    after.filter((instance, i) => instance !== before[i]).map(({ node, checks }) => [node.node, checks[0]?.status]),
    [['n7', 'critical']],
  )
  await catalog.register({ node: 'n7', address: '10.0.0.9' })
  t.equal(tables.instances('web').value.find(instance => instance.node.node === 'n7')?.node.address, '10.0.0.9')
  await catalog.deregister({ node: 'n7' })
  t.equal(tables.instances('web').value.length, 49)
  await register(7, 'warning')
  t.same(
    tables.instances('web').value.map(instance => instance.node.node),
    before.map(instance => instance.node.node),
  )
})

t.test('a wait ends at its timeout and with its signal', async t => {
  const { tables } = await scene(t)
  const { topics, index } = tables.instances('web')
  t.equal(await tables.waitFor(topics, index, 20), false)
  const abort = new AbortController()
  const waiting = tables.waitFor(topics, index, 60_000, abort.signal)
  abort.abort()
  t.equal(await waiting, false)
})

t.test('names may hold anything', async t => {
  const { catalog, tables } = await scene(t)
  const names = ['a/b', 'q\0z', '%2f', 'ü', '\ud800', '../..']
  for (const name of names) {
    await catalog.register({
      node: name,
      address: '10.0.0.1',
      service: { id: name, service: name },
      check: { checkId: name, name, serviceId: name },
    })
  }
  for (const name of names.filter(each => each !== '\ud800')) {
    const [instance, ...others] = tables.instances(name).value
    t.same([instance?.node.node, instance?.service.id, instance?.checks.map(check => check.checkId)], [name, name, [name]])
    t.same(others, [])
  }
})

function turn(): Promise<void> {
  return new Promise(resolve => setImmediate(() => setImmediate(resolve)))
}
