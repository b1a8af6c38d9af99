/** Two clusters over real gRPC and TLS, on a clock that runs forty times as fast: what diverges is found, put right and counted. */
import t, { type Test } from 'tap'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { systemClock, type Clock } from '../../../src/lib/clock.ts'
import type { Peering } from '../../../src/mesh/peering.ts'
import { heartbeat, subscription, typeUrls } from '../../../src/wire/peer-stream.ts'
import { decodeToken } from '../../../src/mesh/peering-token.ts'
import { readHeartbeat } from '../../../src/wire/freshness.ts'
import { Caller } from '../grpc/client.ts'
import { Cluster, peer, until } from './cluster.ts'

const speed = 40
const fastClock: Clock = {
  nowMs: () => systemClock.nowMs(),
  monotonicMs: () => systemClock.monotonicMs() * speed,
  after: (ms, callback) => systemClock.after(ms / speed, callback),
}

const freshness = (cluster: Cluster, name: string) => cluster.peerings.read(name).value?.streamStatus.freshness
const stateOf = (cluster: Cluster, name: string) => freshness(cluster, name)?.state

async function scene(t: Test) {
  const east = await Cluster.start('east', { clock: fastClock })
  const west = await Cluster.start('west', { clock: fastClock })
  t.teardown(async () => {
    await west.close()
    await east.close()
  })
  await east.register('n1', 'web-1', 'web')
  await east.register('n1', 'api-1', 'api')
  await east.export({ web: ['west'], api: ['west'] })
  await peer(east, west)
  await until(() => west.imported('web', 'east').length > 0 && west.imported('api', 'east').length > 0)
  await until(() => freshness(west, 'east')?.evidence === 'digest' && freshness(east, 'west')?.evidence === 'digest')
  return { east, west }
}

async function metric(cluster: Cluster, line: string): Promise<string | undefined> {
  const found = (await cluster.metrics.metrics()).split('\n').find(each => each.startsWith(`${line} `))
  return found?.slice(line.length + 1)
}

void t.test('what somebody does to the store of the importer is undone and counted', async t => {
  const { west } = await scene(t)
  const { store, tables } = west
  const whole = tables.importedService('east', 'web')!
  t.equal(await metric(west, 'isthmus_peering_repairs_total{peer="east"}'), '0')

  await t.test('a set that is gone', async () => {
    await store.txn({ ops: [{ op: 'delete', key: keys.imported('east', 'web') }] })
    await until(() => west.imported('web', 'east').length === 0)
    await until(() => west.imported('web', 'east').length === 1)
    await until(() => freshness(west, 'east')?.repairs === 1)
  })

  await t.test('a set with its chunks gone', async () => {
    const { generation } = tables.importedService('east', 'web')!
    const { revision } = await store.txn({ ops: [{ op: 'delete-prefix', prefix: keys.importedGeneration('east', 'web', generation) }] })
    await tables.reached(revision)
    await until(() => freshness(west, 'east')?.repairs === 2)
    t.not(tables.importedService('east', 'web')!.generation, generation)
    t.ok(tables.isWhole('east', 'web'))
  })

  await t.test('a set in the place of another, and one that the peer never exported', async () => {
    const [chunk] = (await store.list(keys.importedChunks('east', 'api'))).entries
    const forged = (service: string) => {
      const record = { ...whole, service, generation: 'forged', chunks: 1, digest: 'forged' }
      return [
        { op: 'put' as const, key: keys.importedChunk('east', service, 'forged', 'a'), value: chunk!.value },
        { op: 'put' as const, key: keys.imported('east', service), value: Buffer.from(JSON.stringify(record)) },
      ]
    }
    const { revision } = await store.txn({ ops: [...forged('web'), ...forged('phantom')] })
    await tables.reached(revision)
    t.same(west.imported('phantom', 'east'), ['api-1 passing'])
    t.same(west.imported('web', 'east'), ['api-1 passing'])
    await until(() => west.imported('phantom', 'east').length === 0 && west.imported('web', 'east')[0] === 'web-1 passing')
    await until(() => freshness(west, 'east')?.repairs === 4 && stateOf(west, 'east') === 'FRESH')
  })
  t.equal(await metric(west, 'isthmus_peering_repairs_total{peer="east"}'), '4')
  t.ok(Number(await metric(west, 'isthmus_peering_disagreements_total{peer="east"}')) >= 3)
})

void t.test('an exporter whose tables stand still shows as FROZEN, and as FRESH when they move again', async t => {
  const { east, west } = await scene(t)
  const { tables } = east
  const current = tables.current.bind(tables)
  let release = () => undefined as void
  const stuck = new Promise<void>(resolve => (release = resolve))
  tables.current = () => stuck
  const started = fastClock.monotonicMs()
  await until(() => stateOf(west, 'east') === 'STALE')
  await until(() => stateOf(west, 'east') === 'FROZEN')
  const tookMs = fastClock.monotonicMs() - started
  t.ok(tookMs > 40_000 && tookMs < 66_000, `after ${Math.round(tookMs)} ms`)
  t.equal(west.state('east'), 'ACTIVE', 'its heartbeats go on')
  t.match(west.peerings.read('east').value?.warnings, [/^the peer is connected, yet has not confirmed all that it exports for \d+s; /])
  t.match(west.peerings.freshness('east', 'web'), { state: 'FROZEN', evidence: 'digest' })
  t.equal(await metric(west, 'isthmus_peering_freshness_state{peer="east"}'), '2')
  t.equal(await metric(west, 'isthmus_peering_imported_services_by_freshness{peer="east",state="FROZEN"}'), '2')
  t.ok(Number(await metric(west, 'isthmus_peering_imported_oldest_age_seconds{peer="east"}')) > 60)
  t.equal(stateOf(east, 'west'), 'FRESH', 'the other direction is not concerned')
  tables.current = current
  release()
  await until(() => stateOf(west, 'east') === 'FRESH')
})

void t.test('a restarted importer knows no age until the peer has spoken', async t => {
  const { east, west } = await scene(t)
  await east.stop()
  await west.stop()
  await west.start()
  t.same(west.imported('web', 'east'), ['web-1 passing'])
  const unknown = { state: 'STALE', ageMs: null, evidence: null }
  t.same(freshness(west, 'east'), { ...unknown, repairs: 0, disagreements: 0 })
  t.same(west.peerings.freshness('east', 'web'), unknown)
  t.same(west.peerings.read('east').value?.streamStatus.importedFreshness, [
    { service: 'api', ...unknown },
    { service: 'web', ...unknown },
  ])
  t.equal(await metric(west, 'isthmus_peering_confirmed_age_seconds{peer="east"}'), '+Inf')
  await east.start()
  await until(() => west.peerings.freshness('east', 'web').evidence === 'digest')
  t.equal(stateOf(west, 'east'), 'FRESH')
})

void t.test('metrics name no service, imported or not', async t => {
  const { east, west } = await scene(t)
  for (const cluster of [east, west]) t.notMatch(await cluster.metrics.metrics(), /"(?:web|api)"/)
})

void t.test('a peer without the mark gets no field, is never FRESH by heartbeats, and not ACTIVE when it falls silent', async t => {
  const east = await Cluster.start('east', { clock: fastClock })
  const caller = new Caller(east.door!.plaintextPort!)
  t.teardown(async () => {
    caller.close()
    await east.close()
  })
  const token = decodeToken(await east.peerings.generateToken({ peerName: 'consul' }))
  if (!token.ok) throw new Error(token.message)
  const PeerID = token.token.peerId
  const answer = await caller.exchange({ PeerID, EstablishmentSecret: token.token.establishmentSecret })
  const StreamSecretID = 'secret' in answer ? answer.secret : ''
  const stream = caller.stream(
    { Payload: { $case: 'open', value: { PeerID, StreamSecretID, Remote: { Partition: '', Datacenter: 'dc', Locality: undefined } } } },
    subscription(typeUrls.service, PeerID),
  )
  await until(() => freshness(east, 'consul') !== undefined)
  const states = new Set<string | undefined>()
  for (let beats = 0; beats < 8; beats += 1) {
    stream.call.write(heartbeat)
    await new Promise(resolve => setTimeout(resolve, 15_000 / speed / 4))
    states.add(stateOf(east, 'consul'))
  }
  await until(() => stream.received.filter(each => each.Payload?.$case === 'heartbeat').length >= 2)
  t.notOk(stream.received.some(message => readHeartbeat(message) !== undefined))
  t.same([...states], ['STALE'])
  t.equal(east.state('consul'), 'ACTIVE')
  const silent = performance.now()
  await until(() => east.state('consul') === 'FAILING')
  t.ok((performance.now() - silent) * speed < 60_000)
  t.equal(stream.over, false, 'long before the stream is given up')
  const seen: Peering = east.peerings.read('consul').value!
  t.match(seen.streamStatus.freshness, { state: 'STALE', ageMs: null, evidence: null })
})
