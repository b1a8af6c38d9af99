// Go's durations, as the API takes and prints them.
import * as fc from 'fast-check'
import t from 'tap'
import { formatDuration, parseDuration } from '../../src/lib/duration.ts'

t.test('durations are read as Go reads them', t => {
  const cases: [string, number][] = [
    ['0', 0],
    ['-0', 0],
    ['5s', 5000],
    ['1h30m', 5_400_000],
    ['1.5h', 5_400_000],
    ['.5s', 500],
    ['1.s', 1000],
    ['-2ms', -2],
    ['+2ms', 2],
    ['250ms', 250],
    ['3us', 0.003],
    ['3µs', 0.003],
    ['3μs', 0.003],
    ['10ns', 0.00001],
    ['1m1m', 120_000],
    ['2562047h', 9_223_369_200_000],
  ]
  for (const [text, ms] of cases) t.equal(Math.round(parseDuration(text)! * 1e6), Math.round(ms * 1e6), text)
  t.end()
})

t.test('what Go refuses is refused', t => {
  for (const text of [
    '',
    ' ',
    '5',
    '5 s',
    's',
    '.s',
    '-',
    '--1s',
    '1d',
    '1h 30m',
    '5S',
    '1e3s',
    '0x1s',
    'Infinitys',
    '9999999h',
    `${'1'.repeat(70)}s`,
  ]) {
    t.equal(parseDuration(text), undefined, JSON.stringify(text))
  }
  t.end()
})

t.test('durations are printed as Go prints them', t => {
  const cases: [number, string][] = [
    [0, '0s'],
    [5000, '5s'],
    [90_000, '1m30s'],
    [60_000, '1m0s'],
    [3_600_000, '1h0m0s'],
    [5_400_000, '1h30m0s'],
    [259_200_000, '72h0m0s'],
    [1.5, '1.5ms'],
    [250, '250ms'],
    [0.25, '250µs'],
    [0.000_001, '1ns'],
    [1500, '1.5s'],
    [-90_000, '-1m30s'],
  ]
  for (const [ms, text] of cases) t.equal(formatDuration(ms), text)
  t.end()
})

t.test('a printed duration reads back as itself', t => {
  fc.assert(fc.property(fc.integer({ min: -1e12, max: 1e12 }), ms => parseDuration(formatDuration(ms)) === ms))
  t.end()
})

t.test('no text makes the reader throw, or think long', t => {
  fc.assert(fc.property(fc.string(), text => parseDuration(text) === undefined || Number.isFinite(parseDuration(text))))
  const started = performance.now()
  parseDuration('1'.repeat(10_000))
  t.ok(performance.now() - started < 100)
  t.end()
})
