/**
 * Sets of instances as they were last received on a stream: of a large service only what has changed is read again, and every other
 * instance is the same object as before, for whoever stores it. What is made of a message is what reading all of it makes.
 */
import type { CheckServiceNode } from '../../mesh/service.ts'
import { decodeBounded } from '../../wire/bounded-reader.ts'
import { ExportedService } from '../../wire/gen/peerstream.ts'
import { foldId } from './ledger.ts'
import { fromWire, type Read } from './replica.ts'

interface ReceivedSet {
  id: string
  value: Buffer
  /** The end of each instance in `value`. */
  ends: Uint32Array
  instances: CheckServiceNode[]
  keys: Set<string>
  /** Fields that were read for all of it. */
  fields: number
}

/** Smaller ones are read faster than looked up. */
const smallestBytes = 4096
/** Of all together as much is kept, whether it could be stored or not: a few bytes may be an instance, which takes two thousand. */
const maxBytes = 32 * 1024 * 1024
const maxInstances = 32_768
/** Tags and lengths in one resource: some 20,000 instances as real exporters send them, which fill a message. */
const maxReads = 1_000_000
/** How a field number 1 with a length begins: there is nothing else in a message of instances. */
const instanceTag = 0x0a

export class ReceivedSets {
  /** By folded id; the one that was received last is the last. */
  readonly #sets = new Map<string, ReceivedSet>()
  #bytes = 0
  #instances = 0

  /** Throws where `value` is no message. */
  read(id: string, value: Buffer, peerName: string): Read<CheckServiceNode[]> {
    const key = foldId(id)
    const known = this.#sets.get(key)
    this.#forget(key)
    const ends = value.length < smallestBytes ? undefined : endsOf(value)
    const amended = known && ends && known.id === id ? amend(known, value, ends, peerName) : undefined
    if (amended) {
      this.#keep(key, amended)
      return { ok: true, value: amended.instances }
    }
    const fields = { read: 0 }
    const read = fromWire(decodeBounded(ExportedService, value, maxReads, fields).Nodes, id, peerName)
    // Where one is there twice, what stands where is not known.
    if (read.ok && ends && read.value.length === ends.length) {
      this.#keep(key, { id, value, ends, instances: read.value, keys: new Set(read.value.map(keyOf)), fields: fields.read })
    }
    return read
  }

  #keep(key: string, set: ReceivedSet): void {
    this.#sets.set(key, set)
    this.#bytes += set.value.length
    this.#instances += set.instances.length
    for (const oldest of this.#sets.keys()) {
      if (this.#bytes <= maxBytes && this.#instances <= maxInstances) return
      this.#forget(oldest)
    }
  }

  #forget(key: string): void {
    const set = this.#sets.get(key)
    if (!set) return
    this.#sets.delete(key)
    this.#bytes -= set.value.length
    this.#instances -= set.instances.length
  }
}

/** Undefined where all of it has to be read: for what is wrong with it, if for nothing else. */
function amend(known: ReceivedSet, value: Buffer, ends: Uint32Array, peerName: string): ReceivedSet | undefined {
  const [before, after] = [known.ends.length, ends.length]
  const isSame = (i: number, j: number): boolean => {
    const [from, start] = [startOf(known.ends, i), startOf(ends, j)]
    const [to, end] = [known.ends[i]!, ends[j]!]
    return to - from === end - start && known.value.compare(value, start, end, from, to) === 0
  }
  const most = Math.min(before, after)
  let head = 0
  while (head < most && isSame(head, head)) head += 1
  let tail = 0
  while (tail < most - head && isSame(before - 1 - tail, after - 1 - tail)) tail += 1
  const fields = { read: 0 }
  const part = value.subarray(startOf(ends, head), startOf(ends, after - tail))
  const read = fromWire(decodeBounded(ExportedService, part, maxReads, fields).Nodes, known.id, peerName)
  if (!read.ok || read.value.length !== after - head - tail || known.fields + fields.read > maxReads) return undefined
  const { keys } = known
  for (const gone of known.instances.slice(head, before - tail)) keys.delete(keyOf(gone))
  for (const key of read.value.map(keyOf)) {
    if (keys.has(key)) return undefined
    keys.add(key)
  }
  const instances = [...known.instances.slice(0, head), ...read.value, ...known.instances.slice(before - tail)]
  return { id: known.id, value, ends, instances, keys, fields: known.fields + fields.read }
}

function startOf(ends: Uint32Array, i: number): number {
  return i === 0 ? 0 : ends[i - 1]!
}

/** Undefined where something else than whole instances is in it. */
function endsOf(value: Buffer): Uint32Array | undefined {
  const ends: number[] = []
  let at = 0
  while (at < value.length) {
    if (value[at] !== instanceTag) return undefined
    at += 1
    let length = 0
    for (let shift = 0; ; shift += 7) {
      const byte = value[at]
      if (byte === undefined || shift > 21) return undefined
      at += 1
      length |= (byte & 0x7f) << shift
      if (byte < 0x80) break
    }
    at += length
    ends.push(at)
  }
  return at === value.length ? Uint32Array.from(ends) : undefined
}

function keyOf({ node, service }: CheckServiceNode): string {
  return `${node.node.toLowerCase()}\0${service.id}`
}
