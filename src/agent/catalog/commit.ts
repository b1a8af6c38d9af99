/**
 * One write: computed from the tables, committed under comparisons with what it was computed from, and computed again when
 * somebody else was faster. Answers once it is durable and in this process's own tables.
 */
import { isDeepStrictEqual } from 'node:util'
import { MeshError } from '../../lib/errors.ts'
import { Turns } from '../../lib/turns.ts'
import type { Compare, Op, Store } from '../store/store.ts'
import type { Tables } from './tables.ts'

const maxAttempts = 20

/**
 * By the first record that a write is conditional on: who lost once waits its turn, and who comes meanwhile goes behind it. Many
 * writers of one record would else go on losing to each other, or to newcomers.
 */
const contended = new WeakMap<Store, Turns>()

/** What a write does: nothing, a transaction, or an answer that needs none. */
export type Proposal<T> = { result: T; ops?: Op[]; compare?: Compare[] }

export async function commit<T>(store: Store, tables: Tables, propose: () => Proposal<T>): Promise<T> {
  return (await commitAt(store, tables, propose)).result
}

/** With the revision of the write; that of the tables where nothing was written. */
export async function commitAt<T>(store: Store, tables: Tables, propose: () => Proposal<T>): Promise<{ result: T; revision: number }> {
  const proposal = propose()
  let turns = contended.get(store)
  if (!turns) contended.set(store, (turns = new Turns()))
  const record = proposal.compare?.[0]?.key ?? ''
  const writes = (proposal.ops ?? []).length > 0
  const done = writes && turns.isBusy(record) ? undefined : await attempt(store, tables, proposal)
  if (done) return done
  return turns.run(record, async () => {
    for (let tried = 0; tried < maxAttempts; tried += 1) {
      const late = await attempt(store, tables, propose())
      if (late) return late
    }
    throw new MeshError('conflict', 'the write met too many concurrent writes of the same records; try again')
  })
}

/** Undefined when somebody else was faster. */
async function attempt<T>(
  store: Store,
  tables: Tables,
  { result, ops, compare }: Proposal<T>,
): Promise<{ result: T; revision: number } | undefined> {
  if (!ops || ops.length === 0) return { result, revision: tables.revision }
  const { ok, revision } = await store.txn({ compare: compare ?? [], ops })
  await tables.reached(revision)
  return ok ? { result, revision } : undefined
}

const encoder = new TextEncoder()

/** A put of a record without its indexes, which are those of its entry. */
export function putRecord(key: string, record: object): Op {
  return { op: 'put', key, value: encoder.encode(bare(record)) }
}

/** True when storing `next` would change nothing. */
export function isSameRecord(current: object | undefined, next: object): boolean {
  if (current === undefined) return false
  const [a, b] = [bare(current), bare(next)]
  // Written alike they are the same; written in another order they may be.
  return a === b || isDeepStrictEqual(JSON.parse(a), JSON.parse(b))
}

/** As it lies in the store: no indexes, no absent members. */
function bare(record: object): string {
  const { createIndex: _created, modifyIndex: _modified, ...rest } = record as Record<string, unknown>
  return JSON.stringify(rest)
}

/** The comparison that a record is still the one that was read; undefined stands for its absence. */
export function unchanged(key: string, record: { modifyIndex: number } | undefined): Compare {
  return { key, modRevision: record?.modifyIndex ?? 0 }
}
