/**
 * The multiplexer against the reference implementation of its framing (github.com/hashicorp/yamux), each as client and as server, over
 * plain TCP. Needs Go and its module, which are not ours to bring: without them nothing is tested, and that is said.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Deadlines } from '../../src/lib/deadlines.ts'
import { systemClock } from '../../src/lib/clock.ts'
import type { MuxLimits } from '../../src/proxy/mux/limits.ts'
import { MuxSession } from '../../src/proxy/mux/session.ts'
import type { MuxStream } from '../../src/proxy/mux/stream.ts'
import { buildGoProgram, loudly } from '../support/go-program.ts'
import { until } from '../support/processes.ts'

const directory = mkdtempSync(join(tmpdir(), 'isthmus-yamux-'))
const program = join(directory, 'yamux')
t.setTimeout(120_000)
t.teardown(() => rmSync(directory, { recursive: true, force: true }))

const skip = loudly(await buildGoProgram('yamux', program, 'nothing was tested against the reference implementation'))

interface Reference {
  child: ChildProcess
  text: () => string
  ended: Promise<number | null>
}

function start(t: Test, ...args: string[]): Reference {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
  }
  const ended = new Promise<number | null>(resolve => child.once('exit', resolve))
  t.teardown(async () => {
    child.kill('SIGKILL')
    await ended
  })
  return { child, text: () => text, ended }
}

/** Their server, and a session of ours with it. */
async function dial(t: Test, limits: Partial<MuxLimits> = {}, ...args: string[]) {
  const reference = start(t, '-listen', ...args)
  await until('listening', async () => reference.text().includes('\n'))
  const socket = connect({ port: Number(/listening (\d+)/.exec(reference.text())![1]), host: '127.0.0.1', allowHalfOpen: true })
  await new Promise(resolve => socket.once('connect', resolve))
  const events: string[] = []
  const session = new MuxSession(socket, {
    role: 'client',
    limits,
    deadlines: new Deadlines(systemClock, 50),
    onGoAway: () => events.push('go away'),
    onClose: () => events.push('closed'),
  })
  t.teardown(() => session.destroy())
  return { reference, session, events, socket }
}

/** All that a stream says, and whether it ended. */
function hear(stream: MuxStream): Promise<{ bytes: Buffer; ended: boolean }> {
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  return new Promise(resolve => stream.on('close', () => resolve({ bytes: Buffer.concat(chunks), ended: stream.readableEnded })))
}

/** Writes as the stream allows, then ends its half. */
function send(stream: MuxStream, bytes: Buffer, step: number): void {
  let at = 0
  const push = () => {
    while (at < bytes.length) {
      const from = at
      at = Math.min(bytes.length, at + step)
      if (!stream.write(bytes.subarray(from, at))) return
    }
    stream.end()
  }
  stream.on('drain', push)
  push()
}

const pattern = (size: number, seed: number) => Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * 7 + seed) % 253))

async function echoed(session: MuxSession, size: number, seed: number): Promise<boolean> {
  const stream = session.open()!
  const heard = hear(stream)
  stream.write('e', 'latin1')
  const bytes = pattern(size, seed)
  send(stream, bytes, 1 + ((seed * 977) % 70_000))
  const { bytes: back, ended } = await heard
  return ended && back.equals(bytes)
}

t.test('our client: 100 streams at once through their server, each larger than its window', { skip }, async t => {
  for (const window of ['262144', '1048576']) {
    const { session, reference } = await dial(t, {}, '-window', window)
    const whole = await Promise.all(Array.from({ length: 100 }, (_, i) => echoed(session, 300_000 + i, i)))
    t.strictSame([whole.filter(Boolean).length, session.size, session.fault], [100, 0, ''], reference.text())
    session.goAway()
    await until('their end', async () => reference.text().includes('session ended'))
    t.notMatch(reference.text(), /\[ERR\]/)
  }
})

t.test('our client: each half ends by itself, and a reset touches nobody else', { skip }, async t => {
  const { session, reference } = await dial(t)
  const upload = session.open()!
  const heard = hear(upload)
  upload.write('h', 'latin1')
  send(upload, Buffer.alloc(3_000_000, 1), 50_000)
  const given = session.open()!
  given.write('e', 'latin1')
  given.on('data', () => given.destroy())
  given.write('x', 'latin1')
  const closedByThem = session.open()!
  const end = hear(closedByThem)
  closedByThem.write('r', 'latin1')
  closedByThem.on('end', () => closedByThem.end())
  t.strictSame([(await heard).bytes.toString(), (await heard).ended], ['heard 3000000', true])
  t.strictSame([(await end).bytes.length, (await end).ended], [0, true])
  t.equal(await echoed(session, 1000, 3), true)
  t.strictSame([session.size, session.fault], [0, ''], reference.text())
})

t.test('our client: pings of both sides are answered, and a slow reader is waited for', { skip }, async t => {
  const { session, reference } = await dial(t, { pingAfterMs: 100, pongWithinMs: 300 })
  const stream = session.open()!
  const heard = hear(stream)
  stream.write('e', 'latin1')
  stream.pause()
  const bytes = pattern(2_000_000, 5)
  send(stream, bytes, 60_000)
  await new Promise(resolve => setTimeout(resolve, 1200))
  t.ok(stream.readableLength <= 256 * 1024 && stream.writableNeedDrain, `${stream.readableLength} bytes are held`)
  t.strictSame([session.fault, session.isClosed], ['', false], reference.text())
  stream.resume()
  t.equal((await heard).bytes.equals(bytes), true)
})

t.test('our client: told to go, it keeps what is under way and opens nothing', { skip }, async t => {
  const { session, events, reference } = await dial(t, {}, '-leave-after', '3')
  const streams = [1, 2, 3].map(() => session.open()!)
  const heard = streams.map(hear)
  for (const stream of streams) stream.write('efirst', 'latin1')
  await until('go-away', async () => events.includes('go away'))
  t.equal(session.open(), undefined)
  for (const stream of streams) send(stream, Buffer.alloc(400_000, 7), 30_000)
  t.strictSame(
    (await Promise.all(heard)).map(({ bytes, ended }) => [bytes.length, ended]),
    [1, 2, 3].map(() => [400_005, true]),
  )
  await until('closed', async () => session.isClosed)
  t.strictSame([events, session.fault], [['go away', 'closed'], ''], reference.text())
})

t.test('their client through our server: windows, half-close, pings and go-away', { skip }, async t => {
  const faults: string[] = []
  let accepted = 0
  const sockets: Socket[] = []
  const server = createServer({ allowHalfOpen: true }, socket => {
    sockets.push(socket)
    const session = new MuxSession(socket, {
      role: 'server',
      onStream: stream => {
        accepted += 1
        stream.on('data', (chunk: Buffer) => {
          if (!stream.write(chunk)) stream.pause()
        })
        stream.on('drain', () => stream.resume())
        stream.on('end', () => stream.end())
      },
      onClose: () => faults.push(session.fault),
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`
  for (const [streams, bytes, window] of [
    ['1', '10', '262144'],
    ['200', '300000', '262144'],
    ['20', '1000000', '1048576'],
  ] as const) {
    const before = accepted
    const reference = start(t, '-address', address, '-streams', streams, '-bytes', bytes, '-window', window)
    t.equal(await reference.ended, 0, reference.text())
    t.match(reference.text(), /^done/m)
    t.notMatch(reference.text(), /\[ERR\]/)
    t.equal(accepted - before, Number(streams))
  }
  await until('closed', async () => faults.length === 3)
  t.strictSame(faults, ['', '', ''])
})
