// Real isthmus processes for the end-to-end tests: agents, sidecars and gateways started through the CLI on loopback, each ended by
// its own id, with their logs kept so that a failure can show them.
import { spawn, type ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request, type Agent as HttpAgent } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePorts } from './free-ports.ts'
import { until, within } from './until.ts'

export { until, within } from './until.ts'

/** dist/bin/isthmus.js beside this compiled file: the program as it is published. */
export const cliPath = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'bin', 'isthmus.js')

export interface Running {
  child: ChildProcess
  log(): string
  /** Ends it with a signal and waits for its end. */
  stop(signal?: NodeJS.Signals): Promise<void>
}

/** Starts a program and collects what it prints. */
export function start(command: string, args: string[], env: Record<string, string> = {}): Running {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  let log = ''
  const collect = (chunk: Buffer) => {
    log = (log + chunk.toString()).slice(-200_000)
  }
  child.stdout.on('data', collect)
  child.stderr.on('data', collect)
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  return {
    child,
    log: () => log,
    async stop(signal = 'SIGTERM') {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill(signal)
      const force = setTimeout(() => child.kill('SIGKILL'), 10_000)
      await ended
      clearTimeout(force)
    },
  }
}

export interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  text: string
  json: unknown
}

export interface Call {
  method?: string
  body?: unknown
  headers?: Record<string, string>
  agent?: HttpAgent
  timeoutMs?: number
  /** There is a connection for it, where the agent may make it wait for one. */
  onSocket?: () => void
}

/** One HTTP exchange over node:http, so that a test decides about connections itself. */
export function call(port: number, path: string, options: Call = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const payload = options.body === undefined ? undefined : typeof options.body === 'string' ? options.body : JSON.stringify(options.body)
    const outgoing = request(
      {
        host: '127.0.0.1',
        port,
        path,
        method: options.method ?? 'GET',
        headers: options.headers ?? {},
        agent: options.agent ?? false,
        timeout: options.timeoutMs ?? 15_000,
      },
      incoming => {
        const chunks: Buffer[] = []
        incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
        incoming.on('error', reject)
        incoming.on('end', () => {
          const text = Buffer.concat(chunks).toString()
          let json: unknown
          try {
            json = JSON.parse(text)
          } catch {
            json = undefined
          }
          resolve({ status: incoming.statusCode ?? 0, headers: incoming.headers, text, json })
        })
      },
    )
    if (options.onSocket) outgoing.once('socket', options.onSocket)
    outgoing.on('timeout', () => outgoing.destroy(new Error(`no answer from ${path} in time`)))
    outgoing.on('error', reject)
    outgoing.end(payload)
  })
}

/** A process that has not begun to serve by then never will, on however busy a machine. */
const startMs = 60_000

/** Waits until a process serves, or has ended instead. */
async function serves(what: string, running: Running, probe: () => Promise<boolean>): Promise<void> {
  const { child } = running
  const hasEnded = () => child.exitCode !== null || child.signalCode !== null
  await until(`${what} is ready`, async () => hasEnded() || (await probe()), startMs)
  if (hasEnded()) throw new Error(`${what} ended: ${running.log().slice(-2000)}`)
}

/** How many sidecars an agent may give a port to. */
export const sidecarPorts = 40

/** One cluster of real processes: an agent on fixed free ports over its own data_dir, and the proxies that were started beside it. */
export class ClusterProcess {
  readonly datacenter: string
  readonly directory: string
  readonly ports: { http: number; dns: number; grpcTls: number }
  agent: Running
  readonly proxies = new Map<string, Running>()
  readonly #adminPorts = new Map<string, number>()
  /** Processes that a restart made; they are no children of ours. */
  readonly #successors = new Set<number>()
  readonly #configPath: string

  private constructor(datacenter: string, directory: string, ports: ClusterProcess['ports']) {
    this.datacenter = datacenter
    this.directory = directory
    this.ports = ports
    this.#configPath = join(directory, 'agent.json')
    this.agent = this.#spawnAgent()
  }

  static async start(datacenter: string, config: Record<string, unknown> = {}): Promise<ClusterProcess> {
    const directory = await mkdtemp(join(tmpdir(), `isthmus-${datacenter}-`))
    const [http, dns, grpcTls, ...sidecars] = (await freePorts(3 + sidecarPorts)) as [number, number, number, ...number[]]
    await writeFile(
      join(directory, 'agent.json'),
      JSON.stringify({
        datacenter,
        node_name: `${datacenter}-1`,
        data_dir: join(directory, 'data'),
        bind_addr: '127.0.0.1',
        ports: { http, dns, grpc_tls: grpcTls, sidecar_min_port: sidecars[0], sidecar_max_port: sidecars.at(-1) },
        ...config,
      }),
    )
    const cluster = new ClusterProcess(datacenter, directory, { http, dns, grpcTls })
    await cluster.ready()
    return cluster
  }

  #spawnAgent(): Running {
    return start(process.execPath, [cliPath, 'agent', '--config-file', this.#configPath])
  }

  async ready(): Promise<void> {
    const roots = () => call(this.ports.http, '/v1/agent/connect/ca/roots')
    await serves(`agent of ${this.datacenter}`, this.agent, async () => (await roots()).status === 200)
  }

  /** kill -9, nothing tidied up. */
  async killAgent(): Promise<void> {
    await this.agent.stop('SIGKILL')
  }

  async restartAgent(): Promise<void> {
    await this.agent.stop()
    this.agent = this.#spawnAgent()
    await this.ready()
  }

  /** The agent's API; refuses to go on after an unexpected status, unless `any` is set. */
  async api(method: string, path: string, body?: unknown, any = false): Promise<Answer> {
    const answer = await call(this.ports.http, path, { method, body })
    if (!any && answer.status >= 300) throw new Error(`${this.datacenter}: ${method} ${path} -> ${answer.status} ${answer.text}`)
    return answer
  }

  /** Runs one CLI command against this cluster. */
  async cli(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
    const child = spawn(process.execPath, [cliPath, ...args], {
      env: { ...process.env, ISTHMUS_HTTP_ADDR: `127.0.0.1:${this.ports.http}` },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const out: Buffer[] = []
    const err: Buffer[] = []
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk))
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk))
    const ended = new Promise<number>(resolve => child.once('close', exit => resolve(exit ?? -1)))
    const code = await within(`isthmus ${args.join(' ')} ends`, ended, startMs)
    return { code, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }
  }

  /** `isthmus sidecar` or `isthmus gateway` beside this agent; ready when its admin door says so. */
  async proxy(name: string, command: 'sidecar' | 'gateway', ...args: string[]): Promise<Running> {
    const [admin] = (await freePorts(1)) as [number]
    const own = ['--admin', `127.0.0.1:${admin}`, '--pid-file', this.#pidFile(name)]
    const running = start(process.execPath, [cliPath, command, ...args, ...own], { ISTHMUS_HTTP_ADDR: `127.0.0.1:${this.ports.http}` })
    this.proxies.set(name, running)
    this.#adminPorts.set(name, admin)
    await serves(`${command} ${name}`, running, async () => (await call(admin, '/ready')).status === 200)
    return running
  }

  /** Of a proxy that `proxy` started. */
  adminPort(name: string): number {
    return this.#adminPorts.get(name)!
  }

  /** The process that serves as this proxy now. */
  pid(name: string): number {
    return Number(readFileSync(this.#pidFile(name), 'utf8'))
  }

  /** Replaces the process of a proxy; resolves when its successor serves, with the time that took. */
  async restartProxy(name: string): Promise<number> {
    const before = this.pid(name)
    const beganMs = performance.now()
    process.kill(before, 'SIGUSR2')
    await until(`${name} has a successor`, () => Promise.resolve(this.pid(name) !== before), startMs, 5)
    this.#successors.add(this.pid(name))
    return performance.now() - beganMs
  }

  #pidFile(name: string): string {
    return join(this.directory, `${name}.pid`)
  }

  async stop(): Promise<void> {
    await Promise.all([...this.proxies.values(), this.agent].map(each => each.stop()))
    await Promise.all([...this.#successors].map(endProcess))
    await rm(this.directory, { recursive: true, force: true })
  }
}

/** False for one that ended but that nobody has asked about yet, too. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch (error) {
    // Where there is no /proc the signal said it.
    return (error as NodeJS.ErrnoException).code === 'ENOENT' && process.platform !== 'linux'
  }
}

/** Ends a process that is no child: in order, then at once. */
async function endProcess(pid: number): Promise<void> {
  for (const [signal, waitMs] of [
    ['SIGTERM', 1000],
    ['SIGTERM', 1000],
    ['SIGKILL', 5000],
  ] as const) {
    if (!isAlive(pid)) return
    process.kill(pid, signal)
    await until(`${pid} ended`, () => Promise.resolve(!isAlive(pid)), waitMs, 10).catch(() => undefined)
  }
}
