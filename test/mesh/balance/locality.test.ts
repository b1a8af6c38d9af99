/** Near before far: who is picked from where, and when a group is left and come back to. */
import * as fc from 'fast-check'
import t from 'tap'
import { balancePolicies, defaultBalance, type Balance } from '../../../src/mesh/balance/config.ts'
import { tierOf } from '../../../src/mesh/balance/locality.ts'
import { pickerOf } from '../../../src/mesh/balance/policy.ts'
import { failoverLimits } from '../../../src/mesh/failover.ts'
import type { Endpoint } from '../../../src/mesh/snapshot.ts'
import { countsOf, endpoint, seeded } from './endpoints.ts'

const { failBackMs } = failoverLimits
const near = { region: 'eu', zone: 'a' }

function at(port: number, region: string, zone: string, healthy = true): Endpoint {
  return { ...endpoint(port, 1, healthy), ...(region === '' ? {} : { locality: { region, zone } }) }
}

const balanced = (more: Partial<Balance> = {}): Balance => ({ ...defaultBalance, near, ...more })
/** Two in the zone, two in the region, one elsewhere and one that does not say where. */
const scene = (here = true, region = true): Endpoint[] => [
  at(1, 'eu', 'a', here),
  at(2, 'eu', 'a', here),
  at(3, 'eu', 'b', region),
  at(4, 'eu', 'b', region),
  at(5, 'us', 'a'),
  at(6, '', ''),
]

t.test('an endpoint is in the zone, in the region or elsewhere', async t => {
  t.same(
    scene().map(each => tierOf(each, near)),
    [0, 0, 1, 1, 2, 2],
  )
  t.same(
    scene().map(each => tierOf(each, { region: 'eu' })),
    [1, 1, 1, 1, 2, 2],
    'without a zone of its own the region is the nearest',
  )
  t.same(new Set(scene().map(each => tierOf(each, {}))), new Set([2]), 'who is nowhere has no neighbours')
})

for (const policy of balancePolicies) {
  t.test(`${policy}: the zone first, then the region, then the others`, async t => {
    const ports = (list: Endpoint[]) => {
      const counts = countsOf(pickerOf(list, balanced({ policy }), undefined, seeded()), 200, { hash: i => i * 0x9e3779b1 })
      return [...counts.keys()].sort((a, b) => a - b)
    }
    t.same(ports(scene()), [1, 2])
    t.same(ports(scene(false)), [3, 4])
    t.same(ports(scene(false, false)), [5, 6])
    t.equal(pickerOf(scene(false), balanced({ policy })).size, 4, 'all of them count, wherever they are')
  })

  t.test(`${policy}: there is a pick while one is left anywhere`, async () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { maxLength: 6 }), fc.boolean(), (skipped, here) => {
        const picker = pickerOf(scene(here), balanced({ policy }), undefined, seeded())
        const skip = ({ port }: Endpoint) => skipped.includes(port)
        const left = scene(here).filter(each => each.healthy && !skip(each))
        const picked = picker.pick(skip, 7)
        return picked === undefined ? left.length === 0 : left.some(each => each.port === picked.port)
      }),
      { numRuns: 100 },
    )
  })
}

t.test('who must be passed over in the zone is found in the region, and the zone is used again at once', async t => {
  const picker = pickerOf(scene(), balanced())
  t.same(new Set(countsOf(picker, 20, { skip: ({ port }) => port < 3 }).keys()), new Set([3, 4]))
  t.equal(picker.tier, 0)
  t.same(new Set(countsOf(picker, 20).keys()), new Set([1, 2]))
})

t.test('a zone that has died is come back to after a while without a break, with or without a new plan', async t => {
  const sources = seeded()
  let picker = pickerOf(scene(), balanced(), undefined, sources)
  const next = (list: Endpoint[]) => (picker = pickerOf(list, balanced(), picker, sources)).tier
  t.equal(next(scene(false)), 1, 'left at once')
  sources.atMs += 1000
  t.equal(next(scene()), 1)
  sources.atMs += failBackMs - 1
  t.equal(picker.pick()!.port > 2, true)
  t.equal(next(scene(false)), 1, 'a break')
  t.equal(next(scene()), 1)
  sources.atMs += failBackMs - 1
  t.equal(picker.tier, 1)
  sources.atMs += 1
  t.equal(picker.pick()!.port < 3, true)
  t.equal(picker.tier, 0)
})

t.test('a region that dies too is left at once for a zone that has only just come back', async t => {
  const sources = seeded()
  const before = pickerOf(scene(false), balanced(), undefined, sources)
  t.equal(before.tier, 1)
  t.equal(pickerOf(scene(true, false), balanced(), before, sources).tier, 0)
})

t.test('what is under way counts in whatever group an endpoint is', async t => {
  const first = pickerOf(scene(), balanced({ policy: 'least_request' }), undefined, seeded())
  const load = first.loads!.of(scene()[0]!)!
  load.begin()
  const moved = scene().map(each => (each.port === 1 ? at(1, 'eu', 'b') : each))
  const then = pickerOf(moved, balanced({ policy: 'least_request' }), first, seeded())
  t.equal(then.loads!.of(moved[0]!), load)
  t.equal(load.active, 1)
  t.equal(pickerOf(scene(), balanced()).loads, undefined, 'where the choice does not depend on it nobody counts')
})

t.test('it goes with slow start', async t => {
  const picker = pickerOf(scene(false), balanced({ slowStartMs: 1000 }), undefined, seeded())
  t.equal(picker.tier, 1)
  t.same(new Set(countsOf(picker, 50).keys()), new Set([3, 4]))
})
