/**
 * Reads header blocks of one connection (RFC 7541). Whatever a peer sends, reading ends after one look at each byte, throws nothing and
 * holds no more than the table and the list that its limits allow. Invariant: a field is judged when it is read as a literal; the table
 * remembers the verdict.
 */
import { readLatin1 } from '../../../lib/latin1.ts'
import { decodeHuffman, huffmanRoom } from './huffman.ts'
import { badName, badValue, forbidden } from './octets.ts'
import { fieldOverhead, firstDynamicIndex, noField, staticFields, TableField } from './static-table.ts'

export interface ListLimits {
  /** As RFC 9113 6.5.2 counts. */
  readonly headerListBytes: number
  readonly headerCount: number
}

/** What a table has until its size is updated. */
const initialTableBytes = 4096
/** A block may begin with the lowest size that there was since the last one, and the size from now on. */
const maxSizeUpdates = 2

/** Lent to one string at a time; a longer one gets a buffer of its own. */
const scratch = Buffer.allocUnsafeSlow(16 * 1024)

export class HpackDecoder {
  /** Of the last block: names and values in turn, pseudo-header fields too; a character is a byte. The caller may keep it. */
  fields: string[] = []
  /** Names of the fields that no table may ever hold (RFC 7541 6.2.3). */
  sensitive: Set<string> | undefined
  /** A name or a value has what RFC 9113 8.2.1 forbids. */
  malformed = false
  /** 1: the list has too many bytes. 2: it has too many fields. From there on none were gathered. */
  tooLarge: 0 | 1 | 2 = 0

  /** The most that a size update may ask for. */
  private readonly maxTableBytes: number
  /** A ring: the newest is at `newest`, older ones before it. */
  private readonly table: TableField[]
  private readonly mask: number
  private newest = 0
  private count = 0
  private tableBytes = 0
  private capacity = initialTableBytes
  /** Behind what was read last. */
  private at = 0
  /** Bits of `forbidden` for the string that was read last. */
  private bad = 0

  /** What our SETTINGS_HEADER_TABLE_SIZE says. Less than 4096 is obeyed from the peer's update on, since it may not have seen it before. */
  constructor(tableBytes: number) {
    this.maxTableBytes = tableBytes
    const most = Math.max(tableBytes, initialTableBytes) / fieldOverhead
    const slots = 2 ** Math.ceil(Math.log2(most))
    this.table = Array.from({ length: slots }, () => noField)
    this.mask = slots - 1
  }

  /** Decodes the block bytes[start, end). False: the tables of the two sides differ from now on, which is a COMPRESSION_ERROR. */
  decode(bytes: Buffer, start: number, end: number, limits: ListLimits): boolean {
    const fields: string[] = []
    this.fields = fields
    this.sensitive = undefined
    this.malformed = false
    this.tooLarge = 0
    let bad = 0
    let listBytes = 0
    let listCount = 0
    let at = start
    if (at < end && (bytes[at]! & 0xe0) === 0x20) {
      if (!this.readSizeUpdates(bytes, at, end)) return false
      at = this.at
    }
    while (at < end) {
      const first = bytes[at]!
      let field: TableField | undefined
      if (first > 0x80 && first < 0xff) {
        field = this.fieldAt(first & 0x7f)
        at += 1
      } else {
        field = first >= 0x80 ? this.readLongIndex(bytes, at, end) : this.readLiteral(bytes, at, end)
        at = this.at
      }
      if (field === undefined) return false
      bad |= field.bad
      listBytes += field.size
      listCount += 1
      if (listBytes > limits.headerListBytes || listCount > limits.headerCount) {
        if (this.tooLarge === 0) this.tooLarge = listBytes > limits.headerListBytes ? 1 : 2
      } else fields.push(field.name, field.value)
    }
    this.malformed = bad !== 0
    return true
  }

  private fieldAt(index: number): TableField | undefined {
    if (index < firstDynamicIndex) return staticFields[index]
    const age = index - firstDynamicIndex
    return age < this.count ? this.table[(this.newest - age) & this.mask] : undefined
  }

  private readLongIndex(bytes: Buffer, at: number, end: number): TableField | undefined {
    const index = this.readInteger(bytes, at, end, 0x7f)
    return index <= 0 ? undefined : this.fieldAt(index)
  }

  private readLiteral(bytes: Buffer, start: number, end: number): TableField | undefined {
    const first = bytes[start]!
    const indexed = first >= 0x40
    // Only the beginning of a block may change the size.
    if (!indexed && first >= 0x20) return undefined
    const index = this.readInteger(bytes, start, end, indexed ? 0x3f : 0x0f)
    if (index < 0) return undefined
    let name: string | undefined
    let bad = 0
    if (index === 0) {
      name = this.readString(bytes, end, true)
      bad = this.bad & badName
    } else {
      const named = this.fieldAt(index)
      if (named === undefined) return undefined
      name = named.name
      bad = named.bad & badName
    }
    if (name === undefined) return undefined
    const value = this.readString(bytes, end, false)
    if (value === undefined) return undefined
    const field = new TableField(name, value, bad | (this.bad & badValue))
    if (indexed) this.insert(field)
    else if (first >= 0x10 && this.tooLarge === 0) (this.sensitive ??= new Set()).add(name)
    return field
  }

  private readSizeUpdates(bytes: Buffer, start: number, end: number): boolean {
    this.at = start
    for (let updates = 0; this.at < end && (bytes[this.at]! & 0xe0) === 0x20; updates++) {
      const size = this.readInteger(bytes, this.at, end, 0x1f)
      if (size < 0 || size > this.maxTableBytes || updates === maxSizeUpdates) return false
      this.capacity = size
      this.evict(size)
    }
    return true
  }

  private insert(field: TableField): void {
    this.evict(this.capacity - field.size)
    // One that is larger than the table empties it (RFC 7541 4.4).
    if (field.size > this.capacity) return
    this.newest = (this.newest + 1) & this.mask
    this.table[this.newest] = field
    this.count += 1
    this.tableBytes += field.size
  }

  /** Drops the oldest until no more than these bytes are left. */
  private evict(bytes: number): void {
    while (this.tableBytes > bytes && this.count > 0) {
      this.count -= 1
      const oldest = (this.newest - this.count) & this.mask
      this.tableBytes -= this.table[oldest]!.size
      this.table[oldest] = noField
    }
  }

  /** -1: it does not end in this block, or it has more than 29 bits. */
  private readInteger(bytes: Buffer, start: number, end: number, prefix: number): number {
    let value = bytes[start]! & prefix
    let at = start + 1
    if (value === prefix)
      for (let shift = 0; ; shift += 7) {
        if (at >= end || shift > 21) return -1
        const octet = bytes[at++]!
        value += (octet & 0x7f) << shift
        if (octet < 0x80) break
      }
    this.at = at
    return value
  }

  private readString(bytes: Buffer, end: number, isName: boolean): string | undefined {
    if (this.at >= end) return undefined
    const coded = bytes[this.at]! >= 0x80
    const length = this.readInteger(bytes, this.at, end, 0x7f)
    const start = this.at
    if (length < 0 || length > end - start) return undefined
    this.at = start + length
    if (!coded) {
      this.bad = isName ? verdictOnName(bytes, start, start + length) : verdictOnValue(bytes, start, start + length)
      return readLatin1(bytes, start, start + length)
    }
    const room = huffmanRoom(length)
    const into = room <= scratch.length ? scratch : Buffer.allocUnsafe(room)
    const decoded = decodeHuffman(bytes, start, start + length, into)
    if (decoded < 0) return undefined
    const size = decoded >>> 1
    if (isName) this.bad = verdictOnName(into, 0, size)
    else this.bad = (decoded & 1) === 0 ? verdictOnEnds(into, 0, size) : badValue
    return readLatin1(into, 0, size)
  }
}

function verdictOnName(bytes: Buffer, start: number, end: number): number {
  const from = start < end && bytes[start] === 0x3a ? start + 1 : start
  let bad = from < end ? 0 : badName
  for (let i = from; i < end; i++) bad |= forbidden[bytes[i]!]!
  return bad
}

function verdictOnValue(bytes: Buffer, start: number, end: number): number {
  let bad = verdictOnEnds(bytes, start, end)
  for (let i = start; i < end; i++) bad |= forbidden[bytes[i]!]!
  return bad
}

/** A value neither begins nor ends with a space or a tab. */
function verdictOnEnds(bytes: Buffer, start: number, end: number): number {
  return start < end && (isBlank(bytes[start]!) || isBlank(bytes[end - 1]!)) ? badValue : 0
}

function isBlank(octet: number): boolean {
  return octet === 0x20 || octet === 0x09
}
