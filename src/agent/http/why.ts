/**
 * GET /v1/isthmus/why: one call replayed by what this agent knows, step by step. It reads tables only, tells no secret, and of the headers
 * that it is asked with repeats only the names.
 */
import { encode } from '../../lib/shape.ts'
import { requestFacts } from '../../mesh/forwarded.ts'
import { byteString } from '../../mesh/path.ts'
import type { RouteFacts } from '../../mesh/route-table.ts'
import { parseServiceName, WhyReport, type ServiceName } from '../../mesh/why-report.ts'
import { explain } from '../../mesh/why.ts'
import { badRequest } from './errors.ts'
import { json, type Reply } from './reply.ts'
import type { Call, Route } from './route.ts'

const limits = { headers: 64, pathLength: 8192 } as const

function why(call: Call): Reply {
  const source = nameOf(call, 'source')
  const destination = nameOf(call, 'destination')
  const peer = call.query.get('peer').toLowerCase()
  if (peer !== '' && destination.peer !== '' && destination.peer !== peer)
    throw badRequest('Two peers are named: drop ?peer=, or the @PEER of the destination')
  const asked = { source, destination: { ...destination, peer: destination.peer || peer }, request: requestOf(call) }
  if (source.peer !== '' && asked.destination.peer !== '') {
    throw badRequest('A call from one peer to another does not pass through this cluster: name one side without @PEER')
  }
  const scene = call.agent.snapshots.why(asked, call.agent.peerings)
  return json(encode(WhyReport, explain(asked, scene)))
}

function nameOf(call: Call, param: 'source' | 'destination'): ServiceName {
  const text = call.query.get(param)
  if (text === '') throw badRequest(`Missing query parameter ${JSON.stringify(param)}: name a service, or SERVICE@PEER`)
  const name = parseServiceName(text)
  if (name === undefined) throw badRequest(`${JSON.stringify(text)} is no ${param}: write SERVICE, or SERVICE@PEER`)
  return name
}

function requestOf({ query }: Call): RouteFacts {
  const method = query.get('method') || 'GET'
  if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(method)) throw badRequest(`${JSON.stringify(method)} is no HTTP method`)
  const target = byteString(query.get('path') || '/')
  if (target.length > limits.pathLength || /[\0-\x20\x7f]/.test(target)) throw badRequest('path is not one that a request can have')
  const lines = query.all('header')
  if (lines.length > limits.headers) throw badRequest(`Too many headers: ${limits.headers} at most`)
  const headers = lines.map(line => {
    const at = line.indexOf(':')
    if (at < 1) throw badRequest(`${JSON.stringify(line)} is no header: write it as NAME:VALUE`)
    return [line.slice(0, at).trim(), byteString(line.slice(at + 1).trim())] as const
  })
  return requestFacts(method, target, headers)
}

export const whyRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/isthmus/why',
    what: 'what becomes of a call, step by step; source and destination are SERVICE or SERVICE@PEER',
    handler: why,
    takes: ['source', 'destination', 'peer', 'method', 'path', 'header'],
  },
]
