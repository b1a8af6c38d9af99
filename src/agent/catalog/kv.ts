/**
 * Writes of the key-value store (spec/http-api.md 10). An identical put writes nothing, so its ModifyIndex stays.
 */
import type { Store } from '../store/store.ts'
import type { Tables } from './tables.ts'

export class KvStore {
  constructor(_options: { store: Store; tables: Tables }) {}
  put(_key: string, _value: Buffer, _options: { flags?: number; cas?: number } = {}): Promise<boolean> { throw todo() }
  delete(_key: string, _options: { cas?: number; recurse?: boolean } = {}): Promise<boolean> { throw todo() }
}
function todo(): Error { return new Error('being written') }
