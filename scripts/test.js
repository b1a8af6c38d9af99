// Runs the tests with tap and ends with one line, "N passed, N failed", counted from the TAP that tap wrote. Arguments that are no
// flags are test files under dist/test. --deep runs the big counts too (ISTHMUS_DEEP=1), without tap's short timeout.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const args = process.argv.slice(2)
const deep = args.includes('--deep')
const files = args.filter(arg => !arg.startsWith('--'))
const tap = join(root, 'node_modules', 'tap', 'dist', 'esm', 'run.mjs')
const raw = join(root, '.tap', 'results.tap')

function run(tapArgs, env = {}) {
  return spawnSync(process.execPath, [tap, ...tapArgs], { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } }).status ?? 1
}

if (!existsSync(join(root, '.tap', 'plugins')) && run(['build']) !== 0) process.exit(1)
mkdirSync(dirname(raw), { recursive: true })
const status = run(
  ['run', '--disable-coverage', '--reporter=terse', `--output-file=${raw}`, ...(deep ? ['--timeout=1800'] : []), ...files],
  deep ? { ISTHMUS_DEEP: '1' } : {},
)

const summary = /^# \{([^}]*)\}\s*$/m.exec(readFileSync(raw, 'utf8'))
const count = name => Number(new RegExp(`${name}: (\\d+)`).exec(summary?.[1] ?? '')?.[1] ?? 0)
const failed = count('fail') + (status !== 0 && count('fail') === 0 ? 1 : 0)
console.log(`\n${count('pass')} passed, ${failed} failed${count('skip') > 0 ? `, ${count('skip')} skipped` : ''}`)
process.exit(summary === null || failed > 0 ? 1 : 0)
