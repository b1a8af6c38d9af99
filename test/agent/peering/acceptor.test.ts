/** What a real dialer may do wrong, and what a hostile one may try, against the accepting end over plain gRPC. */
import t, { type Test } from 'tap'
import { decodeToken } from '../../../src/mesh/peering-token.ts'
import type { ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { heartbeat, subscription, terminated, typeUrls } from '../../../src/wire/peer-stream.ts'
import { Caller } from '../grpc/client.ts'
import { Cluster, until } from './cluster.ts'

const open = (PeerID: string, StreamSecretID: string): ReplicationMessage => ({
  Payload: { $case: 'open', value: { PeerID, StreamSecretID, Remote: { Partition: '', Datacenter: 'fakedc', Locality: undefined } } },
})
const unknownId = '00000000-0000-0000-0000-000000000001'

async function scene(t: Test) {
  const cluster = await Cluster.start('dc1')
  const caller = new Caller(cluster.door!.plaintextPort!)
  t.teardown(async () => {
    caller.close()
    await cluster.close()
  })
  const token = async () => {
    const decoded = decodeToken(await cluster.peerings.generateToken({ peerName: 'fake-dialer' }))
    if (!decoded.ok) throw new Error(decoded.message)
    return { PeerID: decoded.token.peerId, EstablishmentSecret: decoded.token.establishmentSecret }
  }
  const streamSecret = async () => {
    const request = await token()
    const answer = await caller.exchange(request)
    if (!('secret' in answer)) throw new Error(answer.details)
    return { id: request.PeerID, secret: answer.secret }
  }
  return { cluster, caller, token, streamSecret }
}

void t.test('opens that are wrong get the recorded codes and words', async t => {
  const { caller, streamSecret } = await scene(t)
  const { id, secret } = await streamSecret()
  const cases: [string, ReplicationMessage, number, string][] = [
    ['a request first', subscription(typeUrls.service, id), 3, 'first message when initiating a peering must be: Open'],
    ['a heartbeat first', heartbeat, 3, 'first message when initiating a peering must be: Open'],
    ['no PeerID', open('', secret), 3, 'initial subscription request must specify a PeerID'],
    ['an unknown PeerID', open(unknownId, secret), 3, `initial subscription for unknown PeerID: ${unknownId}`],
    ['a PeerID that is no UUID', open('not-a-uuid', secret), 13, 'failed to find PeerID: not-a-uuid'],
    ['a wrong secret', open(id, '11111111-1111-1111-1111-111111111111'), 7, 'invalid peering stream secret'],
    ['no secret', open(id, ''), 7, 'invalid peering stream secret'],
  ]
  for (const [name, message, code, text] of cases) t.same(await caller.stream(message).ended, { code, message: text }, name)
})

void t.test('a token is spent once, also when two spend it at the same time', async t => {
  const { caller, token } = await scene(t)
  const request = await token()
  const refused = { code: 7, details: 'invalid peering establishment secret' }
  t.same(await caller.exchange({ ...request, EstablishmentSecret: 'wrong' }), refused)
  t.same(await caller.exchange({ ...request, EstablishmentSecret: '' }), refused)
  t.same(await caller.exchange({ ...request, PeerID: unknownId }), refused)
  const answers = await Promise.all([1, 2, 3, 4].map(() => caller.exchange(request)))
  t.equal(answers.filter(answer => 'secret' in answer).length, 1)
  t.same(
    answers.filter(answer => !('secret' in answer)),
    [refused, refused, refused],
  )
  t.match(await caller.exchange({ PeerID: 'x', EstablishmentSecret: 'y' }), { code: 13, details: /UUID must be 36 characters$/ })
})

void t.test('a second stream is refused and leaves the first as it is', async t => {
  const { cluster, caller, streamSecret } = await scene(t)
  const { id, secret } = await streamSecret()
  const first = caller.stream(open(id, secret), subscription(typeUrls.list, id))
  await until(() => cluster.state('fake-dialer') === 'ACTIVE')
  t.same(await caller.stream(open(id, secret)).ended, {
    code: 2,
    message: `failed to register stream: there is an active stream for the given PeerID "${id}"`,
  })
  t.equal(cluster.state('fake-dialer'), 'ACTIVE')
  t.equal(first.over, false)
  first.call.end()
  t.same(await first.ended, { code: 2, message: 'stream ended unexpectedly' })
  t.equal(cluster.state('fake-dialer'), 'FAILING')
})

void t.test('a stream that carries nothing is not active', async t => {
  const { cluster, caller, streamSecret } = await scene(t)
  const { id, secret } = await streamSecret()
  const stream = caller.stream(open(id, secret))
  await until(() => stream.received.length === 3)
  t.equal(cluster.state('fake-dialer'), 'PENDING')
  stream.call.write(heartbeat)
  await until(() => cluster.state('fake-dialer') === 'ACTIVE')
  t.match(cluster.peerings.read('fake-dialer').value, { remote: { datacenter: 'fakedc' }, streamStatus: { lastHeartbeat: /^20/ } })
  stream.call.cancel()
  await until(() => cluster.state('fake-dialer') === 'FAILING')
})

void t.test('the old secret opens streams until the new one has been used', async t => {
  const { cluster, caller, streamSecret } = await scene(t)
  const old = await streamSecret()
  const first = caller.stream(open(old.id, old.secret), heartbeat)
  await until(() => cluster.state('fake-dialer') === 'ACTIVE')
  const renewed = await streamSecret()
  t.equal(renewed.id, old.id)
  t.equal(cluster.state('fake-dialer'), 'ACTIVE', 'a new token disturbs nothing')
  const opens = async (secret: string) => {
    const stream = caller.stream(open(old.id, secret), heartbeat)
    await until(() => stream.over || stream.received.length === 3)
    const opened = !stream.over
    stream.call.cancel()
    await stream.ended
    await until(() => cluster.state('fake-dialer') === 'FAILING')
    return opened
  }
  first.call.cancel()
  await until(() => cluster.state('fake-dialer') === 'FAILING')
  t.equal(await opens(old.secret), true)
  t.equal(await opens(renewed.secret), true)
  t.equal(await opens(old.secret), false)
  t.equal(await opens(renewed.secret), true)
})

void t.test('Terminated ends the call with OK, and the secret opens nothing any more', async t => {
  const { cluster, caller, streamSecret, token } = await scene(t)
  const { id, secret } = await streamSecret()
  const stream = caller.stream(open(id, secret), heartbeat)
  await until(() => cluster.state('fake-dialer') === 'ACTIVE')
  stream.call.write(terminated)
  stream.call.end()
  t.match(await stream.ended, { code: 0 })
  await until(() => cluster.state('fake-dialer') === 'TERMINATED')
  t.same(await caller.stream(open(id, secret)).ended, { code: 10, message: `peering is marked as deleted: ${id}` })
  const next = await token()
  t.not(next.PeerID, id, 'a new token begins a new peering, where a real Consul makes a useless one')
  t.equal(cluster.state('fake-dialer'), 'PENDING')
  t.ok('secret' in (await caller.exchange(next)))
})

void t.test('a dialer that does not finish after Terminated is let go within two seconds', async t => {
  const { cluster, caller, streamSecret } = await scene(t)
  const { id, secret } = await streamSecret()
  const stream = caller.stream(open(id, secret), heartbeat)
  await until(() => cluster.state('fake-dialer') === 'ACTIVE')
  await cluster.peerings.delete('fake-dialer')
  const start = performance.now()
  t.match(await stream.ended, { code: 0 })
  t.ok(performance.now() - start < 2000)
  t.match(stream.received.at(-1), { Payload: { $case: 'terminated' } })
  await until(() => cluster.state('fake-dialer') === undefined)
})

void t.test('a dialer is not dialled, and nobody learns more than that', async t => {
  const { cluster, caller } = await scene(t)
  const other = await Cluster.start('dc2')
  t.teardown(() => other.close())
  await cluster.peerings.establish({ peerName: 'dc2', peeringToken: await other.peerings.generateToken({ peerName: 'dc1' }) })
  const { id } = cluster.peerings.read('dc2').value!
  t.same(await caller.stream(open(id, 'x')).ended, {
    code: 3,
    message: 'expected PeerID to be empty; the wrong end of peering is being dialed',
  })
  t.same(await caller.exchange({ PeerID: id, EstablishmentSecret: 'x' }), { code: 7, details: 'invalid peering establishment secret' })
})
