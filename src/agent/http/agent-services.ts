/** /v1/agent/service(s) (spec/http-api.md 3): what this agent was asked to run beside, in the agent's own form. */
import { MeshError } from '../../lib/errors.ts'
import { NodeService, ServiceDefinition } from '../../mesh/service.ts'
import type { Reading } from '../catalog/tables.ts'
import { enableParam } from './agent.ts'
import { encodeAgentService, encodeAgentServiceWithHash } from './agent-service.ts'
import { blockUntil, hashParams } from './blocking.ts'
import { badRequest } from './errors.ts'
import { applyFilter } from './filter.ts'
import { empty, json, type Reply, text } from './reply.ts'
import { decodeBody } from './request.ts'
import type { Call, Route } from './route.ts'

function services(call: Call): Reply {
  const { localAgent, config } = call.agent
  const selected = applyFilter(call.query, NodeService, [...localAgent.services().values()])
  return json(Object.fromEntries(selected.map(service => [service.id, encodeAgentService(service, config.datacenter)])))
}

/** `?hash=`: answers at once when the hash differs, else waits for it to change. */
async function service(call: Call): Promise<Reply> {
  const { localAgent, config, tables } = call.agent
  const { hash, waitMs } = hashParams(call.query)
  const read = (): Reading<ReturnType<typeof encodeAgentServiceWithHash> | undefined> => {
    const found = localAgent.service(call.rest)
    return { ...tables.nodeServices(config.nodeName), value: found && encodeAgentServiceWithHash(found, config.datacenter) }
  }
  const changed = (reading: ReturnType<typeof read>) => hash === '' || reading.value?.hash !== hash
  const reading = await blockUntil(call, read, changed, waitMs)
  if (!reading.value) return text(`unknown service ID: ${call.rest}`, 404)
  return json(reading.value.wire, { 'X-Consul-Contenthash': reading.value.hash })
}

async function register(call: Call): Promise<Reply> {
  const definition = decodeBody(call.body, ServiceDefinition, { prefix: 'Request decode failed' })
  const replace = call.query.get('replace-existing-checks')
  const replaceExistingChecks = call.query.has('replace-existing-checks') && (replace === '' || replace === 'true')
  await call.agent.localAgent.registerService(definition, { replaceExistingChecks })
  return empty()
}

function known(call: Call): string {
  if (call.rest === '') throw badRequest('Missing service ID')
  if (call.agent.localAgent.service(call.rest)) return call.rest
  const id = JSON.stringify(call.rest)
  throw new MeshError('not-found', `Unknown service ID ${id}. Ensure that the service ID is passed, not the service name.`)
}

async function deregister(call: Call): Promise<Reply> {
  await call.agent.localAgent.deregisterService(known(call))
  return empty()
}

async function maintenance(call: Call): Promise<Reply> {
  if (call.rest === '') throw badRequest('Missing service ID')
  const enable = enableParam(call.query)
  await call.agent.localAgent.setServiceMaintenance(known(call), enable, call.query.get('reason') || undefined)
  return empty()
}

export const agentServiceRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/agent/services',
    takes: ['filter'],
    what: 'the services of this agent, by id',
    handler: services,
    agentLocal: true,
  },
  {
    method: 'GET',
    path: '/v1/agent/service/*',
    takes: ['hash', 'wait'],
    what: 'one service of this agent; ?hash= waits for a change',
    handler: service,
    agentLocal: true,
  },
  {
    method: 'PUT',
    path: '/v1/agent/service/register',
    takes: ['replace-existing-checks'],
    body: ServiceDefinition,
    what: 'registers a service, with its sidecar and checks',
    handler: register,
    agentLocal: true,
  },
  { method: 'PUT', path: '/v1/agent/service/deregister/*', what: 'removes a service by its id', handler: deregister, agentLocal: true },
  {
    method: 'PUT',
    path: '/v1/agent/service/maintenance/*',
    takes: ['enable', 'reason'],
    what: 'puts a service into maintenance, or back',
    handler: maintenance,
    agentLocal: true,
  },
]
