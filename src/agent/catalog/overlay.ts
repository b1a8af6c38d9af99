/**
 * What a transaction has made of some records so far, over the tables, which it does not touch. It remembers what was read, so that
 * the write can be made conditional on that; keys are those of the store.
 */
import type { Compare, Op } from '../store/store.ts'
import { isSameRecord, putRecord, unchanged } from './commit.ts'

interface Indexed {
  createIndex: number
  modifyIndex: number
}

export class Overlay<T extends Indexed> {
  /** Stands for the revision of the write, until that is known. */
  readonly #next: number
  readonly #base = new Map<string, T | undefined>()
  readonly #changes = new Map<string, T | undefined>()

  constructor(next: number) {
    this.#next = next
  }

  read(key: string, stored: () => T | undefined): T | undefined {
    // Also of what was deleted unread: what is put in its place is a change of what is stored.
    if (!this.#base.has(key)) this.#base.set(key, stored())
    return this.#changes.has(key) ? this.#changes.get(key) : this.#base.get(key)
  }

  /** The key has been read before. Gives what makes the final record, once the revision of the write is known. */
  put(key: string, record: T): (revision: number) => T {
    this.#changes.set(key, { ...record, createIndex: this.#base.get(key)?.createIndex ?? this.#next, modifyIndex: this.#next })
    return this.stamp(key, record)
  }

  delete(key: string): void {
    this.#changes.set(key, undefined)
  }

  /** Of what has been put here, and is still there. */
  deleteWhere(gone: (key: string, record: T) => boolean): void {
    for (const [key, value] of this.#changes) if (value !== undefined && gone(key, value)) this.#changes.set(key, undefined)
  }

  touched(key: string): boolean {
    return this.#changes.has(key)
  }

  /** What has been put and is still there. */
  values(): T[] {
    return [...this.#changes.values()].filter(value => value !== undefined)
  }

  puts(): string[] {
    return [...this.#changes].filter(([, value]) => value !== undefined).map(([key]) => key)
  }

  /** The record with its indexes: those that are stored, where nothing changes. */
  stamp(key: string, record: T): (revision: number) => T {
    const base = this.#base.get(key)
    if (!this.#changes.has(key)) return () => record
    const same = isSameRecord(base, record)
    return revision => ({
      ...record,
      createIndex: base?.createIndex ?? revision,
      modifyIndex: base && same ? base.modifyIndex : revision,
    })
  }

  /** `covered` deletions are made by something else. */
  writes(covered: (key: string) => boolean = () => false): { ops: Op[]; compare: Compare[] } {
    const ops: Op[] = []
    for (const [key, value] of this.#changes) {
      const base = this.#base.get(key)
      if (value === undefined) {
        if ((base !== undefined || !this.#base.has(key)) && !covered(key)) ops.push({ op: 'delete', key })
      } else if (!isSameRecord(base, value)) ops.push(putRecord(key, value))
    }
    return { ops, compare: [...this.#base].map(([key, base]) => unchanged(key, base)) }
  }
}
