/**
 * Traffic at a fixed pace, whatever becomes of it, while a test does something to what carries it: GETs and POSTs in turns on kept-alive
 * connections, and a few tunnels of bytes that each say something and wait for the echo. A request fails that is answered wrongly, or
 * reset, or later than a second after it went out on a connection; nothing is tried again. One that is late because this very process stood still is
 * counted apart, by the witness of `own-stalls.ts`, and so is one that waited so long for a connection of this process.
 */
import { Agent } from 'node:http'
import { connect, type Socket } from 'node:net'
import { OwnStalls } from './own-stalls.ts'
import { call, type Answer } from './processes.ts'

export interface Pace {
  perSecond: number
  connections: number
  tunnels: number
}
/** What the claims of zero failed requests are made for; halved where it goes both ways at once. */
export const fullPace: Pace = { perSecond: 500, connections: 32, tunnels: 4 }
export const halfPace: Pace = { perSecond: 250, connections: 16, tunnels: 2 }

export interface PacedOptions {
  /** Where requests go in turns; none for no requests. */
  httpPorts: number[]
  /** An echo that answers in capitals; undefined for no tunnels. */
  tunnelPort?: number | undefined
  /** Where the app itself listens, for the control stream. */
  appPort?: number | undefined
  pace?: Pace
  isRight?: (answer: Answer, body: string) => boolean
}

/** What came of a while of it. */
export interface Stretch {
  what: string
  beganMs: number
  sent: number
  /** Answered wrongly, reset, or late by the path. */
  failed: string[]
  /** Late, but not without what this process lost itself. */
  lateHere: number
  /** Waited for one of our own connections for longer than what is late: the pace is more than the path carries on so many of them. */
  queued: number
  /** The longest that this process stood still, and the slowest of the control stream. */
  own: { loopMs: number; controlMs: number }
  /** When the last one that failed was due, after the beginning of the stretch. */
  lastFailedMs: number
  slowestMs: number
  /** Exchanges over tunnels, those that were lost, and tunnels that ended between two exchanges. */
  exchanges: number
  broken: string[]
  ended: number
}

/** Later than this is failed, though it may be answered. */
const lateMs = 1000
/** A tunnel says something this often. */
const exchangeMs = 50

export class PacedTraffic {
  readonly #options: Required<Omit<PacedOptions, 'tunnelPort' | 'appPort'>>
  readonly #stalls: OwnStalls
  readonly #agents: Agent[]
  readonly #open = new Set<Promise<void>>()
  readonly #tunnels: Promise<void>[]
  readonly #timer: NodeJS.Timeout
  readonly #begunMs = performance.now()
  #due = 0
  #over = false
  #now: Stretch = stretch('before')

  constructor(options: PacedOptions) {
    const pace = options.pace ?? fullPace
    const { httpPorts, tunnelPort, appPort, isRight = isFine } = options
    this.#options = { isRight, httpPorts, pace }
    this.#stalls = new OwnStalls(appPort)
    // First in, first out: all connections are used, none rests until somebody closes it.
    const perPort = Math.ceil(pace.connections / Math.max(1, httpPorts.length))
    this.#agents = httpPorts.map(() => new Agent({ keepAlive: true, maxSockets: perPort, scheduling: 'fifo' }))
    for (let i = 0; i < pace.connections && httpPorts.length > 0; i += 1) this.#send()
    this.#timer = setInterval(() => {
      const wanted = httpPorts.length === 0 ? 0 : ((performance.now() - this.#begunMs) / 1000) * pace.perSecond
      while (this.#due < wanted) this.#send()
    }, 5)
    this.#tunnels = Array.from({ length: tunnelPort === undefined ? 0 : pace.tunnels }, (_, i) => this.#converse(tunnelPort!, i))
  }

  /** Does something under the traffic; resolves when all that was sent meanwhile, and for `afterMs` more, has ended. */
  async during(what: string, action: (mine: Stretch) => Promise<void>, afterMs = 500): Promise<Stretch> {
    const mine = (this.#now = stretch(what))
    this.#stalls.longest()
    await action(mine)
    await pause(afterMs)
    const under = [...this.#open]
    this.#now = stretch(`after ${what}`)
    await Promise.all(under)
    mine.own = this.#stalls.longest()
    return mine
  }

  /** Requests that have been sent and have not ended. */
  get underWay(): number {
    return this.#open.size
  }

  /** Until nothing has failed for a second: processes that have just begun are slow. False when that takes too long. */
  async settled(withinMs = 30_000): Promise<boolean> {
    const endsMs = performance.now() + withinMs
    while (performance.now() < endsMs) {
      const { failed, broken } = await this.during('settling', () => pause(1000), 0)
      if (failed.length + broken.length === 0) return true
    }
    return false
  }

  async stop(): Promise<void> {
    this.#over = true
    clearInterval(this.#timer)
    this.#stalls.stop()
    await Promise.all([...this.#open, ...this.#tunnels])
    for (const agent of this.#agents) agent.destroy()
  }

  #send(): void {
    const { httpPorts, isRight } = this.#options
    const number = this.#due
    this.#due += 1
    const mine = this.#now
    mine.sent += 1
    const body = number % 2 === 1 ? `body of ${number}` : ''
    const turn = number % httpPorts.length
    const dueMs = performance.now()
    let began = dueMs
    const what = `${body === '' ? 'GET' : 'POST'} /${number}`
    const one = call(httpPorts[turn]!, `/${number}`, {
      ...(body === '' ? {} : { method: 'POST', body }),
      agent: this.#agents[turn]!,
      timeoutMs: 10_000,
      onSocket: () => (began = performance.now()),
    })
      .then(
        answer =>
          isRight(answer, body) ? '' : `${answer.status} ${answer.text.slice(0, 120)} (${String(answer.headers['server'] ?? 'no')} server)`,
        (error: Error) => error.message,
      )
      .then(problem => {
        const tookMs = performance.now() - began
        mine.slowestMs = Math.max(mine.slowestMs, Math.round(tookMs))
        const isLate = problem === '' && tookMs > lateMs
        const lostMs = isLate ? Math.round(this.#stalls.within(began, began + tookMs)) : 0
        const isLateHere = isLate && tookMs - lostMs <= lateMs
        if (isLateHere) mine.lateHere += 1
        if (began - dueMs > lateMs) mine.queued += 1
        const failure = isLate && !isLateHere ? `late, ${Math.round(tookMs)} ms (${lostMs} of them here)` : problem
        if (failure !== '') {
          const atMs = Math.round(began - mine.beganMs)
          mine.failed.push(`${what} at ${atMs} ms: ${failure}`)
          mine.lastFailedMs = Math.max(mine.lastFailedMs, atMs)
        }
        this.#open.delete(one)
      })
    this.#open.add(one)
  }

  /** Until what began then is late; what this process lost meanwhile does not count. */
  #leftMs(beganMs: number): number {
    const nowMs = performance.now()
    return lateMs - (nowMs - beganMs) + this.#stalls.within(beganMs, nowMs)
  }

  async #converse(port: number, tunnel: number): Promise<void> {
    let socket: TunnelEnd | undefined
    for (let i = 0; !this.#over; i += 1) {
      const mine = this.#now
      if (socket === undefined || socket.state !== 'open') {
        if (socket?.state === 'ended') mine.ended += 1
        else if (socket !== undefined) mine.broken.push(`tunnel ${tunnel}: ${socket.state} between two exchanges`)
        socket = new TunnelEnd(port)
      }
      mine.exchanges += 1
      const beganMs = performance.now()
      const problem = await socket.exchange(`tunnel ${tunnel} says ${i}`, () => this.#leftMs(beganMs))
      if (problem === '' && performance.now() - beganMs > lateMs) mine.lateHere += 1
      if (problem !== '') {
        mine.broken.push(`tunnel ${tunnel}: ${problem}`)
        socket.destroy()
        socket = undefined
      }
      await pause(exchangeMs)
    }
    socket?.destroy()
  }
}

/** One end of a tunnel. */
class TunnelEnd {
  /** `open`, `ended`, or the error that ended it. */
  state = 'open'
  readonly #socket: Socket
  #heard = ''
  #listen: () => void = () => {}

  constructor(port: number) {
    this.#socket = connect({ port, host: '127.0.0.1', noDelay: true })
    this.#socket.on('data', (chunk: Buffer) => {
      this.#heard += chunk.toString()
      this.#listen()
    })
    this.#socket.on('error', (error: NodeJS.ErrnoException) => {
      this.state = error.code ?? error.message
    })
    this.#socket.on('close', () => {
      if (this.state === 'open') this.state = 'ended'
      this.#listen()
    })
  }

  /** Empty when the echo came in time; `leftMs` says how much of it is left. */
  exchange(text: string, leftMs: () => number): Promise<string> {
    const wanted = text.toUpperCase()
    this.#heard = ''
    return new Promise(resolve => {
      const finish = (problem: string) => {
        clearTimeout(timer)
        this.#listen = () => {}
        resolve(problem)
      }
      let timer: NodeJS.Timeout | undefined
      const wait = () => {
        const left = leftMs()
        if (left > 0) timer = setTimeout(wait, left)
        else finish('no answer in time')
      }
      wait()
      this.#listen = () => {
        if (this.#heard === wanted) finish('')
        else if (!wanted.startsWith(this.#heard)) finish(`a wrong answer: ${this.#heard}`)
        else if (this.state !== 'open') finish(`${this.state} in the middle of an exchange`)
      }
      this.#socket.write(text)
      this.#listen()
    })
  }

  destroy(): void {
    this.#socket.destroy()
  }
}

function stretch(what: string): Stretch {
  const beganMs = performance.now()
  const own = { loopMs: 0, controlMs: 0 }
  return {
    what,
    beganMs,
    sent: 0,
    failed: [],
    lateHere: 0,
    queued: 0,
    own,
    lastFailedMs: 0,
    slowestMs: 0,
    exchanges: 0,
    broken: [],
    ended: 0,
  }
}

const isFine = ({ status }: Answer) => status >= 200 && status < 300

function pause(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}
