/** The pool: what is used again, what is not, and what is closed when the plan or the leaf changes. */
import { PassThrough } from 'node:stream'
import t from 'tap'
import type { UpstreamStream } from '../../src/proxy/http1/door.ts'
import { StreamPool } from '../../src/proxy/pool.ts'
import { Deadlines } from '../../src/lib/deadlines.ts'
import { FakeClock } from '../support/fake-clock.ts'
import { endpointAt } from '../support/proxy-scene.ts'

const [one, two] = [endpointAt(1), endpointAt(2)]
const limits = { maxIdle: 2, idleMs: 40, maxAgeMs: 10_000 }

function open(pool: StreamPool, endpoint = one, key = 'k'): UpstreamStream {
  return pool.add(new PassThrough(), endpoint, key)
}

function poolOf(key = 'k', clock = new FakeClock()): StreamPool {
  const pool = new StreamPool(limits, new Deadlines(clock, 10))
  pool.rekey(key)
  return pool
}

t.test('a released stream is lent again for the same endpoint, and for no other', t => {
  const pool = poolOf()
  const first = open(pool)
  t.strictSame([pool.busyCount, pool.idleCount, pool.take(one)], [1, 0, undefined])
  first.release()
  first.release()
  t.strictSame([pool.busyCount, pool.idleCount, pool.take(two)], [0, 1, undefined])
  const again = pool.take(one)!
  t.strictSame([again.stream === first.stream, again.reusable, pool.busyCount, pool.idleCount], [true, true, 1, 0])
  pool.close()
  t.equal(first.stream.destroyed, true)
  t.end()
})

t.test('a stream that was given up, has ended or belongs to an older leaf is not lent again', t => {
  const pool = poolOf()
  const [given, ended, old] = [open(pool), open(pool), open(pool)]
  given.destroy()
  ended.stream.end()
  ended.release()
  const idle = open(pool)
  idle.release()
  pool.rekey('renewed')
  old.release()
  t.strictSame(
    [given, ended, old, idle].map(each => each.stream.destroyed),
    [true, true, true, true],
  )
  t.strictSame([pool.take(one), pool.busyCount, pool.idleCount], [undefined, 0, 0])
  t.end()
})

t.test('an idle stream that closes is forgotten, and one with bytes nobody asked for is not taken back', async t => {
  const pool = poolOf()
  const [idle, chatty] = [open(pool), open(pool)]
  idle.release()
  idle.stream.destroy()
  await new Promise<void>(resolve => idle.stream.once('close', resolve))
  t.equal(pool.idleCount, 0)
  chatty.stream.write(Buffer.from('unasked'))
  chatty.release()
  t.equal(chatty.stream.destroyed, true)
})

t.test('no more idle streams than the limit are kept, and none longer than its time', async t => {
  const clock = new FakeClock()
  const pool = poolOf('k', clock)
  const streams = [open(pool), open(pool), open(pool)]
  for (const each of streams) each.release()
  t.strictSame([pool.idleCount, streams.map(each => each.stream.destroyed)], [2, [false, false, true]])
  await clock.advance(40)
  t.equal(pool.idleCount, 2)
  await clock.advance(30)
  t.equal(pool.idleCount, 0)
})

t.test('none is kept for as long as its server says that it keeps it', async t => {
  const clock = new FakeClock()
  const pool = poolOf('k', clock)
  const [short, long] = [open(pool), open(pool)]
  short.release(1)
  long.release(5)
  await clock.advance(20)
  t.strictSame([short.stream.destroyed, long.stream.destroyed], [true, false])
  pool.close()
})

t.test('streams to an endpoint that is gone end with their message, and those to a server that is no longer accepted at once', t => {
  const pool = poolOf()
  const [kept, drained, closed, idle] = [open(pool), open(pool, two), open(pool), open(pool, two)]
  idle.release()
  pool.retire((stream, endpoint) => (stream === closed.stream ? 'close' : endpoint === two ? 'drain' : 'keep'))
  t.strictSame(
    [kept, drained, closed, idle].map(each => each.stream.destroyed),
    [false, false, true, true],
  )
  for (const each of [kept, drained]) each.release()
  t.strictSame([kept.stream.destroyed, drained.stream.destroyed], [false, true])
  pool.close()
  t.end()
})
