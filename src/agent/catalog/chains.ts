/**
 * Discovery chains of the entries in the tables: one for a reader, with everything it was made of, so that he waits for nothing else; and
 * whether the entries still make chains when one of them is written or deleted (spec/http-api.md 7, "graph validation").
 */
import type { ConfigEntry, ConfigEntryKind, EntryOf } from '../../mesh/config-entry.ts'
import { compileChain, type ChainEntries, type ChainRequest, type CompiledChain } from '../../mesh/discovery-chain-compiler.ts'
import type { ChainTarget, DiscoveryChain } from '../../mesh/discovery-chain.ts'
import type { Tables } from './tables.ts'
import type { Reading } from './topics.ts'

export type ChainTables = Pick<Tables, 'configEntry' | 'indexOf'>
type ListTables = Pick<Tables, 'configEntries'>

/** One entry as it would be; `entry` undefined is its absence. */
interface Change {
  kind: ConfigEntryKind
  name: string
  entry: ConfigEntry | undefined
}

/** The entries of the tables, and a note of each that was looked at. */
class TableEntries implements ChainEntries {
  readonly topics = new Set<string>()
  index = 1
  readonly #tables: ChainTables
  readonly #change: Change | undefined

  constructor(tables: ChainTables, change?: Change) {
    this.#tables = tables
    this.#change = change
  }

  router = (service: string) => this.#get('service-router', service)
  splitter = (service: string) => this.#get('service-splitter', service)
  resolver = (service: string) => this.#get('service-resolver', service)
  serviceDefaults = (service: string) => this.#get('service-defaults', service)
  proxyDefaults = () => this.#get('proxy-defaults', 'global')

  #get<K extends ConfigEntryKind>(kind: K, name: string): EntryOf<K> | undefined {
    const change = this.#change
    if (change?.kind === kind && change.name.toLowerCase() === name.toLowerCase()) return change.entry as EntryOf<K> | undefined
    const { value, index, topics } = this.#tables.configEntry(kind, name)
    this.index = Math.max(this.index, index)
    for (const topic of topics) this.topics.add(topic)
    return value
  }
}

/** Chains that are remembered for one set of tables. Over it the remembering begins anew. */
const maxRemembered = 4096
const remembered = new WeakMap<ChainTables, Map<string, Reading<CompiledChain>>>()

/** The same object as long as none of its entries changes: a health flip compiles no chain. */
export function readChain(tables: ChainTables, request: ChainRequest): Reading<CompiledChain> {
  let known = remembered.get(tables)
  if (known === undefined || known.size >= maxRemembered) remembered.set(tables, (known = new Map()))
  const key = JSON.stringify(request)
  const before = known.get(key)
  if (before !== undefined && tables.indexOf(before.topics) === before.index) return before
  const reading = readChainOnce(tables, request)
  known.set(key, reading)
  return reading
}

/** For a question that anybody may ask in any words: what is made of it is not remembered, and takes no place from what is. */
export function readChainOnce(tables: ChainTables, request: ChainRequest): Reading<CompiledChain> {
  const entries = new TableEntries(tables)
  const value = compileChain(request, entries)
  return { value, index: entries.index, topics: [...entries.topics] }
}

/** Names that have a router, a splitter or a resolver, sorted. */
export function chainNames(tables: ListTables): Reading<string[]> {
  const readings = chainKinds.map(kind => tables.configEntries(kind))
  const names = new Set(readings.flatMap(({ value }) => value.map(({ name }) => name)))
  const index = Math.max(...readings.map(reading => reading.index))
  return { value: [...names].sort(), index, topics: readings.flatMap(({ topics }) => topics) }
}

/**
 * The target that a peer's callers of an exported name go to, where that takes no look at their requests: the one of a chain that is a
 * resolver. Its failover does not count (spec/data-plane.md 5.5), and no peer is led to another peer or datacenter.
 */
export function passedThrough({ nodes, targets, startNode, datacenter }: DiscoveryChain): ChainTarget | undefined {
  const target = targets[nodes[startNode]?.resolver?.target ?? '']
  return target?.datacenter === datacenter ? target : undefined
}

/** Kinds whose entries chains are made of, or are bound by. */
const chainKinds = ['service-router', 'service-splitter', 'service-resolver'] as const
const graphKinds: ReadonlySet<string> = new Set([...chainKinds, 'service-defaults', 'proxy-defaults', 'exported-services'])

/** The name of such an entry is one that may be dialled. */
export function beginsChain(kind: ConfigEntryKind): boolean {
  return (chainKinds as readonly string[]).includes(kind)
}

export function concernsChains(kind: ConfigEntryKind): boolean {
  return graphKinds.has(kind)
}

/** Why this must not be written or deleted; undefined when the chains that it is part of still hold. */
export function chainProblem(tables: Tables, datacenter: string, change: Change): string | undefined {
  const exported = exportedNames(tables, change)
  const entries = new TableEntries(tables, change)
  for (const service of concerned(tables, change, exported)) {
    const compiled = compileChain({ service, datacenter, trustDomain: '' }, entries)
    if (!compiled.ok) return compiled.problem
    const crossing = exported.has(service.toLowerCase()) ? crossingOf(compiled.chain) : undefined
    if (crossing !== undefined) return `peer exported service ${JSON.stringify(service)} contains cross-datacenter ${crossing}`
  }
  return undefined
}

/** Names that are exported to a peer, in lower case. */
function exportedNames(tables: Tables, change: Change): Set<string> {
  const entry = change.kind === 'exported-services' ? change.entry : tables.configEntry('exported-services', 'default').value
  if (entry?.kind !== 'exported-services') return new Set()
  const toPeers = entry.services.filter(({ consumers }) => consumers.some(({ peer }) => peer))
  return new Set(toPeers.map(({ name }) => name.toLowerCase()))
}

/** The names whose chains may be others than before. */
function concerned(tables: Tables, { kind, name }: Change, exported: ReadonlySet<string>): Iterable<string> {
  if (kind === 'exported-services') return exported
  const references = referencesOf(tables)
  if (kind === 'proxy-defaults') return references.keys()
  const found = new Map([[name.toLowerCase(), name]])
  for (let before = 0; before !== found.size;) {
    before = found.size
    for (const [from, to] of references) if (to.some(each => found.has(each))) found.set(from.toLowerCase(), from)
  }
  return found.values()
}

/** By each name that has an entry: the names that its entries lead to, in lower case. */
function referencesOf(tables: Tables): Map<string, string[]> {
  const references = new Map<string, string[]>()
  for (const kind of chainKinds) {
    for (const entry of tables.configEntries(kind).value) {
      const to = namesIn(entry).map(each => each.toLowerCase())
      references.set(entry.name, [...(references.get(entry.name) ?? []), ...to])
    }
  }
  return references
}

function namesIn(entry: EntryOf<(typeof chainKinds)[number]>): string[] {
  switch (entry.kind) {
    case 'service-router':
      return (entry.routes ?? []).flatMap(({ destination }) => destination?.service || [])
    case 'service-splitter':
      return (entry.splits ?? []).flatMap(({ service }) => service || [])
    case 'service-resolver': {
      const sections = Object.values(entry.failover ?? {})
      const targets = [entry.redirect, ...sections, ...sections.flatMap(({ targets = [] }) => targets)]
      return targets.flatMap(target => target?.service || [])
    }
  }
}

/** What of a chain leads to another datacenter: a peer's callers cannot follow it there. */
function crossingOf({ nodes, targets, datacenter }: DiscoveryChain): string | undefined {
  const elsewhere = (id: string) => targets[id]?.datacenter !== undefined && targets[id].datacenter !== datacenter
  for (const { resolver } of Object.values(nodes)) {
    if (resolver && elsewhere(resolver.target)) return 'resolver redirect'
    if (resolver?.failover?.targets.some(elsewhere)) return 'failover'
  }
  return undefined
}
