/** Sessions: what ends one, and what becomes of the keys that it held. */
import t, { type Test } from 'tap'
import { KvStore } from '../../../src/agent/catalog/kv.ts'
import { LockDelays } from '../../../src/agent/catalog/lock-delays.ts'
import { Queries } from '../../../src/agent/catalog/queries.ts'
import { Sessions, type NewSession } from '../../../src/agent/catalog/sessions.ts'
import type { Txn } from '../../../src/agent/store/store.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { PreparedQuery } from '../../../src/mesh/prepared-query.ts'
import { catalogScene, type CatalogScene } from '../../support/catalog-scene.ts'
import { FakeClock } from '../../support/fake-clock.ts'
import { eventually } from '../../support/until.ts'

interface Scene extends CatalogScene {
  clock: FakeClock
  sessions: Sessions
  reopened(): Promise<void>
}

async function scene(t: Test): Promise<Scene> {
  const base = await catalogScene()
  const clock = new FakeClock()
  const parts = () => {
    const delays = new LockDelays(clock)
    const { store, tables } = base
    return { sessions: new Sessions({ store, tables, delays, clock, logger: silentLogger() }), kv: new KvStore({ store, tables, delays }) }
  }
  const made: Scene = Object.assign(base, {
    clock,
    ...parts(),
    async reopened() {
      made.sessions.close()
      await base.reopen()
      Object.assign(made, parts())
      await made.sessions.start()
    },
  })
  t.teardown(async () => {
    made.sessions.close()
    await base.close()
  })
  await made.catalog.register({ node: 'n1', address: '10.0.0.1', check: { checkId: 'alive', status: 'passing' } })
  await made.sessions.start()
  return made
}

function session(more: Partial<NewSession> = {}): NewSession {
  return { name: '', node: 'n1', lockDelayMs: 15_000, behavior: '', ttl: '', nodeChecks: ['alive'], serviceChecks: null, ...more }
}

const value = Buffer.from('v')

/** Waits for what happens after a write, without a timer of the fake clock. */
t.test('one session at a time holds a key, and every new acquisition counts', async t => {
  const { sessions, kv, tables } = await scene(t)
  const [a, b] = [await sessions.create(session()), await sessions.create(session())]
  t.equal(await kv.put('k', value, { acquire: a }), true)
  t.equal(await kv.put('k', value, { acquire: a }), true, 'again by its holder')
  t.equal(await kv.put('k', value, { acquire: b }), false)
  t.equal(await kv.put('k', value, { release: b }), false)
  t.match(tables.kv('k').value, { lockIndex: 1, session: a })
  t.equal(await kv.put('k', Buffer.from('w')), true, 'a plain write leaves the lock')
  t.match(tables.kv('k').value, { lockIndex: 1, session: a })
  t.equal(await kv.put('k', value, { release: a }), true)
  t.equal(tables.kv('k').value?.session, undefined)
  t.equal(await kv.put('k', value, { acquire: b }), true, 'a release starts no delay')
  t.match(tables.kv('k').value, { lockIndex: 2, session: b })
  await t.rejects(kv.put('k', value, { acquire: 'nobody' }), { code: 'invalid', message: 'raft apply failed: invalid session "nobody"' })
})

t.test('of many sessions that reach for a key at once one gets it', async t => {
  const { sessions, kv } = await scene(t)
  const ids = await Promise.all(Array.from({ length: 10 }, () => sessions.create(session())))
  const won = await Promise.all(ids.map(acquire => kv.put('k', value, { acquire })))
  t.equal(won.filter(Boolean).length, 1)
})

t.test('a session that ends releases its keys or deletes them, and nobody gets them before the delay is over', async t => {
  const { sessions, kv, tables, clock } = await scene(t)
  const [keeps, deletes, next] = [
    await sessions.create(session({ lockDelayMs: 5000 })),
    await sessions.create(session({ behavior: 'delete', lockDelayMs: 0 })),
    await sessions.create(session()),
  ]
  for (let i = 0; i < 150; i += 1) await kv.put(`a/${i}`, value, { acquire: keeps })
  await kv.put('b', value, { acquire: deletes })
  await sessions.destroy(keeps)
  await sessions.destroy(deletes)
  t.equal(tables.session(keeps).value, undefined)
  t.same(tables.keysHeldBy(keeps), [])
  t.same(
    tables.kvList('a/').value.map(each => [each.value, each.session]),
    Array.from({ length: 150 }, () => ['dg==', undefined]),
    'more keys than one transaction holds',
  )
  t.equal(tables.kv('b').value, undefined)
  t.equal(await kv.put('a/0', value, { acquire: next }), false)
  t.equal(await kv.put('b', value, { acquire: next }), true, 'without a delay at once')
  await clock.advance(4999)
  t.equal(await kv.put('a/0', value, { acquire: next }), false)
  await clock.advance(1)
  t.equal(await kv.put('a/0', value, { acquire: next }), true)
})

t.test('a session lives through twice its time to live, and a renewal starts that anew', async t => {
  const { sessions, tables, clock } = await scene(t)
  const id = await sessions.create(session({ ttl: '10s' }))
  await clock.advance(19_000)
  t.ok(sessions.renew(id))
  await clock.advance(19_000)
  t.ok(tables.session(id).value)
  await clock.advance(1000)
  await eventually(() => !tables.session(id).value)
  t.equal(tables.session(id).value, undefined)
  t.equal(sessions.renew(id), undefined)
})

t.test('a session ends when a check of its becomes critical, when the check goes, and when its node goes', async t => {
  const { sessions, tables, catalog } = await scene(t)
  for (const end of [
    () => catalog.register({ node: 'n1', skipNodeUpdate: true, check: { checkId: 'own', status: 'critical' } }),
    () => catalog.deregister({ node: 'n1', checkId: 'own' }),
    () => catalog.deregister({ node: 'n1' }),
  ]) {
    await catalog.register({
      node: 'n1',
      address: '10.0.0.1',
      checks: [
        { checkId: 'own', status: 'warning' },
        { checkId: 'alive', status: 'passing' },
      ],
    })
    const id = await sessions.create(session({ nodeChecks: ['alive', 'own'] }))
    await new Promise(resolve => setTimeout(resolve, 20))
    t.ok(tables.session(id).value, 'a warning is no end')
    await end()
    await eventually(() => !tables.session(id).value)
    t.equal(tables.session(id).value, undefined)
  }
})

t.test('prepared queries that are bound to a session end with it', async t => {
  const { sessions, store, tables } = await scene(t)
  const queries = new Queries({ store, tables, datacenter: 'dc1' })
  const id = await sessions.create(session())
  const bound = (name: string) => PreparedQuery.parse({ name, session: id, service: { service: 'web' } })
  for (const name of ['a', 'b', '']) await queries.create(bound(name))
  await queries.create({ ...bound('free'), session: '' })
  await sessions.destroy(id)
  t.same(
    tables.preparedQueries().value.map(each => each.name),
    ['free'],
  )
  await queries.create({ ...bound('a'), session: '' })
  t.ok(queries.resolve('a'), 'a name that was bound is free')
})

t.test('a session that could not live is refused in words', async t => {
  const { sessions, catalog } = await scene(t)
  await catalog.register({ node: 'n1', skipNodeUpdate: true, check: { checkId: 'bad', status: 'critical' } })
  for (const [more, message] of [
    [{ node: 'zz' }, 'apply failed: Missing node registration'],
    [{ nodeChecks: ['nope'] }, "apply failed: Missing check 'nope' registration"],
    [{ nodeChecks: ['bad'] }, "apply failed: Check 'bad' is in critical state"],
    [{ ttl: '9s' }, "Invalid Session TTL '9000000000', must be between [10s=24h0m0s]"],
    [{ ttl: 'zz' }, `Session TTL 'zz' invalid: time: invalid duration "zz"`],
    [{ behavior: 'zz' }, "Invalid Behavior setting 'zz'"],
  ] as const) {
    await t.rejects(sessions.create(session(more as Partial<NewSession>)), { code: 'invalid', message })
  }
})

t.test('sessions and locks outlive a restart, and the time to live counts from it', async t => {
  const made = await scene(t)
  const id = await made.sessions.create(session({ ttl: '10s' }))
  await made.kv.put('k', value, { acquire: id })
  await made.clock.advance(15_000)
  await made.reopened()
  t.match(made.tables.kv('k').value, { session: id })
  await made.clock.advance(19_000)
  t.ok(made.tables.session(id).value)
  await made.clock.advance(1000)
  await eventually(() => !made.tables.session(id).value)
  t.equal(made.tables.kv('k').value?.session, undefined)
})

t.test('a plain write at the same time as an acquisition leaves the lock', async t => {
  const { sessions, kv, tables } = await scene(t)
  const id = await sessions.create(session())
  for (const first of ['lock', 'write'] as const) {
    const key = `k-${first}`
    const acts = { lock: () => kv.put(key, value, { acquire: id }), write: () => kv.put(key, Buffer.from('plain')) }
    const second = first === 'lock' ? 'write' : 'lock'
    t.same(await Promise.all([acts[first](), acts[second]()]), [true, true])
    t.match(tables.kv(key).value, { session: id, lockIndex: 1 }, `${first} first`)
  }
})

t.test('keys that could not be released with their session are released later, as it wanted', async t => {
  const { sessions, kv, tables, store, clock } = await scene(t)
  const id = await sessions.create(session({ behavior: 'delete' }))
  const names = Array.from({ length: 150 }, (_, i) => `many/${i}`)
  await Promise.all(names.map(name => kv.put(name, value, { acquire: id })))
  const write = store.txn.bind(store)
  let writes = 0
  t.teardown(() => Object.assign(store, { txn: write }))
  Object.assign(store, { txn: (txn: Txn) => ((writes += 1) === 2 ? Promise.reject(new Error('the disk is full')) : write(txn)) })
  await sessions.destroy(id)
  t.equal(tables.kvList('many/').value.length, 50, 'more than fits into one transaction')
  await clock.advance(1000)
  await eventually(() => tables.kvList('many/').value.length === 0)
  t.equal(tables.kvList('many/').value.length, 0)
})

t.test('a prepared query that is freed of its session while that ends stays', async t => {
  const { sessions, store, tables } = await scene(t)
  const queries = new Queries({ store, tables, datacenter: 'dc1' })
  const ending = await sessions.create(session())
  const definition = (more: object) => PreparedQuery.parse({ service: { service: 'web' }, ...more })
  const id = await queries.create(definition({ name: 'before', session: ending }))
  const write = store.txn.bind(store)
  t.teardown(() => Object.assign(store, { txn: write }))
  let raced = false
  Object.assign(store, {
    txn: async (txn: Txn) => {
      if (!raced && txn.ops.some(op => op.op === 'delete' && op.key.startsWith('query/'))) {
        raced = true
        await queries.update({ ...definition({ name: 'after' }), id })
      }
      return write(txn)
    },
  })
  await sessions.destroy(ending)
  t.match(tables.preparedQuery(id).value, { name: 'after', session: '' })
  await queries.create(definition({ name: 'before' }))
})
