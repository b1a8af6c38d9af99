/**
 * Stores what one peer says, under that peer alone. A refusal is an answer, not an exception: its text goes back to the peer. What
 * a peer may fill is bounded; its trust domain is pinned by its first bundle and can be neither ours nor another peer's (DESIGN 5).
 */
import type { Clock } from '../../lib/clock.ts'
import { messageOf } from '../../lib/errors.ts'
import { isHostPort } from '../../mesh/peering-token.ts'
import type { Catalog } from '../catalog/catalog.ts'
import type { Tables } from '../catalog/tables.ts'
import { clip, type Change } from './intake.ts'
import { foldId, keptBy } from './ledger.ts'
import type { PeeringRecords } from './records.ts'
import { maxNameLength } from './replica.ts'
import { readRootCertificate } from './root-certificates.ts'

/** What one peer may take up here. */
export interface ImportLimits {
  services: number
  instances: number
  /** Encoded size of everything it exports. */
  bytes: number
}
export const defaultImportLimits: ImportLimits = { services: 10_000, instances: 100_000, bytes: 64 * 1024 * 1024 }

const maxRoots = 64
const maxAddresses = 64

export interface ImporterOptions {
  tables: Tables
  catalog: Catalog
  records: PeeringRecords
  ownTrustDomain: string
  peer: string
  clock: Clock
  limits?: ImportLimits
}

export class Importer {
  readonly #options: ImporterOptions
  readonly #limits: ImportLimits
  /** What each service takes up, as far as this process has seen it. */
  readonly #held = new Map<string, { instances: number; bytes: number }>()
  #instances = 0
  #bytes = 0
  /** By folded name: the digest under which each set was stored by this process. */
  readonly #digests = new Map<string, string>()
  readonly #busy = new Set<Promise<unknown>>()
  #closed = false
  /** Set by a new token: its first bundle is a new pin. */
  mayChangeTrustDomain = false

  constructor(options: ImporterOptions) {
    this.#options = options
    this.#limits = options.limits ?? defaultImportLimits
    for (const { service } of options.tables.importedServices(options.peer).value) {
      this.#hold(service, options.tables.instances(service, options.peer).value.length, 0)
    }
  }

  /** Answers what is wrong, or undefined once the change is durable. */
  async apply(change: Change): Promise<string | undefined> {
    if (this.#closed) return 'the peering is being closed'
    const work = this.#store(change).catch(messageOf)
    this.#busy.add(work)
    const error = await work
    this.#busy.delete(work)
    return error
  }

  /** What lies in the store of this peer, and what of it is not as it was put there. To be asked only while nothing is being stored. */
  audit(): { altered: string[]; held: string[] } {
    const held = new Set<string>()
    const altered: string[] = []
    for (const { record, whole } of this.#options.tables.importedSets(this.#options.peer)) {
      const name = foldId(record.service)
      const digest = this.#digests.get(name)
      held.add(name)
      if (digest !== undefined && (digest !== record.digest || !whole)) altered.push(name)
    }
    for (const name of this.#digests.keys()) if (!held.has(name)) altered.push(name)
    return { altered, held: [...held] }
  }

  /** From now on nothing is stored; resolves when what was under way is done. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(this.#busy)
  }

  async #store(change: Change): Promise<string | undefined> {
    switch (change.kind) {
      case 'service':
        return this.#storeService(change)
      case 'list':
        return this.#storeList(change.names)
      case 'bundle':
        return this.#storeBundle(change)
      case 'addresses':
        return this.#storeAddresses(change.addresses)
    }
  }

  async #storeService({ name, instances, bytes }: Extract<Change, { kind: 'service' }>): Promise<string | undefined> {
    const { catalog, peer, clock } = this.#options
    const problem = this.#overLimit(name, instances.length, bytes)
    if (problem !== undefined) return problem
    // Taken before it is stored: others that are stored at the same time must not count on the same room.
    const before = this.#held.get(name.toLowerCase()) ?? { instances: 0, bytes: 0 }
    this.#hold(name, Math.max(before.instances, instances.length), Math.max(before.bytes, bytes))
    try {
      const digest = await catalog.replaceImported(peer, name, instances, clock.nowMs())
      if (digest === undefined) this.#digests.delete(foldId(name))
      else this.#digests.set(foldId(name), digest)
    } catch (error) {
      this.#hold(name, before.instances, before.bytes)
      throw error
    }
    this.#hold(name, instances.length, bytes)
    return undefined
  }

  async #storeList(names: string[]): Promise<string | undefined> {
    const { catalog, peer } = this.#options
    if (names.length > this.#limits.services)
      return `${names.length} services are more than the ${this.#limits.services} that a peer may export`
    const long = names.find(name => name.length > maxNameLength)
    if (long !== undefined) return `"${clip(long)}" is longer than the name of a service may be`
    const keep = keptBy(names)
    await catalog.sweepImported(peer, keep)
    for (const name of this.#digests.keys()) if (!keep(name)) this.#digests.delete(name)
    for (const service of this.#held.keys()) if (!keep(service)) this.#hold(service, 0, 0)
    return undefined
  }

  async #storeBundle({ trustDomain, rootPems, exportedPartition }: Extract<Change, { kind: 'bundle' }>): Promise<string | undefined> {
    const { tables, records, peer, ownTrustDomain } = this.#options
    const stored = tables.trustBundle(peer).value
    const problem = bundleProblem(trustDomain, rootPems, {
      own: ownTrustDomain,
      pinned: this.mayChangeTrustDomain ? undefined : stored?.trustDomain,
      others: tables.trustBundles().value.filter(each => each.peer !== peer),
    })
    if (problem !== undefined) return problem
    await records.putTrustBundle({ peer, trustDomain, rootPems, exportedPartition })
    this.mayChangeTrustDomain = false
    return undefined
  }

  async #storeAddresses(addresses: string[]): Promise<string | undefined> {
    const bad = addresses.length > maxAddresses ? `${addresses.length} addresses` : addresses.find(address => !isHostPort(address))
    if (bad !== undefined) return `${clip(bad)} is not a valid peering server address`
    await this.#options.records.update(this.#options.peer, current => current && { ...current, peerServerAddresses: addresses })
    return undefined
  }

  #overLimit(name: string, instances: number, bytes: number): string | undefined {
    const held = this.#held.get(name.toLowerCase()) ?? { instances: 0, bytes: 0 }
    const { services, instances: maxInstances, bytes: maxBytes } = this.#limits
    // A mesh service takes two entries.
    if (instances > 0 && held.instances === 0 && this.#held.size >= 2 * services) return `a peer may export ${services} services at most`
    if (this.#instances - held.instances + instances > maxInstances) return `a peer may export ${maxInstances} instances at most`
    if (this.#bytes - held.bytes + bytes > maxBytes) return `a peer may export ${maxBytes} bytes at most`
    return undefined
  }

  #hold(service: string, instances: number, bytes: number): void {
    const name = service.toLowerCase()
    const held = this.#held.get(name) ?? { instances: 0, bytes: 0 }
    this.#instances += instances - held.instances
    this.#bytes += bytes - held.bytes
    if (instances === 0) this.#held.delete(name)
    else this.#held.set(name, { instances, bytes })
  }
}

/** Why a bundle cannot be taken; undefined when it can. */
export function bundleProblem(
  trustDomain: string,
  rootPems: readonly string[],
  known: { own: string; pinned: string | undefined; others: readonly { peer: string; trustDomain: string }[] },
): string | undefined {
  if (!/^[a-z0-9][a-z0-9._-]{0,254}$/.test(trustDomain)) return `"${clip(trustDomain)}" is not a trust domain`
  if (trustDomain === known.own) return `trust domain "${trustDomain}" is this cluster's own`
  if (known.others.some(other => other.trustDomain === trustDomain)) return `trust domain "${trustDomain}" belongs to another peer`
  if (known.pinned !== undefined && known.pinned !== trustDomain) {
    return `trust domain "${trustDomain}" is not "${known.pinned}", by which this peer is known; peer again to accept it`
  }
  if (rootPems.length === 0 || rootPems.length > maxRoots) return `a trust bundle needs 1 to ${maxRoots} roots, not ${rootPems.length}`
  const areCas = rootPems.every(pem => {
    const read = readRootCertificate(pem)
    return read.ok && read.ca
  })
  return areCas ? undefined : 'a root of the trust bundle is no CA certificate'
}
