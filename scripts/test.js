// Runs the tests with tap and ends with one line, "N passed, N failed", counted from the TAP that tap wrote. Arguments that are no
// flags are test files under dist/test. --deep runs the big counts too (ISTHMUS_DEEP=1), without tap's short timeout.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const args = process.argv.slice(2)
const deep = args.includes('--deep')
const files = args.filter(arg => !arg.startsWith('--'))
const tap = join(root, 'node_modules', 'tap', 'dist', 'esm', 'run.mjs')
/** They start whole clusters, on ports that two of them may not share, or measure time: one after another. All others run two at a time. */
const alone = /dist\/test\/(?:e2e|cli\/process|cli\/why|interop|bench\/(?:path|load)|examples|proxy\/slow-reader)/

function run(tapArgs, env = {}) {
  return spawnSync(process.execPath, [tap, ...tapArgs], { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } }).status ?? 1
}

/** The result of each file; of a failing assertion the diagnostics that follow it, and of a skipped one the reason. */
function report(lines) {
  lines.forEach((line, i) => {
    if (/^(?:not )?ok \d+ - dist\//.test(line) || /# SKIP/.test(line)) console.log(line.trim())
    if (!/^\s+not ok /.test(line)) return
    const indent = line.search(/\S/)
    const end = lines.findIndex((each, j) => j > i + 1 && each.trim() === '...')
    const block = lines.slice(i, Math.min(end === -1 ? i + 1 : end, i + 40))
    console.log(block.map(each => each.slice(indent)).join('\n'))
  })
}

// tap builds itself with its plugins into node_modules, which `npm ci` makes anew.
const [built, installed] = [join(root, '.tap', 'built'), join(root, 'node_modules', '.package-lock.json')]
const ageOf = path => (existsSync(path) ? statSync(path).mtimeMs : 0)
mkdirSync(dirname(built), { recursive: true })
if (ageOf(built) <= ageOf(installed)) {
  if (run(['build']) !== 0) process.exit(1)
  writeFileSync(built, '')
}
// People see progress; a log gets a line for each file, and what failed.
const reporter = process.stdout.isTTY ? 'terse' : 'silent'
const options = ['--disable-coverage', `--reporter=${reporter}`, ...(deep ? ['--timeout=1800'] : [])]
const found = readdirSync(join(root, 'dist', 'test'), { recursive: true }).filter(name => name.endsWith('.test.js'))
const chosen = files.length > 0 ? files : found.map(name => join('dist', 'test', name)).sort()
const groups = [
  { jobs: 2, members: chosen.filter(file => !alone.test(file)) },
  { jobs: 1, members: chosen.filter(file => alone.test(file)) },
].filter(({ members }) => members.length > 0)

const total = { pass: 0, fail: 0, skip: 0 }
for (const { jobs, members } of groups) {
  const raw = join(root, '.tap', `results-${jobs}.tap`)
  const status = run(['run', ...options, `--jobs=${jobs}`, `--output-file=${raw}`, ...members], deep ? { ISTHMUS_DEEP: '1' } : {})
  const results = readFileSync(raw, 'utf8')
  if (reporter === 'silent') report(results.split('\n'))
  const summary = /^# \{([^}]*)\}\s*$/m.exec(results)
  const count = name => Number(new RegExp(`${name}: (\\d+)`).exec(summary?.[1] ?? '')?.[1] ?? 0)
  for (const name of Object.keys(total)) total[name] += count(name)
  if ((status !== 0 || summary === null) && count('fail') === 0) total.fail += 1
}
console.log(`\n${total.pass} passed, ${total.fail} failed${total.skip > 0 ? `, ${total.skip} skipped` : ''}`)
process.exit(total.fail > 0 || total.pass === 0 ? 1 : 0)
