/** Health checks: what an agent runs (CheckDefinition), what the catalog keeps (HealthCheck), and how several become one status. */
import * as z from 'zod'
import { duration } from '../lib/shape.ts'

export type CheckStatus = 'passing' | 'warning' | 'critical'
/** The status of an instance as a whole; a peer may also send `maintenance` as a check's status (spec/peering-wire.md 7.3). */
export type AggregateStatus = CheckStatus | 'maintenance'

const headers = z.record(z.string(), z.array(z.string()))

/** How a check is made. One of ttl, http, tcp or alias; the rest are Consul's and refused by name (no script ever runs). */
export const CheckDefinition = z.object({
  id: z
    .string()
    .optional()
    .meta({ wire: 'ID', aliases: ['CheckID'] }),
  name: z.string().optional(),
  notes: z.string().optional(),
  serviceId: z.string().optional(),
  status: z.string().optional(),
  ttlMs: duration('TTL').optional(),
  http: z.string().optional(),
  method: z.string().optional(),
  header: headers.optional(),
  body: z.string().optional(),
  tlsServerName: z.string().optional(),
  tlsSkipVerify: z.boolean().optional(),
  disableRedirects: z.boolean().optional(),
  tcp: z.string().optional(),
  tcpUseTls: z.boolean().optional(),
  aliasNode: z.string().optional(),
  aliasService: z.string().optional(),
  intervalMs: duration('Interval').optional(),
  timeoutMs: duration('Timeout').optional(),
  successBeforePassing: z.number().int().optional(),
  failuresBeforeWarning: z.number().int().optional(),
  failuresBeforeCritical: z.number().int().optional(),
  deregisterCriticalServiceAfterMs: duration('DeregisterCriticalServiceAfter').optional(),
  outputMaxSize: z.number().int().optional(),
  // Accepted by name so that the refusal can name them.
  udp: z.string().optional(),
  grpc: z.string().optional(),
  grpcUseTls: z.boolean().optional(),
  h2ping: z.string().optional().meta({ wire: 'H2PING' }),
  h2pingUseTls: z.boolean().optional().meta({ wire: 'H2PingUseTLS' }),
  args: z.array(z.string()).optional(),
  scriptArgs: z.array(z.string()).optional(),
  shell: z.string().optional(),
  dockerContainerId: z.string().optional(),
  osService: z.string().optional(),
  token: z.string().optional(),
})
export type CheckDefinition = z.infer<typeof CheckDefinition>

export const HealthCheckDefinition = z.object({
  http: z.string().optional(),
  tlsSkipVerify: z.boolean().optional(),
  tlsServerName: z.string().optional(),
  header: headers.optional(),
  method: z.string().optional(),
  body: z.string().optional(),
  tcp: z.string().optional(),
  tcpUseTls: z.boolean().optional(),
  intervalMs: duration('Interval').optional(),
  timeoutMs: duration('Timeout').optional(),
  deregisterCriticalServiceAfterMs: duration('DeregisterCriticalServiceAfter').optional(),
  // Of checks that somebody else runs: kept and shown.
  udp: z.string().optional(),
  grpc: z.string().optional(),
  grpcUseTls: z.boolean().optional(),
  osService: z.string().optional(),
})

export const HealthCheck = z.object({
  node: z.string().default(''),
  checkId: z.string().default(''),
  name: z.string().default(''),
  /** passing, warning, critical; from a peer also maintenance. */
  status: z.string().default('critical'),
  notes: z.string().default(''),
  output: z.string().default(''),
  serviceId: z.string().default(''),
  serviceName: z.string().default(''),
  serviceTags: z.array(z.string()).default([]),
  type: z.string().default(''),
  interval: z.string().default(''),
  timeout: z.string().default(''),
  exposedPort: z.number().default(0),
  peerName: z.string().optional(),
  definition: HealthCheckDefinition.default({}),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
})
export type HealthCheck = z.infer<typeof HealthCheck>

export const nodeMaintenanceId = '_node_maintenance'
export const serviceMaintenancePrefix = '_service_maintenance:'

/** The worst of the checks; any maintenance check wins (spec/http-api.md 2, peering-wire.md 7.3). No checks: passing. */
export function aggregateStatus(checks: Iterable<{ checkId: string; status: string }>): AggregateStatus {
  let worst: CheckStatus = 'passing'
  for (const { checkId, status } of checks) {
    if (status === 'maintenance' || checkId === nodeMaintenanceId || checkId.startsWith(serviceMaintenancePrefix)) return 'maintenance'
    if (status === 'warning') worst = worst === 'critical' ? 'critical' : 'warning'
    else if (status !== 'passing') worst = 'critical'
  }
  return worst
}
