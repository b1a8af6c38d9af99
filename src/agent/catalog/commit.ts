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

/** Who lost once waits its turn: many writers of one record would else go on losing to each other. */
const retries = new WeakMap<Store, Turns>()

/** What a write does: nothing, a transaction, or an answer that needs none. */
export type Proposal<T> = { result: T; ops?: Op[]; compare?: Compare[] }

export async function commit<T>(store: Store, tables: Tables, propose: () => Proposal<T>): Promise<T> {
  return (await commitAt(store, tables, propose)).result
}

/** With the revision of the write; that of the tables where nothing was written. */
export async function commitAt<T>(store: Store, tables: Tables, propose: () => Proposal<T>): Promise<{ result: T; revision: number }> {
  const first = await attempt(store, tables, propose)
  if (first) return first
  let turns = retries.get(store)
  if (!turns) retries.set(store, (turns = new Turns()))
  return turns.run('', async () => {
    for (let tried = 1; tried < maxAttempts; tried += 1) {
      const done = await attempt(store, tables, propose)
      if (done) return done
    }
    throw new MeshError('conflict', 'the write met too many concurrent writes of the same records; try again')
  })
}

/** Undefined when somebody else was faster. */
async function attempt<T>(store: Store, tables: Tables, propose: () => Proposal<T>): Promise<{ result: T; revision: number } | undefined> {
  const { result, ops, compare } = propose()
  if (!ops || ops.length === 0) return { result, revision: tables.revision }
  const { ok, revision } = await store.txn({ compare: compare ?? [], ops })
  await tables.reached(revision)
  return ok ? { result, revision } : undefined
}

const encoder = new TextEncoder()

/** A put of a record without its indexes, which are those of its entry. */
export function putRecord(key: string, record: object): Op {
  const { createIndex: _created, modifyIndex: _modified, ...rest } = record as Record<string, unknown>
  return { op: 'put', key, value: encoder.encode(JSON.stringify(rest)) }
}

/** True when storing `next` would change nothing. */
export function isSameRecord(current: object | undefined, next: object): boolean {
  return current !== undefined && isDeepStrictEqual(bare(current), bare(next))
}

/** As it comes back from the store: no indexes, no absent members. */
function bare(record: object): unknown {
  const { createIndex: _created, modifyIndex: _modified, ...rest } = record as Record<string, unknown>
  return JSON.parse(JSON.stringify(rest))
}

/** The comparison that a record is still the one that was read; undefined stands for its absence. */
export function unchanged(key: string, record: { modifyIndex: number } | undefined): Compare {
  return { key, modRevision: record?.modifyIndex ?? 0 }
}
