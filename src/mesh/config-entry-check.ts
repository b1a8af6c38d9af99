/**
 * What a config entry must hold to, beyond its schema, with Consul's texts (spec/data-plane.md 9, http-api.md 7), and the form in
 * which it is stored. What depends on other entries is checked where they are known (agent/catalog/config-entries.ts).
 */
import { multiError } from '../lib/errors.ts'
import type { ConfigEntry, ExportedServices, Mesh, ProxyDefaults, ServiceDefaults } from './config-entry.ts'
import type { Permission, ServiceIntentions } from './intention-entry.ts'
import { headerProblem, metaLimits, metaProblems, methodsProblem, pathProblem, several } from './entry-problems.ts'
import { checkGatewayEntry } from './gateway-entry.ts'
import { precedenceOf } from './intention.ts'
import { checkJwtProvider, defaultClockSkewSeconds } from './jwt-provider.ts'
import type { Route } from './routing-entry.ts'
import { checkResolver, checkRouter, checkSplitter } from './routing-entry-check.ts'

/** What is wrong with an entry that `normaliseConfigEntry` has seen; undefined when nothing is. */
export function checkConfigEntry(entry: ConfigEntry): string | undefined {
  switch (entry.kind) {
    case 'service-defaults':
      return checkServiceDefaults(entry)
    case 'proxy-defaults':
      return checkProxyDefaults(entry)
    case 'mesh':
      return checkMesh(entry)
    case 'exported-services':
      return checkExportedServices(entry)
    case 'service-intentions':
      return checkIntentions(entry)
    case 'service-resolver':
      return checkResolver(entry)
    case 'service-router':
      return checkRouter(entry)
    case 'service-splitter':
      return checkSplitter(entry)
    case 'jwt-provider':
      return several(metaProblems(entry.meta)) ?? checkJwtProvider(entry)
    default:
      return several(metaProblems(entry.meta)) ?? checkGatewayEntry(entry)
  }
}

/** As it is stored: protocols in lower case, methods in upper case, sources with their precedence and by it. */
export function normaliseConfigEntry<E extends ConfigEntry>(entry: E): E
export function normaliseConfigEntry(entry: ConfigEntry): ConfigEntry {
  if (entry.kind === 'proxy-defaults') return { ...entry, name: entry.name || 'global' }
  if (entry.kind === 'service-defaults') return entry.protocol ? { ...entry, protocol: entry.protocol.toLowerCase() } : entry
  if (entry.kind === 'service-router') return { ...entry, routes: entry.routes?.map(upperCasedRoute) }
  if (entry.kind === 'jwt-provider') return { ...entry, clockSkewSeconds: entry.clockSkewSeconds || defaultClockSkewSeconds }
  if (entry.kind !== 'service-intentions') return entry
  const sources = entry.sources.map(source => ({
    ...source,
    type: source.type || 'consul',
    precedence: precedenceOf(source.name, entry.name),
    permissions: source.permissions?.map(upperCased),
  }))
  return { ...entry, sources: sources.sort((a, b) => b.precedence - a.precedence) }
}

/** The name under which an entry is stored. A mesh entry has none of its own. */
export function configEntryName(entry: ConfigEntry): string {
  return entry.kind === 'mesh' ? 'mesh' : entry.name
}

function upperCased(permission: Permission): Permission {
  const methods = permission.http?.methods
  return methods ? { ...permission, http: { ...permission.http, methods: methods.map(method => method.toUpperCase()) } } : permission
}

function upperCasedRoute(route: Route): Route {
  const methods = route.match?.http?.methods
  if (!methods) return route
  return { ...route, match: { ...route.match, http: { ...route.match?.http, methods: methods.map(method => method.toUpperCase()) } } }
}

function checkMutualTls(mode: string | undefined): string | undefined {
  if (['', 'strict', 'permissive'].includes(mode ?? '')) return undefined
  return `Invalid MutualTLSMode ${JSON.stringify(mode)}. Must be one of "", "strict", or "permissive".`
}

const builtInExtensions = new Set(['lua', 'property-override', 'wasm', 'ext-authz'].map(name => `builtin/${name}`))

function* extensionProblems(extensions: ServiceDefaults['envoyExtensions']): Iterable<string> {
  for (const [i, { name }] of (extensions ?? []).entries()) {
    if (name === '') yield `invalid EnvoyExtensions[${i}]: Name is required`
    else if (!builtInExtensions.has(name))
      yield `invalid EnvoyExtensions[${i}][${name}]: name ${JSON.stringify(name)} is not a built-in extension`
  }
}

function checkServiceDefaults(entry: ServiceDefaults): string | undefined {
  if (entry.name === '') return 'Name is required'
  if (entry.name === '*') return 'service-defaults name must be the name of a service, and not a wildcard'
  return checkMutualTls(entry.mutualTlsMode) ?? several(serviceDefaultsProblems(entry))
}

function* serviceDefaultsProblems(entry: ServiceDefaults): Iterable<string> {
  yield* metaProblems(entry.meta)
  if (entry.upstreamConfig && entry.destination) {
    yield 'UpstreamConfig and Destination are mutually exclusive for service defaults'
    return
  }
  const balance = entry.balanceInboundConnections ?? ''
  if (balance !== '' && balance !== 'exact_balance') yield `invalid value for balance_inbound_connections: ${balance}`
  for (const override of entry.upstreamConfig?.overrides ?? []) {
    const problem = upstreamNameProblem(override.name ?? '') ?? several(upstreamProblems(override))
    if (problem !== undefined) yield `error in upstream override for ${override.name ?? ''}:${override.peer ?? ''}: ${problem}`
  }
  const defaults = entry.upstreamConfig?.defaults
  if (defaults) {
    const problem = defaults.name ? 'Name must be empty' : defaults.peer ? 'Peer must be empty' : several(upstreamProblems(defaults))
    if (problem !== undefined) yield `error in upstream defaults: ${problem}`
  }
  if (entry.destination) yield* destinationProblems(entry.destination)
  yield* extensionProblems(entry.envoyExtensions)
}

function upstreamNameProblem(name: string): string | undefined {
  if (name === '') return 'Name is required'
  return name === '*' ? 'Wildcard name is not supported' : undefined
}

type UpstreamSettings = NonNullable<NonNullable<ServiceDefaults['upstreamConfig']>['defaults']>

function* upstreamProblems({ limits, passiveHealthCheck: check, ...rest }: UpstreamSettings): Iterable<string> {
  if ((limits?.maxConnections ?? 0) < 0) yield 'max connections cannot be negative'
  if ((limits?.maxPendingRequests ?? 0) < 0) yield 'max pending requests cannot be negative'
  if ((limits?.maxConcurrentRequests ?? 0) < 0) yield 'max concurrent requests cannot be negative'
  if ((check?.intervalMs ?? 0) < 0) yield 'passive health check interval cannot be negative'
  if (!isPercentage(check?.enforcingConsecutive5xx)) {
    yield 'passive health check enforcing_consecutive_5xx must be a percentage between 0 and 100'
  }
  if (!isPercentage(check?.maxEjectionPercent)) yield 'passive health check max_ejection_percent must be a percentage between 0 and 100'
  if ((check?.baseEjectionTimeMs ?? 0) < 0) yield 'passive health check base_ejection_time cannot be negative'
  const balance = rest.balanceOutboundConnections ?? ''
  if (balance !== '' && balance !== 'exact_balance') yield `invalid value for balance_outbound_connections: ${balance}`
}

function isPercentage(value: number | undefined): boolean {
  return value === undefined || (value >= 0 && value <= 100)
}

function* destinationProblems({ addresses = [], port = 0 }: NonNullable<ServiceDefaults['destination']>): Iterable<string> {
  if (addresses.length === 0) yield 'Destination must contain at least one valid address'
  const seen = new Set<string>()
  for (const address of addresses) {
    if (seen.has(address)) yield `Duplicate address '${address}' is not allowed`
    seen.add(address)
    if (!/^[A-Za-z0-9:._-]+$/.test(address)) yield `Could not validate address ${address} as an IP or Hostname`
  }
  if (port < 1 || port > 65535) yield `Invalid Port number ${port}`
}

function checkProxyDefaults(entry: ProxyDefaults): string | undefined {
  if (entry.name !== 'global') return `invalid name (${JSON.stringify(entry.name)}), only "global" is supported`
  return (
    several(metaProblems(entry.meta)) ??
    checkMutualTls(entry.mutualTlsMode) ??
    checkAccessLogs(entry.accessLogs) ??
    several(extensionProblems(entry.envoyExtensions))
  )
}

function checkAccessLogs({ type = '', path = '', jsonFormat = '', textFormat = '' }: ProxyDefaults['accessLogs']): string | undefined {
  if (!['', 'file', 'stderr', 'stdout'].includes(type)) return `invalid access log type: ${type}`
  if (type === 'file' && path === '') return 'path must be specified when using file type access logs'
  if (type !== 'file' && path !== '') return 'path is only valid for file type access logs'
  if (jsonFormat !== '' && textFormat !== '') return 'cannot specify both access log JSONFormat and TextFormat'
  return undefined
}

const tlsVersions = ['TLS_AUTO', 'TLSv1_0', 'TLSv1_1', 'TLSv1_2', 'TLSv1_3']

function checkMesh(entry: Mesh): string | undefined {
  const meta = several(metaProblems(entry.meta))
  if (meta !== undefined) return meta
  for (const [name, direction] of Object.entries({ incoming: entry.tls?.incoming, outgoing: entry.tls?.outgoing })) {
    const problem = direction && checkTls(direction)
    if (problem !== undefined) return `error in ${name} TLS configuration: ${problem}`
  }
  return undefined
}

function checkTls({
  tlsMinVersion: min = '',
  tlsMaxVersion: max = '',
  cipherSuites = [],
}: NonNullable<NonNullable<Mesh['tls']>['incoming']>): string | undefined {
  for (const version of [min, max]) {
    if (version !== '' && !tlsVersions.includes(version))
      return `no such TLS version ${JSON.stringify(version)}; use one of ${tlsVersions.join(', ')}`
  }
  if (tlsVersions.indexOf(min) > 0 && tlsVersions.indexOf(max) > 0 && tlsVersions.indexOf(min) > tlsVersions.indexOf(max)) {
    return `TLSMinVersion ${min} is newer than TLSMaxVersion ${max}`
  }
  if (cipherSuites.length > 0 && min === 'TLSv1_3') {
    return `configuring CipherSuites is only applicable to connections negotiated with TLS 1.2 or earlier, TLSMinVersion is set to ${min}`
  }
  return undefined
}

function checkExportedServices(entry: ExportedServices): string | undefined {
  if (entry.name !== 'default') return 'exported-services Name must be "default"'
  const meta = several(metaProblems(entry.meta))
  if (meta !== undefined) return meta
  for (const [i, { name, consumers }] of entry.services.entries()) {
    if (name === '') return `Services[${i}]: service name cannot be empty`
    if (consumers.length === 0) return `Services[${i}]: must have at least one consumer`
    for (const [j, { peer, partition, samenessGroup }] of consumers.entries()) {
      const at = `Services[${i}].Consumers[${j}]`
      if ([peer, partition, samenessGroup].filter(Boolean).length > 1) {
        return `${at}: must define at most one of Peer, Partition, or SamenessGroup`
      }
      if (peer === '*') return `${at}: exporting to all peers (wildcard) is not supported`
      if (partition === '*') return `${at}: exporting to all partitions (wildcard) is not supported`
      if (samenessGroup) return `${at}: sameness-groups are an enterprise-only feature`
    }
  }
  return undefined
}

function isPartialWildcard(name: string): boolean {
  return name !== '*' && name.includes('*')
}

const partialWildcard = "wildcard character '*' cannot be used with partial values"

function checkIntentions(entry: ServiceIntentions): string | undefined {
  if (entry.name === '') return 'Name is required'
  if (isPartialWildcard(entry.name)) return `Name: ${partialWildcard}`
  const meta = several(metaProblems(entry.meta))
  if (meta !== undefined) return meta
  const requirements = [entry.jwt, ...entry.sources.flatMap(source => source.permissions ?? []).map(permission => permission.jwt)]
  const unnamed = requirements.flatMap(jwt => jwt?.providers ?? []).filter(provider => provider.name === '')
  if (unnamed.length > 0) return multiError(unnamed.map(() => 'JWT provider name is required'))
  if (entry.sources.length === 0) return 'At least one source is required'
  const seen = new Set<string>()
  for (const [i, source] of entry.sources.entries()) {
    const problem = checkSource(source, entry.name === '*')
    if (problem !== undefined) return `Sources[${i}]${problem}`
    const { name, peer } = source
    const who = peer ? `peer(${JSON.stringify(peer)}) ${JSON.stringify(name)}` : JSON.stringify(name)
    if (seen.has(who)) return `Sources[${i}] defines ${who} more than once`
    seen.add(who)
  }
  return undefined
}

/** The rest of the text after `Sources[i]`. */
function checkSource(source: ServiceIntentions['sources'][number], toAll: boolean): string | undefined {
  const { name, peer, action = '', permissions = [] } = source
  if (name === '') return '.Name is required'
  if (isPartialWildcard(name)) return `.Name: ${partialWildcard}`
  if (source.samenessGroup) return '.SamenessGroup: Sameness groups are a Consul Enterprise feature.'
  if (peer?.includes('*')) return ".Peer: cannot use wildcard '*' in peer"
  if (new TextEncoder().encode(source.description ?? '').length > metaLimits.valueLength)
    return `.Description exceeds maximum length ${metaLimits.valueLength}`
  if (source.type !== 'consul') return ".Type must be set to 'consul'"
  if (permissions.length === 0) return isAction(action) ? undefined : ".Action must be set to 'allow' or 'deny'"
  if (action !== '') return '.Action must be omitted if Permissions are specified'
  if (toAll) return '.Permissions cannot be specified on intentions with wildcarded destinations'
  for (const [j, permission] of permissions.entries()) {
    const problem = checkPermission(permission)
    if (problem !== undefined) return `.Permissions[${j}]${problem}`
  }
  return undefined
}

function isAction(action: string): boolean {
  return action === 'allow' || action === 'deny'
}

function checkPermission({ action, http }: Permission): string | undefined {
  if (!isAction(action)) return ".Action must be set to 'allow' or 'deny'"
  if (!http) return '.HTTP is required'
  const { pathExact, pathPrefix, pathRegex, header = [], methods = [] } = http
  if ([pathExact, pathPrefix, pathRegex].filter(Boolean).length > 1) {
    return '.HTTP should only contain at most one of PathExact, PathPrefix, or PathRegex'
  }
  const path = pathProblem(http)
  if (path !== undefined) return `.HTTP.${path}`
  for (const [k, match] of header.entries()) {
    const problem = headerProblem(match)
    if (problem !== undefined) return `.HTTP.Header[${k}] ${problem}`
  }
  const problem = methodsProblem(methods)
  if (problem !== undefined) return `.HTTP.${problem}`
  return pathExact || pathPrefix || pathRegex || header.length > 0 || methods.length > 0 ? undefined : '.HTTP should not be empty'
}
