/**
 * The tables: in-memory indexes over the store, fed by its watch and by nothing else. Reads are synchronous and never touch the
 * disk. Every read says which topics it looked at and the last revision that touched them, so that a blocking query wakes only
 * for its own (spec/http-api.md 1.8). Indexes never fall: after a restart every topic starts at the store's revision.
 */
import type { ConfigEntry, ConfigEntryKind } from '../../mesh/config-entry.ts'
import type { HealthCheck } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import type { Peering, TrustBundle } from '../../mesh/peering.ts'
import type { CheckServiceNode, NodeService } from '../../mesh/service.ts'

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
