/** /v1/connect/ca and /v1/agent/connect/ca (spec/http-api.md 3, 9): the roots of this cluster, its CA's settings, and leaves for apps. */
import { MeshError } from '../../lib/errors.ts'
import { encode } from '../../lib/shape.ts'
import { CaConfiguration } from '../ca/configuration.ts'
import type { CaRoot } from '../catalog/tables.ts'
import { blockingRead, waitParams } from './blocking.ts'
import { badRequest } from './errors.ts'
import { parseJson } from './json.ts'
import { bytes, empty, json, metaHeaders, type Reply } from './reply.ts'
import { parseBool } from './request.ts'
import type { Call, Route } from './route.ts'

export function requireConnect(call: Call): void {
  if (!call.agent.config.connectEnabled) throw new MeshError('invalid', 'Connect must be enabled in order to use this endpoint')
}

function encodeRoot(root: CaRoot): unknown {
  return {
    ID: root.id,
    Name: root.name,
    SerialNumber: root.serialNumber,
    SigningKeyID: root.signingKeyId,
    ExternalTrustDomain: root.externalTrustDomain,
    NotBefore: root.notBefore,
    NotAfter: root.notAfter,
    RootCert: root.rootCert,
    IntermediateCerts: root.intermediateCerts,
    Active: root.active,
    PrivateKeyType: root.privateKeyType,
    PrivateKeyBits: root.privateKeyBits,
    CreateIndex: root.createIndex,
    ModifyIndex: root.modifyIndex,
  }
}

async function roots(call: Call): Promise<Reply> {
  requireConnect(call)
  const pem = call.query.has('pem') ? parseBool(call.query.get('pem')) : false
  if (pem === undefined) throw badRequest("The 'pem' query parameter must be a boolean value")
  const reading = await blockingRead(call, () => call.agent.ca.roots())
  const { activeRootId, trustDomain, roots: all } = reading.value
  if (pem) return bytes(all.map(root => root.rootCert).join(''), 'application/pem-certificate-chain')
  // The agent's own endpoint reads through the agent cache, which has them from the start (1.6).
  const cached = call.path.startsWith('/v1/agent/')
  return json({ ActiveRootID: activeRootId, TrustDomain: trustDomain, Roots: all.map(encodeRoot) }, metaHeaders(reading, { cached }))
}

/** One certificate until it is due for renewal or the root has changed; its index grows with either. */
async function leaf(call: Call): Promise<Reply> {
  requireConnect(call)
  if (call.rest === '') throw badRequest('Missing service name')
  const { ca } = call.agent
  const { index, waitMs } = waitParams(call.query)
  const issued =
    index > 0 ? await ca.waitForLeaf(call.rest, index, waitMs * (1 + Math.random() / 16), call.signal) : await ca.issueLeaf(call.rest)
  const wire = {
    SerialNumber: issued.serialNumber,
    CertPEM: issued.certPem,
    PrivateKeyPEM: issued.privateKeyPem,
    Service: call.rest,
    ServiceURI: issued.uri,
    ValidAfter: goTime(issued.validAfterMs),
    ValidBefore: goTime(issued.validBeforeMs),
    CreateIndex: issued.index,
    ModifyIndex: issued.index,
  }
  return json(wire, { 'X-Consul-Index': String(issued.index), 'X-Cache': 'MISS', 'Cache-Control': 'no-store' })
}

/** RFC 3339 without fractions, as certificates know time. */
function goTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, 19)}Z`
}

function configuration(call: Call): Reply {
  requireConnect(call)
  return json(encode(CaConfiguration, call.agent.ca.configuration()))
}

async function configure(call: Call): Promise<Reply> {
  requireConnect(call)
  const parsed = parseJson(call.body)
  if (!parsed.ok) throw badRequest(`Request decode failed: ${parsed.error}`)
  await call.agent.ca.setConfiguration(parsed.value)
  return empty()
}

export const connectRoutes: Route[] = [
  {
    method: 'GET',
    path: '/v1/connect/ca/roots',
    takes: ['index', 'wait', 'pem'],
    what: 'the CA roots of this cluster; ?pem for the certificates alone',
    handler: roots,
  },
  { method: 'GET', path: '/v1/connect/ca/configuration', what: "the CA's settings", handler: configuration },
  { method: 'PUT', path: '/v1/connect/ca/configuration', body: CaConfiguration, what: "changes the CA's settings", handler: configure },
  {
    method: 'GET',
    path: '/v1/agent/connect/ca/roots',
    takes: ['index', 'wait', 'pem'],
    what: 'the CA roots, as the agent knows them',
    handler: roots,
  },
  {
    method: 'GET',
    path: '/v1/agent/connect/ca/leaf/*',
    takes: ['index', 'wait'],
    what: 'a certificate and its key for a service',
    handler: leaf,
    agentLocal: true,
    plain: true,
  },
]
