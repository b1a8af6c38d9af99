// The stream of a snapshot: whole, then only what changed, never silent, never half.
import t from 'tap'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { coalesceMs, Snapshots } from '../../../src/agent/snapshots/snapshots.ts'
import type { SnapshotLine } from '../../../src/mesh/snapshot.ts'
import { snapshotHeartbeatMs } from '../../../src/wire/internal-api.ts'
import { FakeClock, settle } from '../../support/fake-clock.ts'
import { World } from './world.ts'

let world: World
let clock: FakeClock
let snapshots: Snapshots
let open: { close(): void } | undefined
t.beforeEach(async () => {
  world = await World.open()
  clock = new FakeClock()
  snapshots = new Snapshots({ ...world.context, clock })
  const upstreams = [{ destinationType: 'service', destinationName: 'api', localBindPort: 9001, meshGateway: {} }]
  await world.meshService('web', { upstreams })
})
t.afterEach(async () => {
  open?.close()
  await world.close()
})

function start(): SnapshotLine[][] {
  const sets: SnapshotLine[][] = []
  open = snapshots.stream('web-sidecar-proxy', lines => sets.push(lines))
  return sets
}
/** What a set says: names, a minus before what is gone, and the marker. */
function said(set: SnapshotLine[]): string[] {
  return set.map(line => (line.kind === 'sync' ? 'sync' : `${line.value === null ? '-' : ''}${line.kind}/${line.name}`))
}

t.test('there is no stream and no snapshot for a proxy that is not registered', t => {
  t.equal(
    snapshots.stream('nobody', () => t.fail()),
    undefined,
  )
  t.equal(snapshots.snapshot('nobody'), undefined)
  t.equal(clock.timers, 0)
  t.end()
})

t.test('the whole set comes first, at once, with the revision that it shows', t => {
  const sets = start()
  t.same(sets.map(said), [['roots/@local', 'self/web-sidecar-proxy', 'intentions/web', 'endpoints/api', 'upstream/api', 'sync']])
  t.same(sets[0]!.at(-1), { kind: 'sync', revision: world.tables.revision })
  t.same(sets[0]!.slice(0, -1), snapshots.snapshot('web-sidecar-proxy')!.value)
  t.end()
})

t.test('a change says only what changed', async t => {
  const sets = start()
  await world.meshService('api', {}, 21_001)
  await settle()
  await clock.advance(coalesceMs)
  t.same(sets.slice(1).flatMap(said), ['endpoints/api', 'sync'])
  await world.check('api', 'critical', 'api-sidecar-proxy')
  await settle()
  await clock.advance(coalesceMs)
  t.same(sets.slice(2).flatMap(said), ['endpoints/api', 'sync'])
  t.match(sets[2]![0], { value: { endpoints: [{ healthy: false }] } })
})

t.test('a change of something else says nothing', async t => {
  const sets = start()
  await world.meshService('other', {}, 21_009)
  await world.put(keys.kv('lead'), { value: null })
  await settle()
  t.equal(sets.length, 1)
})

t.test('what is not there any more is said to be gone', async t => {
  const sets = start()
  await world.meshService('web')
  await settle()
  await clock.advance(coalesceMs)
  t.same(sets.slice(1).map(said), [['-endpoints/api', '-upstream/api', 'sync']])
})

t.test('changes that come close together leave as one set after the first', async t => {
  const sets = start()
  for (const status of ['critical', 'passing', 'critical', 'warning']) {
    await world.check('app', status, 'web')
    await settle()
  }
  t.same(sets.slice(1).map(said), [['self/web-sidecar-proxy', 'sync']])
  await clock.advance(coalesceMs)
  t.same(sets.slice(2).map(said), [['self/web-sidecar-proxy', 'sync']])
  t.match(sets[2]![0], { value: { draining: false } })
  await clock.advance(coalesceMs * 3)
  t.equal(sets.length, 3, 'and then nothing')
})

t.test('what came to be watched with a later set is watched too', async t => {
  const sets = start()
  const upstreams = ['api', 'late'].map((destinationName, i) => ({
    destinationType: 'service',
    destinationName,
    localBindPort: 9001 + i,
    meshGateway: {},
  }))
  await world.check('app', 'critical', 'web')
  await settle()
  await world.meshService('web', { upstreams })
  await settle()
  await clock.advance(coalesceMs * 3)
  sets.length = 0
  await world.meshService('late', {}, 21_005)
  await settle()
  await clock.advance(coalesceMs)
  t.same(sets.map(said), [['endpoints/late', 'sync']])
})

t.test('silence does not last longer than was promised', async t => {
  const sets = start()
  await clock.advance(snapshotHeartbeatMs)
  t.same(sets.slice(1).map(said), [['sync']])
  await clock.advance(snapshotHeartbeatMs * 4)
  t.ok(sets.length >= 6)
})

t.test('a proxy whose registration is taken away keeps what it knows and drains, until it is back', async t => {
  const sets = start()
  await world.delete(keys.service('n1', 'web-sidecar-proxy'))
  await settle()
  t.same(sets.slice(1).map(said), [['self/web-sidecar-proxy', 'sync']])
  t.match(sets[1]![0], { value: { draining: true, service: 'web' } })
  await clock.advance(coalesceMs * 2)
  t.equal(sets.length, 2)
  await world.meshService('web')
  await settle()
  await clock.advance(coalesceMs)
  t.match(
    sets.at(-1)!.find(line => line.kind === 'self'),
    { value: { draining: false } },
  )
})

t.test('a closed stream says nothing more and leaves no timer', async t => {
  const sets = start()
  await world.check('app', 'critical', 'web')
  await settle()
  const before = sets.length
  open!.close()
  t.equal(clock.timers, 0)
  await world.check('app', 'passing', 'web')
  await settle()
  await clock.advance(60_000)
  t.equal(sets.length, before)
})

t.test('a stream closed from within its own call ends there', async t => {
  let calls = 0
  open = snapshots.stream('web-sidecar-proxy', () => {
    calls += 1
    open?.close()
  })
  await world.check('app', 'critical', 'web')
  await settle()
  await clock.advance(60_000)
  t.equal(calls, 2)
  t.equal(clock.timers, 0)
})

t.test('a set that cannot be gathered costs its own stream: it falls silent until one can be', async t => {
  const sets = start()
  const { tables } = world.context
  const real = tables.nodeServices.bind(tables)
  tables.nodeServices = () => {
    throw new Error('a mistake of ours')
  }
  await world.meshService('api', {}, 21_001)
  await settle()
  await clock.advance(snapshotHeartbeatMs * 2)
  t.equal(sets.length, 1, 'nothing is confirmed')
  tables.nodeServices = real
  await world.check('api', 'critical', 'api-sidecar-proxy')
  await settle()
  await clock.advance(coalesceMs)
  t.ok(sets.slice(1).flatMap(said).includes('endpoints/api'))
})
