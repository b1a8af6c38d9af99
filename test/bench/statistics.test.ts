// What the benchmarks say of their rounds: medians, paired ratios and the interval of the bootstrap.
import t from 'tap'
import { bootstrap, pairedDifference, pairedRatio, quantile, summarise } from '../../bench/path/statistics.ts'
import { seeded } from '../support/seeded.ts'

t.test('a quantile lies between its neighbours', t => {
  t.equal(quantile([3, 1, 2], 0.5), 2)
  t.equal(quantile([4, 1, 3, 2], 0.5), 2.5)
  t.same(summarise([1, 2, 3, 4, 5]), { median: 3, p25: 2, p75: 4 })
  t.ok(Number.isNaN(quantile([], 0.5)))
  t.end()
})

t.test('the interval holds the true median about 95 times in 100, and shrinks with more rounds', t => {
  const random = seeded(7)
  // Exponential noise on top: lopsided, as the times of a busy machine are. Its median is 10 + ln 2.
  const truth = 10 + Math.LN2
  const sample = (rounds: number) => Array.from({ length: rounds }, () => 10 - Math.log1p(-random()))
  const intervals = Array.from({ length: 200 }, (_, i) => bootstrap(sample(15), i))
  const hits = intervals.filter(({ low, high }) => low <= truth && truth <= high).length
  t.ok(hits >= 176 && hits <= 198, `${hits} of 200 intervals hold it`)
  t.ok(
    intervals.every(({ low, median, high }) => low <= median && median <= high),
    'the median is inside',
  )
  const width = ({ low, high }: { low: number; high: number }) => high - low
  t.ok(width(bootstrap(sample(400))) < width(bootstrap(sample(10))), 'more rounds say more')
  t.end()
})

t.test('the same rounds give the same interval', t => {
  const values = [1.1, 0.9, 1, 1.2, 0.8]
  t.same(bootstrap(values), bootstrap(values))
  t.end()
})

t.test('ratios are of the same round, so a machine that slows down changes nothing', t => {
  const drift = [1, 2, 3, 4, 5, 6, 7]
  const ours = drift.map(slow => 70 * slow)
  const theirs = drift.map(slow => 100 * slow)
  const rounded = ({ median, low, high }: { median: number; low: number; high: number }) => [median, low, high].map(each => each.toFixed(6))
  t.same(rounded(pairedRatio(ours, theirs)), ['0.700000', '0.700000', '0.700000'])
  t.same(rounded(pairedDifference([3, 4, 5], [1, 2, 3])), ['2.000000', '2.000000', '2.000000'])
  t.end()
})
