/**
 * The agent: the wiring diagram of the control plane. Each part is made once, in the order in which it depends on the others, and
 * closed in the opposite order. Nothing else in the agent makes a part.
 */
import { randomBytes } from 'node:crypto'
import { systemClock, type Clock } from '../lib/clock.ts'
import { MeshError } from '../lib/errors.ts'
import { createLogger, type Logger } from '../lib/log.ts'
import { createRegistry } from '../lib/metrics.ts'
import { version } from '../lib/version.ts'
import { parseConfigEntry } from '../mesh/config-entry.ts'
import type { Node } from '../mesh/node.ts'
import { CertificateAuthority } from './ca/authority.ts'
import { Catalog } from './catalog/catalog.ts'
import { ConfigEntries } from './catalog/config-entries.ts'
import { KvStore } from './catalog/kv.ts'
import { LocalAgent } from './catalog/local-agent.ts'
import { Tables } from './catalog/tables.ts'
import { loadConfig, type AgentConfig, type ConfigSources } from './config.ts'
import { startDnsDoor } from './dns/server.ts'
import { startGrpcDoor } from './grpc/server.ts'
import { consulVersion, type AgentParts } from './http/parts.ts'
import { startHttpDoor } from './http/server.ts'
import { Peerings } from './peering/peerings.ts'
import { Snapshots } from './snapshots/snapshots.ts'
import { openEmbeddedStore } from './store/embedded.ts'

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
  close(): Promise<void>
}

/** Reads the configuration, opens the store and starts every door. Fails with a MeshError that says what to change. */
export async function startAgent(sources: ConfigSources, options: AgentOptions = {}): Promise<Agent> {
  const config = loadConfig(sources)
  const clock = options.clock ?? systemClock
  const logger = options.logger ?? createLogger({ level: config.logLevel })
  const closers: (() => Promise<void> | void)[] = []
  const close = async () => {
    for (const each of closers.splice(0).reverse()) await each()
  }
  try {
    const metrics = createRegistry('agent')
    closers.push(() => metrics.clear())
    const store = await openEmbeddedStore({ dir: config.dataDir, logger })
    closers.push(() => store.close())
    const tables = await Tables.open(store)
    closers.push(() => tables.close())
    const { datacenter } = config
    const catalog = new Catalog({ store, tables, datacenter })
    await catalog.collectImported()
    const configEntries = new ConfigEntries({ store, tables, datacenter })
    const kv = new KvStore({ store, tables })
    const clusterId = config.connect.caConfig['cluster_id']
    const ca = await CertificateAuthority.open({
      store,
      tables,
      datacenter,
      clock,
      logger,
      clusterId: typeof clusterId === 'string' ? clusterId : undefined,
    })
    closers.push(() => ca.close())

    // The peering parts know the port that others dial only once its door is open.
    let grpcTlsPort: number | undefined
    const peerings = new Peerings({
      store,
      tables,
      catalog,
      ca,
      datacenter,
      clock,
      logger,
      metrics,
      addresses: () => (grpcTlsPort === undefined ? [] : [hostPort(config.advertiseAddrWan, grpcTlsPort)]),
      enabled: { peering: config.peering.enabled, connect: config.connect.enabled, grpcTls: config.doors.grpcTls !== undefined },
      allowPlaintext: config.peering.allowPlaintext,
    })
    closers.push(() => peerings.close())
    if (config.doors.grpcTls) {
      const { host, port } = config.doors.grpcTls
      const grpc = await startGrpcDoor({ address: host, port, plaintext: config.doors.grpc, ca, peerings, logger })
      closers.push(() => grpc.close())
      grpcTlsPort = grpc.port
    }

    const node = await ownNode(config, tables)
    const serverService = {
      port: 8300,
      meta: { version: consulVersion, ...(grpcTlsPort === undefined ? {} : { grpc_tls_port: String(grpcTlsPort) }) },
    }
    const localAgent = new LocalAgent({
      store,
      tables,
      catalog,
      node,
      clock,
      logger,
      sidecarPorts: config.sidecarPorts,
      serverService,
      checkUpdateIntervalMs: config.checkUpdateIntervalMs,
    })
    closers.push(() => localAgent.close())
    await localAgent.start()
    await bootstrap(config, configEntries, tables)
    for (const service of config.services) await localAgent.registerService(service)
    for (const check of config.checks) await localAgent.registerCheck(check)
    if (config.peering.enabled && config.connect.enabled) await peerings.start()

    const snapshots = new Snapshots({ tables, ca, node: config.nodeName, datacenter, defaultAction: config.defaultIntentionPolicy })
    let dnsPort: number | undefined
    if (config.doors.dns) {
      const dns = await startDnsDoor({
        address: config.doors.dns.host,
        port: config.doors.dns.port,
        tables,
        config,
        datacenter,
        logger,
        metrics,
      })
      closers.push(() => dns.close())
      dnsPort = dns.port
    }
    const facts: AgentParts['config'] = {
      datacenter,
      nodeName: node.node,
      nodeId: node.id,
      version,
      nodeMeta: config.nodeMeta,
      advertiseAddr: config.advertiseAddr,
      ports: { dns: dnsPort, grpcTls: grpcTlsPort },
      connectEnabled: config.connect.enabled,
      peeringEnabled: config.peering.enabled,
      dev: config.dev,
    }
    const parts: AgentParts = {
      config: facts,
      tables,
      catalog,
      configEntries,
      kv,
      localAgent,
      ca,
      peerings,
      snapshots,
      metrics,
      defaultAclPolicy: config.defaultIntentionPolicy,
    }
    let httpUrl = ''
    if (config.doors.http) {
      const http = await startHttpDoor({ listen: config.doors.http, agent: parts, logger, config: config.httpConfig })
      closers.push(() => http.close())
      facts.ports.http = http.port
      httpUrl =
        'socketPath' in config.doors.http
          ? `unix://${config.doors.http.socketPath}`
          : `http://${hostPort(config.doors.http.host, http.port ?? 0)}`
    }
    logger.info(
      { datacenter, node: node.node, http: httpUrl, dns: dnsPort, grpcTls: grpcTlsPort, trustDomain: ca.trustDomain },
      'agent is up',
    )
    return { config, httpUrl, dnsPort, grpcTlsPort, close }
  } catch (error) {
    await close()
    throw error
  }
}

/** This server's own node; its id is kept from the last start. */
async function ownNode(config: AgentConfig, tables: Tables): Promise<Node> {
  const before = tables.node(config.nodeName).value
  const { advertiseAddr: lan, advertiseAddrWan: wan } = config
  return {
    id: config.nodeId ?? (before?.id || randomId()),
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

/** 36 characters of hex and hyphens, as Consul makes its ids. */
function randomId(): string {
  return randomBytes(16)
    .toString('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
}

function hostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}
