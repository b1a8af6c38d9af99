/**
 * The parent of a proxy's workers: it holds every listening socket by name and accepts on none, starts a worker again that ended, and
 * serves the one admin door for all. A socket lives here as long as a worker has it open, and through the death of any of them, so that
 * callers who wait in its queue are served by the next.
 */
import type { ChildProcess } from 'node:child_process'
import { rmSync } from 'node:fs'
import { Socket } from 'node:net'
import { Backoff } from '../lib/backoff.ts'
import { MeshError } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { countersOf, createRegistry, type MetricsJson } from '../lib/metrics.ts'
import { startAdmin, type AdminDoor, type AdminSource } from '../proxy/admin.ts'
import { adminSocket, ListeningSockets, type OpenSocket, type SocketSource } from '../proxy/listening-sockets.ts'
import type { RunningProxy } from '../proxy/running-proxy.ts'
import type { HostPort } from './address.ts'
import { spawnAgain } from './successor.ts'
import type { FromWorker, Question, ToWorker } from './worker.ts'

export const supervisorLimits = {
  restart: { firstMs: 100, maxMs: 10_000, jitter: 0.5 },
  /** One that lived so long is started again at once. */
  longMs: 30_000,
  answerMs: 1000,
} as const

/** A handle of libuv: what Node sends between processes. */
interface Handle {
  fd: number
  close(): void
}

interface Worker {
  index: number
  child: ChildProcess
  beganMs: number
  ready: boolean
  open: readonly OpenSocket[]
  asked: Map<number, (value: unknown) => void>
  /** What it last said of its metrics. */
  metrics: MetricsJson
}

export interface SupervisorOptions {
  count: number
  /** Descriptors of listening sockets that are open already. */
  inherited: Map<string, number>
  /** Where its own, that of the admin door, comes from. */
  sockets: SocketSource
  admin: HostPort | undefined
  logger: Logger
}

export class Supervisor implements Pick<RunningProxy, 'ready' | 'admin' | 'descriptors' | 'drain' | 'handOver' | 'close'> {
  readonly #options: SupervisorOptions
  readonly #handles = new Map<string, Handle>()
  /** Files of unix sockets. */
  readonly #paths = new Map<string, string>()
  /** Who is binding a socket, and who waits for that. */
  readonly #binding = new Map<string, { by: Worker; waiting: Worker[] }>()
  readonly #workers = new Map<number, Worker>()
  readonly #backoffs = new Map<number, Backoff>()
  readonly #own: ListeningSockets
  readonly #registry = createRegistry('supervisor')
  /** Counters of workers that are gone, as they were last told: a sum never falls. */
  #gone: Promise<MetricsJson> = Promise.resolve([])
  #door: AdminDoor | undefined
  #ending: 'drain' | 'handOver' | undefined
  #isReady = false
  #lastId = 0
  readonly #ready: Promise<void>
  #settle!: { resolve: () => void; reject: (error: unknown) => void }
  #onExit: () => void = () => {}

  static async start(options: SupervisorOptions): Promise<Supervisor> {
    const supervisor = new Supervisor(options)
    if (!options.sockets.succeeds) await supervisor.#openAdmin()
    for (let index = 1; index <= options.count; index += 1) supervisor.#spawn(index)
    return supervisor
  }

  private constructor(options: SupervisorOptions) {
    this.#options = options
    this.#own = new ListeningSockets(options.sockets)
    for (const [name, fd] of options.inherited) {
      if (name === adminSocket) continue
      options.inherited.delete(name)
      // A socket that is never read or written: the only way to a handle for a descriptor that does not accept.
      const { _handle: handle } = new Socket({ fd, readable: false, writable: false }) as unknown as { _handle: Handle }
      this.#handles.set(name, handle)
    }
    this.#ready = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    this.#ready.catch(() => {})
  }

  ready(): Promise<void> {
    return this.#ready
  }

  get admin(): { port: number } | undefined {
    return this.#door && { port: this.#door.port }
  }

  descriptors(): Map<string, number> {
    return new Map([...this.#own.descriptors(), ...[...this.#handles].map(([name, { fd }]) => [name, fd] as const)])
  }

  /** The workers know how long. */
  async drain(): Promise<void> {
    await this.#end('drain')
  }

  async handOver(): Promise<void> {
    this.#own.handOver()
    const ended = this.#end('handOver')
    for (const name of this.#handles.keys()) this.#drop(name)
    await ended
  }

  async close(): Promise<void> {
    this.#ending ??= 'drain'
    this.#settle.reject(new MeshError('unavailable', 'the proxy was closed'))
    for (const { child } of this.#workers.values()) child.kill('SIGKILL')
    for (const name of this.#handles.keys()) this.#drop(name)
    await this.#door?.close()
  }

  async #end(how: 'drain' | 'handOver'): Promise<void> {
    this.#ending = how
    for (const worker of this.#workers.values()) tell(worker, { end: how })
    while (this.#workers.size > 0) {
      await new Promise<void>(resolve => {
        this.#onExit = resolve
      })
    }
  }

  #spawn(index: number): void {
    const child = spawnAgain('worker', new Map())
    const worker: Worker = { index, child, beganMs: performance.now(), ready: false, open: [], asked: new Map(), metrics: [] }
    this.#workers.set(index, worker)
    this.#options.logger.info({ worker: index, pid: child.pid }, 'a worker was started')
    child.on('message', (message, handle) => this.#hear(worker, message as FromWorker, handle as unknown as Handle | undefined))
    child.on('error', error => {
      this.#options.logger.error({ worker: index, error: error.message }, 'a worker cannot be reached')
      // One that never was has no exit.
      if (child.pid === undefined) this.#ended(worker, error.message)
    })
    child.on('exit', (code, signal) => this.#ended(worker, signal ?? code ?? 'no code'))
  }

  #ended(worker: Worker, how: string | number): void {
    const { index } = worker
    this.#workers.delete(index)
    for (const answer of worker.asked.values()) answer(undefined)
    this.#gone = this.#gone.then(gone => countersOf([gone, worker.metrics]))
    for (const [name, binding] of this.#binding) {
      binding.waiting = binding.waiting.filter(each => each !== worker)
      if (binding.by === worker) this.#bound(name, undefined)
    }
    this.#onExit()
    if (this.#ending) return this.#sweep()
    let backoff = this.#backoffs.get(index)
    if (!backoff) this.#backoffs.set(index, (backoff = new Backoff(supervisorLimits.restart)))
    if (performance.now() - worker.beganMs > supervisorLimits.longMs) backoff.reset()
    const waitMs = Math.round(backoff.nextMs())
    this.#options.logger.warn({ worker: index, pid: worker.child.pid, how, waitMs }, 'a worker ended; it is started again')
    const again = setTimeout(() => {
      if (!this.#ending) this.#spawn(index)
    }, waitMs)
    // A supervisor that has ended does not stay for a worker that it will not start.
    again.unref()
  }

  #hear(worker: Worker, message: FromWorker, handle: Handle | undefined): void {
    if ('claim' in message) this.#claimed(worker, message.claim)
    else if ('bound' in message) {
      // It says so itself only later, because a handle is on its way until it was acknowledged; a sweep may come before.
      if (handle) worker.open = [...worker.open, { name: message.bound }]
      this.#bound(message.bound, handle)
    } else if ('failed' in message) this.#bound(message.failed, undefined)
    else if ('answers' in message) worker.asked.get(message.answers)?.(message.value)
    else {
      if ('ready' in message) worker.ready = true
      else {
        worker.open = message.open
        for (const { name, path } of message.open) if (path !== undefined) this.#paths.set(name, path)
      }
      this.#sweep()
      this.#look()
    }
  }

  /** Gives the socket of that name, or lets one worker at a time bind it. */
  #claimed(worker: Worker, name: string): void {
    const handle = this.#handles.get(name)
    const binding = this.#binding.get(name)
    if (handle) tell(worker, { granted: name }, handle)
    else if (binding) binding.waiting.push(worker)
    else {
      this.#binding.set(name, { by: worker, waiting: [] })
      tell(worker, { granted: name })
    }
  }

  /** It is bound, or whoever was to bind it could not: then the next one tries. */
  #bound(name: string, handle: Handle | undefined): void {
    if (handle) {
      this.#drop(name)
      this.#handles.set(name, handle)
    }
    const waiting = this.#binding.get(name)?.waiting ?? []
    this.#binding.delete(name)
    for (const worker of waiting) this.#claimed(worker, name)
  }

  #drop(name: string, path?: string): void {
    this.#handles.get(name)?.close()
    this.#handles.delete(name)
    if (path !== undefined && this.#ending !== 'handOver') rmSync(path, { force: true })
  }

  /** Lets go of what no worker has open. One that is starting may still ask for it. */
  #sweep(): void {
    if (!this.#ending && !this.#allReady()) return
    const open = new Set([...this.#workers.values()].flatMap(worker => worker.open.map(each => each.name)))
    for (const name of this.#handles.keys()) if (!open.has(name)) this.#drop(name, this.#paths.get(name))
  }

  #allReady(): boolean {
    return this.#workers.size === this.#options.count && [...this.#workers.values()].every(worker => worker.ready)
  }

  #look(): void {
    if (this.#isReady || !this.#allReady()) return
    this.#isReady = true
    this.#openAdmin().then(() => {
      this.#own.settled()
      this.#settle.resolve()
    }, this.#settle.reject)
  }

  async #openAdmin(): Promise<void> {
    const { admin } = this.#options
    if (admin && !this.#door) this.#door = await startAdmin(admin, this.#status(), this.#own)
  }

  #status(): AdminSource {
    const each = async <T>(question: Question, none: T) => {
      const workers = [...this.#workers.values()]
      return Promise.all(workers.map(async worker => ({ worker, value: ((await this.#ask(worker, question)) as T | undefined) ?? none })))
    }
    return {
      metrics: async () => {
        for (const { worker, value } of await each<MetricsJson[]>('metrics', [])) if (value[0]) worker.metrics = value[0]
        const told = [...this.#workers.values()].map(worker => worker.metrics)
        return [...told, await this.#gone, await this.#registry.getMetricsAsJSON()]
      },
      notReady: async () => {
        if (this.#ending) return this.#ending === 'drain' ? ['draining'] : []
        const missing = (await each('notReady', ['does not answer'])).flatMap(({ worker, value }) =>
          value.map(problem => `worker ${worker.index}: ${problem}`),
        )
        return this.#workers.size < this.#options.count ? [...missing, 'a worker is being started again'] : missing
      },
      plan: async () => (await each<unknown>('plan', undefined)).find(({ value }) => value !== undefined)?.value,
      certs: async () => ({ workers: (await each<unknown>('certs', undefined)).map(({ value }) => value) }),
    }
  }

  /** Undefined when it does not answer in time. */
  #ask(worker: Worker, question: Question): Promise<unknown> {
    const id = (this.#lastId += 1)
    return new Promise(resolve => {
      const answer = (value: unknown) => {
        clearTimeout(timer)
        worker.asked.delete(id)
        resolve(value)
      }
      const timer = setTimeout(() => answer(undefined), supervisorLimits.answerMs)
      worker.asked.set(id, answer)
      tell(worker, { question, id })
    })
  }
}

function tell({ child }: Worker, message: ToWorker, handle?: Handle): void {
  // One that has just ended is heard of by its exit.
  if (child.connected) child.send(message, handle as unknown as Socket | undefined, {}, () => undefined)
}
