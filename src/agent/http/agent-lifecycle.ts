/**
 * What a client may have this agent do, and watch it do (spec/http-api.md 3): reload, leave, its log as it is written, the machine it
 * runs on. There is no gossip: a join succeeds with this agent itself and with nobody else.
 */
import { cpus, freemem, hostname, platform, release, totalmem, uptime } from 'node:os'
import { statfsSync } from 'node:fs'
import { splitHostPort } from '../../lib/address.ts'
import { multiError, MeshError } from '../../lib/errors.ts'
import { isAtLeast, logLevel, type LogLine, parseLogLine } from '../../lib/log.ts'
import { badRequest } from './errors.ts'
import { httpLimits } from './limits.ts'
import { empty, json, type Reply } from './reply.ts'
import type { Call, Route } from './route.ts'
import { gossipPort } from './status.ts'

async function reload(call: Call): Promise<Reply> {
  await call.agent.lifecycle.reload()
  return empty()
}

/** The answer first: who asked must learn of it. */
function leave(call: Call): Reply {
  return {
    kind: 'stream',
    status: 200,
    headers: { 'Content-Length': '0', Connection: 'close' },
    start(response) {
      response.once('close', () => call.agent.lifecycle.leave())
      response.end()
    },
  }
}

function join(call: Call): Reply {
  const { host, port } = splitHostPort(call.rest) ?? { host: call.rest, port: gossipPort }
  const own = host === call.agent.config.advertiseAddr || host === '127.0.0.1'
  if (own && (port === gossipPort || port === gossipPort + 1)) return empty()
  throw new MeshError(
    'invalid',
    multiError([`Failed to join ${call.rest}: this agent does not gossip; join clusters with a peering (isthmus peering generate-token)`]),
  )
}

function forceLeave(call: Call): Reply {
  const { nodeName, datacenter } = call.agent.config
  if (call.rest === '') throw badRequest('Missing node name')
  if (call.rest === nodeName || call.rest === `${nodeName}.${datacenter}`) return empty()
  throw new MeshError('invalid', `agent: No node found with name '${call.rest}'`)
}

function monitor(call: Call): Reply {
  const asked = call.query.get('loglevel')
  const least = logLevel(asked === '' ? 'info' : asked)
  if (least === undefined) throw badRequest(`Unknown log level: ${asked}`)
  const raw = call.query.has('logjson')
  return {
    kind: 'stream',
    status: 200,
    headers: { 'Content-Type': raw ? 'application/json' : 'text/plain; charset=utf-8' },
    start(response) {
      const watching = call.agent.logs.listen(line => {
        const parsed = parseLogLine(line)
        if (!parsed || !isAtLeast(parsed.level, least)) return
        // Who reads too slowly misses lines; the log itself does not wait.
        if (response.writableLength < httpLimits.streamBufferBytes) response.write(raw ? line : printed(parsed))
      })
      response.once('close', () => watching.close())
      if (response.destroyed) watching.close()
    },
  }
}

/** As Consul prints one. */
function printed({ level, time, msg, fields }: LogLine): string {
  const name = `[${level.toUpperCase()}]`.padEnd(7)
  const facts = Object.entries(fields).map(([key, value]) => ` ${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`)
  return `${time} ${name} agent: ${msg}${facts.length > 0 ? ':' : ''}${facts.join('')}\n`
}

const nanoseconds = 1_000_000n

function host(): Reply {
  const total = totalmem()
  const free = freemem()
  return json({
    Memory: { total, available: free, used: total - free, usedPercent: ((total - free) / total) * 100, free },
    CPU: cpus().map(({ model, speed }, cpu) => ({ cpu, modelName: model, mhz: speed, cores: 1 })),
    Host: { hostname: hostname(), uptime: Math.floor(uptime()), os: platform(), kernelVersion: release(), platform: platform() },
    Disk: disk(),
    CollectionTime: Number(BigInt(Date.now()) * nanoseconds),
    Errors: null,
  })
}

function disk(): unknown {
  try {
    const { blocks, bsize, bfree, bavail } = statfsSync('/')
    return { path: '/', total: blocks * bsize, free: bavail * bsize, used: (blocks - bfree) * bsize }
  } catch {
    return null
  }
}

export const agentLifecycleRoutes: Route[] = [
  { method: 'PUT', path: '/v1/agent/reload', what: 'reads the configuration again', handler: reload, agentLocal: true },
  { method: 'PUT', path: '/v1/agent/leave', what: 'ends this agent gracefully', handler: leave, agentLocal: true },
  {
    method: 'PUT',
    path: '/v1/agent/join/*',
    takes: ['wan'],
    what: 'succeeds with this agent alone: there is no gossip',
    handler: join,
    agentLocal: true,
  },
  { method: 'PUT', path: '/v1/agent/force-leave/*', what: 'succeeds with this agent alone', handler: forceLeave, agentLocal: true },
  {
    method: 'GET',
    path: '/v1/agent/monitor',
    takes: ['loglevel', 'logjson'],
    what: 'the log as it is written; ?loglevel=, ?logjson',
    handler: monitor,
    agentLocal: true,
    plain: true,
  },
  { method: 'GET', path: '/v1/agent/host', what: 'the machine that this agent runs on', handler: host, agentLocal: true },
  {
    method: 'GET',
    path: '/debug/pprof/*',
    what: 'nothing: there is no profile here',
    handler: () => empty({}, 404),
    agentLocal: true,
    unregistered: true,
  },
]
