/**
 * What a hostile side may say to a session of HTTP/2, of either role: random bytes, random frames, traffic with faults in it, floods. Nothing is
 * thrown, nothing grows without a bound, windows are kept, and a session that ended says nothing more.
 */
import assert from 'node:assert/strict'
import type { Socket } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import { Channels } from '../../../../src/proxy/http2/channels.ts'
import { serveHttp2 } from '../../../../src/proxy/http2/connection.ts'
import { defaultHttp2Limits, upstreamChannelLimits, type Http2Limits } from '../../../../src/proxy/http2/limits.ts'
import { errorCode } from '../../../../src/proxy/http2/wire/frames.ts'
import type { Http2Session } from '../../../../src/proxy/http2/wire/session.ts'
import { settle } from '../../../support/fake-clock.ts'
import { seeded } from '../../../support/seeded.ts'
import { cut } from '../../http1/harness.ts'
import { HandSocket } from '../../../support/hand-socket.ts'
import { block, frame, frames, request, u32, type Heard } from '../frames.ts'
import {
  dataFrame,
  flags,
  get,
  goawayFrame,
  inside,
  padded,
  parse,
  prefaceText,
  resetFrame,
  settings,
  started,
  windowUpdate,
  type Hand,
  type Recorder,
} from './hand.ts'

const { ISTHMUS_DEEP, ISTHMUS_SEED } = process.env
const deep = ISTHMUS_DEEP === '1'
// What failed says its seed.
if (ISTHMUS_SEED !== undefined) fc.configureGlobal({ seed: Number(ISTHMUS_SEED) })
const { endStream, endHeaders } = flags
const whole = endStream | endHeaders
const ping = frame(frames.ping, 0, 0, Buffer.alloc(8))
const roles = ['client', 'server'] as const
type Role = (typeof roles)[number]

// Small, so that they are reached.
const tight: Partial<Http2Limits> = {
  streamWindowBytes: 2000,
  connectionWindowBytes: 70_000,
  heldBytes: 3000,
  headerListBytes: 500,
  headerCount: 12,
  headerBlockBytes: 20_000,
  maxUnsentBytes: 4000,
  untakenBytes: 6000,
  idleFrameBurst: 40,
}
const mostStreams = 20

/** An owner of streams that does anything that it may at any time. */
function whimsical(random: () => number): (owner: Recorder) => void {
  const act = (owner: Recorder) => {
    const { stream } = owner
    const what = Math.floor(random() * 14)
    if (what === 0) stream.reset(errorCode.cancel)
    else if (what === 1) stream.stop()
    else if (what === 2) stream.end()
    else if (what === 3) stream.sendTrailers(['x', 'y'], undefined)
    else if (what === 4) stream.expect(Math.floor(random() * 30))
    else if (what === 5) stream.sendHeaders([':status', '200', 'x-y', 'z'.repeat(random() * 100)], undefined, random() < 0.3)
    else if (what < 9) stream.sendData(Buffer.alloc(random() * 3000), random() < 0.2)
    else if (what === 9) stream.session.close()
  }
  return owner => {
    owner.slow = random() < 0.4
    owner.onData = () => act(owner)
    owner.onSent = () => random() < 0.3 && act(owner)
    if (owner.stream.session.streams.size > mostStreams) owner.stream.reset(errorCode.refusedStream)
    else act(owner)
  }
}

/** A session in the middle of its work. */
async function working(role: Role, random: () => number): Promise<Hand & { all: Recorder[] }> {
  const react = whimsical(random)
  const all: Recorder[] = []
  const it = await started(role, tight, owner => {
    all.push(owner)
    react(owner)
  })
  if (role === 'client')
    for (let i = 0; i < 3 && !it.session.closing; i += 1) {
      const owner = it.open(random() < 0.3)
      all.push(owner)
      react(owner)
    }
  return { ...it, all }
}

/** What holds at any time, whatever was said. */
function check({ session }: Hand, all: readonly Recorder[]): void {
  const { held, waiting, resets, writer, receiveWindow } = inside(session)
  const { blockBytes } = session as unknown as { blockBytes: number }
  assert.ok(held >= 0 && held <= tight.heldBytes! + tight.connectionWindowBytes!, `${held} bytes are held`)
  assert.ok(session.unsent >= 0 && (session.unsent === 0 || session.streams.size > 0), `${session.unsent} bytes wait`)
  assert.ok(session.streams.size <= mostStreams + 1, `${session.streams.size} streams`)
  assert.ok(waiting.size <= session.streams.size && resets.size <= 1024, `${waiting.size} wait, ${resets.size} resets`)
  assert.ok(blockBytes <= tight.headerBlockBytes! + 16_384, `a block of ${blockBytes} bytes`)
  assert.ok(receiveWindow <= tight.connectionWindowBytes!, `a window of ${receiveWindow}`)
  assert.ok(writer.pending < 200_000, `${writer.pending} bytes are to be written`)
  for (const { log, ends } of all)
    assert.ok(ends < 2 && !log.some(each => each.startsWith('AFTER')), `an owner hears ${log.slice(-3).join(', ')}`)
  if (!session.isClosed) return
  assert.deepEqual([session.streams.size, session.unsent, waiting.size], [0, 0, 0])
  assert.ok(all.every(({ ends }) => ends === 1))
}

/** Says it all, then more, and looks at what came of it. */
async function hearAll(it: Hand & { all: Recorder[] }, reads: readonly Buffer[]): Promise<void> {
  const { session, socket, all } = it
  for (const read of reads) {
    socket.push(Buffer.from(read))
    check(it, all)
  }
  await settle()
  await settle()
  check(it, all)
  parse(Buffer.concat(socket.written.splice(0)))
  if (!session.isClosed) {
    // It goes on or waits; it ends when it is told to.
    session.destroy(errorCode.cancel)
    await settle()
    await settle()
    assert.equal(parse(Buffer.concat(socket.written.splice(0))).at(-1)?.type ?? frames.goaway, frames.goaway)
  }
  check(it, all)
  assert.ok(socket.writableEnded || socket.destroyed)
  for (const { stream } of all) {
    stream.sendHeaders([':status', '200'], undefined, false)
    stream.sendData(Buffer.alloc(10), true)
    stream.sendTrailers(['x', 'y'], undefined)
    stream.reset(errorCode.cancel)
    stream.fault(errorCode.cancel)
    stream.consumed(1)
    stream.stop()
  }
  session.goaway()
  session.close()
  session.ping(() => {})
  session.destroy(errorCode.cancel)
  socket.push(Buffer.concat([ping, settings(), frame(frames.headers, whole, 99, request()), ...reads.slice(0, 5)]))
  await settle()
  await settle()
  assert.equal(socket.written.length, 0, 'a session that ended says nothing')
  assert.equal(it.events.filter(each => each === 'closed').length, 1)
  check(it, all)
  socket.destroy()
}

const ids = fc.constantFrom(0, 1, 1, 1, 2, 3, 3, 5, 7, 9, 11, 13, 2 ** 31 - 1, 2 ** 32 - 1)
const someFlags = fc.constantFrom(0, 0, 1, 4, 4, 5, 5, 8, 9, 12, 13, 32, 45, 255)
const bytesOf = (maxLength: number) => fc.uint8Array({ maxLength }).map(bytes => Buffer.from(bytes))
const names = fc.constantFrom('a', 'x-y', 'content-length', ':status', ':path', 'Big', '', 'te')
const list = fc
  .array(fc.tuple(names, fc.constantFrom('', '5', 'v', ' v', 'z'.repeat(60))), { maxLength: 14 })
  .chain(more => fc.constantFrom(request('/', more), block([[':status', '200'], ...more]), block(more)))
const value = fc.oneof(fc.nat(100), fc.constantFrom(0, 1, 16_384, 65_535, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1))
const someFrame = fc.oneof(
  {
    weight: 8,
    arbitrary: fc
      .tuple(
        someFlags,
        ids,
        fc.oneof(
          bytesOf(30),
          fc.nat(16_384).map(size => Buffer.alloc(size, 1)),
        ),
      )
      .map(([flag, id, body]) => dataFrame(id, body, flag)),
  },
  { weight: 8, arbitrary: fc.tuple(someFlags, ids, list).map(([flag, id, body]) => frame(frames.headers, flag & ~8, id >>> 0, body)) },
  { weight: 3, arbitrary: fc.tuple(ids, list).map(([id, body]) => frame(frames.headers, whole, id, body)) },
  { weight: 2, arbitrary: fc.tuple(someFlags, ids, bytesOf(30)).map(([flag, id, body]) => frame(frames.continuation, flag, id, body)) },
  { weight: 4, arbitrary: fc.tuple(ids, value).map(([id, delta]) => windowUpdate(id, delta)) },
  { weight: 3, arbitrary: fc.tuple(ids, fc.nat(15)).map(([id, code]) => resetFrame(id, code)) },
  { weight: 3, arbitrary: fc.array(fc.tuple(fc.nat(7), value), { maxLength: 4 }).map(parameters => settings(...parameters)) },
  { weight: 2, arbitrary: fc.constantFrom(ping, frame(frames.ping, 1, 0, Buffer.alloc(8)), frame(frames.settings, 1, 0)) },
  { weight: 1, arbitrary: fc.tuple(ids, fc.nat(15)).map(([last, code]) => goawayFrame(last, code)) },
  { weight: 1, arbitrary: fc.tuple(fc.nat(255), someFlags, ids, bytesOf(20)).map(each => frame(...each)) },
  { weight: 1, arbitrary: bytesOf(14) },
)

for (const role of roles) {
  t.test(`${role}: random bytes end the session or are waited for`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), fc.array(bytesOf(60), { maxLength: 6 }), async (seed, reads) =>
        hearAll(await working(role, seeded(seed)), reads),
      ),
      { numRuns: deep ? 10_000 : 150 },
    )
  })

  t.test(`${role}: random frames, however they are cut`, async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat(),
        fc.array(someFrame, { maxLength: 40 }),
        fc.array(fc.nat(2000), { maxLength: 20 }),
        async (seed, said, cuts) => hearAll(await working(role, seeded(seed)), cut(Buffer.concat(said), cuts)),
      ),
      { numRuns: deep ? 20_000 : 250 },
    )
  })

  t.test(`${role}: what frames mean does not depend on how they were cut`, async () => {
    const outcome = async (reads: readonly Buffer[]) => {
      const it = await started(role, {}, owner => owner.stream.session.streams.size > mostStreams && owner.stream.reset(7))
      const owners = role === 'client' ? [it.open(), it.open(true), it.open()] : it.owners
      for (const read of reads) it.socket.push(Buffer.from(read))
      const said = await it.said()
      const events = [...it.events]
      it.socket.destroy()
      const heard = owners.map(({ log, chunks }) => [
        log.filter(each => !each.startsWith('data')).join(),
        log.some(each => each.startsWith('data') && each.endsWith('end')),
        Buffer.concat(chunks).toString('hex'),
      ])
      return { said, heard, events }
    }
    const short = someFrame.filter(bytes => bytes.length < 300)
    await fc.assert(
      fc.asyncProperty(fc.array(short, { maxLength: 15 }), fc.array(fc.nat(600), { maxLength: 30 }), async (said, cuts) => {
        const bytes = Buffer.concat(said)
        assert.deepEqual(await outcome(cut(bytes, cuts)), await outcome([bytes]))
      }),
      { numRuns: deep ? 10_000 : 150 },
    )
  })

  t.test(`${role}: ordinary traffic with some wrong bytes in it`, async () => {
    const lists = (id: number) =>
      role === 'server'
        ? frame(frames.headers, endHeaders, id, request('/', [['content-length', '40']], 'POST'))
        : frame(
            frames.headers,
            endHeaders,
            id,
            block([
              [':status', '200'],
              ['content-length', '40'],
            ]),
          )
    const traffic = Buffer.concat([
      settings([1, 100], [4, 100_000], [3, 10]),
      frame(frames.settings, 1, 0),
      ...[1, 3, 5].map(lists),
      ...[1, 3, 5, 1, 3, 5].map(id => frame(frames.data, flags.padded, id, padded(Buffer.alloc(10, id), id))),
      windowUpdate(0, 10_000),
      windowUpdate(1, 10_000),
      frame(frames.headers, endStream, 1, block([['x', 'y']])).fill(0, 4, 5),
      frame(frames.continuation, endHeaders, 1, block([['z', 'y']])),
      dataFrame(3, Buffer.alloc(20), endStream),
      ping,
      frame(frames.priority, 0, 5, Buffer.alloc(5)),
      resetFrame(5, 8),
      goawayFrame(5),
    ])
    const change = fc.tuple(fc.nat(traffic.length - 1), fc.nat(255), fc.constantFrom('put', 'put', 'flip', 'drop', 'add', 'twice'))
    await fc.assert(
      fc.asyncProperty(
        fc.nat(),
        fc.array(change, { minLength: 1, maxLength: 4 }),
        fc.array(fc.nat(600), { maxLength: 10 }),
        async (seed, changes, cuts) => {
          let bytes = Buffer.from(traffic)
          for (const [position, octet, how] of changes) {
            const at = position % bytes.length
            const size = how === 'drop' || how === 'twice' ? octet % 20 : 1
            const [before, after] = [bytes.subarray(0, at), bytes.subarray(at)]
            if (how === 'put') bytes[at] = octet
            else if (how === 'flip') bytes[at]! ^= 1 << (octet & 7)
            else if (how === 'drop') bytes = Buffer.concat([before, after.subarray(size)])
            else if (how === 'add') bytes = Buffer.concat([before, Buffer.from([octet]), after])
            else bytes = Buffer.concat([before, after.subarray(0, size), after])
          }
          await hearAll(await working(role, seeded(seed)), cut(bytes, cuts))
        },
      ),
      { numRuns: deep ? 20_000 : 250 },
    )
  })
}

t.test('a sender passes no window, and sends all that it may', async () => {
  const count = 3
  const which = fc.nat(count - 1)
  const step = fc.oneof(
    fc.record({ write: fc.oneof(fc.nat(100), fc.nat(100_000)), which, end: fc.constantFrom(false, false, false, true) }),
    fc.record({ grant: fc.oneof(fc.nat(100), fc.nat(100_000)), which: fc.nat(count) }),
    fc.record({ initial: fc.oneof(fc.nat(100), fc.nat(200_000)) }),
    fc.constant('block' as const),
    fc.constant('unblock' as const),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 30 }), async steps => {
      const it = await started('client', { maxUnsentBytes: 60_000 })
      const owners = Array.from({ length: count }, () => it.open())
      await it.said()
      // As the other side counts: a changed window holds from its acknowledgement on.
      const room = owners.map(() => 65_535)
      const changes: number[] = []
      let connection = 65_535
      const unsent = owners.map(() => 0)
      const over = owners.map(() => false)
      const heard = owners.map(() => false)
      /** Bytes that did not leave at once, and those of them that were told to have left. */
      const waited = owners.map(() => 0)
      const told = owners.map(() => 0)
      owners.forEach((owner, i) => (owner.onSent = length => (told[i]! += length)))
      const take = ({ type, stream, payload, flags: flag }: Heard) => {
        if (type === frames.settings && (flag & flags.ack) !== 0) {
          const delta = changes.shift()!
          room.forEach((_, i) => (room[i]! += delta))
        }
        if (type !== frames.data) return
        const i = (stream - 1) / 2
        assert.ok(!heard[i], 'nothing comes behind an end')
        room[i]! -= payload.length
        connection -= payload.length
        unsent[i]! -= payload.length
        assert.ok(payload.length === 0 || (room[i]! >= 0 && connection >= 0), `a window is passed by ${-Math.min(room[i]!, connection)}`)
        heard[i] = (flag & endStream) !== 0
      }
      const look = async () => {
        await settle()
        await settle()
        for (const each of parse(Buffer.concat(it.socket.written.splice(0)))) take(each)
        if (it.socket.blocked) return
        owners.forEach((_, i) => {
          assert.ok(unsent[i] === 0 || room[i]! <= 0 || connection <= 0, `${unsent[i]} bytes wait for ${room[i]} and ${connection}`)
          assert.equal(heard[i], over[i] && unsent[i] === 0)
          assert.equal(told[i]! + unsent[i]!, waited[i], 'of each byte that waited it is told once that it left')
        })
        const all = unsent.reduce((sum, each) => sum + each, 0)
        assert.deepEqual([it.session.unsent, inside(it.session).sendWindow], [all, connection])
      }
      let initial = 65_535
      for (const each of steps) {
        if (each === 'block') it.socket.blocked = true
        else if (each === 'unblock') it.socket.unblock()
        else if ('write' in each) {
          if (over[each.which]) continue
          unsent[each.which]! += each.write
          over[each.which] = each.end
          waited[each.which]! += each.write - owners[each.which]!.stream.sendData(Buffer.alloc(each.write, 1), each.end)
        } else if ('initial' in each) {
          changes.push(each.initial - initial)
          ;({ initial } = each)
          it.socket.push(settings([4, initial]))
        } else if (each.grant > 0) {
          if (each.which === count) connection += each.grant
          else room[each.which]! += each.grant
          it.socket.push(windowUpdate(each.which === count ? 0 : 2 * each.which + 1, each.grant))
        }
        await look()
      }
      it.socket.unblock()
      await look()
      it.socket.destroy()
    }),
    { numRuns: deep ? 5000 : 100 },
  )
})

/** Says something again and again, until the session ends; answers how often. */
function flood(it: Hand, say: (turn: number) => Buffer, most: number): number {
  for (let i = 0; i < most; i += 1) {
    if (it.session.isClosed) return i
    it.socket.push(say(i))
  }
  return most
}

for (const [what, say] of [
  ['empty DATA', () => frame(frames.data, 0, 1)],
  ['DATA of padding alone', () => frame(frames.data, flags.padded, 1, padded(Buffer.alloc(0), 1))],
  ['PRIORITY', () => frame(frames.priority, 0, 3, Buffer.alloc(5))],
  ['unknown frames', () => frame(99, 0, 1)],
  ['GOAWAY', () => goawayFrame(1)],
  ['PING', () => ping],
  ['answers to no PING', () => frame(frames.ping, 1, 0, Buffer.alloc(8))],
  ['SETTINGS', () => settings([4, 70_000])],
  ['acknowledgements', () => frame(frames.settings, 1, 0)],
  ['late resets', () => resetFrame(3, 8)],
  ['late HEADERS', () => frame(frames.headers, whole, 3, block([['x', 'y']]))],
  ['late windows', () => windowUpdate(3, 1)],
] as const)
  t.test(`a flood of ${what} ends the session soon`, async t => {
    for (const role of roles) {
      const it = await started(role)
      if (role === 'client') [it.open(), it.open()].at(1)!.stream.reset(8)
      else {
        await it.hear(frame(frames.headers, endHeaders, 1, request()), frame(frames.headers, endHeaders, 3, request()))
        it.owners[1]!.stream.reset(8)
      }
      const taken = flood(it, say, 5000)
      t.ok(taken < 1500, `${role}: ${taken}`)
      await it.said()
      t.strictSame(it.events.slice(-2), ['flooded', 'closed'])
      it.socket.destroy()
    }
  })

t.test('a header block without an end ends the session, in few bytes or few frames', async t => {
  for (const part of [Buffer.alloc(0), Buffer.alloc(1), Buffer.alloc(16_384)]) {
    const it = await started('server')
    await it.hear(frame(frames.headers, 0, 1, part))
    const taken = flood(it, () => frame(frames.continuation, 0, 1, part), 1000)
    t.ok(taken <= 40, `${taken} parts of ${part.length} bytes`)
    t.equal((await it.said()).at(-1), 'goaway 0 11')
    it.socket.destroy()
  }
})

t.test('lists that are large once read are held no longer than they may be', async t => {
  const it = await started('server', { headerListBytes: 10_000, headerCount: 50 })
  // An entry of 3 KB, and 4000 indices of it: 12 MB of a list.
  const entry = Buffer.concat([Buffer.from([0x40, 1]), Buffer.from('k'), Buffer.from([0x7f, 0xb9, 0x16]), Buffer.alloc(3000, 'v')])
  for (let id = 1; id < 100; id += 2) await it.hear(frame(frames.headers, whole, id, Buffer.concat([entry, Buffer.alloc(4000, 0x80 | 62)])))
  t.strictSame([it.owners.length, it.owners[0]!.log], [50, ['too large 1']])
  it.socket.destroy()
})

t.test('tiny DATA frames that nobody takes: a window of bytes, and no more', async t => {
  const it = await started('server', { streamWindowBytes: 5000, connectionWindowBytes: 70_000, heldBytes: 20_000 }, owner => {
    owner.slow = true
  })
  for (let id = 1; id < 60; id += 2) it.socket.push(frame(frames.headers, endHeaders, id, request()))
  const taken = flood(it, i => dataFrame((i % 30) * 2 + 1, 'x'), 200_000)
  t.ok(taken <= 20_000 + 70_000 + 1, `${taken} bytes were taken`)
  t.equal((await it.said()).at(-1), `goaway 59 ${errorCode.flowControlError}`)
  it.socket.destroy()
})

t.test('windows granted byte by byte to nobody cost nothing', async t => {
  const it = await started('client')
  it.open()
  await it.said()
  const taken = flood(it, i => windowUpdate(i % 2, 1), 20_000)
  t.strictSame([taken, await it.said(), inside(it.session).waiting.size], [20_000, [], 0])
  it.socket.destroy()
})

t.test('streams opened and reset for ever leave nothing behind', async t => {
  const it = await started('server', {}, owner => owner.stream.id % 4 === 1 && owner.stream.reset(8))
  const taken = flood(
    it,
    i => Buffer.concat([frame(frames.headers, endHeaders, 2 * i + 1, request()), ...(i % 2 === 0 ? [] : [resetFrame(2 * i + 1, 8)])]),
    5000,
  )
  t.equal(taken, 5000, 'it is for the connection to say how many are too many')
  const { resets, held, waiting } = inside(it.session)
  t.strictSame([it.session.streams.size, resets.size, held, waiting.size], [0, 1024, 0, 0])
  it.socket.destroy()
})

t.test('who takes nothing and asks for more is put out: frames in answer', async t => {
  for (const role of roles) {
    const it = await started(role, { maxUnsentBytes: 1000, untakenBytes: 2400 })
    it.socket.blocked = true
    if (role === 'client') it.open(false, [...get, 'x', 'y'.repeat(2000)])
    else {
      await it.hear(frame(frames.headers, endHeaders, 1, request()))
      it.owners[0]!.stream.sendHeaders([':status', '200', 'x', 'y'.repeat(2000)], undefined, false)
    }
    const taken = flood(it, () => ping, 90)
    t.ok(taken < 30, `${role}: ${taken}`)
    t.strictSame(it.events, ['flooded', 'closed'])
    it.socket.unblock()
    t.equal((await it.said()).at(-1), role === 'client' ? 'goaway 0 11' : 'goaway 1 11')
    it.socket.destroy()
  }
})

t.test('who takes nothing and asks for more is put out: answers', async t => {
  const it = await started('server', {}, owner =>
    owner.stream.sendHeaders([':status', '302', 'location', 'x'.repeat(200)], undefined, true),
  )
  it.socket.blocked = true
  const taken = flood(it, i => frame(frames.headers, whole, 2 * i + 1, request()), 50_000)
  t.ok(taken < 20_000, `${taken} requests were answered`)
  t.ok(inside(it.session).writer.pending < 4.1 * 1024 * 1024, `${inside(it.session).writer.pending} bytes wait`)
  t.strictSame(it.events, ['flooded', 'closed'])
  it.socket.destroy()
})

t.test('an owner hears nothing behind its end, also where padding is what ends it', async t => {
  const limits = { maxUnsentBytes: 1000, untakenBytes: 2020, streamWindowBytes: 400 }
  const it = await started('server', limits)
  await it.hear(frame(frames.headers, endHeaders, 1, request()))
  it.socket.blocked = true
  it.owners[0]!.stream.sendHeaders([':status', '200', 'x', 'y'.repeat(2000)], undefined, false)
  await it.hear(frame(frames.data, flags.padded, 1, padded(Buffer.from('x'), 250)))
  t.strictSame(it.owners[0]!.log, ['closed 8 session'])
  t.strictSame(it.events, ['flooded', 'closed'])
  it.socket.destroy()
})

/** A connection as it serves, whose requests all wait for an upstream that never comes. */
async function serving(limits: Partial<Http2Limits>): Promise<{ socket: HandSocket; session: Http2Session }> {
  const socket = new HandSocket()
  const dialer = {
    pick: () => undefined,
    doubts: () => false,
    dial: () => new Promise<never>(() => {}),
    lost: () => {},
    key: () => '',
    spread: () => 1,
  }
  const all = { ...defaultHttp2Limits, ...limits }
  const door = {
    channels: new Channels(dialer, upstreamChannelLimits, all),
    open: () => ({ refused: undefined, timeoutMs: 0, stillAllowed: () => true, finished: () => {} }),
    threw: (error: unknown) => t.error(error),
  }
  const connection = serveHttp2(socket as unknown as Socket, door, all)
  socket.push(Buffer.concat([prefaceText, settings([4, 0])]))
  await settle()
  return { socket, session: (connection as unknown as { session: Http2Session }).session }
}

t.test('requests that are refused, to a client that takes no body of an answer, are counted as streams too', async t => {
  const { socket, session } = await serving({ maxConcurrentStreams: 20, resetBurst: 1_000_000 })
  for (let i = 0; i < 1000; i += 1) socket.push(frame(frames.headers, whole, 2 * i + 1, request('bad')))
  await settle()
  t.ok(session.streams.size <= 20, `${session.streams.size} streams`)
  t.equal(session.isClosed, false)
  socket.destroy()
})

t.test('tiny pieces of bodies that wait for an upstream cost little more than their bytes', async t => {
  const { socket, session } = await serving({})
  socket.push(frame(frames.headers, endHeaders, 1, request('/', [], 'POST')))
  const before = process.memoryUsage().arrayBuffers
  for (let i = 0; i < 60_000; i += 1) socket.push(dataFrame(1, 'x'))
  t.equal(inside(session).held, 60_000)
  const grown = process.memoryUsage().arrayBuffers - before
  t.ok(grown < 1_000_000, `${grown} bytes for 60,000`)
  await settle()
  socket.destroy()
})

t.test('an upload that never waits for its windows is stopped at once, and dropped as it comes', async t => {
  const it = await started('server', {}, owner => {
    owner.slow = true
  })
  await it.hear(frame(frames.headers, endHeaders, 1, request()))
  flood(it, () => dataFrame(1, Buffer.alloc(16_384)), 300)
  const [owner] = it.owners
  t.strictSame([owner!.chunks.length, owner!.log.at(-1)], [16, `closed ${errorCode.flowControlError} fault`])
  t.equal(inside(it.session).held, 0)
  t.strictSame(
    (await it.said()).filter(each => each.startsWith('reset')),
    [`reset 1 ${errorCode.flowControlError}`],
  )
  it.socket.destroy()
})

t.test('a length that lies is read no further than its frame', async t => {
  for (const type of [frames.headers, frames.settings, 77]) {
    const it = await started('server')
    const huge = frame(type, 0, 1)
    huge.writeUIntBE(0xff_ffff, 0, 3)
    await it.hear(huge)
    t.equal((await it.said()).at(-1), `goaway 0 ${errorCode.frameSizeError}`)
    it.socket.destroy()
  }
  const waits = await started('server')
  const long = frame(frames.headers, whole, 1)
  long.writeUIntBE(16_384, 0, 3)
  await waits.hear(long, u32(0))
  t.equal(waits.session.isClosed, false, 'it waits for the rest')
  waits.socket.destroy()
})
