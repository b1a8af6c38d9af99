// The README tells the truth about what can be typed: every command and every configuration key it names exists, and none is missing.
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { loadConfig } from '../src/agent/config.ts'
import { whyCodes } from '../src/mesh/why-report.ts'
import { cliPath } from './support/processes.ts'

const run = promisify(execFile)
const readme = readFileSync('README.md', 'utf8')

/** The first cells of a table under a heading. */
function firstCells(heading: string): string[] {
  const section = readme.slice(readme.indexOf(`## ${heading}`)).split('\n## ')[0]!
  return section
    .split('\n')
    .filter(line => line.startsWith('| `'))
    .map(line => line.split(' | ')[0]!.slice(2))
}

t.test('the commands of the README are those of the program', async t => {
  const { stdout } = await run(process.execPath, [cliPath, '--help'])
  const known = [...stdout.slice(stdout.indexOf('Commands:')).matchAll(/^ {2}([a-z]+)/gm)]
    .map(match => match[1]!)
    .filter(name => name !== 'help')
  const told = firstCells('Commands').flatMap(cell => [...cell.matchAll(/`([a-z]+)/g)].map(match => match[1]!))
  t.same(told.toSorted(), known.toSorted())
})

t.test('every configuration key of the README is accepted', t => {
  const values: Record<string, unknown> = {
    node_meta: {},
    services: [],
    checks: [],
    bootstrap: [],
    recursors: [],
    allowed_hosts: [],
    response_headers: {},
    block_endpoints: [],
    allow_write_http_from: [],
    discovery_max_stale: '1s',
  }
  const booleans = new Set(['enabled', 'allow_plaintext', 'allow_unauthenticated_clients', 'use_cache', 'translate_wan_addrs'])
  const keys = firstCells('Agent configuration').flatMap(cell =>
    [...cell.matchAll(/`([a-z_.{},]+?)(?:\.\*)?`/g)].flatMap(match => spread(match[1]!)),
  )
  t.ok(keys.length > 25, `${keys.length} keys`)
  for (const key of keys) {
    const parts = key.split('.')
    const leaf = parts.at(-1)!
    const value =
      leaf in values
        ? values[leaf]
        : parts[0] === 'ports' || parts[0] === 'limits' || leaf.endsWith('_port')
          ? 1
          : booleans.has(leaf)
            ? true
            : key === 'dns_config'
              ? {}
              : leaf.includes('addr') || parts[0] === 'addresses'
                ? '127.0.0.1'
                : leaf === 'log_level'
                  ? 'info'
                  : leaf === 'default_intention_policy'
                    ? 'deny'
                    : 'x'
    const fragment = parts.reduceRight<unknown>((inner, part) => ({ [part]: inner }), value) as Record<string, unknown>
    t.doesNotThrow(() => loadConfig({ dev: true, flags: fragment }), key)
  }
  t.throws(() => loadConfig({ dev: true, flags: { bogus: 1 } }), /invalid config key bogus/)
  t.end()
})

t.test('docs/api.md is what the route table and the error codes say', async t => {
  const dist = dirname(dirname(cliPath))
  const { stdout } = await run(process.execPath, ['scripts/api-docs.js', '--print', dist])
  t.equal(readFileSync('docs/api.md', 'utf8'), stdout, 'if not: npm run docs')
})

t.test('every metric that the README names is one that an agent or a proxy has', t => {
  const sources = ['src/agent/peering/metrics.ts', 'src/agent/dns/metrics.ts', 'src/proxy/metrics.ts']
    .map(file => readFileSync(file, 'utf8'))
    .join('')
  const named = [...new Set([...readme.matchAll(/isthmus_[a-z_]+/g)].map(match => match[0]))]
  t.ok(named.length >= 5)
  for (const name of named) t.ok(sources.includes(`'${name}'`), name)
  t.end()
})

t.test('docs/why.md has every code of an explanation, and no other', t => {
  const page = readFileSync('docs/why.md', 'utf8')
  const cells = [...page.matchAll(/^\| (`.*?) \|/gm)].flatMap(match => [...match[1]!.matchAll(/`([a-z-]+)`/g)].map(each => each[1]!))
  t.same(cells.toSorted(), whyCodes.toSorted())
  t.end()
})

/** `ports.{http,dns}` -> `ports.http`, `ports.dns`. */
function spread(text: string): string[] {
  const match = /^([a-z_.]*)\{([a-z_,]+)\}$/.exec(text)
  return match ? match[2]!.split(',').map(each => match[1]! + each) : [text]
}
