// Waits between attempts: doubling to a bound, drawn at random, and beginning again after a success.
import t from 'tap'
import { Backoff } from '../../src/lib/backoff.ts'

t.test('waits double up to the bound', t => {
  const backoff = new Backoff({ firstMs: 100, maxMs: 1000, jitter: 0 })
  t.same(
    Array.from({ length: 6 }, () => backoff.nextMs()),
    [100, 200, 400, 800, 1000, 1000],
  )
  t.end()
})

t.test('a success begins again', t => {
  const backoff = new Backoff({ firstMs: 100, maxMs: 1000, jitter: 0 })
  backoff.nextMs()
  backoff.nextMs()
  backoff.reset()
  t.equal(backoff.nextMs(), 100)
  t.end()
})

t.test('jitter is a share of the wait, drawn for each', t => {
  const draws = [0, 0.5, 0.999]
  const backoff = new Backoff({ firstMs: 1000, maxMs: 1000, jitter: 0.4 }, () => draws.shift()!)
  t.same(
    [backoff.nextMs(), backoff.nextMs(), backoff.nextMs()].map(ms => Math.round(ms)),
    [600, 800, 1000],
  )
  t.end()
})

t.test('very many failures stay at the bound', t => {
  const backoff = new Backoff({ firstMs: 1, maxMs: 60_000, jitter: 0 })
  for (let i = 0; i < 5000; i++) backoff.nextMs()
  t.equal(backoff.nextMs(), 60_000)
  t.end()
})
