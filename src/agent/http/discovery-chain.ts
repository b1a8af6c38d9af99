/** /v1/discovery-chain (spec/data-plane.md 10, http-api.md 8): where requests for a name go, as it is or with overrides. */
import { MeshError } from '../../lib/errors.ts'
import { decode, encode } from '../../lib/shape.ts'
import { ChainAnswer, ChainOverrides } from '../../mesh/discovery-chain.ts'
import { readChain, readChainOnce } from '../catalog/chains.ts'
import type { CompiledChain } from '../../mesh/discovery-chain-compiler.ts'
import { readHeaders } from './answers.ts'
import { blockingRead } from './blocking.ts'
import { badRequest } from './errors.ts'
import { parseJson } from './json.ts'
import { json, type Reply } from './reply.ts'
import type { Call, Route } from './route.ts'

const gatewayModes = new Set(['', 'none', 'local', 'remote'])

function overridesOf(call: Call): ChainOverrides | undefined {
  if (call.method !== 'POST') return undefined
  const parsed = parseJson(call.body)
  if (!parsed.ok) throw badRequest(`Request decoding failed: ${parsed.error}`)
  const decoded = decode(ChainOverrides, parsed.value, { weak: true })
  if (!decoded.ok) throw badRequest(`Request decoding failed: ${decoded.issues.map(issue => issue.message).join('; ')}`)
  if (!gatewayModes.has(decoded.value.overrideMeshGateway.mode ?? '')) throw badRequest('Invalid OverrideMeshGateway.Mode parameter')
  return decoded.value
}

async function chain(call: Call): Promise<Reply> {
  if (call.rest === '') throw badRequest('Missing chain name')
  const { agent, rest: service } = call
  const overrides = overridesOf(call)
  const datacenter = call.query.get('compile-dc') || agent.config.datacenter
  const { trustDomain } = agent.ca
  const read = overrides === undefined && datacenter === agent.config.datacenter ? readChain : readChainOnce
  const reading = await blockingRead(call, () => {
    const compiled = read(agent.tables, { service, datacenter, trustDomain, overrides })
    const address = agent.tables.virtualIp(service)
    return {
      value: { compiled: compiled.value, address: address.value },
      index: Math.max(compiled.index, address.index),
      topics: [...compiled.topics, ...address.topics],
    }
  })
  const { compiled, address } = reading.value
  return json(answerOf(compiled, address), readHeaders(call, reading, { cacheable: true }))
}

function answerOf(compiled: CompiledChain, address: string | undefined): unknown {
  if (!compiled.ok) throw new MeshError('invalid', compiled.problem)
  // Addresses are handed out for names that have been looked at; one without has none of either kind.
  const lists = address === undefined ? { auto: null, manual: null } : { auto: [address], manual: [] }
  return encode(ChainAnswer, { chain: { ...compiled.chain, autoVirtualIps: lists.auto, manualVirtualIps: lists.manual } })
}

const what = 'the compiled discovery chain of a name; ?compile-dc= as seen from another datacenter'

const takes = ['index', 'wait', 'cached', 'compile-dc'] as const

export const discoveryChainRoutes: Route[] = [
  { method: 'GET', path: '/v1/discovery-chain/*', takes, what, handler: chain },
  { method: 'POST', path: '/v1/discovery-chain/*', takes, body: ChainOverrides, what: `${what}, with overrides`, handler: chain },
]
