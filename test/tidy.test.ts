// The architecture, kept by a test: which folder may import what, and that nothing lies about that nobody uses.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import t from 'tap'

interface Row {
  /** Folder or file this row is about; the longest match counts. */
  at: string
  /** Folders or files of src that it may import, besides itself. */
  src: string[]
  /** npm packages and node: modules. `node:*` is all of Node. */
  packages: string[]
  why: string
}

const everyMesh = ['src/lib', 'src/mesh']
const table: Row[] = [
  { at: 'src/lib', src: [], packages: ['node:*', 'pino', 'prom-client', 'zod', 'node-forge'], why: 'the floor: knows nothing of meshes' },
  { at: 'src/mesh', src: ['src/lib'], packages: ['zod', 're2js'], why: 'nouns and decisions: pure, no sockets, no timers, no node:' },
  {
    at: 'src/wire',
    src: everyMesh,
    packages: ['node:*', 'zod', '@grpc/grpc-js', '@bufbuild/protobuf', 'dns-packet', 'lru-cache'],
    why: 'formats that cross a process',
  },
  { at: 'src/agent/store', src: everyMesh, packages: ['node:*', 'lmdb'], why: 'the durable map; knows no tables' },
  { at: 'src/agent/catalog', src: [...everyMesh, 'src/agent/store'], packages: ['node:*', 'zod'], why: 'tables and writes over the store' },
  {
    at: 'src/agent/ca',
    src: [...everyMesh, 'src/agent/store', 'src/agent/catalog'],
    packages: ['node:*', 'node-forge', 'zod'],
    why: 'identity',
  },
  {
    at: 'src/agent/peering',
    src: [...everyMesh, 'src/wire', 'src/agent/store', 'src/agent/catalog', 'src/agent/ca'],
    packages: ['node:*', '@grpc/grpc-js', '@bufbuild/protobuf', 'lru-cache', 'zod'],
    why: 'what clusters tell each other',
  },
  { at: 'src/agent/snapshots', src: [...everyMesh, 'src/wire', 'src/agent/catalog'], packages: ['node:*'], why: 'what a proxy is told' },
  {
    at: 'src/agent/http',
    src: [...everyMesh, 'src/wire', 'src/agent/catalog', 'src/agent/ca', 'src/agent/peering', 'src/agent/snapshots', 'src/agent/config.ts'],
    packages: ['node:*', 'find-my-way', 'zod', 'prom-client'],
    why: 'a door: does not know the other doors, nor the store',
  },
  {
    at: 'src/agent/dns',
    src: [...everyMesh, 'src/wire', 'src/agent/catalog', 'src/agent/config.ts'],
    packages: ['node:*', 'dns-packet', 'lru-cache'],
    why: 'a door',
  },
  {
    at: 'src/agent/grpc',
    src: [...everyMesh, 'src/wire', 'src/agent/ca', 'src/agent/peering'],
    packages: ['node:*', '@grpc/grpc-js'],
    why: 'a door',
  },
  {
    at: 'src/agent/config-files.ts',
    src: everyMesh,
    packages: ['node:*', 'yaml'],
    why: 'what the operator wrote, in any of its languages',
  },
  {
    at: 'src/agent/config.ts',
    src: [...everyMesh, 'src/agent/config-files.ts'],
    packages: ['node:*', 'yaml', 'zod'],
    why: 'the keys of the agent',
  },
  { at: 'src/agent', src: [...everyMesh, 'src/wire', 'src/agent'], packages: ['node:*'], why: 'agent.ts, the wiring diagram' },
  { at: 'src/proxy/http1', src: everyMesh, packages: ['node:*'], why: 'the codec and one connection: the hot path' },
  { at: 'src/proxy/mux', src: ['src/lib'], packages: ['node:*'], why: 'streams over one connection: knows no HTTP and no plan' },
  {
    at: 'src/proxy/http2/wire',
    src: ['src/lib'],
    packages: ['node:*'],
    why: 'frames, header compression, flow control: knows no message and no plan',
  },
  {
    at: 'src/proxy/http2',
    src: [...everyMesh, 'src/proxy/http1'],
    packages: ['node:*'],
    why: 'the same for HTTP/2; refusals, outcomes and deadlines are those of http1',
  },
  {
    at: 'src/proxy',
    src: [...everyMesh, 'src/wire', 'src/proxy'],
    packages: ['node:*', 'node-forge', 'http-proxy', 'lru-cache', 'prom-client', 'zod'],
    why: 'data plane; never the agent',
  },
  {
    at: 'src/cli',
    src: ['src'],
    packages: ['node:*', 'commander', 'yaml', 'zod'],
    why: 'the only place, with index.ts, that sees both planes',
  },
  { at: 'src/index.ts', src: ['src'], packages: [], why: 'the public face' },
]

const tracked = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { encoding: 'utf8' })
  .split('\n')
  .filter(path => path !== '')
const sources = tracked.filter(path => /\.(?:ts|js)$/.test(path) && !path.startsWith('test/golden/') && readable(path))
const generated = (path: string) => path.startsWith('src/wire/gen/')

function readable(path: string): boolean {
  try {
    readFileSync(path)
    return true
  } catch {
    return false // deleted, not yet committed
  }
}

/** Every module that a file names, with relative ones resolved to paths from the root. */
function importsOf(path: string): string[] {
  const text = readFileSync(path, 'utf8')
  const found = text.matchAll(
    /(?:^|\n)\s*(?:import|export)\b[^'"\n;]*?(?:\{[^}]*\}[^'"\n;]*?)?from\s*['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]\s*\)|(?:^|\n)import\s+['"]([^'"]+)['"]/g,
  )
  return [...found]
    .map(match => (match[1] ?? match[2] ?? match[3])!)
    .map(name => (name.startsWith('.') ? normalize(join(dirname(path), name)) : name))
}

function packageOf(name: string): string {
  return name
    .split('/')
    .slice(0, name.startsWith('@') ? 2 : 1)
    .join('/')
}

const within = (path: string, folder: string) => path === folder || path.startsWith(`${folder}/`)

t.test('each folder imports only what its row in the table allows', t => {
  for (const path of sources.filter(each => each.startsWith('src/') && !generated(each))) {
    const row = table.filter(each => within(path, each.at)).sort((a, b) => b.at.length - a.at.length)[0]
    if (!row) {
      t.fail(`${path} is in no row of the table`)
      continue
    }
    for (const name of importsOf(path)) {
      const allowed = name.startsWith('src/')
        ? within(name, row.at) || row.src.some(folder => within(name, folder))
        : row.packages.includes(name.startsWith('node:') ? 'node:*' : packageOf(name)) || row.packages.includes(name)
      if (!allowed) t.fail(`${path} imports ${name}, which ${row.at} (${row.why}) must not`)
    }
  }
  t.pass(`${table.length} rows`)
  t.end()
})

t.test('every source file is reached from an entry', t => {
  const entries = sources.filter(
    path => path === 'src/index.ts' || path === 'src/cli/main.ts' || /^(?:bench|certs|examples|scripts)\//.test(path),
  )
  const reached = new Set<string>()
  const visit = (path: string) => {
    if (reached.has(path) || !sources.includes(path)) return
    reached.add(path)
    for (const name of importsOf(path)) visit(name)
  }
  entries.forEach(visit)
  t.same(
    sources.filter(path => path.startsWith('src/') && !generated(path) && !reached.has(path)),
    [],
    'nothing is left over',
  )
  t.end()
})

t.test('every file opens with a comment that says what it is', t => {
  const silent = sources.filter(path => !generated(path) && !/^(?:#![^\n]*\n)?\s*(?:\/\*\*?|\/\/)\s*\S/.test(readFileSync(path, 'utf8')))
  t.same(silent, [])
  t.end()
})

t.test('every dependency is imported by someone, and everyone imports what is declared', t => {
  const manifest = JSON.parse(readFileSync('package.json', 'utf8')) as Record<'dependencies' | 'devDependencies', Record<string, string>>
  const used = (paths: string[]) =>
    new Set(
      paths
        .flatMap(importsOf)
        .filter(name => !name.startsWith('node:'))
        .map(packageOf),
    )
  const inSource = used(sources.filter(path => path.startsWith('src/')))
  t.same(
    Object.keys(manifest.dependencies).filter(name => !inSource.has(name)),
    [],
    'no dependency that src does not use',
  )
  // What is run as a program rather than imported.
  const programs = new Set(['@bufbuild/buf', 'ts-proto', 'oxfmt', 'oxlint', 'oxlint-tsgolint', 'typescript', 'tap'])
  const everywhere = used(sources)
  const spare = Object.keys(manifest.devDependencies).filter(
    name => !programs.has(name) && !everywhere.has(name) && !name.startsWith('@types/'),
  )
  t.same(spare, [], 'no development dependency that nothing uses')
  const declared = new Set([...Object.keys(manifest.dependencies), ...Object.keys(manifest.devDependencies)])
  t.same(
    [...everywhere].filter(name => !declared.has(name) && !/^(?:src|test|bench|certs|examples|scripts)$/.test(name)),
    [],
    'nothing undeclared is imported',
  )
  t.end()
})

t.test('no private key is committed outside test/golden', t => {
  const marker = new RegExp(`-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-{5}\\s*[A-Za-z0-9+/]{40}`)
  const leaking = tracked.filter(path => !path.startsWith('test/golden/') && readable(path) && marker.test(readFileSync(path, 'latin1')))
  t.same(leaking, [])
  t.end()
})

t.test('no file or folder has a name without a subject', t => {
  t.same(
    tracked.filter(
      path =>
        /(?:^|\/)(?:utils?|helpers?|common|types|manager)(?:\.ts|\/)/.test(path) &&
        path.startsWith('src/') &&
        !generated(path) &&
        !path.startsWith('src/wire/proto/'),
    ),
    [],
  )
  t.end()
})
