/**
 * One real Envoy that a real Consul drives over xDS: `consul connect envoy -bootstrap` says how, the binary that ENVOY_BIN names runs it.
 * Loopback only, one worker thread; this Envoy is newer than Consul 1.16 knows, and is told to be taken all the same (data-plane.md 12).
 */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { findEnvoy } from '../../../bench/machine/programs.ts'
import { installEnvoy } from '../../support/envoy-binary.ts'
import { freePorts } from '../../support/free-ports.ts'
import { call, start, until, type Running } from '../../support/processes.ts'
import { consulBin, consulCli, type ConsulProcess } from '../consul-process.ts'

/** One is installed only where there is a Consul to drive it. */
export const envoyBin = findEnvoy() ?? (consulBin === undefined ? undefined : installEnvoy())

export class EnvoyProcess {
  readonly running: Running
  readonly adminPort: number

  private constructor(running: Running, adminPort: number) {
    this.running = running
    this.adminPort = adminPort
  }

  /** `which` are the flags that say whose proxy it is, `-sidecar-for api` or `-gateway mesh -proxy-id g`; `port` is one that it will listen on. */
  static async start(consul: ConsulProcess, name: string, which: string[], port: () => Promise<number>): Promise<EnvoyProcess> {
    const [admin] = (await freePorts(1)) as [number]
    const flags = ['-bootstrap', '-ignore-envoy-compatibility', '-envoy-binary', envoyBin!, '-admin-bind', `127.0.0.1:${admin}`]
    const made = await consulCli(consul.ports.http, 'connect', 'envoy', ...which, '-grpc-addr', `127.0.0.1:${consul.ports.grpc}`, ...flags)
    if (made.code !== 0) throw new Error(`no bootstrap for ${name}: ${made.stderr}`)
    const path = join(consul.directory, `${name}.json`)
    await writeFile(path, made.stdout)
    const running = start(envoyBin!, ['-c', path, '--concurrency', '1', '--disable-hot-restart', '-l', 'warn'])
    const envoy = new EnvoyProcess(running, admin)
    const listening = `127.0.0.1:${await port()}`
    await until(
      `Envoy ${name} listens on ${listening}`,
      async () => {
        if (running.child.exitCode !== null) throw new Error(`it ended: ${running.log().slice(-3000)}`)
        return (await call(admin, '/ready')).status === 200 && (await call(admin, '/listeners')).text.includes(listening)
      },
      30_000,
      100,
    )
    return envoy
  }

  /** What it counts; nothing of one that has ended. */
  async stats(): Promise<string> {
    return call(this.adminPort, '/stats?usedonly').then(
      ({ text }) => text,
      () => '',
    )
  }

  /** Takes no more connections and tells those that are there to go, then ends. */
  async drain(ms: number): Promise<void> {
    await call(this.adminPort, '/drain_listeners?graceful', { method: 'POST' })
    await new Promise(resolve => setTimeout(resolve, ms))
    await this.running.stop()
  }
}
