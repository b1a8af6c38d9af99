/**
 * What a benchmark must not leave behind, however it ends: processes that it started and its directory of configuration and keys.
 * An interrupted one ends its processes itself, because a signal to npm alone would leave them running.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { tree } from './process.ts'
import type { Running } from '../../test/support/processes.ts'

const running = new Set<Running>()
const directories = new Set<string>()

process.on('exit', () => {
  for (const { child } of running) killAll(child.pid!)
  for (const directory of directories) rmSync(directory, { recursive: true, force: true })
})
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const)
  process.once(signal, () => process.exit(code))

/** With its children, which would serve on: nginx's workers, a supervisor's. */
function killAll(pid: number): void {
  for (const each of tree(pid)) {
    try {
      process.kill(each, 'SIGKILL')
    } catch {
      // It was gone by itself.
    }
  }
}

/** Ends with this process at the latest. */
export function endsWithUs(started: Running): Running {
  running.add(started)
  started.child.once('exit', () => running.delete(started))
  return started
}

/** What `run` started ends again when it fails: a pair is there whole or not at all. */
export async function wholly<T>(run: () => Promise<T>): Promise<T> {
  const before = new Set(running)
  try {
    return await run()
  } catch (error) {
    await Promise.all([...running].filter(each => !before.has(each)).map(each => each.stop()))
    throw error
  }
}

export function scratchDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), 'isthmus-bench-'))
  directories.add(directory)
  return directory
}
