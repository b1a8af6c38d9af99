// Requests that go on and on while a test does something to what carries them: some callers keep their connection, some open a new one
// each time, reading and writing in turns. Every answer is looked at; anything but the right one is kept with its reason.
import { Agent } from 'node:http'
import { call } from './processes.ts'
import { until } from './until.ts'

export interface TrafficOptions {
  /** Callers of each kind. */
  keepAlive: number
  fresh: number
  /** Whether an answer is the right one. */
  isRight?: (answer: { status: number; json: unknown }, body: string) => boolean
}

export class SteadyTraffic {
  readonly failures: string[] = []
  done = 0
  readonly #port: number
  readonly #options: TrafficOptions
  readonly #agents: Agent[] = []
  readonly #callers: Promise<void>[]
  #over = false

  constructor(port: number, options: TrafficOptions) {
    this.#port = port
    this.#options = options
    const agents = Array.from({ length: options.keepAlive }, () => new Agent({ keepAlive: true, maxSockets: 1 }))
    this.#agents.push(...agents)
    this.#callers = [...agents, ...Array.from({ length: options.fresh }, () => undefined)].map((agent, i) => this.#call(agent, i))
  }

  /** Resolves once so many are done, however long that takes; not when none ends any more. */
  async reached(count: number): Promise<void> {
    while (this.done < count) {
      const { done } = this
      await until(`one more request after ${done} of ${count}`, async () => this.done > done, 30_000, 20)
    }
  }

  async end(): Promise<void> {
    this.#over = true
    await Promise.all(this.#callers)
    for (const agent of this.#agents) agent.destroy()
  }

  async #call(agent: Agent | undefined, caller: number): Promise<void> {
    for (let i = 0; !this.#over; i += 1) {
      const body = i % 4 === 3 ? `caller ${caller} says ${i}` : ''
      const path = `/${caller}/${i}`
      const what = `${body === '' ? 'GET' : 'POST'} ${path} ${agent ? 'kept alive' : 'on a new connection'}`
      try {
        const answer = await call(this.#port, path, { ...(body === '' ? {} : { method: 'POST', body }), ...(agent ? { agent } : {}) })
        const isRight = this.#options.isRight ?? (({ status }) => status === 200)
        if (!isRight(answer, body)) this.failures.push(`${what}: ${answer.status} ${answer.text.slice(0, 100)}`)
      } catch (error) {
        this.failures.push(`${what}: ${(error as Error).message}`)
      }
      this.done += 1
    }
  }
}
