/**
 * A whole agent for tests: every part over a real store in a temporary directory, wired by agent.ts, on free loopback
 * ports. `close` leaves nothing behind. The doors are opened by whoever tests them; `agentWithHttp` opens the HTTP one.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { httpOptions, wireAgent } from '../../src/agent/agent.ts'
import { type AgentConfig, loadConfig } from '../../src/agent/config.ts'
import type { AgentParts } from '../../src/agent/http/parts.ts'
import { type HttpDoor, type HttpDoorOptions, startHttpDoor } from '../../src/agent/http/server.ts'
import type { Store } from '../../src/agent/store/store.ts'
import type { Clock } from '../../src/lib/clock.ts'
import { type Logger, type LogTap, silentLogger } from '../../src/lib/log.ts'

export interface AgentPartsOptions {
  datacenter?: string
  nodeName?: string
  nodeId?: string
  nodeMeta?: Record<string, string>
  /** A directory that outlives the agent, for tests of a restart; else a temporary one that goes with it. */
  dir?: string
  clock?: Clock
  logger?: Logger
  /** What the logger writes to, for those who watch the log. */
  logs?: LogTap
  defaultAction?: 'allow' | 'deny'
  sidecarPorts?: { min: number; max: number }
  /** Further configuration, in the form of a file. */
  config?: Record<string, unknown>
  dev?: boolean
  /** False: no gRPC door, so no token can be made. */
  grpc?: boolean
}

export interface TestAgent {
  parts: AgentParts
  store: Store
  dir: string
  config: AgentConfig
  grpcTlsPort: number | undefined
  close(): Promise<void>
}

export async function agentParts(options: AgentPartsOptions = {}): Promise<TestAgent> {
  const { datacenter = 'dc1', nodeName = 'alpha', sidecarPorts, logger = silentLogger(), clock } = options
  const dir = options.dir ?? mkdtempSync(join(tmpdir(), 'isthmus-agent-'))
  const forget = () => {
    if (options.dir === undefined) rmSync(dir, { recursive: true, force: true })
  }
  const flags = {
    datacenter,
    node_name: nodeName,
    node_id: options.nodeId ?? '8c652b4a-205d-67c9-7aee-11a8075af0f7',
    node_meta: options.nodeMeta ?? {},
    data_dir: dir,
    bind_addr: '127.0.0.1',
    default_intention_policy: options.defaultAction ?? 'allow',
    ports: {
      grpc_tls: options.grpc === false ? -1 : 0,
      ...(sidecarPorts && { sidecar_min_port: sidecarPorts.min, sidecar_max_port: sidecarPorts.max }),
    },
    ...options.config,
  }
  try {
    const config = loadConfig({ flags, dev: options.dev ?? false })
    const { parts, store, grpcTlsPort, closing } = await wireAgent(config, {
      logger,
      ...(clock && { clock }),
      ...(options.logs && { logs: options.logs }),
    })
    const close = async () => {
      await closing.close()
      forget()
    }
    return { parts, store, dir, config, grpcTlsPort, close }
  } catch (error) {
    forget()
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
      ...httpOptions(agent.config),
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
