/**
 * The agent's configuration: Consul's keys (spec/cli.md 4) from HCL, JSON or YAML files, the environment and flags, in that order of
 * increasing weight. One schema says what exists; an unknown key, a bad value or an unsafe address is an error that names the key
 * and what to do.
 */
import { BlockList, isIP } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'
import { parse as parseYaml } from 'yaml'
import * as z from 'zod'
import { MeshError, multiError } from '../lib/errors.ts'
import { logLevel } from '../lib/log.ts'
import { decode, duration, isObject } from '../lib/shape.ts'
import { CheckDefinition } from '../mesh/check.ts'
import { ServiceDefinition } from '../mesh/service.ts'
import { parseConfigFile, readConfigPath, type ConfigFile, type ConfigFormat } from './config-files.ts'

/** -1 closes the door, 0 takes any free port. */
const port = z.number().int().min(-1).max(65_535)
const address = z.string().refine(text => isIP(text) !== 0, 'must be an IP address')
const stringMap = z.record(z.string(), z.string())
const network = z.string().refine(text => parseNetwork(text) !== undefined, 'must be a network such as 10.0.0.0/8')
const maxStoredBytes = 700 * 1024

const DnsConfig = z.object({
  nodeTtlMs: duration('node_ttl').default(0),
  serviceTtlMs: z.record(z.string(), duration('ttl')).default({}).meta({ wire: 'service_ttl' }),
  onlyPassing: z.boolean().default(false),
  enableTruncate: z.boolean().default(false),
  udpAnswerLimit: z.number().int().min(1).default(3),
  aRecordLimit: z.number().int().min(0).default(0),
  disableCompression: z.boolean().default(false),
  recursorTimeoutMs: duration('recursor_timeout').default(2000),
  recursorStrategy: z.enum(['sequential', 'random']).default('sequential'),
  enableAdditionalNodeMetaTxt: z.boolean().default(true),
  soa: z
    .object({
      refresh: z.number().int().default(3600),
      retry: z.number().int().default(600),
      expire: z.number().int().default(86_400),
      minTtl: z.number().int().default(0),
    })
    .prefault({}),
})
export type DnsConfig = z.infer<typeof DnsConfig>

const FileConfig = z.object({
  datacenter: z
    .string()
    .toLowerCase()
    .regex(/^[a-z0-9_-]{1,63}$/, 'must be letters, digits, - and _')
    .default('dc1'),
  nodeName: z
    .string()
    .regex(/^[A-Za-z0-9.-]{1,128}$/, 'must be letters, digits, - and .')
    .optional(),
  nodeId: z.string().optional(),
  nodeMeta: stringMap.default({}),
  dataDir: z.string().optional(),
  bindAddr: address.optional(),
  clientAddr: address.default('127.0.0.1'),
  advertiseAddr: address.optional(),
  advertiseAddrWan: address.optional(),
  /** Told to peers, with this server's node and with each token and stream (peering-wire.md 1, 5.1). */
  locality: z
    .object({ region: z.string().default(''), zone: z.string().default('') })
    .refine(({ region, zone }) => region !== '' || zone === '', 'zone cannot be set without region')
    .optional(),
  addresses: z
    .object({
      http: z.union([address, z.string().startsWith('unix:///', 'must be an IP address or unix:///path')]).optional(),
      dns: address.optional(),
      grpc: address.optional(),
      grpcTls: address.optional(),
    })
    .prefault({}),
  ports: z
    .object({
      http: port.default(8500),
      dns: port.default(8600),
      grpc: port.optional(),
      grpcTls: port.default(8503),
      sidecarMinPort: port.default(21_000),
      sidecarMaxPort: port.default(21_255),
    })
    .prefault({}),
  domain: z.string().default('consul.'),
  altDomain: z.string().optional(),
  recursors: z.array(z.string()).default([]),
  dnsConfig: DnsConfig.prefault({}),
  peering: z.object({ enabled: z.boolean().default(true), allowPlaintext: z.boolean().default(false) }).prefault({}),
  connect: z.object({ enabled: z.boolean().default(true), caConfig: z.record(z.string(), z.unknown()).default({}) }).prefault({}),
  /** What an intention that nobody wrote says to a caller of this cluster. Peers are denied by default, always. */
  defaultIntentionPolicy: z.enum(['allow', 'deny']).default('allow'),
  service: ServiceDefinition.optional(),
  services: z.array(ServiceDefinition).default([]),
  check: CheckDefinition.optional(),
  checks: z.array(CheckDefinition).default([]),
  configEntries: z.object({ bootstrap: z.array(z.record(z.string(), z.unknown())).default([]) }).prefault({}),
  checkUpdateIntervalMs: duration('check_update_interval').default(300_000),
  httpConfig: z
    .object({
      /** Names, besides addresses and localhost, that a request's Host may carry. */
      allowedHosts: z.array(z.string()).default([]),
      responseHeaders: stringMap.default({}),
      blockEndpoints: z.array(z.string()).default([]),
      /** Networks from which the API may be written to; anyone who reaches it unless told. */
      allowWriteHttpFrom: z.array(network).default([]),
      /** False: `?cached` is read from the tables like everything else, and said so. */
      useCache: z.boolean().default(true),
    })
    .prefault({}),
  limits: z
    .object({
      httpMaxConnsPerClient: z.number().int().min(1).max(1_000_000).default(200),
      // A value travels as base64 in one transaction of the store, which holds a mebibyte.
      kvMaxValueSize: z.number().int().min(1).max(maxStoredBytes).default(524_288).meta({ wire: 'kv_max_value_size' }),
      txnMaxReqLen: z.number().int().min(1).max(maxStoredBytes).default(524_288),
    })
    .prefault({}),
  /** Reads of catalog and health say that they may be stale unless they ask for something else. */
  discoveryMaxStaleMs: duration('discovery_max_stale').default(0),
  /** Only ever tells other datacenters about WAN addresses, and this cluster has none; clients are told that it is on. */
  translateWanAddrs: z.boolean().default(false),
  logLevel: z
    .string()
    .refine(text => logLevel(text) !== undefined, 'must be one of trace, debug, info, warn, err')
    .default('info'),
  /** ACLs are not there yet: without them, a client address beyond loopback is open to whoever reaches it. */
  allowUnauthenticatedClients: z.boolean().default(false),
  /** Consul's `server = true`; every agent of this version is a server. */
  server: z.boolean().default(true),
})
type FileConfig = z.infer<typeof FileConfig>

/** Keys of Consul that a file may have though they change nothing; each is warned of. Any other unknown key is an error. */
const withoutMeaning: Record<string, string> = {
  bootstrap: 'every agent is a server and a cluster of its own',
  bootstrap_expect: 'every agent is a server and a cluster of its own',
  autopilot: 'there is no raft',
  raft_protocol: 'there is no raft',
  raft_logstore: 'there is no raft',
  performance: 'there is no raft',
  leave_on_terminate: 'there is no gossip to leave',
  skip_leave_on_interrupt: 'there is no gossip to leave',
  rejoin_after_leave: 'there is no gossip to leave',
  rpc: 'there is no RPC between servers',
  use_streaming_backend: 'reads are always streamed from memory',
  ui: 'there is no web UI',
  ui_config: 'there is no web UI',
  enable_debug: 'there are no debug endpoints',
  telemetry: 'metrics are always there, in the form of Prometheus',
  log_json: 'logs are always JSON',
  disable_host_node_id: 'node ids are random',
  disable_remote_exec: 'there is no remote execution',
  disable_update_check: 'updates are never looked for',
}

/** The configuration as the agent runs it: everything decided. */
export interface AgentConfig extends Omit<
  FileConfig,
  'service' | 'check' | 'nodeName' | 'bindAddr' | 'advertiseAddr' | 'advertiseAddrWan' | 'addresses' | 'ports'
> {
  nodeName: string
  /** Undefined in --dev: the store lies in a temporary directory that goes with the agent. */
  dataDir: string | undefined
  advertiseAddr: string
  advertiseAddrWan: string
  /** Where each door listens; undefined where it is closed. */
  doors: {
    http: { host: string; port: number } | { socketPath: string } | undefined
    dns: { host: string; port: number } | undefined
    grpc: { host: string; port: number } | undefined
    grpcTls: { host: string; port: number } | undefined
  }
  sidecarPorts: { min: number; max: number }
  dev: boolean
  /** What of the files was passed over. */
  warnings: string[]
}

export interface ConfigSources {
  /** Files, and directories whose .hcl, .json, .yaml and .yml files are read in alphabetical order. */
  files?: string[]
  /** What a file is whose name does not say it. */
  format?: ConfigFormat
  /** Fragments of HCL, as `-hcl` gives them; they come after the files. */
  hcl?: string[]
  /** The environment; ISTHMUS_AGENT_<KEY> sets a scalar, nested keys joined by one underscore (ISTHMUS_AGENT_PORTS_HTTP). */
  env?: Record<string, string | undefined>
  /** Flags, as a fragment of the file's own form. Wins over everything. */
  flags?: Record<string, unknown>
  dev?: boolean
}

/** Reads, merges and checks every source. */
export function loadConfig(sources: ConfigSources): AgentConfig {
  const warnings: string[] = []
  const files = [
    ...(sources.files ?? []).flatMap(path => readConfigPath(path, sources.format)),
    ...(sources.hcl ?? []).map((text, i) => parseConfigFile(text, `flags-${i}.hcl`, 'hcl')),
  ]
  const fragments = [...files.map(file => checked(file, warnings)), environmentFragment(sources.env ?? {}), sources.flags ?? {}]
  const decoded = decode(FileConfig, fragments.reduce<Record<string, unknown>>(merge, {}), { blocks: true })
  if (!decoded.ok) {
    const lines = decoded.issues.map(issue =>
      issue.unknownKey === undefined ? `${snakePath(issue.path)}: ${issue.message}` : `invalid config key ${snakePath(issue.path)}`,
    )
    throw new MeshError(
      'invalid',
      `${lines.length} error(s) in the configuration:\n\t* ${lines.join('\n\t* ')}\nSee "Agent configuration" in the README for every key.`,
    )
  }
  return { ...settle(decoded.value, sources.dev ?? false), warnings }
}

function settle(file: FileConfig, dev: boolean): Omit<AgentConfig, 'warnings'> {
  if (!dev && file.dataDir === undefined) {
    throw new MeshError(
      'invalid',
      'data_dir cannot be empty; set data_dir (or --data-dir) to a directory that survives restarts, or use --dev to try things out',
    )
  }
  if (!file.server) throw new MeshError('unsupported', 'server: every agent of this version is a server; leave the key out')
  const bind = file.bindAddr ?? (dev ? '127.0.0.1' : '0.0.0.0')
  const advertise = file.advertiseAddr ?? (isWildcard(bind) ? firstPrivateAddress() : bind)
  const http = file.addresses.http ?? file.clientAddr
  const grpc = file.addresses.grpc ?? file.clientAddr
  for (const [key, host] of [
    ['client_addr', file.clientAddr],
    ['addresses.http', http],
    ['addresses.grpc', grpc],
  ] as const) {
    if (!file.allowUnauthenticatedClients && !isLoopback(host)) {
      throw new MeshError(
        'invalid',
        `${key} ${host} is not a loopback address, and without ACLs anyone who reaches it could drive this cluster; set allow_unauthenticated_clients (or --allow-unauthenticated-clients) if the network itself keeps others out`,
      )
    }
  }
  const door = (host: string, number: number) => (number === -1 ? undefined : { host, port: number })
  const { service, check, bindAddr: _bind, addresses: _addresses, ports, ...rest } = file
  return {
    ...rest,
    dev,
    nodeName: file.nodeName ?? hostname(),
    dataDir: dev && file.dataDir === undefined ? undefined : file.dataDir,
    advertiseAddr: advertise,
    advertiseAddrWan: file.advertiseAddrWan ?? advertise,
    services: service ? [service, ...file.services] : file.services,
    checks: check ? [check, ...file.checks] : file.checks,
    doors: {
      http: http.startsWith('unix://') ? { socketPath: http.slice('unix://'.length) } : door(http, ports.http),
      dns: door(file.addresses.dns ?? file.clientAddr, ports.dns),
      grpc: door(grpc, ports.grpc ?? (dev ? 8502 : -1)),
      // Peers must reach this door; it proves itself by TLS and asks for a secret, so it follows bind_addr and not client_addr.
      grpcTls: door(file.addresses.grpcTls ?? bind, ports.grpcTls),
    },
    sidecarPorts: { min: ports.sidecarMinPort, max: ports.sidecarMaxPort },
  }
}

/** A block that stands for a list of one, so that the blocks of several files make one list. */
const lists = ['services', 'checks']

/** Names the file that has an unknown key, which the whole of all files could not. */
function checked({ path, value }: ConfigFile, warnings: string[]): Record<string, unknown> {
  const out = { ...value }
  for (const [key, why] of Object.entries(withoutMeaning)) {
    if (!(key in out)) continue
    warnings.push(`${path}: ${key} has no meaning here: ${why}`)
    delete out[key]
  }
  const decoded = decode(FileConfig, out, { blocks: true })
  const unknown = decoded.ok ? [] : decoded.issues.filter(issue => issue.unknownKey !== undefined)
  if (unknown.length > 0) {
    const lines = unknown.map(({ path: key }) => `invalid config key ${snakePath(key)}`)
    throw new MeshError('invalid', `failed to parse ${path}: ${multiError(lines)}`)
  }
  for (const key of lists) if (isObject(out[key])) out[key] = [out[key]]
  return out
}

const environmentPrefix = 'ISTHMUS_AGENT_'

/** Scalars only; the value is read as YAML, so `true` and `8500` are what they look like. */
function environmentFragment(env: Record<string, string | undefined>): Record<string, unknown> {
  const fragment: Record<string, unknown> = {}
  const nested = ['PORTS', 'ADDRESSES', 'PEERING', 'CONNECT', 'DNS_CONFIG', 'HTTP_CONFIG']
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith(environmentPrefix) || text === undefined) continue
    const key = name.slice(environmentPrefix.length)
    const parent = nested.find(each => key.startsWith(`${each}_`))
    const value: unknown = parseYaml(text)
    if (parent)
      fragment[parent.toLowerCase()] = {
        ...(fragment[parent.toLowerCase()] as object),
        [key.slice(parent.length + 1).toLowerCase()]: value,
      }
    else fragment[key.toLowerCase()] = value
  }
  return fragment
}

/** Consul's rule: later scalars win, lists grow, maps merge. */
function merge(base: Record<string, unknown>, over: Record<string, unknown>): Record<string, unknown> {
  const out = { ...base }
  for (const [key, value] of Object.entries(over)) {
    const before = out[key]
    if (Array.isArray(before) && Array.isArray(value)) out[key] = [...(before as unknown[]), ...(value as unknown[])]
    else if (isObject(before) && isObject(value)) out[key] = merge(before, value)
    else out[key] = value
  }
  return out
}

/** `HTTPConfig.UseCache` as the file spells it: lower case with underscores. */
function snakePath(path: string): string {
  return path
    .replaceAll('GRPCTLS', 'GRPC_TLS')
    .replaceAll(/([A-Z])([A-Z][a-z])/g, '$1_$2')
    .replaceAll(/([a-z0-9])([A-Z])/g, '$1_$2')
    .toLowerCase()
}

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8)
loopback.addAddress('::1', 'ipv6')

function isLoopback(host: string): boolean {
  return host.startsWith('unix://') || (isIP(host) !== 0 && loopback.check(host, isIP(host) === 6 ? 'ipv6' : 'ipv4'))
}

function isWildcard(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}

const privateRanges = new BlockList()
privateRanges.addSubnet('10.0.0.0', 8)
privateRanges.addSubnet('172.16.0.0', 12)
privateRanges.addSubnet('192.168.0.0', 16)

/** What Consul advertises when it is bound to everything; loopback where there is no private address. */
function firstPrivateAddress(): string {
  const all = Object.values(networkInterfaces()).flatMap(each => each ?? [])
  return all.find(each => each.family === 'IPv4' && privateRanges.check(each.address))?.address ?? '127.0.0.1'
}

/** An address and the bits of it that count. */
export function parseNetwork(text: string): { address: string; bits: number; family: 'ipv4' | 'ipv6' } | undefined {
  const match = /^([0-9a-fA-F.:]+)\/(\d{1,3})$/.exec(text)
  const version = match ? isIP(match[1]!) : 0
  if (!match || version === 0 || Number(match[2]) > (version === 6 ? 128 : 32)) return undefined
  return { address: match[1]!, bits: Number(match[2]), family: version === 6 ? 'ipv6' : 'ipv4' }
}
