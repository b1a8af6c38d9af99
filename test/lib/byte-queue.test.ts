/** Bytes that wait, beside a plain Buffer that is concatenated anew each time; and what they cost. */
import assert from 'node:assert/strict'
import * as fc from 'fast-check'
import t from 'tap'
import { ByteQueue } from '../../src/lib/byte-queue.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'

/** Memory of the blocks that it has. */
const costOf = (queue: ByteQueue) =>
  (queue as unknown as { blocks: readonly Buffer[] }).blocks.reduce((sum, block) => sum + block.length, 0)
const largestBlock = 16 * 1024

t.test('what is put in comes out, in order and once, however it is taken', async () => {
  const size = fc.oneof({ weight: 4, arbitrary: fc.nat(300) }, fc.constantFrom(0, 1, 255, 256, 257, 512), fc.nat(50_000))
  const step = fc.oneof(
    { weight: 5, arbitrary: size.map(push => ({ push })) },
    // A part of what the first piece has, in thousandths.
    { weight: 4, arbitrary: fc.constantFrom(0, 1, 500, 999, 1000, 1000).map(drop => ({ drop })) },
    { weight: 1, arbitrary: fc.constantFrom('all' as const, 'clear' as const) },
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), steps => {
      const queue = new ByteQueue()
      let model = Buffer.alloc(0)
      let next = 0
      const drop = (length: number) => {
        const piece = queue.first().subarray(0, length)
        assert.ok(piece.equals(model.subarray(0, length)))
        queue.drop(length)
        model = model.subarray(length)
      }
      for (const each of steps) {
        if (each === 'clear') {
          queue.clear()
          model = Buffer.alloc(0)
        } else if (each === 'all') while (queue.length > 0) drop(queue.first().length)
        else if ('drop' in each) drop(Math.floor((queue.first().length * each.drop) / 1000))
        else {
          const bytes = Buffer.from(Uint8Array.from({ length: each.push }, () => (next = (next + 1) % 251)))
          queue.push(bytes)
          model = Buffer.concat([model, bytes])
          // It keeps a copy.
          bytes.fill(255)
        }
        assert.equal(queue.length, model.length)
        assert.equal(queue.first().length > 0, model.length > 0)
        const pieces = [...queue.pieces()]
        assert.ok(pieces.every(piece => piece.length > 0))
        assert.ok(Buffer.concat(pieces).equals(model))
        assert.ok(costOf(queue) <= 2 * queue.length + 2 * largestBlock, `${costOf(queue)} bytes for ${queue.length}`)
      }
    }),
    { numRuns: deep ? 20_000 : 300 },
  )
})

t.test('many tiny pieces cost no more than twice their bytes and a block', async t => {
  const queue = new ByteQueue()
  const byte = Buffer.alloc(1, 'x')
  for (let i = 1; i <= 100_000; i += 1) {
    queue.push(byte)
    if (costOf(queue) > 2 * i + 256) t.fail(`${costOf(queue)} bytes for ${i}`)
  }
  t.ok([...queue.pieces()].length < 20, 'and few objects')
  t.equal(queue.length, 100_000)
  while (queue.length > 0) queue.drop(queue.first().length)
  t.equal(costOf(queue), 0, 'an empty one has none')
})

t.test('a piece of a large read does not keep the read', async t => {
  const queue = new ByteQueue()
  queue.push(Buffer.alloc(1 << 20).subarray(5, 9))
  t.equal(queue.first().buffer.byteLength <= 16 * 1024, true)
  t.equal(costOf(queue), 256)
})

t.test('one that is filled as fast as it is emptied stays small', async t => {
  const queue = new ByteQueue()
  queue.push(Buffer.alloc(1000))
  let most = 0
  for (let i = 0; i < 100_000; i += 1) {
    queue.push(Buffer.alloc(100))
    for (let left = 100; left > 0;) {
      const size = Math.min(left, queue.first().length)
      queue.drop(size)
      left -= size
    }
    most = Math.max(most, costOf(queue))
  }
  t.equal(queue.length, 1000)
  t.ok(most <= 2 * 1100 + 2 * largestBlock, `${most}`)
})
