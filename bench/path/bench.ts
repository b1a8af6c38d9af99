/** One run over the chosen scenarios: starts what each hop needs, measures in rounds, and stops it again. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { messageOf } from '../../src/lib/errors.ts'
import { startBackend } from './backend.ts'
import { mintCertificates } from './certificates.ts'
import { fieldOf, type Wish as FieldWish } from './contenders.ts'
import type { Absent, Contender, Ground } from './pair.ts'
import { scenarioReport, thisMachine, type Report, type ScenarioReport } from './report.ts'
import { runRounds, type Standing } from './rounds.ts'
import type { Hop, Scenario } from './scenarios.ts'

export interface Wish extends FieldWish {
  scenarios: readonly Scenario[]
  rounds: number
  seconds: number
  progress(text: string): void
  /** As soon as it is known. */
  missing(absent: Absent): void
  /** As soon as a scenario is done. */
  done(report: ScenarioReport): void
}

export async function benchPath(wish: Wish): Promise<Report> {
  const directory = mkdtempSync(join(tmpdir(), 'isthmus-bench-'))
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
    for (const hop of ['http', 'grpc', 'gateway'] as const) {
      const mine = wish.scenarios.filter(each => each.hop === hop)
      if (mine.length === 0) continue
      const ground: Ground = { directory, certificates, backend, protocol: hop === 'grpc' ? 'grpc' : 'http' }
      report.scenarios.push(...(await benchHop(hop, mine, ground, wish, report.absent)))
    }
    return report
  } finally {
    await backend.stop()
    rmSync(directory, { recursive: true, force: true })
  }
}

async function benchHop(hop: Hop, scenarios: readonly Scenario[], ground: Ground, wish: Wish, absent: Absent[]): Promise<ScenarioReport[]> {
  const field = fieldOf(hop, wish)
  const missing = (each: Absent) => {
    if (absent.some(({ name }) => name === each.name)) return
    absent.push(each)
    wish.missing(each)
  }
  field.absent.forEach(missing)
  const standings: Standing[] = []
  try {
    for (const contender of field.contenders) {
      const standing = await stand(contender, ground, scenarios[0]!)
      if (typeof standing === 'string') missing({ name: `${contender.name} (${hop})`, reason: standing })
      else standings.push(standing)
    }
    const reports: ScenarioReport[] = []
    for (const scenario of scenarios) {
      const { results, failed } = await runRounds(scenario, standings, { ...wish, directory: ground.directory })
      failed.forEach((reason, name) => missing({ name: `${name} (${scenario.name})`, reason }))
      const report = scenarioReport(
        scenario,
        standings.filter(({ name }) => results.has(name)),
        results,
      )
      reports.push(report)
      wish.done(report)
    }
    return reports
  } finally {
    await Promise.all(standings.map(({ pair }) => pair.stop()))
  }
}

/** Started and seen to answer; a text when it cannot. */
async function stand(contender: Contender, ground: Ground, first: Scenario): Promise<Standing | string> {
  const { name, ours, version } = contender
  try {
    const pair = await contender.start(ground)
    const trial = await first.run(pair.port, 1, ground.directory)
    if (trial.requests > 0 && trial.errors === 0) return { name, ours, version, pair }
    await pair.stop()
    return `${trial.errors} errors, ${trial.requests} answers in a trial of ${first.name}`
  } catch (error) {
    return messageOf(error)
  }
}
