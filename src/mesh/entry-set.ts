/** Config entries held in memory, by kind and name, as decisions are made of them; and the same with some written or deleted. */
import { parseConfigEntry, type ConfigEntry, type ConfigEntryKind, type EntryOf } from './config-entry.ts'
import { checkConfigEntry, configEntryName, normaliseConfigEntry } from './config-entry-check.ts'
import type { ChainEntries } from './discovery-chain-compiler.ts'

export interface EntryName {
  kind: ConfigEntryKind
  name: string
}

export class EntrySet implements ChainEntries {
  readonly #entries: ReadonlyMap<string, ConfigEntry>

  constructor(entries: Iterable<ConfigEntry>) {
    this.#entries = new Map(Array.from(entries, entry => [keyOf(entry.kind, configEntryName(entry)), entry]))
  }

  /** What is deleted goes before what is written comes. */
  changed(write: readonly ConfigEntry[], remove: readonly EntryName[]): EntrySet {
    const gone = new Set(remove.map(({ kind, name }) => keyOf(kind, name)))
    return new EntrySet([...[...this.#entries].filter(([key]) => !gone.has(key)).map(([, entry]) => entry), ...write])
  }

  get<K extends ConfigEntryKind>(kind: K, name: string): EntryOf<K> | undefined {
    return this.#entries.get(keyOf(kind, name)) as EntryOf<K> | undefined
  }

  all<K extends ConfigEntryKind>(kind: K): EntryOf<K>[] {
    return [...this.#entries.values()].filter(entry => entry.kind === kind) as EntryOf<K>[]
  }

  router = (service: string) => this.get('service-router', service)
  splitter = (service: string) => this.get('service-splitter', service)
  resolver = (service: string) => this.get('service-resolver', service)
  serviceDefaults = (service: string) => this.get('service-defaults', service)
  proxyDefaults = () => this.get('proxy-defaults', 'global')
}

/** Names are the same whatever their case, as in the store. */
function keyOf(kind: ConfigEntryKind, name: string): string {
  return `${kind}/${name.toLowerCase()}`
}

/** One entry as somebody wrote it, in the form in which it is stored; or what is wrong with it. */
export function readEntry(input: unknown): { ok: true; entry: ConfigEntry } | { ok: false; problem: string } {
  const parsed = parseConfigEntry(input)
  if (!parsed.ok) return { ok: false, problem: parsed.text }
  const entry = normaliseConfigEntry(parsed.value)
  const problem = checkConfigEntry(entry)
  return problem === undefined ? { ok: true, entry } : { ok: false, problem }
}
