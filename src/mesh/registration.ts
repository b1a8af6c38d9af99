/**
 * What may be registered: the rules for services, their upstreams and their checks that a schema cannot say, with Consul's texts
 * (spec/http-api.md 3, data-plane.md 11). Nothing here changes what it looks at.
 */
import { multiError } from '../lib/errors.ts'
import type { CheckDefinition } from './check.ts'
import type { ExposePath } from './proxy-settings.ts'
import type { NodeService, ServiceDefinition, Upstream } from './service.ts'

const gatewayKinds = new Set(['mesh-gateway', 'terminating-gateway', 'ingress-gateway', 'api-gateway'])

/** What is wrong with an instance, as one text; undefined when nothing is. */
export function checkNodeService(service: NodeService, sidecar?: SidecarDefinition): string | undefined {
  const problems: string[] = [...checkPorts(service)]
  if (service.kind === 'connect-proxy') problems.push(...checkProxy(service))
  if (gatewayKinds.has(service.kind ?? '')) problems.push(...checkGateway(service, sidecar))
  if (sidecar?.id) problems.push('A SidecarService cannot specify an ID as this is managed by the agent')
  if (sidecar?.connect?.sidecarService) problems.push('A SidecarService cannot have a nested SidecarService')
  if (service.connect.native && !service.port && !service.socketPath) {
    problems.push('Port or SocketPath must be set for a Connect native service.')
  }
  return problems.length > 0 ? multiError(problems) : undefined
}

/** Consul keeps any number; nobody could listen there or dial it. */
function* checkPorts({ port, proxy }: NodeService): Iterable<string> {
  const named: [string, number | undefined][] = [
    ['Port', port],
    ['Proxy.LocalServicePort', proxy.localServicePort],
    ...(proxy.upstreams ?? []).map((each): [string, number | undefined] => [
      `LocalBindPort of upstream ${each.destinationName}`,
      each.localBindPort,
    ]),
    ...(proxy.expose.paths ?? []).map((each): [string, number | undefined] => [`LocalPathPort of ${each.path}`, each.localPathPort]),
  ]
  for (const [name, value] of named) {
    if (value !== undefined && (value < 0 || value > 65_535)) yield `${name} must be a port, 1 to 65535, and is ${value}`
  }
}

type SidecarDefinition = NonNullable<NonNullable<ServiceDefinition['connect']>['sidecarService']>

function* checkProxy(service: NodeService): Iterable<string> {
  const { proxy } = service
  const destination = proxy.destinationServiceName ?? ''
  if (destination.trim() === '') yield 'Proxy.DestinationServiceName must be non-empty for Connect proxy services'
  if (destination === '*') yield 'Proxy.DestinationServiceName must not be a wildcard for Connect proxy services'
  if (!service.port && !service.socketPath) yield `Port or SocketPath must be set for a ${service.kind}`
  if (service.connect.native) yield 'A Proxy cannot also be Connect Native, only typical services'
  yield* checkUpstreams(proxy.upstreams ?? [])
  yield* checkExposed(proxy.expose.paths ?? [])
}

function* checkUpstreams(upstreams: readonly Upstream[]): Iterable<string> {
  const destinations = new Set<string>()
  const addresses = new Set<string>()
  for (const upstream of upstreams) {
    const problem = checkUpstream(upstream)
    if (problem !== undefined) yield problem
    const destination = upstreamKey(upstream)
    if (destinations.has(destination)) {
      yield `upstreams cannot contain duplicates of ${destination}`
      continue
    }
    destinations.add(destination)
    const address = upstream.localBindSocketPath || `${upstream.localBindAddress || '127.0.0.1'}:${upstream.localBindPort ?? 0}`
    if (addresses.has(address)) {
      yield `upstreams cannot contain duplicates by local bind address and port or unix path; ${JSON.stringify(address)} is specified twice`
    }
    addresses.add(address)
  }
}

function upstreamKey({ destinationType, destinationName, destinationPeer, datacenter }: Upstream): string {
  const text = (value: string | undefined) => JSON.stringify(value ?? '')
  const [type, name, peer] = [text(destinationType || 'service'), text(destinationName), text(destinationPeer)]
  return `[type=${type}, name=${name}, partition="", namespace="", peer=${peer}, datacenter=${text(datacenter)}]`
}

function checkUpstream(upstream: Upstream): string | undefined {
  const { destinationType, destinationName, localBindPort, localBindSocketPath } = upstream
  if (!['', 'service', 'prepared_query'].includes(destinationType))
    return `unknown upstream destination type: ${JSON.stringify(destinationType)}`
  if (destinationName === '') return 'upstream destination name cannot be empty'
  if (destinationName === '*') return 'upstream destination name cannot be a wildcard'
  if (upstream.destinationPeer && upstream.datacenter) return 'upstream cannot specify both destination peer and datacenter'
  if (!localBindPort && !localBindSocketPath) return 'upstream local bind port or local socket path must be defined and nonzero'
  if (localBindPort && localBindSocketPath) return 'only one of upstream local bind port or local socket path can be defined and nonzero'
  return undefined
}

function* checkExposed(paths: readonly ExposePath[]): Iterable<string> {
  const seenPaths = new Set<string>()
  const seenPorts = new Set<number>()
  for (const { path, listenerPort, protocol = '' } of paths) {
    if (path === '') yield 'expose.paths: empty path exposed'
    if (seenPaths.has(path)) yield 'expose.paths: duplicate paths exposed'
    seenPaths.add(path)
    if (seenPorts.has(listenerPort)) yield 'expose.paths: duplicate listener ports exposed'
    seenPorts.add(listenerPort)
    if (listenerPort <= 0 || listenerPort > 65535) yield `expose.paths: invalid listener port: ${listenerPort}`
    if (!['', 'http', 'http2'].includes(protocol.toLowerCase())) {
      yield `protocol '${protocol.toLowerCase()}' not supported for path: ${path}, must be in: [http http2]`
    }
  }
}

function* checkGateway(service: NodeService, sidecar: SidecarDefinition | undefined): Iterable<string> {
  const { kind, proxy } = service
  if (!service.port && kind !== 'ingress-gateway' && kind !== 'api-gateway') yield `Port must be non-zero for a ${kind}`
  if (sidecar) yield `A ${kind} cannot have a sidecar service defined`
  const refused: [string, unknown][] = [
    ['DestinationServiceName', proxy.destinationServiceName],
    ['DestinationServiceID', proxy.destinationServiceId],
    ['LocalServiceAddress', proxy.localServiceAddress],
    ['LocalServicePort', proxy.localServicePort],
    ['LocalServiceSocketPath', proxy.localServiceSocketPath],
    ['Upstreams', proxy.upstreams?.length],
  ]
  for (const [name, value] of refused) if (value) yield `The Proxy.${name} configuration is invalid for a ${kind}`
}

/** The wildcard addresses, which nobody can dial. */
export function isAnyAddress(address: string): boolean {
  if (address === '0.0.0.0') return true
  return /^[0:]+$/.test(address) && address.includes(':')
}

export function checkWeights({ passing, warning }: { passing: number; warning?: number }): string | undefined {
  if (passing < 1) return 'Passing must be greater than 0'
  if ((warning ?? 0) < 0) return 'Warning must be greater or equal than 0'
  if (passing > 65535 || (warning ?? 0) > 65535) return 'DNS Weight must be between 0 and 65535'
  return undefined
}

const metaLimits = { pairs: 64, keyLength: 128, valueLength: 512 } as const

/** Meta of services, nodes and peerings. `allowed` are keys under the reserved prefix that this one may use. */
export function checkMeta(meta: Record<string, string>, allowed: readonly string[] = []): string | undefined {
  const pairs = Object.entries(meta)
  if (pairs.length > metaLimits.pairs) return `Node metadata cannot contain more than ${metaLimits.pairs} key/value pairs`
  for (const [key, value] of pairs) {
    const problem = checkMetaPair(key, value, allowed)
    if (problem !== undefined) return `Couldn't load metadata pair ('${key}', '${value}'): ${problem}`
  }
  return undefined
}

function checkMetaPair(key: string, value: string, allowed: readonly string[]): string | undefined {
  if (key === '') return 'Key cannot be blank'
  if (!/^[a-zA-Z0-9_-]+$/.test(key)) return 'Key contains invalid characters'
  if (key.length > metaLimits.keyLength) return `Key is too long (limit: ${metaLimits.keyLength} characters)`
  if (key.startsWith('consul-') && !allowed.includes(key)) return "Key prefix 'consul-' is reserved for internal use"
  if (value.length > metaLimits.valueLength) return `Value is too long (limit: ${metaLimits.valueLength} characters)`
  return undefined
}

const statuses = new Set(['passing', 'warning', 'critical'])

export function isCheckStatus(status: string): boolean {
  return statuses.has(status)
}

/** Kinds of check that Consul knows and this agent does not run, by the member that asks for one. */
const refusedChecks: [(check: CheckDefinition) => unknown, string][] = [
  [
    check => check.args?.length || check.scriptArgs?.length || check.shell,
    'Script checks are not supported: no agent of this mesh runs commands; use an HTTP, TCP or TTL check',
  ],
  [check => check.dockerContainerId, 'Docker checks are not supported: no agent of this mesh runs commands; use an HTTP, TCP or TTL check'],
  [check => check.osService, 'OSService checks are not supported; use an HTTP, TCP or TTL check'],
  [check => check.grpc, 'gRPC checks are not supported; use an HTTP, TCP or TTL check'],
  [check => check.h2ping, 'H2PING checks are not supported; use an HTTP, TCP or TTL check'],
  [check => check.udp, 'UDP checks are not supported; use an HTTP, TCP or TTL check'],
]

export function isAliasCheck(check: CheckDefinition): boolean {
  return Boolean(check.aliasNode || check.aliasService)
}

/** Why a check cannot be run, without the "Invalid check: " that doors put before it. */
export function checkCheck(check: CheckDefinition): string | undefined {
  const polled = Boolean(check.http || check.tcp || refusedChecks.some(([asks]) => asks(check)))
  const interval = check.intervalMs ?? 0
  const ttl = check.ttlMs ?? 0
  if (interval > 0 && ttl > 0) return 'Interval and TTL cannot both be specified'
  if (polled && interval <= 0) return 'Interval must be > 0 for Script, HTTP, H2PING, TCP, UDP or OSService checks'
  if (polled && isAliasCheck(check)) return 'Interval cannot be set for Alias checks'
  if (isAliasCheck(check) && ttl > 0) return 'TTL must be not be set for Alias checks'
  if (!polled && !isAliasCheck(check) && ttl <= 0) return 'TTL must be > 0 for TTL checks'
  if ((check.outputMaxSize ?? 0) < 0) return 'MaxOutputMaxSize must be positive'
  if ((check.failuresBeforeWarning ?? 0) > (check.failuresBeforeCritical ?? 0)) {
    return "FailuresBeforeWarning can't be higher than FailuresBeforeCritical"
  }
  return refusedChecks.find(([asks]) => asks(check))?.[1]
}

/** Why a definition cannot be registered with an agent; the text that the door answers with (all 400). */
export function checkServiceDefinition(definition: ServiceDefinition): string | undefined {
  if (definition.name === '') return 'Missing service name'
  if (isAnyAddress(definition.address ?? '')) return 'Invalid service address'
  const weights = definition.weights && checkWeights(definition.weights)
  if (weights !== undefined) return `Invalid Weights: ${weights}`
  const meta = checkMeta(definition.meta ?? {}, definition.kind === 'mesh-gateway' ? ['consul-wan-federation'] : [])
  if (meta !== undefined) return `Invalid Service Meta: ${meta}`
  const problem = checkNodeService(nodeServiceOf(definition), definition.connect?.sidecarService)
  if (problem !== undefined) return `Validation failed: ${problem}`
  return checkChecks(definition, 'check') ?? checkChecks(definition.connect?.sidecarService ?? {}, 'check in sidecar_service')
}

function checkChecks(definition: { check?: CheckDefinition; checks?: CheckDefinition[] }, what: string): string | undefined {
  const checks = definedChecks(definition)
  for (const check of checks) {
    const problem = checkCheck(check)
    if (problem !== undefined) return `Invalid ${what}: ${problem}`
  }
  if (checks.some(check => check.status && !isCheckStatus(check.status))) return "Status for checks must 'passing', 'warning', 'critical'"
  return undefined
}

/** `Check` first, then `Checks`: the order in which they are numbered. */
export function definedChecks(definition: { check?: CheckDefinition; checks?: CheckDefinition[] }): CheckDefinition[] {
  const { check = {}, checks = [] } = definition
  // Consul's clients send an empty Check where none was given.
  return Object.values(check).some(Boolean) ? [check, ...checks] : checks
}

/** The instance that a definition describes, defaults filled in, without what only an agent or a catalog can know. */
export function nodeServiceOf(definition: Omit<ServiceDefinition, 'connect'> & { connect?: { native?: boolean } }): NodeService {
  return {
    kind: definition.kind || undefined,
    id: definition.id || definition.name,
    service: definition.name,
    tags: definition.tags ?? [],
    address: definition.address ?? '',
    taggedAddresses: definition.taggedAddresses,
    meta: definition.meta ?? null,
    port: definition.port || undefined,
    socketPath: definition.socketPath || undefined,
    weights: { passing: definition.weights?.passing ?? 1, warning: definition.weights?.warning ?? (definition.weights ? 0 : 1) },
    enableTagOverride: definition.enableTagOverride ?? false,
    proxy: definition.proxy ?? { mode: '', meshGateway: {}, expose: {} },
    connect: definition.connect?.native ? { native: true } : {},
    peerName: '',
    locality: definition.locality,
    createIndex: 0,
    modifyIndex: 0,
  }
}
