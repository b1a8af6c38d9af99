/**
 * Writes of what peers export to us. Everything lies under its peer's own prefixes, so that no write here can touch what is local
 * or another peer's. A set is written in chunks under a new generation and counts with its record, which is written last.
 */
import { createHash, randomBytes } from 'node:crypto'
import { MeshError } from '../../lib/errors.ts'
import { Turns } from '../../lib/turns.ts'
import { peerNamePattern } from '../../mesh/peering.ts'
import type { CheckServiceNode } from '../../mesh/service.ts'
import { storeLimits, type Op, type Store } from '../store/store.ts'
import { putRecord } from './commit.ts'
import { ImportWriter } from './import-writer.ts'
import { fold } from './instances-table.ts'
import { keys } from './keys.ts'
import type { ImportedService } from './records.ts'
import type { Tables } from './tables.ts'
import { virtualAddressTag, type VirtualIps } from './virtual-ips.ts'
import { compareText } from '../../lib/order.ts'

/** Well under the store's limits, so that a chunk and the record fit into one transaction. */
const maxChunkBytes = 256 * 1024
const maxTxnChunkBytes = 768 * 1024
const maxDeletes = storeLimits.batchOps

const syntheticSuffix = '-sidecar-proxy'
const encoder = new TextEncoder()

export class Imports {
  readonly #store: Store
  readonly #tables: Tables
  readonly #virtualIps: VirtualIps
  readonly #writer: ImportWriter
  /** By peer and service: writes of one service never overtake each other. */
  readonly #turns = new Turns()

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

  async #replace(peer: string, service: string, given: CheckServiceNode[], receivedAtMs: number): Promise<string> {
    const virtual = this.#claimVirtualIp(peer, service, given)
    const instances = given.map(instance => normalise(instance, peer, virtual?.address)).sort(byNodeAndId)
    const json = instances.map(instance => JSON.stringify(instance))
    const digest = createHash('sha256').update(json.join('\n')).digest('base64')
    const current = this.#tables.importedService(peer, service)
    if (current?.digest === digest && current.service === service && this.#tables.isWhole(peer, service)) return digest
    const generation = randomBytes(9).toString('base64url')
    const chunks = chunksOf(json, `${peer}/${service}`)
    const puts = chunks.map((value, i): Op => ({ op: 'put', key: keys.importedChunk(peer, service, generation, i), value }))
    const record: ImportedService = { peer, service, generation, chunks: chunks.length, digest, receivedAtMs }
    // The last chunk goes with the record and with the end of older generations: whoever looks sees one set or the other.
    const last = puts.pop()!
    await this.#writeChunks(puts)
    const stale = this.#tables.staleGenerations(peer, service).map(each => each.generation)
    if (current) stale.push(current.generation)
    const old = [...new Set(stale)].filter(each => each !== generation).slice(0, maxDeletes / 2)
    const written = await this.#writer.write(
      [
        last,
        putRecord(keys.imported(peer, service), record),
        ...old.map((each): Op => ({ op: 'delete-prefix', prefix: keys.importedGeneration(peer, service, each) })),
        ...(virtual?.ops ?? []),
      ],
      virtual?.compare,
    )
    // Somebody else has claimed the virtual address meanwhile: once more, with the one that counts or the next.
    return written ? digest : this.#replace(peer, service, given, receivedAtMs)
  }

  #claimVirtualIp(peer: string, service: string, instances: CheckServiceNode[]): ReturnType<VirtualIps['claim']> | undefined {
    if (!service.endsWith(syntheticSuffix) || !instances.some(each => each.service.kind === 'connect-proxy')) return undefined
    return this.#virtualIps.claim(peer, service.slice(0, -syntheticSuffix.length))
  }

  async #writeChunks(puts: Op[]): Promise<void> {
    let batch: Op[] = []
    let bytes = 0
    for (const put of puts) {
      const size = put.op === 'put' ? put.value.byteLength : 0
      if (bytes + size > maxTxnChunkBytes) {
        await this.#write(batch)
        batch = []
        bytes = 0
      }
      batch.push(put)
      bytes += size
    }
    await this.#write(batch)
  }

  async #remove(peer: string, service: string): Promise<void> {
    // Peers say again and again that there is nothing.
    if (!this.#tables.importedService(peer, service) && this.#tables.staleGenerations(peer, service).length === 0) return
    const synthetic = service.endsWith(syntheticSuffix)
    await this.#writer.write([
      { op: 'delete', key: keys.imported(peer, service) },
      { op: 'delete-prefix', prefix: keys.importedChunks(peer, service) },
      ...(synthetic ? this.#virtualIps.release(peer, service.slice(0, -syntheticSuffix.length)) : []),
    ])
  }

  /** Generations that no record names; those of writes under way are left alone. */
  async #collect(peer: string): Promise<void> {
    const stale = this.#tables.staleGenerations(peer).filter(each => !this.#turns.isBusy(turnOf(peer, each.service)))
    await this.#write(
      stale.map((each): Op => ({ op: 'delete-prefix', prefix: keys.importedGeneration(peer, each.service, each.generation) })),
    )
  }

  async #write(ops: readonly Op[]): Promise<void> {
    for (let i = 0; i < ops.length; i += storeLimits.batchOps) {
      const { revision } = await this.#store.txn({ ops: ops.slice(i, i + storeLimits.batchOps) })
      await this.#tables.reached(revision)
    }
  }
}

function turnOf(peer: string, service: string): string {
  return `${peer}/${fold(service)}`
}

/** The name is part of every key here: anything but a peer's name could reach what is not the peer's. */
function checkPeer(peer: string): void {
  if (!peerNamePattern.test(peer)) throw new MeshError('invalid', `"${peer}" is not the name of a peer; give the local name of a peering`)
}

/** As ours: under the peer's local name, with a virtual address of ours alone. */
function normalise({ node, service, checks }: CheckServiceNode, peer: string, virtualAddress: string | undefined): CheckServiceNode {
  const indexes = { createIndex: 0, modifyIndex: 0 }
  const { [virtualAddressTag]: _theirs, ...tagged } = service.taggedAddresses ?? {}
  const taggedAddresses =
    virtualAddress !== undefined && service.kind === 'connect-proxy'
      ? { ...tagged, [virtualAddressTag]: { address: virtualAddress, port: service.port ?? 0 } }
      : tagged
  return {
    node: { ...node, peerName: peer, ...indexes },
    service: {
      ...service,
      taggedAddresses: Object.keys(taggedAddresses).length > 0 ? taggedAddresses : undefined,
      peerName: peer,
      ...indexes,
    },
    checks: checks.map(check => ({ ...check, peerName: peer, ...indexes })),
  }
}

function byNodeAndId(a: CheckServiceNode, b: CheckServiceNode): number {
  return compareText(fold(a.node.node), fold(b.node.node)) || compareText(a.service.id, b.service.id)
}

function chunksOf(json: readonly string[], what: string): Uint8Array[] {
  const chunks: Uint8Array[] = []
  let from = 0
  let bytes = 0
  const close = (to: number) => {
    chunks.push(encoder.encode(`[${json.slice(from, to).join(',')}]`))
    from = to
    bytes = 0
  }
  for (const [i, text] of json.entries()) {
    const size = Buffer.byteLength(text)
    if (size > maxTxnChunkBytes) {
      throw new MeshError(
        'too-large',
        `an instance of ${what} takes ${size} bytes, more than ${maxTxnChunkBytes}; shorten its meta and tags`,
      )
    }
    if (i > from && bytes + size > maxChunkBytes) close(i)
    bytes += size
  }
  close(json.length)
  return chunks
}
