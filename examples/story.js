// What the `run.js` of every example is told with: it starts the parts of a story, each a process of its own, drives them with nothing but
// the CLI, and ends all that it started. Exit code 0 when the story came true.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const cli = fileURLToPath(new URL('../dist/bin/isthmus.js', import.meta.url))

const started = []

/** Starts something that stays; `says` on it waits for what it prints. */
export function stay(name, args, env = {}) {
  const child = spawn(process.execPath, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  const lines = []
  for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => lines.push(String(chunk)))
  started.push({ name, child, lines })
  const says = text => until(`${name} says ${text}`, async () => lines.join('').includes(text))
  return Object.assign(child, { says })
}

/** Runs one CLI command to its end; answers what it printed. */
export function isthmus(env, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [cli, ...args], { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    let out = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => (out += chunk))
    child.on('close', code =>
      code === 0 ? resolve(out.trim()) : reject(new Error(`isthmus ${args.join(' ')} ended with ${code}: ${out}`)),
    )
  })
}

/** Waits until it is so; not for what has become impossible because a part of the story could not start. */
export async function until(what, probe, timeoutMs = 60_000) {
  const end = Date.now() + timeoutMs
  for (;;) {
    const found = await probe().catch(() => undefined)
    if (found) return found
    const gone = started.find(({ child }) => child.exitCode > 0)
    if (gone) throw new Error(`${gone.name} ended with ${gone.child.exitCode}`)
    if (Date.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

/** Ends something that stays. */
export async function end(child, signal = 'SIGTERM') {
  if (child.exitCode !== null || child.signalCode !== null) return
  child.kill(signal)
  const force = setTimeout(() => child.kill('SIGKILL'), 5000)
  await new Promise(resolve => child.once('exit', resolve))
  clearTimeout(force)
}

/** Also when nobody wants to hear the end: what was started must not stay. */
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    for (const { child } of started) child.kill('SIGTERM')
    process.exit(1)
  })
}

/** Tells the story of a folder. `story` gets a directory for what it keeps; it is removed with all the rest. */
export async function tell(folder, story) {
  process.chdir(folder)
  const data = mkdtempSync(join(tmpdir(), 'isthmus-example-'))
  let code = 0
  try {
    await story(data)
    console.log('it came true')
  } catch (error) {
    code = 1
    console.error(error instanceof Error ? error.message : error)
    for (const { name, lines } of started) console.error(`--- ${name}\n${lines.join('').slice(-2000)}`)
  } finally {
    await Promise.all(started.map(({ child }) => end(child)))
    rmSync(data, { recursive: true, force: true })
  }
  process.exit(code)
}
