/** Imported sets: whole or not at all, apart from everything local, and nothing left behind. */
import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { Catalog } from '../../../src/agent/catalog/catalog.ts'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { Tables } from '../../../src/agent/catalog/tables.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import type { CheckServiceNode, NodeService } from '../../../src/mesh/service.ts'
import { FakeClock } from '../../support/fake-clock.ts'
import { MemoryDisk, MemoryStore } from '../store/memory-store.ts'
import { catalogScene, type CatalogScene } from '../../support/catalog-scene.ts'

async function scene(t: import('tap').Test): Promise<CatalogScene> {
  const made = await catalogScene()
  t.teardown(() => made.close())
  return made
}

function instance(node: string, service: string, more: Partial<NodeService> = {}): CheckServiceNode {
  const zero = { createIndex: 0, modifyIndex: 0 }
  return {
    node: { id: '', node, address: '10.1.0.1', datacenter: 'dc2', taggedAddresses: null, meta: null, ...zero },
    service: {
      id: `${service}-1`,
      service,
      tags: [],
      address: '',
      meta: null,
      port: 80,
      weights: { passing: 1, warning: 1 },
      enableTagOverride: false,
      proxy: { mode: '', meshGateway: {}, expose: {} },
      connect: {},
      peerName: '',
      ...zero,
      ...more,
    },
    checks: [],
  }
}

const synthetic = (of: string): CheckServiceNode =>
  instance('gateway', `${of}-sidecar-proxy`, {
    kind: 'connect-proxy',
    taggedAddresses: { wan: { address: '1.2.3.4', port: 8443 }, 'consul-virtual': { address: '240.6.6.6', port: 1 } },
    proxy: { destinationServiceName: of, mode: '', meshGateway: {}, expose: {} },
  })

const all = async ({ store }: CatalogScene, prefix: string) => (await store.list(prefix)).entries.map(entry => entry.key)

t.test('an imported set is seen under its peer alone', async t => {
  const made = await scene(t)
  const { catalog, tables } = made
  await catalog.register({ node: 'n1', address: '10.0.0.1', service: { service: 'web', port: 1 } })
  const local = tables.instances('web')
  await catalog.replaceImported('east', 'web', [instance('b', 'web'), instance('a', 'web')], 5)
  const { value } = tables.instances('web', 'east')
  t.same(
    value.map(({ node, service }) => [node.node, node.peerName, service.peerName]),
    [
      ['a', 'east', 'east'],
      ['b', 'east', 'east'],
    ],
  )
  t.match(tables.importedServices('east').value, [{ peer: 'east', service: 'web', receivedAtMs: 5 }])
  t.same(tables.instances('web').value, local.value)
  t.equal(tables.instances('web').index, local.index)
  t.same([...tables.services().value.keys()], ['web'])
  t.same(
    tables.nodes().value.map(node => node.node),
    ['n1'],
  )
  t.same(tables.instances('web', 'west').value, [])
})

t.test('an identical set writes nothing, another one wakes its readers alone', async t => {
  const made = await scene(t)
  const { catalog, tables, store } = made
  await catalog.replaceImported('east', 'web', [instance('b', 'web'), instance('a', 'web')], 1)
  await catalog.replaceImported('east', 'db', [instance('a', 'db')], 1)
  const [web, db] = [tables.instances('web', 'east'), tables.instances('db', 'east')]
  const { revision } = store
  await catalog.replaceImported('east', 'web', [instance('a', 'web'), instance('b', 'web')], 2)
  t.equal(store.revision, revision)
  await catalog.replaceImported('east', 'web', [instance('a', 'web')], 3)
  t.equal(await tables.waitFor(web.topics, web.index, 0), true)
  t.equal(await tables.waitFor(db.topics, db.index, 0), false)
  await catalog.replaceImported('east', 'web', [], 4)
  t.same(tables.instances('web', 'east').value, [])
  t.same(await all(made, 'imported-data/east/web/'), [])
})

t.test('a set of many chunks flips at once, and older generations are gone', async t => {
  const made = await scene(t)
  const { catalog, tables } = made
  const big = (count: number, meta: string) =>
    Array.from({ length: count }, (_, i) => instance(`n${String(i).padStart(5, '0')}`, 'web', { meta: { x: meta } }))
  const sizes = new Set<number>()
  const subscription = tables.subscribe(
    () => tables.instances('web', 'east').topics,
    () => sizes.add(tables.instances('web', 'east').value.length),
  )
  t.teardown(() => subscription.close())
  await catalog.replaceImported('east', 'web', big(900, 'y'.repeat(400)), 1)
  t.ok((await all(made, keys.importedChunks('east', 'web'))).length > 3)
  await catalog.replaceImported('east', 'web', big(600, 'z'), 2)
  await new Promise(resolve => setImmediate(resolve))
  t.same([...sizes], [900, 600])
  const { generation } = tables.importedServices('east').value[0]!
  t.ok((await all(made, keys.importedChunks('east', 'web'))).every(key => key.includes(`/${generation}/`)))
})

t.test('a change of one among 5,000 instances writes that instance and the record, and is seen at once', async t => {
  const made = await scene(t)
  const { catalog, tables, store } = made
  const many = Array.from({ length: 5000 }, (_, i) => instance(`n${String(i).padStart(4, '0')}`, 'web', { tags: [`a${i}`] }))
  await catalog.replaceImported('east', 'web', many, 1)
  const { generation } = tables.importedService('east', 'web')!
  const written: { rows: number; bytes: number }[] = []
  const watch = store.watch('', store.revision, {
    onBatch: ({ events }) => written.push({ rows: events.length, bytes: events.reduce((sum, each) => sum + (each.value?.length ?? 0), 0) }),
    onCompacted: () => t.fail('the history is long enough'),
  })
  const other = instance('n2500', 'web', { tags: ['other'] })
  const arrived = instance('n2500b', 'web')
  const sets = {
    changed: many.with(2500, other),
    'with one more': many.with(2500, other).toSpliced(2501, 0, arrived),
    'with one less': many.with(2500, arrived),
    'in another order': many.with(2500, arrived).reverse(),
    'as at first, read anew': structuredClone(many),
  }
  for (const [what, set] of Object.entries(sets)) {
    const [before, index] = [new Set(tables.instances('web', 'east').value), store.revision]
    await catalog.replaceImported('east', 'web', set, 2)
    const { value } = tables.instances('web', 'east')
    t.same(
      value.map(each => each.node.node).join(),
      set
        .map(each => each.node.node)
        .sort()
        .join(),
      what,
    )
    const [kept, made] = [value.filter(each => before.has(each)), value.filter(each => !before.has(each))]
    t.ok(
      made.every(each => each.service.modifyIndex === index + 1),
      what,
    )
    t.ok(kept.length >= 4999, `${what}: the others are the same objects`)
  }
  watch.close()
  t.same(
    written.map(each => each.rows),
    [2, 2, 2, 3],
  )
  for (const { bytes } of written) t.ok(bytes < 2000, `${bytes} bytes`)
  t.equal(tables.importedService('east', 'web')!.generation, generation)
  const [instances, { digest }] = [tables.instances('web', 'east').value, tables.importedService('east', 'web')!]
  t.ok(tables.isWhole('east', 'web'))
  await made.reopen()
  t.ok(isDeepStrictEqual(made.tables.instances('web', 'east').value, instances))
  const { revision } = made.store
  await made.catalog.replaceImported('east', 'web', many, 3)
  t.equal(made.store.revision, revision, `after a restart the set is known by its digest ${digest}`)
})

t.test('a set is seen before it is durable, and answered once it is; what a crash takes is not seen again', async t => {
  const clock = new FakeClock()
  const disk = new MemoryDisk()
  const start = async () => {
    const store = new MemoryStore({ disk, clock, logger: silentLogger(), delayMs: () => 100 })
    const tables = await Tables.open(store)
    await Promise.resolve()
    return { store, tables, catalog: new Catalog({ store, tables, datacenter: 'dc1' }) }
  }
  const { store, tables, catalog } = await start()
  const ports = (of: Tables) => of.instances('web', 'east').value.map(each => each.service.port)
  let answered = 0
  const replace = (port: number) => catalog.replaceImported('east', 'web', [instance('a', 'web', { port })], 1).then(() => (answered += 1))
  const written = replace(80)
  await new Promise(resolve => setImmediate(resolve))
  t.same([ports(tables), answered], [[80], 0])
  await clock.advance(100)
  await written
  void replace(81)
  await new Promise(resolve => setImmediate(resolve))
  const { index } = tables.instances('web', 'east')
  t.same([ports(tables), answered], [[81], 1])
  store.die(0)
  const next = await start()
  t.same(ports(next.tables), [80])
  t.ok(next.tables.instances('web', 'east').index >= index, 'an index that was seen is not fallen behind')
})

t.test('what somebody else does to one of many instances is not seen, and the next set is written anew', async t => {
  const made = await scene(t)
  const { catalog, tables, store } = made
  const set = ['a', 'b', 'c'].map(node => instance(node, 'web'))
  await catalog.replaceImported('east', 'web', set, 1)
  const { generation } = tables.importedService('east', 'web')!
  const before = tables.instances('web', 'east').value
  const [key] = await all(made, keys.importedChunks('east', 'web'))
  const { revision } = await store.txn({ ops: [{ op: 'delete', key: key! }] })
  await tables.reached(revision)
  t.equal(tables.instances('web', 'east').value, before)
  t.notOk(tables.isWhole('east', 'web'))
  await catalog.replaceImported('east', 'web', set, 2)
  t.not(tables.importedService('east', 'web')!.generation, generation)
  t.ok(tables.isWhole('east', 'web'))
  t.same(
    tables.instances('web', 'east').value.map(each => each.node.node),
    ['a', 'b', 'c'],
  )
})

t.test('what a crash in the middle of an import left is never seen and is collected', async t => {
  const made = await scene(t)
  await made.catalog.replaceImported('east', 'web', [instance('a', 'web')], 1)
  const value = new TextEncoder().encode(JSON.stringify([instance('half', 'web')]))
  await made.store.txn({ ops: [{ op: 'put', key: keys.importedChunk('east', 'web', 'crashed', 'a'), value }] })
  await made.store.txn({ ops: [{ op: 'put', key: keys.importedChunk('west', 'db', 'crashed', 'a'), value }] })
  await made.reopen()
  t.same(
    made.tables.instances('web', 'east').value.map(each => each.node.node),
    ['a'],
  )
  t.same(made.tables.instances('db', 'west').value, [])
  await made.catalog.collectImported()
  t.equal((await all(made, 'imported-data/')).length, 1)
  t.same(
    made.tables.instances('web', 'east').value.map(each => each.node.node),
    ['a'],
  )
})

t.test('a mesh service of a peer gets a virtual address of ours, never the one that the peer claims', async t => {
  const { catalog, tables } = await scene(t)
  await Promise.all(['web', 'db', 'api'].map(name => catalog.replaceImported('east', `${name}-sidecar-proxy`, [synthetic(name)], 1)))
  await catalog.replaceImported('west', 'web-sidecar-proxy', [synthetic('web')], 1)
  const addresses = [...['web', 'db', 'api'].map(name => tables.virtualIp(name, 'east').value), tables.virtualIp('web', 'west').value]
  t.equal(new Set(addresses).size, 4)
  for (const address of addresses) t.match(address, /^240\.0\.0\./)
  t.same(tables.virtualIp('web').value, undefined)
  t.same(tables.connectInstances('web', 'east').value[0]?.service.taggedAddresses, {
    wan: { address: '1.2.3.4', port: 8443 },
    'consul-virtual': { address: addresses[0], port: 80 },
  })
  await catalog.replaceImported('east', 'web-sidecar-proxy', [], 2)
  t.same(tables.virtualIp('web', 'east').value, undefined)
  t.same(tables.virtualIpHolder(addresses[0]!), undefined)
})

t.test('no spelling of a set loses its virtual address, or keeps one', async t => {
  const { catalog, tables } = await scene(t)
  const address = () => tables.virtualIp('web', 'east').value
  await catalog.replaceImported('east', 'Web-Sidecar-Proxy', [synthetic('web')], 1)
  t.equal(tables.connectInstances('web', 'east').value[0]?.service.taggedAddresses?.['consul-virtual']?.address, address())
  t.type(address(), 'string')
  await catalog.replaceImported('east', 'web-SIDECAR-proxy', [], 2)
  t.same([address(), tables.virtualIps()], [undefined, []])
})

t.test('a sweep deletes what is not kept', async t => {
  const { catalog, tables } = await scene(t)
  for (const name of ['web', 'db', 'api']) await catalog.replaceImported('east', name, [instance('a', name)], 1)
  await catalog.replaceImported('west', 'db', [instance('a', 'db')], 1)
  await catalog.sweepImported('east', service => service === 'web')
  t.same(
    tables.importedServices('east').value.map(each => each.service),
    ['web'],
  )
  t.same(
    tables.importedServices('west').value.map(each => each.service),
    ['db'],
  )
})

t.test('purging a peer leaves nothing of it and touches nothing else', async t => {
  const made = await scene(t)
  const { catalog, tables } = made
  await catalog.register({ node: 'n1', address: '10.0.0.1', service: { service: 'web', port: 1, connect: { native: true } } })
  await catalog.replaceImported('east', 'web', [instance('a', 'web')], 1)
  await catalog.replaceImported('east', 'web-sidecar-proxy', [synthetic('web')], 1)
  await catalog.replaceImported('east-2', 'web-sidecar-proxy', [synthetic('web')], 1)
  const kept = [
    tables.instances('web'),
    tables.virtualIp('web'),
    tables.connectInstances('web', 'east-2'),
    tables.virtualIp('web', 'east-2'),
  ]
  await catalog.purgeImported('east')
  t.same(
    (await all(made, '')).filter(key => /\/east\//.test(key)),
    [],
  )
  t.same(
    [tables.instances('web'), tables.virtualIp('web'), tables.connectInstances('web', 'east-2'), tables.virtualIp('web', 'east-2')],
    kept,
  )
  t.equal((await all(made, 'virtual-address/')).length, 2)
})

t.test("a name that is not a peer's reaches nothing", async t => {
  const { catalog } = await scene(t)
  for (const peer of ['', '/', 'a/b', '..', 'East']) {
    await t.rejects(catalog.purgeImported(peer), { code: 'invalid' })
    await t.rejects(
      catalog.sweepImported(peer, () => true),
      { code: 'invalid' },
    )
    await t.rejects(catalog.replaceImported(peer, 'web', [], 1), { code: 'invalid' })
  }
})

t.test('sets that come together share transactions, and each of them flips whole', async t => {
  const { catalog, tables, store } = await scene(t)
  const before = store.revision
  const names = Array.from({ length: 200 }, (_, i) => `service-${i}`)
  const sizes = new Map<string, Set<number>>(names.map(name => [name, new Set()]))
  const watch = store.watch('imported/', before, {
    onBatch: ({ events }) => {
      for (const { key } of events) {
        const name = key.slice('imported/east/'.length)
        sizes.get(name)!.add(tables.instances(name, 'east').value.length)
      }
    },
    onCompacted: () => t.fail('the history is long enough'),
  })
  const set = (name: string, count: number) => Array.from({ length: count }, (_, i) => instance(`n${i}`, name))
  await Promise.all(names.map(name => catalog.replaceImported('east', name, set(name, 5), 1)))
  t.ok(store.revision - before < 20, `${store.revision - before} transactions`)
  await Promise.all(names.map((name, i) => catalog.replaceImported('east', name, set(name, i % 2 === 0 ? 3 : 0), 2)))
  watch.close()
  for (const [i, name] of names.entries()) t.same([...sizes.get(name)!], i % 2 === 0 ? [5, 3] : [5, 0], name)
  t.equal((await all({ store } as CatalogScene, 'imported-data/')).length, 300, 'what was replaced or removed leaves nothing')
})

t.test('a set that cannot be written keeps none beside it from being written', async t => {
  const { catalog, tables } = await scene(t)
  const good = ['a', 'b', 'c', 'd'].map(name => catalog.replaceImported('east', name, [instance('n', name)], 1))
  const bad = catalog.replaceImported('east', 'huge', [instance('n', 'huge', { tags: ['x'.repeat(800 * 1024)] })], 1)
  await Promise.all([...good, t.rejects(bad, { code: 'too-large' })])
  t.same(
    tables.importedServices('east').value.map(each => each.service),
    ['a', 'b', 'c', 'd'],
  )
})

t.test('of many that claim virtual addresses at once each gets its own', async t => {
  const { catalog, tables } = await scene(t)
  const names = Array.from({ length: 60 }, (_, i) => `svc-${i}`)
  await Promise.all(names.map(name => catalog.replaceImported('east', `${name}-sidecar-proxy`, [synthetic(name)], 1)))
  t.equal(new Set(names.map(name => tables.virtualIp(name, 'east').value)).size, 60)
})
