/** An answer made of many readings: its index is the newest of theirs, and it is worth another look when any of their topics changes. */
import type { Reading } from '../catalog/tables.ts'

export class Noting {
  readonly #topics = new Set<string>()
  #index = 1

  note<T>(reading: Reading<T>): T {
    for (const topic of reading.topics) this.#topics.add(topic)
    this.#index = Math.max(this.#index, reading.index)
    return reading.value
  }

  reading<T>(value: T): Reading<T> {
    return { value, index: this.#index, topics: [...this.#topics] }
  }
}

/** What `make` reads through `noting`, as one reading. */
export function noted<T>(make: (noting: Noting) => T): Reading<T> {
  const noting = new Noting()
  return noting.reading(make(noting))
}
