/** The picker that a balancing policy asks for. What the picker before it has learnt (its turn, loads, ages) goes on in the new one. */
import type { Endpoint } from '../snapshot.ts'
import type { Balance } from './config.ts'
import { LeastLoaded } from './least-loaded.ts'
import type { Loads } from './load.ts'
import { ByLocality, type MakeTier } from './locality.ts'
import { Maglev } from './maglev.ts'
import { realSources, type Picker, type Sources } from './picker.ts'
import { Random } from './random.ts'
import { RingHash } from './ring-hash.ts'
import { RoundRobin } from './round-robin.ts'
import { SlowStart } from './slow-start.ts'

export function pickerOf(endpoints: readonly Endpoint[], balance: Balance, before?: Picker, sources: Sources = realSources): Picker {
  const inner = groupedOf(endpoints, balance, before instanceof SlowStart ? before.inner : before, sources)
  if (balance.slowStartMs === 0 || isHashing(balance.policy)) return inner
  return new SlowStart(inner, endpoints, balance.slowStartMs, before instanceof SlowStart ? before : undefined, sources)
}

function groupedOf(endpoints: readonly Endpoint[], balance: Balance, before: Picker | undefined, sources: Sources): Picker {
  const { near } = balance
  if (near === undefined) return innerOf(endpoints, balance, before, before?.loads, sources)
  const grouped = before instanceof ByLocality ? before : undefined
  const make: MakeTier = (group, known, loads) => innerOf(group, balance, known, loads, sources)
  return new ByLocality(endpoints, near, make, grouped, sources)
}

function innerOf(
  endpoints: readonly Endpoint[],
  balance: Balance,
  before: Picker | undefined,
  loads: Loads | undefined,
  sources: Sources,
): Picker {
  switch (balance.policy) {
    case 'round_robin':
      return new RoundRobin(endpoints, before instanceof RoundRobin ? before : undefined)
    case 'random':
      return new Random(endpoints, sources)
    case 'least_request':
      return new LeastLoaded(endpoints, 'requests', balance.choiceCount, loads, sources)
    case 'peak_ewma':
      return new LeastLoaded(endpoints, 'time', balance.choiceCount, loads, sources)
    case 'ring_hash':
      return new RingHash(endpoints, { minimum: balance.minimumRingSize, maximum: balance.maximumRingSize }, sources)
    case 'maglev':
      return new Maglev(endpoints, sources)
  }
}

/** Equal requests go to the same endpoint. */
export function isHashing(policy: Balance['policy']): boolean {
  return policy === 'ring_hash' || policy === 'maglev'
}
