/** Which target of a resolver is used: left at once, come back to only after a while without a break. */
import t from 'tap'
import { failoverLimits, firstTarget, followHealth, type FailoverState } from '../../src/mesh/failover.ts'

const { failBackMs } = failoverLimits

/** What is used after each of these, `[milliseconds, usable…]`. */
function follow(steps: [number, ...boolean[]][], from: FailoverState = firstTarget): number[] {
  let state = from
  return steps.map(([at, ...usable]) => {
    state = followHealth(state, usable, at)
    return state.current
  })
}

t.test('a target that cannot be used is left at once, for the first that can', async t => {
  t.same(
    follow([
      [0, true, true, true],
      [1, false, false, true],
    ]),
    [0, 2],
  )
})

t.test('a target is come back to after a while without a break', async t => {
  const steps: [number, ...boolean[]][] = [
    [0, false, true],
    [100, true, true],
    [100 + failBackMs - 1, true, true],
    [100 + failBackMs, true, true],
  ]
  t.same(follow(steps), [1, 1, 1, 0])
})

t.test('a target that comes and goes is not come back to', async t => {
  const steps = Array.from({ length: 40 }, (_, i): [number, ...boolean[]] => [i * (failBackMs / 2), i % 2 === 1, true])
  t.same(new Set(follow(steps)), new Set([1]))
})

t.test('the one in use fails: the preferred one is taken at once, although it has only just come back', async t => {
  t.same(
    follow([
      [0, false, true],
      [100, true, true],
      [101, true, false],
    ]),
    [1, 1, 0],
  )
})

t.test('the best that has been there for long enough is come back to, not the very first', async t => {
  const steps: [number, ...boolean[]][] = [
    [0, false, false, true],
    [10, false, true, true],
    [10 + failBackMs, true, true, true],
    [10 + 2 * failBackMs, true, true, true],
  ]
  t.same(follow(steps), [2, 2, 1, 0])
})

t.test('where nothing can be used the choice stays', async t => {
  t.same(
    follow([
      [0, false, true],
      [1, false, false],
      [2, false, true],
      [3, true, false],
    ]),
    [1, 1, 1, 0],
  )
})

t.test('nothing is made anew where nothing changes', async t => {
  t.equal(followHealth(firstTarget, [true, false], 5), firstTarget)
  const over = followHealth(firstTarget, [false, true], 5)
  t.equal(followHealth(over, [false, true], 6), over)
})

t.test('a resolver that has lost targets goes on with those that it has', async t => {
  t.same(follow([[0, true]], { current: 2, usableSinceMs: [undefined, undefined] }), [0])
  t.same(follow([[0, false]], { current: 2, usableSinceMs: [undefined, undefined] }), [0])
})
