/** Endpoints, and chance and time that a test decides, for the tests of pickers. */
import type { Picker, Skip, Sources } from '../../../src/mesh/balance/picker.ts'
import type { Endpoint } from '../../../src/mesh/snapshot.ts'

export function endpoint(port: number, weight = 1, healthy = true): Endpoint {
  return { id: `e${port}`, address: '127.0.0.1', port, weight, healthy }
}

export const endpoints = (count: number, weight = 1): Endpoint[] => Array.from({ length: count }, (_, i) => endpoint(i + 1, weight))

/** The same numbers for the same seed (mulberry32), and a clock that stands until it is moved. */
export function seeded(seed = 1): Sources & { atMs: number } {
  let state = seed
  const sources = {
    atMs: 1000,
    now: () => sources.atMs,
    random: () => {
      state = (state + 0x6d2b79f5) | 0
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
    },
  }
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
