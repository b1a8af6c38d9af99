// Builds src, test, bench, certs and examples into dist/ with tsc, and drops what has no source any more, so that a deleted test never runs again.
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, readdirSync, rmSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const dist = join(root, 'dist')

function prune(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) prune(path)
    else if (/\.(?:d\.ts|js|js\.map)$/.test(entry.name)) {
      const source = join(root, relative(dist, path)).replace(/\.(?:d\.ts|js|js\.map)$/, '.ts')
      if (!existsSync(source)) rmSync(path)
    }
  }
}

const tsc = spawnSync(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc')], { cwd: root, stdio: 'inherit' })
if (tsc.status !== 0) process.exit(tsc.status ?? 1)
prune(dist)
chmodSync(join(dist, 'src', 'cli', 'main.js'), 0o755)
