/**
 * The tables: in-memory indexes over the store, fed by its watch and by nothing else. Reads are synchronous and never touch the
 * disk. Every read says which topics it looked at and the last revision that touched them, so that a blocking query wakes only
 * for its own (spec/http-api.md 1.8). Indexes never fall: after a restart every topic starts at the store's revision.
 */
import type { ConfigEntry, ConfigEntryKind, EntryOf } from '../../mesh/config-entry.ts'
import type { HealthCheck } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import type { Peering, TrustBundle } from '../../mesh/peering.ts'
import type { CheckServiceNode, NodeService } from '../../mesh/service.ts'
import type { Store } from '../store/store.ts'

/** What a read found. `index` is what X-Consul-Index says; `topics` is what to wait on. */
export interface Reading<T> {
  value: T
  index: number
  topics: readonly string[]
}

export interface KvRecord {
  key: string
  /** base64; null when empty. */
  value: string | null
  flags: number
  lockIndex: number
  session?: string
  createIndex: number
  modifyIndex: number
}

/** Names the generation of an imported service that counts. */
export interface ImportedService {
  peer: string
  service: string
  generation: string
  chunks: number
  /** Wall clock, ms, of the message that brought it. */
  receivedAtMs: number
}

/** A CA root without its key (data-plane.md 2.3, 2.4). */
export interface CaRoot {
  /** Colon-separated hex SHA-1 of the certificate. */
  id: string
  name: string
  serialNumber: number
  signingKeyId: string
  externalTrustDomain: string
  notBefore: string
  notAfter: string
  rootCert: string
  intermediateCerts: string[] | null
  active: boolean
  privateKeyType: string
  privateKeyBits: number
  createIndex: number
  modifyIndex: number
}

export class Tables {
  static async open(_store: Store): Promise<Tables> { throw todo() }
  get revision(): number { throw todo() }
  reached(_revision: number): Promise<void> { throw todo() }
  waitFor(_topics: readonly string[], _index: number, _timeoutMs: number, _signal?: AbortSignal): Promise<boolean> { throw todo() }
  subscribe(_topics: () => readonly string[], _onChange: () => void): { close(): void } { throw todo() }
  nodes(): Reading<Node[]> { throw todo() }
  node(_name: string): Reading<Node | undefined> { throw todo() }
  services(): Reading<Map<string, string[]>> { throw todo() }
  instances(_service: string, _peer?: string): Reading<CheckServiceNode[]> { throw todo() }
  connectInstances(_service: string, _peer?: string): Reading<CheckServiceNode[]> { throw todo() }
  gateways(): Reading<CheckServiceNode[]> { throw todo() }
  nodeServices(_node: string): Reading<{ node: Node; services: NodeService[] } | undefined> { throw todo() }
  checksOfNode(_node: string): Reading<HealthCheck[]> { throw todo() }
  checksOfService(_service: string): Reading<HealthCheck[]> { throw todo() }
  checksInState(_state: string): Reading<HealthCheck[]> { throw todo() }
  configEntry<K extends ConfigEntryKind>(_kind: K, _name: string): Reading<EntryOf<K> | undefined> { throw todo() }
  configEntries(_kind?: ConfigEntryKind): Reading<ConfigEntry[]> { throw todo() }
  protocol(_service: string): Reading<string> { throw todo() }
  peerings(): Reading<Peering[]> { throw todo() }
  peering(_name: string): Reading<Peering | undefined> { throw todo() }
  peeringById(_id: string): Peering | undefined { throw todo() }
  trustBundles(): Reading<TrustBundle[]> { throw todo() }
  trustBundle(_peer: string): Reading<TrustBundle | undefined> { throw todo() }
  importedServices(_peer: string): Reading<ImportedService[]> { throw todo() }
  virtualIp(_service: string, _peer?: string): Reading<string | undefined> { throw todo() }
  kv(_key: string): Reading<KvRecord | undefined> { throw todo() }
  kvList(_prefix: string): Reading<KvRecord[]> { throw todo() }
  caRoots(): Reading<{ roots: CaRoot[] }> { throw todo() }
  close(): void { throw todo() }
}
function todo(): Error { return new Error('being written') }
