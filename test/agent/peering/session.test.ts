/** The session against recorded streams of real Consul, and by hand where no recording reaches. */
import * as fc from 'fast-check'
import t from 'tap'
import type { Offer, Offered } from '../../../src/agent/peering/offer.ts'
import { newSession, nextTickMs, step, type Effect, type Event, type Role, type SessionState } from '../../../src/agent/peering/session.ts'
import { ExportedService, ExportedServiceList, Operation, ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { acknowledgement, heartbeat, refusal, subscription, terminated, typeUrls, upsert } from '../../../src/wire/peer-stream.ts'
import { recordedMessages, recordings } from '../../wire/recordings.ts'
import { replay } from './replay.ts'

/** Sorted: resources are independent of each other. */
const sorted = (lines: string[]) => lines.toSorted()

/** A session under the hand of a test: time is what the test says. */
class Hand {
  state: SessionState
  now = 0
  constructor(role: Role) {
    const identity = { role, peerId: 'the-id', peerName: 'east', streamSecret: 's', remote: { partition: '', datacenter: 'dc2' } }
    this.state = newSession(identity, { monoMs: 0, wallMs: 0 })
    this.do({ type: 'opened' })
  }
  do(event: Event): Effect[] {
    const [state, effects] = step(this.state, event, { monoMs: this.now, wallMs: this.now })
    this.state = state
    return effects
  }
  hear(message: ReplicationMessage): Effect[] {
    return this.do({ type: 'message', message })
  }
}

const sent = (effects: Effect[]) => effects.flatMap(effect => (effect.type === 'send' ? [effect.message] : []))
/** id and size of every resource among the effects. */
const resources = (effects: Effect[]) =>
  sent(effects).flatMap(({ Payload }) =>
    Payload?.$case === 'response' ? [`${Payload.value.ResourceID}:${Payload.value.Resource?.value.length}`] : [],
  )
const offered = (text: string): Offered => ({ value: Buffer.from(text) })
const offer = (services: Record<string, string>): Offer => {
  const names = Object.keys(services)
    .filter(name => !name.endsWith('-sidecar-proxy'))
    .toSorted()
  const list = Buffer.from(ExportedServiceList.encode({ Services: names }).finish())
  return {
    names,
    list: { value: list },
    services: new Map(Object.entries(services).map(([name, text]) => [name, offered(text)])),
  }
}
const service = (name: string, nodes: Parameters<typeof ExportedService.fromPartial>[0]['Nodes'], nonce = '00000001') =>
  upsert(typeUrls.service, name, nonce, ExportedService.encode(ExportedService.fromPartial({ Nodes: nodes })).finish())
const web = (id: string, nonce?: string) => service('web', [{ Node: { Node: 'n' }, Service: { ID: id, Service: 'web' } }], nonce)

void t.test('as an acceptor it says what real Consul said', async t => {
  const streams = [
    ...replay('02-fake-dialer--01-basic-session.json', 'acceptor'),
    ...replay('05-lifecycle--01-acceptor-deletes.json', 'acceptor'),
    ...replay('05-lifecycle--02-dialer-terminates.json', 'acceptor'),
  ]
  t.equal(streams.length, 3)
  for (const { name, ours, theirs } of streams) t.same(sorted(ours), sorted(theirs), name)
})

void t.test('as a dialer it says what real Consul said', async t => {
  const streams = [
    ...replay('03-fake-acceptor--01-basic-session.json', 'dialer'),
    ...replay('03-fake-acceptor--10-terminated.json', 'dialer'),
    ...replay('03-fake-acceptor--12-noheartbeat.json', 'dialer'),
  ]
  t.equal(streams.length, 4)
  for (const { name, ours, theirs } of streams) t.same(sorted(ours), sorted(theirs), name)
})

void t.test('every recorded import gets the answer of real Consul, but a foreign service under a name is refused', async t => {
  const [stream] = replay('02-fake-dialer--03-import-into-real-consul.json', 'acceptor')
  const deviation = (line: string) => line.includes('0000000b')
  t.same(sorted(stream!.ours.filter(line => !deviation(line))), sorted(stream!.theirs.filter(line => !deviation(line))))
  t.match(stream!.ours.filter(deviation), [/instance "other-1" is of service "other"$/])
})

void t.test('bad requests end the stream as real Consul ends it', async t => {
  const streams = replay('02-fake-dialer--02-open-errors.json', 'acceptor')
  const cancelled = 1
  for (const { name, ours, theirs, closed, recordedEnd } of streams) {
    t.same(sorted(ours), sorted(theirs), name)
    const expected = recordedEnd && recordedEnd.code !== cancelled ? { code: recordedEnd.code, message: recordedEnd.details } : undefined
    t.same(closed, expected, name)
  }
  t.equal(streams.filter(each => each.closed).length, 3)
})

void t.test('a dialer leaves when a subscription carries another PeerID', async t => {
  const hand = new Hand('dialer')
  t.match(hand.hear(subscription(typeUrls.service, 'other')), [{ type: 'close', status: { code: 3, message: /consistent PeerID/ } }])
  t.match(new Hand('dialer').hear(subscription(typeUrls.service, 'the-id')), [])
})

void t.test('the recorded silence of 120 s ends the stream', async t => {
  const [stream] = replay('02-fake-dialer--04-heartbeat-timeout.json', 'acceptor')
  t.same(stream?.closed, { code: 2, message: 'heartbeat timeout' })
  // Our eighth beat leaves in the moment in which the eighth interval of silence ends; real Consul's did not in this recording.
  const ours = sorted(stream!.ours)
  t.equal(ours.pop(), '*\0')
  t.same(ours, sorted(stream!.theirs))
})

void t.test('only heartbeats put off the end', async t => {
  const hand = new Hand('acceptor')
  hand.now = 100_000
  hand.hear(subscription(typeUrls.bundle, ''))
  hand.hear(acknowledgement(typeUrls.bundle, '1'))
  hand.now = 119_999
  t.notOk(hand.do({ type: 'tick' }).some(effect => effect.type === 'close'))
  hand.hear(heartbeat)
  hand.now = 239_998
  t.notOk(hand.do({ type: 'tick' }).some(effect => effect.type === 'close'))
  hand.now = 239_999
  t.ok(hand.do({ type: 'tick' }).some(effect => effect.type === 'close'))
  t.match(hand.state.status, { connected: false, error: { message: 'heartbeat timeout' } })
})

void t.test('payloads that crash a real importer are refused', async t => {
  const good = { Node: { Node: 'n' }, Service: { ID: 'web-1', Service: 'web' } }
  const hostile = {
    'no node': [{ Service: good.Service }],
    'no service': [{ Node: good.Node }],
    'empty node name': [{ ...good, Node: { Node: '' } }],
    'empty service id': [{ ...good, Service: { ID: '', Service: 'web' } }],
    'empty check id': [{ ...good, Checks: [{ CheckID: '', Node: 'n' }] }],
    'port beyond 65535': [{ ...good, Service: { ...good.Service, Port: 70_000 } }],
    'endless name': [{ ...good, Node: { Node: 'n'.repeat(5000) } }],
    'a gateway': [{ ...good, Service: { ...good.Service, Kind: 'mesh-gateway' } }],
  }
  for (const [name, nodes] of Object.entries(hostile)) {
    const hand = new Hand('acceptor')
    const effects = hand.hear(service('web', nodes))
    t.match(sent(effects), [{ Payload: { value: { ResponseNonce: '00000001', Error: { code: 13 } } } }], name)
    t.notOk(
      effects.some(effect => effect.type === 'store'),
      name,
    )
    t.equal(hand.state.phase, 'open', name)
  }
})

void t.test('an answer leaves when the change is stored, and a failure becomes a refusal', async t => {
  const hand = new Hand('acceptor')
  const effects = hand.hear(web('a'))
  t.match(effects, [{ type: 'store', ticket: 1, change: { kind: 'service', name: 'web' } }])
  t.same(sent(hand.do({ type: 'stored', ticket: 1 })), [acknowledgement(typeUrls.service, '00000001')])
  hand.hear(web('b', '00000002'))
  const message = `upsert error, ResourceURL: "${typeUrls.service}", ResourceID: "web": disk full`
  t.same(sent(hand.do({ type: 'stored', ticket: 2, error: 'disk full' })), [refusal(typeUrls.service, '00000002', 13, message)])
})

void t.test('while one state is being stored only the newest of those behind it waits', async t => {
  const hand = new Hand('acceptor')
  hand.hear(web('a', '00000001'))
  t.same(hand.hear(web('b', '00000002')), [])
  t.same(hand.hear(web('c', '00000003')), [])
  const effects = hand.do({ type: 'stored', ticket: 1 })
  t.match(effects, [{ type: 'send' }, { type: 'store', ticket: 2, change: { instances: [{ service: { id: 'c' } }] } }])
  t.same(sent(hand.do({ type: 'stored', ticket: 2 })), [
    acknowledgement(typeUrls.service, '00000002'),
    acknowledgement(typeUrls.service, '00000003'),
  ])
})

void t.test('a list waits for the services before it, and those after it wait for the list', async t => {
  const hand = new Hand('acceptor')
  const list = upsert(typeUrls.list, 'x', '00000002', ExportedServiceList.encode({ Services: ['web'] }).finish())
  const starts = (effects: Effect[]) => effects.flatMap(effect => (effect.type === 'store' ? [effect.change.kind] : []))
  t.same(starts(hand.hear(web('a'))), ['service'])
  t.same(starts(hand.hear(list)), [])
  t.same(starts(hand.hear(service('api', [], '00000003'))), [])
  t.same(starts(hand.do({ type: 'stored', ticket: 1 })), ['list'])
  t.same(starts(hand.do({ type: 'stored', ticket: 2 })), ['service'])
  t.same(hand.state.status.importedServices, ['web'])
})

void t.test('a refused trust bundle is remembered until a good one comes', async t => {
  const hand = new Hand('acceptor')
  const bundle = upsert(typeUrls.bundle, 'roots', '00000001', new Uint8Array(0))
  hand.hear(bundle)
  hand.do({ type: 'stored', ticket: 1, error: 'it claims our trust domain' })
  t.equal(hand.state.status.refusedBundle, 'it claims our trust domain')
  hand.hear(bundle)
  hand.do({ type: 'stored', ticket: 2 })
  t.equal(hand.state.status.refusedBundle, undefined)
})

void t.test('nothing is sent before it is asked for, and the list comes with the services', async t => {
  const hand = new Hand('acceptor')
  t.same(hand.do({ type: 'offer', offer: offer({ web: '1' }) }), [])
  t.same(resources(hand.hear(subscription(typeUrls.list, ''))), [])
  t.same(resources(hand.hear(subscription(typeUrls.service, ''))), ['exported-service-list:5', 'web:1'])
  t.same(hand.state.status.exportedServices, ['web'])
})

void t.test('what goes away is emptied before the list, plain names by the list alone', async t => {
  const hand = new Hand('acceptor')
  hand.hear(subscription(typeUrls.service, ''))
  hand.do({ type: 'offer', offer: offer({ web: '1', 'web-sidecar-proxy': '2', api: '3' }) })
  t.same(resources(hand.do({ type: 'offer', offer: offer({ api: '3' }) })), ['web-sidecar-proxy:0', 'exported-service-list:5'])
  const back = hand.do({ type: 'offer', offer: offer({ web: '1', 'web-sidecar-proxy': '2', api: '3' }) })
  t.same(resources(back), ['exported-service-list:10', 'web:1', 'web-sidecar-proxy:1'])
})

void t.test('under backpressure the latest state of each service is sent once', async t => {
  const hand = new Hand('acceptor')
  hand.hear(subscription(typeUrls.service, ''))
  const big = 'x'.repeat(600_000)
  const first = resources(hand.do({ type: 'offer', offer: offer({ a: `${big}1`, b: `${big}1`, c: `${big}1` }) }))
  t.same(first, ['exported-service-list:9', 'a:600001', 'b:600001'])
  t.same(resources(hand.do({ type: 'offer', offer: offer({ a: `${big}22`, b: `${big}1`, c: `${big}22` }) })), [])
  t.same(resources(hand.do({ type: 'offer', offer: offer({ a: `${big}333`, b: `${big}1`, c: `${big}333` }) })), [])
  t.same(resources(hand.do({ type: 'drained' })), ['a:600003', 'c:600003'])
  t.same(resources(hand.do({ type: 'drained' })), [])
})

void t.test('a service too large for a message is exported without instances and hurts no other', async t => {
  const hand = new Hand('acceptor')
  hand.hear(subscription(typeUrls.service, ''))
  hand.do({ type: 'offer', offer: offer({ big: 'small yet', web: '1' }) })
  hand.do({ type: 'drained' })
  const huge = 'x'.repeat(8 * 1024 * 1024)
  const effects = hand.do({ type: 'offer', offer: offer({ big: huge, web: '2!' }) })
  t.same(resources(effects), ['big:0', 'web:2'])
  t.same(hand.state.status.oversized, [{ id: 'big', bytes: huge.length }])
  t.match(
    effects.filter(effect => effect.type === 'notice'),
    [{ message: /too large for one message/ }],
  )
  for (const message of sent(effects)) t.ok(ReplicationMessage.encode(message).finish().length <= 8 * 1024 * 1024)
  t.same(resources(hand.do({ type: 'offer', offer: offer({ big: 'fits', web: '2!' }) })), ['big:4'])
  t.same(hand.state.status.oversized, [])
})

void t.test('a dialer that terminates ends its half at once and waits a second at most', async t => {
  const hand = new Hand('dialer')
  t.same(hand.do({ type: 'terminate' }), [{ type: 'send', message: terminated }, { type: 'half-close' }])
  t.equal(nextTickMs(hand.state), 1000)
  hand.now = 1000
  t.same(hand.do({ type: 'tick' }), [{ type: 'close', status: { code: 0, message: '' } }])
  t.equal(hand.state.status.error, undefined)
})

void t.test('an acceptor that hears Terminated answers OK once the dialer has finished', async t => {
  const hand = new Hand('acceptor')
  t.same(hand.hear(terminated), [{ type: 'terminated' }])
  t.same(hand.hear(web('late')), [])
  t.same(hand.do({ type: 'ended' }), [{ type: 'close', status: { code: 0, message: '' } }])
  t.equal(hand.state.status.error, undefined)
})

void t.test('an end without Terminated is a failure', async t => {
  const hand = new Hand('acceptor')
  t.same(hand.do({ type: 'ended' }), [{ type: 'close', status: { code: 2, message: 'stream ended unexpectedly' } }])
  t.match(hand.state.status, { connected: false, error: { message: 'stream ended unexpectedly' } })
  t.same(hand.hear(web('late')), [])
})

void t.test('an agent that goes away asks its dialers to come back soon', async t => {
  const hand = new Hand('acceptor')
  t.match(hand.do({ type: 'leave' }), [{ type: 'close', status: { code: 9 } }])
  t.match(hand.state.status, { connected: false, error: { message: 'this agent is shutting down' } })
})

void t.test('nothing that a peer sends makes the session throw', async () => {
  const recorded = recordings().flatMap(file => recordedMessages(file).map(each => each.hex))
  const bytes = fc
    .tuple(fc.constantFrom(...recorded), fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }))
    .map(([hex, edits]) => {
      const buffer = Buffer.from(hex, 'hex')
      for (const [at, value] of edits) if (buffer.length > 0) buffer[at % buffer.length] = value
      return buffer
    })
  const payload = fc.record({
    url: fc.constantFrom(...Object.values(typeUrls)),
    id: fc.string(),
    nonce: fc.string(),
    value: fc.uint8Array({ maxLength: 200 }),
    operation: fc.constantFrom(0, 1, 2, 7),
  })
  const message = fc.oneof(
    bytes,
    payload.map(({ url, id, nonce, value, operation }) => {
      const made = upsert(url, id, nonce, value)
      if (made.Payload?.$case === 'response') made.Payload.value.operation = operation as Operation
      return Buffer.from(ReplicationMessage.encode(made).finish())
    }),
  )
  const runs = process.env['ISTHMUS_DEEP'] === '1' ? 20_000 : 300
  fc.assert(
    fc.property(fc.constantFrom<Role>('acceptor', 'dialer'), fc.array(message, { maxLength: 20 }), (role, messages) => {
      const hand = new Hand(role)
      for (const each of messages) {
        let decoded: ReplicationMessage
        try {
          decoded = ReplicationMessage.decode(each)
        } catch {
          continue
        }
        for (const effect of hand.hear(decoded)) if (effect.type === 'store') hand.do({ type: 'stored', ticket: effect.ticket })
      }
    }),
    { numRuns: runs },
  )
})

void t.test('a peer that speaks of ever more names that it does not export is refused, on one stream and on many', async t => {
  const hand = new Hand('acceptor')
  const say = (name: string) => {
    const effects = hand.hear(service(name, []))
    const stores = effects.flatMap(effect => (effect.type === 'store' ? [effect.ticket] : []))
    for (const ticket of stores) effects.push(...hand.do({ type: 'stored', ticket }))
    return sent(effects).flatMap(({ Payload }) => (Payload?.$case === 'request' ? [Payload.value.Error?.message ?? 'ok'] : []))
  }
  const most = 32_768
  for (let i = 0; i < most; i += 1) say(`a${i}`)
  t.match(say('more'), [/a peer may speak of 32768 names at most/])
  t.same(say('a0'), ['ok'], 'what is known may change')
  const { identity, status } = hand.state
  hand.state = newSession(identity, { monoMs: 1, wallMs: 1 }, status)
  hand.do({ type: 'opened' })
  for (let i = 0; i < 10; i += 1) t.same(say(`b${i}`), ['ok'])
  t.equal(hand.state.status.confirmation.services.size, most)
  const list = ExportedServiceList.encode({ Services: ['b1'] }).finish()
  const [store] = hand.hear(upsert(typeUrls.list, 'exported-service-list', 'n', list))
  t.match(store, { type: 'store' })
  t.equal(hand.state.status.confirmation.ledger.size, 2, 'a list makes room')
  t.same([...hand.state.status.confirmation.services.keys()], [])
})
