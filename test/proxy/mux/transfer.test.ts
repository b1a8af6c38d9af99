/**
 * Many streams at once over a few sessions, cut at random on every layer: what is written, what the multiplexer reads, what TLS reads
 * and what TCP carries. Each byte says whose it is and where it belongs. ISTHMUS_SEED replays a seed, ISTHMUS_DEEP=1 runs 10,000 streams.
 */
import { connect, createServer as createTcpServer, type AddressInfo, type Server } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls'
import t from 'tap'
import { Deadlines } from '../../../src/lib/deadlines.ts'
import { MuxSession } from '../../../src/proxy/mux/session.ts'
import type { MuxStream } from '../../../src/proxy/mux/stream.ts'
import { Mint, type Minted } from '../../support/mint.ts'
import { seeded } from '../../support/seeded.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const [streamCount, sessionCount] = deep ? [10_000, 8] : [600, 3]

type Random = () => number

const under = (random: Random, limit: number) => Math.floor(random() * limit)
/** Mostly small, sometimes beyond a window. */
const sizeOf = (random: Random) => (random() < 0.85 ? under(random, 6000) : random() < 0.8 ? under(random, 60_000) : under(random, 700_000))

const poolBytes = 1 << 20
const pool = Buffer.alloc(poolBytes * 2)
for (let i = 0, random = seeded(1); i < poolBytes; i += 1) pool[i] = pool[i + poolBytes] = under(random, 256)

/** What stream `id` sends from `offset` in one direction: every stream starts elsewhere in the pool. */
function expected(id: number, answer: boolean, offset: number, size: number): Buffer {
  const from = (id * 15_485_863 + (answer ? 524_287 : 0) + offset) % poolBytes
  return pool.subarray(from, from + Math.min(size, poolBytes))
}

/** Hands on what comes in pieces of random size, some of them later. */
class Cutter extends Duplex {
  constructor(inner: Duplex, random: Random) {
    super({ allowHalfOpen: true })
    this.#inner = inner
    this.#random = random
    inner.on('data', (chunk: Buffer) => {
      for (let at = 0; at < chunk.length;) {
        const size = Math.min(chunk.length - at, pieceSize(random))
        if (!this.push(chunk.subarray(at, at + size))) inner.pause()
        at += size
      }
    })
    inner.on('end', () => this.push(null))
    inner.on('close', () => this.destroy())
    inner.on('error', () => this.destroy())
  }

  readonly #inner: Duplex
  readonly #random: Random

  override _read(): void {
    this.#inner.resume()
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    const at = Math.min(chunk.length, pieceSize(this.#random))
    const rest = Buffer.from(chunk.subarray(at))
    this.#inner.write(Buffer.from(chunk.subarray(0, at)))
    const write = () => void this.#inner.write(rest, () => done())
    if (this.#random() < 0.1) setImmediate(write)
    else write()
  }

  override _final(done: () => void): void {
    this.#inner.end(done)
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#inner.destroy()
    done(error)
  }
}

const pieceSize = (random: Random) => 1 + (random() < 0.3 ? under(random, 30) : under(random, 30_000))

/** Passes TCP on in pieces of random size. */
async function startRelay(to: number, random: Random): Promise<Server> {
  const relay = createTcpServer({ allowHalfOpen: true, noDelay: true }, near => {
    const far = connect({ port: to, host: '127.0.0.1', allowHalfOpen: true, noDelay: true })
    new Cutter(near, random).pipe(far)
    new Cutter(far, random).pipe(near)
  })
  await new Promise<void>(resolve => relay.listen(0, '127.0.0.1', resolve))
  return relay
}

const limits = { maxStreams: streamCount, maxIdleFramesPerSecond: Infinity, pongWithinMs: 60_000 }

interface Tally {
  whole: number
  reset: number
  bytes: number
  wrong: string[]
}

/** One side of one stream: sends `size` bytes in random writes, and stops reading and goes on at random. */
function run(stream: MuxStream, id: number, answer: boolean, size: number, random: Random): void {
  let sent = 0
  const push = () => {
    while (sent < size && stream.writable) {
      const count = Math.min(size - sent, 1 + under(random, random() < 0.5 ? 200 : 100_000))
      const piece = expected(id, answer, sent, count)
      sent += piece.length
      const more = random() < 0.2 ? stream.write(piece.toString('latin1'), 'latin1') : stream.write(piece)
      if (!more) return
      if (random() < 0.2) return void setImmediate(push)
    }
    if (sent >= size) stream.end()
  }
  stream.on('drain', push)
  stream.on('data', () => {
    if (random() < 0.05) {
      stream.pause()
      const wait = () => void stream.resume()
      if (random() < 0.5) setImmediate(wait)
      else setTimeout(wait, under(random, 20))
    }
  })
  push()
}

async function transfer(seed: number, root: Minted, leaf: Minted): Promise<Tally> {
  const random = seeded(seed)
  const deadlines = new Deadlines()
  const tally: Tally = { whole: 0, reset: 0, bytes: 0, wrong: [] }
  const plans = Array.from({ length: streamCount }, () => ({
    up: sizeOf(random),
    down: sizeOf(random),
    resetAt: random() < 0.08 ? 1 + under(random, 3000) : Infinity,
    resetByServer: random() < 0.5,
    seed: under(random, 2 ** 32),
  }))
  const opened = new Set<number>()

  /** Both sides check what they hear against what the other one should have said. */
  const check = (stream: MuxStream, id: number, answer: boolean, size: number) => {
    let at = 0
    const { resetAt, resetByServer } = plans[id]!
    stream.on('data', (chunk: Buffer) => {
      for (let from = 0; from < chunk.length;) {
        const want = expected(id, answer, at, chunk.length - from)
        if (!want.equals(chunk.subarray(from, from + want.length))) tally.wrong.push(`stream ${id}: a wrong byte after ${at}`)
        at += want.length
        from += want.length
      }
      tally.bytes += chunk.length
      if (at >= resetAt && resetByServer !== answer) stream.destroy()
    })
    stream.on('end', () => {
      if (at !== size) tally.wrong.push(`stream ${id}: it ended after ${at} of ${size}`)
    })
  }

  const server = createTlsServer({ cert: leaf.certPem, key: leaf.keyPem, allowHalfOpen: true }, socket => {
    const session = new MuxSession(new Cutter(socket, random), {
      role: 'server',
      limits,
      deadlines,
      onStream: stream => {
        // The first four bytes say which one it is.
        let head: Buffer = Buffer.alloc(0)
        const first = (chunk: Buffer) => {
          head = Buffer.concat([head, chunk])
          if (head.length < 4) return
          stream.off('data', first)
          const id = head.readUInt32BE(0)
          if (opened.has(id)) tally.wrong.push(`stream ${id} came twice`)
          opened.add(id)
          const { up, down, seed: own } = plans[id]!
          check(stream, id, false, up)
          run(stream, id, true, down, seeded(own ^ 0x5555))
          if (head.length > 4) stream.emit('data', head.subarray(4))
        }
        stream.on('data', first)
      },
      onClose: () => {
        if (session.fault !== '') tally.wrong.push(`the server ended a session: ${session.fault}`)
      },
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const relay = await startRelay((server.address() as AddressInfo).port, random)
  const sessions: MuxSession[] = []
  for (let i = 0; i < sessionCount; i += 1) {
    const socket = await new Promise<TLSSocket>(resolve => {
      const options = { port: (relay.address() as AddressInfo).port, host: '127.0.0.1', ca: root.certPem, allowHalfOpen: true }
      const dialled = connectTls({ ...options, checkServerIdentity: () => undefined }, () => resolve(dialled))
    })
    sessions.push(new MuxSession(new Cutter(socket, random), { role: 'client', limits, deadlines }))
  }
  await Promise.all(
    plans.map(async ({ up, down, seed: own }, id) => {
      // Some start later, while others are under way.
      const wait = under(random, 400)
      await new Promise(resolve => setTimeout(resolve, wait))
      const stream = sessions[id % sessionCount]!.open()!
      const head = Buffer.alloc(4)
      head.writeUInt32BE(id)
      stream.write(head)
      check(stream, id, true, down)
      run(stream, id, false, up, seeded(own))
      await new Promise<void>(resolve => stream.on('close', resolve))
      if (stream.readableEnded) tally.whole += 1
      else tally.reset += 1
    }),
  )
  for (const session of sessions) {
    if (session.fault !== '' || session.size > 0) tally.wrong.push(`a session ends with ${session.size} streams ${session.fault}`)
    session.goAway()
  }
  await new Promise<void>(resolve => server.close(() => resolve()))
  await new Promise<void>(resolve => relay.close(() => resolve()))
  return tally
}

t.test('streams cut at random on every layer lose, repeat and cross no byte', { timeout: 1_500_000 }, async t => {
  const mint = new Mint()
  t.teardown(() => mint.remove())
  const root = await mint.root('a.consul')
  const leaf = await mint.leaf(root, { san: 'URI:spiffe://a.consul/x' })
  const seeds = process.env['ISTHMUS_SEED'] === undefined ? [Date.now() >>> 0] : [Number(process.env['ISTHMUS_SEED'])]
  for (const seed of seeds) {
    t.comment(`ISTHMUS_SEED=${seed}`)
    const began = performance.now()
    const { whole, reset, bytes, wrong } = await transfer(seed, root, leaf)
    t.strictSame(wrong.slice(0, 10), [], `seed ${seed}`)
    t.equal(whole + reset, streamCount)
    t.ok(whole > streamCount * 0.85 && reset > 0, `${whole} whole and ${reset} reset`)
    t.comment(`${whole} whole, ${reset} reset, ${bytes} bytes in ${Math.round(performance.now() - began)} ms`)
  }
})
