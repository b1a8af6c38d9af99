/**
 * Two clusters in one process, as `isthmus dev` and the demo use them: east with web, west with api behind a mesh gateway. Nothing
 * here is a short cut: two agents with a CA and a store each, real sidecars and a real gateway on loopback, driven over the HTTP API.
 */
import { createServer } from 'node:net'
import { startAgent, startGateway, startSidecar, type Agent } from '../../index.ts'
import type { Logger } from '../../lib/log.ts'
import { AgentClient } from '../client.ts'
import type { CliContext } from '../context.ts'
import { startApi, startWeb } from './apps.ts'

/** What each cluster calls the other. */
export const westOfEast = 'west'
export const eastOfWest = 'east'

export interface DevCluster {
  datacenter: string
  agent: Agent
  /** One call of this cluster's HTTP API; an answer that is not 2xx is an error with its text. */
  api(method: string, path: string, body?: unknown): Promise<unknown>
}

export interface DevClusters {
  east: DevCluster
  west: DevCluster
  /** The app to call: web, which calls api across the peering. */
  webPort: number
  /** web's local port for api; what its sidecar listens on. */
  upstreamPort: number
  close(): Promise<void>
}

/** The ports that are tried first; any other free one where somebody has them already. */
const preferred = {
  east: { http: 8500, dns: 8600, grpcTls: 8503, sidecars: 21_000 },
  west: { http: 9500, dns: 9600, grpcTls: 9503, sidecars: 22_000 },
  web: 8080,
  api: 9090,
  upstream: 9191,
  gateway: 9443,
}

export async function startDevClusters(logger: Logger, context: CliContext): Promise<DevClusters> {
  const closers: (() => Promise<void>)[] = []
  const close = async () => {
    for (const each of closers.reverse()) await each()
  }
  const keep = <T extends { close(): Promise<void> }>(part: T): T => {
    closers.push(() => part.close())
    return part
  }
  try {
    const east = await startCluster('east', logger, context, keep)
    const west = await startCluster('west', logger, context, keep)
    const upstreamPort = await freePort(preferred.upstream)
    const api = keep(await startApi(await freePort(preferred.api)))
    const web = keep(await startWeb(await freePort(preferred.web), upstreamPort))

    await west.api('PUT', '/v1/config', { Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
    const check = { HTTP: `http://127.0.0.1:${api.port}/health`, Interval: '2s', Status: 'passing' }
    await west.api('PUT', '/v1/agent/service/register', { Name: 'api', Port: api.port, Check: check, Connect: { SidecarService: {} } })
    const upstream = { DestinationName: 'api', DestinationPeer: westOfEast, LocalBindPort: upstreamPort }
    await east.api('PUT', '/v1/agent/service/register', {
      Name: 'web',
      Port: web.port,
      Connect: { SidecarService: { Proxy: { Upstreams: [upstream] } } },
    })
    await west.api('PUT', '/v1/agent/service/register', {
      Kind: 'mesh-gateway',
      Name: 'mesh-gateway',
      Address: '127.0.0.1',
      Port: await freePort(preferred.gateway),
    })
    const agentOf = (cluster: DevCluster) => ({ url: cluster.agent.httpUrl })
    const proxies = [
      keep(await startSidecar({ proxyId: 'api-sidecar-proxy', agent: agentOf(west), logger })),
      keep(await startGateway({ proxyId: 'mesh-gateway', agent: agentOf(west), logger })),
      keep(await startSidecar({ proxyId: 'web-sidecar-proxy', agent: agentOf(east), logger })),
    ]
    await Promise.all(proxies.map(proxy => proxy.ready()))
    return { east, west, webPort: web.port, upstreamPort, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function startCluster(
  name: 'east' | 'west',
  logger: Logger,
  context: CliContext,
  keep: (agent: Agent) => Agent,
): Promise<DevCluster> {
  const ports = preferred[name]
  const sidecars = await freePort(ports.sidecars)
  const agent = keep(
    await startAgent(
      {
        dev: true,
        flags: {
          datacenter: name,
          node_name: `${name}-1`,
          bind_addr: '127.0.0.1',
          ports: {
            http: await freePort(ports.http),
            dns: await freePort(ports.dns),
            grpc: -1,
            grpc_tls: await freePort(ports.grpcTls),
            sidecar_min_port: sidecars,
            sidecar_max_port: Math.min(65_535, sidecars + 200),
          },
        },
      },
      { logger: logger.child({ cluster: name }) },
    ),
  )
  // No token of the surroundings belongs here.
  const client = new AgentClient({ httpAddr: agent.httpUrl }, { ...context, env: {} })
  return {
    datacenter: name,
    agent,
    async api(method, path, body) {
      const { body: answer } = await client.call(method, path, { body })
      return answer.length === 0 ? undefined : client.parse(answer)
    },
  }
}

/** `wanted`, or any free port where that one is taken. */
async function freePort(wanted: number): Promise<number> {
  return (await probe(wanted)) ?? (await probe(0))!
}

function probe(port: number): Promise<number | undefined> {
  return new Promise(resolve => {
    const server = createServer()
    server.once('error', () => resolve(undefined))
    server.listen(port, '127.0.0.1', () => {
      const found = (server.address() as { port: number }).port
      server.close(() => resolve(found))
    })
  })
}

/** The four steps of cluster peering (Consul's words). */
export const peeringSteps = {
  async createToken({ west }: DevClusters): Promise<string> {
    return ((await west.api('POST', '/v1/peering/token', { PeerName: eastOfWest })) as { PeeringToken: string }).PeeringToken
  },
  async establish({ east, west }: DevClusters, token: string): Promise<void> {
    await east.api('POST', '/v1/peering/establish', { PeerName: westOfEast, PeeringToken: token })
    const active = async (cluster: DevCluster, name: string) =>
      ((await cluster.api('GET', `/v1/peering/${name}`)) as { State: string }).State === 'ACTIVE'
    await until('the peering to be ACTIVE on both sides', async () => (await active(east, westOfEast)) && (await active(west, eastOfWest)))
  },
  async exportApi({ west, upstreamPort }: DevClusters): Promise<void> {
    await west.api('PUT', '/v1/config', {
      Kind: 'exported-services',
      Name: 'default',
      Services: [{ Name: 'api', Consumers: [{ Peer: eastOfWest }] }],
    })
    await until('api to be reachable from east', async () => (await ask(upstreamPort)).status === 403)
  },
  async authorize({ west }: DevClusters, action: 'allow' | 'deny'): Promise<void> {
    await west.api('PUT', '/v1/config', {
      Kind: 'service-intentions',
      Name: 'api',
      Sources: [{ Name: 'web', Peer: eastOfWest, Action: action }],
    })
  },
} as const

/** One request to a local port. */
export async function ask(port: number, path = '/'): Promise<{ status: number; text: string }> {
  const answer = await fetch(`http://127.0.0.1:${port}${path}`, { signal: AbortSignal.timeout(5000) })
  return { status: answer.status, text: (await answer.text()).trim() }
}

/** Waits at most 15 s for something to come true. */
export async function until(what: string, probeOnce: () => Promise<boolean>): Promise<void> {
  const end = Date.now() + 15_000
  while (!(await probeOnce().catch(() => false))) {
    if (Date.now() > end) throw new Error(`waited 15 s in vain for ${what}; run with --log-level debug to see why`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}
