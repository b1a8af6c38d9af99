/**
 * What was said on one direction of one stream, resource by resource, as hashes: the exporter keeps it of what it sent, the importer
 * of what it took. Both fold the same messages in the same order, so the two are equal unless something was lost, refused or
 * changed on the way. Services are kept in slots by name; a slot's hash is made again only after something in it has changed.
 */
import { createHash } from 'node:crypto'
import { serviceSlots, slotBytes, slotCount, slots } from '../../wire/freshness.ts'
import { sidecarSuffix, typeUrls } from '../../wire/peer-stream.ts'

export interface LedgerEntry {
  /** As it was said. */
  id: string
  hash: Buffer
  /** Deleted. It stays here until the list drops its name, so that a lost deletion is noticed too. */
  empty: boolean
}

export interface Ledger {
  /** By slot, then by folded id; most slots of most peerings are never used. */
  slots: Map<number, Map<string, LedgerEntry>>
  /** The hashes of all slots, one behind the other, but for those that changed since; undefined before it was asked for. */
  digest: Buffer | undefined
  changed: Set<number>
  /** Entries in all slots. */
  size: number
}

export function newLedger(): Ledger {
  return { slots: new Map(), digest: undefined, changed: new Set(), size: 0 }
}

export function foldId(id: string): string {
  return id.toLowerCase()
}

/** Where a resource is kept. Services by FNV-1a over the UTF-16 units of the folded name: both ends must agree on it. */
export function slotOf(url: string, id: string): number {
  if (url === typeUrls.list) return slots.list
  if (url === typeUrls.bundle) return slots.bundle
  if (url === typeUrls.addresses) return slots.addresses
  const key = foldId(id)
  let hash = 0x811c9dc5
  for (let i = 0; i < key.length; i += 1) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193)
  return ((hash >>> 16) ^ hash) & (serviceSlots - 1)
}

/** Of the other types there is one resource each, whatever its id (spec/peering-wire.md 3). */
function keyOf(url: string, id: string): string {
  return url === typeUrls.service ? foldId(id) : ''
}

/** Answers the entry that was there before. */
export function note(ledger: Ledger, url: string, id: string, value: Uint8Array): { before: LedgerEntry | undefined; after: LedgerEntry } {
  const slot = slotOf(url, id)
  const key = keyOf(url, id)
  const known = ledger.slots.get(slot)
  const entries = known ?? new Map<string, LedgerEntry>()
  if (!known) ledger.slots.set(slot, entries)
  const before = entries.get(key)
  if (!before) ledger.size += 1
  const hash = createHash('sha256').update(`${url} ${key}\0`).update(value).digest()
  const after = { id, hash, empty: value.length === 0 }
  entries.set(key, after)
  ledger.changed.add(slot)
  return { before, after }
}

export function entryOf(ledger: Ledger, url: string, id: string): LedgerEntry | undefined {
  return ledger.slots.get(slotOf(url, id))?.get(keyOf(url, id))
}

export function forget(ledger: Ledger, url: string, id: string): void {
  const slot = slotOf(url, id)
  if (!ledger.slots.get(slot)?.delete(keyOf(url, id))) return
  ledger.size -= 1
  ledger.changed.add(slot)
}

/** A list was said: what it does not name is gone (8.2). */
export function applyList(ledger: Ledger, keep: (id: string) => boolean): void {
  for (const [slot, entries] of ledger.slots) {
    if (slot >= serviceSlots) continue
    for (const key of entries.keys()) {
      if (keep(key)) continue
      entries.delete(key)
      ledger.changed.add(slot)
      ledger.size -= 1
    }
  }
}

/** Whether a service stays when the list names these: by its own name, or as the virtual proxy of one (8.2). */
export function keptBy(names: readonly string[]): (id: string) => boolean {
  const listed = new Set(names.map(foldId))
  return id => {
    const key = foldId(id)
    return listed.has(key) || (key.endsWith(sidecarSuffix) && listed.has(key.slice(0, -sidecarSuffix.length)))
  }
}

/** Ids of the services in a slot. */
export function* idsIn(ledger: Ledger, slot: number): Generator<string> {
  for (const { id } of ledger.slots.get(slot)?.values() ?? []) yield id
}

/** The hashes of all slots, as they are until the next time. */
export function digestOf(ledger: Ledger): Buffer {
  const digest = (ledger.digest ??= Buffer.alloc(slotCount * slotBytes))
  for (const slot of ledger.changed) writeSum(digest, slot, ledger.slots.get(slot))
  ledger.changed.clear()
  return digest
}

/** Zeros for a slot in which nothing is. */
function writeSum(digest: Buffer, slot: number, entries: Map<string, LedgerEntry> | undefined): void {
  const at = slot * slotBytes
  if (entries === undefined || entries.size === 0) {
    digest.fill(0, at, at + slotBytes)
    return
  }
  const sum = createHash('sha256')
  for (const hash of Array.from(entries.values(), entry => entry.hash).sort((a, b) => a.compare(b))) sum.update(hash)
  sum.digest().copy(digest, at, 0, slotBytes)
}

/** The slots in which two digests differ. */
export function differing(ours: Uint8Array, theirs: Uint8Array): number[] {
  const found: number[] = []
  // Almost always they are the same.
  if (Buffer.compare(ours, theirs) === 0) return found
  for (let slot = 0; slot < slotCount; slot += 1) {
    const at = slot * slotBytes
    for (let i = at; i < at + slotBytes; i += 1) {
      if (ours[i] === theirs[i]) continue
      found.push(slot)
      break
    }
  }
  return found
}
