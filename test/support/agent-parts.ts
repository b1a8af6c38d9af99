/**
 * A whole agent for tests: every part over a real store in a temporary directory, wired as agent.ts wires them, on free loopback
 * ports. `close` leaves nothing behind. The doors are opened by whoever tests them; `agentWithHttp` opens the HTTP one.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CertificateAuthority } from '../../src/agent/ca/authority.ts'
import { Catalog } from '../../src/agent/catalog/catalog.ts'
import { ConfigEntries } from '../../src/agent/catalog/config-entries.ts'
import { KvStore } from '../../src/agent/catalog/kv.ts'
import { LocalAgent } from '../../src/agent/catalog/local-agent.ts'
import { Tables } from '../../src/agent/catalog/tables.ts'
import { startGrpcDoor } from '../../src/agent/grpc/server.ts'
import { type AgentParts, consulVersion } from '../../src/agent/http/parts.ts'
import { type HttpDoor, type HttpDoorOptions, startHttpDoor } from '../../src/agent/http/server.ts'
import { Peerings } from '../../src/agent/peering/peerings.ts'
import { Snapshots } from '../../src/agent/snapshots/snapshots.ts'
import { openEmbeddedStore } from '../../src/agent/store/embedded.ts'
import type { Store } from '../../src/agent/store/store.ts'
import { type Clock, systemClock } from '../../src/lib/clock.ts'
import { type Logger, silentLogger } from '../../src/lib/log.ts'
import { createRegistry } from '../../src/lib/metrics.ts'

export interface AgentPartsOptions {
  datacenter?: string
  nodeName?: string
  nodeMeta?: Record<string, string>
  /** A directory that outlives the agent, for tests of a restart; else a temporary one that goes with it. */
  dir?: string
  clock?: Clock
  logger?: Logger
  defaultAction?: 'allow' | 'deny'
  sidecarPorts?: { min: number; max: number }
  /** False: no gRPC door, so no token can be made. */
  grpc?: boolean
}

export interface TestAgent {
  parts: AgentParts
  store: Store
  dir: string
  grpcTlsPort: number | undefined
  close(): Promise<void>
}

export async function agentParts(options: AgentPartsOptions = {}): Promise<TestAgent> {
  const {
    datacenter = 'dc1',
    nodeName = 'alpha',
    clock = systemClock,
    logger = silentLogger(),
    defaultAction = 'allow',
    nodeMeta = {},
  } = options
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'isthmus-agent-'))
  const closers: (() => Promise<void> | void)[] = []
  if (options.dir === undefined) closers.push(() => rmSync(dir, { recursive: true, force: true }))
  const close = async () => {
    for (const each of closers.splice(0).reverse()) await each()
  }
  try {
    const metrics = createRegistry('agent')
    closers.push(() => metrics.clear())
    const store = await openEmbeddedStore({ dir, logger })
    closers.push(() => store.close())
    const tables = await Tables.open(store)
    closers.push(() => tables.close())
    const catalog = new Catalog({ store, tables, datacenter })
    const configEntries = new ConfigEntries({ store, tables, datacenter })
    const kv = new KvStore({ store, tables })
    const ca = await CertificateAuthority.open({ store, tables, datacenter, clock, logger })
    closers.push(() => ca.close())

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
      addresses: () => (grpcTlsPort === undefined ? [] : [`127.0.0.1:${grpcTlsPort}`]),
      enabled: { peering: true, connect: true, grpcTls: options.grpc !== false },
      allowPlaintext: false,
    })
    closers.push(() => peerings.close())
    if (options.grpc !== false) {
      const grpc = await startGrpcDoor({ address: '127.0.0.1', port: 0, ca, peerings, logger })
      closers.push(() => grpc.close())
      grpcTlsPort = grpc.port
    }
    const nodeId = tables.node(nodeName).value?.id || '8c652b4a-205d-67c9-7aee-11a8075af0f7'
    const lan = { lan: '127.0.0.1', lan_ipv4: '127.0.0.1', wan: '127.0.0.1', wan_ipv4: '127.0.0.1' }
    const localAgent = new LocalAgent({
      store,
      tables,
      catalog,
      node: {
        id: nodeId,
        node: nodeName,
        address: '127.0.0.1',
        datacenter,
        taggedAddresses: lan,
        meta: { 'consul-network-segment': '', 'consul-version': consulVersion, ...nodeMeta },
        createIndex: 0,
        modifyIndex: 0,
      },
      clock,
      logger,
      sidecarPorts: options.sidecarPorts ?? { min: 21_000, max: 21_255 },
      serverService: { port: 8300, meta: grpcTlsPort === undefined ? {} : { grpc_tls_port: String(grpcTlsPort) } },
    })
    closers.push(() => localAgent.close())
    await localAgent.start()
    await peerings.start()
    const snapshots = new Snapshots({ tables, ca, node: nodeName, datacenter, defaultAction, clock })
    const parts: AgentParts = {
      config: {
        datacenter,
        nodeName,
        nodeId,
        version: '0.0.0-test',
        nodeMeta,
        advertiseAddr: '127.0.0.1',
        ports: { grpcTls: grpcTlsPort },
        connectEnabled: true,
        peeringEnabled: true,
        dev: false,
      },
      tables,
      catalog,
      configEntries,
      kv,
      localAgent,
      ca,
      peerings,
      snapshots,
      metrics,
      defaultAclPolicy: defaultAction,
    }
    return { parts, store, dir, grpcTlsPort, close }
  } catch (error) {
    await close()
    throw error
  }
}

export interface HttpTestAgent extends TestAgent {
  door: HttpDoor
  /** `http://127.0.0.1:port`. */
  url: string
}

export async function agentWithHttp(
  options: AgentPartsOptions & { http?: Partial<Omit<HttpDoorOptions, 'agent' | 'logger'>> } = {},
): Promise<HttpTestAgent> {
  const agent = await agentParts(options)
  try {
    const door = await startHttpDoor({
      listen: { host: '127.0.0.1', port: 0 },
      agent: agent.parts,
      logger: options.logger ?? silentLogger(),
      ...options.http,
    })
    agent.parts.config.ports.http = door.port
    const close = async () => {
      await door.close()
      await agent.close()
    }
    return { ...agent, door, url: `http://127.0.0.1:${door.port}`, close }
  } catch (error) {
    await agent.close()
    throw error
  }
}
