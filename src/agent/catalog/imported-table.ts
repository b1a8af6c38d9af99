/**
 * What peers export to us, each set under its peer and apart from our own catalog. A set counts from the moment its record names
 * a generation, and then whole: chunks alone change nothing that a reader sees.
 */
import type { CheckServiceNode } from '../../mesh/service.ts'
import { fold } from './instances-table.ts'
import type { Change, ImportedService } from './records.ts'
import type { Reading, Topics } from './topics.ts'
import { compareText } from '../../lib/order.ts'

interface ImportedSet {
  record: ImportedService
  instances: CheckServiceNode[]
  /** Every chunk that the record counts is there. */
  whole: boolean
}

export class ImportedTable {
  readonly #topics: Topics
  /** By peer, then folded service name. */
  readonly #sets = new Map<string, Map<string, ImportedSet>>()
  /** By peer, folded service name and generation; then by number of the chunk. */
  readonly #chunks = new Map<string, Map<string, Map<string, Map<string, CheckServiceNode[]>>>>()

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
    // The chunks of the generation that counts never change but by somebody else's hand.
    const current = this.#sets.get(peer)?.get(service)
    if (current?.record.generation === generation) current.whole = false
    if (change.value !== undefined) {
      const ofPeer = inner(this.#chunks, peer)
      inner(inner(ofPeer, service), generation).set(chunk, change.value as CheckServiceNode[])
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
    if (record && before?.record.generation === record.generation) {
      sets.set(service, { ...before, record })
      this.#topics.touch(`imported/${peer}`)
      return
    }
    if (record) {
      const { instances, whole } = this.#assemble(record, service)
      sets.set(service, { record, instances: instances.map(instance => withIndexes(instance, change)), whole })
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

  #assemble(record: ImportedService, service: string): { instances: CheckServiceNode[]; whole: boolean } {
    const chunks = this.#chunks.get(record.peer)?.get(service)?.get(record.generation)
    const all = [...(chunks ?? [])].sort((a, b) => compareText(a[0], b[0])).flatMap(pair => pair[1])
    all.sort((a, b) => compareText(fold(a.node.node), fold(b.node.node)) || compareText(a.service.id, b.service.id))
    return { instances: all, whole: chunks?.size === record.chunks }
  }
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
