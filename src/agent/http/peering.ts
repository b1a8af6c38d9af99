/** /v1/peering(s) (spec/http-api.md 6): making a token, using one, and looking at peerings. No answer holds a secret but the token. */
import * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import { Peering } from '../../mesh/peering.ts'
import { blockingRead } from './blocking.ts'
import { badRequest } from './errors.ts'
import { empty, json, metaHeaders, type Reply } from './reply.ts'
import { decodeBody } from './request.ts'
import type { Call, Route } from './route.ts'

const shared = {
  peerName: z.string().default(''),
  meta: z.record(z.string(), z.string()).nullable().optional(),
  partition: z.string().optional(),
}
const TokenRequest = z.object({ ...shared, serverExternalAddresses: z.array(z.string()).nullable().optional() })
const EstablishRequest = z.object({ ...shared, peeringToken: z.string().default('') })
const decodeTexts = { prefix: 'Body decoding failed' } as const

function requirePeering(call: Call): void {
  if (!call.agent.config.peeringEnabled) throw new MeshError('invalid', 'peering must be enabled to use this endpoint')
}

async function token(call: Call): Promise<Reply> {
  requirePeering(call)
  const request = decodeBody(call.body, TokenRequest, decodeTexts)
  if (request.peerName === '') throw badRequest('PeerName is required in the payload when generating a new peering token.')
  const peeringToken = await call.agent.peerings.generateToken({
    peerName: request.peerName,
    meta: request.meta ?? undefined,
    serverExternalAddresses: request.serverExternalAddresses ?? undefined,
    partition: request.partition,
  })
  return json({ PeeringToken: peeringToken })
}

async function establish(call: Call): Promise<Reply> {
  requirePeering(call)
  const request = decodeBody(call.body, EstablishRequest, decodeTexts)
  if (request.peerName === '') throw badRequest('PeerName is required in the payload when establishing a peering.')
  if (request.peeringToken === '') throw badRequest('PeeringToken is required in the payload when establishing a peering.')
  await call.agent.peerings.establish({
    peerName: request.peerName,
    peeringToken: request.peeringToken,
    meta: request.meta ?? undefined,
    partition: request.partition,
  })
  return json({})
}

async function read(call: Call): Promise<Reply> {
  requirePeering(call)
  if (call.rest === '') throw badRequest('Must specify a name to fetch.')
  const reading = await blockingRead(call, () => call.agent.peerings.read(call.rest.toLowerCase()))
  if (!reading.value) throw new MeshError('not-found', `Peering not found for ${JSON.stringify(call.rest)}`)
  return json(encode(Peering, reading.value), metaHeaders(reading))
}

async function list(call: Call): Promise<Reply> {
  requirePeering(call)
  const reading = await blockingRead(call, () => call.agent.peerings.list())
  return json(
    reading.value.map(each => encode(Peering, each)),
    metaHeaders(reading),
  )
}

async function remove(call: Call): Promise<Reply> {
  requirePeering(call)
  if (call.rest === '') throw badRequest('Must specify a name to delete.')
  await call.agent.peerings.delete(call.rest.toLowerCase())
  return empty()
}

export const peeringRoutes: Route[] = [
  {
    method: 'POST',
    path: '/v1/peering/token',
    body: TokenRequest,
    what: 'makes the token that another cluster establishes a peering with',
    handler: token,
    plain: true,
  },
  {
    method: 'POST',
    path: '/v1/peering/establish',
    body: EstablishRequest,
    what: 'joins the cluster that made this token',
    handler: establish,
  },
  { method: 'GET', path: '/v1/peerings', takes: ['index', 'wait'], what: 'all peerings', handler: list },
  { method: 'GET', path: '/v1/peering/*', takes: ['index', 'wait'], what: 'one peering', handler: read },
  { method: 'DELETE', path: '/v1/peering/*', what: 'ends a peering and drops what it imported', handler: remove },
]
