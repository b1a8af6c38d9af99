/** What a run found: numbers for machines (JSON) and the table of them for people. */
import { readFileSync } from 'node:fs'
import { cpus, release } from 'node:os'
import { pinned } from '../machine/programs.ts'
import type { Absent } from './pair.ts'
import type { Round, Rounds, Standing } from './rounds.ts'
import type { Scenario } from './scenarios.ts'
import { pairedDifference, pairedRatio, summarise, type Interval, type Summary } from './statistics.ts'

export interface Machine {
  cpu: string
  cores: number
  kernel: string
  node: string
  /** Proxies on one core, load and app on another. */
  pinned: boolean
}

export interface Measured {
  name: string
  version: string
  cpuMicros: Summary
  cpu: Record<string, number>
  /** CPU of processes that do not count (the agent's), for a request. */
  besideMicros: Record<string, number>
  requestsPerSecond: Summary
  meanMs: Summary
  p50Ms: Summary
  p99Ms: Summary
  /** Over the direct way, round by round; none where that did not run. */
  addedMs?: { mean: Interval; p50: Interval; p99: Interval }
  requests: number
  errors: number
  rounds: Round[]
}

export interface ScenarioReport {
  name: string
  what: string
  hop: string
  connections: number
  open: boolean
  measured: Measured[]
  /** CPU for a request, ours over theirs, with the 95 % interval of the median. */
  ratios: (Interval & { of: string; over: string })[]
}

export interface Report {
  machine: Machine
  backend: string
  when: string
  rounds: number
  seconds: number
  absent: Absent[]
  scenarios: ScenarioReport[]
  memory: MemoryReport[]
}

export interface MemoryReport {
  name: string
  what: string
  /** Bytes by process. */
  resident: Record<string, number>
}

export function thisMachine(): Machine {
  const model = /^model name\s*:\s*(.*)$/m.exec(safely(() => readFileSync('/proc/cpuinfo', 'utf8')) ?? '')?.[1]
  return { cpu: model ?? cpus()[0]?.model ?? '?', cores: cpus().length, kernel: release(), node: process.version, pinned }
}

export function scenarioReport(scenario: Scenario, standings: readonly Standing[], results: Rounds): ScenarioReport {
  const { name, what, hop, connections } = scenario
  const direct = results.get('direct')
  const measured = standings.map(standing => measuredOf(standing, results.get(standing.name)!, direct))
  const cpuOf = (standing: Standing) => results.get(standing.name)!.map(each => each.cpuMicros)
  // Of builds of ours (--node, --build) the first is compared with the rest; the gateway's two kinds of traffic are no builds.
  const isOtherBuild = (one: Standing, other: Standing) => hop !== 'gateway' && one === standings[0] && other !== one
  const ratios = standings
    .filter(({ ours }) => ours)
    .flatMap(ours =>
      standings
        .filter(other => (other.ours ? isOtherBuild(ours, other) : other.pair.processes.length > 0))
        .map(other => ({ of: ours.name, over: other.name, ...pairedRatio(cpuOf(ours), cpuOf(other)) })),
    )
  return { name, what, hop, connections, open: scenario.open ?? false, measured, ratios }
}

function measuredOf({ name, version, pair }: Standing, rounds: Round[], direct: Round[] | undefined): Measured {
  const all = (key: 'cpuMicros' | 'meanMs' | 'p50Ms' | 'p99Ms') => rounds.map(each => each[key])
  const added = (key: 'meanMs' | 'p50Ms' | 'p99Ms') =>
    pairedDifference(
      all(key),
      direct!.map(each => each[key]),
    )
  const medians = (of: (round: Round) => Record<string, number>) =>
    Object.fromEntries(Object.keys(of(rounds[0]!)).map(role => [role, summarise(rounds.map(each => of(each)[role]!)).median]))
  return {
    name,
    version,
    cpuMicros: summarise(all('cpuMicros')),
    cpu: medians(each => each.cpu),
    besideMicros: medians(each => each.besideMicros),
    requestsPerSecond: summarise(rounds.map(each => each.requests / each.seconds)),
    meanMs: summarise(all('meanMs')),
    p50Ms: summarise(all('p50Ms')),
    p99Ms: summarise(all('p99Ms')),
    ...(direct && pair.processes.length > 0 ? { addedMs: { mean: added('meanMs'), p50: added('p50Ms'), p99: added('p99Ms') } } : {}),
    requests: rounds.reduce((sum, each) => sum + each.requests, 0),
    errors: rounds.reduce((sum, each) => sum + each.errors, 0),
    rounds,
  }
}

function safely<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}
