/**
 * Writes of the key-value store (spec/http-api.md 10): values, compare-and-set and locks. An identical put writes nothing, so its
 * ModifyIndex stays; a lock is taken only while its session is there, by a comparison in the same transaction.
 */
import { MeshError } from '../../lib/errors.ts'
import type { Store } from '../store/store.ts'
import { commit, isSameRecord, putRecord, unchanged, type Proposal } from './commit.ts'
import { keys } from './keys.ts'
import type { LockDelays } from './lock-delays.ts'
import type { KvRecord, Tables } from './tables.ts'

/** A record without what its key and its revisions say. */
export type KvDraft = Pick<KvRecord, 'value' | 'flags' | 'lockIndex' | 'session'>
type Current = KvDraft | undefined

/** What a client brings: base64, null when empty. */
export type KvInput = Pick<KvDraft, 'value' | 'flags'>

/** A plain write leaves a lock as it is. */
export function written(current: Current, input: KvInput): KvDraft {
  return { ...input, lockIndex: current?.lockIndex ?? 0, session: current?.session }
}

/** Undefined when another session holds the key. Every new acquisition counts. */
export function locked(current: Current, input: KvInput, session: string): KvDraft | undefined {
  if (current?.session && current.session !== session) return undefined
  const held = current?.session === session
  return { ...input, lockIndex: (current?.lockIndex ?? 0) + (held ? 0 : 1), session }
}

/** Undefined when the session does not hold the key. */
export function unlocked(current: Current, input: KvInput, session: string): KvDraft | undefined {
  return current?.session === session ? { ...input, lockIndex: current.lockIndex, session: undefined } : undefined
}

export interface PutOptions {
  flags?: bigint
  /** Only if this is the stored revision; 0 stands for a key that does not exist. */
  cas?: number
  /** Lock the key for this session, or unlock it. */
  acquire?: string
  release?: string
}

export class KvStore {
  readonly #store: Store
  readonly #tables: Tables
  readonly #delays: LockDelays

  constructor(options: { store: Store; tables: Tables; delays: LockDelays }) {
    this.#store = options.store
    this.#tables = options.tables
    this.#delays = options.delays
  }

  /** False when the condition does not hold: another revision, another holder, or a key that may not be locked yet. */
  put(key: string, value: Buffer, options: PutOptions = {}): Promise<boolean> {
    const input = { value: value.length > 0 ? value.toString('base64') : null, flags: String(options.flags ?? 0) }
    return commit(this.#store, this.#tables, (): Proposal<boolean> => {
      const current = this.#tables.kv(key).value
      if (options.cas !== undefined && options.cas !== (current?.modifyIndex ?? 0)) return { result: false }
      // A plain write, too: it keeps the lock that it found, and must not undo one that is taken meanwhile.
      const compare = [unchanged(keys.kv(key), current)]
      let draft: KvDraft | undefined = written(current, input)
      const holder = options.acquire ?? options.release
      if (holder !== undefined) {
        if (options.acquire !== undefined && this.#delays.has(key)) return { result: false }
        const session = this.#tables.session(holder).value
        if (!session) throw new MeshError('invalid', `raft apply failed: invalid session ${JSON.stringify(holder)}`)
        draft = options.acquire === undefined ? unlocked(current, input, session.id) : locked(current, input, session.id)
        if (!draft) return { result: false }
        compare.push(unchanged(keys.session(session.id), session))
      }
      if (isSameRecord(current && withoutKey(current), draft)) return { result: true }
      return { result: true, ops: [putRecord(keys.kv(key), draft)], compare }
    })
  }

  /** False when `cas` names another revision than the stored one; what is not there counts as deleted. */
  delete(key: string, options: { cas?: number; recurse?: boolean } = {}): Promise<boolean> {
    return commit(this.#store, this.#tables, (): Proposal<boolean> => {
      if (options.recurse) {
        if (this.#tables.kvList(key).value.length === 0) return { result: true }
        return { result: true, ops: [{ op: 'delete-prefix', prefix: keys.kv(key) }] }
      }
      const current = this.#tables.kv(key).value
      if (!current) return { result: true }
      if (options.cas === undefined) return { result: true, ops: [{ op: 'delete', key: keys.kv(key) }] }
      if (options.cas !== current.modifyIndex) return { result: false }
      return { result: true, ops: [{ op: 'delete', key: keys.kv(key) }], compare: [unchanged(keys.kv(key), current)] }
    })
  }
}

function withoutKey(record: KvRecord): object {
  const { key: _key, ...rest } = record
  return rest
}
