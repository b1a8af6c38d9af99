/** The embedded engine: the suite of every engine, then what only a directory has: restarts, locks, bounded history, expiry. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { openEmbeddedStore } from '../../../src/agent/store/embedded.ts'
import { MeshError } from '../../../src/lib/errors.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { FakeClock } from '../../support/fake-clock.ts'
import { collect, storeCompliance } from './compliance.ts'

const logger = silentLogger()
const value = Buffer.from('v')

function scratch(t: { teardown(run: () => void): unknown }): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-test-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

storeCompliance('embedded', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-test-'))
  const store = await openEmbeddedStore({ dir, logger })
  return {
    store,
    async close() {
      await store.close()
      rmSync(dir, { recursive: true })
    },
  }
})

storeCompliance('in memory', async () => {
  const store = await openEmbeddedStore({ dir: undefined, logger })
  return { store, close: () => store.close() }
})

void t.test('a reopened store has its keys and goes on with its revisions', async t => {
  const dir = scratch(t)
  const first = await openEmbeddedStore({ dir, logger })
  for (let i = 0; i < 5; i++) await first.txn({ ops: [{ op: 'put', key: `k${i}`, value }] })
  const before = { revision: first.revision, list: await first.list('') }
  await first.close()
  const second = await openEmbeddedStore({ dir, logger })
  t.same({ revision: second.revision, list: await second.list('') }, before)
  t.same(await second.txn({ ops: [{ op: 'delete', key: 'k0' }] }), { ok: true, revision: before.revision + 1 })
  await second.close()
})

void t.test('a revision that deleted the last key is remembered, so an index never falls', async t => {
  const dir = scratch(t)
  const first = await openEmbeddedStore({ dir, logger })
  await first.txn({ ops: [{ op: 'put', key: 'a', value }] })
  const { revision } = await first.txn({ ops: [{ op: 'delete', key: 'a' }] })
  await first.close()
  const second = await openEmbeddedStore({ dir, logger })
  t.equal(second.revision, revision)
  await second.close()
})

void t.test('a watch from before a restart, or from further back than the history, is told to list again', async t => {
  const dir = scratch(t)
  const first = await openEmbeddedStore({ dir, logger, history: { maxRevisions: 4, maxBytes: 1 << 20 } })
  const start = first.revision
  for (let i = 0; i < 10; i++) await first.txn({ ops: [{ op: 'put', key: `k${i}`, value }] })
  const tooOld = collect(first, '', start)
  const oldest = collect(first, '', first.revision - 4)
  await tooOld.until(1)
  await oldest.until(4)
  t.same([tooOld.compacted, tooOld.batches], [[first.revision - 4], []])
  t.same(
    oldest.batches.map(batch => batch.events[0]!.key),
    ['k6', 'k7', 'k8', 'k9'],
  )
  await first.close()
  const second = await openEmbeddedStore({ dir, logger })
  const seen = collect(second, '', second.revision - 1)
  const current = collect(second, '', second.revision)
  await seen.until(1)
  t.same(seen.compacted, [second.revision])
  await second.txn({ ops: [{ op: 'put', key: 'new', value }] })
  await current.until(1)
  t.same([current.compacted, current.batches.length], [[], 1])
  await second.close()
})

void t.test('history is bounded in bytes too', async t => {
  const store = await openEmbeddedStore({ dir: undefined, logger, history: { maxRevisions: 1000, maxBytes: 10_000 } })
  const start = store.revision
  for (let i = 0; i < 20; i++) await store.txn({ ops: [{ op: 'put', key: 'k', value: Buffer.alloc(2000) }] })
  const seen = collect(store, '', start)
  await seen.until(1)
  t.same(seen.compacted, [store.revision - 4])
  await store.close()
})

void t.test('a watcher that throws neither fails the write nor hides it from others', async t => {
  const store = await openEmbeddedStore({ dir: undefined, logger })
  store.watch('', store.revision, {
    onBatch() {
      throw new Error('broken')
    },
    onCompacted() {},
  })
  const other = collect(store, '', store.revision)
  t.same(await store.txn({ ops: [{ op: 'put', key: 'a', value }] }), { ok: true, revision: store.revision })
  t.equal(other.batches.length, 1, 'a watch has seen a write by the time it is acknowledged')
  await store.close()
})

void t.test('a lease ends at its time, is put off by renewing, and its keys go with it', async t => {
  const clock = new FakeClock()
  const store = await openEmbeddedStore({ dir: undefined, logger, clock })
  const lease = await store.lease(10_000)
  await store.txn({ ops: [{ op: 'put', key: 'a', value, lease: lease.id }] })
  await clock.advance(9000)
  t.equal(await lease.renew(), true)
  await clock.advance(9000)
  t.ok(await store.get('a'), 'renewed at 9 s, it lives at 18 s')
  const seen = collect(store, '', store.revision)
  await clock.advance(1001)
  await seen.until(1)
  t.equal(await store.get('a'), undefined)
  t.equal(await lease.renew(), false)
  t.equal(clock.timers, 0)
  await store.close()
})

void t.test('a lease that ended while the store was closed takes its keys when it opens; a longer one keeps what was left', async t => {
  const dir = scratch(t)
  const before = new FakeClock()
  const first = await openEmbeddedStore({ dir, logger, clock: before })
  const [short, long] = [await first.lease(5000), await first.lease(60_000)]
  await first.txn({
    ops: [
      { op: 'put', key: 'short', value, lease: short.id },
      { op: 'put', key: 'long', value, lease: long.id },
    ],
  })
  await first.close()
  t.equal(before.timers, 0)
  const clock = new FakeClock(before.nowMs() + 50_000)
  const second = await openEmbeddedStore({ dir, logger, clock })
  const seen = collect(second, '', second.revision)
  await clock.advance(1)
  await seen.until(1)
  t.same(
    (await second.list('')).entries.map(entry => entry.key),
    ['long'],
  )
  await clock.advance(9000)
  t.ok(await second.get('long'))
  await clock.advance(1100)
  await seen.until(2)
  t.same((await second.list('')).entries, [])
  await second.close()
})

void t.test('a wall clock that was turned back does not lengthen a lease over a restart', async t => {
  const dir = scratch(t)
  const before = new FakeClock()
  const first = await openEmbeddedStore({ dir, logger, clock: before })
  const lease = await first.lease(5000)
  await first.txn({ ops: [{ op: 'put', key: 'a', value, lease: lease.id }] })
  await first.close()
  const clock = new FakeClock(before.nowMs() - 3_600_000)
  const second = await openEmbeddedStore({ dir, logger, clock })
  const seen = collect(second, '', second.revision)
  await clock.advance(5001)
  await seen.until(1)
  t.equal(await second.get('a'), undefined)
  await second.close()
})

void t.test('a renewal that comes with the end of the lease wins or is told no, never yes without the keys', async t => {
  const clock = new FakeClock()
  const store = await openEmbeddedStore({ dir: undefined, logger, clock })
  const lease = await store.lease(1000)
  await store.txn({ ops: [{ op: 'put', key: 'a', value, lease: lease.id }] })
  const renewing = lease.renew()
  const passing = clock.advance(1000)
  t.equal(await renewing, true)
  await passing
  await store.txn({ ops: [] })
  t.ok(await store.get('a'))
  await store.close()
})

void t.test('one process holds a data directory', async t => {
  const dir = scratch(t)
  const store = await openEmbeddedStore({ dir, logger })
  await t.rejects(openEmbeddedStore({ dir, logger }), {
    name: 'MeshError',
    code: 'conflict',
    message: `data directory ${dir} is in use by this process`,
  })
  const script = `
    import { openEmbeddedStore } from ${JSON.stringify(new URL('../../../src/agent/store/embedded.js', import.meta.url).href)}
    import { silentLogger } from ${JSON.stringify(new URL('../../../src/lib/log.js', import.meta.url).href)}
    try { await openEmbeddedStore({ dir: process.argv[1], logger: silentLogger() }) } catch (error) { console.log(error.code + ' ' + error.message) }`
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script, dir], { encoding: 'utf8' })
  const next = `stop it or choose another data_dir (if it is no isthmus agent, remove ${join(dir, 'isthmus.lock')})`
  t.equal(stdout, `conflict data directory ${dir} is in use by process ${process.pid}; ${next}\n`)
  await store.close()
  t.same(readdirSync(dir), ['store'], 'closing leaves no lock')
  await (await openEmbeddedStore({ dir, logger })).close()
})

void t.test('a lock whose holder is dead, reused, cut short or silent in another container is taken over', async t => {
  const dir = scratch(t)
  const path = join(dir, 'isthmus.lock')
  const store = await openEmbeddedStore({ dir, logger })
  const mine = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
  await store.close()
  const dead = spawnSync(process.execPath, ['-e', '']).pid
  const old = new Date(Date.now() - 60_000)
  const stale: [string, string][] = [
    ['a dead process', JSON.stringify({ ...mine, pid: dead })],
    ['a file that a crash cut short', '{"pid":'],
  ]
  // Where a process has no readable start, a reused pid cannot be told from its former owner.
  if (mine.start !== '') stale.push(['another process of the same pid', JSON.stringify({ ...mine, start: '1' })])
  for (const [what, text] of stale) {
    writeFileSync(path, text)
    await (await openEmbeddedStore({ dir, logger })).close()
    t.same(readdirSync(dir), ['store'], what)
  }
  writeFileSync(path, JSON.stringify({ ...mine, realm: 'elsewhere' }))
  await t.rejects(openEmbeddedStore({ dir, logger }), { code: 'conflict' }, 'a heartbeat from another container is respected')
  const { utimesSync } = await import('node:fs')
  utimesSync(path, old, old)
  await (await openEmbeddedStore({ dir, logger })).close()
})

void t.test(
  'the data is readable for its owner alone, and a --dev store leaves nothing behind',
  { skip: process.platform === 'win32' },
  async t => {
    const dir = join(scratch(t), 'data')
    const store = await openEmbeddedStore({ dir, logger })
    t.equal(statSync(dir).mode & 0o777, 0o700)
    t.equal(statSync(join(dir, 'store', 'data.mdb')).mode & 0o777, 0o600)
    await store.close()
    const dev = (): string[] => readdirSync(tmpdir()).filter(name => name.startsWith('isthmus-dev-'))
    const before = dev()
    const temporary = await openEmbeddedStore({ dir: undefined, logger })
    const made = dev().filter(name => !before.includes(name))
    t.ok(made.length > 0)
    await temporary.close()
    t.notOk(made.every(name => dev().includes(name)))
  },
)

void t.test('a closed store refuses, writes that were under way at its close are durable, and closing twice is fine', async t => {
  const dir = scratch(t)
  const store = await openEmbeddedStore({ dir, logger })
  const writes = Array.from({ length: 20 }, (_, i) => store.txn({ ops: [{ op: 'put', key: `k${i}`, value }] }))
  await Promise.all([store.close(), ...writes])
  await t.rejects(store.txn({ ops: [] }), new MeshError('unavailable', `the store in ${dir} is closed; start the agent again`))
  await t.rejects(store.get('k1'), { code: 'unavailable' })
  await t.rejects(store.list(''), { code: 'unavailable' })
  await store.close()
  const again = await openEmbeddedStore({ dir, logger })
  t.equal((await again.list('k')).entries.length, 20)
  await again.close()
})

void t.test('a directory that holds something else is refused with the next step', async t => {
  const dir = scratch(t)
  writeFileSync(join(dir, 'store'), 'a file')
  await t.rejects(openEmbeddedStore({ dir, logger }), {
    code: 'unavailable',
    message: new RegExp(`^cannot open the store in ${dir}: .*; check the directory's owner and its disk$`),
  })
  t.same(readdirSync(dir), ['store'], 'and the lock is given back')
})

void t.test('a store file that is foreign or was cut short is refused in words, in place of a crash', async t => {
  const dir = scratch(t)
  const file = join(dir, 'store', 'data.mdb')
  const store = await openEmbeddedStore({ dir, logger })
  for (let i = 0; i < 50; i += 1) await store.txn({ ops: [{ op: 'put', key: `k${i}`, value: Buffer.alloc(100_000, i) }] })
  await store.close()
  const whole = readFileSync(file)
  const half = whole.subarray(0, whole.length / 2)
  const cases: [Buffer, RegExp][] = [
    [half, new RegExp(`: data.mdb is cut short, it has ${half.length} of ${whole.length} bytes; restore it from a copy`)],
    [whole.subarray(0, 3 * 4096), /data.mdb is cut short/],
    [whole.subarray(0, 4096), /data.mdb is no store or is damaged/],
    [Buffer.from('short'), /data.mdb is no store or is damaged/],
    [Buffer.alloc(100_000, 'A'), /data.mdb is no store or is damaged/],
    [Buffer.alloc(100_000), /data.mdb is no store or is damaged/],
  ]
  for (const [bytes, message] of cases) {
    writeFileSync(file, bytes)
    await t.rejects(openEmbeddedStore({ dir, logger }), { code: 'unavailable', message })
  }
  writeFileSync(file, whole)
  const again = await openEmbeddedStore({ dir, logger })
  t.equal((await again.list('')).entries.length, 50)
  await again.close()
})

void t.test('a data directory that cannot be made is refused with the next step', async t => {
  const dir = scratch(t)
  writeFileSync(join(dir, 'taken'), 'a file')
  await t.rejects(openEmbeddedStore({ dir: join(dir, 'taken'), logger }), {
    code: 'unavailable',
    message: /^cannot make the data directory .*\/taken: EEXIST.*; set data_dir to a directory that this user can write$/,
  })
})
