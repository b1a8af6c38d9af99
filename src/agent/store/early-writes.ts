/**
 * Writes that watches have seen and the disk has not: what reads must find in the place of what is stored. They reach the disk in
 * the order of their revisions, so a snapshot of revision n holds all of them up to n, and only those after it count.
 */
import type { StoredRecord } from './record.ts'
import type { Txn, WatchEvent } from './store.ts'

/** The disk as it stands. */
export interface Snapshot {
  revision: number
  record(key: string): StoredRecord | undefined
  keysUnder(prefix: string): Iterable<string>
}

export class EarlyWrites {
  /** The newest of each key. */
  readonly #byKey = new Map<string, WatchEvent>()

  /** They are on the disk. */
  drop(events: readonly WatchEvent[]): void {
    for (const event of events) if (this.#byKey.get(event.key) === event) this.#byKey.delete(event.key)
  }

  clear(): void {
    this.#byKey.clear()
  }

  /** What a key holds, early writes included. */
  record(key: string, disk: Snapshot): StoredRecord | undefined {
    const event = this.#byKey.get(key)
    return event && event.modRevision > disk.revision ? recordOf(event) : disk.record(key)
  }

  /** Everything under a prefix that differs from a snapshot of this revision; undefined: it is gone. */
  *under(prefix: string, revision: number): Generator<[string, StoredRecord | undefined]> {
    for (const [key, event] of this.#byKey) if (event.modRevision > revision && key.startsWith(prefix)) yield [key, recordOf(event)]
  }

  /** What a transaction changes when it is made now; undefined where a comparison fails. Leases are not for early writes. */
  make({ compare = [], ops }: Txn, revision: number, disk: Snapshot): WatchEvent[] | undefined {
    if (compare.some(({ key, modRevision }) => (this.record(key, disk)?.modRevision ?? 0) !== modRevision)) return undefined
    const events = new Map<string, WatchEvent>()
    const remove = (key: string): void => {
      if (events.has(key) || !this.record(key, disk)) return
      events.set(key, { key, value: null, createRevision: 0, modRevision: revision })
    }
    for (const op of ops) {
      if (op.op === 'put') {
        const createRevision = this.record(op.key, disk)?.createRevision ?? revision
        events.set(op.key, { key: op.key, value: op.value, createRevision, modRevision: revision })
      } else if (op.op === 'delete') remove(op.key)
      else {
        for (const key of disk.keysUnder(op.prefix)) remove(key)
        for (const [key] of this.under(op.prefix, disk.revision)) remove(key)
      }
    }
    for (const [key, event] of events) this.#byKey.set(key, event)
    return [...events.values()]
  }
}

function recordOf({ value, createRevision, modRevision }: WatchEvent): StoredRecord | undefined {
  return value === null ? undefined : { value, createRevision, modRevision, lease: '' }
}
