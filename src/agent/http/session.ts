/** /v1/session (spec/http-api.md 11): what holds locks of the key-value store. Unknown keys of a request are ignored, as Consul does here alone. */
import * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { duration, encode } from '../../lib/shape.ts'
import { ServiceCheck, Session, sessionLimits } from '../../mesh/session.ts'
import { blockingRead } from './blocking.ts'
import { badRequest } from './errors.ts'
import { json, metaHeaders, type Reply } from './reply.ts'
import { decodeBody, refusePeer } from './request.ts'
import type { Call, Route } from './route.ts'

const SessionRequest = z.looseObject({
  name: z.string().default(''),
  node: z.string().default(''),
  lockDelayMs: duration('LockDelay').default(sessionLimits.defaultLockDelayMs),
  behavior: z.string().default(''),
  ttl: z.string().default(''),
  nodeChecks: z.array(z.string()).optional(),
  serviceChecks: z.array(ServiceCheck).nullable().default(null),
  /** The older name for all of them. */
  checks: z.array(z.string()).optional(),
})

const shared = 'sessions are not shared between peers'
const serfHealth = 'serfHealth'
/** A LockDelay that is a number below this is in seconds, for old clients; else in nanoseconds. */
const secondsBelow = 1000
const nanosecondMs = 1e-6

async function create(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  const request = decodeBody(call.body.length === 0 ? Buffer.from('{}') : call.body, SessionRequest, { prefix: 'Request decode failed' })
  const { lockDelayMs: given } = request
  const id = await call.agent.sessions.create({
    name: request.name,
    node: request.node || call.agent.config.nodeName,
    lockDelayMs: given > 0 && given < secondsBelow * nanosecondMs ? (given / nanosecondMs) * 1000 : given,
    behavior: request.behavior,
    ttl: request.ttl,
    nodeChecks: [...(request.checks ?? []), ...(request.nodeChecks ?? (request.checks ? [] : [serfHealth]))],
    serviceChecks: request.serviceChecks,
  })
  return json({ ID: id })
}

async function destroy(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  await call.agent.sessions.destroy(idOf(call))
  return json(true)
}

function renew(call: Call): Reply {
  refusePeer(call, shared)
  const session = call.agent.sessions.renew(idOf(call))
  if (!session) throw new MeshError('not-found', `Session id '${call.rest}' not found`)
  return json([encode(Session, session)])
}

function idOf(call: Call): string {
  if (call.rest === '') throw badRequest('Missing session')
  return call.rest
}

async function info(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  const id = idOf(call)
  const reading = await blockingRead(call, () => call.agent.tables.session(id))
  return json(reading.value ? [encode(Session, reading.value)] : [], metaHeaders(reading))
}

async function list(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  const reading = await blockingRead(call, () => call.agent.tables.sessions())
  return json(
    reading.value.map(each => encode(Session, each)),
    metaHeaders(reading),
  )
}

async function ofNode(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  if (call.rest === '') throw badRequest('Missing node name')
  const node = call.rest.toLowerCase()
  const reading = await blockingRead(call, () => call.agent.tables.sessions())
  return json(
    reading.value.filter(each => each.node.toLowerCase() === node).map(each => encode(Session, each)),
    metaHeaders(reading),
  )
}

export const sessionRoutes: Route[] = [
  { method: 'PUT', path: '/v1/session/create', body: SessionRequest, what: 'makes a session', handler: create },
  { method: 'PUT', path: '/v1/session/destroy/*', what: 'ends a session and lets its keys go', handler: destroy },
  { method: 'PUT', path: '/v1/session/renew/*', what: 'starts the time to live of a session anew', handler: renew },
  { method: 'GET', path: '/v1/session/info/*', takes: ['index', 'wait'], what: 'one session, in a list', handler: info },
  { method: 'GET', path: '/v1/session/node/*', takes: ['index', 'wait'], what: 'the sessions of a node', handler: ofNode },
  { method: 'GET', path: '/v1/session/list', takes: ['index', 'wait'], what: 'all sessions', handler: list },
]
