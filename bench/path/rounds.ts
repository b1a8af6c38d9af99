/**
 * Runs scenarios in rounds: in each round every contender once, in an order that turns, so that a machine that gets slower or busier
 * does so for all of them. What counts is CPU time of the pair's processes over requests that were answered in that time.
 */
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

export async function runRounds(scenario: Scenario, standings: readonly Standing[], plan: Plan): Promise<Rounds> {
  const results: Rounds = new Map(standings.map(({ name }) => [name, []]))
  // Code has to be compiled and connections opened before anything counts.
  for (const { pair } of standings) await scenario.run(pair.port, plan.seconds, plan.directory)
  for (let round = 0; round < plan.rounds; round++) {
    for (let i = 0; i < standings.length; i++) {
      const { name, pair } = standings[(i + round) % standings.length]!
      results.get(name)!.push(await measure(scenario, pair, plan))
    }
    plan.progress(`${scenario.name}: round ${round + 1} of ${plan.rounds}`)
  }
  return results
}

async function measure(scenario: Scenario, pair: Pair, plan: Plan): Promise<Round> {
  const beside = pair.beside ?? []
  const before = [...pair.processes, ...beside].map(({ pid }) => cpuMicros(pid))
  const loaded = await scenario.run(pair.port, plan.seconds, plan.directory)
  const used = [...pair.processes, ...beside].map(({ pid }, i) => cpuMicros(pid) - before[i]!)
  if (loaded.requests === 0) throw new Error(`${scenario.name}: not one request was answered (${loaded.errors} errors)`)
  const perRequest = (i: number) => used[i]! / loaded.requests
  const cpu = Object.fromEntries(pair.processes.map(({ role }, i) => [role, perRequest(i)]))
  return {
    ...loaded,
    cpu,
    cpuMicros: Object.values(cpu).reduce((sum, each) => sum + each, 0),
    besideMicros: Object.fromEntries(beside.map(({ role }, i) => [role, perRequest(pair.processes.length + i)])),
  }
}
