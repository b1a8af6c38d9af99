/**
 * isthmus as a pair: a real agent and two real sidecars, each a process of the built program, as an operator runs them. The caller is
 * allowed by an intention, everybody else denied by default. The agent is off the measured core and its CPU time is told apart.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePorts } from '../../../test/support/free-ports.ts'
import { call, until, type Running } from '../../../test/support/processes.ts'
import { bulkPorts } from '../../machine/bulk-ports.ts'
import { dist, startOn, type Core } from '../../machine/programs.ts'
import { pairOf, type Ground, type Pair } from '../pair.ts'

/** Which program is run, by which Node. */
export interface Build {
  node: string
  dist: string
}

export const thisBuild: Build = { node: process.execPath, dist }

/** One agent and the proxies beside it. */
export class Mesh {
  readonly http: number
  readonly dns: number
  readonly agent: Running
  readonly #build: Build
  readonly #proxies: Running[] = []

  private constructor(build: Build, ports: { http: number; dns: number }, agent: Running) {
    this.#build = build
    this.http = ports.http
    this.dns = ports.dns
    this.agent = agent
  }

  static async start(build: Build, directory: string, datacenter: string, core: Core = 'load'): Promise<Mesh> {
    const [http, dns, grpcTls] = (await freePorts(3)) as [number, number, number]
    const path = join(directory, `${datacenter}-${http}.json`)
    const config = {
      datacenter,
      node_name: `${datacenter}-1`,
      data_dir: join(directory, `${datacenter}-${http}`),
      bind_addr: '127.0.0.1',
      default_intention_policy: 'deny',
      log_level: 'warn',
      ports: { http, dns, grpc_tls: grpcTls },
    }
    writeFileSync(path, JSON.stringify(config))
    const mesh = new Mesh(build, { http, dns }, startOn(core, build.node, [mainOf(build), 'agent', '--config-file', path]))
    await until(`agent of ${datacenter} ready`, async () => {
      mesh.#alive(mesh.agent)
      return (await call(http, '/v1/agent/connect/ca/roots')).status === 200
    })
    return mesh
  }

  async api(method: string, path: string, body?: unknown): Promise<unknown> {
    const answer = await call(this.http, path, { method, body })
    if (answer.status >= 300) throw new Error(`${method} ${path} -> ${answer.status} ${answer.text}`)
    return answer.json
  }

  /** `isthmus sidecar` or `isthmus gateway`; ready when its admin door says so. */
  async proxy(core: Core, command: 'sidecar' | 'gateway', ...args: string[]): Promise<Running> {
    const [admin] = (await freePorts(1)) as [number]
    const words = [mainOf(this.#build), command, ...args, '--admin', `127.0.0.1:${admin}`, '--log-level', 'warn']
    const running = startOn(core, this.#build.node, words, { ISTHMUS_HTTP_ADDR: `127.0.0.1:${this.http}` })
    this.#proxies.push(running)
    await until(`${command} ${args.join(' ')} ready`, async () => {
      this.#alive(running)
      return (await call(admin, '/ready')).status === 200
    })
    return running
  }

  /** The app `api` on this port, with a sidecar's registration and its intention. */
  async serve(service: string, port: number, protocol: string, sources: unknown[]): Promise<void> {
    await this.api('PUT', '/v1/config', { Kind: 'service-defaults', Name: service, Protocol: protocol })
    await this.api('PUT', '/v1/config', { Kind: 'service-intentions', Name: service, Sources: sources })
    const [Port] = await freePorts(1)
    await this.api('PUT', '/v1/agent/service/register', { Name: service, Port: port, Connect: { SidecarService: { Port } } })
  }

  /** Until callers find an instance whose sidecar is up, as the agent's checks see it. */
  async passes(service: string): Promise<void> {
    const find = async () => ((await this.api('GET', `/v1/health/connect/${service}?passing`)) as unknown[]).length > 0
    await until(`${service} passes its checks`, find)
  }

  /** The caller `web`, who listens for each upstream. */
  async calls(upstreams: { DestinationName: string; DestinationPeer?: string; LocalBindPort: number }[]): Promise<void> {
    const [Port] = await freePorts(1)
    const sidecar = { Port, Proxy: { Upstreams: upstreams } }
    await this.api('PUT', '/v1/agent/service/register', { Name: 'web', Port: 9, Connect: { SidecarService: sidecar } })
  }

  /** Services on another node, each with a sidecar. */
  async fill(services: number, protocol: string): Promise<void> {
    if (services === 0) return
    await this.api('PUT', '/v1/config', { Kind: 'proxy-defaults', Name: 'global', Config: { protocol } })
    const node = { Node: 'elsewhere', Address: '127.0.0.1' }
    for (let i = 0; i < services; i++) {
      const name = `service-${i}`
      const proxy = { Kind: 'connect-proxy', Service: `${name}-proxy`, Port: 9, Proxy: { DestinationServiceName: name } }
      await this.api('PUT', '/v1/catalog/register', { ...node, Service: { Service: name, Port: 9 } })
      await this.api('PUT', '/v1/catalog/register', { ...node, Service: proxy })
    }
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#proxies, this.agent].map(each => each.stop()))
  }

  #alive(running: Running): void {
    if (running.child.exitCode !== null) throw new Error(`it ended: ${running.log().slice(-2000)}`)
  }
}

function mainOf(build: Build): string {
  return join(build.dist, 'bin', 'isthmus.js')
}

/** `further` are upstreams that the caller has besides. */
export async function startIsthmusPair(build: Build, ground: Ground, further = 0): Promise<Pair> {
  const mesh = await Mesh.start(build, ground.directory, 'dc1')
  const [port] = (await freePorts(1)) as [number]
  const more = await bulkPorts(further)
  await mesh.serve('api', ground.backend[ground.protocol], ground.protocol, [{ Name: 'web', Action: 'allow' }])
  await mesh.fill(further, ground.protocol)
  const others = more.map((LocalBindPort, i) => ({ DestinationName: `service-${i}`, LocalBindPort }))
  await mesh.calls([{ DestinationName: 'api', LocalBindPort: port }, ...others])
  const inbound = await mesh.proxy('measured', 'sidecar', '--for', 'api')
  await mesh.passes('api')
  const outbound = await mesh.proxy('measured', 'sidecar', '--for', 'web')
  const beside = [{ role: 'agent', pid: mesh.agent.child.pid! }]
  return { ...pairOf(port, outbound, inbound), beside, stop: () => mesh.stop() }
}
