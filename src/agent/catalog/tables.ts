/**
 * The tables: in-memory indexes over the store, fed by its watch and by nothing else. Reads are synchronous and never touch the
 * disk. Every read says which topics it looked at and the last revision that touched them, so that a blocking query wakes only
 * for its own (spec/http-api.md 1.8). Indexes never fall: after a restart every topic starts at the store's revision.
 */
import type { ConfigEntry, ConfigEntryKind, EntryOf } from '../../mesh/config-entry.ts'
import { protocolOf } from '../../mesh/protocol.ts'
import type { HealthCheck } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import type { StoredPeering, TrustBundle } from '../../mesh/peering.ts'
import type { PreparedQuery } from '../../mesh/prepared-query.ts'
import type { CheckServiceNode, NodeService } from '../../mesh/service.ts'
import type { Session } from '../../mesh/session.ts'
import type { Store, Watch, WatchBatch, WatchEvent } from '../store/store.ts'
import { ImportedTable } from './imported-table.ts'
import { InstancesTable } from './instances-table.ts'
import { KvTable } from './kv-table.ts'
import { RecordTable } from './record-table.ts'
import type { CaRoot, Change, ImportedService, KvRecord } from './records.ts'
import { Topics, type Changed, type Reading } from './topics.ts'

export type { CaRoot, ImportedService, KvRecord } from './records.ts'
export type { Changed, Reading } from './topics.ts'

const reloadDelayMs = 500
const decoder = new TextDecoder()

/** What the tables are made from. */
type Source = Pick<Store, 'revision' | 'list' | 'watch'>

interface Subject {
  prefix: string
  apply: (change: Change, key: string) => void
}

export class Tables {
  readonly #store: Source
  readonly #topics = new Topics()
  readonly #catalog = new InstancesTable(this.#topics)
  readonly #imported = new ImportedTable(this.#topics)
  readonly #kv = new KvTable(this.#topics)
  readonly #config = new RecordTable<ConfigEntry>(this.#topics, 'config', { grouped: true })
  readonly #sessions = new RecordTable<Session>(this.#topics, 'session')
  readonly #queries = new RecordTable<PreparedQuery>(this.#topics, 'query')
  readonly #peerings = new RecordTable<StoredPeering>(this.#topics, 'peering')
  readonly #trustBundles = new RecordTable<TrustBundle>(this.#topics, 'trust-bundle')
  readonly #virtualIps = new RecordTable<{ address: string }>(this.#topics, 'virtual-ip')
  /** Who holds each virtual address. */
  readonly #addresses = new Map<string, { peer: string; service: string; address: string }>()
  readonly #caRoots = new RecordTable<CaRoot>(this.#topics, 'ca-roots')
  /** In the order in which the changes of one revision are applied; keys under no prefix here are not for reading. */
  readonly #subjects: readonly Subject[] = [
    { prefix: 'node/', apply: change => this.#catalog.applyNode(change) },
    { prefix: 'service/', apply: change => this.#catalog.applyService(change) },
    { prefix: 'check/', apply: change => this.#catalog.applyCheck(change) },
    { prefix: 'imported-data/', apply: change => this.#imported.applyChunk(change) },
    { prefix: 'imported/', apply: change => this.#imported.applyRecord(change) },
    { prefix: 'config/', apply: change => this.#config.apply(change) },
    { prefix: 'peering/', apply: change => this.#peerings.apply(change) },
    { prefix: 'trust-bundle/', apply: change => this.#trustBundles.apply(change) },
    { prefix: 'virtual-ip/', apply: change => this.#applyVirtualIp(change) },
    { prefix: 'ca/root/', apply: change => this.#caRoots.apply(change) },
    { prefix: 'session/', apply: change => this.#sessions.apply(change) },
    { prefix: 'query/', apply: change => this.#queries.apply(change) },
    { prefix: 'kv/', apply: (change, key) => this.#kv.apply(key, change) },
  ]
  #watch: Watch | undefined
  #revision = 0
  #closed = false
  #awaited: { revision: number; resolve: () => void }[] = []

  private constructor(store: Source) {
    this.#store = store
  }

  static async open(store: Source): Promise<Tables> {
    const tables = new Tables(store)
    await tables.#load()
    return tables
  }

  /** Applied so far. */
  get revision(): number {
    return this.#revision
  }

  /** Resolves when the tables have applied this revision. */
  reached(revision: number): Promise<void> {
    if (revision <= this.#revision || this.#closed) return Promise.resolve()
    return new Promise(resolve => this.#awaited.push({ revision, resolve }))
  }

  /** Resolves when the tables show what the store holds now. */
  current(): Promise<void> {
    return this.reached(this.#store.revision)
  }

  /** Resolves true when a topic changed after `index`, false at the timeout or an abort. */
  waitFor(topics: readonly string[], index: number, timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    return this.#topics.waitFor(topics, index, timeoutMs, signal)
  }

  /** The last revision that touched one of the topics: tells whether a reading still holds without making it again. */
  indexOf(topics: readonly string[]): number {
    return this.#topics.read(undefined, ...topics).index
  }

  /** Calls back (coalesced, in a later macrotask) with those of the topics that changed; the topics are asked for anew after each call. */
  subscribe(topics: () => readonly string[], onChange: (changed: Changed) => void): { close(): void } {
    return this.#topics.subscribe(topics, onChange)
  }

  nodes(): Reading<Node[]> {
    return this.#catalog.nodes()
  }

  node(name: string): Reading<Node | undefined> {
    return this.#catalog.node(name)
  }

  /** Local service names with their sorted unique tags. */
  services(): Reading<Map<string, string[]>> {
    return this.#catalog.services()
  }

  /** Instances with their checks and those of their nodes, by node name, then service id. An empty `peer` is our own cluster. */
  instances(service: string, peer = ''): Reading<CheckServiceNode[]> {
    return peer === '' ? this.#catalog.instances(service) : this.#imported.instances(service, peer)
  }

  /** Mesh endpoints of a service: sidecars and native instances; of a peer, its synthetic proxies. */
  connectInstances(service: string, peer = ''): Reading<CheckServiceNode[]> {
    return peer === '' ? this.#catalog.connectInstances(service) : this.#imported.connectInstances(service, peer)
  }

  gateways(): Reading<CheckServiceNode[]> {
    return this.#catalog.gateways()
  }

  nodeServices(node: string): Reading<{ node: Node; services: NodeService[] } | undefined> {
    return this.#catalog.nodeServices(node)
  }

  checksOfNode(node: string): Reading<HealthCheck[]> {
    return this.#catalog.checksOfNode(node)
  }

  checksOfService(service: string): Reading<HealthCheck[]> {
    return this.#catalog.checksOfService(service)
  }

  /** `any` is every state. */
  checksInState(state: string): Reading<HealthCheck[]> {
    return this.#catalog.checksInState(state)
  }

  /** One record of our own catalog as it stands, for its writers. */
  serviceOf(node: string, id: string): NodeService | undefined {
    return this.#catalog.serviceOf(node, id)
  }

  checkOf(node: string, id: string): HealthCheck | undefined {
    return this.#catalog.checkOf(node, id)
  }

  /** The checks of one instance alone; with an empty id those of the node itself. */
  checksOfInstance(node: string, serviceId: string): HealthCheck[] {
    return this.#catalog.checksOfInstance(node, serviceId)
  }

  configEntry<K extends ConfigEntryKind>(kind: K, name: string): Reading<EntryOf<K> | undefined> {
    return this.#config.get(kind, name) as Reading<EntryOf<K> | undefined>
  }

  configEntries<K extends ConfigEntryKind>(kind: K): Reading<EntryOf<K>[]>
  configEntries(kind?: ConfigEntryKind): Reading<ConfigEntry[]>
  configEntries(kind?: ConfigEntryKind): Reading<ConfigEntry[]> {
    return this.#config.list(kind)
  }

  protocol(service: string): Reading<string> {
    const own = this.configEntry('service-defaults', service)
    const global = this.configEntry('proxy-defaults', 'global')
    return this.#topics.read(protocolOf(own.value, global.value), ...own.topics, ...global.topics)
  }

  peerings(): Reading<StoredPeering[]> {
    return this.#peerings.list()
  }

  peering(name: string): Reading<StoredPeering | undefined> {
    return this.#peerings.get(name)
  }

  peeringById(id: string): StoredPeering | undefined {
    return this.#peerings.find(peering => peering.id === id)
  }

  trustBundles(): Reading<TrustBundle[]> {
    return this.#trustBundles.list()
  }

  trustBundle(peer: string): Reading<TrustBundle | undefined> {
    return this.#trustBundles.get(peer)
  }

  importedServices(peer: string): Reading<ImportedService[]> {
    return this.#imported.services(peer)
  }

  /** One of them as it stands, for its writer. */
  importedService(peer: string, service: string): ImportedService | undefined {
    return this.#imported.record(peer, service)
  }

  /** False where chunks of an imported set are missing, or were changed after it was written. */
  isWhole(peer: string, service: string): boolean {
    return this.#imported.isWhole(peer, service)
  }

  /** Every imported set of a peer as it stands, unsorted, for whoever checks them. */
  importedSets(peer: string): Iterable<{ record: ImportedService; whole: boolean }> {
    return this.#imported.sets(peer)
  }

  /** Peers of which anything imported is left, generations that no longer count included. */
  importedPeers(): Iterable<string> {
    return this.#imported.peers()
  }

  /** Generations of imported sets that no longer count, for their collector. */
  staleGenerations(peer: string, service?: string): { service: string; generation: string }[] {
    return this.#imported.staleGenerations(peer, service)
  }

  virtualIp(service: string, peer = ''): Reading<string | undefined> {
    const reading = this.#virtualIps.get(peer, service)
    return { ...reading, value: reading.value?.address }
  }

  /** The service that holds a virtual address. */
  virtualIpHolder(address: string): { peer: string; service: string } | undefined {
    return this.#addresses.get(address)
  }

  /** Every virtual address that is held; of one peer, when it is named. */
  virtualIps(peer?: string): { peer: string; service: string; address: string }[] {
    const all = [...this.#addresses.values()]
    return peer === undefined ? all : all.filter(each => each.peer === peer)
  }

  kv(key: string): Reading<KvRecord | undefined> {
    return this.#kv.get(key)
  }

  kvList(prefix: string): Reading<KvRecord[]> {
    return this.#kv.list(prefix)
  }

  /** What a session holds. */
  keysHeldBy(session: string): KvRecord[] {
    return this.#kv.heldBy(session)
  }

  /** Sessions that hold a key. */
  lockHolders(): string[] {
    return this.#kv.holders()
  }

  /** In the order of their ids. */
  sessions(): Reading<Session[]> {
    return this.#sessions.list()
  }

  session(id: string): Reading<Session | undefined> {
    return this.#sessions.get(id)
  }

  preparedQueries(): Reading<PreparedQuery[]> {
    return this.#queries.list()
  }

  preparedQuery(id: string): Reading<PreparedQuery | undefined> {
    return this.#queries.get(id)
  }

  caRoots(): Reading<{ roots: CaRoot[] }> {
    const { value, index, topics } = this.#caRoots.list()
    return { value: { roots: value.sort((a, b) => a.createIndex - b.createIndex) }, index, topics }
  }

  close(): void {
    this.#closed = true
    this.#watch?.close()
    this.#topics.close()
    for (const { resolve } of this.#awaited) resolve()
    this.#awaited = []
  }

  /** Reads everything and watches from there; also after the store has forgotten the history that the watch needed. */
  async #load(): Promise<void> {
    this.#watch?.close()
    const { entries, revision } = await this.#store.list('')
    if (this.#closed) return
    for (const table of [
      this.#catalog,
      this.#imported,
      this.#config,
      this.#sessions,
      this.#queries,
      this.#peerings,
      this.#trustBundles,
      this.#virtualIps,
      this.#caRoots,
    ]) {
      table.clear()
    }
    this.#addresses.clear()
    this.#kv.clear(revision)
    this.#apply(entries)
    this.#topics.restart(revision)
    this.#advance(revision)
    this.#watch = this.#store.watch('', revision, {
      onBatch: batch => this.#onBatch(batch),
      onCompacted: () => this.#reload(),
    })
  }

  #reload(): void {
    this.#load().catch(() => {
      // The tables stay as they were; a store that is gone for good ends the process through its writers.
      if (!this.#closed) setTimeout(() => this.#reload(), reloadDelayMs).unref()
    })
  }

  #onBatch(batch: WatchBatch): void {
    this.#apply(batch.events)
    this.#topics.commit(batch.revision)
    this.#advance(batch.revision)
  }

  #apply(events: readonly (WatchEvent | { key: string; value: Uint8Array; createRevision: number; modRevision: number })[]): void {
    const bySubject = new Map<Subject, (typeof events)[number][]>()
    for (const event of events) {
      const subject = this.#subjects.find(each => event.key.startsWith(each.prefix))
      if (!subject) continue
      const known = bySubject.get(subject)
      if (known) known.push(event)
      else bySubject.set(subject, [event])
    }
    for (const subject of this.#subjects) {
      for (const event of bySubject.get(subject) ?? []) {
        const rest = event.key.slice(subject.prefix.length)
        const path = subject.prefix === 'kv/' ? [] : rest.split('/').map(decodeURIComponent)
        const value: unknown = event.value === null ? undefined : JSON.parse(decoder.decode(event.value))
        subject.apply({ path, value, createIndex: event.createRevision, modifyIndex: event.modRevision }, rest)
      }
    }
    this.#catalog.seal()
  }

  #applyVirtualIp(change: Change): void {
    const [peer, service] = change.path as [string, string]
    const before = this.#virtualIps.get(peer, service).value
    if (before) this.#addresses.delete(before.address)
    this.#virtualIps.apply(change)
    const after = this.#virtualIps.get(peer, service).value
    if (after) this.#addresses.set(after.address, { peer, service, address: after.address })
  }

  #advance(revision: number): void {
    this.#revision = Math.max(this.#revision, revision)
    const due = this.#awaited.filter(each => each.revision <= this.#revision)
    if (due.length === 0) return
    this.#awaited = this.#awaited.filter(each => each.revision > this.#revision)
    for (const { resolve } of due) resolve()
  }
}
