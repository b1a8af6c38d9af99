/**
 * Runs scenarios in rounds: in each round every contender once, in an order that turns, so that a machine that gets slower or busier
 * does so for all of them. What counts is CPU time of the pair's processes over requests that were answered in that time.
 */
import { messageOf } from '../../src/lib/errors.ts'
import { cpuMicros } from '../machine/process.ts'
import type { Loaded } from './load.ts'
import type { Pair } from './pair.ts'
import type { Scenario } from './scenarios.ts'

export interface Standing {
  name: string
  ours: boolean
  version: string
  pair: Pair
}

/** One contender in one round. */
export interface Round extends Loaded {
  /** Microseconds of CPU for a request, by process and altogether. */
  cpu: Record<string, number>
  cpuMicros: number
  besideMicros: Record<string, number>
}

export type Rounds = Map<string, Round[]>

export interface Plan {
  rounds: number
  seconds: number
  directory: string
  progress(text: string): void
}

/**
 * What is measured is the steady state: of a program with a JIT that begins when the code of a scenario's path is compiled, which takes
 * the longer the fewer requests a second there are. Warm-up runs are repeated until one costs no less than the best before it, but for
 * `settled`, and no more than `runs` times.
 */
const warmUp = { seconds: 3, settled: 0.03, runs: 8 } as const

/**
 * A round in which somebody did not answer is run again, by all, because a machine can stall for a second; a contender that fails
 * twice on end is left out from there on, and `failed` says why.
 */
export async function runRounds(
  scenario: Scenario,
  all: readonly Standing[],
  plan: Plan,
): Promise<{ results: Rounds; failed: Map<string, string> }> {
  const results: Rounds = new Map()
  const failed = new Map<string, string>()
  for (const { name, pair } of all) {
    plan.progress(`${scenario.name}: ${name} warms up`)
    const warm = await attempt(() => warmedUp(scenario, pair, plan))
    if (typeof warm === 'string') failed.set(name, warm)
    else results.set(name, [])
  }
  for (let round = 0; round < plan.rounds; round++) {
    plan.progress(`${scenario.name}: round ${round + 1} of ${plan.rounds}`)
    const taking = all.filter(({ name }) => results.has(name))
    const inTurn = taking.map((_, i) => taking[(i + round) % taking.length]!)
    let outcomes = await runRound(scenario, inTurn, plan)
    if ([...outcomes.values()].some(each => typeof each === 'string')) outcomes = await runRound(scenario, inTurn, plan)
    for (const [name, outcome] of outcomes) {
      if (typeof outcome !== 'string') results.get(name)!.push(outcome)
      else {
        failed.set(name, outcome)
        results.delete(name)
      }
    }
  }
  return { results, failed }
}

async function warmedUp(scenario: Scenario, pair: Pair, plan: Plan): Promise<void> {
  let best = Infinity
  for (let run = 0; run < warmUp.runs; run++) {
    const seconds = pair.processes.length > 0 ? warmUp.seconds : 1
    const { cpuMicros: cost } = await measure(scenario, pair, { ...plan, seconds })
    if (cost === 0 || cost > best * (1 - warmUp.settled)) return
    best = cost
  }
}

/** What each did, or why it is nothing. */
async function runRound(scenario: Scenario, inTurn: readonly Standing[], plan: Plan): Promise<Map<string, Round | string>> {
  const outcomes = new Map<string, Round | string>()
  for (const { name, pair } of inTurn) outcomes.set(name, await attempt(() => measure(scenario, pair, plan)))
  return outcomes
}

async function attempt<T>(run: () => Promise<T>): Promise<T | string> {
  try {
    return await run()
  } catch (error) {
    return messageOf(error)
  }
}

async function measure(scenario: Scenario, pair: Pair, plan: Plan): Promise<Round> {
  const beside = pair.beside ?? []
  const before = [...pair.processes, ...beside].map(({ pid }) => cpuMicros(pid))
  const loaded = await answered(scenario.run(pair.port, plan.seconds, plan.directory))
  const used = [...pair.processes, ...beside].map(({ pid }, i) => cpuMicros(pid) - before[i]!)
  const perRequest = (i: number) => used[i]! / loaded.requests
  const cpu = Object.fromEntries(pair.processes.map(({ role }, i) => [role, perRequest(i)]))
  return {
    ...loaded,
    cpu,
    cpuMicros: Object.values(cpu).reduce((sum, each) => sum + each, 0),
    besideMicros: Object.fromEntries(beside.map(({ role }, i) => [role, perRequest(pair.processes.length + i)])),
  }
}

/** Requests that fail cost less than those that do not, so figures with more than a few of them are none. */
const maxErrorShare = 0.01

async function answered(run: Promise<Loaded>): Promise<Loaded> {
  const loaded = await run
  const { requests, errors, seconds } = loaded
  if (requests === 0) throw new Error(`not one request was answered in ${seconds.toFixed(1)} s (${errors} errors)`)
  if (errors > requests * maxErrorShare) throw new Error(`${errors} errors in ${requests} requests`)
  return loaded
}
