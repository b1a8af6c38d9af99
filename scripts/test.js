// Runs test files, each a program of its own, two at a time, and ends with one line, "N passed, N failed", counted from the TAP that they
// wrote. Arguments that are no flags are test files under dist/test. --deep runs the big counts too (ISTHMUS_DEEP=1), with more time.
// They are not run through tap's own runner: what that loads into every process to know its coverage is slower than most of the tests.
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const args = process.argv.slice(2)
const deep = args.includes('--deep')
const files = args.filter(arg => !arg.startsWith('--'))
const lanes = 2
/** A file may set itself more; tap in it reports what took too long. */
const timeoutS = deep ? 1800 : 120
/** Whoever does not even end after that is ended. */
const patienceMs = (timeoutS + 120) * 1000
/** They measure time, memory or processors, or start on ports of their own choice: one after another, beside nobody. */
const alone =
  /dist\/test\/(?:bench\/(?:path|load)|e2e\/(?:data-plane|demo|go-away|main-job|propagation|routing-story|upheaval)|examples|interop|proxy\/slow-reader)/
/** The long ones begin, so that no lane ends long before the other. */
const long = /dist\/test\/(?:e2e|agent\/peering\/simulation)/

/** Of failing assertions what follows them, and of skipped ones the reason. */
function tellWhy(lines) {
  lines.forEach((line, i) => {
    if (/# SKIP/.test(line)) console.log(line.trim())
    if (!/^\s*not ok /.test(line)) return
    const indent = line.search(/\S/)
    const end = lines.findIndex((each, j) => j > i + 1 && each.trim() === '...')
    const block = lines.slice(i, Math.min(end === -1 ? i + 1 : end, i + 40))
    console.log(block.map(each => each.slice(indent)).join('\n'))
  })
}

const total = { pass: 0, fail: 0, skip: 0 }
let done = 0

async function run(file) {
  const beganMs = performance.now()
  const env = { ...process.env, TAP_TIMEOUT: String(timeoutS), ...(deep ? { ISTHMUS_DEEP: '1' } : {}) }
  const child = spawn(process.execPath, ['--enable-source-maps', file], { cwd: root, env, stdio: ['ignore', 'pipe', 'inherit'] })
  const chunks = []
  child.stdout.on('data', chunk => chunks.push(chunk))
  const patience = setTimeout(() => {
    child.kill('SIGKILL')
    // Somebody else whom the test left behind may hold the other end.
    child.stdout.destroy()
  }, patienceMs)
  const [code, signal] = await new Promise(resolve => child.once('close', (...how) => resolve(how)))
  clearTimeout(patience)
  const said = Buffer.concat(chunks).toString()
  const summary = /^# \{([^}]*)\}\s*$/m.exec(said)?.[1] ?? ''
  const count = name => Number(new RegExp(`${name}: (\\d+)`).exec(summary)?.[1] ?? 0)
  for (const name of Object.keys(total)) total[name] += count(name)
  // Whoever fails without saying what, or ends before it said anything, has failed once.
  const ended = code === 0 && count('total') > 0
  if (!ended && count('fail') === 0) total.fail += 1
  console.log(`${ended ? 'ok' : 'not ok'} ${++done} - ${file} # time=${Math.round(performance.now() - beganMs)}ms`)
  tellWhy(said.split('\n'))
  if (!ended && count('fail') === 0) console.log(`it ended with ${signal ?? `exit code ${code}`}, and said last:\n${said.slice(-2000)}`)
}

async function runAll(members, jobs) {
  const left = members.toSorted((a, b) => Number(long.test(b)) - Number(long.test(a)))
  const lane = async () => {
    for (let file = left.shift(); file !== undefined; file = left.shift()) await run(file)
  }
  await Promise.all(Array.from({ length: jobs }, lane))
}

const found = readdirSync(join(root, 'dist', 'test'), { recursive: true }).filter(name => name.endsWith('.test.js'))
const chosen = files.length > 0 ? files : found.map(name => join('dist', 'test', name)).sort()
await runAll(
  chosen.filter(file => !alone.test(file)),
  lanes,
)
await runAll(
  chosen.filter(file => alone.test(file)),
  1,
)
console.log(`\n${total.pass} passed, ${total.fail} failed${total.skip > 0 ? `, ${total.skip} skipped` : ''}`)
process.exit(total.fail > 0 || total.pass === 0 ? 1 : 0)
