/** A table of records that stand alone: found by their key without regard to case, listed in the order of their keys. */
import { indexed } from './instances-table.ts'
import type { Change } from './records.ts'
import type { Reading, Topics } from './topics.ts'
import { compareText } from '../../lib/order.ts'

export class RecordTable<T> {
  readonly #topics: Topics
  readonly #className: string
  readonly #grouped: boolean
  readonly #records = new Map<string, T>()

  /** `className` is also the topic of the whole list. A grouped table has a topic for each first part of its keys as well. */
  constructor(topics: Topics, className: string, options: { grouped?: boolean } = {}) {
    this.#topics = topics
    this.#className = className
    this.#grouped = options.grouped ?? false
  }

  clear(): void {
    this.#records.clear()
  }

  apply(change: Change): void {
    const key = keyOf(change.path)
    const topic = `${this.#className}/${key}`
    this.#topics.touch(this.#className)
    if (this.#grouped) this.#topics.touch(`${this.#className}/${change.path[0]!}`)
    if (change.value === undefined) {
      this.#records.delete(key)
      this.#topics.lose(topic)
    } else {
      this.#records.set(key, indexed(change) as T)
      this.#topics.touch(topic)
    }
  }

  get(...path: string[]): Reading<T | undefined> {
    const key = keyOf(path)
    return this.#topics.read(this.#records.get(key), `${this.#className}/${key}`)
  }

  /** Without topics: for lookups that a door does not wait for. */
  find(wanted: (record: T) => boolean): T | undefined {
    for (const record of this.#records.values()) if (wanted(record)) return record
    return undefined
  }

  list(group?: string): Reading<T[]> {
    const start = group === undefined ? '' : `${group}/`
    const keys = [...this.#records.keys()].filter(key => key.startsWith(start)).sort(compareText)
    return this.#topics.read(
      keys.map(key => this.#records.get(key)!),
      group === undefined ? this.#className : `${this.#className}/${group}`,
    )
  }
}

function keyOf(path: readonly string[]): string {
  return path.map(part => part.toLowerCase()).join('/')
}
