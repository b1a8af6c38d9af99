// Go programs of test/interop, which drive ours with libraries that are not ours to bring: where Go or their modules cannot be had, nothing
// is tested with them, and that is said.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Builds test/interop/`name`. Why there is none; undefined where there is one. */
export async function buildGoProgram(name: string, program: string, nothing: string): Promise<string | undefined> {
  const source = join('test', 'interop', name)
  try {
    await run('go', ['mod', 'download'], { cwd: source, timeout: 60_000 })
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT'
    return `${missing ? 'there is no go command' : 'go cannot download its modules'}: ${nothing}`
  }
  await run('go', ['build', '-o', program, '.'], { cwd: source })
  return undefined
}

/** For tap's `skip`, which says nothing. */
export function loudly(skip: string | undefined): string | false {
  if (skip) process.stderr.write(`# SKIPPED: ${skip}\n`)
  return skip ?? false
}
