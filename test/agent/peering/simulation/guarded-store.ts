/**
 * The store as the peerings get it in a simulation: it looks at every write before it is made, and tells of one that could touch
 * anything but what lies under a peer. That local data is never touched is judged here, at the only way to it.
 */
import type { Op, Store, Txn, TxnResult } from '../../../../src/agent/store/store.ts'
import { storeLimits } from '../../../../src/agent/store/store.ts'

/** Everything that a peer may fill has the peer's name in its key; no prefix may end before that. */
const underPeer = /^(?:imported|imported-data|virtual-ip)\/([^/]+)\/|^(?:trust-bundle|peering)\/([^/]+)$/
const ofPeerings = /^(?:peering-secret|virtual-address)\//

export function guardedStore(store: Store, peers: ReadonlySet<string>, violate: (what: string) => void): Store {
  const check = (op: Op): void => {
    const place = op.op === 'delete-prefix' ? op.prefix : op.key
    const under = underPeer.exec(place)
    const peer = under?.[1] ?? under?.[2]
    const allowed = under ? peers.has(peer!) : op.op !== 'delete-prefix' && ofPeerings.test(place)
    if (!allowed) violate(`peering writes ${op.op} ${place}`)
  }
  return {
    get revision() {
      return store.revision
    },
    get: key => store.get(key),
    list: prefix => store.list(prefix),
    txn(txn: Txn): Promise<TxnResult> {
      txn.ops.forEach(check)
      if (txn.ops.length > storeLimits.batchOps) violate(`peering writes ${txn.ops.length} operations at once`)
      return store.txn(txn)
    },
    watch: (prefix, after, handler) => store.watch(prefix, after, handler),
    lease: ttlMs => store.lease(ttlMs),
    close: () => store.close(),
  }
}
