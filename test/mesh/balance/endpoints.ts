/** Endpoints, and chance and time that a test decides, for the tests of pickers. */
import type { Picker, Skip, Sources } from '../../../src/mesh/balance/picker.ts'
import type { Endpoint } from '../../../src/mesh/snapshot.ts'
import { seeded as chanceOf } from '../../support/seeded.ts'

export function endpoint(port: number, weight = 1, healthy = true): Endpoint {
  return { id: `e${port}`, address: '127.0.0.1', port, weight, healthy }
}

export const endpoints = (count: number, weight = 1): Endpoint[] => Array.from({ length: count }, (_, i) => endpoint(i + 1, weight))

/** Chance by a seed, and a clock that stands until it is moved. */
export function seeded(seed = 1): Sources & { atMs: number } {
  const sources = { atMs: 1000, now: () => sources.atMs, random: chanceOf(seed) }
  return sources
}

/** How often each port is picked. */
export function countsOf(picker: Picker, picks: number, options: { skip?: Skip; hash?: (i: number) => number } = {}): Map<number, number> {
  const counts = new Map<number, number>()
  for (let i = 0; i < picks; i++) {
    const port = picker.pick(options.skip, options.hash?.(i))?.port ?? 0
    counts.set(port, (counts.get(port) ?? 0) + 1)
  }
  return counts
}
