/**
 * The embedded engine: the store in one LMDB file beside the process. Transactions that arrive while one group is being synced make
 * up the next group, so any number of writers share its syncs. A write is acknowledged, and seen by watches, only after LMDB's
 * commit returned with every sync done (test/agent/store/durability.test.ts proves the order with delayed system calls). Watches see
 * an early one at once, unless others are under way, whose revisions come before its own.
 */
import { mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import os from 'node:os'
import { dirname, join } from 'node:path'
import { systemClock, type Clock } from '../../lib/clock.ts'
import { MeshError, messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import { lockDataDir, type DataDirLock } from './data-dir-lock.ts'
import { EarlyWrites, type Snapshot } from './early-writes.ts'
import { LeaseTable } from './lease-table.ts'
import { failureOf, keysUnder, openEnvironment, type Environment } from './lmdb-environment.ts'
import { decodeRecord, encodeRecord, entryOf, rangeOf, type StoredRecord } from './record.ts'
import {
  storeLimits,
  type Entry,
  type Lease,
  type Store,
  type Txn,
  type TxnResult,
  type Watch,
  type WatchBatch,
  type WatchEvent,
  type WatchHandler,
} from './store.ts'
import { checkTxn } from './txn-limits.ts'
import { historyLimits, inKeyOrder, WatchHub, type HistoryLimits } from './watch-hub.ts'

export interface EmbeddedStoreOptions {
  /** The data directory, made when it is missing; undefined for one that lives as long as the store (--dev). */
  dir: string | undefined
  logger: Logger
  clock?: Clock
  /** How much of the past watches may ask for. */
  history?: HistoryLimits
}

/** Opens, and locks, the store of a data directory. */
export async function openEmbeddedStore(options: EmbeddedStoreOptions): Promise<Store> {
  const temporary = options.dir === undefined
  const dir = options.dir ?? mkdtempSync(join(os.tmpdir(), 'isthmus-dev-'))
  let lock: DataDirLock | undefined
  try {
    makeDirectory(dir)
    lock = lockDataDir(dir)
    const environment = openEnvironment(join(dir, 'store'), temporary)
    return new EmbeddedStore(environment, { ...options, dir, temporary, lock })
  } catch (error) {
    lock?.release()
    if (temporary) rmSync(dir, { recursive: true, force: true })
    if (error instanceof MeshError) throw error
    throw new MeshError('unavailable', `cannot open the store in ${dir}: ${messageOf(error)}; check the directory's owner and its disk`, {
      cause: error,
    })
  }
}

/** One level at a time: mkdir's own `recursive` never returns below a link to nowhere (Node 20). */
function makeDirectory(dir: string): void {
  if (statSync(dir, { throwIfNoEntry: false })?.isDirectory()) return
  if (dirname(dir) !== dir) makeDirectory(dirname(dir))
  try {
    mkdirSync(dir, { mode: 0o700 })
  } catch (error) {
    throw new MeshError(
      'unavailable',
      `cannot make the data directory ${dir}: ${messageOf(error)}; set data_dir to a directory that this user can write`,
      { cause: error },
    )
  }
}

/** What runs inside a group's transaction. It must find every reason to refuse before it changes anything. */
interface Job {
  run(group: Group): unknown
  early?: { shown: boolean }
  /** Once durable, before the promise resolves. */
  committed?: ((value: unknown) => void) | undefined
  resolve(value: unknown): void
  reject(error: unknown): void
}

/** One LMDB transaction in the making. */
export interface Group {
  revision: number
  /** For watches, once it is durable. */
  batches: WatchBatch[]
  changed: boolean
}

type Outcome = { value: unknown } | { error: unknown }

/** Transactions in one group: bounds the memory of one commit, not its rate. */
const maxGroup = 1024
const revisionKey = Buffer.from('revision')
/** Up to here revisions may have been shown that are not on the disk. */
const shownKey = Buffer.from('shown')
/** Early revisions that one commit allows for: after a crash the store goes on behind them. */
const allowance = 65_536

class EmbeddedStore implements Store {
  readonly #environment: Environment
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #dir: string
  readonly #temporary: boolean
  readonly #lock: DataDirLock
  readonly #hub: WatchHub
  readonly #leases: LeaseTable
  readonly #early = new EarlyWrites()
  #revision: number
  /** As it is on the disk. */
  #mayShow: number
  /** Jobs that are not early, queued or under way. */
  #ordinary = 0
  #queue: Job[] = []
  #draining: Promise<void> | undefined
  #closed = false

  constructor(environment: Environment, options: EmbeddedStoreOptions & { dir: string; temporary: boolean; lock: DataDirLock }) {
    this.#environment = environment
    this.#clock = options.clock ?? systemClock
    this.#logger = options.logger
    this.#dir = options.dir
    this.#temporary = options.temporary
    this.#lock = options.lock
    this.#mayShow = this.#number(shownKey, 0)
    this.#revision = Math.max(this.#storedRevision(), this.#mayShow)
    this.#hub = new WatchHub(this.#revision, options.logger, options.history ?? historyLimits)
    this.#leases = new LeaseTable(environment, this.#clock, options.logger, {
      submit: (run, committed) => this.#submit(run, { committed }),
      deleteAll: (keys, group) => {
        const events: WatchEvent[] = []
        for (const key of keys) this.#delete(key, group.revision + 1, events)
        if (events.length > 0) this.#changed(group, events)
      },
    })
  }

  get revision(): number {
    return this.#revision
  }

  async get(key: string): Promise<Entry | undefined> {
    this.#checkOpen()
    const bytes = Buffer.from(key)
    if (bytes.length === 0 || bytes.length > storeLimits.maxKeyBytes) return undefined
    const record = this.#early.record(key, this.#snapshot())
    return record && entryOf(key, record)
  }

  async list(prefix: string): Promise<{ entries: Entry[]; revision: number }> {
    this.#checkOpen()
    // Synchronous from here on, so both reads are of one LMDB snapshot. It may be newer than what watches have been told.
    const stored = this.#storedRevision()
    const revision = Math.max(stored, this.#revision)
    const entries: Entry[] = []
    if (Buffer.byteLength(prefix) > storeLimits.maxKeyBytes) return { entries, revision }
    const early = new Map(this.#early.under(prefix, stored))
    for (const { key, value } of this.#environment.entries.getRange(rangeOf(Buffer.from(prefix)))) {
      const name = key.toString()
      if (!early.has(name)) entries.push(entryOf(name, decodeRecord(value)))
    }
    if (early.size === 0) return { entries, revision }
    for (const [key, record] of early) if (record) entries.push(entryOf(key, record))
    return { entries: inKeyOrder(entries), revision }
  }

  async txn(txn: Txn): Promise<TxnResult> {
    checkTxn(txn)
    const ops = txn.ops.map(op => (op.op === 'put' ? { ...op, value: Buffer.from(op.value) } : op))
    const compare = [...(txn.compare ?? [])]
    if (!txn.early) return this.#submit(group => this.#apply({ compare, ops }, group))
    // One revision stays for taking it back.
    const shown = this.#ordinary === 0 && this.#revision + 1 < this.#mayShow
    return shown ? this.#show({ compare, ops }) : this.#submit(group => this.#apply({ compare, ops }, group), { early: { shown } })
  }

  watch(prefix: string, afterRevision: number, handler: WatchHandler): Watch {
    this.#checkOpen()
    return this.#hub.watch(prefix, afterRevision, handler)
  }

  lease(ttlMs: number): Promise<Lease> {
    return this.#leases.grant(ttlMs)
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#draining
    if (this.#mayShow > 0 && this.#storedRevision() === this.#revision) await this.#settleShown()
    this.#leases.close()
    this.#hub.close()
    await this.#environment.root.close()
    if (this.#temporary) rmSync(this.#dir, { recursive: true, force: true })
    this.#lock.release()
  }

  /** Everything that was shown is on the disk: the next process need not go on behind what might have been. */
  async #settleShown(): Promise<void> {
    try {
      await this.#environment.meta.remove(shownKey)
    } catch (error) {
      this.#logger.warn({ error: await failureOf(error) }, 'the store could not be closed tidily; its indexes will jump')
    }
  }

  // ---- the write path

  #submit<T>(run: (group: Group) => T, more: { committed?: (value: T) => void; early?: Job['early'] } = {}): Promise<T> {
    this.#checkOpen()
    return new Promise<T>((resolve, reject) => {
      if (!more.early?.shown) this.#ordinary += 1
      this.#queue.push({ run, early: more.early, committed: more.committed as Job['committed'], resolve, reject })
      this.#draining ??= this.#drain()
    })
  }

  /** Watches see it now; the disk gets it with the next group. Nothing is under way that could come before it. */
  async #show(txn: Txn): Promise<TxnResult> {
    this.#checkOpen()
    const revision = this.#revision + 1
    const events = this.#early.make(txn, revision, this.#snapshot())
    if (!events) return { ok: false, revision: this.#revision }
    // What was shown has done it already: not done before that is durable.
    if (events.length === 0) return this.#submit(() => ({ ok: true, revision: revision - 1 }), { early: { shown: true } })
    this.#revision = revision
    const written = this.#submit(
      group => {
        for (const { key, value } of events) {
          if (value) this.#put(key, value, '', revision)
          else this.#delete(Buffer.from(key), revision, [])
        }
        group.revision = revision
        group.changed = true
        return { ok: true, revision }
      },
      { early: { shown: true }, committed: () => this.#early.drop(events) },
    )
    this.#hub.publish({ revision, events: inKeyOrder(events) })
    return written
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) await this.#commit(this.#queue.splice(0, maxGroup))
    // In the same turn as the check above, or a job that comes in between would wait for ever.
    this.#draining = undefined
  }

  async #commit(jobs: Job[]): Promise<void> {
    let group: Group | undefined
    let outcomes: Outcome[] = []
    let mayShow = this.#mayShow
    try {
      // A child transaction, because only that is rolled back as a whole when something in it throws.
      await this.#environment.root.childTransaction(() => {
        const making: Group = { revision: Math.max(this.#storedRevision(), this.#revision), batches: [], changed: false }
        outcomes = jobs.map(job => runJob(job, making))
        if (making.changed) this.#environment.meta.putSync(revisionKey, Buffer.from(String(making.revision)))
        if (jobs.some(job => job.early) && making.revision + allowance / 2 > mayShow) {
          mayShow = making.revision + allowance
          this.#environment.meta.putSync(shownKey, Buffer.from(String(mayShow)))
        }
        group = making
      })
    } catch (error) {
      await this.#refuse(jobs, error)
      return
    }
    this.#mayShow = mayShow
    this.#revision = Math.max(this.#revision, group!.revision)
    for (const batch of group!.batches) this.#hub.publish(batch)
    jobs.forEach((job, index) => {
      const outcome = outcomes[index]!
      if (!job.early?.shown) this.#ordinary -= 1
      if ('error' in outcome) return job.reject(outcome.error)
      job.committed?.(outcome.value)
      job.resolve(outcome.value)
    })
  }

  /** What watches have seen of these, and of what was made on top of it, they have to forget. */
  async #refuse(jobs: Job[], error: unknown): Promise<void> {
    const reason = await failureOf(error)
    this.#logger.error({ error: reason }, 'the store cannot write')
    const failure = new MeshError('unavailable', `the store in ${this.#dir} cannot write: ${reason}; check its disk`, { cause: error })
    const undone = jobs.some(job => job.early?.shown)
    const refused = undone ? [...jobs, ...this.#queue.filter(job => job.early?.shown)] : jobs
    if (undone) {
      this.#queue = this.#queue.filter(job => !job.early?.shown)
      this.#early.clear()
      // Who has read what is taken back waits for something newer than that.
      this.#revision += 1
      this.#hub.reset(this.#revision)
    }
    for (const job of refused) {
      if (!job.early?.shown) this.#ordinary -= 1
      job.reject(failure)
    }
  }

  #apply(txn: Txn, group: Group): TxnResult {
    for (const { key, modRevision } of txn.compare ?? []) {
      if ((this.#record(Buffer.from(key))?.modRevision ?? 0) !== modRevision) return { ok: false, revision: group.revision }
    }
    for (const op of txn.ops) {
      if (op.op === 'put' && op.lease !== undefined && !this.#leases.has(op.lease)) throw leaseEnded(op.lease)
    }
    const revision = group.revision + 1
    const events: WatchEvent[] = []
    for (const op of txn.ops) {
      if (op.op === 'put') events.push(this.#put(op.key, op.value, op.lease ?? '', revision))
      else if (op.op === 'delete') this.#delete(Buffer.from(op.key), revision, events)
      else for (const key of keysUnder(this.#environment.entries, Buffer.from(op.prefix))) this.#delete(key, revision, events)
    }
    if (events.length > 0) this.#changed(group, events)
    return { ok: true, revision: group.revision }
  }

  /** Makes the group's next revision out of these changes. */
  #changed(group: Group, events: WatchEvent[]): void {
    group.revision += 1
    group.changed = true
    group.batches.push({ revision: group.revision, events: inKeyOrder(events) })
  }

  #put(key: string, value: Uint8Array, lease: string, revision: number): WatchEvent {
    const bytes = Buffer.from(key)
    const before = this.#record(bytes)
    this.#leases.hang(bytes, before?.lease ?? '', lease)
    const createRevision = before?.createRevision ?? revision
    this.#environment.entries.putSync(bytes, encodeRecord({ createRevision, modRevision: revision, lease, value }))
    return { key, value, createRevision, modRevision: revision }
  }

  #delete(key: Buffer, revision: number, events: WatchEvent[]): void {
    const before = this.#record(key)
    if (!before) return
    this.#leases.hang(key, before.lease, '')
    this.#environment.entries.removeSync(key)
    events.push({ key: key.toString(), value: null, createRevision: 0, modRevision: revision })
  }

  // ---- reading LMDB; inside a group these see its own writes

  #storedRevision(): number {
    return this.#number(revisionKey, 1)
  }

  #number(key: Buffer, absent: number): number {
    return Number(this.#environment.meta.get(key)?.toString() ?? absent)
  }

  #snapshot(): Snapshot {
    return {
      revision: this.#storedRevision(),
      record: key => this.#record(Buffer.from(key)),
      keysUnder: prefix => keysUnder(this.#environment.entries, Buffer.from(prefix)).map(key => key.toString()),
    }
  }

  #record(key: Buffer): StoredRecord | undefined {
    const bytes = this.#environment.entries.get(key)
    return bytes && decodeRecord(bytes)
  }

  #checkOpen(): void {
    if (this.#closed) throw new MeshError('unavailable', `the store in ${this.#dir} is closed; start the agent again`)
  }
}

/** A refusal is this job's alone; anything else is LMDB's and undoes the whole group. */
function runJob(job: Job, group: Group): Outcome {
  try {
    return { value: job.run(group) }
  } catch (error) {
    if (error instanceof MeshError) return { error }
    throw error
  }
}

function leaseEnded(lease: string): MeshError {
  return new MeshError('not-found', `lease ${lease} has ended; ask for a new one`)
}
