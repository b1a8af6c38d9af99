/**
 * Many streams at once over a few sessions, cut at random on every layer: what is written, what the multiplexer reads, what TLS reads
 * and what TCP carries. Each byte says whose it is and where it belongs. ISTHMUS_SEED replays a seed, ISTHMUS_DEEP=1 runs 10,000 streams.
 */
import type { AddressInfo } from 'node:net'
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls'
import t from 'tap'
import { Deadlines } from '../../../src/lib/deadlines.ts'
import { MuxSession } from '../../../src/proxy/mux/session.ts'
import type { MuxStream } from '../../../src/proxy/mux/stream.ts'
import { Cutter, expected, isExpected, sizeOf, startRelay, under, type Random } from '../../support/cutter.ts'
import { Mint, type Minted } from '../../support/mint.ts'
import { seeded } from '../../support/seeded.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const [streamCount, sessionCount] = deep ? [10_000, 8] : [600, 3]

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
      if (!isExpected(id, answer, at, chunk)) tally.wrong.push(`stream ${id}: a wrong byte after ${at}`)
      at += chunk.length
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
