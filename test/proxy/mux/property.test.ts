/** Properties of the framing: what the bytes mean does not depend on how they were cut, and no window is ever passed. */
import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import t from 'tap'
import { readBuffer } from '../../../src/lib/read-buffer.ts'
import { readUint32 } from '../../../src/lib/uint32.ts'
import { headerBytes, initialWindow, writeHeader } from '../../../src/proxy/mux/frames.ts'
import { settle } from '../../support/fake-clock.ts'
import { cut } from '../http1/harness.ts'
import { data, decode, encode, hand, listen, ping, syn, window } from './wire.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const word = fc.nat(0xffff_ffff)

t.test('a header is read as it was written', t => {
  fc.assert(
    fc.property(fc.nat(255), fc.nat(255), word, word, fc.nat(20), (type, flags, id, length, at) => {
      const bytes = Buffer.alloc(at + headerBytes, 255)
      writeHeader(bytes, at, type, flags, id, length)
      const read = [bytes[at], bytes[at + 1], bytes.readUInt16BE(at + 2), bytes.readUInt32BE(at + 4), bytes.readUInt32BE(at + 8)]
      assert.deepEqual(read, [0, type, flags, id, length])
      assert.deepEqual([readUint32(bytes, at + 4), readUint32(bytes, at + 8)], [id, length])
    }),
    { numRuns: 200 },
  )
  t.end()
})

const ids = fc.constantFrom(0, 1, 2, 3, 5, 7)
const flags = fc.constantFrom(0, 0, 0, 0, 1, 1, 2, 4, 4, 8, 5, 9, 12, 13, 0x100)
const someFrame = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(flags, ids, fc.uint8Array({ maxLength: 40 })).map(([f, id, body]) => data(f, id, Buffer.from(body))) },
  { weight: 3, arbitrary: fc.tuple(flags, ids, fc.constantFrom(0, 1, 5000, 0xffff_0000)).map(([f, id, delta]) => window(f, id, delta)) },
  { weight: 1, arbitrary: fc.tuple(flags, word).map(([f, value]) => ping(f & 3, value)) },
  { weight: 1, arbitrary: fc.constantFrom(0, 0, 1, 2, 9).map(code => encode(3, 0, 0, code)) },
  { weight: 1, arbitrary: fc.uint8Array({ minLength: 1, maxLength: 14 }).map(noise => Buffer.from(noise)) },
)
const opened = Buffer.concat([window(syn, 1), window(syn, 3), window(syn, 5)])

/** Everything that a session makes of these reads. */
async function outcome(role: 'client' | 'server', reads: Buffer[]): Promise<unknown> {
  const at = hand(role)
  const logs: ReturnType<typeof listen>[] = []
  if (role === 'client') {
    for (let i = 0; i < 3; i += 1) at.session.open()!.write('x', 'latin1')
  }
  const known = new Set<object>()
  const watch = () => {
    for (const stream of at.streams) {
      if (known.has(stream)) continue
      known.add(stream)
      logs.push(listen(stream))
    }
  }
  for (const read of role === 'server' ? [opened, ...reads] : reads) {
    at.socket.push(Buffer.from(read))
    watch()
  }
  await settle()
  watch()
  const said = await at.said()
  return [
    said,
    at.session.fault,
    at.session.size,
    at.session.leaving,
    at.session.isClosed,
    at.events,
    logs.map(({ log, text }) => [log, text()]),
  ]
}

t.test('any cut of the bytes gives the same result', async t => {
  for (const role of ['server', 'client'] as const) {
    await fc.assert(
      fc.asyncProperty(fc.array(someFrame, { maxLength: 12 }), fc.array(fc.nat(400), { maxLength: 30 }), async (frames, cuts) => {
        const whole = Buffer.concat(frames)
        assert.deepEqual(await outcome(role, cut(whole, cuts)), await outcome(role, [whole]))
      }),
      { numRuns: deep ? 5000 : 150 },
    )
  }
  const each = Buffer.concat([data(0, 1, 'one'), data(5, 7, 'two'), window(4, 3), ping(1, 5), window(8, 5), data(4, 1, '')])
  const single = Array.from(each, byte => Buffer.from([byte]))
  t.strictSame(await outcome('server', single), await outcome('server', [each]))
})

t.test('random bytes end the session or are waited for; nothing is thrown', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async noise => {
      const at = hand('server')
      await at.hear(Buffer.from(noise))
      if (noise.length >= headerBytes && (noise[0] !== 0 || noise[1]! > 3)) assert.equal(at.session.fault, 'protocol')
    }),
    { numRuns: deep ? 20_000 : 300 },
  )
})

t.test('a sender never passes its window, sends all that it may, and hears a drain after each refusal', async () => {
  const step = fc.oneof(
    fc.record({ write: fc.oneof(fc.nat(100), fc.nat(400_000)) }),
    fc.record({ grant: fc.oneof(fc.nat(100), fc.nat(300_000)) }),
    fc.constant('turn' as const),
    fc.constant('block' as const),
    fc.constant('unblock' as const),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 25 }), async steps => {
      const at = hand('client')
      const stream = at.session.open()!
      let [written, granted, refused, drains, sent] = [0, initialWindow, false, 0, 0]
      stream.on('drain', () => {
        drains += 1
        refused = false
      })
      const count = async () => {
        for (const { type, length } of await at.frames()) if (type === 'data') sent += length
        if (sent > granted) assert.fail(`${sent} bytes were sent of ${granted} granted`)
      }
      for (const each of steps) {
        if (each === 'turn') await count()
        else if (each === 'block') at.socket.blocked = true
        else if (each === 'unblock') at.socket.unblock()
        else if ('write' in each) {
          written += each.write
          if (!stream.write(Buffer.alloc(each.write, 1))) refused = true
        } else {
          granted += each.grant
          await at.hear(window(0, 1, each.grant))
        }
      }
      at.socket.unblock()
      await settle()
      await count()
      assert.equal(sent, Math.min(written, granted))
      assert.equal(refused, written > granted - readBuffer.length, `${drains} drains, written ${written} of ${granted}`)
      at.session.destroy()
    }),
    { numRuns: deep ? 3000 : 100 },
  )
})

t.test('a receiver grants what its consumer took, holds a window at most, and gives out every byte once and in order', async () => {
  const step = fc.oneof(fc.nat(90_000), fc.constant('pause' as const), fc.constant('resume' as const), fc.constant('turn' as const))
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), fc.nat(5000), async (steps, cutBytes) => {
      const at = hand('server')
      await at.hear(window(syn, 1))
      const stream = at.streams[0]!
      let [next, taken, granted] = [0, 0, initialWindow]
      stream.on('data', (chunk: Buffer) => {
        if (stream.isPaused()) assert.fail('a paused stream gave something out')
        for (const byte of chunk) if (byte !== taken++ % 251) assert.fail(`a wrong byte at ${taken - 1}`)
      })
      const count = async () => {
        for (const { type, length } of await at.frames()) if (type === 'window') granted += length
        if (granted - taken > initialWindow) assert.fail(`${granted} were granted and ${taken} taken`)
      }
      for (const each of steps) {
        if (each === 'pause') stream.pause()
        else if (each === 'resume') stream.resume()
        else if (each === 'turn') await count()
        else {
          await count()
          const size = Math.min(each, granted - next)
          const frame = data(0, 1, Buffer.from(Uint8Array.from({ length: size }, (_, i) => (next + i) % 251)))
          next += size
          for (let from = 0; from < frame.length; from += cutBytes + 1)
            at.socket.push(Buffer.from(frame.subarray(from, from + cutBytes + 1)))
          await settle()
          assert.equal(at.session.fault, '')
          if (stream.readableLength > initialWindow) assert.fail(`${stream.readableLength} bytes are held`)
        }
      }
      stream.resume()
      await settle()
      await count()
      assert.deepEqual([taken, stream.readableLength, granted >= taken + initialWindow / 2], [next, 0, true])
      at.session.destroy()
    }),
    { numRuns: deep ? 2000 : 60 },
  )
})

t.test('what is said is whole frames, whatever is written', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(fc.nat(3), fc.nat(70_000), fc.boolean()), { maxLength: 20 }), async writes => {
      const at = hand('client')
      const streams = Array.from({ length: 4 }, () => at.session.open()!)
      const expected = [0, 0, 0, 0]
      for (const [which, size, text] of writes) {
        expected[which]! += size
        if (text) streams[which]!.write('x'.repeat(size), 'latin1')
        else streams[which]!.write(Buffer.alloc(size, 120))
      }
      await settle()
      const sent = [0, 0, 0, 0]
      for (const { id, body } of decode(Buffer.concat(at.socket.written))) {
        sent[(id - 1) / 2]! += body.length
        assert.ok(body.every(byte => byte === 120))
      }
      assert.deepEqual(
        sent,
        expected.map(size => Math.min(size, initialWindow)),
      )
      at.session.destroy()
    }),
    { numRuns: deep ? 1000 : 40 },
  )
})
