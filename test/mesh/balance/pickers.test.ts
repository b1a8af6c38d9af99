// Every policy: healthy endpoints only, shares by weight, nothing that is to be passed over; and what each is there for.
import * as fc from 'fast-check'
import t from 'tap'
import { balancePolicies, defaultBalance, ringLimits, type Balance } from '../../../src/mesh/balance/config.ts'
import { hashText, mix } from '../../../src/mesh/balance/hash.ts'
import { LeastLoaded } from '../../../src/mesh/balance/least-loaded.ts'
import { Maglev } from '../../../src/mesh/balance/maglev.ts'
import type { Picker } from '../../../src/mesh/balance/picker.ts'
import { isHashing, pickerOf } from '../../../src/mesh/balance/policy.ts'
import { Random } from '../../../src/mesh/balance/random.ts'
import { RingHash } from '../../../src/mesh/balance/ring-hash.ts'
import type { Endpoint } from '../../../src/mesh/snapshot.ts'
import { countsOf, endpoint, endpoints, seeded } from './endpoints.ts'

const balance = (policy: Balance['policy'], more: Partial<Balance> = {}): Balance => ({ ...defaultBalance, policy, ...more })
const hashing = balancePolicies.filter(isHashing)

for (const policy of balancePolicies) {
  t.test(`${policy}: healthy endpoints only, all of them, and none where there is none`, t => {
    const list = [endpoint(1), endpoint(2, 1, false), endpoint(3), endpoint(4, 0), endpoint(5)]
    const picker = pickerOf(list, balance(policy), undefined, seeded())
    t.equal(picker.size, 3)
    t.same(
      [...countsOf(picker, 300).keys()].toSorted((a, b) => a - b),
      [1, 3, 5],
    )
    t.equal(pickerOf([], balance(policy)).pick(), undefined)
    t.equal(pickerOf([endpoint(1, 1, false)], balance(policy)).pick(undefined, 7), undefined)
    t.equal(pickerOf([endpoint(1)], balance(policy)).pick(undefined, 4_294_967_295)?.port, 1)
    t.end()
  })

  t.test(`${policy}: what is skipped is passed over, and there is a pick while one is left`, t => {
    const some = fc.uniqueArray(fc.integer({ min: 1, max: 12 }), { maxLength: 12 })
    fc.assert(
      fc.property(some, fc.nat(), (skipped, seed) => {
        const picker = pickerOf(endpoints(12), balance(policy), undefined, seeded(seed))
        const skip = ({ port }: Endpoint) => skipped.includes(port)
        for (let i = 0; i < 20; i++) {
          const picked = picker.pick(skip, mix(i))
          if (skipped.length === 12 ? picked !== undefined : picked === undefined || skip(picked)) return false
        }
        return true
      }),
      { numRuns: hashing.includes(policy) ? 30 : 200 },
    )
    t.end()
  })

  t.test(`${policy}: shares are the weights`, t => {
    const weights = [1, 2, 4, 13]
    const list = weights.map((weight, i) => endpoint(i + 1, weight))
    const counts = countsOf(pickerOf(list, balance(policy, { minimumRingSize: 32_768 }), undefined, seeded(3)), 40_000)
    for (const [i, weight] of weights.entries()) {
      const share = (counts.get(i + 1) ?? 0) / 40_000
      t.ok(Math.abs(share / (weight / 20) - 1) < 0.12, `weight ${weight} gets ${share}`)
    }
    t.end()
  })
}

t.test('least_request: the less loaded of two for its weight', t => {
  const list = [endpoint(1, 1), endpoint(2, 2)]
  const picker = new LeastLoaded(list, 'requests', 2, undefined, seeded())
  const begin = (i: number) => picker.loads.of(list[i]!)!.begin()
  begin(1)
  t.equal(picker.pick()?.port, 1)
  begin(0)
  t.equal(picker.pick()?.port, 2, 'one of weight 2 under way is less than one of weight 1')
  t.end()
})

t.test('least_request: more choices find the idle one more surely', t => {
  const list = endpoints(10)
  const idle = (choices: number) => {
    const picker = new LeastLoaded(list, 'requests', choices, undefined, seeded(9))
    for (const each of list.slice(1)) picker.loads.of(each)!.begin()
    return countsOf(picker, 10_000).get(1)! / 10_000
  }
  t.ok(idle(2) > 0.15 && idle(2) < 0.25, String(idle(2)))
  t.ok(idle(8) > 0.5, String(idle(8)))
  t.equal(idle(1), idle(2), 'one choice is none')
  t.end()
})

t.test('loads outlive the plan, by address, and what was begun under the old one is ended under the new one', t => {
  const sources = seeded()
  const first = pickerOf(endpoints(2), balance('least_request'), undefined, sources)
  const begun = first.loads!.of(first.pick()!)!
  begun.begin()
  const again = [endpoint(2), endpoint(1), endpoint(3)]
  const second = pickerOf(again, balance('peak_ewma'), first, sources)
  t.equal(
    again.reduce((sum, each) => sum + second.loads!.of(each)!.active, 0),
    1,
  )
  begun.end(5, false, 1000)
  t.equal(
    again.reduce((sum, each) => sum + second.loads!.of(each)!.active, 0),
    0,
  )
  t.end()
})

/** Many callers one after another; each answer takes its endpoint's time, longer the more are under way there. Answers the mean time. */
function simulate(picker: Picker, list: readonly Endpoint[], sources: { atMs: number }, tookMs: (port: number) => number): number {
  const under = new Map(list.map(({ port }) => [port, 0]))
  const ends: { atMs: number; tookMs: number; at: Endpoint }[] = []
  let total = 0
  const calls = 5000
  for (let i = 0; i < calls; i++) {
    sources.atMs += 1
    for (const each of ends.filter(({ atMs }) => atMs <= sources.atMs)) {
      ends.splice(ends.indexOf(each), 1)
      under.set(each.at.port, under.get(each.at.port)! - 1)
      picker.loads?.of(each.at)?.end(each.tookMs, false, sources.atMs)
    }
    const at = picker.pick()!
    under.set(at.port, under.get(at.port)! + 1)
    picker.loads?.of(at)?.begin()
    const took = tookMs(at.port) * under.get(at.port)!
    total += took
    ends.push({ atMs: sources.atMs + took, tookMs: took, at })
  }
  return total / calls
}

t.test('two choices keep away from a slow endpoint, and by time more than by requests', t => {
  const list = endpoints(5)
  const mean = (make: (sources: ReturnType<typeof seeded>) => Picker) => {
    const sources = seeded(4)
    return simulate(make(sources), list, sources, port => (port === 1 ? 40 : 2))
  }
  const random = mean(sources => new Random(list, sources))
  const requests = mean(sources => new LeastLoaded(list, 'requests', 2, undefined, sources))
  const time = mean(sources => new LeastLoaded(list, 'time', 2, undefined, sources))
  t.ok(requests < random / 3, `${requests} against ${random} ms`)
  t.ok(time < requests, `${time} against ${requests} ms`)
  t.end()
})

t.test('peak_ewma: one that fails fast is not taken for a fast one, and one that was slow is asked again', t => {
  const sources = seeded(5)
  const list = endpoints(2)
  const picker = new LeastLoaded(list, 'time', 2, undefined, sources)
  const [a, b] = list.map(each => picker.loads.of(each)!)
  const once = (load: typeof a, ms: number, failed: boolean) => {
    load!.begin()
    load!.end(ms, failed, sources.atMs)
  }
  once(a, 1, true)
  once(b, 20, false)
  t.same([...countsOf(picker, 50).keys()], [2])
  sources.atMs += 60_000
  once(b, 20, false)
  t.same([...countsOf(picker, 50).keys()], [1], 'a minute later what happened to it hardly counts')
  t.end()
})

for (const policy of hashing) {
  t.test(`${policy}: equal hashes go to the same endpoint, in whatever order endpoints are told`, t => {
    const one = pickerOf(endpoints(20), balance(policy))
    const other = pickerOf(endpoints(20).reverse(), balance(policy))
    for (let i = 0; i < 1000; i++) if (one.pick(undefined, mix(i))?.port !== other.pick(undefined, mix(i))?.port) t.fail(String(i))
    t.end()
  })

  t.test(`${policy}: when an endpoint leaves, its keys move and at most a few others; when it is skipped, only its own`, t => {
    const before = pickerOf(endpoints(20), balance(policy))
    const after = pickerOf(
      endpoints(20).filter(({ port }) => port !== 7),
      balance(policy),
    )
    const keys = Array.from({ length: 20_000 }, (_, i) => hashText(`key-${i}`))
    let moved = 0
    let others = 0
    let skipped = 0
    for (const key of keys) {
      const was = before.pick(undefined, key)!.port
      if (after.pick(undefined, key)!.port !== was) moved += 1
      if (was !== 7 && after.pick(undefined, key)!.port !== was) others += 1
      if (was !== 7 && before.pick(({ port }) => port === 7, key)!.port !== was) skipped += 1
    }
    t.ok(moved / keys.length > 0.02 && moved / keys.length < 0.1, `${moved} of ${keys.length} moved`)
    t.ok(others / keys.length <= (policy === 'ring_hash' ? 0 : 0.03), `${others} that were not its own`)
    t.equal(skipped, 0)
    t.end()
  })
}

t.test('maglev: every endpoint has its share of the table to a percent', t => {
  const share = (count: number) => {
    const counts = [...countsOf(new Maglev(endpoints(count)), 65_537, { hash: i => i }).values()]
    return [Math.min(...counts), Math.max(...counts)].map(each => (each * count) / 65_537)
  }
  for (const count of [3, 10, 100, 600]) {
    const [least, most] = share(count)
    t.ok(least! > 0.98 && most! < 1.02, `${count} endpoints: ${least} to ${most}`)
  }
  t.end()
})

t.test('ring_hash: the ring has at least its minimum, one place for each endpoint, and no more than can be laid out', t => {
  t.ok(new RingHash(endpoints(3)).places >= 1024)
  t.ok(new RingHash(endpoints(3), { minimum: 10, maximum: 100 }).places <= 100)
  t.equal(new RingHash(endpoints(100), { minimum: 1, maximum: 5 }).places, 100)
  t.equal(new RingHash([], {}).places, 0)
  t.ok(new RingHash(endpoints(3), { minimum: ringLimits.maximum, maximum: ringLimits.maximum }).places <= ringLimits.places + 3)
  t.ok(new RingHash([endpoint(1, 1), endpoint(2, 128)]).places >= 1024)
  t.end()
})

t.test('slow start: a new endpoint gets more and more of its share; those of the first plan start as they are', t => {
  for (const policy of ['round_robin', 'random', 'least_request', 'peak_ewma'] as const) {
    const sources = seeded(6)
    const slow = balance(policy, { slowStartMs: 10_000 })
    const first = pickerOf(endpoints(3), slow, undefined, sources)
    t.ok(countsOf(first, 3000).get(1)! > 800, policy)
    const second = pickerOf(endpoints(4), slow, first, sources)
    const share = () => (countsOf(second, 8000).get(4) ?? 0) / 2000
    const shares = [0, 5000, 5000].map(ms => {
      sources.atMs += ms
      return share()
    })
    t.ok(shares[0]! < 0.25, `${policy} at first: ${shares[0]}`)
    t.ok(shares[1]! > 0.4 && shares[1]! < 0.75, `${policy} half way: ${shares[1]}`)
    t.ok(shares[2]! > 0.9, `${policy} at last: ${shares[2]}`)
    const third = pickerOf(endpoints(4), slow, second, sources)
    t.ok(countsOf(third, 8000).get(4)! > 1800, `${policy}: a change of plan does not start it again`)
  }
  t.end()
})

t.test('slow start: an endpoint that was critical starts anew, and one that is alone is always picked', t => {
  const sources = seeded(7)
  const slow = balance('random', { slowStartMs: 10_000 })
  const first = pickerOf([endpoint(1), endpoint(2, 1, false)], slow, undefined, sources)
  t.equal(countsOf(first, 10).get(1), 10)
  const second = pickerOf([endpoint(1), endpoint(2)], slow, first, sources)
  t.ok((countsOf(second, 2000).get(2) ?? 0) < 400)
  const alone = pickerOf([endpoint(3)], slow, second, sources)
  t.equal(countsOf(alone, 100).get(3), 100)
  t.end()
})
