/**
 * One gathering of a proxy's resources: every table it read, so that it is done again only when one of them changes, and the
 * resources themselves, each with the hash of its content as its version. Equal content has an equal version, after a restart too.
 */
import { hash } from 'node:crypto'
import type { Resource, ResourceKind, ResourceValue } from '../../mesh/snapshot.ts'
import type { Tables } from '../catalog/tables.ts'
import type { Reading } from '../catalog/topics.ts'

/** The tables that a snapshot is made of. */
export type SnapshotTables = Pick<
  Tables,
  | 'nodeServices'
  | 'services'
  | 'instances'
  | 'connectInstances'
  | 'gateways'
  | 'configEntry'
  | 'configEntries'
  | 'indexOf'
  | 'protocol'
  | 'peering'
  | 'peerings'
  | 'trustBundle'
  | 'importedServices'
>

/** What is the same for every proxy of this agent. */
export interface SnapshotContext {
  tables: SnapshotTables
  ca: { readonly trustDomain: string; roots(): Reading<{ roots: readonly { rootCert: string }[] }> }
  /** The node whose proxies are served. */
  node: string
  datacenter: string
  defaultAction: 'allow' | 'deny'
}

/** Bounds of what one proxy is told. What is over them is left out, the last in order first. */
export const snapshotLimits = { maxUpstreams: 4096, maxEndpoints: 1024, maxImportedPerPeer: 10_000 } as const

export class Gathering {
  readonly #resources = new Map<string, Resource>()
  readonly #topics = new Set<string>()
  #index = 1

  /** The value of a reading, which this gathering from now on depends on. */
  read<T>(reading: Reading<T>): T {
    this.#index = Math.max(this.#index, reading.index)
    for (const topic of reading.topics) this.#topics.add(topic)
    return reading.value
  }

  has(kind: ResourceKind, name: string): boolean {
    return this.#resources.has(`${kind}/${name}`)
  }

  /** Adds a resource. The first of its kind and name stays. */
  add<K extends ResourceKind>(kind: K, name: string, value: ResourceValue<K>): void {
    const key = `${kind}/${name}`
    if (this.#resources.has(key)) return
    this.#resources.set(key, { kind, name, version: versionOf(value), value } as Resource)
  }

  finish(): Reading<Resource[]> {
    return { value: [...this.#resources.values()], index: this.#index, topics: [...this.#topics] }
  }
}

/** A value that is told again is the same object (see endpoints.ts), and is not hashed again. */
const versions = new WeakMap<object, string>()

function versionOf(value: object): string {
  let version = versions.get(value)
  if (version === undefined) {
    version = hash('sha256', JSON.stringify(value), 'base64url').slice(0, 22)
    versions.set(value, version)
  }
  return version
}
