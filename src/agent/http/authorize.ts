/**
 * POST /v1/agent/connect/authorize (spec/http-api.md 3): may the holder of a certificate open a connection to a service? Intentions on
 * requests cannot be judged without one and do not allow; a caller of a peer is judged by that peer's rows, and denied by default.
 */
import * as z from 'zod'
import { intentionsOf, type Intention } from '../../mesh/intention.ts'
import { parseSpiffeId } from '../../mesh/spiffe.ts'
import { badRequest } from './errors.ts'
import { json, type Reply } from './reply.ts'
import { decodeBody } from './request.ts'
import type { Call, Route } from './route.ts'

const Request = z.object({
  target: z.string().default(''),
  targetNamespace: z.string().optional(),
  clientCertUri: z.string().default('').meta({ wire: 'ClientCertURI' }),
  clientCertSerial: z.string().default(''),
})

function authorize(call: Call): Reply {
  const { target, clientCertUri } = decodeBody(call.body, Request, { prefix: 'Request decode failed' })
  if (target === '') throw badRequest('Target service must be specified')
  const identity = parseSpiffeId(clientCertUri)
  if (identity === undefined) throw badRequest('ClientCertURI not a valid Connect identifier')
  if (identity.kind !== 'service') throw badRequest('ClientCertURI is not that of a service')
  const { tables, defaultAclPolicy } = call.agent
  const peer = tables.trustBundles().value.find(bundle => bundle.trustDomain === identity.trustDomain)?.peer ?? ''
  const intention = tables
    .configEntries('service-intentions')
    .value.filter(entry => entry.name === target || entry.name === '*')
    .flatMap(intentionsOf)
    .filter(each => (each.sourcePeer ?? '') === peer && (each.sourceName === identity.service || each.sourceName === '*'))
    .sort((a, b) => b.precedence - a.precedence)[0]
  const headers = { 'X-Cache': 'MISS' }
  if (intention) return json({ Authorized: isAllowed(intention), Reason: reasonOf(intention) }, headers)
  if (peer !== '') return json({ Authorized: false, Reason: `Callers of peer ${peer} are denied by default` }, headers)
  return json({ Authorized: defaultAclPolicy === 'allow', Reason: 'Default behavior configured by ACLs' }, headers)
}

function isAllowed(intention: Intention): boolean {
  return (intention.permissions ?? []).length === 0 && intention.action === 'allow'
}

function reasonOf({ sourceName, destinationName, permissions, precedence, action }: Intention): string {
  const pair = `default/${sourceName} => default/${destinationName}`
  const last = (permissions ?? []).length > 0 ? `Permissions: ${permissions!.length}` : `Action: ${(action ?? '').toUpperCase()}`
  return `Matched ${(permissions ?? []).length > 0 ? 'L7' : 'L4'} intention: ${pair} (Precedence: ${precedence}, ${last})`
}

export const authorizeRoutes: Route[] = [
  {
    method: 'POST',
    path: '/v1/agent/connect/authorize',
    body: Request,
    what: 'may the holder of this certificate call this service?',
    handler: authorize,
    agentLocal: true,
  },
]
