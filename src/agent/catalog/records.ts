/** The records of the store that are not nouns of the mesh: what the tables give out beside nodes, services and entries. */

export interface KvRecord {
  key: string
  /** base64; null when empty. */
  value: string | null
  /** A uint64 in decimal digits: a JavaScript number holds no more than 53 bits of it. */
  flags: string
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
  /** Tells an identical set without looking at it. */
  digest: string
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

/** One change of a table: the path parts of its key after the table's own prefix, decoded, and the value, undefined for a deletion. */
export interface Change {
  path: string[]
  value: unknown
  createIndex: number
  modifyIndex: number
}
