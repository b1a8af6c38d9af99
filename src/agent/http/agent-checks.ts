/** /v1/agent/check(s) (spec/http-api.md 3): the checks that this agent runs, and the updates of those that wait for one (TTL). */
import * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import { CheckDefinition, type CheckStatus, HealthCheck } from '../../mesh/check.ts'
import { badRequest } from './errors.ts'
import { applyFilter } from './filter.ts'
import { empty, json, type Reply } from './reply.ts'
import { decodeBody } from './request.ts'
import type { Call, Route } from './route.ts'

/** Indexes are the catalog's; the agent has none. */
export function agentChecks(call: Call): HealthCheck[] {
  return [...call.agent.localAgent.checks().values()].map(check => ({ ...check, createIndex: 0, modifyIndex: 0 }))
}

function checks(call: Call): Reply {
  const selected = applyFilter(call.query, HealthCheck, agentChecks(call))
  return json(Object.fromEntries(selected.map(check => [check.checkId, encode(HealthCheck, check)])))
}

async function register(call: Call): Promise<Reply> {
  await call.agent.localAgent.registerCheck(decodeBody(call.body, CheckDefinition, { prefix: 'Request decode failed' }))
  return empty()
}

function known(call: Call): string {
  if (call.agent.localAgent.checks().has(call.rest)) return call.rest
  const id = JSON.stringify(call.rest)
  throw new MeshError('not-found', `Unknown check ID ${id}. Ensure that the check ID is passed, not the check name.`)
}

async function deregister(call: Call): Promise<Reply> {
  await call.agent.localAgent.deregisterCheck(known(call))
  return empty()
}

function update(status: CheckStatus): (call: Call) => Promise<Reply> {
  return async call => {
    await call.agent.localAgent.updateTtl(known(call), status, call.query.get('note'))
    return empty()
  }
}

const Update = z.object({ status: z.string().default(''), output: z.string().default('') })

async function updateFromBody(call: Call): Promise<Reply> {
  const { status, output } = decodeBody(call.body, Update, { prefix: 'Request decode failed' })
  if (status !== 'passing' && status !== 'warning' && status !== 'critical') throw badRequest(`Invalid check status: '${status}'`)
  await call.agent.localAgent.updateTtl(known(call), status, output)
  return empty()
}

export const agentCheckRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/agent/checks',
    takes: ['filter'],
    what: 'the checks of this agent, by id',
    handler: checks,
    agentLocal: true,
  },
  {
    method: 'PUT',
    path: '/v1/agent/check/register',
    body: CheckDefinition,
    what: 'registers a check of the node or of a service',
    handler: register,
    agentLocal: true,
  },
  { method: 'PUT', path: '/v1/agent/check/deregister/*', what: 'removes a check by its id', handler: deregister, agentLocal: true },
  {
    method: 'PUT',
    path: '/v1/agent/check/pass/*',
    takes: ['note'],
    what: 'a TTL check passes',
    handler: update('passing'),
    agentLocal: true,
  },
  {
    method: 'PUT',
    path: '/v1/agent/check/warn/*',
    takes: ['note'],
    what: 'a TTL check warns',
    handler: update('warning'),
    agentLocal: true,
  },
  {
    method: 'PUT',
    path: '/v1/agent/check/fail/*',
    takes: ['note'],
    what: 'a TTL check fails',
    handler: update('critical'),
    agentLocal: true,
  },
  {
    method: 'PUT',
    path: '/v1/agent/check/update/*',
    body: Update,
    what: 'sets status and output of a TTL check',
    handler: updateFromBody,
    agentLocal: true,
  },
]
