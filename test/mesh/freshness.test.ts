// The states, at their documented limits.
import t from 'tap'
import { describeFreshness, freshnessLimits, judgeFreshness, unknownFreshness, type FreshnessFacts } from '../../src/mesh/freshness.ts'

const stream = { openedMs: 0, lastHeartbeatMs: 100_000, confirms: true }
const facts: FreshnessFacts = { confirmed: { atMs: 100_000, evidence: 'digest' }, contradictedMs: -Infinity, stream }
const state = (more: Partial<FreshnessFacts>, nowMs: number) => judgeFreshness({ ...facts, ...more }, nowMs).state

void t.test('FRESH ends at its limit, FROZEN begins at its own', async t => {
  t.same(freshnessLimits, { digestMs: 15_000, freshMs: 35_000, frozenMs: 60_000, silentMs: 45_000 })
  t.same(judgeFreshness(facts, 100_000.2), { state: 'FRESH', ageMs: 1, evidence: 'digest' }, 'an age is rounded up')
  t.equal(state({}, 135_000), 'FRESH')
  t.equal(state({}, 135_001), 'STALE')
  const beating = { ...stream, lastHeartbeatMs: 150_000 }
  t.equal(state({ stream: beating }, 160_000), 'STALE')
  t.equal(state({ stream: beating }, 160_001), 'FROZEN')
  t.equal(state({ stream: beating }, 195_001), 'STALE', 'without heartbeats it is silent, not frozen')
})

void t.test('nobody is FROZEN who cannot confirm, is not connected, or has only begun', async t => {
  const now = 900_000
  const beating = { ...stream, lastHeartbeatMs: now }
  t.equal(state({ stream: beating }, now), 'FROZEN')
  t.equal(state({ stream: { ...beating, confirms: false } }, now), 'STALE')
  t.equal(state({ stream: undefined }, now), 'STALE')
  t.equal(state({ stream: { ...beating, openedMs: now - 60_000 } }, now), 'STALE')
  t.equal(state({ stream: { ...beating, openedMs: now - 60_001 } }, now), 'FROZEN')
})

void t.test('heartbeats alone make nothing FRESH, nor does what a digest has contradicted', async t => {
  const beating = { ...stream, openedMs: 100_000 }
  t.same(judgeFreshness({ ...facts, confirmed: undefined, stream: beating }, 100_001), unknownFreshness)
  t.equal(state({ contradictedMs: 100_001 }, 100_002), 'STALE')
  t.equal(state({ contradictedMs: 99_999 }, 100_002), 'FRESH')
})

void t.test('people read it in one line', async t => {
  t.equal(describeFreshness({ state: 'FRESH', ageMs: 12_345, evidence: 'digest' }), 'FRESH 12.3s (digest)')
  t.equal(describeFreshness(unknownFreshness), 'STALE age unknown')
})
