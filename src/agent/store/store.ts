/**
 * The store: a durable, revisioned key-value map with ordered prefixes, compare-and-set transactions and a watch from a revision.
 * Two engines keep this contract (one compliance suite proves both); it is the weaker engine's. Everything the control plane knows
 * is in it; the tables of agent/catalog are only an index of it.
 */

export interface Entry {
  key: string
  value: Uint8Array
  /** Revision that created the key, and the one that last changed it. */
  createRevision: number
  modRevision: number
}

/** A condition on a key: `modRevision` 0 means that the key must not exist. */
export interface Compare {
  key: string
  modRevision: number
}

export type Op =
  | { op: 'put'; key: string; value: Uint8Array; lease?: string }
  | { op: 'delete'; key: string }
  | { op: 'delete-prefix'; prefix: string }

export interface Txn {
  /** All must hold, else nothing is written. */
  compare?: Compare[]
  /** No key may be put twice, or put and deleted: refused with `bad-request`. A put with a lease that has ended is `not-found`. */
  ops: Op[]
  /**
   * For what can be had again from elsewhere: watches may see it before it is durable, and a crash may undo it. The answer comes once
   * it is durable all the same; where it cannot be made so, watches are told to list again. Indexes never fall.
   */
  early?: boolean
}

/** `revision` is that of the write, or the store's current one where a comparison failed. A transaction that changes nothing makes no revision; a put always changes. */
export interface TxnResult {
  ok: boolean
  revision: number
}

/** One change. `value` is null for a deletion, and `createRevision` 0. */
export interface WatchEvent {
  key: string
  value: Uint8Array | null
  createRevision: number
  modRevision: number
}

export interface WatchBatch {
  /** Every event of this revision that the watch covers, in key order. */
  revision: number
  events: WatchEvent[]
}

export interface WatchHandler {
  /** Revisions arrive in order, each once, and before the write of this process that made them is answered. */
  onBatch(batch: WatchBatch): void
  /** The history that was asked for is gone, or early writes were undone: list again and watch from the revision of that list. */
  onCompacted(revision: number): void
}

export interface Watch {
  close(): void
}

export interface Lease {
  readonly id: string
  /** Puts the end off by the lease's time to live; false when it has already ended. */
  renew(): Promise<boolean>
  revoke(): Promise<void>
}

/**
 * Limits of the contract. A write beyond them is refused with code `too-large`. `maxOps` holds for operations and comparisons alike: the
 * 128 operations that clients may send at once (spec/http-api.md 12) read and write several records each. Who writes many records that
 * need not change together puts `batchOps` of them into a transaction, so that nobody waits long behind one.
 */
export const storeLimits = { maxOps: 2048, batchOps: 128, maxTxnBytes: 1024 * 1024, maxKeyBytes: 1900 } as const

export interface Store {
  /** The newest revision this process has seen. Starts at 1 in a new store. */
  readonly revision: number
  get(key: string): Promise<Entry | undefined>
  /** All entries under a prefix in byte order of their keys, as of one revision. */
  list(prefix: string): Promise<{ entries: Entry[]; revision: number }>
  /** Answers once the write is durable (fdatasync'ed), and only then, but for `early` ones, do watches see it. */
  txn(txn: Txn): Promise<TxnResult>
  /** Every change under `prefix` with a revision greater than `afterRevision`. */
  watch(prefix: string, afterRevision: number, handler: WatchHandler): Watch
  lease(ttlMs: number): Promise<Lease>
  close(): Promise<void>
}
