/**
 * A store in memory for tests in simulated time: it passes the suite of every engine, writes when the given clock says so, and can
 * be killed in the middle of its writes. What was written stays on its disk, from which another can be opened.
 */
import type { Clock, Timer } from '../../../src/lib/clock.ts'
import { MeshError } from '../../../src/lib/errors.ts'
import type { Logger } from '../../../src/lib/log.ts'
import type { Entry, Lease, Store, Txn, TxnResult, Watch, WatchBatch, WatchEvent, WatchHandler } from '../../../src/agent/store/store.ts'
import { checkTxn } from '../../../src/agent/store/txn-limits.ts'
import { historyLimits, inKeyOrder, WatchHub, type HistoryLimits } from '../../../src/agent/store/watch-hub.ts'

interface Stored {
  value: Uint8Array
  createRevision: number
  modRevision: number
  lease: string
}

/** What outlives a process. Leases do not: no simulated process holds one over its end. */
export class MemoryDisk {
  readonly entries = new Map<string, Stored>()
  revision = 1
  /** The newest revision that any process has shown, early ones included. */
  shown = 1
}

export interface MemoryStoreOptions {
  disk: MemoryDisk
  clock: Clock
  logger: Logger
  /** How long the next group of writes takes; undefined: it is written in this turn. */
  delayMs?: () => number
  history?: HistoryLimits
}

interface Job {
  /** Of an early write that was shown: to the disk alone. */
  run(): { value: unknown; batch?: WatchBatch }
  shown: boolean
  resolve(value: unknown): void
  reject(error: unknown): void
}

export class MemoryStore implements Store {
  readonly #options: MemoryStoreOptions
  readonly #disk: MemoryDisk
  readonly #hub: WatchHub
  /** What reads find: the disk, and what is shown and not yet on it. */
  readonly #entries: Map<string, Stored>
  #revision: number
  readonly #leases = new Map<string, Timer>()
  #made = 0
  #queue: Job[] = []
  #dead = false

  constructor(options: MemoryStoreOptions) {
    this.#options = options
    this.#disk = options.disk
    this.#entries = new Map(options.disk.entries)
    this.#revision = Math.max(options.disk.revision, options.disk.shown)
    this.#hub = new WatchHub(this.#revision, options.logger, options.history ?? historyLimits)
  }

  get revision(): number {
    return this.#revision
  }

  async get(key: string): Promise<Entry | undefined> {
    const found = this.#entries.get(key)
    return found && entryOf(key, found)
  }

  async list(prefix: string): Promise<{ entries: Entry[]; revision: number }> {
    const found = [...this.#entries].filter(([key]) => key.startsWith(prefix)).map(([key, stored]) => entryOf(key, stored))
    const keyed = found.map(entry => ({ entry, bytes: Buffer.from(entry.key) })).sort((a, b) => Buffer.compare(a.bytes, b.bytes))
    return { entries: keyed.map(each => each.entry), revision: this.#revision }
  }

  async txn(txn: Txn): Promise<TxnResult> {
    checkTxn(txn)
    const ops = txn.ops.map(op => (op.op === 'put' ? { ...op, value: op.value.slice() } : op))
    const compare = [...(txn.compare ?? [])]
    if (txn.early && this.#queue.every(job => job.shown)) return this.#show({ compare, ops })
    return this.#submit(() => this.#save(this.#apply({ compare, ops })))
  }

  watch(prefix: string, afterRevision: number, handler: WatchHandler): Watch {
    return this.#hub.watch(prefix, afterRevision, handler)
  }

  async lease(ttlMs: number): Promise<Lease> {
    this.#made += 1
    const id = `lease-${this.#made}`
    const arm = (): void => {
      this.#leases.get(id)?.cancel()
      this.#leases.set(
        id,
        this.#options.clock.after(ttlMs, () => void this.#endLease(id)),
      )
    }
    arm()
    return {
      id,
      renew: async () => {
        if (this.#leases.has(id)) arm()
        return this.#leases.has(id)
      },
      revoke: () => this.#endLease(id),
    }
  }

  async close(): Promise<void> {
    this.die(Infinity)
  }

  /** As a process ends: of what waits to be written the first `written` are, and nobody is told anything any more. */
  die(written: number): void {
    if (this.#dead) return
    this.#dead = true
    for (const job of this.#queue.splice(0).slice(0, written)) job.run()
    for (const timer of this.#leases.values()) timer.cancel()
    this.#hub.close()
  }

  /** Watches see it now, the disk gets it when its turn comes. */
  #show(txn: Txn): Promise<TxnResult> {
    const { value, batch } = this.#apply(txn)
    if (!batch) return Promise.resolve(value)
    this.#disk.shown = this.#revision
    const written = this.#submit(() => this.#save({ value, batch }), true).then(() => value)
    this.#hub.publish(batch)
    return written
  }

  #submit<T>(run: () => { value: T; batch?: WatchBatch }, shown = false): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#dead) return
      this.#queue.push({ run, shown, resolve, reject })
      if (this.#queue.length > 1) return
      const { delayMs, clock } = this.#options
      if (delayMs) clock.after(delayMs(), () => this.#commit())
      else queueMicrotask(() => this.#commit())
    })
  }

  #commit(): void {
    for (const job of this.#queue.splice(0)) {
      try {
        const { value, batch } = job.run()
        if (batch && !job.shown) this.#hub.publish(batch)
        job.resolve(value)
      } catch (error) {
        job.reject(error)
      }
    }
  }

  /** What a batch has changed gets onto the disk. */
  #save<T>(made: { value: T; batch?: WatchBatch }): { value: T; batch?: WatchBatch } {
    for (const { key, value, createRevision, modRevision } of made.batch?.events ?? []) {
      const lease = this.#entries.get(key)?.lease ?? ''
      if (value === null) this.#disk.entries.delete(key)
      else this.#disk.entries.set(key, { value, createRevision, modRevision, lease })
    }
    if (made.batch) this.#disk.revision = made.batch.revision
    return made
  }

  #apply({ compare, ops }: Txn): { value: TxnResult; batch?: WatchBatch } {
    const entries = this.#entries
    const holds = (compare ?? []).every(each => (entries.get(each.key)?.modRevision ?? 0) === each.modRevision)
    if (!holds) return { value: { ok: false, revision: this.#revision } }
    for (const op of ops) {
      if (op.op === 'put' && op.lease !== undefined && !this.#leases.has(op.lease)) {
        throw new MeshError('not-found', `lease ${op.lease} has ended; ask for a new one`)
      }
    }
    const revision = this.#revision + 1
    const events: WatchEvent[] = []
    const remove = (key: string): void => {
      if (entries.delete(key)) events.push({ key, value: null, createRevision: 0, modRevision: revision })
    }
    for (const op of ops) {
      if (op.op === 'delete') remove(op.key)
      else if (op.op === 'delete-prefix') {
        for (const key of entries.keys()) if (key.startsWith(op.prefix)) remove(key)
      } else {
        const createRevision = entries.get(op.key)?.createRevision ?? revision
        entries.set(op.key, { value: op.value, createRevision, modRevision: revision, lease: op.lease ?? '' })
        events.push({ key: op.key, value: op.value, createRevision, modRevision: revision })
      }
    }
    return { value: { ok: true, revision: this.#advance(events) }, ...(events.length > 0 && { batch: batchOf(revision, events) }) }
  }

  #advance(events: WatchEvent[]): number {
    if (events.length > 0) this.#revision += 1
    return this.#revision
  }

  #endLease(id: string): Promise<void> {
    return this.#submit(() => {
      this.#leases.get(id)?.cancel()
      this.#leases.delete(id)
      const held = [...this.#entries].filter(([, stored]) => stored.lease === id).map(([key]) => key)
      const revision = this.#revision + 1
      const events = held.map((key): WatchEvent => ({ key, value: null, createRevision: 0, modRevision: revision }))
      for (const key of held) this.#entries.delete(key)
      this.#advance(events)
      return this.#save({ value: undefined, ...(events.length > 0 && { batch: batchOf(revision, events) }) })
    })
  }
}

function batchOf(revision: number, events: WatchEvent[]): WatchBatch {
  return { revision, events: inKeyOrder(events) }
}

function entryOf(key: string, { value, createRevision, modRevision }: Stored): Entry {
  return { key, value: value.slice(), createRevision, modRevision }
}
