/** Measures how long one call of a pure function takes. The least of several rounds counts: what is above it is other work's noise. */

export interface Case {
  name: string
  /** Runs the thing `times` times and returns, or promises, something that depends on every result, so that none can be left out. */
  run: (times: number) => unknown
}

export interface Measurement {
  name: string
  /** Nanoseconds a call, of the fastest round. */
  ns: number
  /** The median round over the fastest, as a sign of how quiet the machine was. */
  spread: number
}

/** What calls returned: kept, so that no compiler can prove them useless. */
let kept: unknown

export async function measure({ name, run }: Case, options: { roundMs?: number; rounds?: number } = {}): Promise<Measurement> {
  const { roundMs = 30, rounds = 15 } = options
  const times = await calibrate(run, roundMs)
  const results: number[] = []
  for (let round = 0; round < rounds; round++) results.push((await timed(run, times)) / times)
  results.sort((a, b) => a - b)
  return { name, ns: results[0]!, spread: results[Math.floor(rounds / 2)]! / results[0]! }
}

/** How many calls fill a round; finding out warms the code up. */
async function calibrate(run: Case['run'], roundMs: number): Promise<number> {
  let times = 16
  for (;;) {
    const ns = await timed(run, times)
    if (ns >= roundMs * 1e6) return times
    times *= ns < (roundMs * 1e6) / 16 ? 4 : 2
  }
}

async function timed(run: Case['run'], times: number): Promise<number> {
  const started = process.hrtime.bigint()
  const result = await run(times)
  const ns = Number(process.hrtime.bigint() - started)
  kept = result
  return ns
}

export function lastResult(): unknown {
  return kept
}
