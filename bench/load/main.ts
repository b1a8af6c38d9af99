/**
 * `npm run load`: load for any upstream of a running mesh, from one process. With --rate the open loop (Poisson arrivals, times from
 * when a request was due), otherwise the closed loop.
 */
import { connect } from 'node:net'
import { parseArgs } from 'node:util'
import { messageOf } from '../../src/lib/errors.ts'
import { parseDuration } from '../../src/lib/duration.ts'
import type { Target } from './connection.ts'
import type { LoadReport } from './recorder.ts'
import { closedLoop, openLoop } from './run.ts'

const usage = `npm run load -- --url http://127.0.0.1:9191/path [--rate 1000 | --connections 64] [--duration 10s]
    [--method POST] [--body-bytes 1024] [--header 'name: value']... [--timeout 10s] [--json]

--url          the local port of an upstream, as its sidecar listens on it
--rate         requests a second, whatever the answers (open loop, over --connections, 16 by default)
--connections  each sends when it has its answer (closed loop, 64 by default)`

interface Wish {
  target: Target
  rate: number | undefined
  connections: number
  durationMs: number
  json: boolean
}

const limits = { connections: 10_000, rate: 100_000, bodyBytes: 256 * 1024 * 1024 } as const

function readArguments(): Wish {
  const { values } = parseArgs({
    options: {
      url: { type: 'string' },
      rate: { type: 'string' },
      connections: { type: 'string' },
      duration: { type: 'string', default: '10s' },
      timeout: { type: 'string', default: '10s' },
      method: { type: 'string' },
      'body-bytes': { type: 'string', default: '0' },
      header: { type: 'string', multiple: true, default: [] },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) {
    console.log(usage)
    process.exit(0)
  }
  const rate = values.rate === undefined ? undefined : numberOf('--rate', values.rate, limits.rate)
  const connections = numberOf('--connections', values.connections ?? (rate === undefined ? '64' : '16'), limits.connections)
  const bodyBytes = values['body-bytes'] === '0' ? 0 : numberOf('--body-bytes', values['body-bytes'], limits.bodyBytes)
  const method = (values.method ?? (bodyBytes > 0 ? 'POST' : 'GET')).toUpperCase()
  if (!/^[A-Z]+$/.test(method)) throw new Error(`--method ${method} is no HTTP method`)
  return {
    target: { ...targetOf(values.url, method, values.header, bodyBytes), timeoutMs: durationOf('--timeout', values.timeout) },
    rate,
    connections,
    durationMs: durationOf('--duration', values.duration),
    json: values.json,
  }
}

function numberOf(flag: string, text: string, most: number): number {
  const number = Number(text)
  if (!(number > 0 && number <= most)) throw new Error(`${flag} ${text}: give a number above 0, at most ${most}`)
  return flag === '--rate' ? number : Math.ceil(number)
}

function durationOf(flag: string, text: string): number {
  const ms = parseDuration(text)
  if (ms === undefined || ms <= 0) throw new Error(`${flag} ${text} is no time; write for example 10s or 500ms`)
  return ms
}

function targetOf(text: string | undefined, method: string, headers: string[], bodyBytes: number): Omit<Target, 'timeoutMs'> {
  if (text === undefined) throw new Error(`say what to load with --url\n\n${usage}`)
  if (!URL.canParse(text)) throw new Error(`--url ${text} is no URL; write for example http://127.0.0.1:9191/`)
  const url = new URL(text)
  if (url.protocol !== 'http:') throw new Error(`--url ${text}: a sidecar listens for plain HTTP on its upstream's port; write http://`)
  const wrong = headers.find(each => !/^[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*$/.test(each))
  if (wrong !== undefined) throw new Error(`--header ${wrong}: write 'name: value'`)
  const lines = [
    `${method} ${url.pathname}${url.search} HTTP/1.1`,
    `host: ${url.host}`,
    ...headers,
    ...(bodyBytes > 0 ? [`content-length: ${bodyBytes}`] : []),
  ]
  const head = Buffer.from(`${lines.join('\r\n')}\r\n\r\n`)
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port: Number(url.port === '' ? 80 : url.port),
    method,
    bytes: bodyBytes > 0 ? Buffer.concat([head, Buffer.alloc(bodyBytes, 'x')]) : head,
  }
}

/** Before the load, so that a wrong port is one clear line and not a report full of errors. */
function reachable({ host, port }: Target): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, timeout: 5000 })
    const fail = (why: string) =>
      reject(
        new Error(
          `nothing answers on ${host} port ${port} (${why}): is the sidecar with that upstream running, and is this its LocalBindPort?`,
        ),
      )
    socket.once('connect', () => {
      socket.destroy()
      resolve()
    })
    socket.once('timeout', () => {
      socket.destroy()
      fail('no connection within 5 s')
    })
    socket.once('error', (error: NodeJS.ErrnoException) => fail(error.code ?? error.message))
  })
}

function table(report: LoadReport): string {
  const ms = (value: number) => `${value.toFixed(value < 10 ? 2 : 1)} ms`
  const times = ({ mean, p50, p90, p99, max }: LoadReport['latencyMs']) =>
    `mean ${ms(mean)}, p50 ${ms(p50)}, p90 ${ms(p90)}, p99 ${ms(p99)}, max ${ms(max)}`
  const counts = (record: Record<string, number>) =>
    Object.entries(record)
      .map(([what, count]) => `${what}: ${count}`)
      .join(', ')
  const how =
    report.mode === 'open'
      ? `open loop, ${report.rate}/s over ${report.connections} connections`
      : `closed loop, ${report.connections} connections`
  return [
    `${how}, ${report.seconds.toFixed(1)} s`,
    `requests   ${report.requests}, answered ${report.answered} (${report.requestsPerSecond.toFixed(1)}/s)`,
    `statuses   ${counts(report.statuses) || 'none'}`,
    ...(Object.keys(report.failures).length > 0 ? [`failures   ${counts(report.failures)}`] : []),
    `latency    ${times(report.latencyMs)}${report.mode === 'open' ? ' (from when each was due)' : ''}`,
    ...(report.lateMs ? [`generator  late by ${times(report.lateMs)}`] : []),
  ].join('\n')
}

try {
  const { target, rate, connections, durationMs, json } = readArguments()
  await reachable(target)
  const report =
    rate === undefined ? await closedLoop(target, { connections, durationMs }) : await openLoop(target, { connections, durationMs, rate })
  console.log(json ? JSON.stringify(report) : table(report))
  if (report.answered === 0) process.exitCode = 1
} catch (error) {
  console.error(messageOf(error))
  process.exitCode = 1
}
