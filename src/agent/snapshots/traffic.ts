/**
 * How a sidecar uses one of its upstreams, gathered from where Consul keeps it: the resolver of the service that is dialled (balancing and
 * time-outs), and the limits and the passive health check of the caller's own service-defaults or registration. What nobody set is left
 * out, so that the proxy's defaults apply.
 */
import { decode, type Decoded } from '../../lib/shape.ts'
import { Balance, balancePolicies, CircuitLimits, OutlierLimits, type HashPolicy } from '../../mesh/balance/config.ts'
import { PassiveHealthCheck, UpstreamLimits, type ServiceDefaults } from '../../mesh/config-entry.ts'
import type { LoadBalancer } from '../../mesh/entry-members.ts'
import type { Locality } from '../../mesh/node.ts'
import type { ServiceResolver } from '../../mesh/routing-entry.ts'
import type { Upstream } from '../../mesh/service.ts'
import type { UpstreamResource } from '../../mesh/snapshot.ts'

export interface TrafficSources {
  upstream: Upstream
  /** Of the caller. */
  client: ServiceDefaults | undefined
  /** What a resolver of our own cluster says of where it goes. */
  resolver: Pick<ServiceResolver, 'loadBalancer' | 'connectTimeoutMs' | 'requestTimeoutMs'> | undefined
  /** It goes to a peer. */
  peered: boolean
  /** Where the caller is, if that is known. */
  locality: Locality | undefined
}

const weak = { weak: true }

type Traffic = Pick<UpstreamResource, 'connectTimeoutMs' | 'requestTimeoutMs' | 'balance' | 'limits' | 'passiveHealthCheck'>

export function trafficOf({ upstream, client, resolver, peered, locality }: TrafficSources): Traffic {
  const traffic: Traffic = { connectTimeoutMs: connectTimeoutMs(upstream, client, resolver?.connectTimeoutMs) }
  if (resolver?.requestTimeoutMs) traffic.requestTimeoutMs = resolver.requestTimeoutMs
  const balance = balanceOf(resolver?.loadBalancer, upstream.config, locality)
  if (balance) traffic.balance = balance
  const { config = {} } = upstream
  const override = overrideFor(upstream, client)
  const defaults = client?.upstreamConfig?.defaults
  const limits = readable(decode(UpstreamLimits, config['limits'], weak)) ?? override?.limits ?? defaults?.limits
  if (limits) traffic.limits = CircuitLimits.parse(limits)
  const check =
    readable(decode(PassiveHealthCheck, config['passive_health_check'], weak)) ??
    override?.passiveHealthCheck ??
    defaults?.passiveHealthCheck
  if (check) traffic.passiveHealthCheck = outlierOf(check, peered)
  return traffic
}

/** The settings of the caller's service-defaults for this upstream by name. */
export function overrideFor(upstream: Upstream, client: ServiceDefaults | undefined) {
  return client?.upstreamConfig?.overrides?.find(
    each => each.name === upstream.destinationName && (each.peer ?? '') === (upstream.destinationPeer ?? ''),
  )
}

function connectTimeoutMs(upstream: Upstream, client: ServiceDefaults | undefined, resolverMs: number | undefined): number {
  const config = upstream.config?.['connect_timeout_ms']
  if (typeof config === 'number' && config > 0) return config
  const configured = overrideFor(upstream, client)?.connectTimeoutMs || client?.upstreamConfig?.defaults?.connectTimeoutMs
  return configured || resolverMs || 5000
}

/** A part of the registration's opaque Config, spelt as Consul takes it. One that cannot be read is as if it were not there. */
function readable<T>(decoded: Decoded<T>): T | undefined {
  return decoded.ok ? decoded.value : undefined
}

/** Zero is "not given" for a time and a count of failures, but a percentage may be zero. */
function outlierOf(check: PassiveHealthCheck, peered: boolean): OutlierLimits {
  const given: Partial<OutlierLimits> = {}
  if (check.intervalMs) given.intervalMs = check.intervalMs
  if (check.maxFailures) given.maxFailures = check.maxFailures
  if (check.enforcingConsecutive5xx !== undefined) given.enforcingPercent = check.enforcingConsecutive5xx
  // Consul forces 100 for peers, where a lone gateway would be under no cap; the proxy never leaves out the last one.
  if (peered) given.maxEjectionPercent = 100
  else if (check.maxEjectionPercent !== undefined) given.maxEjectionPercent = check.maxEjectionPercent
  if (check.baseEjectionTimeMs) given.baseEjectionMs = check.baseEjectionTimeMs
  return OutlierLimits.parse(given)
}

/**
 * Two words of an upstream's Config are isthmus's own: `slow_start_ms`, for which Consul has none, and `prioritize_by_locality`
 * (`failover`), which it refuses in a resolver unless it is the enterprise edition (spec/data-plane.md 9.2).
 */
function balanceOf(given: LoadBalancer | undefined, config: Upstream['config'], locality: Locality | undefined): Balance | undefined {
  const slowStart = config?.['slow_start_ms']
  const slowStartMs = typeof slowStart === 'number' && slowStart > 0 ? slowStart : 0
  const policy = balancePolicies.find(each => each === given?.policy)
  const near = config?.['prioritize_by_locality'] === 'failover' ? locality : undefined
  if (policy === undefined && slowStartMs === 0 && near === undefined) return undefined
  const { ringHashConfig: ring, leastRequestConfig: least, hashPolicies = [] } = given ?? {}
  return Balance.parse({
    policy,
    slowStartMs,
    ...(near && { near }),
    hashPolicies: hashPolicies.map(hashPolicyOf),
    ...(least?.choiceCount ? { choiceCount: least.choiceCount } : {}),
    ...(ring?.minimumRingSize ? { minimumRingSize: ring.minimumRingSize } : {}),
    ...(ring?.maximumRingSize ? { maximumRingSize: ring.maximumRingSize } : {}),
  })
}

function hashPolicyOf({
  field,
  fieldValue = '',
  cookieConfig,
  terminal = false,
}: NonNullable<LoadBalancer['hashPolicies']>[number]): HashPolicy {
  const policy: HashPolicy = { field: 'source_ip', name: '', terminal }
  if (field !== 'header' && field !== 'cookie' && field !== 'query_parameter') return policy
  policy.field = field
  policy.name = fieldValue
  const { session = false, ttlMs = 0, path = '' } = cookieConfig ?? {}
  // Without either, Envoy sets no cookie of its own.
  if (field === 'cookie' && (session || ttlMs > 0)) policy.generate = { ttlMs, path }
  return policy
}
