// What a decision costs does not depend on how many intentions there are.
import t from 'tap'
import { measure } from '../../bench/micro/measure.ts'
import { casesOf } from '../../bench/micro/mesh.ts'

/** A scan would cost a thousand times as much; caches and a busy machine cost a few times as much at most. */
const margin = 12

t.test('a decision costs the same with ten thousand intentions as with ten', t => {
  const options = { roundMs: 3, rounds: 9 }
  // Once to warm the code up, so that neither size is measured cold.
  casesOf(10).map(each => measure(each, options))
  const few = casesOf(10).map(each => measure(each, options))
  const many = casesOf(10_000).map(each => measure(each, options))
  for (const [i, { name, ns }] of many.entries()) {
    t.ok(ns < few[i]!.ns * margin, `${name}: ${ns.toFixed(0)} ns, with 10: ${few[i]!.ns.toFixed(0)} ns`)
  }
  t.end()
})
