/**
 * An imported set as rows of the store, one for each instance, named by its node and id and told apart by a hash of its text. Sets
 * of the same instances have the same digest, in whatever order they came; of instances that are the same objects as before nothing
 * is computed again.
 */
import { hash } from 'node:crypto'
import type { CheckServiceNode } from '../../mesh/service.ts'
import { fold } from './instances-table.ts'
import { virtualAddressTag } from './virtual-ips.ts'

export interface ImportRow {
  name: string
  /** Of its text. */
  hash: string
  text: () => string
}

/** A set as this process has put it into the store: hashes by names of rows. */
export interface WrittenSet {
  generation: string
  digest: string
  rows: Map<string, string>
}

/** Whose the instances are, and the virtual address that their proxies get. */
interface Owner {
  peer: string
  virtualAddress: string | undefined
}

export class ImportRows {
  readonly #known = new WeakMap<CheckServiceNode, Owner & { name: string; hash: string }>()

  of(instance: CheckServiceNode, { peer, virtualAddress }: Owner): ImportRow {
    const known = this.#known.get(instance)
    if (known && known.peer === peer && known.virtualAddress === virtualAddress) {
      return { name: known.name, hash: known.hash, text: () => JSON.stringify(normalise(instance, peer, virtualAddress)) }
    }
    const text = JSON.stringify(normalise(instance, peer, virtualAddress))
    const row = { name: nameOf(instance), hash: hash('sha256', text, 'base64') }
    this.#known.set(instance, { ...row, peer, virtualAddress })
    return { ...row, text: () => text }
  }
}

/** No two instances share a row, and no name can be chosen so that it leaves its set. */
function nameOf({ node, service }: CheckServiceNode): string {
  return hash('sha256', `${fold(node.node)}\0${service.id}`, 'base64url').slice(0, 22)
}

export function digestOf(rows: readonly ImportRow[]): string {
  return addTo(
    Buffer.alloc(32),
    rows.map(row => row.hash),
  ).toString('base64')
}

/** What makes `after` of a set that was written, and its digest then. */
export function differences(before: WrittenSet, after: readonly ImportRow[]): { changed: ImportRow[]; gone: string[]; digest: string } {
  let present = 0
  const changed = after.filter(row => {
    const known = before.rows.get(row.name)
    if (known !== undefined) present += 1
    return known !== row.hash
  })
  const names = present === before.rows.size ? undefined : new Set(after.map(row => row.name))
  const gone = names ? [...before.rows.keys()].filter(name => !names.has(name)) : []
  const hashes = [
    ...changed.map(row => row.hash),
    ...[...changed.map(row => row.name), ...gone].flatMap(name => before.rows.get(name) ?? []),
  ]
  return { changed, gone, digest: addTo(Buffer.from(before.digest, 'base64'), hashes).toString('base64') }
}

/** The same again takes away: what a set's digest is made of can be exchanged piece by piece. */
function addTo(digest: Buffer, hashes: readonly string[]): Buffer {
  for (const text of hashes) {
    const bytes = Buffer.from(text, 'base64')
    for (let i = 0; i < digest.length; i += 1) digest[i]! ^= bytes[i]!
  }
  return digest
}

/** As ours: under the peer's local name, with a virtual address of ours alone. */
function normalise({ node, service, checks }: CheckServiceNode, peer: string, virtualAddress: string | undefined): CheckServiceNode {
  const indexes = { createIndex: 0, modifyIndex: 0 }
  const { [virtualAddressTag]: _theirs, ...tagged } = service.taggedAddresses ?? {}
  const taggedAddresses =
    virtualAddress !== undefined && service.kind === 'connect-proxy'
      ? { ...tagged, [virtualAddressTag]: { address: virtualAddress, port: service.port ?? 0 } }
      : tagged
  return {
    node: { ...node, peerName: peer, ...indexes },
    service: {
      ...service,
      taggedAddresses: Object.keys(taggedAddresses).length > 0 ? taggedAddresses : undefined,
      peerName: peer,
      ...indexes,
    },
    checks: checks.map(check => ({ ...check, peerName: peer, ...indexes })),
  }
}
