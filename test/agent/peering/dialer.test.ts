/** When a dialer comes back, and where, by the way in which the other side ended the stream (spec/peering-wire.md 6). */
import { Metadata, Server, ServerCredentials, status, type ServerDuplexStream } from '@grpc/grpc-js'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { Dialer } from '../../../src/agent/peering/dialer.ts'
import type { StreamHandler } from '../../../src/agent/peering/driver.ts'
import { grpcTransport, type Target } from '../../../src/agent/peering/transport.ts'
import { systemClock, type Clock } from '../../../src/lib/clock.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import type { ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { heartbeat, peerStreamService, terminated } from '../../../src/wire/peer-stream.ts'
import { FakeClock } from '../../support/fake-clock.ts'
import { until } from './cluster.ts'

type Call = ServerDuplexStream<ReplicationMessage, ReplicationMessage>

/** An acceptor that does with every stream what the test says. */
async function acceptor(t: Test, serve: (call: Call, nth: number) => void) {
  const server = new Server()
  const times: number[] = []
  const authorities: string[] = []
  server.addService(peerStreamService, {
    exchangeSecret: () => undefined,
    streamResources: (call: Call) => {
      times.push(performance.now())
      authorities.push(call.getHost())
      call.on('error', () => undefined)
      serve(call, times.length)
    },
  })
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound))),
  )
  t.teardown(() => server.forceShutdown())
  const target: Target = { address: `127.0.0.1:${port}`, serverName: 'server.x.peering.y', caPems: [] }
  return { target, times, authorities }
}

function dialer(
  t: Test,
  targets: () => Target[],
  onStream: (link: Parameters<ConstructorParameters<typeof Dialer>[0]['begin']>[0]) => Partial<StreamHandler> = () => ({}),
  clock: Clock = systemClock,
) {
  const made = new Dialer({
    transport: grpcTransport,
    clock,
    random: Math.random,
    logger: silentLogger(),
    peer: 'p',
    targets,
    begin: link => ({
      open: () => link.send(heartbeat, () => undefined),
      receive: () => undefined,
      ended: () => undefined,
      ...onStream(link),
    }),
  })
  t.teardown(() => made.stop({ cancel: true }))
  made.start()
  return made
}

const fail = (call: Call, code: status, details = '') => call.emit('error', { code, details, metadata: new Metadata() })
const gaps = (times: number[]) => times.slice(1).map((time, i) => time - times[i]!)

void t.test('FAILED_PRECONDITION is tried again at once, at the next address', async t => {
  const follower = await acceptor(t, call => fail(call, status.FAILED_PRECONDITION, 'cannot establish a peering stream on a follower node'))
  const leader = await acceptor(t, call => call.write(heartbeat))
  dialer(t, () => [follower.target, leader.target])
  t.ok((await until(() => leader.times.length === 1)) < 500)
  t.equal(follower.times.length, 1)
})

void t.test('other ends are tried again after growing waits', async t => {
  const { target, times } = await acceptor(t, call => fail(call, status.PERMISSION_DENIED))
  dialer(t, () => [target])
  await until(() => times.length === 3)
  const [first, second] = gaps(times)
  t.ok(first! >= 140 && first! < 450, `${first}`)
  t.ok(second! >= 290 && second! < 800, `${second}`)
})

void t.test('a stream that lived makes the next wait short again', async t => {
  const { target, times } = await acceptor(t, (call, nth) => {
    if (nth < 3) fail(call, status.UNKNOWN)
    else {
      call.write(heartbeat)
      setTimeout(() => call.end(), 20)
    }
  })
  dialer(t, () => [target])
  await until(() => times.length === 5)
  const after = gaps(times).slice(2)
  for (const gap of after) t.ok(gap < 500, `${gap}`)
})

void t.test('who is told that the peering is gone does not come back soon', async t => {
  for (const [code, text] of [
    [status.ABORTED, 'peering is marked as deleted: x'],
    [status.INVALID_ARGUMENT, 'initial subscription for unknown PeerID: x'],
  ] as const) {
    const { target, times } = await acceptor(t, call => fail(call, code, text))
    dialer(t, () => [target])
    await until(() => times.length === 1)
    await new Promise(resolve => setTimeout(resolve, 700))
    t.equal(times.length, 1, text)
  }
})

void t.test('it sends the server name as authority', async t => {
  const { target, authorities } = await acceptor(t, call => call.write(heartbeat))
  dialer(t, () => [target])
  await until(() => authorities.length === 1)
  t.same(authorities, ['server.x.peering.y'])
})

void t.test('Terminated and the end of the half leave together', async t => {
  let gap: number | undefined
  const { target } = await acceptor(t, call => {
    let heard = 0
    call.on('data', (message: ReplicationMessage) => {
      if (message.Payload?.$case === 'terminated') heard = performance.now()
    })
    call.on('end', () => {
      gap = performance.now() - heard
      call.end()
    })
  })
  dialer(
    t,
    () => [target],
    link => ({
      open: () => {
        link.send(terminated, () => undefined)
        link.halfClose()
      },
    }),
  )
  await until(() => gap !== undefined)
  t.ok(gap! < 20, `${gap}`)
})

void t.test('stopping ends the stream and the dialling', async t => {
  const { target, times } = await acceptor(t, call => call.write(heartbeat))
  let ended = 0
  const made = dialer(
    t,
    () => [target],
    () => ({ ended: () => (ended += 1) }),
  )
  await until(() => times.length === 1)
  await made.stop({ cancel: true })
  t.equal(ended, 1)
  await new Promise(resolve => setTimeout(resolve, 600))
  t.equal(times.length, 1)
})

void t.test('an address that takes the connection and says nothing is left for the next', async t => {
  const silent: Socket[] = []
  const hole = createServer(socket => silent.push(socket.on('error', () => undefined)))
  await new Promise<void>(resolve => hole.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of silent) socket.destroy()
    return new Promise(resolve => hole.close(resolve))
  })
  const { target, times } = await acceptor(t, call => call.write(heartbeat))
  const dead: Target = { ...target, address: `127.0.0.1:${(hole.address() as AddressInfo).port}` }
  const clock = new FakeClock()
  const ends: string[] = []
  dialer(
    t,
    () => [dead, target],
    () => ({ ended: error => void ends.push(error?.message ?? '') }),
    clock,
  )
  await until(() => silent.length === 1)
  await clock.advance(9000)
  t.equal(times.length, 0)
  await clock.advance(1500)
  await until(() => ends.length === 1)
  await clock.advance(1000)
  await until(() => times.length === 1)
  t.same(ends, ['no answer within 10 s'])
})

void t.test('with other addresses the first of them is dialled first', async t => {
  const first = await acceptor(t, call => fail(call, status.FAILED_PRECONDITION))
  const second = await acceptor(t, call => fail(call, status.FAILED_PRECONDITION))
  let known = [first.target]
  dialer(
    t,
    () => known,
    () => {
      // By the count it would be the turn of the first acceptor again.
      known = [second.target, first.target]
      return {}
    },
  )
  await until(() => second.times.length === 1)
  t.equal(first.times.length, 1)
})

void t.test('without an address it waits for one', async t => {
  const { target, times } = await acceptor(t, call => call.write(heartbeat))
  let known: Target[] = []
  dialer(t, () => known)
  known = [target]
  await until(() => times.length === 1)
})
