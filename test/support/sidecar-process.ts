// A sidecar in a process of its own, beside a stand-in agent: for tests that measure a process. Run as a program it starts one, says
// where it listens, and ends with its stdin.
import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { silentLogger } from '../../src/lib/log.ts'
import { startSidecar } from '../../src/proxy/sidecar.ts'

const self = fileURLToPath(import.meta.url)

export interface SidecarProcess {
  /** Of the names that were asked for. */
  ports: Record<string, number>
  /** Memory in use now, in bytes, as the system sees it. */
  memory(): number
  stop(): Promise<void>
}

export async function spawnSidecar(proxyId: string, agentUrl: string, names: string[]): Promise<SidecarProcess> {
  const child = spawn(process.execPath, [self, proxyId, agentUrl, ...names], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  const line = await new Promise<string>((resolve, reject) => {
    child.stdout.once('data', chunk => resolve(String(chunk)))
    child.once('exit', code => reject(new Error(`the sidecar ${proxyId} ended with ${code}`)))
  })
  return {
    ports: JSON.parse(line) as Record<string, number>,
    memory: () => Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))![1]) * 1024,
    async stop() {
      child.stdin.end()
      await ended
    },
  }
}

if (process.argv[1] === self) {
  const [proxyId, url, ...names] = process.argv.slice(2) as [string, string, ...string[]]
  // A body may take as long as its reader does.
  const sidecar = await startSidecar({ proxyId, agent: { url }, logger: silentLogger(), limits: { requestTimeoutMs: 0 } })
  await sidecar.ready()
  process.stdout.write(JSON.stringify(Object.fromEntries(names.map(name => [name, sidecar.port(name)]))))
  process.stdin.on('end', () => void sidecar.close().then(() => process.exit()))
  process.stdin.resume()
}
