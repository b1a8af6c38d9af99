/** Ages, digests and repairs between two sessions, without a socket, on a clock of the test's own. */
import * as fc from 'fast-check'
import t from 'tap'
import { importedFreshness, peeringFreshness, setFreshness } from '../../../src/agent/peering/ages.ts'
import {
  digestHeartbeat,
  markedHeartbeat,
  questionHeartbeat,
  readHeartbeat,
  resendHeartbeat,
  slotBytes,
  slotCount,
} from '../../../src/wire/freshness.ts'
import type { ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { heartbeat, subscription, typeUrls } from '../../../src/wire/peer-stream.ts'
import { nextTickMs, step, type Event } from '../../../src/agent/peering/session.ts'
import { End, offerOf, Pair, type Exports } from './pair.ts'
import { replay } from './replay.ts'

const resourceOf = (message: ReplicationMessage) => (message.Payload?.$case === 'response' ? message.Payload.value.ResourceID : undefined)
const byName = ([a]: [string, string], [b]: [string, string]) => (a < b ? -1 : 1)
const heldBy = (end: End) => Object.fromEntries([...end.held].toSorted(byName))
/** What is exported and has instances. */
const filled = (exports: Exports) =>
  Object.fromEntries(
    Object.entries(exports)
      .filter(([, id]) => id !== '')
      .toSorted(byName),
  )

/** A pair whose acceptor exports to its dialer. */
function scene(exports: Exports = { web: 'w1', 'web-sidecar-proxy': 'p1', api: 'a1' }) {
  const pair = new Pair(1_000_000)
  pair.acceptor.exports = exports
  pair.open()
  const seen = (name: string) => setFreshness(pair.dialer.state.status, name, pair.nowMs)
  const whole = () => peeringFreshness(pair.dialer.state.status, pair.nowMs)
  return { pair, seen, whole }
}

void t.test('what arrives with a stream is resync, a change is received, and both are digest within seconds', async t => {
  const { pair, seen, whole } = scene()
  t.same(seen('web'), { state: 'FRESH', ageMs: 0, evidence: 'resync' })
  pair.advance(1500)
  t.same(seen('web'), { state: 'FRESH', ageMs: 500, evidence: 'digest' })
  t.same(whole(), { state: 'FRESH', ageMs: 500, evidence: 'digest', repairs: 0, disagreements: 0 })
  pair.export(pair.acceptor, { web: 'w2', 'web-sidecar-proxy': 'p1', api: 'a1' })
  t.same(seen('web'), { state: 'FRESH', ageMs: 0, evidence: 'received' })
  t.same(seen('api'), { state: 'FRESH', ageMs: 500, evidence: 'digest' })
  t.same(whole().ageMs, 500, 'one service says nothing of the others')
  pair.advance(600_000)
  for (const name of ['web', 'api']) t.match(seen(name), { state: 'FRESH', evidence: 'digest' })
  t.ok(seen('web').ageMs! <= 15_000)
  t.same(peeringFreshness(pair.acceptor.state.status, pair.nowMs), whole(), 'both ways, also where nothing is exported')
})

void t.test('a stream that begins says nothing of all services together before its first digest', async t => {
  const { pair, seen, whole } = scene()
  t.match(seen('web'), { state: 'FRESH', evidence: 'resync' })
  t.match(whole(), { state: 'STALE', ageMs: null })
  // It ends before a digest came: what the next one brings first is not all.
  pair.passes = message => resourceOf(message) !== 'api'
  pair.acceptor.exports = { web: 'w2', 'web-sidecar-proxy': 'p1', api: 'a2' }
  pair.reopen()
  t.match(seen('web'), { state: 'FRESH', ageMs: 0 })
  t.match(whole(), { state: 'STALE', ageMs: null })
})

void t.test('a digest counts from when it was asked for: a network that holds it back makes nothing younger', async t => {
  const { pair, seen, whole } = scene()
  pair.advance(2000)
  const held: ReplicationMessage[] = []
  pair.passes = (message, from) => {
    if (from === 'dialer' || !readHeartbeat(message)?.digest) return true
    held.push(message)
    return false
  }
  pair.advance(30_000)
  t.equal(held.length, 2)
  t.match(whole(), { state: 'FRESH', ageMs: 31_000 })
  pair.dialer.hear(held[0]!, pair.nowMs)
  t.match(whole(), { state: 'FRESH', ageMs: 16_000, evidence: 'digest' })
  t.match(seen('web'), { state: 'FRESH', ageMs: 16_000, evidence: 'digest' })
  // Twice, and one that answers nothing that was asked: both say no more.
  pair.dialer.hear(held[0]!, pair.nowMs + 500)
  pair.dialer.hear(digestHeartbeat(readHeartbeat(held[0]!)!.digest!, 99), pair.nowMs)
  t.match(whole(), { ageMs: 16_000 })
  pair.dialer.hear(held[1]!, pair.nowMs)
  t.match(whole(), { ageMs: 1000 })
})

void t.test('an upsert that is lost on the way is sent again and counted', async t => {
  const { pair, seen, whole } = scene()
  pair.advance(2000)
  pair.passes = message => resourceOf(message) !== 'web'
  pair.export(pair.acceptor, { web: 'w2', 'web-sidecar-proxy': 'p1', api: 'a1' })
  pair.passes = () => true
  pair.advance(13_999)
  t.same(heldBy(pair.dialer), { web: 'w1', 'web-sidecar-proxy': 'p1', api: 'a1' })
  pair.advance(1)
  t.same(heldBy(pair.dialer), filled(pair.acceptor.exports))
  t.match(seen('web'), { ageMs: 0, evidence: 'resync' })
  t.equal(whole().state, 'STALE', 'a contradiction holds until all is confirmed')
  pair.advance(2000)
  t.match(seen('web'), { state: 'FRESH', evidence: 'digest' })
  t.match(whole(), { state: 'FRESH', evidence: 'digest', repairs: 1, disagreements: 1 })
  t.match(pair.dialer.notices, ['what is imported is not what the peer exports; it is being put right'])
  pair.advance(300_000)
  t.match(whole(), { repairs: 1, disagreements: 1 })
})

void t.test('a lost list, a lost deletion and a lost set of the beginning are put right', async t => {
  const { pair } = scene({ web: 'w1', 'web-sidecar-proxy': 'p1', api: 'a1', db: 'd1' })
  pair.advance(2000)
  pair.passes = message => message.Payload?.$case !== 'response'
  // Un-exported: nothing but the list says so. The proxy of web: an empty set. db: no instance any more.
  pair.export(pair.acceptor, { web: 'w1', db: '' })
  pair.passes = () => true
  pair.advance(15_000)
  t.same(heldBy(pair.dialer), { web: 'w1' })
  pair.passes = message => resourceOf(message) !== 'db'
  pair.acceptor.exports = { web: 'w1', db: 'd2' }
  pair.reopen()
  t.same(heldBy(pair.dialer), { web: 'w1' })
  pair.passes = () => true
  pair.advance(2500)
  t.same(heldBy(pair.dialer), { web: 'w1', db: 'd2' })
})

void t.test('what is changed, missing or too much in the store is put right and counted', async t => {
  const { pair, whole, seen } = scene()
  pair.advance(2000)
  pair.dialer.held.set('web', 'forged')
  pair.dialer.held.delete('web-sidecar-proxy')
  pair.dialer.held.set('phantom', 'x')
  pair.advance(17_000)
  t.same(heldBy(pair.dialer), filled(pair.acceptor.exports))
  // The set of too much goes when the rest of its slots agrees.
  t.match(whole(), { state: 'FRESH', evidence: 'digest', repairs: 3 })
  t.match(seen('web'), { state: 'FRESH', evidence: 'digest' })
})

void t.test('what an earlier stream left, and no list sweeps, goes with the first digest', async t => {
  const { pair, whole } = scene()
  pair.advance(2000)
  // While they were apart the service left the mesh: its name stays on the list, and no deletion comes.
  pair.acceptor.exports = { web: 'w1', api: 'a1' }
  pair.reopen()
  t.same(heldBy(pair.dialer), { web: 'w1', 'web-sidecar-proxy': 'p1', api: 'a1' })
  pair.advance(1000)
  t.same(heldBy(pair.dialer), { web: 'w1', api: 'a1' })
  t.equal(whole().repairs, 1)
})

void t.test('what we refuse is never FRESH, is asked for ever more rarely, and hurts no other', async t => {
  const { pair, seen, whole } = scene()
  pair.dialer.refuse = name => (name === 'web' ? 'disk full' : undefined)
  pair.advance(2000)
  pair.export(pair.acceptor, { web: 'w2', 'web-sidecar-proxy': 'p1', api: 'a1' })
  let asked = 0
  pair.passes = message => {
    if (readHeartbeat(message)?.resend.length) asked += 1
    return true
  }
  pair.advance(3_600_000)
  t.ok(asked >= 6 && asked <= 14, `asked ${asked} times in an hour`)
  t.equal(seen('web').state, 'FROZEN')
  t.equal(whole().state, 'FROZEN')
  t.match(seen('api'), { state: 'FRESH', evidence: 'digest' })
  pair.dialer.refuse = () => undefined
  pair.advance(17 * 60_000)
  t.same(heldBy(pair.dialer), filled(pair.acceptor.exports))
  t.match(whole(), { state: 'FRESH', repairs: 1 })
})

void t.test('an exporter whose tables stand still is FROZEN within a minute, though its heartbeats go on', async t => {
  const { pair, seen, whole } = scene()
  pair.advance(60_000)
  pair.acceptor.frozen = true
  const start = pair.nowMs
  const states = new Map<string, number>()
  for (let i = 0; i < 120; i += 1) {
    pair.advance(1000)
    if (!states.has(whole().state)) states.set(whole().state, pair.nowMs - start)
    t.equal(seen('web').state, whole().state)
  }
  t.ok(pair.nowMs - pair.dialer.state.status.confirmation.lastHeartbeatMs <= 15_000)
  t.same([...states.keys()], ['FRESH', 'STALE', 'FROZEN'])
  t.ok(states.get('STALE')! <= 36_000 && states.get('FROZEN')! <= 61_000, JSON.stringify([...states]))
})

void t.test('ages go on over a broken stream, and a restart knows no age', async t => {
  const { pair, seen } = scene()
  pair.advance(16_500)
  pair.advance(500)
  t.same(seen('web'), { state: 'FRESH', ageMs: 1000, evidence: 'digest' })
  for (const end of [pair.acceptor, pair.dialer]) end.do({ type: 'ended' }, pair.nowMs)
  pair.advance(30_000)
  t.same(seen('web'), { state: 'FRESH', ageMs: 31_000, evidence: 'digest' })
  pair.advance(3_600_000)
  t.same(seen('web'), { state: 'STALE', ageMs: 3_631_000, evidence: 'digest' }, 'whoever is not connected is not frozen')
  const next = new End('dialer', pair.nowMs, pair.dialer)
  t.same(setFreshness(next.state.status, 'web', pair.nowMs), { state: 'STALE', ageMs: 3_631_000, evidence: 'digest' })
  const restarted = new End('dialer', pair.nowMs)
  t.same(setFreshness(restarted.state.status, 'web', pair.nowMs), { state: 'STALE', ageMs: null, evidence: null })
  t.same(setFreshness(undefined, 'web', pair.nowMs), { state: 'STALE', ageMs: null, evidence: null })
})

void t.test('a digest counts for what is stored: what waits for the store is as old as the state before it', async t => {
  const { pair, seen, whole } = scene()
  pair.advance(2000)
  pair.dialer.slow = true
  pair.export(pair.acceptor, { web: 'w2', 'web-sidecar-proxy': 'p1', api: 'a1' })
  pair.advance(20_000)
  t.match(seen('api'), { ageMs: 6000, evidence: 'digest' })
  t.match(seen('web'), { ageMs: 21_000, evidence: 'digest' }, 'the digest before')
  t.match(whole(), { ageMs: 21_000, evidence: 'digest', disagreements: 0 })
  pair.dialer.catchUp(pair.nowMs)
  for (const name of ['web', 'api']) t.match(seen(name), { ageMs: 6000, evidence: 'digest' })
  t.match(whole(), { ageMs: 6000, evidence: 'digest', disagreements: 0, repairs: 0 })
  // And one that is refused after a digest has agreed with what was taken.
  pair.dialer.refuse = () => 'disk full'
  pair.export(pair.acceptor, { web: 'w3', 'web-sidecar-proxy': 'p1', api: 'a1' })
  pair.advance(15_000)
  pair.dialer.catchUp(pair.nowMs)
  t.match(whole(), { ageMs: 21_000, evidence: 'digest' })
  t.match(seen('web'), { ageMs: 21_000, evidence: 'digest' })
  pair.dialer.refuse = () => undefined
  pair.dialer.slow = false
  pair.advance(17_000)
  t.equal(pair.dialer.held.get('web'), 'w3')
  t.match(whole(), { state: 'FRESH', repairs: 1, disagreements: 1 })
})

void t.test('while something waits for room no digest leaves, and nobody looks for nothing', async t => {
  const end = new End('acceptor', 0)
  let looks = 0
  const run = (event: Event, now: number) => {
    const [state, effects] = step(end.state, event, { monoMs: now, wallMs: now })
    end.state = state
    const looked = effects.filter(effect => effect.type === 'look')
    looks += looked.length
    const digests = effects.flatMap(effect => (effect.type === 'send' && readHeartbeat(effect.message)?.digest ? [now] : []))
    return [...digests, ...looked.flatMap((): number[] => run({ type: 'looked', offer }, now))]
  }
  const big = { value: Buffer.alloc(900_000, 1) }
  const offer = { ...offerOf({ a: '1', b: '1', c: '1' }), services: new Map(['a', 'b', 'c'].map(name => [name, big])) }
  run({ type: 'opened', marked: true }, 0)
  run({ type: 'offer', offer }, 0)
  const asked = (question: number, now: number) => run({ type: 'message', message: questionHeartbeat(question) }, now)
  t.same([...run({ type: 'tick' }, 1000), ...asked(1, 1000)], [], 'a peer that has not asked for services is proven nothing')
  run({ type: 'message', message: subscription(typeUrls.service, '') }, 2000)
  t.same([...run({ type: 'tick' }, 16_000), ...asked(2, 16_000)], [], 'c waits')
  t.equal(nextTickMs(end.state), 30_000)
  run({ type: 'drained' }, 17_000)
  t.same(run({ type: 'tick' }, 18_000), [18_000])
  t.equal(looks, 3)
})

void t.test('a real Consul gets no field, and its heartbeats make nothing FRESH', async t => {
  for (const file of ['02-fake-dialer--01-basic-session.json', '02-fake-dialer--03-import-into-real-consul.json']) {
    for (const { ours, state } of replay(file, 'acceptor')) {
      t.notOk(
        ours.some(line => line.startsWith('*') && line !== '*\0'),
        'heartbeats are bare',
      )
      const at = (ms: number) => peeringFreshness(state.status, state.status.confirmation.lastHeartbeatMs + ms)
      t.not(at(0).evidence, 'digest')
      t.not(at(3_600_000).state, 'FRESH')
    }
  }
  const consul = new End('acceptor', 0)
  consul.do({ type: 'opened' }, 0)
  consul.do({ type: 'message', message: subscription(typeUrls.service, '') }, 0)
  for (let now = 0; now < 600_000; now += 15_000) {
    consul.do({ type: 'tick' }, now)
    consul.hear(heartbeat, now)
    t.same(peeringFreshness(consul.state.status, now), { state: 'STALE', ageMs: null, evidence: null, repairs: 0, disagreements: 0 })
  }
  t.notOk(consul.sent.some(message => readHeartbeat(message) !== undefined))
})

void t.test('an acceptor hears digests only of a dialer that marked its Open, a dialer answers only a marked acceptor', async t => {
  const all = Array.from({ length: slotCount }, (_, i) => i)
  const lies = [digestHeartbeat(Buffer.alloc(slotCount * slotBytes, 1), 1), resendHeartbeat(all), markedHeartbeat]
  const unmarked = new End('acceptor', 0)
  unmarked.do({ type: 'opened' }, 0)
  unmarked.sent = []
  for (const lie of lies) unmarked.hear(lie, 1000)
  unmarked.do({ type: 'tick' }, 60_000)
  t.same(
    unmarked.sent.map(message => message.Payload),
    [heartbeat.Payload].map(each => ({ ...each, value: { _unknownFields: {} } })),
  )
})

void t.test('a peer that lies in its digests, or asks for everything all the time, costs little and harms only itself', async t => {
  const { pair, whole } = scene()
  pair.advance(2000)
  let sent = 0
  pair.passes = (message, from) => {
    if (from === 'acceptor' && resourceOf(message) !== undefined) sent += 1
    return true
  }
  const all = Array.from({ length: slotCount }, (_, i) => i)
  for (let i = 0; i < 1000; i += 1) {
    pair.acceptor.hear(resendHeartbeat(all), pair.nowMs + i)
    pair.settle()
  }
  t.equal(sent, 5, 'everything once, and that api has no proxy')
  let asked = 0
  pair.passes = message => {
    if (readHeartbeat(message)?.resend.length) asked += 1
    return true
  }
  const held = heldBy(pair.dialer)
  for (let i = 0; i < 1000; i += 1) {
    pair.dialer.hear(digestHeartbeat(Buffer.alloc(slotCount * slotBytes, 1 + (i % 255)), 1), pair.nowMs)
    pair.settle()
  }
  t.equal(asked, 1)
  t.same(heldBy(pair.dialer), held, 'nothing is deleted on the word of a digest that disagrees')
  t.equal(whole().state, 'STALE')
})

void t.test('a service and its proxies are as old as the older of the two', async t => {
  const { pair } = scene()
  pair.advance(2000)
  pair.passes = message => resourceOf(message) !== 'web-sidecar-proxy'
  pair.dialer.refuse = name => (name === 'web-sidecar-proxy' ? 'no' : undefined)
  pair.export(pair.acceptor, { web: 'w1', 'web-sidecar-proxy': 'p2', api: 'a1' })
  pair.advance(120_000)
  t.match(importedFreshness(pair.dialer.state.status, ['api', 'web'], pair.nowMs), [
    { service: 'api', state: 'FRESH' },
    { service: 'web', state: 'FROZEN' },
  ])
})

void t.test(
  'a service that stays although the list that named it, and the one that did so no more, were lost, goes with the next digest',
  async t => {
    const { pair, whole } = scene({})
    const lists: string[] = []
    pair.passes = message => {
      if (message.Payload?.$case !== 'response' || message.Payload.value.ResourceURL !== typeUrls.list) return true
      lists.push(message.Payload.value.ResourceID)
      return lists.length > 2
    }
    pair.export(pair.acceptor, { api: 'a1' })
    pair.export(pair.acceptor, {})
    t.same([lists.length, heldBy(pair.dialer)], [2, { api: 'a1' }])
    pair.advance(20_000)
    t.same(heldBy(pair.dialer), {})
    t.match(whole(), { state: 'FRESH', evidence: 'digest', disagreements: 1 })
  },
)

void t.test('a virtual proxy whose deletion was lost, and whose service came back without one, goes with the next digest', async t => {
  const { pair, whole } = scene({ web: 'w1', 'web-sidecar-proxy': 'p1' })
  let lost = 0
  pair.passes = message => resourceOf(message) === undefined || ++lost > 2
  pair.export(pair.acceptor, {})
  pair.export(pair.acceptor, { web: '' })
  t.same(heldBy(pair.dialer), { 'web-sidecar-proxy': 'p1' })
  pair.advance(20_000)
  t.same(heldBy(pair.dialer), {})
  t.match(whole(), { state: 'FRESH', evidence: 'digest', disagreements: 1 })
})

void t.test('whatever is lost, changed or torn, the digests bring both ends together, and nothing false is ever confirmed', async () => {
  const service = fc.constantFrom('web', 'web-sidecar-proxy', 'api', 'db')
  const action = fc.oneof(
    fc.record({ do: fc.constant('export' as const), service, id: fc.constantFrom('', '1', '2', '3'), gone: fc.boolean() }),
    fc.record({ do: fc.constant('lose' as const), next: fc.integer({ min: 1, max: 6 }) }),
    fc.record({ do: fc.constant('tamper' as const), service, id: fc.constantFrom('', 'x') }),
    fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 40_000 }) }),
    fc.record({ do: fc.constant('reopen' as const) }),
    fc.record({ do: fc.constant('slow' as const), slow: fc.boolean() }),
  )
  const runs = process.env['ISTHMUS_DEEP'] === '1' ? 5000 : 150
  fc.assert(
    fc.property(fc.array(action, { maxLength: 25 }), actions => {
      const { pair, seen } = scene({})
      let losing = 0
      // What resources travel may be lost; the protocol's own words may not, or the stream would end.
      pair.passes = message => resourceOf(message) === undefined || losing-- <= 0
      for (const each of actions) {
        if (each.do === 'lose') losing = each.next
        else if (each.do === 'wait') pair.advance(each.ms)
        else if (each.do === 'reopen') pair.reopen()
        else if (each.do === 'slow') {
          pair.dialer.slow = each.slow
          if (!each.slow) pair.dialer.catchUp(pair.nowMs)
        } else if (each.do === 'tamper') {
          if (each.id === '') pair.dialer.held.delete(each.service)
          else pair.dialer.held.set(each.service, each.id)
        } else {
          const { [each.service]: _, ...others } = pair.acceptor.exports
          const base = each.service.replace('-sidecar-proxy', '')
          const next: Exports = each.gone ? others : { ...others, [each.service]: each.id, [base]: others[base] ?? each.id }
          // A proxy without its service is never exported.
          if (next['web'] === undefined) delete next['web-sidecar-proxy']
          pair.export(pair.acceptor, next)
        }
      }
      losing = 0
      pair.dialer.slow = false
      pair.dialer.catchUp(pair.nowMs)
      pair.advance(60_000)
      const same = JSON.stringify(heldBy(pair.dialer)) === JSON.stringify(filled(pair.acceptor.exports))
      return same && Object.keys(pair.acceptor.exports).every(name => seen(name).state === 'FRESH' && seen(name).evidence === 'digest')
    }),
    { numRuns: runs },
  )
})
