// Round robin: healthy endpoints only, each in proportion to its weight.
import * as fc from 'fast-check'
import t from 'tap'
import { maxWeight } from '../../../src/mesh/balance/picker.ts'
import { RoundRobin } from '../../../src/mesh/balance/round-robin.ts'
import type { Endpoint } from '../../../src/mesh/snapshot.ts'

const endpoint = (id: string, weight = 1, healthy = true): Endpoint => ({ id, address: '127.0.0.1', port: 1, weight, healthy })
const picks = (picker: RoundRobin, count: number) => Array.from({ length: count }, () => picker.pick()?.id).join('')

t.test('endpoints take turns', t => {
  const picker = new RoundRobin([endpoint('a'), endpoint('b'), endpoint('c')])
  t.equal(picker.size, 3)
  t.equal(picks(picker, 7), 'abcabca')
  t.end()
})

t.test('an unhealthy endpoint is never picked, and none healthy is no pick', t => {
  t.equal(picks(new RoundRobin([endpoint('a'), endpoint('b', 1, false), endpoint('c')]), 4), 'acac')
  const none = new RoundRobin([endpoint('a', 1, false), endpoint('b', 0)])
  t.equal(none.size, 0)
  t.equal(none.pick(), undefined)
  t.equal(new RoundRobin([]).pick(), undefined)
  t.end()
})

t.test('weights are shares, evenly spread', t => {
  t.equal(picks(new RoundRobin([endpoint('a', 5), endpoint('b', 1), endpoint('c', 1)]), 7), 'aabacaa')
  t.equal(picks(new RoundRobin([endpoint('a', 64), endpoint('b', 128)]), 6), 'babbab')
  t.equal(picks(new RoundRobin([endpoint('a', 7), endpoint('b', 7)]), 4), 'abab')
  t.end()
})

t.test('what is skipped is passed over; when all are, there is no pick', t => {
  const picker = new RoundRobin([endpoint('a'), endpoint('b')])
  t.equal(picker.pick(({ id }) => id === 'a')?.id, 'b')
  t.equal(
    picker.pick(() => true),
    undefined,
  )
  t.equal(picker.pick()?.id, 'a')
  t.end()
})

t.test('a picker goes on where the one that it replaces stood', t => {
  const first = new RoundRobin([endpoint('a'), endpoint('b'), endpoint('c')])
  first.pick()
  t.equal(new RoundRobin([endpoint('a'), endpoint('b'), endpoint('c')], first).pick()?.id, 'b')
  t.equal(new RoundRobin([endpoint('a')], first).pick()?.id, 'a')
  t.equal(new RoundRobin([], first).pick(), undefined)
  t.end()
})

t.test('over one round every endpoint has exactly its share', t => {
  const weights = fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 6 })
  fc.assert(
    fc.property(weights, list => {
      const clamped = list.map(weight => Math.min(weight, maxWeight))
      const total = clamped.reduce((sum, weight) => sum + weight, 0)
      const picker = new RoundRobin(list.map((weight, i) => endpoint(String(i), weight)))
      const counts = list.map(() => 0)
      for (let i = 0; i < total; i++) counts[Number(picker.pick()!.id)]! += 1
      return counts.every((count, i) => count === clamped[i])
    }),
    { numRuns: 200 },
  )
  t.end()
})

t.test('very many endpoints of odd weights get one turn each', t => {
  const many = Array.from({ length: 1000 }, (_, i) => endpoint(String(i), 1 + (i % 127)))
  const picker = new RoundRobin(many)
  t.equal(new Set(Array.from({ length: 1000 }, () => picker.pick()!.id)).size, 1000)
  t.end()
})
