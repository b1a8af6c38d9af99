/**
 * One cluster of the live suite: an agent, its mesh gateway, a sidecar for each of its apps and one for `web`, which calls the same apps of
 * the other cluster. Both sides are registered by the same calls; what carries them is ours, or Consul and Envoy.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { freePorts } from '../../support/free-ports.ts'
import { ClusterProcess, until, type Answer } from '../../support/processes.ts'
import { ConsulProcess } from '../consul-process.ts'
import { startApps, type Apps } from './apps.ts'
import { EnvoyProcess } from './envoy-process.ts'

/** What each side exports over the mesh, by name. */
export const services = { api: 'http', wide: 'http2', greeter: 'grpc', db: 'tcp' } as const
export type ServiceName = keyof typeof services
const names = Object.keys(services) as ServiceName[]

/** The caller's `web` calls the callee's services. */
export interface Way {
  caller: Side
  callee: Side
}

export const patienceMs = 60_000

export interface GatewayPlace {
  lan: number
  wan: number
  /** What stands before the WAN port. */
  wanHost: string
}

/** How a side's proxies are run. */
interface Carrier {
  sidecar(service: string, port: () => Promise<number>): Promise<void>
  /** Registers and starts one; other clusters reach it by its WAN address. */
  gateway(id: string, at: GatewayPlace): Promise<void>
  /** In order: nobody new is sent to it, then it ends. */
  endGateway(id: string, gone: () => Promise<void>): Promise<void>
  killGateway(id: string): Promise<void>
  /** What each of its proxies has logged, and what Envoy counts. */
  logs(): Promise<Map<string, string>>
  stop(): Promise<void>
}

export class Side {
  readonly name: 'isthmus' | 'Consul'
  readonly cluster: ClusterProcess | ConsulProcess
  /** Its own name for the other side. */
  readonly peer: string
  readonly apps: Apps
  /** Local ports of `web` for the services of the other side. */
  readonly upstreams: Readonly<Record<ServiceName, number>>
  readonly carrier: Carrier
  #gateways = 0
  gateway = ''

  private constructor(name: Side['name'], cluster: Side['cluster'], apps: Apps, ports: number[]) {
    this.name = name
    this.cluster = cluster
    this.peer = name === 'isthmus' ? 'the-consul' : 'the-isthmus'
    this.apps = apps
    this.upstreams = Object.fromEntries(names.map((each, i) => [each, ports[i]!])) as Record<ServiceName, number>
    this.carrier = cluster instanceof ConsulProcess ? envoys(cluster) : ours(cluster)
  }

  static async start(name: Side['name']): Promise<Side> {
    const cluster = name === 'isthmus' ? await ClusterProcess.start('alpha') : await ConsulProcess.start('omega')
    const side = new Side(name, cluster, await startApps(name), await freePorts(names.length))
    for (const service of names) {
      await side.api('PUT', '/v1/config', { Kind: 'service-defaults', Name: service, Protocol: services[service] })
      const port = { http: side.apps.http, http2: side.apps.http2, grpc: side.apps.http2, tcp: side.apps.tcp }[services[service]]
      await side.#register(service, port, {})
    }
    const Upstreams = names.map(each => ({ DestinationName: each, DestinationPeer: side.peer, LocalBindPort: side.upstreams[each] }))
    await side.#register('web', 9, { Upstreams })
    await side.#register('plain', 1111)
    return side
  }

  /**
   * A mesh service where it is given a sidecar. That is registered apart, with a TTL of its own: the checks that Consul gives a sidecar are
   * critical for a while after it was restarted, and so would its calls be.
   */
  async #register(name: string, port: number, proxy?: object): Promise<void> {
    await this.#registerOne({ Name: name, Port: port })
    if (proxy === undefined) return
    const [own] = (await freePorts(1)) as [number]
    const Proxy = { DestinationServiceName: name, DestinationServiceID: name, LocalServicePort: port, ...proxy }
    await this.#registerOne({ Name: `${name}-sidecar-proxy`, Kind: 'connect-proxy', Port: own, Proxy })
  }

  /** The check is passed once more, so that it is still passing after a restart. */
  async #registerOne(definition: { Name: string } & Record<string, unknown>): Promise<void> {
    const CheckID = `${definition.Name}-ttl`
    const Check = { CheckID, TTL: '1h', Status: 'passing' }
    await this.api('PUT', '/v1/agent/service/register', { Address: '127.0.0.1', Check, ...definition })
    await this.api('PUT', `/v1/agent/check/pass/${CheckID}`)
  }

  /** Once the two are peered: until then nothing says where upstreams go. */
  async startProxies(): Promise<void> {
    await this.addGateway()
    for (const name of ['web', ...names]) {
      await this.carrier.sidecar(name, async () => {
        if (name === 'web') return this.upstreams.api
        return ((await this.api('GET', `/v1/agent/service/${name}-sidecar-proxy`)).json as { Port: number }).Port
      })
    }
  }

  /** Starts one more gateway, which is from now on the one that is meant; answers the one before. */
  async addGateway(wanHost = '127.0.0.1'): Promise<string> {
    const [lan, wan] = (await freePorts(2)) as [number, number]
    const before = this.gateway
    this.#gateways += 1
    this.gateway = `mesh-gateway-${this.#gateways}`
    await this.carrier.gateway(this.gateway, { lan, wan, wanHost })
    return before
  }

  api(method: string, path: string, body?: unknown, any = false): Promise<Answer> {
    return this.cluster.api(method, path, body, any)
  }

  async export(...exported: string[]): Promise<void> {
    const Services = exported.map(Name => ({ Name, Consumers: [{ Peer: this.peer }] }))
    if (exported.length === 0) await this.api('DELETE', '/v1/config/exported-services/default')
    else await this.api('PUT', '/v1/config', { Kind: 'exported-services', Name: 'default', Services })
  }

  /** Of this side's own services: what the other side's `web`, or whoever, may do. */
  async intentions(
    destination: string,
    ...sources: { Name?: string; Peer?: string; Action?: string; Permissions?: unknown[] }[]
  ): Promise<void> {
    const Sources = sources.map(source => ({ Name: 'web', Peer: this.peer, ...source }))
    if (sources.length === 0) await this.api('DELETE', `/v1/config/service-intentions/${destination}`, undefined, true)
    else await this.api('PUT', '/v1/config', { Kind: 'service-intentions', Name: destination, Sources })
  }

  /** Statuses of what is imported, as the API says. */
  async imported(kind: 'service' | 'connect', service: string): Promise<string[]> {
    const found = (await this.api('GET', `/v1/health/${kind}/${service}?peer=${this.peer}`)).json as { Checks: { Status: string }[] }[]
    return found.map(({ Checks }) => Checks[0]?.Status ?? 'no check')
  }

  /** Of a service and its sidecar, as an alias check would have it. */
  async mark(service: string, status: 'pass' | 'fail'): Promise<void> {
    for (const id of [`${service}-ttl`, `${service}-sidecar-proxy-ttl`]) await this.api('PUT', `/v1/agent/check/${status}/${id}`)
  }

  /** Whether a gateway of ours is to be where exported http ends. */
  async terminateHttp(on: boolean): Promise<void> {
    const { Address, Port, TaggedAddresses } = (await this.api('GET', `/v1/agent/service/${this.gateway}`)).json as Record<string, unknown>
    const Proxy = { Config: { isthmus_terminate_http: on } }
    const body = { Kind: 'mesh-gateway', Name: this.gateway, Address, Port, TaggedAddresses, Proxy }
    await this.api('PUT', '/v1/agent/service/register', body)
  }

  async peering(): Promise<string> {
    const answer = await this.api('GET', `/v1/peering/${this.peer}`, undefined, true)
    return answer.status === 200 ? (answer.json as { State: string }).State : 'none'
  }

  async activeRoot(): Promise<string> {
    return ((await this.api('GET', '/v1/agent/connect/ca/roots')).json as { ActiveRootID: string }).ActiveRootID
  }

  async restartAgent(signal: NodeJS.Signals): Promise<void> {
    if (this.cluster instanceof ConsulProcess) return this.cluster.restart(signal)
    await this.cluster.agent.stop(signal)
    await this.cluster.restartAgent()
  }

  /** Of every process that is there now, one file each, for whoever looks for a cause. */
  async keepLogs(directory: string | undefined): Promise<void> {
    if (directory === undefined) return
    await mkdir(directory, { recursive: true })
    const logs = [['agent', this.cluster.agent.log()], ...(await this.carrier.logs())] as const
    for (const [name, text] of logs) await writeFile(join(directory, `${this.name}-${name}.log`), text)
  }

  async stop(): Promise<void> {
    await this.carrier.stop()
    await this.cluster.stop()
    this.apps.close()
  }
}

function ours(cluster: ClusterProcess): Carrier {
  return {
    sidecar: async service => void (await cluster.proxy(service, 'sidecar', '--for', service)),
    async gateway(id, { lan, wan, wanHost }) {
      const at = ['--address', `127.0.0.1:${lan}`, '--wan-address', `${wanHost}:${wan}`]
      await cluster.proxy(id, 'gateway', '--name', id, ...at)
    },
    async endGateway(id, gone) {
      const { child } = cluster.proxies.get(id)!
      child.kill('SIGTERM')
      await gone()
      await until(`${id} has ended`, () => Promise.resolve(child.exitCode !== null), 30_000, 100)
    },
    killGateway: id => cluster.proxies.get(id)!.stop('SIGKILL'),
    logs: async () => new Map([...cluster.proxies].map(([name, running]) => [name, running.log()])),
    stop: async () => {},
  }
}

/** What a gateway of Consul's is given to end: as long as ours takes. */
const envoyDrainMs = 10_000

function envoys(consul: ConsulProcess): Carrier {
  const running = new Map<string, EnvoyProcess>()
  const run = async (name: string, which: string[], port: () => Promise<number>) => {
    running.set(name, await EnvoyProcess.start(consul, name, which, port))
  }
  return {
    sidecar: (service, port) => run(service, ['-sidecar-for', service], port),
    async gateway(id, { lan, wan, wanHost }) {
      const at = (Address: string, Port: number) => ({ Address, Port })
      const tagged = { lan: at('127.0.0.1', lan), wan: at(wanHost, wan) }
      // By its own address, whatever name others know it by.
      const bind = { a: { address: '127.0.0.1', port: lan }, b: { address: '127.0.0.1', port: wan } }
      const Proxy = { Config: { envoy_mesh_gateway_no_default_bind: true, envoy_mesh_gateway_bind_addresses: bind } }
      const body = { Kind: 'mesh-gateway', Name: 'mesh-gateway', ID: id, ...tagged.lan, TaggedAddresses: tagged, Proxy }
      await consul.api('PUT', '/v1/agent/service/register', body)
      await run(id, ['-gateway', 'mesh', '-proxy-id', id], () => Promise.resolve(wan))
    },
    async endGateway(id, gone) {
      await consul.api('PUT', `/v1/agent/service/deregister/${id}`)
      await gone()
      await running.get(id)!.drain(envoyDrainMs)
    },
    async killGateway(id) {
      await running.get(id)!.running.stop('SIGKILL')
    },
    async logs() {
      const logs = new Map<string, string>()
      for (const [name, envoy] of running) {
        logs.set(name, envoy.running.log())
        logs.set(`${name}-stats`, await envoy.stats())
      }
      return logs
    },
    async stop() {
      await Promise.all([...running.values()].map(({ running: each }) => each.stop()))
    },
  }
}

export async function bothActive(a: Side, b: Side, withinMs = 90_000): Promise<void> {
  for (const side of [a, b])
    await until(`${side.name} sees ${side.peer} ACTIVE`, async () => (await side.peering()) === 'ACTIVE', withinMs, 200)
}
