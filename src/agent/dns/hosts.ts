/** What stands behind an instance: the address or name to dial, and the pool of addresses that a service has to choose from. */
import { isIP, isIPv4 } from 'node:net'
import { rrTypes, type DnsRecord } from '../../wire/dns/records.ts'
import { addressBytes } from '../../lib/address-bytes.ts'
import type { Instance } from './lookup.ts'

/** Addresses that a reply draws from: `all` holds the bytes of each, `width` apiece; `instances` says whose each instance's is. */
export interface AddressPool {
  width: 4 | 16
  all: Buffer
  instances: number[]
}

/** For anything longer than this the few answers that fit are drawn from the catalog each time. */
const maxPooledInstances = 1024

/** The addresses that an A or AAAA question has to choose from. */
export function poolOf(instances: readonly Instance[], { type, name }: { type: number; name: string }): AddressPool | undefined {
  if ((type !== rrTypes.a && type !== rrTypes.aaaa) || instances.length > maxPooledInstances) return undefined
  const family = type === rrTypes.a ? 4 : 6
  const addresses = new Map<string, number>()
  const owners: number[] = []
  for (const { instance } of instances) {
    const host = hostOf(instance.service.address, instance.node.address, name)
    if (host === undefined || isIP(host) !== family) continue
    const known = addresses.get(host) ?? addresses.size
    addresses.set(host, known)
    owners.push(known)
  }
  if (owners.length === 0) return undefined
  return { width: family === 4 ? 4 : 16, all: Buffer.concat([...addresses.keys()].map(addressBytes)), instances: owners }
}

/** What to dial: the instance's own address, else the node's; the node's too where the own one is the very name that was asked for. */
export function hostOf(serviceAddress: string, nodeAddress: string, asked: string): string | undefined {
  if (serviceAddress === '') return nodeAddress === '' ? undefined : nodeAddress
  if (isIP(nodeAddress) !== 0 && fqdn(serviceAddress).toLowerCase() === asked.toLowerCase()) return nodeAddress
  return serviceAddress
}

export function fqdn(name: string): string {
  return name.endsWith('.') ? name : `${name}.`
}

export function addressRecord(name: string, address: string, ttl: number): Extract<DnsRecord, { type: 'A' | 'AAAA' }> | undefined {
  if (isIP(address) === 0) return undefined
  return { type: isIPv4(address) ? 'A' : 'AAAA', name, ttl, address }
}
