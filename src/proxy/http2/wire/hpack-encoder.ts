/**
 * Writes header blocks of one connection (RFC 7541). Never Huffman codes: that costs more than its bytes are worth. A field goes into the
 * table when it is sent a second time in a row, so what differs with each request does not push out what stays; of such a field only the
 * name does, with the value that it then has. Invariants: what is remembered is bounded by the table and by `maxNames`; an entry is in the
 * table if and only if its number is above `evicted`.
 */
import { writeLatin1 } from '../../../lib/latin1.ts'
import { fieldOverhead, firstDynamicIndex, staticNames, type StaticName } from './static-table.ts'

const maxTableBytes = 4096
const slots = maxTableBytes / fieldOverhead
/** Of names that are remembered; twice what the table can hold at least, so that forgetting is rare. */
const maxNames = 2 * slots
/** Nothing larger than this part of the table goes into it. */
const maxShare = 1 / 4

/** Their values differ from one message to the next, or are nobody else's. */
const neverInserted = new Set(['content-length', 'etag', 'last-modified', 'set-cookie', 'if-none-match', 'location', 'date'])
/** With values so short that they could be guessed by the size of what is sent (RFC 7541 7.1.3). */
const guessable = { names: new Set(['authorization', 'cookie']), below: 20 } as const

/** What a first octet says, and how much of it is left for an integer. */
interface Representation {
  readonly flag: number
  readonly prefix: number
}
const indexed: Representation = { flag: 0x80, prefix: 0x7f }
const inserting: Representation = { flag: 0x40, prefix: 0x3f }
const plain: Representation = { flag: 0x00, prefix: 0x0f }
const neverIndexed: Representation = { flag: 0x10, prefix: 0x0f }
const sizeUpdate: Representation = { flag: 0x20, prefix: 0x1f }
const textLength: Representation = { flag: 0x00, prefix: 0x7f }

/** More than two size updates have, and than half of what a literal has besides its name and value. */
const boundOfUpdates = 8
const boundOfText = 8

/** Up to so many characters a loop is faster than the way into Node. */
const maxLooped = 16

interface Entry {
  readonly known: KnownName
  readonly value: string
  readonly size: number
}

/** A name that was sent before, and what became of it. */
class KnownName {
  readonly name: string
  readonly fixed: StaticName | undefined
  readonly insertable: boolean
  /** Values shorter than this are never indexed. */
  readonly secretBelow: number
  /** Numbers of the entries in the table, by value. */
  entries: Map<string, number> | undefined
  /** Number of the newest entry that has this name. */
  newest = 0
  /** It was sent with a value that no table had. */
  seen = false
  /** The last value that was neither secret nor too large for the table. */
  value: string | undefined
  /** Where that value is: the number of an entry, which may be gone; a negative index of the static table; or 0. */
  place = 0

  constructor(name: string) {
    this.name = name
    this.fixed = staticNames.get(name)
    this.insertable = !neverInserted.has(name)
    this.secretBelow = guessable.names.has(name) ? guessable.below : 0
  }
}

export class HpackEncoder {
  private readonly names = new Map<string, KnownName>()
  /** Entries are numbered from 1 on; the numbers of the newest one, and of the last one that is gone. */
  private inserted = 0
  private evicted = 0
  /** By number modulo `slots`. */
  private readonly table: (Entry | undefined)[] = Array.from({ length: slots }, () => undefined)
  private tableBytes = 0
  private capacity = maxTableBytes
  /** The capacity that the peer knows, and the least that there was since. */
  private announced = maxTableBytes
  private least = maxTableBytes

  /** The peer's SETTINGS_HEADER_TABLE_SIZE; the next block says what comes of it. */
  setTableBytes(bytes: number): void {
    this.capacity = Math.min(bytes, maxTableBytes)
    this.least = Math.min(this.least, this.capacity)
    this.evict(this.capacity)
  }

  /** The most that `encode` writes for these. */
  bound(fields: readonly string[]): number {
    let bytes = boundOfUpdates + fields.length * boundOfText
    for (let i = 0; i < fields.length; i++) bytes += fields[i]!.length
    return bytes
  }

  /** Writes the block for a list of names and values in turn. Answers its end. */
  encode(fields: readonly string[], sensitive: ReadonlySet<string> | undefined, into: Buffer, start: number): number {
    let at = this.least === this.announced && this.capacity === this.announced ? start : this.writeSizeUpdates(into, start)
    for (let i = 0; i < fields.length; i += 2) {
      const name = fields[i]!
      const value = fields[i + 1]!
      const known = this.names.get(name) ?? this.meet(name)
      const secret = sensitive !== undefined && sensitive.has(name)
      if (secret || value.length < known.secretBelow) at = this.writeLiteral(known, value, neverIndexed, into, at)
      else {
        const again = known.value === value
        const place = again ? known.place : this.find(known, value)
        if (place < 0) into[at++] = indexed.flag - place
        else if (place > this.evicted) at = writeInteger(into, at, indexed, this.indexOf(place))
        else at = this.writeNew(known, value, again, into, at)
      }
    }
    return at
  }

  /** Looks a value up and remembers it. */
  private find(known: KnownName, value: string): number {
    const place = -(known.fixed?.values.get(value) ?? 0) || (known.entries?.get(value) ?? 0)
    const size = known.name.length + value.length + fieldOverhead
    if (size <= maxTableBytes * maxShare) {
      known.value = value
      known.place = place
    }
    return place
  }

  /** A field that no table has. */
  private writeNew(known: KnownName, value: string, again: boolean, into: Buffer, at: number): number {
    const worthIt = again || (known.seen && this.nameIndexOf(known) === 0)
    known.seen = true
    const size = known.name.length + value.length + fieldOverhead
    if (!worthIt || !known.insertable || size > this.capacity * maxShare) return this.writeLiteral(known, value, plain, into, at)
    // The index of the name is as it was before.
    const end = this.writeLiteral(known, value, inserting, into, at)
    this.insert({ known, value, size })
    return end
  }

  private writeLiteral(known: KnownName, value: string, representation: Representation, into: Buffer, start: number): number {
    const index = this.nameIndexOf(known)
    const at = writeInteger(into, start, representation, index)
    return writeText(into, index === 0 ? writeText(into, at, known.name) : at, value)
  }

  /** 0: it is not in a table. */
  private nameIndexOf(known: KnownName): number {
    if (known.fixed !== undefined) return known.fixed.index
    return known.newest > this.evicted ? this.indexOf(known.newest) : 0
  }

  private indexOf(number: number): number {
    return firstDynamicIndex + this.inserted - number
  }

  private insert(entry: Entry): void {
    const { known, value, size } = entry
    this.evict(this.capacity - size)
    this.inserted += 1
    this.table[this.inserted % slots] = entry
    this.tableBytes += size
    known.newest = known.place = this.inserted
    known.entries ??= new Map()
    known.entries.set(value, this.inserted)
  }

  /** Drops the oldest entries until no more than these bytes are left. */
  private evict(bytes: number): void {
    while (this.tableBytes > bytes) {
      this.evicted += 1
      const slot = this.evicted % slots
      const { known, value, size } = this.table[slot]!
      known.entries!.delete(value)
      this.table[slot] = undefined
      this.tableBytes -= size
    }
  }

  private meet(name: string): KnownName {
    const known = new KnownName(name)
    if (name.length > maxTableBytes * maxShare) return known
    if (this.names.size >= maxNames) for (const each of this.names.values()) if (each.newest <= this.evicted) this.names.delete(each.name)
    this.names.set(name, known)
    return known
  }

  private writeSizeUpdates(into: Buffer, start: number): number {
    let at = start
    if (this.least < this.announced && this.least < this.capacity) at = writeInteger(into, at, sizeUpdate, this.least)
    this.announced = this.least = this.capacity
    return writeInteger(into, at, sizeUpdate, this.capacity)
  }
}

function writeInteger(into: Buffer, start: number, { flag, prefix }: Representation, value: number): number {
  let at = start
  if (value < prefix) {
    into[at] = flag | value
    return at + 1
  }
  into[at++] = flag | prefix
  let rest = value - prefix
  for (; rest >= 0x80; rest >>>= 7) into[at++] = rest | 0x80
  into[at] = rest
  return at + 1
}

function writeText(into: Buffer, start: number, text: string): number {
  const { length } = text
  const at = writeInteger(into, start, textLength, length)
  if (length > maxLooped) writeLatin1(into, text, at)
  else for (let i = 0; i < length; i++) into[at + i] = text.charCodeAt(i)
  return at + length
}
