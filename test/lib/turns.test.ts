/** Turns: order within a key, independence between keys. */
import t from 'tap'
import { Turns } from '../../src/lib/turns.ts'

t.test('work of one key runs in order, one at a time, also after a failure; other keys do not wait', async t => {
  const turns = new Turns()
  const seen: string[] = []
  const releases: (() => void)[] = []
  const work =
    (name: string, fails = false) =>
    () =>
      new Promise<string>((resolve, reject) => {
        seen.push(`${name} begins`)
        releases.push(() => (fails ? reject(new Error(name)) : resolve(name)))
      })
  const first = turns.run('a', work('a1', true))
  const second = turns.run('a', work('a2'))
  const other = turns.run('b', work('b1'))
  await new Promise(setImmediate)
  t.same(seen, ['a1 begins', 'b1 begins'])
  t.equal(turns.isBusy('a'), true)
  const idle = turns.idle('a').then(() => seen.push('a is idle'))
  releases.shift()!()
  await t.rejects(first, { message: 'a1' })
  await new Promise(setImmediate)
  t.same(seen, ['a1 begins', 'b1 begins', 'a2 begins'])
  releases.pop()!()
  t.equal(await second, 'a2')
  await idle
  t.equal(seen.at(-1), 'a is idle')
  t.same([turns.isBusy('a'), turns.isBusy('b')], [false, true], 'nothing is kept of what is over')
  releases.shift()!()
  t.equal(await other, 'b1')
})
