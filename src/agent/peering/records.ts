/**
 * The records of peerings in the store: the peering itself, its secrets beside it, and what the peer said of its CA. Every change
 * of a peering is a compare-and-set on what it was computed from, together with its secrets.
 */
import type { StoredPeering, TrustBundle } from '../../mesh/peering.ts'
import { commit, isSameRecord, putRecord, unchanged, type Proposal } from '../catalog/commit.ts'
import { keys } from '../catalog/keys.ts'
import type { Tables } from '../catalog/tables.ts'
import type { Op, Store } from '../store/store.ts'
import { PeeringSecrets } from './secrets.ts'

export class PeeringRecords {
  readonly #store: Store
  readonly #tables: Tables

  constructor(store: Store, tables: Tables) {
    this.#store = store
    this.#tables = tables
  }

  /** Writes what `change` makes of the peering, or nothing when it answers undefined. Answers what is stored then. */
  update(
    name: string,
    change: (current: StoredPeering | undefined) => StoredPeering | undefined,
    also: Op[] = [],
  ): Promise<StoredPeering | undefined> {
    return commit(this.#store, this.#tables, (): Proposal<StoredPeering | undefined> => {
      const current = this.#tables.peering(name).value
      const next = change(current)
      if (!next) return { result: current }
      const same = current !== undefined && isSameRecord(stored(current), stored(next))
      const ops = same ? also : [putRecord(keys.peering(next.name), stored(next)), ...also]
      return { result: next, ops, compare: [unchanged(keys.peering(next.name), current)] }
    })
  }

  /** Puts the record again though nothing in it changed, so that its index moves (http-api.md 6, repeating a token). */
  async touch(peering: StoredPeering): Promise<void> {
    const key = keys.peering(peering.name)
    const { revision } = await this.#store.txn({ compare: [unchanged(key, peering)], ops: [putRecord(key, stored(peering))] })
    await this.#tables.reached(revision)
  }

  async secrets(peeringId: string): Promise<{ secrets: PeeringSecrets | undefined; modRevision: number }> {
    const entry = await this.#store.get(keys.peeringSecrets(peeringId))
    if (!entry) return { secrets: undefined, modRevision: 0 }
    return { secrets: PeeringSecrets.parse(JSON.parse(Buffer.from(entry.value).toString('utf8'))), modRevision: entry.modRevision }
  }

  /** Compare-and-set on the secrets, and with them on the peering when that changes too; false when somebody else was faster. */
  async swapSecrets(
    peeringId: string,
    next: PeeringSecrets,
    modRevision: number,
    change?: { from: StoredPeering; to: StoredPeering },
  ): Promise<boolean> {
    const compare = [{ key: keys.peeringSecrets(peeringId), modRevision }]
    const ops = [putSecrets(peeringId, next)]
    if (change) {
      compare.push(unchanged(keys.peering(change.from.name), change.from))
      ops.push(putRecord(keys.peering(change.to.name), stored(change.to)))
    }
    const { ok, revision } = await this.#store.txn({ compare, ops })
    await this.#tables.reached(revision)
    return ok
  }

  /** The bundle and the roots by which the peer is dialled, at once (7.6). */
  putTrustBundle(bundle: TrustBundle): Promise<void> {
    return commit(this.#store, this.#tables, () => {
      const peering = this.#tables.peering(bundle.peer).value
      const current = this.#tables.trustBundle(bundle.peer).value as (TrustBundle & { modifyIndex: number }) | undefined
      if (!peering || isSameRecord(current, bundle)) return { result: undefined }
      const keyOfBundle = keys.trustBundle(bundle.peer)
      const keyOfPeering = keys.peering(peering.name)
      return {
        result: undefined,
        ops: [putRecord(keyOfBundle, bundle), putRecord(keyOfPeering, stored({ ...peering, peerCaPems: bundle.rootPems }))],
        compare: [unchanged(keyOfBundle, current), unchanged(keyOfPeering, peering)],
      }
    })
  }

  async remove(...removed: string[]): Promise<void> {
    const { revision } = await this.#store.txn({ ops: removed.map(key => ({ op: 'delete', key })) })
    await this.#tables.reached(revision)
  }
}

export function putSecrets(peeringId: string, secrets: PeeringSecrets): Op {
  return putRecord(keys.peeringSecrets(peeringId), secrets)
}

/** Without what is computed on reading. */
function stored(peering: StoredPeering): object {
  const { streamStatus: _computed, ...rest } = peering
  return rest
}
