/**
 * Saving and restoring everything that the store holds (spec/http-api.md 14), keys of the CA and secrets of peerings included: without
 * them a restored cluster would be another one. Left out is what each agent was asked to run, which is its own and follows it.
 * A restore is many transactions: one that a crash cuts short is done again from the same archive.
 */
import { messageOf, MeshError } from '../../lib/errors.ts'
import type { Clock } from '../../lib/clock.ts'
import { storeLimits, type Entry, type Op, type Store } from '../store/store.ts'
import { pack, unpack } from './archive.ts'
import { keys } from './keys.ts'
import { Tables } from './tables.ts'

export interface BackupOptions {
  store: Store
  tables: Tables
  clock: Clock
  node: { id: string; address: string }
  /** What follows from the store and lives in memory: called after a restore. */
  onRestored: () => Promise<void>
}

const format = 'isthmus-state'
const version = 1
const opsAtOnce = 100
const bytesAtOnce = 700 * 1024

interface Saved {
  key: string
  value: Buffer
}

const isLocal = (key: string) => key.startsWith('local/')
const isCa = (key: string) => key.startsWith('ca/') || key.startsWith('ca-key/')

export class Backup {
  readonly #options: BackupOptions
  #restoring = false

  constructor(options: BackupOptions) {
    this.#options = options
  }

  /** An archive of the store as of one revision, and that revision. */
  async save(): Promise<{ archive: Buffer; revision: number }> {
    const { store, clock, node } = this.#options
    const { entries, revision } = await store.list('')
    const lines = entries
      .filter(({ key }) => !isLocal(key))
      .map(({ key, value }) => `${JSON.stringify({ key, value: Buffer.from(value).toString('base64') })}\n`)
    const state = Buffer.from(`${JSON.stringify({ format, version })}\n${lines.join('')}`)
    const meta = {
      Version: 1,
      ID: `2-${revision}-${clock.nowMs()}`,
      Index: revision,
      Term: 2,
      Peers: null,
      Configuration: { Servers: [{ Suffrage: 0, ID: node.id, Address: node.address }] },
      ConfigurationIndex: 1,
      Size: state.length,
    }
    return { archive: await pack({ meta: Buffer.from(JSON.stringify(meta)), state }, clock.nowMs()), revision }
  }

  /** Puts what an archive holds in the place of everything; nothing is touched before all of it has been read and found sound. */
  async restore(archive: Buffer): Promise<void> {
    if (this.#restoring) throw new MeshError('conflict', 'a restore is under way; wait for it to end')
    this.#restoring = true
    try {
      const saved = readState((await unpack(archive)).state)
      await tryOut(saved)
      await this.#replace(saved)
      await this.#options.onRestored()
    } finally {
      this.#restoring = false
    }
  }

  async #replace(saved: Saved[]): Promise<void> {
    const { entries } = await this.#options.store.list('')
    const present = new Map(entries.map(entry => [entry.key, entry]))
    // The same cluster keeps its CA as it is now: serial numbers never come back, and a newer root is not forgotten.
    const keepsCa = sameCluster(saved, present)
    const counts = (key: string) => !isLocal(key) && !(keepsCa && isCa(key))
    const wanted = new Map(saved.filter(({ key }) => counts(key)).map(each => [each.key, each.value]))
    const gone = entries.filter(({ key }) => counts(key) && !wanted.has(key)).map(({ key }): Op => ({ op: 'delete', key }))
    const puts = [...wanted]
      .filter(([key, value]) => !value.equals(present.get(key)?.value ?? Buffer.alloc(0)))
      .map(([key, value]): Op => ({ op: 'put', key, value }))
    // What the CA is made of changes at once.
    const all = [...gone, ...puts]
    await this.#write(all.filter(op => 'key' in op && isCa(op.key)))
    await this.#write(all.filter(op => 'key' in op && !isCa(op.key)))
  }

  async #write(ops: readonly Op[]): Promise<void> {
    const { store, tables } = this.#options
    let batch: Op[] = []
    let bytes = 0
    const flush = async () => {
      if (batch.length === 0) return
      const { revision } = await store.txn({ ops: batch })
      await tables.reached(revision)
      batch = []
      bytes = 0
    }
    for (const op of ops) {
      const size = op.op === 'put' ? op.value.byteLength : 0
      if (batch.length >= opsAtOnce || bytes + size > bytesAtOnce) await flush()
      batch.push(op)
      bytes += size
    }
    await flush()
  }
}

function clusterOf(value: Uint8Array | undefined): unknown {
  return value && (JSON.parse(Buffer.from(value).toString()) as { clusterId?: string }).clusterId
}

function sameCluster(saved: readonly Saved[], present: ReadonlyMap<string, Entry>): boolean {
  const key = keys.caConfiguration()
  return clusterOf(saved.find(each => each.key === key)?.value) === clusterOf(present.get(key)?.value)
}

function refuse(why: string): MeshError {
  return new MeshError('invalid', `failed to restore from snapshot: ${why}`)
}

function readState(state: Buffer): Saved[] {
  const saved: Saved[] = []
  const seen = new Set<string>()
  let first = true
  // Line by line: a text of all of it, or a list of its lines, may be more than the process can hold.
  for (let at = 0; at < state.length;) {
    const end = state.indexOf(0x0a, at)
    if (end < 0) throw refuse('state.bin is cut off')
    const line = objectOf(state.subarray(at, end))
    at = end + 1
    if (first) {
      if (!line) throw refuse('state.bin is not one of isthmus; a snapshot of a Consul cluster cannot be restored here')
      if (line['format'] !== format || line['version'] !== version) throw refuse(`state.bin is not ${format} ${version}`)
      first = false
    } else saved.push(entryOf(line, seen))
  }
  if (first) throw refuse('state.bin is empty')
  return saved
}

function entryOf(line: Record<string, unknown> | undefined, seen: Set<string>): Saved {
  const { key, value: text } = line ?? {}
  const malformed = refuse('an entry of state.bin is malformed')
  if (typeof key !== 'string' || key === '' || typeof text !== 'string' || seen.has(key)) throw malformed
  seen.add(key)
  const value = Buffer.from(text, 'base64')
  if (Buffer.byteLength(key) > storeLimits.maxKeyBytes || value.length > storeLimits.maxTxnBytes - storeLimits.maxKeyBytes) throw malformed
  // Everything that the store holds is JSON but the keys of the CA.
  if (!key.startsWith('ca-key/') && !objectOf(value)) throw malformed
  return { key, value }
}

function objectOf(text: Buffer): Record<string, unknown> | undefined {
  // The longest entry that the store takes, in base64 and quoted.
  if (text.length > 2 * storeLimits.maxTxnBytes) return undefined
  try {
    const value: unknown = JSON.parse(text.toString('utf8'))
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

/** Tables that cannot take an entry would stop at it, now and at every start. */
async function tryOut(saved: readonly Saved[]): Promise<void> {
  const entries = saved.map(({ key, value }): Entry => ({ key, value, createRevision: 1, modRevision: 1 }))
  const source = { revision: 1, list: () => Promise.resolve({ entries, revision: 1 }), watch: () => ({ close() {} }) }
  try {
    ;(await Tables.open(source)).close()
  } catch (error) {
    throw refuse(`an entry of state.bin is malformed: ${messageOf(error)}`)
  }
}
