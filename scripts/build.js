// Builds src, test, bench, certs and examples into dist/ with tsc, drops what has no source any more, so that a deleted test never runs
// again, and makes the program dist/bin/isthmus.js of it: a command reads few files and none of the text that it does not use, so that it
// starts sooner and a proxy holds less memory.
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const dist = join(root, 'dist')
const bin = join(dist, 'bin')

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
const { outputFiles } = await build({
  write: false,
  entryPoints: { isthmus: join(dist, 'src', 'cli', 'main.js') },
  outdir: bin,
  bundle: true,
  // A command loads its own chunks only.
  splitting: true,
  chunkNames: 'chunks/[name]-[hash]',
  platform: 'node',
  target: 'node20',
  format: 'esm',
  // What is native stays where it is.
  external: ['lmdb'],
  // Packages of CommonJS ask for Node's own modules.
  banner: { js: "import { createRequire as requireOf } from 'node:module'\nconst require = requireOf(import.meta.url)" },
  // Names and lines stay, for the stack in a report.
  minifySyntax: true,
  minifyWhitespace: true,
  lineLimit: 160,
  sourcemap: 'linked',
  sourcesContent: false,
  legalComments: 'linked',
  logLevel: 'warning',
})
prune(dist)
rmSync(bin, { recursive: true, force: true })
mkdirSync(join(bin, 'chunks'), { recursive: true })
for (const { path, contents } of outputFiles) writeFileSync(path, contents)
chmodSync(join(bin, 'isthmus.js'), 0o755)
