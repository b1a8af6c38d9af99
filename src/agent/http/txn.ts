/** PUT /v1/txn (spec/http-api.md 12): operations that are all done or none of them. What only reads says so in its answer. */
import * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import { HealthCheck } from '../../mesh/check.ts'
import { Node } from '../../mesh/node.ts'
import { NodeService } from '../../mesh/service.ts'
import type { Operation, Outcome } from '../catalog/transactions.ts'
import { encodeKvRecord, encodeService } from './encoding.ts'
import { badRequest } from './errors.ts'
import { httpLimits } from './limits.ts'
import { json, type Reply } from './reply.ts'
import { decodeBody, refusePeer } from './request.ts'
import type { Call, Route } from './route.ts'

const KvOp = z.object({
  verb: z.string().default(''),
  key: z.string().default(''),
  value: z.string().nullable().default(null),
  flags: z.number().int().nonnegative().default(0),
  index: z.number().int().nonnegative().default(0),
  session: z.string().default(''),
  namespace: z.string().optional(),
  partition: z.string().optional(),
})
const TxnOp = z.object({
  kv: KvOp.nullable().optional().meta({ wire: 'KV' }),
  node: z
    .object({ verb: z.string().default(''), node: Node.partial().default({}) })
    .nullable()
    .optional(),
  service: z
    .object({ verb: z.string().default(''), node: z.string().default(''), service: NodeService.partial().default({}) })
    .nullable()
    .optional(),
  check: z
    .object({ verb: z.string().default(''), check: HealthCheck.partial().default({}) })
    .nullable()
    .optional(),
})
type TxnOp = z.infer<typeof TxnOp>
const Body = z.array(TxnOp)

const readVerbs = new Set(['get', 'get-or-empty', 'get-tree', 'check-index', 'check-session', 'check-not-exists'])
const writeVerbs = new Set(['set', 'cas', 'lock', 'unlock', 'delete', 'delete-cas', 'delete-tree'])

async function txn(call: Call): Promise<Reply> {
  refusePeer(call, 'transactions are not shared between peers')
  const ops = decodeBody(call.body, Body, { prefix: 'Failed to parse body' })
  if (ops.length > httpLimits.txnOps) {
    throw new MeshError('too-large', `Transaction contains too many operations (${ops.length} > ${httpLimits.txnOps})`)
  }
  const operations = ops.flatMap(operationOf)
  const result = await call.agent.transactions.run(operations)
  const body = result.ok
    ? { Results: result.outcomes.map(encodeOutcome), Errors: null }
    : { Results: null, Errors: result.errors.map(({ opIndex, what }) => ({ OpIndex: opIndex, What: what })) }
  const status = result.ok ? 200 : 409
  if (!operations.every(isRead)) return json(body, {}, status)
  const meta = { 'X-Consul-Knownleader': 'true', 'X-Consul-Lastcontact': '0' }
  return json({ ...body, ...queryMeta('') }, meta, status)
}

/** What Consul's own query metadata looks like where it is part of a body. */
export function queryMeta(consistency: string, index = 1): Record<string, unknown> {
  return {
    Index: index,
    LastContact: 0,
    KnownLeader: true,
    ConsistencyLevel: consistency,
    NotModified: false,
    Backend: 0,
    ResultsFilteredByACLs: false,
  }
}

/** A verb of a key that nobody knows is told by the transaction, which then is taken for one that reads. */
function isRead(operation: Operation): boolean {
  return operation.kind === 'kv' ? !writeVerbs.has(operation.verb) : readVerbs.has(operation.verb)
}

function operationOf({ kv, node, service, check }: TxnOp): Operation[] {
  if (kv) {
    const { verb, key, value, flags, index, session } = kv
    if (!Number.isSafeInteger(flags))
      throw badRequest('Failed to parse body: Flags beyond 2^53 are not exact here; set them with PUT /v1/kv/')
    if (value !== null) checkBase64(value)
    return [{ kind: 'kv', verb, key, value: value === '' ? null : value, flags: String(flags), index, session }]
  }
  if (node) return [{ kind: 'node', ...node }]
  if (service) return [{ kind: 'service', ...service }]
  return check ? [{ kind: 'check', ...check }] : []
}

/** Go's words for what is no standard base64. */
function checkBase64(value: string): void {
  const text = value.replace(/[\r\n]/g, '')
  if (/^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(text)) return
  const bad = /[^A-Za-z0-9+/]/.exec(value)?.index ?? value.length
  throw badRequest(`Failed to parse body: illegal base64 data at input byte ${bad}`)
}

function encodeOutcome(outcome: Outcome): unknown {
  switch (outcome.kind) {
    case 'kv':
      return { KV: encodeKvRecord(outcome.record) }
    case 'node':
      return { Node: encode(Node, outcome.node) }
    case 'service':
      return { Service: tagless(encodeService(outcome.service), 'Tags') }
    case 'check':
      return { Check: tagless(encode(HealthCheck, outcome.check), 'ServiceTags') }
  }
}

/** Here Go prints tags that nobody gave as null (spec/http-api.md 2). */
export function tagless(wire: unknown, member: string): unknown {
  const object = wire as Record<string, unknown>
  return { ...object, [member]: (object[member] as unknown[]).length === 0 ? null : object[member] }
}

export const txnRoutes: Route[] = [
  {
    method: 'PUT',
    path: '/v1/txn',
    body: Body,
    what: 'operations on keys, nodes, services and checks: all or none',
    handler: txn,
    bodyLimit: 'txnBytes',
  },
]
