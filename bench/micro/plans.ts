/** Plans of a given number of intentions and upstreams, as a sidecar would have them, for measuring. */
import type { Principal } from '../../src/mesh/authorize.ts'
import { compile, resourceKey, type Resources, type SidecarPlan } from '../../src/mesh/plan.ts'
import { externalSni } from '../../src/mesh/sni.ts'
import { names, type Resource } from '../../src/mesh/snapshot.ts'
import { parseSpiffeId, serviceId } from '../../src/mesh/spiffe.ts'

const own = 'aaaaaaaa-0000-0000-0000-000000000001.consul'
const east = 'bbbbbbbb-0000-0000-0000-000000000002.consul'

/** Half of the sources are local, half of them a peer's; the last ones that a scan would reach have L7 permissions. */
function sourcesOf(intentions: number): unknown[] {
  return Array.from({ length: intentions }, (_, i) => sourceOf(i, i >= intentions - 2 ? permissions : undefined))
}

function sourceOf(i: number, permissions?: unknown[]): unknown {
  return {
    name: `service-${i}`,
    destination: 'api',
    type: 'consul',
    precedence: 9,
    ...(i % 2 === 1 ? { peer: 'east' } : {}),
    ...(permissions ? { permissions } : { action: i % 3 === 0 ? 'deny' : 'allow' }),
  }
}

/** The caller whose source has the permissions of `crowded`: a peer's. */
export const crowdedCaller = 9_997

/** Ten thousand exact sources, local and a peer's, and a `*` of each; one of them has fifty permissions by prefix and by header. */
export function crowded(): unknown[] {
  const many = Array.from({ length: 50 }, (_, i) =>
    i % 2 === 0
      ? { action: 'deny', http: { pathPrefix: `/v1/forbidden-${i}/` } }
      : { action: 'allow', http: { pathPrefix: '/v1/', header: [{ name: 'x-tenant', exact: i === 49 ? 'blue' : `tenant-${i}` }] } },
  )
  const exact = Array.from({ length: 10_000 }, (_, i) => sourceOf(i, i === crowdedCaller ? many : undefined))
  const everyone = ['', 'east'].map(peer => ({ name: '*', destination: 'api', type: 'consul', precedence: 8, peer, action: 'deny' }))
  return [...exact, ...everyone]
}

function resourcesOf(sources: unknown[], upstreams: number): Resources {
  const list: unknown[] = [
    { kind: 'self', name: 'api-sidecar-proxy', value: selfOf() },
    { kind: 'roots', name: names.localRoots, value: { trustDomain: own, peer: '', exportedPartition: '', pems: [] } },
    { kind: 'roots', name: 'east', value: { trustDomain: east, peer: 'east', exportedPartition: '', pems: [] } },
    { kind: 'intentions', name: 'api', value: { sources } },
    ...Array.from({ length: upstreams }, (_, i) => upstreamOf(i)).flat(),
  ]
  const resources = list.map(each => ({ version: '1', ...(each as object) }) as Resource)
  return new Map(resources.map(each => [resourceKey(each), each]))
}

const permissions = [
  { action: 'deny', http: { pathPrefix: '/admin' } },
  { action: 'allow', http: { pathExact: '/health', methods: ['GET'] } },
  { action: 'allow', http: { pathPrefix: '/v1/', methods: ['GET', 'POST'], header: [{ name: 'x-team', present: true }] } },
]

export function planOf(intentions: number, upstreams: number): SidecarPlan {
  return planWith(sourcesOf(intentions), upstreams)
}

export function planWith(sources: unknown[], upstreams = 1): SidecarPlan {
  const plan = compile(resourcesOf(sources, upstreams))
  if (plan?.kind !== 'sidecar' || plan.problems.length > 0) throw new Error(`the plan is wrong: ${plan?.problems.join(', ')}`)
  return plan
}

function selfOf(): unknown {
  return {
    proxyId: 'api-sidecar-proxy',
    kind: 'sidecar',
    service: 'api',
    serviceId: 'api',
    datacenter: 'dc1',
    trustDomain: own,
    spiffeId: serviceId(own, 'dc1', 'api'),
    protocol: 'http',
    listen: { address: '127.0.0.1', port: 21000 },
    lanNamesOnWan: false,
    expose: [],
    defaultAction: 'deny',
    inboundPeers: ['east'],
    draining: false,
    maxInboundConnections: 0,
    localConnectTimeoutMs: 5000,
    localRequestTimeoutMs: 15_000,
  }
}

function upstreamOf(i: number): unknown[] {
  const name = names.upstream(`up-${i}`, 'east')
  const upstream = {
    service: `up-${i}`,
    peer: 'east',
    protocol: 'http',
    listen: { address: '127.0.0.1', port: 10_000 + (i % 50_000) },
    sni: externalSni(`up-${i}`, 'us', east),
    spiffeIds: [serviceId(east, 'dc2', `up-${i}`)],
    connectTimeoutMs: 5000,
    endpoints: name,
  }
  const endpoints = Array.from({ length: 3 }, (_, n) => ({
    id: `gw-${n}`,
    address: '127.0.0.1',
    port: 8443 + n,
    weight: 1,
    healthy: n < 2,
  }))
  return [
    { kind: 'upstream', name, value: upstream },
    { kind: 'endpoints', name, value: { endpoints } },
  ]
}

/** The callers that the plan knows by name: the i-th source's. */
export function callerOf(i: number): Principal {
  const [peer, trustDomain] = i % 2 === 1 ? (['east', east] as const) : (['', own] as const)
  const uri = serviceId(trustDomain, 'dc1', `service-${i}`)
  return { uri, peer, identity: parseSpiffeId(uri)! }
}
