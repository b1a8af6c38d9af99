/** One run over the chosen scenarios: starts what each hop needs, measures in rounds, and stops it again. */
import { messageOf } from '../../src/lib/errors.ts'
import { scratchDirectory, wholly } from '../machine/scratch.ts'
import { startBackend } from './backend.ts'
import { mintCertificates } from './certificates.ts'
import { measureMemory } from './memory.ts'
import { fieldOf, type Wish as FieldWish } from './contenders.ts'
import type { Absent, Ground } from './pair.ts'
import { scenarioReport, thisMachine, type Report, type ScenarioReport } from './report.ts'
import { runRounds, type Standing } from './rounds.ts'
import type { Hop, Scenario } from './scenarios.ts'

export interface Wish extends FieldWish {
  scenarios: readonly Scenario[]
  /** Measure resident memory too. */
  memory: boolean
  rounds: number
  seconds: number
  progress(text: string): void
  /** As soon as it is known. */
  missing(absent: Absent): void
  /** As soon as a scenario is done. */
  done(report: ScenarioReport): void
}

export async function benchPath(wish: Wish): Promise<Report> {
  const directory = scratchDirectory()
  const backend = await startBackend(directory)
  try {
    const certificates = await mintCertificates(directory)
    const { rounds, seconds } = wish
    const report: Report = {
      machine: thisMachine(),
      backend: backend.kind,
      when: new Date().toISOString(),
      rounds,
      seconds,
      absent: [],
      scenarios: [],
      memory: [],
    }
    const missing: Missing = (name, reason) => {
      if (report.absent.some(each => each.name === name)) return
      report.absent.push({ name, reason })
      wish.missing({ name, reason })
    }
    for (const hop of ['http', 'grpc', 'gateway'] as const) {
      const mine = wish.scenarios.filter(each => each.hop === hop)
      if (mine.length === 0) continue
      const ground: Ground = { directory, certificates, backend, protocol: hop === 'grpc' ? 'grpc' : 'http' }
      report.scenarios.push(...(await benchHop(hop, mine, ground, wish, missing)))
    }
    if (wish.memory) {
      const ground: Ground = { directory, certificates, backend, protocol: 'http' }
      report.memory = await measureMemory(ground, { ...wish, missing })
    }
    return report
  } finally {
    await backend.stop()
  }
}

type Missing = (name: string, reason: string) => void

async function benchHop(hop: Hop, scenarios: readonly Scenario[], ground: Ground, wish: Wish, missing: Missing): Promise<ScenarioReport[]> {
  const field = fieldOf(hop, wish)
  field.absent.forEach(({ name, reason }) => missing(name, reason))
  const standings: Standing[] = []
  try {
    for (const contender of field.contenders) {
      wish.progress(`starting ${contender.name}`)
      try {
        standings.push({ ...contender, pair: await wholly(() => contender.start(ground)) })
      } catch (error) {
        missing(`${contender.name} (${hop})`, messageOf(error))
      }
    }
    const reports: ScenarioReport[] = []
    for (const scenario of scenarios) {
      const { results, failed } = await runRounds(scenario, standings, { ...wish, directory: ground.directory })
      failed.forEach((reason, name) => missing(`${name} (${scenario.name})`, reason))
      const answering = standings.filter(({ name }) => results.has(name))
      const report = scenarioReport(scenario, answering, results)
      reports.push(report)
      wish.done(report)
    }
    return reports
  } finally {
    await Promise.all(standings.map(({ pair }) => pair.stop()))
  }
}
