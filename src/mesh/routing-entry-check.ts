/**
 * What service-resolver, service-router and service-splitter entries must hold to by themselves, with Consul's texts
 * (spec/data-plane.md 9.3 to 9.5). What they make together is judged by compiling their chains (discovery-chain.ts).
 */
import { formatDuration } from '../lib/duration.ts'
import { balancePolicies } from './balance/config.ts'
import type { LoadBalancer } from './entry-members.ts'
import { headerProblem, metaProblems, methodsProblem, pathProblem, regexProblem, several } from './entry-problems.ts'
import { filterProblem } from './filter/filter.ts'
import { byteString } from './path.ts'
import {
  scaledWeight,
  type FailoverTarget,
  type ResolverFailover,
  type Route,
  type RouteDestination,
  type RouteMatch,
  type ServiceResolver,
  type ServiceRouter,
  type ServiceSplitter,
} from './routing-entry.ts'

export function checkResolver(entry: ServiceResolver): string | undefined {
  if (entry.name === '') return 'Name is required'
  const meta = several(metaProblems(entry.meta))
  if (meta !== undefined) return meta
  if (entry.prioritizeByLocality !== undefined) return 'Prioritize-by-locality requires Consul Enterprise'
  const problem = subsetsProblem(entry) ?? redirectProblem(entry) ?? failoverProblem(entry)
  if (problem !== undefined) return problem
  for (const [name, ms = 0] of Object.entries({ ConnectTimeout: entry.connectTimeoutMs, RequestTimeout: entry.requestTimeoutMs })) {
    if (ms < 0) return `Bad ${name} '${formatDuration(ms)}', must be >= 0`
  }
  return entry.loadBalancer && checkLoadBalancer(entry.loadBalancer)
}

const subsetName = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?$/

function subsetsProblem({ subsets = {}, defaultSubset }: ServiceResolver): string | undefined {
  for (const [name, { filter = '' }] of Object.entries(subsets)) {
    if (name.length > 63 || !subsetName.test(name)) {
      return `Subset ${JSON.stringify(name)} is invalid: must be 63 characters or fewer, begin or end with lower case alphanumeric characters, and contain lower case alphanumeric characters or '-' in between`
    }
    const problem = filter === '' ? undefined : filterProblem(filter)
    if (problem !== undefined) return `Filter for subset ${JSON.stringify(name)} is not a valid expression: ${problem}`
  }
  if (!defaultSubset || Object.hasOwn(subsets, defaultSubset)) return undefined
  return `DefaultSubset ${JSON.stringify(defaultSubset)} is not a valid subset`
}

function isSubset({ subsets }: ServiceResolver, name: string): boolean {
  return subsets !== undefined && Object.hasOwn(subsets, name)
}

/** A subset of the entry's own service that it does not have. */
function foreignSubset(entry: ServiceResolver, { service = '', serviceSubset = '' }: FailoverTarget): string | undefined {
  const own = service === '' || service === entry.name
  if (serviceSubset === '' || !own || isSubset(entry, serviceSubset)) return undefined
  return `ServiceSubset ${JSON.stringify(serviceSubset)} is not a valid subset of ${JSON.stringify(entry.name)}`
}

/** Only one edition has them. */
function enterpriseProblem({ namespace = '', partition = '' }: { namespace?: string | undefined; partition?: string | undefined }) {
  if (namespace !== '' && namespace !== 'default') return 'Setting Namespace requires Consul Enterprise'
  return partition !== '' && partition !== 'default' ? 'Setting Partition requires Consul Enterprise' : undefined
}

/** A service of a peer is dialled as the peer exports it. */
function peerProblem({ peer = '', serviceSubset = '', partition = '', datacenter = '' }: FailoverTarget): string | undefined {
  if (peer === '') return undefined
  if (serviceSubset !== '') return 'ServiceSubset'
  return partition === '' ? (datacenter === '' ? undefined : 'Datacenter') : 'Partition'
}

function redirectProblem(entry: ServiceResolver): string | undefined {
  const { redirect } = entry
  if (redirect === undefined) return undefined
  if (Object.keys(entry.failover ?? {}).length > 0) return 'Redirect and Failover cannot both be set'
  if (!Object.values(redirect).some(Boolean)) return 'Redirect is empty'
  if (redirect.samenessGroup) return 'Redirect: Setting SamenessGroup requires Consul Enterprise'
  const enterprise = enterpriseProblem(redirect)
  if (enterprise !== undefined) return `Redirect: ${enterprise}`
  const clash = peerProblem(redirect)
  if (clash !== undefined) return `Redirect.Peer cannot be set with Redirect.${clash}`
  if (!redirect.service && redirect.serviceSubset) return 'Redirect.ServiceSubset defined without Redirect.Service'
  if (!redirect.service && redirect.peer) return 'Redirect.Peer defined without Redirect.Service'
  const foreign = foreignSubset(entry, redirect)
  return foreign && `Redirect.${foreign}`
}

function failoverProblem(entry: ServiceResolver): string | undefined {
  for (const [subset, failover] of Object.entries(entry.failover ?? {})) {
    const at = `Bad Failover[${JSON.stringify(subset)}]`
    if (subset !== '*' && !isSubset(entry, subset)) return `${at}: not a valid subset subset`
    const problem = oneFailoverProblem(entry, failover)
    if (problem !== undefined) return `${at}${problem}`
  }
  return undefined
}

/** The rest of the text after `Bad Failover["..."]`. */
function oneFailoverProblem(entry: ServiceResolver, failover: ResolverFailover): string | undefined {
  const { service, serviceSubset, datacenters = [], targets = [], policy, samenessGroup } = failover
  if (policy?.mode || policy?.regions?.length) return ': Setting failover policies requires Consul Enterprise'
  if (samenessGroup) return ': Setting SamenessGroup requires Consul Enterprise'
  const enterprise = enterpriseProblem(failover)
  if (enterprise !== undefined) return `: ${enterprise}`
  if (!service && !serviceSubset && datacenters.length === 0 && targets.length === 0) {
    return ': one of Service, ServiceSubset, Namespace, Targets, SamenessGroup, or Datacenters is required'
  }
  const foreign = foreignSubset(entry, failover)
  if (foreign !== undefined) return `.${foreign}`
  if (targets.length > 0) {
    for (const [name, given] of Object.entries({ Datacenters: datacenters.length > 0, ServiceSubset: serviceSubset, Service: service })) {
      if (given) return `: Targets cannot be set with ${name}`
    }
  }
  for (const [i, target] of targets.entries()) {
    const wrong = enterpriseProblem(target)
    if (wrong !== undefined) return `.Targets[${i}]: ${wrong}`
    const clash = peerProblem(target)
    if (clash !== undefined) return `.Targets[${i}]: Peer cannot be set with ${clash}`
    const subset = target.peer ? undefined : foreignSubset(entry, target)
    if (subset !== undefined) return `.Targets[${i}].${subset}`
  }
  return datacenters.includes('') ? '.Datacenters: found empty datacenter' : undefined
}

function checkLoadBalancer({ policy = '', ringHashConfig, leastRequestConfig, hashPolicies = [] }: LoadBalancer): string | undefined {
  if (policy !== '' && !(balancePolicies as readonly string[]).includes(policy)) {
    return `Bad LoadBalancer policy: ${JSON.stringify(policy)} is not supported`
  }
  const incompatible = (what: string) =>
    `Bad LoadBalancer configuration. ${what} specified for incompatible load balancing policy ${JSON.stringify(policy)}`
  if (ringHashConfig && policy !== 'ring_hash') return incompatible('RingHashConfig')
  if (leastRequestConfig && policy !== 'least_request' && policy !== 'peak_ewma') return incompatible('LeastRequestConfig')
  if (hashPolicies.length > 0 && policy !== 'ring_hash' && policy !== 'maglev') {
    return `Bad LoadBalancer configuration: HashPolicies specified for non-hash-based Policy: ${JSON.stringify(policy)}`
  }
  for (const [i, hashPolicy] of hashPolicies.entries()) {
    const problem = checkHashPolicy(hashPolicy)
    if (problem !== undefined) return `Bad LoadBalancer HashPolicy[${i}]: ${problem}`
  }
  return undefined
}

function checkHashPolicy({ field = '', fieldValue = '', cookieConfig, sourceIp }: NonNullable<LoadBalancer['hashPolicies']>[number]) {
  if (!['', 'header', 'cookie', 'query_parameter'].includes(field)) return `${JSON.stringify(field)} is not a supported field`
  if (sourceIp && field !== '') return `a single hash policy cannot hash both a source address and a ${JSON.stringify(field)}`
  if (sourceIp && fieldValue !== '') return 'A FieldValue cannot be specified when hashing SourceIP'
  if (field !== '' && fieldValue === '') return `Field ${JSON.stringify(field)} was specified without a FieldValue`
  if (field === '' && fieldValue !== '') return 'FieldValue requires a Field to apply to'
  if (cookieConfig && field !== 'cookie') return `cookie_config provided for ${JSON.stringify(field)}`
  if (cookieConfig?.session && cookieConfig.ttlMs) return 'a session cookie cannot have an associated TTL'
  return undefined
}

export function checkSplitter(entry: ServiceSplitter): string | undefined {
  if (entry.name === '') return 'Name is required'
  const { splits = [] } = entry
  if (splits.length === 0) return 'no splits configured'
  const meta = several(metaProblems(entry.meta))
  if (meta !== undefined) return meta
  const seen = new Set<string>()
  let sum = 0
  for (const [i, split] of splits.entries()) {
    const { weight, service, serviceSubset = '', namespace = '', partition = '', peer = '' } = split
    const enterprise = enterpriseProblem(split)
    if (enterprise !== undefined) return `Splits[${i}]: ${enterprise}`
    if (peer !== '' && serviceSubset !== '') return `Splits[${i}]: Peer cannot be set with ServiceSubset`
    if (weight < 0) return `Splits[${i}]: Weight ${weight} must be >= 0`
    sum += scaledWeight(weight)
    const name = service || entry.name
    const destination = JSON.stringify([name, serviceSubset, peer])
    if (seen.has(destination)) {
      const quoted = Object.entries({ service: name, subset: serviceSubset, namespace, partition })
      return `split destination occurs more than once: ${quoted.map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(', ')}`
    }
    seen.add(destination)
  }
  return sum === 10_000 ? undefined : `the sum of all split weights must be 100, not ${(sum / 100).toFixed(6)}`
}

export function checkRouter(entry: ServiceRouter): string | undefined {
  if (entry.name === '') return 'Name is required'
  const meta = several(metaProblems(entry.meta))
  if (meta !== undefined) return meta
  for (const [i, route] of (entry.routes ?? []).entries()) {
    const problem = routeProblem(route)
    if (problem !== undefined) return `Route[${i}] ${problem}`
  }
  return undefined
}

function routeProblem({ match, destination }: Route): string | undefined {
  const problem = match?.http && matchProblem(match.http)
  if (problem !== undefined) return problem
  return destination && destinationProblem(destination, Boolean(match?.http?.pathExact || match?.http?.pathPrefix))
}

function matchProblem(http: RouteMatch): string | undefined {
  const path = pathProblem(http)
  if (path !== undefined) return path
  if ([http.pathExact, http.pathPrefix, http.pathRegex].filter(Boolean).length > 1) {
    return 'should only contain at most one of PathExact, PathPrefix, or PathRegex'
  }
  for (const [j, each] of (http.header ?? []).entries()) {
    const problem = headerProblem(each)
    if (problem !== undefined) return `Header[${j}] ${problem}`
  }
  for (const [j, { name, present, exact, regex }] of (http.queryParam ?? []).entries()) {
    if (name === '') return `QueryParam[${j}] missing required Name field`
    if ([present, exact, regex].filter(Boolean).length !== 1) {
      return `QueryParam[${j}] should only contain one of Present, Exact, or Regex`
    }
    const problem = regex ? regexProblem(regex) : undefined
    if (problem !== undefined) return `QueryParam[${j}] Regex is not a valid regular expression: ${problem}`
  }
  return methodsProblem(http.methods ?? [])
}

/** Envoy's names (spec/data-plane.md 9.4). */
export const retryConditions: ReadonlySet<string> = new Set([
  '5xx',
  'gateway-error',
  'reset',
  'connect-failure',
  'envoy-ratelimited',
  'retriable-4xx',
  'refused-stream',
  'cancelled',
  'deadline-exceeded',
  'internal',
  'resource-exhausted',
  'unavailable',
])

function destinationProblem(destination: RouteDestination, rewritable: boolean): string | undefined {
  const { prefixRewrite = '', retryOn = [], peer, serviceSubset, numRetries = 0 } = destination
  const enterprise = enterpriseProblem(destination)
  if (enterprise !== undefined) return `Destination: ${enterprise}`
  if (peer && serviceSubset) return 'Destination: Peer cannot be set with ServiceSubset'
  if (prefixRewrite !== '' && !rewritable) return 'cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix'
  // It becomes part of a request line: what would end the path or the line is no path.
  if (!/^[!-~]*$/.test(byteString(prefixRewrite)) || /[?#]/.test(prefixRewrite)) {
    return `PrefixRewrite is not a path: ${JSON.stringify(prefixRewrite)}`
  }
  if (numRetries < 0) return `NumRetries ${numRetries} must be >= 0`
  const unknown = retryOn.find(condition => !retryConditions.has(condition))
  return unknown === undefined ? undefined : `contains an invalid retry condition: ${JSON.stringify(unknown)}`
}
