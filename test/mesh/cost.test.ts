// What a decision costs does not depend on how many intentions there are, nor what a route costs on how many routes.
import t from 'tap'
import { measure, type Measurement } from '../../bench/micro/measure.ts'
import { casesOf } from '../../bench/micro/mesh.ts'
import { routingCases } from '../../bench/micro/routing.ts'

/** A scan would cost a thousand times as much; caches and a busy machine cost a few times as much at most. */
const margin = 12

async function measured(count: number): Promise<Measurement[]> {
  const all: Measurement[] = []
  for (const each of [...casesOf(count), ...routingCases(count)]) all.push(await measure(each, { roundMs: 3, rounds: 9 }))
  return all
}

t.test('a decision costs the same with ten thousand intentions, and a route with ten thousand routes, as with ten', async t => {
  // Once to warm the code up, so that neither size is measured cold.
  await measured(10)
  const few = await measured(10)
  for (const [i, { name, ns }] of (await measured(10_000)).entries()) {
    t.ok(ns < few[i]!.ns * margin, `${name}: ${ns.toFixed(0)} ns, with 10: ${few[i]!.ns.toFixed(0)} ns`)
  }
})
