/** What happens when the store has forgotten the history that the tables' watch needs. */
import t from 'tap'
import { Tables } from '../../../src/agent/catalog/tables.ts'
import type { Store, WatchHandler } from '../../../src/agent/store/store.ts'
import { catalogScene } from '../../support/catalog-scene.ts'

t.test('after a compaction the tables read everything again, and whoever waits is woken', async t => {
  const scene = await catalogScene()
  t.teardown(() => scene.close())
  await scene.catalog.register({ node: 'n1', address: '10.0.0.1', service: { service: 'gone', port: 1 } })
  const handlers: WatchHandler[] = []
  // A store whose watch says nothing until the test speaks for it.
  const deaf: Store = {
    get revision() {
      return scene.store.revision
    },
    get: key => scene.store.get(key),
    list: prefix => scene.store.list(prefix),
    txn: txn => scene.store.txn(txn),
    watch(_prefix, _after, handler) {
      handlers.push(handler)
      return { close() {} }
    },
    lease: ttlMs => scene.store.lease(ttlMs),
    close: () => Promise.resolve(),
  }
  const tables = await Tables.open(deaf)
  t.teardown(() => tables.close())
  await scene.catalog.deregister({ node: 'n1', serviceId: 'gone' })
  await scene.catalog.register({ node: 'n1', address: '10.0.0.1', service: { service: 'new', port: 1 } })
  const before = [tables.instances('gone'), tables.instances('new')]
  t.same(
    before.map(reading => reading.value.length),
    [1, 0],
  )
  const waiting = tables.waitFor(before[1]!.topics, before[1]!.index, 5000)
  handlers[0]!.onCompacted(scene.store.revision)
  t.equal(await waiting, true)
  const after = [tables.instances('gone'), tables.instances('new')]
  t.same(
    after.map(reading => reading.value.length),
    [0, 1],
  )
  t.ok(after.every((reading, i) => reading.index > before[i]!.index))
  t.equal(tables.revision, scene.store.revision)
  t.equal(handlers.length, 2)
})

t.test('a revision is reached when it is applied, and a closed reader waits for nothing', async t => {
  const scene = await catalogScene()
  t.teardown(() => scene.close())
  const next = scene.tables.reached(scene.tables.revision + 1)
  await scene.kv.put('a', Buffer.from('1'))
  await next
  const never = scene.tables.reached(scene.tables.revision + 100)
  const waiting = scene.tables.waitFor(scene.tables.kv('b').topics, scene.tables.kv('b').index, 600_000)
  scene.tables.close()
  await never
  t.equal(await waiting, false)
})
