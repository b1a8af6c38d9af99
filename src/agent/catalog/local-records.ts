/** What this agent was asked to run, in the store: survives a restart, and what is there already is not written again. */
import { storeLimits, type Op, type Store } from '../store/store.ts'
import { keys } from './keys.ts'

const encoder = new TextEncoder()
const decoder = new TextDecoder()

export class LocalRecords {
  readonly #store: Store
  readonly #prefix: string
  /** The JSON under each key. */
  readonly #stored = new Map<string, string>()

  constructor(store: Store, node: string) {
    this.#store = store
    this.#prefix = keys.localPrefix(node)
  }

  async load(): Promise<{ services: unknown[]; checks: unknown[] }> {
    const { entries } = await this.#store.list(this.#prefix)
    const loaded: { services: unknown[]; checks: unknown[] } = { services: [], checks: [] }
    for (const { key, value } of entries) {
      const json = decoder.decode(value)
      this.#stored.set(key, json)
      const list = key.startsWith(`${this.#prefix}service/`) ? loaded.services : loaded.checks
      list.push(JSON.parse(json))
    }
    return loaded
  }

  async put(records: readonly { key: string; record: object }[]): Promise<void> {
    const all = records.map(({ key, record }) => ({ key, json: JSON.stringify(record) }))
    const changed = all.filter(({ key, json }) => this.#stored.get(key) !== json)
    await this.#write(changed.map(({ key, json }): Op => ({ op: 'put', key, value: encoder.encode(json) })))
    for (const { key, json } of changed) this.#stored.set(key, json)
  }

  async remove(gone: readonly string[]): Promise<void> {
    const known = gone.filter(key => this.#stored.has(key))
    await this.#write(known.map((key): Op => ({ op: 'delete', key })))
    for (const key of known) this.#stored.delete(key)
  }

  async #write(ops: readonly Op[]): Promise<void> {
    for (let i = 0; i < ops.length; i += storeLimits.batchOps) await this.#store.txn({ ops: ops.slice(i, i + storeLimits.batchOps) })
  }
}
