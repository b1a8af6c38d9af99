/**
 * One cluster of a simulation: the tables, the catalog and the peerings of an agent, as they are in production, over a store in
 * memory, a simulated clock and a simulated network. A crash leaves what was written; everything else of the process is gone.
 */
import type { Peering } from '../../../../src/mesh/peering.ts'
import { peeringServerName } from '../../../../src/mesh/sni.ts'
import type { CertificateAuthority } from '../../../../src/agent/ca/authority.ts'
import { Catalog } from '../../../../src/agent/catalog/catalog.ts'
import { putRecord } from '../../../../src/agent/catalog/commit.ts'
import { ConfigEntries } from '../../../../src/agent/catalog/config-entries.ts'
import { keys } from '../../../../src/agent/catalog/keys.ts'
import { Tables } from '../../../../src/agent/catalog/tables.ts'
import { Peerings } from '../../../../src/agent/peering/peerings.ts'
import type { PeerStreamHandlers } from '../../../../src/agent/peering/acceptor.ts'
import type { WatchBatch } from '../../../../src/agent/store/store.ts'
import { silentLogger } from '../../../../src/lib/log.ts'
import { Registry } from '../../../../src/lib/metrics.ts'
import { MemoryDisk, MemoryStore } from '../../store/memory-store.ts'
import type { Dice } from './dice.ts'
import { guardedStore } from './guarded-store.ts'
import type { Host, Network } from './network.ts'
import { ProcessClock, type Timeline } from './timeline.ts'

export interface ClusterOptions {
  name: string
  timeline: Timeline
  dice: Dice
  network: Network
  /** PEMs of roots that it may have, in the order in which it takes them up. */
  roots: readonly string[]
  /** Local names of the peers it will have. */
  peers: ReadonlySet<string>
  violate: (what: string) => void
  /** A process has read its disk and does nothing yet. */
  onOpen: (cluster: Cluster) => void
  /** After the tables have applied a revision. */
  onBatch: (cluster: Cluster, batch: WatchBatch) => void
}

/** Short, and long now and then: a disk that is busy. */
const writeMs = (dice: Dice, slow: boolean) => (slow || dice.chance(0.05) ? dice.between(50, 500) : dice.between(0.2, 3))
const logger = silentLogger()

/** What lives as long as one process. */
export class Process implements Host {
  readonly cluster: string
  readonly serverName: string
  readonly clock: ProcessClock
  readonly store: MemoryStore
  readonly tables: Tables
  readonly catalog: Catalog
  readonly configEntries: ConfigEntries
  readonly peerings: Peerings
  #alive = true
  #tellDeath: () => void = () => undefined
  readonly #died = new Promise<void>(resolve => (this.#tellDeath = resolve))

  private constructor(options: ClusterOptions, clock: ProcessClock, store: MemoryStore, tables: Tables) {
    const { name: datacenter, dice, network, peers, violate } = options
    const trustDomain = trustDomainFor(datacenter)
    this.cluster = datacenter
    this.serverName = peeringServerName(datacenter, trustDomain)
    this.clock = clock
    this.store = store
    this.tables = tables
    this.catalog = new Catalog({ store, tables, datacenter })
    this.configEntries = new ConfigEntries({ store, tables, datacenter })
    const guarded = guardedStore(store, peers, what => violate(`${datacenter}: ${what}`))
    this.peerings = new Peerings({
      store: guarded,
      tables,
      catalog: new Catalog({ store: guarded, tables, datacenter }),
      ca: { trustDomain, roots: () => rootsOf(tables, trustDomain) },
      datacenter,
      clock,
      logger,
      metrics: new Registry(),
      addresses: () => [addressOf(datacenter)],
      enabled: { peering: true, connect: true, grpcTls: true },
      allowPlaintext: false,
      transport: network.transportOf(this),
      random: () => dice.next(),
    })
  }

  /** Reads what is on the disk. */
  static async open(
    options: ClusterOptions,
    disk: MemoryDisk,
    delayMs: () => number,
    onBatch: (batch: WatchBatch) => void,
  ): Promise<Process> {
    const { timeline } = options
    const clock = new ProcessClock(timeline)
    const history = { maxRevisions: 64, maxBytes: 1024 * 1024 }
    const store = new MemoryStore({ disk, clock, logger, delayMs, history })
    const tables = await Tables.open(store)
    const process = new Process(options, clock, store, tables)
    // After that of the tables, so that what it looks at is there.
    store.watch('', tables.revision, { onBatch, onCompacted: () => undefined })
    return process
  }

  /** Serves and dials; over when it does, or has died. */
  async begin(network: Network): Promise<void> {
    network.listen(addressOf(this.cluster), this)
    await Promise.race([this.catalog.collectImported().then(() => this.peerings.start()), this.#died])
  }

  get handlers(): PeerStreamHandlers {
    return this.peerings.handlers
  }

  roots(): string[] {
    return this.tables.caRoots().value.roots.map(root => root.rootCert)
  }

  isAlive(): boolean {
    return this.#alive
  }

  /** Nothing of it happens any more. Of the writes under way a first part was made. */
  die(writesMade: number): void {
    this.#alive = false
    this.#tellDeath()
    this.clock.die()
    this.store.die(writesMade)
    this.tables.close()
  }
}

export class Cluster {
  readonly name: string
  readonly #options: ClusterOptions
  readonly #disk = new MemoryDisk()
  /** Undefined while it is down. */
  process: Process | undefined
  diskIsSlow = false
  #roots = 0

  constructor(options: ClusterOptions) {
    this.name = options.name
    this.#options = options
  }

  async start(): Promise<void> {
    if (this.process) return
    const { dice } = this.#options
    const process = await Process.open(
      this.#options,
      this.#disk,
      () => writeMs(dice, this.diskIsSlow),
      batch => this.#options.onBatch(this, batch),
    )
    this.process = process
    this.#options.onOpen(this)
    if (this.#roots === 0) await this.addRoot()
    await process.begin(this.#options.network)
  }

  /** As a killed process, or a lost host, ends. */
  crash(silently: boolean): void {
    const { process } = this
    this.process = undefined
    process?.die(this.#options.dice.whole(0, 3))
    if (process) this.#options.network.lose(process, silently)
  }

  /** As an operator stops it. */
  async stop(): Promise<void> {
    const { process } = this
    process?.peerings.release()
    await process?.peerings.close()
    if (this.process === process) this.crash(false)
  }

  /** One root more of the certificate authority, as far as there are any. */
  async addRoot(): Promise<void> {
    const { roots, name } = this.#options
    const rootCert = roots[this.#roots]
    if (rootCert === undefined || !this.process) return
    const id = `${name}-${this.#roots}`
    this.#roots += 1
    const { store, tables } = this.process
    const { revision } = await store.txn({ ops: [putRecord(keys.caRoot(id), { id, rootCert })] })
    await tables.reached(revision)
  }

  peering(name: string): Peering | undefined {
    return this.process?.peerings.read(name).value
  }
}

export function addressOf(cluster: string): string {
  return `${cluster}.test:8503`
}

export function trustDomainFor(cluster: string): string {
  return `${cluster}-id.consul`
}

function rootsOf(tables: Tables, trustDomain: string): ReturnType<CertificateAuthority['roots']> {
  const reading = tables.caRoots()
  return { ...reading, value: { ...reading.value, activeRootId: '', trustDomain } }
}
