/**
 * `npm run bench:control`: DNS answers and health queries per CPU-second of a real agent, and what replication to a peer takes, beside
 * Consul where CONSUL_BIN names one. Both hold the same services; each round asks both in turn; the agent is on the measured core,
 * whoever asks on the other.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { messageOf } from '../../src/lib/errors.ts'
import { consulBin, ConsulProcess } from '../../test/interop/consul-process.ts'
import { call, until } from '../../test/support/processes.ts'
import { cpuMicros, hasProc } from '../machine/process.ts'
import { pinned, runOn, versionOf, which } from '../machine/programs.ts'
import { endsWithUs, scratchDirectory } from '../machine/scratch.ts'
import { loadHttp } from '../path/load.ts'
import { Mesh, thisBuild } from '../path/pairs/isthmus.ts'
import { thisMachine } from '../path/report.ts'
import { pairedRatio, summarise } from '../path/statistics.ts'
import { aligned, machineLine } from '../path/table.ts'
import { measureReplication, replicationTable, type Finding as ReplicationFinding } from './replication.ts'

const usage = `npm run bench:control -- [--rounds 10] [--seconds 3] [--services 100] [--instances 5] [--json bench/results/control.json]
  [--only answers,replication] [--replication 1000x5,10000x1,1x5000] [--changes 200]

--replication SERVICESxINSTANCES,… are the catalogs that a pair of agents replicates, --changes the changes of health that are timed
CONSUL_BIN names a Consul to measure beside; DNS needs dnsperf`

interface Wish {
  rounds: number
  seconds: number
  services: number
  instances: number
  json: string
  only: Part[]
  replication: { services: number; instances: number }[]
  changes: number
}

const parts = ['answers', 'replication'] as const
type Part = (typeof parts)[number]

interface Subject {
  name: string
  version: string
  pid: number
  http: number
  dns: number
  stop(): Promise<void>
}

interface Question {
  name: string
  /** Asks for so many seconds and says how many answers came. */
  ask(subject: Subject, seconds: number, directory: string): Promise<number>
}

function readArguments(): Wish {
  const { values } = parseArgs({
    options: {
      rounds: { type: 'string', default: '10' },
      seconds: { type: 'string', default: '3' },
      services: { type: 'string', default: '100' },
      instances: { type: 'string', default: '5' },
      json: { type: 'string', default: 'bench/results/control.json' },
      only: { type: 'string', default: parts.join() },
      replication: { type: 'string', default: '1000x5,10000x1,1x5000' },
      changes: { type: 'string', default: '200' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    process.exit(0)
  }
  const count = (flag: 'rounds' | 'seconds' | 'services' | 'instances' | 'changes') => {
    const number = Number(values[flag])
    if (!(Number.isInteger(number) && number > 0)) throw new Error(`--${flag} ${values[flag]}: give a whole number above 0`)
    return number
  }
  return {
    rounds: count('rounds'),
    seconds: count('seconds'),
    services: count('services'),
    instances: count('instances'),
    json: values.json,
    only: values.only.split(',').map(word => {
      const part = parts.find(each => each === word)
      if (!part) throw new Error(`--only ${word}: give ${parts.join(' or ')}`)
      return part
    }),
    replication: values.replication.split(',').map(size => {
      const [, services, instances] = /^(\d+)x(\d+)$/.exec(size) ?? []
      if (!Number(services) || !Number(instances)) throw new Error(`--replication ${size}: give services and instances as 1000x5`)
      return { services: Number(services), instances: Number(instances) }
    }),
    changes: count('changes'),
  }
}

async function startIsthmus(directory: string): Promise<Subject> {
  const mesh = await Mesh.start(thisBuild, directory, 'dc1', 'measured')
  const { agent, http, dns } = mesh
  return { name: 'isthmus', version: `Node ${process.version}`, pid: agent.child.pid!, http, dns, stop: () => mesh.stop() }
}

async function startConsul(consul: string): Promise<Subject> {
  const server = await ConsulProcess.start('dc1')
  endsWithUs(server.agent)
  const pid = server.agent.child.pid!
  // It was started where it liked; all its threads go where ours is.
  if (pinned) await runOn('load', 'taskset', ['-a', '-c', '-p', '0', String(pid)])
  const { http, dns } = server.ports
  return { name: 'consul', version: versionOf(consul, '--version'), pid, http, dns, stop: () => server.stop() }
}

/** The same catalog for both: passing instances of services on nodes of their own. */
async function fill({ http }: Subject, { services, instances }: Wish): Promise<void> {
  for (let i = 0; i < services; i++) {
    for (let n = 0; n < instances; n++) {
      const Service = { ID: `service-${i}`, Service: `service-${i}`, Port: 8000 + n }
      const Check = { Name: 'alive', CheckID: `service-${i}`, ServiceID: `service-${i}`, Status: 'passing' }
      const body = { Node: `node-${n}`, Address: `10.0.0.${n + 1}`, Service, Check }
      const answer = await call(http, '/v1/catalog/register', { method: 'PUT', body })
      if (answer.status !== 200) throw new Error(`register: ${answer.status} ${answer.text}`)
    }
  }
  await until('the catalog is there', async () => {
    const health = await call(http, `/v1/health/service/service-${services - 1}?passing`)
    return (health.json as unknown[]).length === instances
  })
}

function questions({ services }: Wish, absent: (name: string, reason: string) => void): Question[] {
  const health: Question[] = [
    {
      name: 'GET /v1/health/service/X?passing',
      async ask({ http }, seconds, directory) {
        const { requests, errors } = await loadHttp(
          { port: http, path: '/v1/health/service/service-0?passing', seconds, connections: 16 },
          directory,
        )
        if (errors > 0) throw new Error(`${errors} errors in ${requests} requests`)
        return requests
      },
    },
  ]
  const dnsperf = which('dnsperf')
  if (dnsperf !== undefined) return [...['A', 'SRV'].map(type => dnsQuestion(dnsperf, type, services)), ...health]
  absent('DNS', 'install dnsperf')
  return health
}

function dnsQuestion(dnsperf: string, type: string, services: number): Question {
  return {
    name: `DNS ${type}`,
    async ask({ dns }, seconds, directory) {
      const path = join(directory, `queries-${type}`)
      writeFileSync(path, Array.from({ length: services }, (_, i) => `service-${i}.service.consul ${type}\n`).join(''))
      const args = ['-s', '127.0.0.1', '-p', String(dns), '-d', path, '-l', String(seconds), '-c', '8', '-q', '100', '-e']
      const { stdout, stderr } = await runOn('load', dnsperf, args)
      const answered = Number(/Queries completed:\s+(\d+)/.exec(stdout)?.[1] ?? 0)
      const good = Number(/NOERROR (\d+)/.exec(stdout)?.[1] ?? 0)
      if (answered === 0 || good < answered) throw new Error(`dnsperf: ${good} good answers of ${answered}: ${stderr || stdout}`)
      return answered
    },
  }
}

/** Answers per CPU-second, for each subject a list over the rounds. */
async function measure(question: Question, subjects: Subject[], wish: Wish, directory: string): Promise<Map<string, number[]>> {
  const results = new Map<string, number[]>(subjects.map(({ name }) => [name, []]))
  for (const subject of subjects) await question.ask(subject, wish.seconds, directory)
  for (let round = 0; round < wish.rounds; round++) {
    for (let i = 0; i < subjects.length; i++) {
      const subject = subjects[(i + round) % subjects.length]!
      const before = cpuMicros(subject.pid)
      const answers = await question.ask(subject, wish.seconds, directory)
      results.get(subject.name)!.push((answers / (cpuMicros(subject.pid) - before)) * 1e6)
    }
  }
  return results
}

interface AnswersFinding {
  question: string
  measured: { name: string; version: string; perCpuSecond: ReturnType<typeof summarise>; rounds: number[] }[]
  ratio?: ReturnType<typeof pairedRatio>
}

async function answers(wish: Wish, directory: string, missing: (name: string, reason: string) => void): Promise<AnswersFinding[]> {
  const subjects = [await startIsthmus(directory)]
  try {
    if (consulBin) subjects.push(await startConsul(consulBin))
    for (const subject of subjects) await fill(subject, wish)
    const findings: AnswersFinding[] = []
    for (const question of questions(wish, missing)) {
      const results = await measure(question, subjects, wish, directory)
      const measured = subjects.map(({ name, version }) => ({
        name,
        version,
        perCpuSecond: summarise(results.get(name)!),
        rounds: results.get(name)!,
      }))
      const theirs = results.get('consul')
      findings.push({ question: question.name, measured, ...(theirs ? { ratio: pairedRatio(results.get('isthmus')!, theirs) } : {}) })
    }
    return findings
  } finally {
    await Promise.all(subjects.map(each => each.stop()))
  }
}

function answersTable(findings: AnswersFinding[]): string {
  const rows = findings.flatMap(({ question, measured, ratio }) =>
    measured.map(({ name, version, perCpuSecond: { median, p25, p75 } }, i) => [
      i === 0 ? question : '',
      `${name} ${version}`,
      `${median.toFixed(0)} [${p25.toFixed(0)}-${p75.toFixed(0)}]`,
      i === 0 && ratio ? `${ratio.median.toFixed(2)} (${ratio.low.toFixed(2)}-${ratio.high.toFixed(2)})` : '',
    ]),
  )
  return aligned([['', '', 'answers per CPU-second', 'isthmus / consul'], ...rows])
}

async function main(): Promise<void> {
  const wish = readArguments()
  if (!hasProc()) throw new Error('this reads CPU time from /proc: run it on Linux')
  const absent: string[] = []
  const missing = (name: string, reason: string) => absent.push(`NOT MEASURED: ${name}: ${reason}`)
  if (!consulBin) missing('consul', 'name it with CONSUL_BIN')
  const directory = scratchDirectory()
  const findings = wish.only.includes('answers') ? await answers(wish, directory, missing) : []
  const replicated: ReplicationFinding[] = []
  if (wish.only.includes('replication')) {
    for (const size of wish.replication) {
      for (const name of consulBin ? (['isthmus', 'consul'] as const) : (['isthmus'] as const)) {
        replicated.push(await measureReplication(name, { ...size, changes: wish.changes }, directory))
      }
    }
  }
  if (findings.length > 0) console.log(`${answersTable(findings)}\n${wish.services} services of ${wish.instances} instances\n`)
  if (replicated.length > 0) console.log(`${replicationTable(replicated)}\n`)
  console.log([machineLine(thisMachine()), ...absent].join('\n'))
  mkdirSync(dirname(wish.json), { recursive: true })
  writeFileSync(wish.json, `${JSON.stringify({ machine: thisMachine(), ...wish, absent, findings, replicated }, undefined, 2)}\n`)
}

try {
  await main()
} catch (error) {
  console.error(messageOf(error))
  process.exitCode = 1
}
