/**
 * Pairs of what is given and what must come of it, one folder for each subject under test/golden/pairs. A file `{given, expect}` (or
 * `{before, pairs: [{given, expect}]}`) that is put there is tested; nothing has to be written here for it.
 */
import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { decode, encode } from '../src/lib/shape.ts'
import { MeshError } from '../src/lib/errors.ts'
import { ChainAnswer, ChainOverrides } from '../src/mesh/discovery-chain.ts'
import { compileChain, type ChainEntries } from '../src/mesh/discovery-chain-compiler.ts'
import { parseConfigEntry, type ConfigEntry, type ConfigEntryKind } from '../src/mesh/config-entry.ts'
import { configEntryName, normaliseConfigEntry } from '../src/mesh/config-entry-check.ts'
import { statuses } from '../src/agent/http/errors.ts'
import { catalogScene, type CatalogScene } from './support/catalog-scene.ts'

interface Pair {
  note?: string
  given: Record<string, unknown>
  expect: unknown
}
interface PairFile extends Partial<Pair> {
  before?: Record<string, unknown>[]
  pairs?: Pair[]
}

function entryOf(body: unknown): ConfigEntry {
  const parsed = parseConfigEntry(body)
  if (!parsed.ok) throw new Error(`${JSON.stringify(body)}: ${parsed.text}`)
  return normaliseConfigEntry(parsed.value)
}

/** The entries of a list, as a chain asks for them. */
function chainEntries(bodies: unknown[]): ChainEntries {
  const entries = bodies.map(entryOf)
  const find = (kind: ConfigEntryKind, name: string) => entries.find(each => each.kind === kind && configEntryName(each) === name) as never
  return {
    router: name => find('service-router', name),
    splitter: name => find('service-splitter', name),
    resolver: name => find('service-resolver', name),
    serviceDefaults: name => find('service-defaults', name),
    proxyDefaults: () => find('proxy-defaults', 'global'),
  }
}

/** `{service, datacenter?, trustDomain?, overrides?, entries}` to `{chain}` as the API shows it, or `{problem}`. */
function chain(given: Record<string, unknown>): unknown {
  const { service, datacenter = 'dc1', trustDomain = 'local.consul', overrides, entries } = given as Record<string, string>
  const asked = decode(ChainOverrides, overrides ?? {}, { weak: true })
  if (!asked.ok) throw new Error(JSON.stringify(asked.issues))
  const request = { service: service!, datacenter, trustDomain, overrides: asked.value }
  const compiled = compileChain(request, chainEntries(entries as unknown as unknown[]))
  if (!compiled.ok) return { problem: compiled.problem }
  const answer = encode(ChainAnswer, { chain: { ...compiled.chain, autoVirtualIps: null, manualVirtualIps: null } })
  const { AutoVirtualIPs: _auto, ManualVirtualIPs: _manual, ...shown } = (answer as { Chain: Record<string, unknown> }).Chain
  return { chain: shown }
}

/** A config entry to `{status, text}`; what was written is taken away again. */
async function configWrite(given: Record<string, unknown>, { configEntries }: CatalogScene): Promise<unknown> {
  const parsed = parseConfigEntry(given)
  if (!parsed.ok) {
    const text = parsed.code === 'bad-request' ? `Request decoding failed: ${parsed.text}` : parsed.text
    return { status: statuses[parsed.code], text: text.trimEnd() }
  }
  const name = configEntryName(normaliseConfigEntry(parsed.value))
  try {
    const written = await configEntries.write(parsed.value)
    await configEntries.delete(parsed.value.kind, name)
    return { status: 200, text: String(written) }
  } catch (error) {
    if (error instanceof MeshError) return { status: statuses[error.code], text: error.message.replace(/\n+/g, '\n').trimEnd() }
    throw error
  }
}

const subjects: Record<string, (given: Record<string, unknown>, scene: CatalogScene) => unknown> = { chain, 'config-write': configWrite }

for (const [subject, run] of Object.entries(subjects)) {
  t.test(subject, async t => {
    const folder = `test/golden/pairs/${subject}`
    for (const file of readdirSync(folder).sort()) {
      const { before = [], pairs, ...single } = JSON.parse(readFileSync(`${folder}/${file}`, 'utf8')) as PairFile
      const scene = await catalogScene()
      for (const body of before) await scene.configEntries.write(entryOf(body))
      for (const { note, given, expect } of pairs ?? [single as Pair]) {
        t.strictSame(await run(given, scene), expect, `${file}: ${note ?? JSON.stringify(given).slice(0, 200)}`)
      }
      await scene.close()
    }
  })
}
