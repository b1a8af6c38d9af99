/**
 * Writes of the key-value store (spec/http-api.md 10). An identical put writes nothing, so its ModifyIndex stays.
 */
import type { Store } from '../store/store.ts'
import { commit, isSameRecord, putRecord, unchanged, type Proposal } from './commit.ts'
import { keys } from './keys.ts'
import type { KvRecord, Tables } from './tables.ts'

export class KvStore {
  readonly #store: Store
  readonly #tables: Tables

  constructor(options: { store: Store; tables: Tables }) {
    this.#store = options.store
    this.#tables = options.tables
  }

  /** False when `cas` names another revision than the stored one; 0 stands for a key that does not exist. */
  put(key: string, value: Buffer, options: { flags?: bigint; cas?: number } = {}): Promise<boolean> {
    return commit(this.#store, this.#tables, (): Proposal<boolean> => {
      const current = this.#tables.kv(key).value
      if (options.cas !== undefined && options.cas !== (current?.modifyIndex ?? 0)) return { result: false }
      const record = {
        value: value.length > 0 ? value.toString('base64') : null,
        flags: String(options.flags ?? 0),
        lockIndex: current?.lockIndex ?? 0,
        session: current?.session,
      }
      if (isSameRecord(current && withoutKey(current), record)) return { result: true }
      const compare = options.cas === undefined && !current?.lockIndex ? [] : [unchanged(keys.kv(key), current)]
      return { result: true, ops: [putRecord(keys.kv(key), record)], compare }
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
