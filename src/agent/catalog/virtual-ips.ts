/**
 * Virtual addresses: 240.0.0.1 upward, one for each (peer, service) with mesh endpoints (spec/data-plane.md 11.5). An address
 * belongs to one service by a key of its own, so that two processes cannot give it out twice, and a freed one comes back last.
 */
import { MeshError } from '../../lib/errors.ts'
import type { NodeService } from '../../mesh/service.ts'
import type { Compare, Op } from '../store/store.ts'
import { putRecord } from './commit.ts'
import { keys } from './keys.ts'
import type { Tables } from './tables.ts'

export const virtualAddressTag = 'consul-virtual'

/** The service as it is shown: with its virtual address under the tag that clients look for. */
export function withVirtualAddress(service: NodeService, address: string): NodeService {
  const tag = { address, port: service.port ?? 0 }
  return { ...service, taggedAddresses: { ...service.taggedAddresses, [virtualAddressTag]: tag } }
}

/** 240.0.0.0/4 without its first and last address. */
const maxOffset = 2 ** 28 - 2

export class VirtualIps {
  readonly #tables: Tables
  #last: number | undefined

  constructor(tables: Tables) {
    this.#tables = tables
  }

  /** The address of a service, and what a transaction must contain to claim it when it is new. */
  claim(peer: string, service: string): { address: string; compare: Compare[]; ops: Op[] } {
    const known = this.#tables.virtualIp(service, peer).value
    if (known !== undefined) return { address: known, compare: [], ops: [] }
    const address = this.#next()
    return {
      address,
      compare: [
        { key: keys.virtualIp(peer, service), modRevision: 0 },
        { key: keys.virtualAddress(address), modRevision: 0 },
      ],
      ops: [putRecord(keys.virtualIp(peer, service), { address }), putRecord(keys.virtualAddress(address), { peer, service })],
    }
  }

  /** What gives the address of a service back. */
  release(peer: string, service: string): Op[] {
    const address = this.#tables.virtualIp(service, peer).value
    if (address === undefined) return []
    return [
      { op: 'delete', key: keys.virtualIp(peer, service) },
      { op: 'delete', key: keys.virtualAddress(address) },
    ]
  }

  #next(): string {
    this.#last ??= this.#tables.virtualIps().reduce((highest, each) => Math.max(highest, offsetOf(each.address)), 0)
    for (let tried = 0; tried < maxOffset; tried += 1) {
      this.#last = (this.#last % maxOffset) + 1
      const address = addressOf(this.#last)
      if (!this.#tables.virtualIpHolder(address)) return address
    }
    throw new MeshError('unavailable', 'no virtual address is free in 240.0.0.0/4; remove services or peerings')
  }
}

function addressOf(offset: number): string {
  const value = 0xf0000000 + offset
  return [24, 16, 8, 0].map(shift => (value >>> shift) & 255).join('.')
}

function offsetOf(address: string): number {
  return address.split('.').reduce((value, part) => value * 256 + Number(part), 0) - 0xf0000000
}
