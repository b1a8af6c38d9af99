// Every example runs as its README tells it, in processes of its own.
import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'

const run = promisify(execFile)

t.setTimeout(180_000)

const folders = readdirSync('examples', { withFileTypes: true }).filter(each => each.isDirectory())

// Each has ports of its own, and waits most of the time.
t.jobs = folders.length

for (const { name } of folders) {
  t.test(`the example ${name} comes true`, async t => {
    const folder = join('examples', name)
    t.ok(existsSync(join(folder, 'README.md')), 'it tells its story')
    const { stdout } = await run(process.execPath, [join(folder, 'run.js')], { timeout: 90_000 })
    t.match(stdout, /it came true\n$/)
  })
}
