/**
 * Keys and values, in byte order of the keys. A deleted key leaves its revision behind, so that the index of a prefix never
 * falls; only the newest deletions are remembered, and what is forgotten counts for every prefix (spec/http-api.md 1.8).
 */
import type { Change, KvRecord } from './records.ts'
import type { Reading, Topics } from './topics.ts'

const maxTombstones = 10_000

export class KvTable {
  readonly #topics: Topics
  readonly #records = new Map<string, KvRecord>()
  #keys: string[] = []
  /** Locked keys by the session that holds them. */
  readonly #held = new Map<string, Set<string>>()
  /** Deleted keys with the revision of that, oldest first. */
  readonly #tombstones = new Map<string, number>()
  /** No deletion after this revision has been forgotten. */
  #floor = 1

  constructor(topics: Topics) {
    this.#topics = topics
    topics.delegate('kv', key => this.#indexOfKey(key))
    topics.delegate('kv-prefix', prefix => this.#indexOfPrefix(prefix))
  }

  /** Starts anew: whatever was deleted before this revision is unknown. */
  clear(floor: number): void {
    this.#records.clear()
    this.#tombstones.clear()
    this.#held.clear()
    this.#keys = []
    this.#floor = floor
  }

  apply(key: string, change: Change): void {
    if (change.value === undefined) this.#remove(key, change.modifyIndex)
    else this.#add(key, change)
    this.#topics.touch(`kv/${key}`)
    this.#touchPrefixes(`kv-prefix/${key}`)
  }

  /** Ten thousand may wait, or a key have a thousand prefixes: whatever is less is looked through. */
  #touchPrefixes(longest: string): void {
    const waited = this.#topics.waited('kv-prefix')
    if (waited.size < longest.length) {
      for (const topic of waited) if (longest.startsWith(topic)) this.#topics.touch(topic)
      return
    }
    for (let end = 'kv-prefix/'.length; end <= longest.length; end += 1) {
      const topic = longest.slice(0, end)
      if (waited.has(topic)) this.#topics.touch(topic)
    }
  }

  get(key: string): Reading<KvRecord | undefined> {
    return this.#topics.read(this.#records.get(key), `kv/${key}`)
  }

  list(prefix: string): Reading<KvRecord[]> {
    const records = [...this.#under(prefix)].map(key => this.#records.get(key)!)
    return this.#topics.read(records, `kv-prefix/${prefix}`)
  }

  heldBy(session: string): KvRecord[] {
    return [...(this.#held.get(session) ?? [])].map(key => this.#records.get(key)!)
  }

  /** Sessions that hold a key. */
  holders(): string[] {
    return [...this.#held.keys()]
  }

  /** Notes who holds a key from now on. */
  #hold(key: string, session: string | undefined): void {
    const before = this.#records.get(key)?.session
    if (before === session) return
    if (before) {
      const held = this.#held.get(before)
      held?.delete(key)
      if (held?.size === 0) this.#held.delete(before)
    }
    if (!session) return
    const held = this.#held.get(session)
    if (held) held.add(key)
    else this.#held.set(session, new Set([key]))
  }

  #add(key: string, change: Change): void {
    this.#hold(key, (change.value as KvRecord).session)
    if (!this.#records.has(key)) {
      const last = this.#keys.at(-1)
      // Loads arrive in byte order, so that nearly every key is appended.
      if (last === undefined || compareUtf8(last, key) < 0) this.#keys.push(key)
      else this.#keys.splice(this.#position(key), 0, key)
    }
    const { createIndex, modifyIndex } = change
    this.#records.set(key, { ...(change.value as Omit<KvRecord, 'key'>), key, createIndex, modifyIndex })
    this.#tombstones.delete(key)
  }

  #remove(key: string, revision: number): void {
    this.#hold(key, undefined)
    if (this.#records.delete(key)) this.#keys.splice(this.#position(key), 1)
    this.#tombstones.delete(key)
    this.#tombstones.set(key, revision)
    if (this.#tombstones.size <= maxTombstones) return
    const [oldest, at] = this.#tombstones.entries().next().value!
    this.#tombstones.delete(oldest)
    this.#floor = Math.max(this.#floor, at)
  }

  #indexOfKey(key: string): number {
    return this.#records.get(key)?.modifyIndex ?? Math.max(this.#floor, this.#tombstones.get(key) ?? 0)
  }

  #indexOfPrefix(prefix: string): number {
    let index = this.#floor
    for (const key of this.#under(prefix)) index = Math.max(index, this.#records.get(key)!.modifyIndex)
    for (const [key, revision] of this.#tombstones) if (key.startsWith(prefix)) index = Math.max(index, revision)
    return index
  }

  *#under(prefix: string): Iterable<string> {
    for (let i = this.#position(prefix); i < this.#keys.length && this.#keys[i]!.startsWith(prefix); i += 1) yield this.#keys[i]!
  }

  /** The place of the first key that is not before `key`. */
  #position(key: string): number {
    let low = 0
    let high = this.#keys.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (compareUtf8(this.#keys[middle]!, key) < 0) low = middle + 1
      else high = middle
    }
    return low
  }
}

/** Orders as the UTF-8 bytes do, which is what Go and the store sort by: surrogates come after every other code unit. */
export function compareUtf8(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i += 1) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x === y) continue
    const xPair = x >= 0xd800 && x < 0xe000
    return xPair === (y >= 0xd800 && y < 0xe000) ? x - y : xPair ? 1 : -1
  }
  return a.length - b.length
}
