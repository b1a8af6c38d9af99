/**
 * Pairs of what is given and what must come of it, one folder for each subject under test/golden/pairs. A file `{given, expect}` (or
 * `{before, base, pairs: [{given, expect}]}`, where `base` is what is given to each) that is put there is tested; nothing has to be written here for it.
 */
import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { decode, encode } from '../src/lib/shape.ts'
import { MeshError } from '../src/lib/errors.ts'
import { ChainAnswer, ChainOverrides } from '../src/mesh/discovery-chain.ts'
import { compileChain } from '../src/mesh/discovery-chain-compiler.ts'
import { parseConfigEntry } from '../src/mesh/config-entry.ts'
import { configEntryName, normaliseConfigEntry } from '../src/mesh/config-entry-check.ts'
import { chooseLeg, compileRouting, rewritten, route, type ResolverPlan } from '../src/mesh/routing.ts'
import { statuses } from '../src/agent/http/errors.ts'
import { chainEntries, entryOf } from './support/chain-entries.ts'
import { catalogScene, type CatalogScene } from './support/catalog-scene.ts'

interface Pair {
  note?: string
  given: Record<string, unknown>
  expect: unknown
}
interface PairFile extends Partial<Pair> {
  before?: Record<string, unknown>[]
  base?: Record<string, unknown>
  pairs?: Pair[]
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

interface RequestGiven {
  method?: string
  target: string
  headers?: Record<string, string>
  /** Where in [0, 1) a split is cut. */
  point?: number
}

/** `{service, entries, request}` to the entries that decided, the targets in order, and the path that goes on; `'no route'` where none matches. */
function routeOf(given: Record<string, unknown>): unknown {
  const { service, entries, request } = given as { service: string; entries: unknown[]; request: RequestGiven }
  const compiled = compileChain({ service, datacenter: 'dc1', trustDomain: 'local.consul' }, chainEntries(entries))
  if (!compiled.ok) return { problem: compiled.problem }
  const problems: string[] = []
  const routing = compileRouting(compiled.chain, problems)
  const { method = 'GET', target, headers = {}, point = 0 } = request
  const path = target.split('?')[0]!
  const found = route(routing, { method, target, path, headers: Object.entries(headers).flat() })
  if (found === undefined) return 'no route'
  const leg = found.next.kind === 'split' ? chooseLeg(found.next, point) : undefined
  const resolver = leg?.resolver ?? (found.next as ResolverPlan)
  return {
    decided: [found.entry, ...found.via, ...(leg?.via ?? []), leg?.entry ?? '', resolver.entry].filter(entry => entry !== ''),
    targets: resolver.targets,
    target: found.rewrite ? rewritten(found.rewrite, target, path) : target,
    ...(problems.length > 0 ? { problems } : {}),
  }
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

const subjects: Record<string, (given: Record<string, unknown>, scene: CatalogScene) => unknown> = {
  chain,
  route: routeOf,
  'config-write': configWrite,
}

for (const [subject, run] of Object.entries(subjects)) {
  t.test(subject, async t => {
    const folder = `test/golden/pairs/${subject}`
    for (const file of readdirSync(folder).sort()) {
      const { before = [], base = {}, pairs, ...single } = JSON.parse(readFileSync(`${folder}/${file}`, 'utf8')) as PairFile
      const scene = await catalogScene()
      for (const { note, given, expect } of pairs ?? [single as Pair]) {
        for (const body of before) await scene.configEntries.write(entryOf(body))
        t.strictSame(await run({ ...base, ...given }, scene), expect, `${file}: ${note ?? JSON.stringify(given).slice(0, 200)}`)
      }
      await scene.close()
    }
  })
}
