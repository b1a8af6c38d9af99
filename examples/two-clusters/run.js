// Runs the example as README.md tells it, each part a process of its own, driven by nothing but the CLI; checks what comes out and
// ends everything it started. Exit code 0 when the story came true.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const cli = join(here, '..', '..', 'dist', 'src', 'cli', 'main.js')
const data = mkdtempSync(join(tmpdir(), 'isthmus-example-'))
const east = { ISTHMUS_HTTP_ADDR: '127.0.0.1:17500' }
const west = { ISTHMUS_HTTP_ADDR: '127.0.0.1:18500' }
const started = []

/** Starts something that stays. */
function stay(name, args, env = {}) {
  const child = spawn(process.execPath, args, { cwd: here, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  const lines = []
  for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => lines.push(String(chunk)))
  started.push({ name, child, lines })
  return child
}

/** Runs one CLI command to its end; answers what it printed. */
function isthmus(env, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [cli, ...args], { cwd: here, env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
    let out = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => (out += chunk))
    child.on('close', code =>
      code === 0 ? resolve(out.trim()) : reject(new Error(`isthmus ${args.join(' ')} ended with ${code}: ${out}`)),
    )
  })
}

async function until(what, probe, timeoutMs = 20_000) {
  const end = Date.now() + timeoutMs
  for (;;) {
    const found = await probe().catch(() => undefined)
    if (found) return found
    if (Date.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

async function story() {
  stay('api', ['api.js'])
  stay('agent east', [cli, 'agent', '--config-file', 'east/agent.json', '--data-dir', join(data, 'east')])
  stay('agent west', [cli, 'agent', '--config-file', 'west/agent.json', '--data-dir', join(data, 'west')])
  await until('both agents answer', () => Promise.all([isthmus(east, 'catalog', 'nodes'), isthmus(west, 'catalog', 'nodes')]))
  console.log('1. two clusters run, each with its own CA and catalog')

  console.log(await isthmus(west, 'config', 'write', 'west/api-defaults.json'))
  console.log(await isthmus(west, 'services', 'register', 'west/api.json'))
  console.log(await isthmus(east, 'services', 'register', 'east/web.json'))
  stay('sidecar api', [cli, 'sidecar', '--for', 'api'], west)
  stay('sidecar web', [cli, 'sidecar', '--for', 'web'], east)
  stay('gateway west', [cli, 'gateway', '--address', '127.0.0.1:18443'], west)

  const token = await isthmus(west, 'peering', 'generate-token', '--name', 'east')
  console.log(await isthmus(east, 'peering', 'establish', '--name', 'west', '--peering-token', token))
  await until('the peering is ACTIVE', async () => /ACTIVE/.test(await isthmus(east, 'peering', 'list')))
  console.log(`2. peered\n${await isthmus(east, 'peering', 'list')}`)

  console.log(await isthmus(west, 'config', 'write', 'west/exported-services.json'))
  const get = async () => {
    const response = await fetch('http://127.0.0.1:17191/hello')
    return { status: response.status, text: (await response.text()).trim() }
  }
  const denied = await until('api is reached and says no', async () => {
    const answer = await get()
    return answer.status === 403 && answer
  })
  console.log(`3. exported, and denied while no intention allows it: ${denied.status} ${denied.text}`)

  console.log(await isthmus(west, 'config', 'write', 'west/intentions.json'))
  const allowed = await until('api answers', async () => {
    const answer = await get()
    return answer.status === 200 && answer
  })
  console.log(`4. allowed: ${allowed.status} ${allowed.text}`)
  if (!/"caller":"spiffe:\/\/[^"]+\/dc\/east\/svc\/web"/.test(allowed.text)) throw new Error('api did not see who called')
}

let code = 0
try {
  await story()
} catch (error) {
  code = 1
  console.error(error instanceof Error ? error.message : error)
  for (const { name, lines } of started) console.error(`--- ${name}\n${lines.join('').slice(-2000)}`)
} finally {
  await Promise.all(
    started.map(async ({ child }) => {
      if (child.exitCode !== null || child.signalCode !== null) return
      child.kill('SIGTERM')
      const force = setTimeout(() => child.kill('SIGKILL'), 5000)
      await new Promise(resolve => child.once('exit', resolve))
      clearTimeout(force)
    }),
  )
  rmSync(data, { recursive: true, force: true })
}
process.exit(code)
