/**
 * Many streams at once over a few connections of HTTP/2, cut at random on every layer: ours to ours, ours to node:http2, and node:http2 to ours.
 * Each byte says whose it is and where it belongs; header lists and trailers are compared; some streams are reset, some owners are slow, some
 * connections are torn. ISTHMUS_SEED replays a seed, ISTHMUS_DEEP=1 runs 3000 streams of each kind.
 */
import {
  connect as connectHttp2,
  createServer as createHttp2Server,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type Http2Session as NodeSession,
  type Http2Stream as NodeStream,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import t from 'tap'
import { defaultHttp2Limits, type Http2Limits } from '../../../../src/proxy/http2/limits.ts'
import { errorCode, setting } from '../../../../src/proxy/http2/wire/frames.ts'
import { Http2Session, type Head, type SessionOwner } from '../../../../src/proxy/http2/wire/session.ts'
import type { EndedBy, Http2Stream, StreamOwner } from '../../../../src/proxy/http2/wire/stream.ts'
import { Cutter, expected, isExpected, sizeOf, startRelay, under, type Random } from '../../../support/cutter.ts'
import { seeded } from '../../../support/seeded.ts'
import { eventually } from '../../../support/until.ts'
import { inside } from './hand.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const [streamCount, sessionCount] = deep ? [3000, 8] : [360, 4]

type Fields = readonly string[]

/** One stream: what each side says. */
interface Plan {
  readonly id: number
  readonly up: number
  readonly down: number
  readonly request: Fields
  readonly response: Fields
  readonly upTrailers: Fields | undefined
  readonly downTrailers: Fields | undefined
  /** After so many bytes that it heard or sent, one side gives up. */
  readonly resetAt: number
  readonly resetByServer: boolean
  readonly code: number
  /** Its session will be torn. */
  readonly torn: boolean
  readonly seed: number
}

/** What a side has heard of its stream. */
interface Tally {
  readonly wrong: string[]
  /** Streams, by how they ended at the client. */
  whole: number
  reset: number
  torn: number
  bytes: number
}

const words = ['alpha', 'beta', 'gamma', 'x-trace-id', 'x-much', 'accept', 'user-agent', 'x-small']

/** Names are each there once, so that node's objects say the same; some values come again and again, some are large. */
function fieldsOf(random: Random): Fields {
  const fields: string[] = []
  for (const name of words) {
    if (random() < 0.5) continue
    const chance = random()
    const value =
      chance < 0.6 ? `${name}-${under(random, 3)}` : chance < 0.9 ? 'v'.repeat(under(random, 60)) : 'w'.repeat(under(random, 9000))
    fields.push(name, value)
  }
  return fields
}

/** A window so small that a large body would take for ever gets small ones. */
function planOf(random: Random, id: number, upWindow: number, downWindow: number, torn: boolean): Plan {
  const size = (window: number) => Math.min(random() < 0.1 ? 0 : sizeOf(random), window * 200)
  return {
    id,
    up: size(upWindow),
    down: size(downWindow),
    request: fieldsOf(random),
    response: fieldsOf(random),
    upTrailers: random() < 0.3 ? ['x-up', `${id}`, ...fieldsOf(random)] : undefined,
    downTrailers: random() < 0.3 ? ['x-down', `${id}`, ...fieldsOf(random)] : undefined,
    resetAt: random() < 0.15 ? under(random, 3000) : Infinity,
    resetByServer: random() < 0.5,
    code: [errorCode.cancel, errorCode.internalError, errorCode.refusedStream][under(random, 3)]!,
    torn,
    seed: under(random, 2 ** 32),
  }
}

const shown = (fields: Fields | undefined) => (fields === undefined ? '' : [...pairs(fields)].sort().join('\n'))
function* pairs(fields: Fields): Generator<string> {
  // node adds a date.
  for (let i = 0; i < fields.length; i += 2) if (!fields[i]!.startsWith(':') && fields[i] !== 'date') yield `${fields[i]}: ${fields[i + 1]}`
}
const flat = (headers: IncomingHttpHeaders): Fields => Object.entries(headers).flatMap(([name, value]) => [name, String(value)])
const asObject = (fields: Fields) => Object.fromEntries(fields.flatMap((name, i) => (i % 2 === 0 ? [[name, fields[i + 1]!]] : [])))

/** What a side of either kind knows and checks. */
abstract class Side {
  protected readonly plan: Plan
  protected readonly isServer: boolean
  protected readonly tally: Tally
  protected readonly random: Random
  protected sentBytes = 0
  protected readonly size: number
  protected readonly trailers: Fields | undefined
  heardBytes = 0
  heardEnd = false
  protected heads = 0
  protected heardTrailers: Fields | undefined
  /** This side gave up. */
  gaveUp = false
  ends = 0

  constructor(plan: Plan, isServer: boolean, tally: Tally) {
    this.plan = plan
    this.isServer = isServer
    this.tally = tally
    this.random = seeded(plan.seed ^ (isServer ? 0x5555 : 0))
    this.size = isServer ? plan.down : plan.up
    this.trailers = isServer ? plan.downTrailers : plan.upTrailers
  }

  /** All of the body that was to be heard. */
  protected get wasWhole(): boolean {
    return this.heardBytes === (this.isServer ? this.plan.up : this.plan.down)
  }

  protected wrong(what: string): void {
    this.tally.wrong.push(`stream ${this.plan.id} at the ${this.isServer ? 'server' : 'client'}: ${what}`)
  }

  protected heardHead(fields: Fields): void {
    this.heads += 1
    const said = this.isServer ? this.plan.request : this.plan.response
    if (shown(fields) !== shown(said)) this.wrong(`other fields than were sent:\n${shown(fields)}\n---\n${shown(said)}`)
  }

  protected heard(bytes: Buffer): void {
    if (this.ends > 0) this.wrong('bytes behind its end')
    if (!isExpected(this.plan.id, !this.isServer, this.heardBytes, bytes)) this.wrong(`a wrong byte after ${this.heardBytes}`)
    this.heardBytes += bytes.length
    this.tally.bytes += bytes.length
  }

  protected end(trailers: Fields | undefined): void {
    if (this.heardEnd) this.wrong('it ends twice')
    this.heardEnd = true
    this.heardTrailers = trailers
  }

  /** Once all is over: what was heard, where it is to be whole. */
  protected judge(): void {
    const { plan, isServer } = this
    if (!this.heardEnd) return
    const size = isServer ? plan.up : plan.down
    const trailers = isServer ? plan.upTrailers : plan.downTrailers
    if (this.heardBytes !== size) this.wrong(`it ended after ${this.heardBytes} of ${size}`)
    if (shown(this.heardTrailers) !== shown(trailers)) this.wrong(`other trailers: ${shown(this.heardTrailers)}`)
    if (this.heads !== 1) this.wrong(`${this.heads} heads`)
  }

  protected get givesUpNow(): boolean {
    const { plan } = this
    return plan.resetByServer === this.isServer && Math.max(this.heardBytes, this.sentBytes) >= plan.resetAt
  }

  /** The next piece that it sends. */
  protected piece(): Buffer {
    const most = 1 + under(this.random, this.random() < 0.5 ? 200 : 100_000)
    return expected(this.plan.id, this.isServer, this.sentBytes, Math.min(this.size - this.sentBytes, most))
  }
}

class OurSide extends Side implements StreamOwner {
  private stream!: Http2Stream
  /** Bytes that wait to be sent. */
  private waits = 0
  private readonly slow: boolean
  private readonly patient: boolean
  private over = false
  private readonly other: (() => void) | undefined

  constructor(plan: Plan, isServer: boolean, tally: Tally, over?: () => void) {
    super(plan, isServer, tally)
    this.slow = this.random() < 0.2
    this.patient = this.random() < 0.8
    this.other = over
  }

  begin(stream: Http2Stream): void {
    this.stream = stream
    this.write()
  }

  /** At a server: its request. */
  requested(stream: Http2Stream, head: Head, end: boolean): void {
    this.stream = stream
    this.heardHead([...head.fields])
    if (end) this.end(undefined)
    const answer = () => {
      const bodiless = this.size === 0 && this.trailers === undefined && this.random() < 0.5
      stream.sendHeaders([':status', '200', ...this.plan.response], undefined, bodiless)
      this.over = bodiless
      this.write()
    }
    const chance = this.random()
    if (chance < 0.5) answer()
    else if (chance < 0.7) setImmediate(answer)
    else setTimeout(answer, under(this.random, 20))
  }

  headers(head: Head, end: boolean): void {
    const fields = [...head.fields]
    if (!this.isServer && this.heads === 0) {
      this.heardHead(fields)
      if (end) this.end(undefined)
    } else this.end(fields)
    if (this.ends > 0) this.wrong('headers behind its end')
  }

  data(bytes: Buffer, end: boolean): void {
    const { length } = bytes
    this.heard(bytes)
    if (end) this.end(undefined)
    if (!this.slow || this.random() < 0.3) this.stream.consumed(length)
    else if (this.random() < 0.5) setImmediate(() => this.stream.consumed(length))
    else setTimeout(() => this.stream.consumed(length), under(this.random, 15))
    this.giveUp()
  }

  sent(length: number): void {
    if (this.ends > 0) this.wrong('sent behind its end')
    this.waits -= length
    if (this.waits < 0) this.wrong(`${-this.waits} bytes more than waited have left`)
    if (this.waits === 0) this.write()
  }

  closed(_code: number, by: EndedBy): void {
    if (++this.ends > 1) return this.wrong('it is closed twice')
    const { plan } = this
    const allowed =
      by === 'both' ||
      (plan.torn && (by === 'session' || by === 'peer')) ||
      (plan.resetAt < Infinity && by === (plan.resetByServer === this.isServer ? 'us' : 'peer'))
    if (!allowed) this.wrong(`it is closed by ${by} with ${_code}`)
    if (by === 'both' && !this.heardEnd) this.wrong('it is closed without an end')
    // node sends an end right before its own reset.
    if (plan.resetAt === Infinity || this.gaveUp || this.wasWhole) this.judge()
    if (!this.isServer) this.tally[by === 'both' ? 'whole' : plan.torn ? 'torn' : 'reset'] += 1
    this.other?.()
  }

  private giveUp(): boolean {
    if (this.ends > 0) return true
    if (!this.givesUpNow) return false
    this.gaveUp = true
    this.stream.reset(this.plan.code)
    return true
  }

  private readonly write = (): void => {
    if (this.over || this.giveUp()) return
    while (this.sentBytes < this.size) {
      const piece = this.piece()
      this.sentBytes += piece.length
      const ends = this.sentBytes === this.size && this.trailers === undefined && this.random() < 0.5
      if (ends) this.over = true
      this.waits += piece.length - this.stream.sendData(piece, ends)
      if (ends || this.giveUp()) return
      if (this.waits > 0 && this.patient) return
      if (this.random() < 0.2) return void setImmediate(this.write)
    }
    this.over = true
    if (this.trailers === undefined) this.stream.end()
    else this.stream.sendTrailers(this.trailers, new Set(['x-up']))
  }
}

class NodeSide extends Side {
  private readonly stream: NodeStream

  constructor(plan: Plan, isServer: boolean, tally: Tally, stream: ClientHttp2Stream | ServerHttp2Stream, over: () => void) {
    super(plan, isServer, tally)
    this.stream = stream
    stream.on('error', () => {})
    stream.on('data', (bytes: Buffer) => {
      this.heard(bytes)
      if (this.giveUp()) return
      if (this.random() > 0.1) return
      stream.pause()
      const wait = () => void stream.resume()
      if (this.random() < 0.5) setImmediate(wait)
      else setTimeout(wait, under(this.random, 20))
    })
    let trailers: Fields | undefined
    stream.on('trailers', (got: IncomingHttpHeaders) => (trailers = flat(got)))
    stream.on('end', () => this.end(trailers))
    stream.on('wantTrailers', () => stream.sendTrailers(asObject(this.trailers!)))
    stream.on('drain', this.write)
    stream.on('close', () => {
      this.ends += 1
      const { rstCode } = stream
      if (rstCode !== 0 && !plan.torn && plan.resetAt === Infinity) this.wrong(`it is reset with ${rstCode}`)
      if (!plan.torn && plan.resetAt === Infinity && !this.heardEnd) this.wrong(`it is closed without an end after ${this.heardBytes}`)
      // To node all that was reset or torn has ended as well.
      if (plan.resetAt === Infinity && !plan.torn) this.judge()
      if (!isServer) this.tally[rstCode === 0 && this.heardEnd ? 'whole' : plan.torn ? 'torn' : 'reset'] += 1
      over()
    })
    if (!isServer) stream.on('response', (headers: IncomingHttpHeaders) => this.heardHead(flat(headers)))
  }

  requested(headers: IncomingHttpHeaders): void {
    this.heardHead(flat(headers))
    const stream = this.stream as ServerHttp2Stream
    const answer = () => {
      if (stream.destroyed || stream.closed) return
      stream.respond({ ':status': 200, ...asObject(this.plan.response) }, { waitForTrailers: this.trailers !== undefined })
      this.write()
    }
    if (this.random() < 0.5) answer()
    else setTimeout(answer, under(this.random, 20))
  }

  readonly write = (): void => {
    const { stream } = this
    if (stream.destroyed || stream.closed || stream.writableEnded || this.giveUp()) return
    while (this.sentBytes < this.size) {
      const piece = this.piece()
      this.sentBytes += piece.length
      // node does not copy, and the pool stays as it is.
      const more = stream.write(piece)
      if (this.giveUp() || !more) return
      if (this.random() < 0.2) return void setImmediate(this.write)
    }
    stream.end()
  }

  private giveUp(): boolean {
    if (this.gaveUp || this.stream.closed) return true
    if (!this.givesUpNow) return false
    this.gaveUp = true
    // What `close` of node 20 has waiting for a window it sends as empty DATA frames, until its memory ends.
    this.stream.destroy(new Error('given up'))
    return true
  }
}

const tables = [0, 100, 4096]
/** Windows of one connection. */
const windows = [1, 17, 900, 20_000, 65_535, 262_144, 1_000_000]

interface Ends {
  readonly tally: Tally
  readonly plans: Plan[]
  readonly random: Random
  /** Each server's side of a stream that came. */
  readonly opened: Map<number, Side>
}

function ourLimits(random: Random, window: number): Http2Limits {
  return {
    ...defaultHttp2Limits,
    streamWindowBytes: window,
    connectionWindowBytes: 65_536 + under(random, 500_000),
    heldBytes: 1 + under(random, 1_000_000),
    maxUnsentBytes: 1000 + under(random, 500_000),
    flushBytes: 1000 + under(random, 200_000),
    maxConcurrentStreams: 10_000,
    lingerMs: 50,
  }
}

/**
 * Changes a session's mind about its tables in the middle, and of its windows, and back: it never takes more than it said at
 * first.
 */
function waver(session: Http2Session, random: Random): void {
  const { writer } = inside(session)
  const again = () => {
    if (session.isClosed || session.closing) return
    writer.settings([
      [setting.headerTableSize, tables[under(random, 3)]!],
      [setting.initialWindowSize, under(random, session.streamWindow)],
    ])
    setTimeout(
      () => {
        if (session.isClosed) return
        writer.settings([[setting.initialWindowSize, session.streamWindow]])
        setTimeout(again, 20 + under(random, 60)).unref()
      },
      under(random, 10),
    )
  }
  setTimeout(again, under(random, 50)).unref()
}

function ourSession(socket: Socket, role: 'client' | 'server', limits: Http2Limits, ends: Ends, owner: SessionOwner): Http2Session {
  const session = new Http2Session(new Cutter(socket, ends.random), role, limits, {
    flooded: () => ends.tally.wrong.push(`honest traffic is taken for a flood at a ${role}`),
    faulted: () => ends.tally.wrong.push(`a fault at a ${role}`),
    ...owner,
  })
  waver(session, ends.random)
  return session
}

/** One connection: requests go out on it. */
interface Client {
  ask(plan: Plan): Promise<void>
  /** Breaks it off. */
  tear(): void
  /** Ends it, once nothing is under way. */
  close(): Promise<void>
  session: Http2Session | undefined
}

interface Kind {
  /** Takes connections in turn, each with its window. */
  listen(ends: Ends, windows: readonly number[], sessions: Http2Session[]): Promise<Server>
  dial(port: number, ends: Ends, window: number): Promise<Client>
}

const ours: Kind = {
  async listen(ends, own, sessions) {
    const server = createServer({ noDelay: true, allowHalfOpen: true }, socket => {
      const session = ourSession(socket, 'server', ourLimits(ends.random, own[sessions.length]!), ends, {
        request: (stream, head, end) => {
          const plan = ends.plans[Number(head.fields[head.fields.indexOf(':path') + 1]!.slice(1))]!
          if (ends.opened.has(plan.id)) ends.tally.wrong.push(`stream ${plan.id} came twice`)
          const side = new OurSide(plan, true, ends.tally)
          ends.opened.set(plan.id, side)
          stream.owner = side
          side.requested(stream, head, end)
        },
        closed: () => {},
      })
      sessions.push(session)
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    return server
  },
  async dial(port, ends, window) {
    const socket = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
    let gone = () => {}
    const closed = new Promise<void>(resolve => (gone = resolve))
    let heard = () => {}
    // A window that is smaller than the usual one holds from when it was heard of.
    const settled = new Promise<void>(resolve => (heard = resolve))
    const session = ourSession(socket, 'client', ourLimits(ends.random, window), ends, { allowed: () => heard(), closed: () => gone() })
    await settled
    return {
      session,
      ask: plan =>
        new Promise(resolve => {
          const side = new OurSide(plan, false, ends.tally, resolve)
          const end = plan.up === 0 && plan.upTrailers === undefined && ends.random() < 0.7
          const fields = [':method', 'POST', ':scheme', 'http', ':authority', 'a', ':path', `/${plan.id}`, ...plan.request]
          const stream = session.request(fields, new Set(['x-small']), end, side)
          if (stream === undefined) {
            if (!plan.torn) ends.tally.wrong.push(`stream ${plan.id} is not taken`)
            ends.tally.torn += 1
            resolve()
          } else side.begin(stream)
        }),
      tear: () => {
        if (ends.random() < 0.5) socket.destroy()
        else session.destroy(errorCode.cancel)
      },
      close: () => {
        session.close()
        return closed
      },
    }
  },
}

const nodeSettings = (random: Random, window: number) => ({
  initialWindowSize: window,
  headerTableSize: tables[under(random, 3)]!,
  maxFrameSize: 16_384 + under(random, 100_000),
  maxConcurrentStreams: 10_000,
})

/** As `waver`. */
function nodeWavers(session: NodeSession, random: Random, window: number): void {
  const again = () => {
    if (session.destroyed || session.closed) return
    session.settings({ headerTableSize: tables[under(random, 3)]!, initialWindowSize: Math.max(1, under(random, 2 * window)) })
    setTimeout(again, 20 + under(random, 60)).unref()
  }
  setTimeout(again, under(random, 50)).unref()
}

const nodes: Kind = {
  async listen(ends, own) {
    const server = createHttp2Server()
    let count = 0
    server.on('session', session => {
      const window = own[count++]!
      session.on('error', () => {})
      session.settings(nodeSettings(ends.random, window))
      nodeWavers(session, ends.random, window)
    })
    server.on('stream', (stream, headers) => {
      const plan = ends.plans[Number(headers[':path']!.slice(1))]!
      const side = new NodeSide(plan, true, ends.tally, stream, () => {})
      ends.opened.set(plan.id, side)
      side.requested(headers)
    })
    await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
    return server
  },
  async dial(port, ends, window) {
    const session: ClientHttp2Session = connectHttp2(`http://127.0.0.1:${port}`, { settings: nodeSettings(ends.random, window) })
    let goaway = 0
    session.on('error', error => void error)
    session.on('goaway', code => (goaway ||= code))
    await new Promise(resolve => session.once('remoteSettings', resolve))
    nodeWavers(session, ends.random, window)
    let torn = false
    return {
      session: undefined,
      ask: plan =>
        new Promise(resolve => {
          if (session.destroyed || session.closed) {
            if (!plan.torn) ends.tally.wrong.push(`stream ${plan.id} is not taken`)
            ends.tally.torn += 1
            return resolve()
          }
          const endStream = plan.up === 0 && plan.upTrailers === undefined && ends.random() < 0.7
          const stream = session.request(
            { ':method': 'POST', ':path': `/${plan.id}`, ...asObject(plan.request) },
            { endStream, waitForTrailers: plan.upTrailers !== undefined },
          )
          const side = new NodeSide(plan, false, ends.tally, stream, resolve)
          if (!endStream) side.write()
        }),
      tear: () => {
        torn = true
        session.destroy()
      },
      close: async () => {
        if (goaway !== 0 && !torn) ends.tally.wrong.push(`our server ended a session with ${goaway}`)
        if (session.destroyed) return
        await new Promise<void>(resolve => {
          session.once('close', resolve)
          session.close()
        })
      },
    }
  },
}

/** Nothing is left of a session whose streams are gone, and both sides count the same where both are ours. */
async function clean(session: Http2Session, other: Http2Session | undefined, tally: Tally): Promise<void> {
  const state = () => {
    const { held, waiting, sendWindow, receiveWindow, writer } = inside(session)
    const counts = [session.streams.size, session.unsent, held, waiting.size, writer.pending]
    // What our windows have open is what the other side may send.
    const windows = other === undefined ? [] : [sendWindow - inside(other).receiveWindow, inside(other).sendWindow - receiveWindow]
    return [...counts, ...windows]
  }
  try {
    await eventually(() => session.isClosed || state().every(each => each === 0), 5000)
  } catch {
    tally.wrong.push(`a session is left with ${state().join(' ')}`)
  }
  if (session.isClosed && [...state().slice(0, 2), state()[3]].some(each => each !== 0))
    tally.wrong.push(`a session ended with ${state().join(' ')}`)
}

async function transfer(seed: number, client: Kind, server: Kind): Promise<Tally> {
  const random = seeded(seed)
  const tally: Tally = { wrong: [], whole: 0, reset: 0, torn: 0, bytes: 0 }
  const served: Http2Session[] = []
  const ends: Ends = { tally, plans: [], random, opened: new Map() }
  const some = () => Array.from({ length: sessionCount }, () => windows[under(random, windows.length)]!)
  const [near, far] = [some(), some()]
  const listening = await server.listen(ends, far, served)
  const relay = await startRelay((listening.address() as AddressInfo).port, random)
  for (let id = 0; id < streamCount; id += 1) {
    const i = id % sessionCount
    ends.plans.push(planOf(random, id, far[i]!, near[i]!, i === 0))
  }
  const clients: Client[] = []
  // One after another, so that the servers' sessions have the same order.
  for (let i = 0; i < sessionCount; i += 1) clients.push(await client.dial((relay.address() as AddressInfo).port, ends, near[i]!))
  const tearing = setTimeout(() => clients[0]!.tear(), 100 + under(random, 250))
  const open = new Set(ends.plans)
  const all = Promise.all(
    ends.plans.map(async plan => {
      // Some start later, while others are under way.
      const wait = under(random, 400)
      await new Promise(resolve => setTimeout(resolve, wait))
      await clients[plan.id % sessionCount]!.ask(plan)
      open.delete(plan)
    }),
  )
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>(resolve => {
    timer = setTimeout(
      () => {
        for (const plan of [...open].slice(0, 5)) {
          const side = ends.opened.get(plan.id)
          tally.wrong.push(
            `stream ${plan.id} has no end: ${JSON.stringify({ ...plan, request: 0, response: 0 })}, ${side?.heardBytes} heard`,
          )
        }
        resolve()
      },
      deep ? 300_000 : 25_000,
    )
  })
  await Promise.race([all, late])
  clearTimeout(timer)
  clearTimeout(tearing)
  clients[0]!.tear()
  for (const [i, { session }] of clients.entries()) {
    if (i === 0) continue
    if (session !== undefined) await clean(session, served[i], tally)
    else if (served[i] !== undefined) await clean(served[i], undefined, tally)
  }
  for (const each of clients) await each.close()
  await eventually(() => served.every(session => session.isClosed))
  for (const session of served) await clean(session, undefined, tally)
  for (const side of ends.opened.values())
    if (side.ends !== 1 && open.size === 0) tally.wrong.push(`a server's stream has ${side.ends} ends`)
  await new Promise<void>(resolve => listening.close(() => resolve()))
  await new Promise<void>(resolve => relay.close(() => resolve()))
  return tally
}

for (const [what, client, server] of [
  ['ours to ours', ours, ours],
  ['ours to node:http2', ours, nodes],
  ['node:http2 to ours', nodes, ours],
] as const)
  t.test(`${what}: streams cut at random on every layer lose, repeat and cross nothing`, { timeout: 1_500_000 }, async t => {
    const seed = process.env['ISTHMUS_SEED'] === undefined ? Date.now() >>> 0 : Number(process.env['ISTHMUS_SEED'])
    t.comment(`ISTHMUS_SEED=${seed}`)
    const began = performance.now()
    const { wrong, whole, reset, torn, bytes } = await transfer(seed, client, server)
    t.strictSame(wrong.slice(0, 10), [], `seed ${seed}`)
    t.equal(whole + reset + torn, streamCount)
    t.ok(whole > streamCount * 0.6, `${whole} whole, ${reset} reset, ${torn} torn`)
    t.comment(`${whole} whole, ${reset} reset, ${torn} torn, ${bytes} bytes in ${Math.round(performance.now() - began)} ms`)
  })
