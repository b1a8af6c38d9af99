/**
 * What drives a pair, each a process of its own on the load's core: wrk for closed loops, h2load for gRPC, and the own generator for
 * open loops and where wrk is missing or cannot (wrk knows whole seconds only).
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { LoadReport } from '../load/recorder.ts'
import { dist, runOn, which } from '../machine/programs.ts'

export interface Loaded {
  requests: number
  errors: number
  seconds: number
  meanMs: number
  p50Ms: number
  p99Ms: number
  /** Of the generator itself, in an open loop. */
  lateP99Ms?: number
}

export interface Wish {
  port: number
  path: string
  seconds: number
  connections: number
  /** Requests a second of an open loop. */
  rate?: number
  bodyBytes?: number
  /** A new connection for each request. */
  closing?: boolean
}

/** As much as a plain client of a service sends. */
const headers = ['user-agent: isthmus-bench', 'accept: */*']

export async function loadHttp(wish: Wish, directory: string): Promise<Loaded> {
  const wrk = which('wrk')
  const own = wrk === undefined || wish.rate !== undefined || !Number.isInteger(wish.seconds)
  return own ? ownLoad(wish) : wrkLoad(wrk, wish, directory)
}

async function ownLoad(wish: Wish): Promise<Loaded> {
  const args = [
    join(dist, 'bench', 'load', 'main.js'),
    '--url',
    `http://127.0.0.1:${wish.port}${wish.path}`,
    '--connections',
    String(wish.connections),
    '--duration',
    `${wish.seconds}s`,
    '--json',
    ...headers.flatMap(each => ['--header', each]),
    ...(wish.rate === undefined ? [] : ['--rate', String(wish.rate)]),
    ...(wish.bodyBytes === undefined ? [] : ['--body-bytes', String(wish.bodyBytes)]),
    ...(wish.closing ? ['--header', 'connection: close'] : []),
  ]
  const { code, stdout, stderr } = await runOn('load', process.execPath, args)
  if (code !== 0) throw new Error(`load generator: ${stderr || stdout}`)
  const report = JSON.parse(stdout) as LoadReport
  const { mean, p50, p99 } = report.latencyMs
  return {
    requests: report.answered,
    errors: report.errors,
    seconds: report.seconds,
    meanMs: mean,
    p50Ms: p50,
    p99Ms: p99,
    ...(report.lateMs ? { lateP99Ms: report.lateMs.p99 } : {}),
  }
}

/** wrk prints for people; its script prints numbers. */
function wrkScript({ bodyBytes, closing }: Wish): string {
  const lines = headers.map(each => each.split(': ')).map(([name, value]) => `wrk.headers["${name}"] = "${value}"`)
  if (closing) lines.push('wrk.headers["connection"] = "close"')
  if (bodyBytes !== undefined) lines.push('wrk.method = "POST"', `wrk.body = string.rep("x", ${bodyBytes})`)
  return `${lines.join('\n')}
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %f %f %f\\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    summary.duration, latency.mean, latency:percentile(50), latency:percentile(99)))
end
`
}

async function wrkLoad(wrk: string, wish: Wish, directory: string): Promise<Loaded> {
  const script = join(directory, 'load.lua')
  writeFileSync(script, wrkScript(wish))
  const args = ['-t', '1', '-c', String(wish.connections), '-d', `${wish.seconds}s`, '--timeout', '10s', '-s', script]
  const { stdout, stderr } = await runOn('load', wrk, [...args, `http://127.0.0.1:${wish.port}${wish.path}`])
  const numbers = /^RESULT (.*)$/m.exec(stdout)?.[1]?.split(' ').map(Number)
  if (!numbers) throw new Error(`wrk: ${stderr || stdout}`)
  const [requests, errors, duration, mean, p50, p99] = numbers as [number, number, number, number, number, number]
  return { requests, errors, seconds: duration / 1e6, meanMs: mean / 1000, p50Ms: p50 / 1000, p99Ms: p99 / 1000 }
}

/** Unary calls of one small message, `streams` at a time on each connection. */
export async function loadGrpc(
  wish: { port: number; seconds: number; connections: number; streams: number },
  directory: string,
): Promise<Loaded> {
  const h2load = which('h2load')
  if (h2load === undefined) throw new Error('h2load is missing: install nghttp2-client')
  const message = join(directory, 'message')
  writeFileSync(message, Buffer.concat([Buffer.from([0, 0, 0, 0, 64]), Buffer.alloc(64, 'f')]))
  const args = ['-t', '1', '-c', String(wish.connections), '-m', String(wish.streams), '-D', String(wish.seconds), '-d', message]
  const fields = ['-H', 'content-type: application/grpc', '-H', 'te: trailers']
  const { stdout, stderr } = await runOn('load', h2load, [...args, ...fields, `http://127.0.0.1:${wish.port}/bench.Bench/Unary`])
  const counts = /requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored/.exec(stdout)
  const seconds = /finished in ([\d.]+)(ms|s)/.exec(stdout)
  const mean = /time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)/.exec(stdout)
  if (!counts || !seconds || !mean) throw new Error(`h2load: ${stderr || stdout}`)
  const meanMs = Number(mean[1]) * { us: 0.001, ms: 1, s: 1000 }[mean[2] as 'us' | 'ms' | 's']
  return {
    requests: Number(counts[2]),
    errors: Number(counts[3]),
    seconds: Number(seconds[1]) / (seconds[2] === 'ms' ? 1000 : 1),
    meanMs,
    // h2load tells no quantiles.
    p50Ms: Number.NaN,
    p99Ms: Number.NaN,
  }
}
