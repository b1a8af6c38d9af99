/** The form of a stored value: two revisions and a lease id before the bytes; and the byte ranges that prefixes are. */
import type { Entry } from './store.ts'

export interface StoredRecord {
  createRevision: number
  modRevision: number
  /** Empty: none. */
  lease: string
  value: Uint8Array
}

/** Bytes before the lease id: two float64 and its length. */
const head = 17

export function encodeRecord(record: StoredRecord): Buffer {
  const bytes = Buffer.allocUnsafe(head + record.lease.length + record.value.length)
  bytes.writeDoubleBE(record.createRevision, 0)
  bytes.writeDoubleBE(record.modRevision, 8)
  bytes.writeUInt8(record.lease.length, 16)
  bytes.write(record.lease, head, 'latin1')
  bytes.set(record.value, head + record.lease.length)
  return bytes
}

export function decodeRecord(bytes: Buffer): StoredRecord {
  const start = head + bytes.readUInt8(16)
  return {
    createRevision: bytes.readDoubleBE(0),
    modRevision: bytes.readDoubleBE(8),
    lease: bytes.toString('latin1', head, start),
    value: bytes.subarray(start),
  }
}

export function entryOf(key: string, record: StoredRecord): Entry {
  return { key, value: record.value, createRevision: record.createRevision, modRevision: record.modRevision }
}

/** The keys that start with `prefix`, as a range with an exclusive end; everything for an empty one. */
export function rangeOf(prefix: Buffer): { start?: Buffer; end?: Buffer } {
  if (prefix.length === 0) return {}
  let last = prefix.length - 1
  while (last >= 0 && prefix[last] === 0xff) last -= 1
  if (last < 0) return { start: prefix }
  const end = Buffer.from(prefix.subarray(0, last + 1))
  end[last]! += 1
  return { start: prefix, end }
}
