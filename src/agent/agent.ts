/**
 * The agent: the wiring diagram of the control plane. Each part is made once, in the order in which it depends on the others, and
 * closed in the opposite order. Nothing else in the agent makes a part.
 */
import { randomUUID } from 'node:crypto'
import { hostPort } from '../lib/address.ts'
import { systemClock, type Clock } from '../lib/clock.ts'
import { Closing } from '../lib/closing.ts'
import { MeshError } from '../lib/errors.ts'
import { createLogger, logLevel, LogTap, type Logger } from '../lib/log.ts'
import { createRegistry } from '../lib/metrics.ts'
import { version } from '../lib/version.ts'
import { parseConfigEntry } from '../mesh/config-entry.ts'
import type { Node } from '../mesh/node.ts'
import { CertificateAuthority } from './ca/authority.ts'
import { Backup } from './catalog/backup.ts'
import { Catalog } from './catalog/catalog.ts'
import { ConfigEntries } from './catalog/config-entries.ts'
import { KvStore } from './catalog/kv.ts'
import { LockDelays } from './catalog/lock-delays.ts'
import { ConfiguredServices } from './catalog/configured-services.ts'
import { LocalAgent } from './catalog/local-agent.ts'
import { Queries } from './catalog/queries.ts'
import { Sessions } from './catalog/sessions.ts'
import { Tables } from './catalog/tables.ts'
import { Transactions } from './catalog/transactions.ts'
import { loadConfig, type AgentConfig, type ConfigSources } from './config.ts'
import { startDnsDoor } from './dns/server.ts'
import { startGrpcDoor } from './grpc/server.ts'
import { Coordinates } from './http/coordinate.ts'
import { UserEvents } from './http/event.ts'
import { AutopilotSettings } from './http/operator.ts'
import { consulVersion, type AgentParts } from './http/parts.ts'
import { startHttpDoor, type HttpDoorOptions } from './http/server.ts'
import { Peerings, type PeeringsOptions } from './peering/peerings.ts'
import { Snapshots } from './snapshots/snapshots.ts'
import { openEmbeddedStore } from './store/embedded.ts'
import type { Store } from './store/store.ts'

export interface AgentOptions {
  logger?: Logger
  clock?: Clock
}

/** A running agent. Ports are those that were really taken; undefined where a door is closed. */
export interface Agent {
  readonly config: AgentConfig
  /** `http://host:port`, or `unix:///path`. */
  readonly httpUrl: string
  readonly dnsPort: number | undefined
  readonly grpcTlsPort: number | undefined
  /** Resolves when a client has asked this agent to leave; whoever runs it then closes it. */
  readonly left: Promise<void>
  close(): Promise<void>
}

/** Reads the configuration, opens the store and starts every door. Fails with a MeshError that says what to change. */
export async function startAgent(sources: ConfigSources, options: AgentOptions = {}): Promise<Agent> {
  const config = loadConfig(sources)
  const logs = options.logger ? undefined : new LogTap()
  const logger = options.logger ?? createLogger({ level: config.logLevel, ...(logs && { stream: logs }) })
  warnOf(config, logger)
  const wiring = { ...options, logger, ...(logs && { logs }), reread: () => loadConfig(sources) }
  const { parts, grpcTlsPort, left, closing } = await wireAgent(config, wiring)
  try {
    const { dns, http } = config.doors
    let dnsPort: number | undefined
    if (dns) {
      const { tables, metrics, peerings, queries } = parts
      const freshness = (peer: string, service: string) => peerings.freshness(peer, service)
      const query = (nameOrId: string) => queries.answer(nameOrId)
      const { datacenter } = config
      const door = await startDnsDoor({ address: dns.host, port: dns.port, tables, config, datacenter, freshness, query, logger, metrics })
      dnsPort = closing.keep(door, each => each.close()).port
      parts.config.ports.dns = dnsPort
    }
    let httpUrl = ''
    if (http) {
      const door = await startHttpDoor({ listen: http, agent: parts, logger, ...httpOptions(config) })
      const { port } = closing.keep(door, each => each.close())
      parts.config.ports.http = port
      httpUrl = 'socketPath' in http ? `unix://${http.socketPath}` : `http://${hostPort(http.host, port)}`
    }
    const facts = { datacenter: config.datacenter, node: config.nodeName, http: httpUrl, dns: dnsPort, grpcTls: grpcTlsPort }
    logger.info({ ...facts, trustDomain: parts.ca.trustDomain }, 'agent is up')
    return { config, httpUrl, dnsPort, grpcTlsPort, left, close: () => closing.close() }
  } catch (error) {
    await closing.close()
    throw error
  }
}

function warnOf(config: AgentConfig, logger: Logger): void {
  for (const warning of config.warnings) logger.warn({ warning }, 'part of the configuration was passed over')
}

/** What the configuration says of the HTTP door. */
export function httpOptions(config: AgentConfig): Pick<HttpDoorOptions, 'config' | 'limits'> {
  const { httpConfig, translateWanAddrs, discoveryMaxStaleMs, limits } = config
  return {
    config: { ...httpConfig, translateWanAddrs, staleDiscovery: discoveryMaxStaleMs > 0 },
    limits: {
      connectionsPerClient: limits.httpMaxConnsPerClient,
      kvValueBytes: limits.kvMaxValueSize,
      txnBytes: Math.max(limits.txnMaxReqLen, limits.kvMaxValueSize),
    },
  }
}

/** An agent without its HTTP and DNS doors. */
export interface WiredAgent {
  parts: AgentParts
  store: Store
  grpcTlsPort: number | undefined
  left: Promise<void>
  closing: Closing
}

interface WiringOptions extends AgentOptions {
  logger: Logger
  /** What the logger writes to, for those who watch the log. */
  logs?: LogTap
  /** Reads the configuration again; without it a reload registers what is known once more. */
  reread?: () => AgentConfig
}

/** Makes the parts; peers can reach it, clients cannot yet. */
export async function wireAgent(config: AgentConfig, options: WiringOptions): Promise<WiredAgent> {
  const { logger, clock = systemClock } = options
  const { datacenter } = config
  const closing = new Closing()
  try {
    const metrics = closing.keep(createRegistry('agent'), each => each.clear())
    const data = await openData(config, { logger, clock }, closing)
    const { store, tables, catalog, sessions } = data
    const clusterId = config.connect.caConfig['cluster_id']
    const ca = closing.keep(
      await CertificateAuthority.open({
        store,
        tables,
        datacenter,
        clock,
        logger,
        clusterId: typeof clusterId === 'string' ? clusterId : undefined,
      }),
      each => each.close(),
    )
    const { peerings, grpcTlsPort } = await openPeering(config, { store, tables, catalog, ca, datacenter, clock, logger, metrics }, closing)

    const node = ownNode(config, tables)
    const localAgent = new LocalAgent({
      store,
      tables,
      catalog,
      node,
      clock,
      logger,
      sidecarPorts: config.sidecarPorts,
      serverService: {
        port: 8300,
        meta: serverMeta(grpcTlsPort),
      },
      checkUpdateIntervalMs: config.checkUpdateIntervalMs,
    })
    closing.keep(localAgent, each => each.close())
    await localAgent.start()
    await bootstrap(config, data.configEntries, tables)
    const files = new ConfiguredServices(localAgent)
    await files.apply(config)
    await sessions.start()
    const peers = config.peering.enabled && config.connect.enabled
    if (peers) await peerings.start()

    const snapshots = new Snapshots({
      tables,
      ca,
      node: config.nodeName,
      datacenter,
      defaultAction: config.defaultIntentionPolicy,
      clock,
      logger,
    })
    const facts = factsOf(config, node, grpcTlsPort, clock)
    const memory = { events: new UserEvents(), coordinates: new Coordinates(), autopilot: new AutopilotSettings(tables.revision) }
    const backup = new Backup({
      store,
      tables,
      clock,
      node: { id: node.id, address: hostPort(config.advertiseAddr, 8300) },
      onRestored: async () => {
        await localAgent.repair()
        await sessions.start()
        if (peers) await peerings.restart()
      },
    })
    const { promise: left, resolve: leave } = resolvable()
    const reload = async () => {
      const next = options.reread?.() ?? config
      warnOf(next, logger)
      // A logger that was given keeps the level that it was given.
      if (options.logs) logger.level = logLevel(next.logLevel) ?? logger.level
      await files.apply(next)
      logger.info('configuration read again')
    }
    const lifecycle = { reload, leave }
    const logs = options.logs ?? new LogTap()
    const doors = { metrics, logs, lifecycle, defaultAclPolicy: config.defaultIntentionPolicy }
    const parts = { config: facts, ...data, localAgent, ...memory, backup, ca, peerings, snapshots, ...doors }
    return { parts, store, grpcTlsPort, left, closing }
  } catch (error) {
    await closing.close()
    throw error
  }
}

/** What the store holds, and whoever writes it. */
async function openData(config: AgentConfig, { logger, clock }: { logger: Logger; clock: Clock }, closing: Closing) {
  const { datacenter } = config
  const store = closing.keep(await openEmbeddedStore({ dir: config.dataDir, logger }), each => each.close())
  const tables = closing.keep(await Tables.open(store), each => each.close())
  const catalog = new Catalog({ store, tables, datacenter })
  await catalog.collectImported()
  const delays = new LockDelays(clock)
  return {
    store,
    tables,
    catalog,
    configEntries: new ConfigEntries({ store, tables, datacenter }),
    kv: new KvStore({ store, tables, delays }),
    sessions: closing.keep(new Sessions({ store, tables, delays, clock, logger }), each => each.close()),
    transactions: new Transactions({ store, tables, delays, datacenter }),
    queries: new Queries({ store, tables, datacenter }),
  }
}

/** What the API tells of this agent. */
function factsOf(config: AgentConfig, node: Node, grpcTlsPort: number | undefined, clock: Clock): AgentParts['config'] {
  return {
    datacenter: config.datacenter,
    domain: config.domain.replace(/\.$/, ''),
    nodeName: node.node,
    nodeId: node.id,
    version,
    nodeMeta: config.nodeMeta,
    advertiseAddr: config.advertiseAddr,
    ports: { grpcTls: grpcTlsPort },
    connectEnabled: config.connect.enabled,
    peeringEnabled: config.peering.enabled,
    startedAt: new Date(clock.nowMs()).toISOString(),
    dev: config.dev,
  }
}

function resolvable(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {}
  const promise = new Promise<void>(done => (resolve = done))
  return { promise, resolve }
}

/** The peerings and the door that other clusters come in by. They know the port that others dial only once it is open. */
async function openPeering(
  config: AgentConfig,
  parts: Omit<PeeringsOptions, 'addresses' | 'locality' | 'enabled' | 'allowPlaintext' | 'ca'> & { ca: CertificateAuthority },
  closing: Closing,
): Promise<{ peerings: Peerings; grpcTlsPort: number | undefined }> {
  let grpcTlsPort: number | undefined
  const { grpc: plaintext, grpcTls } = config.doors
  const peerings = new Peerings({
    ...parts,
    locality: config.locality,
    addresses: () => (grpcTlsPort === undefined ? [] : [hostPort(config.advertiseAddrWan, grpcTlsPort)]),
    enabled: { peering: config.peering.enabled, connect: config.connect.enabled, grpcTls: grpcTls !== undefined },
    allowPlaintext: config.peering.allowPlaintext,
  })
  closing.keep(peerings, each => each.close())
  if (grpcTls) {
    const { ca, logger, clock } = parts
    const door = await startGrpcDoor({
      address: grpcTls.host,
      port: grpcTls.port,
      plaintext,
      ca,
      peerings,
      logger,
      clock,
    })
    grpcTlsPort = closing.keep(door, each => each.close()).port
  }
  return { peerings, grpcTlsPort }
}

/** What Consul's own tools read of a server. */
function serverMeta(grpcTlsPort: number | undefined): Record<string, string> {
  return {
    ...(grpcTlsPort !== undefined && { grpc_tls_port: String(grpcTlsPort) }),
    non_voter: 'false',
    raft_version: '3',
    read_replica: 'false',
    serf_protocol_current: '2',
    serf_protocol_max: '5',
    serf_protocol_min: '1',
    version: consulVersion,
  }
}

/** This server's own node; its id is kept from the last start. */
function ownNode(config: AgentConfig, tables: Tables): Node {
  const before = tables.node(config.nodeName).value
  const { advertiseAddr: lan, advertiseAddrWan: wan } = config
  return {
    id: config.nodeId ?? (before?.id || randomUUID()),
    node: config.nodeName,
    address: lan,
    datacenter: config.datacenter,
    taggedAddresses: {
      lan,
      ...(lan.includes(':') ? { lan_ipv6: lan } : { lan_ipv4: lan }),
      wan,
      ...(wan.includes(':') ? { wan_ipv6: wan } : { wan_ipv4: wan }),
    },
    meta: { 'consul-network-segment': '', 'consul-version': consulVersion, ...config.nodeMeta },
    ...(config.locality && { locality: config.locality }),
    createIndex: 0,
    modifyIndex: 0,
  }
}

/** Writes what `config_entries.bootstrap` lists and nobody has written yet. */
async function bootstrap(config: AgentConfig, configEntries: ConfigEntries, tables: Tables): Promise<void> {
  for (const [i, input] of config.configEntries.bootstrap.entries()) {
    const parsed = parseConfigEntry(input)
    if (!parsed.ok) {
      const problems = parsed.issues.map(issue => (issue.path === '' ? issue.message : `${issue.path}: ${issue.message}`))
      throw new MeshError('invalid', `config_entries.bootstrap[${i}]: ${problems.join('; ')}`)
    }
    const entry = parsed.value
    const there = tables.configEntry(entry.kind, 'name' in entry ? entry.name : 'mesh').value
    if (there === undefined) await configEntries.write(entry)
  }
}
