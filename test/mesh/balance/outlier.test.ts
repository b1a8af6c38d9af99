// Who is left out and for how long: unreachable addresses and bad answers apart, with a cap, a last one and a panic threshold.
import t from 'tap'
import { defaultOutlierLimits, type OutlierLimits } from '../../../src/mesh/balance/config.ts'
import { ejectionLimits, Outlier } from '../../../src/mesh/balance/outlier.ts'
import { RoundRobin } from '../../../src/mesh/balance/round-robin.ts'
import { addressOf } from '../../../src/mesh/snapshot.ts'
import { endpoint, endpoints, seeded } from './endpoints.ts'

const none: ReadonlySet<string> = new Set()

function scene(count: number, limits?: Partial<OutlierLimits>) {
  const list = endpoints(count)
  const picker = new RoundRobin(list)
  const sources = seeded()
  const outlier = new Outlier(undefined, sources)
  outlier.update(limits && { ...defaultOutlierLimits, ...limits }, new Set(list.map(addressOf)))
  const picks = (times: number) =>
    Array.from({ length: times }, () => outlier.pick(picker, none, 1000)?.port ?? 0).toSorted((a, b) => a - b)
  const err = (port: number, times: number) => Array.from({ length: times }, () => outlier.erred(endpoint(port))).filter(Boolean).length
  return { sources, outlier, picker, picks, err }
}

t.test('an address that failed is tried by one caller at a time once its time is up, and longer each time', t => {
  const { sources, outlier, picks } = scene(2)
  const [a, b] = endpoints(2)
  t.same([outlier.failed('127.0.0.1:1'), outlier.failed('127.0.0.1:1')], [true, false])
  t.same([outlier.ejected, picks(4)], [1, [2, 2, 2, 2]])
  sources.atMs += 5000
  t.same(picks(4), [1, 2, 2, 2], 'one of them probes')
  t.same([outlier.doubts(a!), outlier.doubts(b!)], [true, false], 'and does so on a new connection')
  t.equal(outlier.failed('127.0.0.1:1'), true)
  sources.atMs += 9999
  t.same(picks(4), [2, 2, 2, 2], 'twice as long')
  sources.atMs += 1
  t.same(picks(4), [1, 2, 2, 2])
  outlier.reached('127.0.0.1:1')
  t.same(picks(4), [1, 1, 2, 2])
  outlier.failed('127.0.0.1:1')
  outlier.failed('127.0.0.1:2')
  t.ok(picks(1)[0], 'where all failed, one is tried')
  t.end()
})

t.test('the time that an unreachable address is left out has an end', t => {
  const { sources, outlier, picks } = scene(2)
  for (let i = 0; i < 20; i++) {
    outlier.failed('127.0.0.1:1')
    sources.atMs += ejectionLimits.longestMs
    t.same(picks(2), [1, 2])
  }
  t.end()
})

t.test('half way through, whoever asks is told to probe, once; a probe that succeeds ends it early', t => {
  const { sources, outlier, picks } = scene(2)
  t.equal(outlier.nextProbeMs, undefined)
  outlier.failed('127.0.0.1:1')
  t.equal(outlier.nextProbeMs, sources.atMs + 2500)
  t.same(outlier.takeProbes(1000), [])
  sources.atMs += 2500
  t.same([outlier.takeProbes(1000), outlier.takeProbes(1000)], [['127.0.0.1:1'], []])
  t.equal(outlier.nextProbeMs, undefined)
  t.same(picks(2), [2, 2], 'callers still go elsewhere')
  t.equal(outlier.failed('127.0.0.1:1'), true, 'a probe that fails makes it longer')
  t.equal(outlier.nextProbeMs, sources.atMs + 5000)
  sources.atMs += 5000
  outlier.takeProbes(1000)
  outlier.reached('127.0.0.1:1')
  t.same(picks(2), [1, 2])
  t.end()
})

t.test('an address whose app cannot be reached is passed over, and nothing but an answer or time brings it back', t => {
  const { sources, outlier, picks } = scene(2)
  const [a, b] = endpoints(2)
  t.same([outlier.unreached('127.0.0.1:1', 1), outlier.unreached('127.0.0.1:1', 1)], [true, false])
  t.same([outlier.ejected, picks(4)], [1, [2, 2, 2, 2]])
  t.same([outlier.doubts(a!), outlier.reaches([a!]), outlier.reaches([a!, b!])], [false, false, true], 'its connections are good')
  outlier.reached('127.0.0.1:1')
  t.same(picks(2), [2, 2], 'that it can be reached is known')
  t.same([outlier.nextProbeMs, outlier.takeProbes(1000)], [undefined, []])
  sources.atMs += 5000
  t.same([outlier.ejected, outlier.reaches([a!]), picks(4)], [0, true, [1, 1, 2, 2]])
  t.equal(outlier.unreached('127.0.0.1:1', 1), true)
  sources.atMs += 9999
  t.same(picks(2), [2, 2], 'twice as long')
  outlier.answered(a!)
  t.same(picks(2), [1, 2], 'it has answered')
  outlier.unreached('127.0.0.1:1', 1)
  sources.atMs += 5000
  t.same(picks(2), [1, 2], 'and begins anew')
  outlier.unreached('127.0.0.1:1', 1)
  outlier.down('127.0.0.1:1')
  t.same(picks(2), [1, 2], 'the catalog knows by now, and says when it is back')
  outlier.unreached('127.0.0.1:1', 1)
  outlier.unreached('127.0.0.1:2', 1)
  t.ok(picks(1)[0], 'where nobody has an app, one is asked')
  for (let i = 0; i < 20; i++) {
    sources.atMs += ejectionLimits.longestMs
    outlier.unreached('127.0.0.1:1', 1)
  }
  sources.atMs += ejectionLimits.longestMs
  t.ok(outlier.reaches([a!]), 'no longer than the longest time')
  sources.atMs += 2 * ejectionLimits.longestMs
  outlier.unreached('127.0.0.1:1', 1)
  sources.atMs += 5000
  t.ok(outlier.reaches([a!]), 'after so long it is another story')
  t.end()
})

t.test('a gateway is passed over when every app behind it may be gone, and not for one of them', t => {
  const { outlier, picks } = scene(2)
  const said = (ways: number) => outlier.unreached('127.0.0.1:1', ways)
  t.same([said(3), said(3)], [false, false])
  t.same([picks(2), outlier.ejected], [[1, 2], 0])
  outlier.answered(endpoint(1))
  t.same([said(3), said(3), said(3), picks(2)], [false, false, true, [2, 2]], 'in a row')
  outlier.answered(endpoint(1))
  const many = Array.from({ length: ejectionLimits.mostWays }, () => said(1000))
  t.equal(many.indexOf(true), ejectionLimits.mostWays - 1, 'nor must each of a thousand be found out')
  t.end()
})

t.test('five answers of 5xx in a row eject for a time that grows', t => {
  const { sources, outlier, picks, err } = scene(10, {})
  t.equal(err(1, 4), 0)
  outlier.answered(endpoint(1))
  t.equal(err(1, 4), 0, 'an answer between them begins it anew')
  t.equal(err(1, 1), 1)
  t.equal(outlier.ejected, 1)
  for (const [turn, ms] of [30_000, 60_000].entries()) {
    sources.atMs += ms - 1
    t.notOk(picks(20).includes(1), `turn ${turn}`)
    sources.atMs += 1
    t.ok(picks(20).includes(1), 'its time is up')
    t.equal(err(1, 5), 1)
  }
  sources.atMs += 90_000
  outlier.answered(endpoint(1))
  sources.atMs += 30_000
  outlier.answered(endpoint(1))
  t.equal(err(1, 5), 1)
  sources.atMs += 30_000
  t.ok(picks(20).includes(1), 'after as many intervals of good conduct it is the first time again')
  t.end()
})

t.test('no more than the cap are ejected for what they answer, and never the last one', t => {
  const some = scene(10, { maxEjectionPercent: 30 })
  t.equal(
    [1, 2, 3, 4, 5].reduce((sum, port) => sum + some.err(port, 50), 0),
    3,
  )
  const one = scene(1, { maxEjectionPercent: 100 })
  t.same([one.err(1, 50), one.picks(2)], [0, [1, 1]], 'a lone gateway stays, whatever the app behind it answers')
  const two = scene(2, { maxEjectionPercent: 100, panicPercent: 0 })
  t.same([two.err(1, 50), two.err(2, 50), two.picks(2)], [1, 0, [2, 2]])
  t.end()
})

t.test('below the panic threshold what was answered leaves nobody out; an unreachable address stays out', t => {
  const { outlier, picks, err } = scene(4, { maxEjectionPercent: 100 })
  t.equal(err(1, 5) + err(2, 5), 2)
  t.same(picks(4), [3, 3, 4, 4], 'half are left: no panic yet')
  t.equal(err(3, 5), 1)
  t.same(picks(4), [1, 2, 3, 4])
  outlier.failed('127.0.0.1:4')
  t.same(picks(6), [1, 1, 2, 2, 3, 3])
  t.equal(outlier.ejected, 4)
  t.end()
})

t.test('one that answers badly is better than one that does not answer', t => {
  const { outlier, picks, err } = scene(2, { maxEjectionPercent: 50, panicPercent: 0 })
  t.equal(err(1, 5), 1)
  outlier.failed('127.0.0.1:2')
  t.same(picks(2), [1, 1])
  t.end()
})

t.test('it can be enforced in part, or not at all', t => {
  t.equal(scene(10, { enforcingPercent: 0, maxEjectionPercent: 100 }).err(1, 100), 0)
  t.equal(scene(10, { enabled: false, maxEjectionPercent: 100 }).err(1, 100), 0)
  t.equal(scene(10).err(1, 100), 0, 'a gateway has no limits')
  const { err } = scene(100, { enforcingPercent: 50, maxEjectionPercent: 100, maxFailures: 1 })
  const ejected = Array.from({ length: 98 }, (_, i) => err(i + 1, 1)).reduce((sum, each) => sum + each, 0)
  t.ok(ejected > 30 && ejected < 68, String(ejected))
  t.end()
})

t.test('what is no address any more is forgotten', t => {
  const { outlier, err } = scene(4, { maxEjectionPercent: 100 })
  err(1, 5)
  outlier.failed('127.0.0.1:2')
  t.equal(outlier.ejected, 2)
  outlier.update({ ...defaultOutlierLimits }, new Set(['127.0.0.1:3']))
  t.equal(outlier.ejected, 0)
  t.end()
})
