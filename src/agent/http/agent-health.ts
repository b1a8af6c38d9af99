/** /v1/agent/health/service (spec/http-api.md 3): the health of a local service as a status code, for load balancers. */
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import { aggregateStatus, HealthCheck } from '../../mesh/check.ts'
import type { NodeService } from '../../mesh/service.ts'
import { agentChecks } from './agent-checks.ts'
import { encodeAgentService } from './agent-service.ts'
import { bytes, json, type Reply } from './reply.ts'
import type { Call, Route } from './route.ts'

interface ServiceHealth {
  status: string
  wire: unknown
}

const codes: Record<string, number> = { passing: 200, warning: 429, critical: 503, maintenance: 503 }
/** From good to bad: the worst instance speaks for a name. */
const severity = ['passing', 'warning', 'critical', 'maintenance']

/** The service's own checks and those of the node. */
function healthOf(call: Call, service: NodeService): ServiceHealth {
  const checks = agentChecks(call).filter(check => check.serviceId === service.id || check.serviceId === '')
  const status = aggregateStatus(checks)
  const wire = {
    AggregatedStatus: status,
    Service: encodeAgentService(service, call.agent.config.datacenter),
    Checks: checks.map(encodeFully),
  }
  return { status, wire }
}

/** The api form of a check: no type, interval or timeout, and every member of the definition. */
function encodeFully(check: HealthCheck): unknown {
  const { Interval: _interval, Timeout: _timeout, ...wire } = encode(HealthCheck, check) as Record<string, unknown>
  const { CreateIndex, ModifyIndex, ...rest } = wire
  const definition = {
    Interval: '0s',
    Timeout: '0s',
    DeregisterCriticalServiceAfter: '0s',
    HTTP: '',
    Header: null,
    Method: '',
    Body: '',
    TLSServerName: '',
    TLSSkipVerify: false,
    TCP: '',
    TCPUseTLS: false,
    UDP: '',
    GRPC: '',
    OSService: '',
    GRPCUseTLS: false,
  }
  // Go prints the tags of a check that has no service as null.
  const ServiceTags = check.serviceId === '' ? null : check.serviceTags
  return { ...rest, ServiceTags, Type: '', Definition: definition, CreateIndex, ModifyIndex }
}

/** Any name as the value of a header: its UTF-8 bytes, as Go writes them, with a space for what no header may hold. */
function headerText(text: string): string {
  return Buffer.from(text.replace(/\p{Cc}/gu, ' ')).toString('latin1')
}

function answer(call: Call, status: number, reason: string, value: unknown): Reply {
  const headers = { 'X-Consul-Reason': headerText(reason) }
  const wantsText = call.query.get('format') === 'text' || (call.header('accept') ?? '').startsWith('text/plain')
  return wantsText ? bytes(reason, 'text/plain', headers, status) : json(value, headers, status)
}

function byId(call: Call): Reply {
  if (call.rest === '') throw new MeshError('invalid', 'Missing serviceID')
  const service = call.agent.localAgent.service(call.rest)
  if (!service) return answer(call, 404, `ServiceId ${call.rest} not found`, { AggregatedStatus: 'critical', Service: null, Checks: null })
  const { status, wire } = healthOf(call, service)
  return answer(call, codes[status]!, status, wire)
}

function byName(call: Call): Reply {
  if (call.rest === '') throw new MeshError('invalid', 'Missing service Name')
  const all = [...call.agent.localAgent.services().values()]
    .filter(service => service.service === call.rest)
    .map(service => healthOf(call, service))
  if (all.length === 0) return answer(call, 404, `ServiceName ${call.rest} Not Found`, [])
  const worst = severity[Math.max(...all.map(each => severity.indexOf(each.status)))]!
  return answer(
    call,
    codes[worst]!,
    worst,
    all.map(each => each.wire),
  )
}

export const agentHealthRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/agent/health/service/id/*',
    takes: ['format'],
    what: 'health of one local service, as a status code',
    handler: byId,
    agentLocal: true,
  },
  {
    method: 'GET',
    path: '/v1/agent/health/service/name/*',
    takes: ['format'],
    what: 'health of the local services of a name',
    handler: byName,
    agentLocal: true,
  },
]
