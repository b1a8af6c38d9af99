/**
 * Writes of what peers export to us. Everything lies under its peer's own prefixes, so that no write here can touch what is local
 * or another peer's. A set is written instance by instance under a generation and counts with its record, which is written last or
 * with all that has changed: one change of a large set costs what it changes.
 */
import { randomBytes } from 'node:crypto'
import { MeshError } from '../../lib/errors.ts'
import { Turns } from '../../lib/turns.ts'
import { peerNamePattern } from '../../mesh/peering.ts'
import type { CheckServiceNode } from '../../mesh/service.ts'
import { storeLimits, type Op, type Store } from '../store/store.ts'
import { putRecord } from './commit.ts'
import { differences, digestOf, ImportRows, type ImportRow, type WrittenSet } from './import-rows.ts'
import { ImportWriter } from './import-writer.ts'
import { fold } from './instances-table.ts'
import { keys } from './keys.ts'
import type { ImportedService } from './records.ts'
import type { Tables } from './tables.ts'
import type { VirtualIps } from './virtual-ips.ts'

/** Well under the store's limits, so that rows, the record, a virtual address and the end of old generations fit into one transaction. */
const maxBatchRows = storeLimits.batchOps - 48
const maxBatchBytes = 768 * 1024
const maxOld = 32
/** Of one large set: what they write keeps the process from everything else. */
const batchesAtOnce = 8

const syntheticSuffix = '-sidecar-proxy'
const encoder = new TextEncoder()

export class Imports {
  readonly #store: Store
  readonly #tables: Tables
  readonly #virtualIps: VirtualIps
  readonly #writer: ImportWriter
  /** By peer and service: writes of one service never overtake each other. */
  readonly #turns = new Turns()
  readonly #rows = new ImportRows()
  /** By peer and service: what is in the store, as long as its record says the same. */
  readonly #written = new Map<string, WrittenSet>()

  constructor(options: { store: Store; tables: Tables; virtualIps: VirtualIps }) {
    this.#store = options.store
    this.#tables = options.tables
    this.#virtualIps = options.virtualIps
    this.#writer = new ImportWriter(options.store, options.tables)
  }

  /** Answers the digest of the set as its record has it; undefined for an empty one. */
  async replace(peer: string, service: string, instances: CheckServiceNode[], receivedAtMs: number): Promise<string | undefined> {
    checkPeer(peer)
    return this.#turns.run(turnOf(peer, service), async () => {
      if (instances.length > 0) return this.#replace(peer, service, instances, receivedAtMs)
      await this.#remove(peer, service)
      return undefined
    })
  }

  async sweep(peer: string, keep: (service: string) => boolean): Promise<void> {
    checkPeer(peer)
    const gone = this.#tables.importedServices(peer).value.filter(record => !keep(record.service))
    await Promise.all(gone.map(({ service }) => this.#turns.run(turnOf(peer, service), () => this.#remove(peer, service))))
    await this.#collect(peer)
  }

  async purge(peer: string): Promise<void> {
    checkPeer(peer)
    await this.#turns.idle(`${peer}/`)
    for (const turn of this.#written.keys()) if (turn.startsWith(`${peer}/`)) this.#written.delete(turn)
    const addresses = this.#tables.virtualIps(peer).map(each => keys.virtualAddress(each.address))
    const ops: Op[] = [
      ...keys.importedPrefixes(peer).map((prefix): Op => ({ op: 'delete-prefix', prefix })),
      ...addresses.map((key): Op => ({ op: 'delete', key })),
    ]
    await this.#write(ops)
  }

  async collect(): Promise<void> {
    for (const peer of this.#tables.importedPeers()) await this.#collect(peer)
  }

  /**
   * What has changed in the set that counts goes into its generation with its record, in one transaction, where that holds it; more
   * becomes a generation of its own. Whoever looks sees one set or the other.
   */
  async #replace(peer: string, service: string, instances: CheckServiceNode[], receivedAtMs: number): Promise<string> {
    const turn = turnOf(peer, service)
    const virtual = this.#claimVirtualIp(peer, service, instances)
    const rows = instances.map(instance => this.#rows.of(instance, { peer, virtualAddress: virtual?.address }))
    const current = this.#tables.importedService(peer, service)
    const whole = current?.service === service && this.#tables.isWhole(peer, service)
    const known = this.#written.get(turn)
    const before = whole && known?.generation === current.generation && known.digest === current.digest ? known : undefined
    const change = before && differences(before, rows)
    const digest = change?.digest ?? digestOf(rows)
    let generation = current?.generation ?? newGeneration()
    if (!whole || current.digest !== digest) {
      const part = before && change && partOf(before.generation, change, { peer, service })
      if (!part) generation = newGeneration()
      const record: ImportedService = { peer, service, generation, chunks: rows.length, digest, receivedAtMs }
      const last = part ?? (await this.#writeAllButLast(record, rows))
      const ops = [...last, putRecord(keys.imported(peer, service), record), ...(virtual?.ops ?? [])]
      // Somebody else has claimed the virtual address meanwhile: once more, with the one that counts or the next.
      if (!(await this.#writer.write(ops, virtual?.compare))) return this.#replace(peer, service, instances, receivedAtMs)
    }
    if (change && before.generation === generation) {
      for (const name of change.gone) before.rows.delete(name)
      for (const row of change.changed) before.rows.set(row.name, row.hash)
      before.digest = digest
    } else this.#written.set(turn, { generation, digest, rows: new Map(rows.map(row => [row.name, row.hash])) })
    return digest
  }

  /** Answers what is to be written with the record: the last rows of the new generation, and the end of older ones. */
  async #writeAllButLast({ peer, service, generation }: ImportedService, rows: readonly ImportRow[]): Promise<Op[]> {
    const batches = batchesOf(rows.map(row => putRow(row, { peer, service, generation })))
    const last = batches.pop()!
    for (let i = 0; i < batches.length; i += batchesAtOnce) {
      await Promise.all(batches.slice(i, i + batchesAtOnce).map(batch => this.#write(batch, { early: true })))
    }
    const stale = this.#tables.staleGenerations(peer, service).map(each => each.generation)
    const current = this.#tables.importedService(peer, service)
    if (current) stale.push(current.generation)
    const old = [...new Set(stale)].filter(each => each !== generation).slice(0, maxOld)
    return [...last, ...old.map((each): Op => ({ op: 'delete-prefix', prefix: keys.importedGeneration(peer, service, each) }))]
  }

  #claimVirtualIp(peer: string, service: string, instances: CheckServiceNode[]): ReturnType<VirtualIps['claim']> | undefined {
    const of = meshServiceOf(service)
    if (of === undefined || !instances.some(each => each.service.kind === 'connect-proxy')) return undefined
    return this.#virtualIps.claim(peer, of)
  }

  async #remove(peer: string, service: string): Promise<void> {
    this.#written.delete(turnOf(peer, service))
    // Peers say again and again that there is nothing.
    if (!this.#tables.importedService(peer, service) && this.#tables.staleGenerations(peer, service).length === 0) return
    const of = meshServiceOf(service)
    await this.#writer.write([
      { op: 'delete', key: keys.imported(peer, service) },
      { op: 'delete-prefix', prefix: keys.importedChunks(peer, service) },
      ...(of === undefined ? [] : this.#virtualIps.release(peer, of)),
    ])
  }

  /** Generations that no record names; those of writes under way are left alone. */
  async #collect(peer: string): Promise<void> {
    const stale = this.#tables.staleGenerations(peer).filter(each => !this.#turns.isBusy(turnOf(peer, each.service)))
    await this.#write(
      stale.map((each): Op => ({ op: 'delete-prefix', prefix: keys.importedGeneration(peer, each.service, each.generation) })),
    )
  }

  async #write(ops: readonly Op[], { early = false } = {}): Promise<void> {
    for (let i = 0; i < ops.length; i += storeLimits.batchOps) {
      const { revision } = await this.#store.txn({ ops: ops.slice(i, i + storeLimits.batchOps), early })
      await this.#tables.reached(revision)
    }
  }
}

/** Whose proxies a set is, however its peer spells it: sets are one whatever their case. */
function meshServiceOf(set: string): string | undefined {
  return fold(set).endsWith(syntheticSuffix) ? set.slice(0, -syntheticSuffix.length) : undefined
}

function turnOf(peer: string, service: string): string {
  return `${peer}/${fold(service)}`
}

/** The name is part of every key here: anything but a peer's name could reach what is not the peer's. */
function checkPeer(peer: string): void {
  if (!peerNamePattern.test(peer)) throw new MeshError('invalid', `"${peer}" is not the name of a peer; give the local name of a peering`)
}

function newGeneration(): string {
  return randomBytes(9).toString('base64url')
}

interface Place {
  peer: string
  service: string
  generation: string
}

function putRow(row: ImportRow, { peer, service, generation }: Place): Op & { op: 'put' } {
  const value = encoder.encode(`[${row.text()}]`)
  if (value.byteLength > maxBatchBytes) {
    const what = `an instance of ${peer}/${service} takes ${value.byteLength} bytes, more than ${maxBatchBytes}`
    throw new MeshError('too-large', `${what}; shorten its meta and tags`)
  }
  return { op: 'put', key: keys.importedChunk(peer, service, generation, row.name), value }
}

/** Undefined where one transaction cannot hold it. */
function partOf(
  generation: string,
  { changed, gone }: { changed: readonly ImportRow[]; gone: readonly string[] },
  { peer, service }: { peer: string; service: string },
): Op[] | undefined {
  if (changed.length + gone.length > maxBatchRows) return undefined
  const puts = changed.map(row => putRow(row, { peer, service, generation }))
  if (puts.reduce((sum, put) => sum + put.value.byteLength, 0) > maxBatchBytes) return undefined
  return [...puts, ...gone.map((name): Op => ({ op: 'delete', key: keys.importedChunk(peer, service, generation, name) }))]
}

/** At least one. */
function batchesOf(puts: readonly (Op & { op: 'put' })[]): Op[][] {
  const batches: Op[][] = []
  let from = 0
  let bytes = 0
  for (const [i, { value }] of puts.entries()) {
    if (i > from && (i - from >= maxBatchRows || bytes + value.byteLength > maxBatchBytes)) {
      batches.push(puts.slice(from, i))
      from = i
      bytes = 0
    }
    bytes += value.byteLength
  }
  batches.push(puts.slice(from))
  return batches
}
