// How a sidecar is told to use its upstreams: balancing, limits, passive health checks and time-outs, from where Consul keeps each.
import t from 'tap'
import { resourcesFor } from '../../../src/agent/snapshots/snapshots.ts'
import { parseConfigEntry } from '../../../src/mesh/config-entry.ts'
import { normaliseConfigEntry } from '../../../src/mesh/config-entry-check.ts'
import { compile, resourceKey } from '../../../src/mesh/plan.ts'
import type { UpstreamResource } from '../../../src/mesh/snapshot.ts'
import { east, valuesOf, World } from './world.ts'

let world: World
t.beforeEach(async () => void (world = await World.open()))
t.afterEach(() => world.close())

const resources = () => resourcesFor('web-sidecar-proxy', world.context).reading.value
const told = (name: string): UpstreamResource | undefined => valuesOf(resources(), 'upstream')[name]

/** An entry as an operator writes it. */
async function write(body: Record<string, unknown>): Promise<void> {
  const parsed = parseConfigEntry(body)
  if (!parsed.ok) throw new Error(parsed.text)
  await world.entry(normaliseConfigEntry(parsed.value))
}

const upstream = (destinationName: string, more: object = {}) => ({
  destinationType: 'service',
  destinationName,
  localBindPort: 9001,
  meshGateway: {},
  ...more,
})

async function peeredWeb(config?: Record<string, unknown>): Promise<void> {
  await world.peer('east', east)
  await world.importedInstances('east', 'api', ['passing'])
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }, { wan: '192.0.2.2' }])
  await world.meshService('web', {
    upstreams: [upstream('api'), upstream('api', { destinationPeer: 'east', localBindPort: 9002, config })],
  })
}

t.test('the resolver of the dialled name says how to balance, for gateways of a peer too', async t => {
  await peeredWeb()
  t.equal(told('api')?.balance, undefined, 'nobody said anything')
  await write({
    Kind: 'service-resolver',
    Name: 'api',
    ConnectTimeout: '2s',
    RequestTimeout: '9s',
    LoadBalancer: {
      Policy: 'ring_hash',
      RingHashConfig: { MinimumRingSize: 64 },
      HashPolicies: [
        { Field: 'header', FieldValue: 'x-user', Terminal: true },
        { Field: 'cookie', FieldValue: 'sid', CookieConfig: { TTL: '30s', Path: '/' } },
        { Field: 'cookie', FieldValue: 'theirs' },
        { Field: 'cookie', FieldValue: 'session', CookieConfig: { Session: true } },
        { SourceIP: true },
      ],
    },
  })
  const balance = {
    policy: 'ring_hash',
    choiceCount: 2,
    minimumRingSize: 64,
    maximumRingSize: 8_388_608,
    slowStartMs: 0,
    hashPolicies: [
      { field: 'header', name: 'x-user', terminal: true },
      { field: 'cookie', name: 'sid', terminal: false, generate: { ttlMs: 30_000, path: '/' } },
      { field: 'cookie', name: 'theirs', terminal: false },
      { field: 'cookie', name: 'session', terminal: false, generate: { ttlMs: 0, path: '' } },
      { field: 'source_ip', name: '', terminal: false },
    ],
  }
  t.strictSame(told('api')?.balance, balance)
  t.strictSame(told('api?peer=east')?.balance, balance)
  t.match(told('api'), { connectTimeoutMs: 2000, requestTimeoutMs: 9000 })
  t.match(told('api?peer=east'), { connectTimeoutMs: 5000, requestTimeoutMs: undefined }, 'time-outs are of a chain, which a peer has not')
  await write({ Kind: 'service-resolver', Name: 'api', LoadBalancer: { Policy: 'peak_ewma', LeastRequestConfig: { ChoiceCount: 5 } } })
  t.match(told('api')?.balance, { policy: 'peak_ewma', choiceCount: 5, hashPolicies: [] })
})

t.test('limits and passive checks: the registration, then the override by name and peer, then the defaults', async t => {
  await write({
    Kind: 'service-defaults',
    Name: 'web',
    UpstreamConfig: {
      Defaults: { Limits: { MaxConnections: 3, MaxPendingRequests: 4 }, PassiveHealthCheck: { MaxFailures: 7, Interval: '3s' } },
      Overrides: [{ Name: 'api', Peer: 'east', Limits: { MaxConcurrentRequests: 5 }, PassiveHealthCheck: { MaxEjectionPercent: 40 } }],
    },
  })
  await peeredWeb()
  t.strictSame(told('api')?.limits, { maxConnections: 3, maxPendingRequests: 4, maxConcurrentRequests: 1024 })
  const check = { enabled: true, intervalMs: 10_000, maxFailures: 5, enforcingPercent: 100, maxEjectionPercent: 10, baseEjectionMs: 30_000 }
  t.strictSame(told('api')?.passiveHealthCheck, { ...check, intervalMs: 3000, maxFailures: 7, panicPercent: 50 })
  t.match(told('api?peer=east')?.limits, { maxConnections: 1024, maxConcurrentRequests: 5 })
  t.match(told('api?peer=east')?.passiveHealthCheck, { ...check, maxEjectionPercent: 100 }, 'as Consul forces it for peers')
  await peeredWeb({
    limits: { max_connections: '9', max_pending_requests: 0 },
    passive_health_check: { interval: '1s', max_failures: 2, enforcing_consecutive_5xx: 0, base_ejection_time: 4e9 },
    slow_start_ms: 7000,
  })
  t.match(told('api?peer=east'), {
    limits: { maxConnections: 9, maxPendingRequests: 0, maxConcurrentRequests: 1024 },
    passiveHealthCheck: { intervalMs: 1000, maxFailures: 2, enforcingPercent: 0, baseEjectionMs: 4000 },
    balance: { policy: 'round_robin', slowStartMs: 7000 },
  })
  await peeredWeb({ limits: 'none', passive_health_check: { interval: 'soon' }, slow_start_ms: 'x' })
  t.match(told('api?peer=east'), { limits: { maxConcurrentRequests: 5 }, balance: undefined }, 'what cannot be read is not there')
})

t.test('near endpoints come before far ones where the registration asks for it, and it is known where the caller is', async t => {
  const here = { region: 'eu', zone: 'a' }
  const config = { prioritize_by_locality: 'failover' }
  const upstreams = [upstream('api', { config }), upstream('db', { localBindPort: 9002 })]
  const web = (locality?: { region: string; zone: string }) => world.meshService('web', { upstreams }, undefined, locality)
  await world.meshService('api', {}, undefined, { region: 'us', zone: 'b' })
  await web()
  t.equal(told('api')?.balance, undefined, 'who is nowhere has no neighbours')
  await web(here)
  t.same(told('api')?.balance?.near, here)
  t.equal(told('db')?.balance, undefined)
  const { endpoints } = valuesOf(resources(), 'endpoints')[told('api')!.endpoints]!
  t.same(
    endpoints.map(({ locality }) => locality),
    [{ region: 'us', zone: 'b' }],
  )
})

t.test('a plan has the defaults, and a peer is not judged by what its apps answer unless that is asked for', async t => {
  await peeredWeb()
  const plan = () => {
    const compiled = compile(new Map(resources().map(each => [resourceKey(each), each])))
    if (compiled?.kind !== 'sidecar') throw new Error('no plan')
    return compiled
  }
  const { upstreams } = plan()
  t.match(upstreams.get('api'), { limits: { maxConnections: 1024 }, outlier: { enabled: true }, retry: { retries: 1 }, hash: undefined })
  t.equal(upstreams.get('api?peer=east')!.outlier.enabled, false)
  await write({ Kind: 'service-defaults', Name: 'web', UpstreamConfig: { Defaults: { PassiveHealthCheck: { MaxFailures: 3 } } } })
  t.equal(plan().upstreams.get('api?peer=east')!.outlier.enabled, true)
  await write({ Kind: 'service-resolver', Name: 'api', LoadBalancer: { Policy: 'maglev', HashPolicies: [{ SourceIP: true }] } })
  const balanced = plan().upstreams.get('api?peer=east')!
  t.not(balanced.hash, undefined)
  const ports = Array.from({ length: 20 }, () => balanced.picker.pick(undefined, 7)?.address)
  t.equal(new Set(ports).size, 1)
})
