/**
 * What peers export to us, each set under its peer and apart from our own catalog. A set counts from the moment its record names
 * a generation, and then whole: chunks alone change nothing that a reader sees, and what has changed of one that counts is seen with
 * its record. Instances that have not changed stay the same objects, shared between readers: nobody changes them.
 */
import type { CheckServiceNode } from '../../mesh/service.ts'
import { fold } from './instances-table.ts'
import type { Change, ImportedService } from './records.ts'
import type { Reading, Topics } from './topics.ts'
import { compareText } from '../../lib/order.ts'

interface ImportedSet {
  record: ImportedService
  /** In order. */
  instances: CheckServiceNode[]
  /** Every chunk that the record counts is there, and as it was when the record was written. */
  whole: boolean
  /** Chunks that have changed since, by name: what they held then, and the revision that changed them. */
  altered: Map<string, { before: readonly CheckServiceNode[]; revision: number }>
}

type Chunks = Map<string, readonly CheckServiceNode[]>

export class ImportedTable {
  readonly #topics: Topics
  /** By peer, then folded service name. */
  readonly #sets = new Map<string, Map<string, ImportedSet>>()
  /** By peer, folded service name and generation; then by name of the chunk. */
  readonly #chunks = new Map<string, Map<string, Map<string, Chunks>>>()

  constructor(topics: Topics) {
    this.#topics = topics
  }

  clear(): void {
    this.#sets.clear()
    this.#chunks.clear()
  }

  /** Chunks of a revision are applied before its records. */
  applyChunk(change: Change): void {
    const [peer, service, generation, chunk] = change.path as [string, string, string, string]
    const current = this.#sets.get(peer)?.get(service)
    if (current?.record.generation === generation) {
      const before = current.altered.get(chunk)?.before ?? this.#chunksOf(current.record, service)?.get(chunk) ?? []
      current.altered.set(chunk, { before, revision: change.modifyIndex })
      // Until a record of the same revision says that this is how it should be.
      current.whole = false
    }
    if (change.value !== undefined) {
      const instances = (change.value as CheckServiceNode[]).map(instance => withIndexes(instance, change))
      inner(inner(inner(this.#chunks, peer), service), generation).set(chunk, instances)
      return
    }
    const ofPeer = this.#chunks.get(peer)
    const ofService = ofPeer?.get(service)
    const ofGeneration = ofService?.get(generation)
    ofGeneration?.delete(chunk)
    if (ofGeneration?.size === 0) ofService!.delete(generation)
    if (ofService?.size === 0) ofPeer!.delete(service)
    if (ofPeer?.size === 0) this.#chunks.delete(peer)
  }

  applyRecord(change: Change): void {
    const [peer, service] = change.path as [string, string]
    const sets = inner(this.#sets, peer)
    const before = sets.get(service)
    const record = change.value as ImportedService | undefined
    if (record) {
      const chunks = this.#chunksOf(record, service)
      const amended = before?.record.generation === record.generation ? before : undefined
      const lawful = [...(amended?.altered.values() ?? [])].every(each => each.revision === change.modifyIndex)
      const instances = amended ? amend(amended, chunks) : assemble(chunks)
      sets.set(service, { record, instances, whole: lawful && chunks?.size === record.chunks, altered: new Map() })
    } else {
      sets.delete(service)
    }
    if (sets.size === 0) this.#sets.delete(peer)
    if (sets.size > 0) this.#topics.touch(`imported/${peer}`)
    else this.#topics.lose(`imported/${peer}`)
    if (record) this.#topics.touch(`instances/${peer}/${service}`)
    else this.#topics.lose(`instances/${peer}/${service}`)
  }

  instances(service: string, peer: string): Reading<CheckServiceNode[]> {
    const name = fold(service)
    return this.#topics.read(this.#sets.get(peer)?.get(name)?.instances ?? [], `instances/${peer}/${name}`)
  }

  /** The synthetic proxies that an exporter sends for a mesh service (spec/peering-wire.md 7.4). */
  connectInstances(service: string, peer: string): Reading<CheckServiceNode[]> {
    const reading = this.instances(`${service}-sidecar-proxy`, peer)
    return { ...reading, value: reading.value.filter(instance => instance.service.kind === 'connect-proxy') }
  }

  services(peer: string): Reading<ImportedService[]> {
    const sets = [...(this.#sets.get(peer)?.values() ?? [])]
    const records = sets.map(set => set.record).sort((a, b) => compareText(a.service, b.service))
    return this.#topics.read(records, `imported/${peer}`)
  }

  /** One record as it stands, for its writer. */
  record(peer: string, service: string): ImportedService | undefined {
    return this.#sets.get(peer)?.get(fold(service))?.record
  }

  sets(peer: string): Iterable<{ record: ImportedService; whole: boolean }> {
    return this.#sets.get(peer)?.values() ?? []
  }

  isWhole(peer: string, service: string): boolean {
    return this.#sets.get(peer)?.get(fold(service))?.whole ?? false
  }

  peers(): Iterable<string> {
    return new Set([...this.#sets.keys(), ...this.#chunks.keys()])
  }

  /** Generations that no record names: what a newer one replaced, or what a crash left behind. */
  staleGenerations(peer: string, service?: string): { service: string; generation: string }[] {
    const ofPeer = this.#chunks.get(peer)
    const names = service === undefined ? [...(ofPeer?.keys() ?? [])] : [fold(service)]
    return names.flatMap(name => {
      const current = this.record(peer, name)?.generation
      const generations = [...(ofPeer?.get(name)?.keys() ?? [])]
      return generations.filter(each => each !== current).map(generation => ({ service: name, generation }))
    })
  }

  #chunksOf({ peer, generation }: ImportedService, service: string): Chunks | undefined {
    return this.#chunks.get(peer)?.get(service)?.get(generation)
  }
}

function assemble(chunks: Chunks | undefined): CheckServiceNode[] {
  const all = Array.from(chunks?.values() ?? []).flat()
  const placed = all.map(instance => ({ instance, node: fold(instance.node.node) }))
  placed.sort((a, b) => compareText(a.node, b.node) || compareText(a.instance.service.id, b.instance.service.id))
  return placed.map(each => each.instance)
}

/** Only what has changed is looked for. */
function amend({ instances, altered }: ImportedSet, chunks: Chunks | undefined): CheckServiceNode[] {
  if (altered.size === 0) return instances
  const made = [...instances]
  for (const [chunk, { before }] of altered) {
    for (const instance of before) made.splice(placeOf(instance, made), 1)
    for (const instance of chunks?.get(chunk) ?? []) made.splice(placeOf(instance, made), 0, instance)
  }
  return made
}

/** Of the first that does not come before it. */
function placeOf(instance: CheckServiceNode, sorted: readonly CheckServiceNode[]): number {
  const node = fold(instance.node.node)
  let [low, high] = [0, sorted.length]
  while (low < high) {
    const middle = (low + high) >>> 1
    const other = sorted[middle]!
    const order = compareText(fold(other.node.node), node) || compareText(other.service.id, instance.service.id)
    if (order < 0) low = middle + 1
    else high = middle
  }
  return low
}

function withIndexes(instance: CheckServiceNode, change: Change): CheckServiceNode {
  const indexes = { createIndex: change.createIndex, modifyIndex: change.modifyIndex }
  return {
    node: { ...instance.node, ...indexes },
    service: { ...instance.service, ...indexes },
    checks: instance.checks.map(check => ({ ...check, ...indexes })),
  }
}

function inner<V extends Map<string, unknown>>(map: Map<string, V>, key: string): V {
  let value = map.get(key)
  if (!value) {
    value = new Map() as V
    map.set(key, value)
  }
  return value
}
