/**
 * How LMDB is opened, and the two places where lmdb-js must be held right: its options decide when a commit is durable, and a
 * failed commit must not leave a promise that nobody handles.
 */
import { chmodSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { open, type Database, type RootDatabase } from 'lmdb'
import { messageOf } from '../../lib/errors.ts'
import { rangeOf } from './record.ts'
import { checkStoreFile } from './store-file.ts'

export type Table = Database<Buffer, Buffer>

export interface Environment {
  root: RootDatabase<Buffer, Buffer>
  /** key -> record. */
  entries: Table
  /** `revision` -> decimal text. */
  meta: Table
  /** lease id -> LeaseRecord as JSON. */
  leases: Table
  /** lease id, NUL, key -> empty: which keys hang on a lease. */
  leased: Table
}

export function openEnvironment(path: string, temporary: boolean): Environment {
  mkdirSync(path, { recursive: true, mode: 0o700 })
  checkStoreFile(join(path, 'data.mdb'))
  const binary = { encoding: 'binary', keyEncoding: 'binary' } as const
  // overlappingSync, lmdb-js's default, may resolve a write before it is on disk. Without it a commit is: data, fdatasync, then the
  // page that makes it count, through O_DSYNC. eventTurnBatching has a promise of its own, which nobody can handle: with it one
  // failed commit (a full disk) would end the process.
  const root = open<Buffer, Buffer>(path, { ...binary, overlappingSync: false, noSync: temporary, eventTurnBatching: false, maxDbs: 8 })
  // It holds the CA's keys.
  chmodSync(join(path, 'data.mdb'), 0o600)
  const table = (name: string): Table => root.openDB<Buffer, Buffer>(name, binary)
  return { root, entries: table('entries'), meta: table('meta'), leases: table('leases'), leased: table('leased') }
}

/** Collected before anything is deleted: a cursor must not run over pages that change under it. */
export function keysUnder(table: Table, prefix: Buffer): Buffer[] {
  return [...table.getKeys(rangeOf(prefix))].map(key => Buffer.from(key))
}

/** lmdb-js rejects a failed commit at once and tells why by a second promise, which must be handled too. */
export async function failureOf(error: unknown): Promise<string> {
  try {
    await (error as { commitError?: Promise<never> }).commitError
    return messageOf(error)
  } catch (reason) {
    return messageOf(reason)
  }
}
