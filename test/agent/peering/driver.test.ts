/** The driver: what it does when something of ours breaks, and how it holds back a peer that is faster than the store. */
import t, { type Test } from 'tap'
import { SessionDriver, type DriverOptions } from '../../../src/agent/peering/driver.ts'
import type { SessionStatus, Status } from '../../../src/agent/peering/session.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { ExportedService, ExportedServiceList, type ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { typeUrls, upsert } from '../../../src/wire/peer-stream.ts'
import { FakeClock } from '../../support/fake-clock.ts'

function scene(_t: Test, parts: { read?: () => never; apply?: () => Promise<string | undefined> } = {}) {
  const lines: string[] = []
  const clock = new FakeClock()
  const sent: ReplicationMessage[] = []
  const closed: Status[] = []
  const ended: SessionStatus[] = []
  const taps: string[] = []
  const list = { value: new Uint8Array(0) }
  const options = {
    identity: { role: 'acceptor', peerId: 'id', peerName: 'p', streamSecret: '', remote: { partition: '', datacenter: 'dc1' } },
    link: {
      send: (message: ReplicationMessage, taken: () => void) => {
        sent.push(message)
        setImmediate(taken)
      },
      halfClose: () => undefined,
      close: (status: Status) => closed.push(status),
      pause: () => taps.push('pause'),
      resume: () => taps.push('resume'),
    },
    tables: { subscribe: () => ({ close: () => undefined }) },
    exporter: { read: parts.read ?? (() => ({ offer: { names: [], list, services: new Map() }, topics: [] })) },
    importer: { apply: parts.apply ?? (() => Promise.resolve(undefined)) },
    clock,
    logger: { ...silentLogger(), warn: (_fields: object, text: string) => lines.push(text) },
    onTerminated: () => undefined,
    onClosed: (status: SessionStatus) => ended.push(status),
  } as unknown as DriverOptions
  return { driver: new SessionDriver(options), clock, sent, closed, ended, taps, lines }
}

const service = (name: string, nonce: string) => upsert(typeUrls.service, name, nonce, ExportedService.encode({ Nodes: [] }).finish())

void t.test('a mistake of ours costs the stream and nothing more', async t => {
  const { driver, closed, ended } = scene(t, {
    read: () => {
      throw new Error('bug')
    },
  })
  driver.open()
  t.same(closed, [{ code: 13, message: 'internal error' }])
  t.equal(ended.length, 1)
  driver.receive(service('late', '1'))
  t.equal(closed.length, 1)
})

void t.test('reading pauses while more waits than may wait, and goes on when it has been stored', async t => {
  const waiting: (() => void)[] = []
  const { driver, taps } = scene(t, { apply: () => new Promise(resolve => waiting.push(() => resolve(undefined))) })
  driver.open()
  for (let i = 0; i < 300; i += 1) driver.receive(service(`s${i}`, String(i)))
  t.same(taps, ['pause'])
  while (waiting.length > 0) {
    waiting.shift()!()
    await new Promise(resolve => setImmediate(resolve))
  }
  t.same(taps, ['pause', 'resume'])
})

void t.test('heartbeats follow the clock, and no timer is left after the end', async t => {
  const { driver, clock, sent, closed } = scene(t)
  driver.open()
  const beats = () => sent.filter(message => message.Payload?.$case === 'heartbeat').length
  await clock.advance(45_000)
  t.equal(beats(), 3)
  await clock.advance(75_000)
  t.same(closed, [{ code: 2, message: 'heartbeat timeout' }])
  t.equal(clock.timers, 0)
})

void t.test('much that waits in few messages pauses reading too', async t => {
  const waiting: (() => void)[] = []
  const { driver, taps } = scene(t, { apply: () => new Promise(resolve => waiting.push(() => resolve(undefined))) })
  driver.open()
  const large = ExportedServiceList.encode({ Services: Array.from({ length: 200_000 }, () => 'x'.repeat(100)) }).finish()
  driver.receive(upsert(typeUrls.list, 'list', '1', large))
  t.same(taps, ['pause'])
  waiting.splice(0).forEach(done => done())
  await new Promise(resolve => setImmediate(resolve))
  t.same(taps, ['pause', 'resume'])
})

void t.test('a peer that lies in every message fills no log', async t => {
  const { driver, clock, lines, sent } = scene(t)
  driver.open()
  for (let i = 0; i < 5000; i += 1) driver.receive(upsert('nonsense', 'x', `n${i}`, new Uint8Array(0)))
  t.ok(sent.length > 5000, 'each is answered')
  t.same(
    lines,
    Array.from({ length: 20 }, () => 'refused a resource of the peer'),
  )
  await clock.advance(11_000)
  driver.receive(upsert('nonsense', 'x', 'later', new Uint8Array(0)))
  t.same(lines.slice(20), ['more was refused than is logged', 'refused a resource of the peer'])
})
