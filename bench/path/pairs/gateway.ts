/**
 * A mesh gateway between two proxies: only the gateway's process is on the measured core and only its CPU time counts. Two kinds of
 * traffic: an nginx pair's, whose connections each carry one request at a time, as any proxy's but ours do; and an isthmus pair's,
 * whose requests share a few connections.
 */
import { join } from 'node:path'
import { externalSni } from '../../../src/mesh/sni.ts'
import { freePorts } from '../../../test/support/free-ports.ts'
import { call, until } from '../../../test/support/processes.ts'
import type { Ground, Pair } from '../pair.ts'
import { startHaproxy } from './haproxy.ts'
import { Mesh, type Build } from './isthmus.ts'
import { inboundHttp, outboundHttp, startNginx } from './nginx.ts'

/** What an exporter calls its importer. */
const importer = 'east'

interface Middle {
  port: number
  pid: number
  serverName: string
  beside?: Pair['beside']
  stop(): Promise<void>
}

/** An nginx pair that meets through a gateway, which passes on to `inboundPort` what names its server. */
async function nginxThrough(nginx: string, ground: Ground, gateway: (inboundPort: number) => Promise<Middle>): Promise<Pair> {
  const [port, between] = (await freePorts(2)) as [number, number]
  const middle = await gateway(between)
  const server = await ground.certificates.leaf(`gateway-${port}`, middle.serverName)
  const directory = join(ground.directory, `gateway-${port}`)
  const inbound = await startNginx(nginx, 'load', `${directory}-inbound`, inboundHttp(ground, between, server), between)
  const outbound = await startNginx(nginx, 'load', `${directory}-outbound`, outboundHttp(ground, port, middle.port, server), port)
  await answers(port)
  return {
    port,
    processes: [{ role: 'gateway', pid: middle.pid }],
    beside: middle.beside,
    async stop() {
      await Promise.all([outbound, inbound].map(each => each.stop()))
      await middle.stop()
    },
  }
}

/** Ours, before a service whose sidecar is somebody else's. */
export function startGatewayForNginx(build: Build, nginx: string, ground: Ground): Promise<Pair> {
  return nginxThrough(nginx, ground, async inboundPort => {
    const mesh = await Mesh.start(build, ground.directory, 'west')
    const proxy = { Kind: 'connect-proxy', Name: 'foreign-proxy', Port: inboundPort, Proxy: { DestinationServiceName: 'foreign' } }
    await mesh.api('PUT', '/v1/agent/service/register', { Name: 'foreign', Port: ground.backend.http })
    await mesh.api('PUT', '/v1/agent/service/register', proxy)
    // A peering that waits for its other side is enough: a gateway serves the names of what is exported.
    await mesh.api('POST', '/v1/peering/token', { PeerName: importer })
    const { port, pid } = await exportThrough(mesh, 'foreign')
    const { TrustDomain } = (await mesh.api('GET', '/v1/agent/connect/ca/roots')) as { TrustDomain: string }
    return { port, pid, serverName: externalSni('foreign', importer, TrustDomain), beside: agentsOf(mesh), stop: () => mesh.stop() }
  })
}

export function startHaproxyForNginx(haproxy: string, nginx: string, ground: Ground): Promise<Pair> {
  return nginxThrough(nginx, ground, async inboundPort => {
    const [port] = (await freePorts(1)) as [number]
    const serverName = 'foreign.bench.internal'
    const text = `frontend gateway
  bind 127.0.0.1:${port} backlog 4096
  tcp-request inspect-delay 5s
  tcp-request content accept if { req_ssl_hello_type 1 }
  use_backend foreign if { req_ssl_sni -i ${serverName} }
backend foreign
  server foreign 127.0.0.1:${inboundPort}`
    const running = await startHaproxy(haproxy, 'measured', join(ground.directory, `haproxy-${port}.cfg`), 'tcp', text, port)
    return { port, pid: running.child.pid!, serverName, stop: () => running.stop() }
  })
}

/** Two peered clusters: web's sidecar in east, the gateway and api's sidecar in west. */
export async function startGatewayForIsthmus(build: Build, ground: Ground): Promise<Pair> {
  const west = await Mesh.start(build, ground.directory, 'west')
  const east = await Mesh.start(build, ground.directory, 'east')
  const { PeeringToken } = (await west.api('POST', '/v1/peering/token', { PeerName: importer })) as { PeeringToken: string }
  await east.api('POST', '/v1/peering/establish', { PeerName: 'west', PeeringToken })
  await west.serve('api', ground.backend.http, 'http', [{ Name: 'web', Peer: importer, Action: 'allow' }])
  const { pid } = await exportThrough(west, 'api')
  const [port] = (await freePorts(1)) as [number]
  await east.calls([{ DestinationName: 'api', DestinationPeer: 'west', LocalBindPort: port }])
  await west.proxy('load', 'sidecar', '--for', 'api')
  await east.proxy('load', 'sidecar', '--for', 'web')
  await answers(port)
  const stop = async () => void (await Promise.all([west.stop(), east.stop()]))
  return { port, processes: [{ role: 'gateway', pid }], beside: agentsOf(west), stop }
}

async function exportThrough(mesh: Mesh, service: string): Promise<{ port: number; pid: number }> {
  const Services = [{ Name: service, Consumers: [{ Peer: importer }] }]
  await mesh.api('PUT', '/v1/config', { Kind: 'exported-services', Name: 'default', Services })
  const [port] = (await freePorts(1)) as [number]
  const gateway = await mesh.proxy('measured', 'gateway', '--address', `127.0.0.1:${port}`)
  return { port, pid: gateway.child.pid! }
}

const agentsOf = (mesh: Mesh) => [{ role: 'agent', pid: mesh.agent.child.pid! }]

async function answers(port: number): Promise<void> {
  await until('a request passes the gateway', async () => (await call(port, '/small', { timeoutMs: 1000 })).status === 200, 30_000)
}
