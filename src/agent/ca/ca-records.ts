/**
 * What the CA keeps in the store. Configuration and roots are public; keys lie under a secret prefix and leave it only as KeyObjects
 * inside agent/ca. The ledger hands out each serial number once, and knows how long each root is still needed.
 */
import type { KeyObject } from 'node:crypto'
import { MeshError } from '../../lib/errors.ts'
import { keys } from '../catalog/keys.ts'
import type { Entry, Op, Store } from '../store/store.ts'
import type { CaRoot } from '../catalog/tables.ts'
import { privateKeyPem, readPrivateKey } from './certificate.ts'
import type { CaConfiguration } from './configuration.ts'

/** -> ca/configuration. The cluster id is minted once and outlives every root. */
export interface StoredConfiguration extends CaConfiguration {
  clusterId: string
}

/** -> ca/ledger. */
export interface Ledger {
  lastSerial: number
  /** Root id -> when the last leaf that it signed ends, ms since the epoch. */
  leavesEndMs: Record<string, number>
}

const attempts = 10

export async function readConfigurationRecord(store: Store): Promise<StoredConfiguration | undefined> {
  const entry = await store.get(keys.caConfiguration())
  if (!entry) return undefined
  return { ...(parse(entry) as StoredConfiguration), createIndex: entry.createRevision, modifyIndex: entry.modRevision }
}

export async function readRoots(store: Store): Promise<CaRoot[]> {
  const { entries } = await store.list(keys.caRoot(''))
  return entries.map(entry => ({ ...(parse(entry) as CaRoot), createIndex: entry.createRevision, modifyIndex: entry.modRevision }))
}

export async function readKey(store: Store, rootId: string): Promise<KeyObject> {
  const entry = await store.get(keys.caKey(rootId))
  if (!entry) throw new MeshError('internal', `the CA key of root ${rootId} is missing; restore the data directory or rotate the CA`)
  return readPrivateKey(Buffer.from(entry.value).toString())
}

export async function readLedger(store: Store): Promise<{ ledger: Ledger; modRevision: number }> {
  const entry = await store.get(keys.caLedger())
  return entry
    ? { ledger: parse(entry) as Ledger, modRevision: entry.modRevision }
    : { ledger: { lastSerial: 0, leavesEndMs: {} }, modRevision: 0 }
}

/** Takes the next serial number, durably; `rootId` is needed at least until `endsMs`. */
export async function takeSerial(store: Store, rootId?: string, endsMs = 0): Promise<{ serial: number; revision: number }> {
  for (let attempt = 0; attempt < attempts; attempt++) {
    const { ledger, modRevision } = await readLedger(store)
    const serial = ledger.lastSerial + 1
    const leavesEndMs = { ...ledger.leavesEndMs }
    if (rootId !== undefined) leavesEndMs[rootId] = Math.max(leavesEndMs[rootId] ?? 0, endsMs)
    const next: Ledger = { lastSerial: serial, leavesEndMs }
    const { ok, revision } = await store.txn({ compare: [{ key: keys.caLedger(), modRevision }], ops: [put(keys.caLedger(), next)] })
    if (ok) return { serial, revision }
  }
  throw new MeshError('unavailable', 'the CA could not take a serial number, because other servers took them; try again')
}

export const putConfiguration = (configuration: StoredConfiguration): Op =>
  put(keys.caConfiguration(), { ...configuration, createIndex: undefined, modifyIndex: undefined })
export const putRoot = (root: CaRoot): Op => put(keys.caRoot(root.id), { ...root, createIndex: undefined, modifyIndex: undefined })
export const putKey = (rootId: string, key: KeyObject): Op => ({
  op: 'put',
  key: keys.caKey(rootId),
  value: Buffer.from(privateKeyPem(key)),
})
export const putLedger = (ledger: Ledger): Op => put(keys.caLedger(), ledger)

function put(key: string, value: unknown): Op {
  return { op: 'put', key, value: Buffer.from(JSON.stringify(value)) }
}

function parse(entry: Entry): unknown {
  return JSON.parse(Buffer.from(entry.value).toString())
}
