// One real Consul server on loopback for the interop tests. The binary is the one that CONSUL_BIN names; nothing here says where
// it comes from. Every door is bound to loopback by name: some builds widen client_addr 127.0.0.1 to all interfaces (traps.md).
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawn } from 'node:child_process'
import { freePorts } from '../support/free-ports.ts'
import { call, sidecarPorts, start, until, type Answer, type Running } from '../support/processes.ts'

export const consulBin = process.env['CONSUL_BIN']

export interface Output {
  code: number
  stdout: string
  stderr: string
}

/** Runs the `consul` binary as a client of any agent, ours too. */
export async function consulCli(httpPort: number, ...args: string[]): Promise<Output> {
  const env = { ...process.env, CONSUL_HTTP_ADDR: `127.0.0.1:${httpPort}` }
  const child = spawn(consulBin!, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const [out, err]: [string[], string[]] = [[], []]
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk.toString()))
  const code = await new Promise<number>(resolve => child.once('close', exit => resolve(exit ?? -1)))
  return { code, stdout: out.join(''), stderr: err.join('') }
}

export class ConsulProcess {
  readonly datacenter: string
  readonly directory: string
  readonly ports: { http: number; dns: number; grpc: number; grpcTls: number }
  agent: Running

  private constructor(datacenter: string, directory: string, ports: ConsulProcess['ports']) {
    this.datacenter = datacenter
    this.directory = directory
    this.ports = ports
    this.agent = this.#spawn()
  }

  static async start(datacenter: string): Promise<ConsulProcess> {
    const directory = await mkdtemp(join(tmpdir(), `consul-${datacenter}-`))
    const [http, dns, grpc, grpcTls, server, serfLan, serfWan, ...sidecars] = (await freePorts(7 + sidecarPorts)) as [
      number,
      number,
      number,
      number,
      number,
      number,
      number,
      ...number[],
    ]
    const loopback = '127.0.0.1'
    const config = {
      datacenter,
      node_name: `${datacenter}-1`,
      server: true,
      bootstrap: true,
      data_dir: join(directory, 'data'),
      bind_addr: loopback,
      advertise_addr: loopback,
      serf_lan: loopback,
      serf_wan: loopback,
      addresses: { http: loopback, https: loopback, dns: loopback, grpc: loopback, grpc_tls: loopback },
      ports: {
        http,
        https: -1,
        dns,
        grpc,
        grpc_tls: grpcTls,
        server,
        serf_lan: serfLan,
        serf_wan: serfWan,
        sidecar_min_port: sidecars[0],
        sidecar_max_port: sidecars.at(-1),
      },
      connect: { enabled: true },
      peering: { enabled: true },
      performance: { raft_multiplier: 1 },
      disable_update_check: true,
      log_level: 'info',
    }
    await writeFile(join(directory, 'agent.json'), JSON.stringify(config))
    const consul = new ConsulProcess(datacenter, directory, { http, dns, grpc, grpcTls })
    await consul.ready()
    return consul
  }

  #spawn(): Running {
    return start(consulBin!, ['agent', '-config-file', join(this.directory, 'agent.json')])
  }

  async ready(): Promise<void> {
    await until(
      `Consul of ${this.datacenter} ready`,
      async () => {
        if (this.agent.child.exitCode !== null) throw new Error(`Consul ended: ${this.agent.log().slice(-3000)}`)
        const roots = await call(this.ports.http, '/v1/connect/ca/roots')
        const self = (await call(this.ports.http, '/v1/health/service/consul')).json as unknown[]
        return roots.status === 200 && (roots.json as { Roots: unknown[] }).Roots.length > 0 && self.length > 0
      },
      60_000,
      100,
    )
  }

  /** Ends it, with the given signal, and starts it again over the same data. */
  async restart(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    await this.agent.stop(signal)
    this.agent = this.#spawn()
    await this.ready()
  }

  async api(method: string, path: string, body?: unknown, any = false): Promise<Answer> {
    const answer = await call(this.ports.http, path, { method, body })
    if (!any && answer.status >= 300) throw new Error(`${this.datacenter}: ${method} ${path} -> ${answer.status} ${answer.text}`)
    return answer
  }

  async stop(): Promise<void> {
    await this.agent.stop()
    await rm(this.directory, { recursive: true, force: true })
  }
}
