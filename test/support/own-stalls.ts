/**
 * When the process that makes the traffic stood still itself. Two witnesses: a timer that says by how much it came late, and a control
 * stream, which calls the app straight, through no mesh, at a low rate. What they lost between them is taken off a request that was
 * under way meanwhile, and nothing else is: a mesh that is slow while they are not is slow.
 */
import { Agent } from 'node:http'
import { call } from './processes.ts'

/** Shorter ones are taken off nothing: every event waits a little, and a slow exchange is not yet a stall. */
const leastMs = { loopMs: 50, controlMs: 200 } as const
const lookMs = 20
const controlMs = 100
/** Stalls of so long ago touch no request that is still under way. */
const keptMs = 60_000

interface Stall {
  fromMs: number
  toMs: number
}

export class OwnStalls {
  /** The longest since it was last asked for. */
  readonly #longest = { loopMs: 0, controlMs: 0 }
  readonly #stalls: Stall[] = []
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 })
  readonly #timers: NodeJS.Timeout[]
  #controlled = true
  /** Control requests that were not answered with 2xx. */
  failed = 0

  /** `appPort` is where the app itself listens. */
  constructor(appPort?: number) {
    let dueMs = performance.now() + lookMs
    const look = setInterval(() => {
      const nowMs = performance.now()
      this.#note('loopMs', dueMs, nowMs)
      dueMs = nowMs + lookMs
    }, lookMs)
    this.#timers = [look]
    if (appPort !== undefined) this.#timers.push(setInterval(() => void this.#control(appPort), controlMs))
  }

  /** Of a time, how much of it this process lost. */
  within(fromMs: number, toMs: number): number {
    let [lostMs, reachedMs] = [0, fromMs]
    for (const stall of this.#stalls.toSorted((a, b) => a.fromMs - b.fromMs)) {
      const [from, to] = [Math.max(stall.fromMs, reachedMs), Math.min(stall.toMs, toMs)]
      if (to <= from) continue
      lostMs += to - from
      reachedMs = to
    }
    return lostMs
  }

  /** The longest of each witness since this was last asked. */
  longest(): { loopMs: number; controlMs: number } {
    const { loopMs, controlMs: exchangeMs } = this.#longest
    this.#longest.loopMs = this.#longest.controlMs = 0
    return { loopMs: Math.round(loopMs), controlMs: Math.round(exchangeMs) }
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer)
    this.#agent.destroy()
  }

  async #control(port: number): Promise<void> {
    if (!this.#controlled) return
    this.#controlled = false
    const beganMs = performance.now()
    const status = await call(port, '/control', { agent: this.#agent }).then(
      answer => answer.status,
      () => 0,
    )
    if (status < 200 || status > 299) this.failed += 1
    this.#note('controlMs', beganMs, performance.now())
    this.#controlled = true
  }

  #note(witness: keyof typeof leastMs, fromMs: number, toMs: number): void {
    const tookMs = toMs - fromMs
    this.#longest[witness] = Math.max(this.#longest[witness], tookMs)
    if (tookMs < leastMs[witness]) return
    this.#stalls.push({ fromMs, toMs })
    while (this.#stalls.length > 0 && this.#stalls[0]!.toMs < toMs - keptMs) this.#stalls.shift()
  }
}
