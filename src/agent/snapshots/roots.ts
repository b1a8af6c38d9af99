/** The CA roots that a proxy verifies others with: our own cluster's, and those of the peers it has to do with. */
import { names } from '../../mesh/snapshot.ts'
import type { Gathering, SnapshotContext } from './gathering.ts'

/** All of our roots, rotated-out ones included (spec/data-plane.md 2.4). */
export function localRoots(gathering: Gathering, context: SnapshotContext): void {
  const { roots } = gathering.read(context.ca.roots())
  gathering.add('roots', names.localRoots, {
    trustDomain: context.ca.trustDomain,
    peer: '',
    exportedPartition: '',
    pems: roots.map(root => root.rootCert),
  })
}

/** Adds a peer's roots; false while its bundle is not known. */
export function rootsOfPeer(peer: string, gathering: Gathering, context: SnapshotContext): boolean {
  const bundle = gathering.read(context.tables.trustBundle(peer))
  if (bundle === undefined) return false
  const { trustDomain, exportedPartition, rootPems } = bundle
  gathering.add('roots', peer, { trustDomain, peer, exportedPartition, pems: rootPems })
  return true
}
