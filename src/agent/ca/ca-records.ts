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
  /** Root id -> when the last leaf or intermediate that it signed ends, ms since the epoch. */
  neededUntilMs: Record<string, number>
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
    : { ledger: { lastSerial: 0, neededUntilMs: {} }, modRevision: 0 }
}

interface SerialRequest {
  rootId: string | undefined
  endsMs: number
  resolve(taken: { serial: number; revision: number }): void
  reject(error: unknown): void
}

/** Hands out serial numbers, each once over all servers of a store. Requests that wait for one write share the next. */
export class SerialNumbers {
  readonly #store: Store
  #waiting: SerialRequest[] = []
  #running = false

  constructor(store: Store) {
    this.#store = store
  }

  /** The next number, durably taken; `rootId` signs with it, and is needed at least until `endsMs`. */
  take(rootId?: string, endsMs = 0): Promise<{ serial: number; revision: number }> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ rootId, endsMs, resolve, reject })
      if (!this.#running) void this.#run()
    })
  }

  async #run(): Promise<void> {
    this.#running = true
    while (this.#waiting.length > 0) {
      const requests = this.#waiting.splice(0)
      try {
        const { first, revision } = await this.#takeMany(requests)
        requests.forEach((request, i) => request.resolve({ serial: first + i, revision }))
      } catch (error) {
        for (const request of requests) request.reject(error)
      }
    }
    this.#running = false
  }

  async #takeMany(requests: SerialRequest[]): Promise<{ first: number; revision: number }> {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const { ledger, modRevision } = await readLedger(this.#store)
      const neededUntilMs = { ...ledger.neededUntilMs }
      for (const { rootId, endsMs } of requests) {
        if (rootId !== undefined) neededUntilMs[rootId] = Math.max(neededUntilMs[rootId] ?? 0, endsMs)
      }
      const next: Ledger = { lastSerial: ledger.lastSerial + requests.length, neededUntilMs }
      const { ok, revision } = await this.#store.txn({ compare: [{ key: keys.caLedger(), modRevision }], ops: [putLedger(next)] })
      if (ok) return { first: ledger.lastSerial + 1, revision }
    }
    throw new MeshError('unavailable', 'the CA could not take a serial number, because other servers took them; try again')
  }
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
