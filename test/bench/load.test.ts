// The load generator: arrivals at the rate that was asked for, times from when a request was due, and the end of every kind of response.
import { spawn } from 'node:child_process'
import { createServer, type RequestListener, type Server } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { arrivals, exponentialGapMs, nowMs } from '../../bench/load/arrivals.ts'
import type { Target } from '../../bench/load/connection.ts'
import { ResponseReader } from '../../bench/load/message.ts'
import { closedLoop, openLoop } from '../../bench/load/run.ts'
import { freePorts } from '../support/free-ports.ts'
import { seeded } from '../support/seeded.ts'

async function serve(t: { teardown(fn: () => void): unknown }, listener: RequestListener): Promise<number> {
  const server: Server = createServer(listener)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as { port: number }).port
}

const target = (port: number, more: Partial<Target> = {}): Target => ({
  host: '127.0.0.1',
  port,
  method: 'GET',
  bytes: Buffer.from('GET / HTTP/1.1\r\nhost: x\r\n\r\n'),
  timeoutMs: 5000,
  ...more,
})

t.test('gaps are exponential: their mean is that of the rate, and a third of them are longer than it', t => {
  const random = seeded(3)
  const gaps = Array.from({ length: 200_000 }, () => exponentialGapMs(1000, random()))
  const mean = gaps.reduce((sum, each) => sum + each, 0) / gaps.length
  t.ok(Math.abs(mean - 1) < 0.02, `mean ${mean} ms at 1,000 a second`)
  const longer = gaps.filter(each => each > 1).length / gaps.length
  t.ok(Math.abs(longer - Math.exp(-1)) < 0.01, `${longer} are longer than the mean`)
  t.ok(
    gaps.every(each => each >= 0 && Number.isFinite(each)),
    'none is negative or endless',
  )
  t.end()
})

t.test('arrivals come at the rate, none before it is due', async t => {
  const due: number[] = []
  let early = 0
  await arrivals({ rate: 500, durationMs: 1000 }, intendedMs => {
    if (nowMs() < intendedMs - 0.1) early += 1
    due.push(intendedMs)
  })
  // Poisson: 500 with a standard deviation of 22.
  t.ok(due.length > 380 && due.length < 620, `${due.length} in a second at 500 a second`)
  t.equal(early, 0)
  t.same(
    due,
    [...due].sort((a, b) => a - b),
  )
})

t.test('a stall is seen by every request that was due in it', async t => {
  let served = 0
  const port = await serve(t, (_incoming, outgoing) => {
    served += 1
    if (served === 1) setTimeout(() => outgoing.end('late'), 400)
    else outgoing.end('ok')
  })
  // Ten requests, one each 20 ms, over one connection, which the first one holds for 400 ms.
  const every20Ms: typeof arrivals = async (_wish, due) => {
    const startMs = nowMs()
    for (let i = 0; i < 10; i++) {
      await new Promise(resolve => setTimeout(resolve, startMs + i * 20 - nowMs()))
      due(startMs + i * 20)
    }
  }
  const report = await openLoop(target(port), { connections: 1, durationMs: 200, rate: 50 }, every20Ms)
  t.equal(report.answered, 10)
  t.equal(report.errors, 0)
  // The last was due at 180 ms and could not be answered before 400 ms.
  t.ok(report.latencyMs.p50 > 270, `p50 ${report.latencyMs.p50} ms`)
  t.ok(report.latencyMs.mean > 250, `mean ${report.latencyMs.mean} ms: not the 40 ms that send times would give`)
  t.ok(report.latencyMs.p99 >= 390, `p99 ${report.latencyMs.p99} ms`)
})

t.test('what never comes is counted', async t => {
  const port = await serve(t, (_incoming, outgoing) => {
    outgoing.statusCode = 503
    outgoing.end()
  })
  const refused = await closedLoop(target((await freePorts(1))[0]!), { connections: 2, durationMs: 150 })
  t.equal(refused.answered, 0)
  t.ok(refused.failures['connect']! >= 2, 'a closed port')
  const unavailable = await closedLoop(target(port), { connections: 2, durationMs: 150 })
  t.equal(unavailable.errors, unavailable.statuses['503'])
  const silent = createTcpServer(socket => socket.on('error', () => undefined))
  await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', resolve))
  t.teardown(() => silent.close())
  const timedOut = await closedLoop(target((silent.address() as { port: number }).port, { timeoutMs: 100 }), {
    connections: 1,
    durationMs: 150,
  })
  t.ok(timedOut.failures['timeout']! >= 1, 'silence')
})

t.test('responses end where they should, however they are cut', t => {
  const responses: [string, number][] = [
    ['HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello', 200],
    ['HTTP/1.1 204 No Content\r\n\r\n', 204],
    ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\na;x=y\r\n0123456789\r\n0\r\nt: v\r\n\r\n', 200],
    ['HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n', 201],
  ]
  for (const [text, status] of responses) {
    for (let cut = 1; cut <= text.length; cut++) {
      const reader = new ResponseReader('GET')
      const outcomes = []
      for (let at = 0; at < text.length; at += cut) outcomes.push(reader.push(Buffer.from(text.slice(at, at + cut))))
      const ends = outcomes.filter(each => each !== undefined)
      t.match(ends, [{ status }], `cut every ${cut}: ${JSON.stringify(text.slice(0, 30))}`)
    }
  }
  t.end()
})

t.test('what is no response is refused', t => {
  for (const text of [
    'SSH-2.0-x\r\n\r\n',
    'HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n',
    'HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab',
    'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n',
    `HTTP/1.1 200 OK\r\n${'x'.repeat(70_000)}`,
  ])
    t.type(new ResponseReader('GET').push(Buffer.from(text)), 'string', JSON.stringify(text.slice(0, 60)))
  t.end()
})

t.test('npm run load says what is wrong', async t => {
  const program = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), 'bench', 'load', 'main.js')
  const run = async (...args: string[]) => {
    const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    const texts = { stdout: '', stderr: '' }
    child.stdout.on('data', (chunk: Buffer) => (texts.stdout += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (texts.stderr += chunk.toString()))
    const code = await new Promise(resolve => child.once('close', resolve))
    return { code, ...texts }
  }
  const [closed] = (await freePorts(1)) as [number]
  const cases: [string[], RegExp][] = [
    [[], /say what to load with --url/],
    [['--url', 'nonsense'], /is no URL/],
    [['--url', 'https://127.0.0.1/'], /write http:\/\//],
    [['--url', `http://127.0.0.1:${closed}/`], /nothing answers on 127\.0\.0\.1 port \d+ \(ECONNREFUSED\): is the sidecar/],
    [['--url', 'http://127.0.0.1:1/', '--rate', 'fast'], /--rate fast: give a number/],
    [['--url', 'http://127.0.0.1:1/', '--duration', '10'], /--duration 10 is no time/],
  ]
  await Promise.all(
    cases.map(async ([args, expected]) => {
      const { code, stderr } = await run(...args)
      t.equal(code, 1)
      t.match(stderr, expected)
    }),
  )
  let longest = 0
  const port = await serve(t, (incoming, outgoing) => {
    longest = Math.max(longest, Number(incoming.headers['content-length']))
    incoming.resume()
    incoming.on('end', () => outgoing.end('ok'))
  })
  const url = `http://127.0.0.1:${port}/`
  const { code, stdout } = await run('--url', url, '--rate', '100', '--duration', '500ms', '--body-bytes', '100', '--json')
  t.equal(code, 0)
  const report = JSON.parse(stdout) as { mode: string; answered: number; errors: number }
  t.match(report, { mode: 'open', errors: 0 })
  t.ok(report.answered > 20, `${report.answered} answers`)
  t.equal(longest, 100)
})
