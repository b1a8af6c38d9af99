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

/** Long enough for a JIT to have seen all of a request's path, and for every connection's handshakes. */
const warmUpSeconds = 3

/** A contender that does not answer at all is left out from there on; `failed` says why. */
export async function runRounds(
  scenario: Scenario,
  all: readonly Standing[],
  plan: Plan,
): Promise<{ results: Rounds; failed: Map<string, string> }> {
  const results: Rounds = new Map()
  const failed = new Map<string, string>()
  const attempt = async <T>(name: string, run: () => Promise<T>): Promise<T | undefined> => {
    try {
      return await run()
    } catch (error) {
      failed.set(name, messageOf(error))
      results.delete(name)
      return undefined
    }
  }
  for (const { name, pair } of all) {
    plan.progress(`${scenario.name}: ${name} warms up`)
    const seconds = pair.processes.length > 0 ? Math.max(plan.seconds, warmUpSeconds) : 1
    if (await attempt(name, () => answered(scenario.run(pair.port, seconds, plan.directory)))) results.set(name, [])
  }
  for (let round = 0; round < plan.rounds; round++) {
    const standings = all.filter(({ name }) => results.has(name))
    for (let i = 0; i < standings.length; i++) {
      const { name, pair } = standings[(i + round) % standings.length]!
      const measured = await attempt(name, () => measure(scenario, pair, plan))
      if (measured) results.get(name)!.push(measured)
    }
    plan.progress(`${scenario.name}: round ${round + 1} of ${plan.rounds}`)
  }
  return { results, failed }
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
