/**
 * Replication between two real agents, each a process: how long many exported services take to be known at the importer, what that
 * costs there, and how soon one change of health reaches a blocking query at the importer while all of them are there. The same is
 * asked of two Consuls where CONSUL_BIN names one.
 */
import { Agent } from 'node:http'
import { consulBin, ConsulProcess } from '../../test/interop/consul-process.ts'
import { call, until } from '../../test/support/processes.ts'
import { cpuMicros, residentBytes } from '../machine/process.ts'
import { endsWithUs } from '../machine/scratch.ts'
import { aligned } from '../path/table.ts'
import { Mesh, thisBuild } from '../path/pairs/isthmus.ts'

export interface Wish {
  services: number
  instances: number
  /** Changes of health that are timed. */
  changes: number
}

export interface Finding extends Wish {
  name: string
  /** From the export's config entry to the last instance at the importer. */
  convergeMs: number
  importerCpuMs: number
  exporterCpuMs: number
  importerBytes: number
  exporterBytes: number
  /** From before a change is written at the exporter to the answer of a blocking query at the importer. */
  changeMs: { p50: number; p99: number; max: number }
  /** For each change, its registration at the exporter and its queries at the importer included. */
  changeCpuMs: { exporter: number; importer: number }
}

interface Side {
  http: number
  pid: number
  stop(): Promise<void>
}

/** What a client keeps open, so that no time goes into connecting. */
const agent = new Agent({ keepAlive: true })
const registering = 32
/** Looked at again and again until they are there; then all others are. */
const sampled = 20
const convergeTimeoutMs = 300_000

export async function measureReplication(name: 'isthmus' | 'consul', wish: Wish, directory: string): Promise<Finding> {
  const sides = await startSides(name, directory)
  const [exporter, importer] = sides
  try {
    await peer(exporter, importer)
    await fill(exporter, wish)
    return { name, ...wish, ...(await converge(exporter, importer, wish)), ...(await timeChanges(exporter, importer, wish)) }
  } finally {
    await Promise.all(sides.map(side => side.stop()))
  }
}

async function startSides(name: 'isthmus' | 'consul', directory: string): Promise<[Side, Side]> {
  const isthmus = async (datacenter: string, core: 'load' | 'measured'): Promise<Side> => {
    const mesh = await Mesh.start(thisBuild, directory, datacenter, core)
    return { http: mesh.http, pid: mesh.agent.child.pid!, stop: () => mesh.stop() }
  }
  const consul = async (datacenter: string): Promise<Side> => {
    if (!consulBin) throw new Error('name a Consul with CONSUL_BIN')
    const server = await ConsulProcess.start(datacenter)
    endsWithUs(server.agent)
    return { http: server.ports.http, pid: server.agent.child.pid!, stop: () => server.stop() }
  }
  return name === 'isthmus'
    ? [await isthmus('east', 'load'), await isthmus('west', 'measured')]
    : [await consul('east'), await consul('west')]
}

async function ask(side: Side, method: string, path: string, body?: unknown): Promise<{ json: unknown; index: number }> {
  const answer = await call(side.http, path, { method, body, agent, timeoutMs: 120_000 })
  if (answer.status >= 300) throw new Error(`${method} ${path} -> ${answer.status} ${answer.text}`)
  return { json: answer.json, index: Number(answer.headers['x-consul-index'] ?? 0) }
}

async function peer(exporter: Side, importer: Side): Promise<void> {
  const { json } = await ask(exporter, 'POST', '/v1/peering/token', { PeerName: 'west' })
  const { PeeringToken } = json as { PeeringToken: string }
  await ask(importer, 'POST', '/v1/peering/establish', { PeerName: 'east', PeeringToken })
  await until(
    'the peering is active',
    async () => ((await ask(importer, 'GET', '/v1/peering/east')).json as { State: string }).State === 'ACTIVE',
  )
}

function registration(service: number, instance: number, status: string): unknown {
  const id = `service-${service}-${instance}`
  return {
    Node: `node-${instance}`,
    Address: `10.0.0.${instance + 1}`,
    Service: { ID: id, Service: `service-${service}`, Port: 8000 + instance, Tags: ['v1'], Meta: { version: '1' } },
    Check: { Name: 'alive', CheckID: id, ServiceID: id, Status: status },
  }
}

async function fill(exporter: Side, { services, instances }: Wish): Promise<void> {
  let next = 0
  const work = async (): Promise<void> => {
    for (let i = next++; i < services * instances; i = next++) {
      await ask(exporter, 'PUT', '/v1/catalog/register', registration(Math.floor(i / instances), i % instances, 'passing'))
    }
  }
  await Promise.all(Array.from({ length: registering }, work))
}

async function converge(
  exporter: Side,
  importer: Side,
  wish: Wish,
): Promise<Omit<Finding, 'name' | 'changeMs' | 'changeCpuMs' | keyof Wish>> {
  const isThere = async (service: number): Promise<boolean> => {
    const { json } = await ask(importer, 'GET', `/v1/health/service/service-${service}?peer=east`)
    return (json as unknown[]).length === wish.instances
  }
  const before = { importer: cpuMicros(importer.pid), exporter: cpuMicros(exporter.pid) }
  const start = performance.now()
  const Services = [{ Name: '*', Consumers: [{ Peer: 'west' }] }]
  await ask(exporter, 'PUT', '/v1/config', { Kind: 'exported-services', Name: 'default', Services })
  // Some from everywhere, and those whose names come last, as an exporter may go by them.
  const sample = Array.from({ length: sampled }, (_, i) => Math.floor((i * (wish.services - 1)) / (sampled - 1)))
  const byName = Array.from({ length: wish.services }, (_, i) => String(i)).sort()
  let missing = [...new Set([...sample, ...byName.slice(-sampled).map(Number)])]
  let all = false
  let taken = { convergeMs: 0, importer: 0, exporter: 0 }
  while (missing.length > 0) {
    if (performance.now() - start > convergeTimeoutMs)
      throw new Error(`${missing.length} services are missing after ${convergeTimeoutMs} ms`)
    const still: number[] = []
    for (const service of missing) if (!(await isThere(service))) still.push(service)
    missing = still
    if (missing.length > 0) await new Promise(resolve => setTimeout(resolve, 20))
    else if (!all) {
      taken = { convergeMs: performance.now() - start, importer: cpuMicros(importer.pid), exporter: cpuMicros(exporter.pid) }
      all = true
      for (let service = 0; service < wish.services; service += 1) if (!(await isThere(service))) missing.push(service)
    } else taken = { convergeMs: performance.now() - start, importer: cpuMicros(importer.pid), exporter: cpuMicros(exporter.pid) }
  }
  return {
    convergeMs: taken.convergeMs,
    importerCpuMs: (taken.importer - before.importer) / 1000,
    exporterCpuMs: (taken.exporter - before.exporter) / 1000,
    importerBytes: residentBytes(importer.pid),
    exporterBytes: residentBytes(exporter.pid),
  }
}

async function timeChanges(
  exporter: Side,
  importer: Side,
  { services, changes }: Wish,
): Promise<Pick<Finding, 'changeMs' | 'changeCpuMs'>> {
  const times: number[] = []
  const before = { exporter: cpuMicros(exporter.pid), importer: cpuMicros(importer.pid) }
  for (let i = 0; i < changes; i += 1) {
    const service = (i * 7919) % services
    const path = `/v1/health/service/service-${service}?peer=east`
    const { index, json } = await ask(importer, 'GET', path)
    const was = statusOf(json)
    const blocking = ask(importer, 'GET', `${path}&index=${index}&wait=30s`)
    // The query is waiting when the change is made.
    await new Promise(resolve => setTimeout(resolve, 20))
    const start = performance.now()
    const changed = ask(exporter, 'PUT', '/v1/catalog/register', registration(service, 0, was === 'passing' ? 'critical' : 'passing'))
    const after = statusOf((await blocking).json)
    times.push(performance.now() - start)
    if (after === was) throw new Error(`service-${service} answered and was still ${was}`)
    await changed
  }
  times.sort((a, b) => a - b)
  const at = (share: number): number => times[Math.min(times.length - 1, Math.floor(share * times.length))]!
  const cpuMs = (side: Side, was: number): number => (cpuMicros(side.pid) - was) / 1000 / changes
  return {
    changeMs: { p50: at(0.5), p99: at(0.99), max: times.at(-1)! },
    changeCpuMs: { exporter: cpuMs(exporter, before.exporter), importer: cpuMs(importer, before.importer) },
  }
}

export function replicationTable(findings: Finding[]): string {
  const mib = (bytes: number) => `${(bytes / 1024 / 1024).toFixed(0)} MiB`
  const ms = (time: number) => `${time.toFixed(time < 10 ? 1 : 0)} ms`
  const head = [
    'replication',
    '',
    'all there in',
    "importer's CPU",
    "exporter's CPU",
    'importer',
    'exporter',
    'a change p50',
    'p99',
    'max',
    'its CPU, exporter',
    'importer',
  ]
  const rows = findings.map(({ name, services, instances, changeMs, changeCpuMs, ...each }) => [
    `${services} services of ${instances}`,
    name,
    ...[each.convergeMs, each.importerCpuMs, each.exporterCpuMs].map(ms),
    ...[each.importerBytes, each.exporterBytes].map(mib),
    ...[changeMs.p50, changeMs.p99, changeMs.max, changeCpuMs.exporter, changeCpuMs.importer].map(ms),
  ])
  return aligned([head, ...rows])
}

/** Of the first instance. */
function statusOf(json: unknown): string {
  const entries = json as { Service: { ID: string }; Checks: { Status: string }[] }[]
  return entries.find(entry => entry.Service.ID.endsWith('-0'))?.Checks[0]?.Status ?? 'none'
}
