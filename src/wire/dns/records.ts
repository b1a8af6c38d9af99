/**
 * The nouns of DNS that both directions share: type and rcode numbers, names, and a resource record. A name is a text
 * of labels, each ended by a dot; only those that `isWritable` are ever written.
 */

/** RFC 1035 3.2.2, RFC 2782, RFC 3596, RFC 6891; `any` and `axfr` are query types only. */
export const rrTypes = {
  a: 1,
  ns: 2,
  cname: 5,
  soa: 6,
  ptr: 12,
  txt: 16,
  aaaa: 28,
  srv: 33,
  opt: 41,
  ixfr: 251,
  axfr: 252,
  any: 255,
} as const

export const classIn = 1

/** RFC 1035 4.1.1; `badVersion` (RFC 6891 9) needs an OPT record for its upper bits. */
export const rcodes = { noError: 0, formatError: 1, serverFailure: 2, nameError: 3, notImplemented: 4, refused: 5, badVersion: 16 } as const
export type Rcode = (typeof rcodes)[keyof typeof rcodes]

interface Owned {
  name: string
  ttl: number
}
export type AddressRecord = Owned & { type: 'A' | 'AAAA'; address: string }
export type TargetRecord = Owned & { type: 'CNAME' | 'NS' | 'PTR'; target: string }
export type SrvRecord = Owned & { type: 'SRV'; priority: number; weight: number; port: number; target: string }
export type TxtRecord = Owned & { type: 'TXT'; text: string }
export type SoaRecord = Owned & {
  type: 'SOA'
  mname: string
  rname: string
  serial: number
  refresh: number
  retry: number
  expire: number
  minimum: number
}
export type DnsRecord = AddressRecord | TargetRecord | SrvRecord | TxtRecord | SoaRecord

/** What an EDNS client said of itself (RFC 6891), and its subnet option as it came (RFC 7871). */
export interface Edns {
  udpSize: number
  version: number
  dnssecOk: boolean
  clientSubnet: Buffer | undefined
  /** True when it carried options of any kind. */
  options: boolean
}

/** RFC 1035 2.3.4. */
export const nameLimits = { labelBytes: 63, nameBytes: 255 } as const

/** True for a name that a message can hold: labels of 1 to 63 bytes, each with its dot, 255 bytes in all. The root is a lone dot. */
export function isWritable(name: string): boolean {
  if (name === '.') return true
  if (!name.endsWith('.') || Buffer.byteLength(name) + 1 > nameLimits.nameBytes) return false
  for (let at = 0; at < name.length;) {
    const dot = name.indexOf('.', at)
    const length = dot - at
    if (length === 0 || length > nameLimits.labelBytes) return false
    at = dot + 1
  }
  // Characters of several bytes count for what they take.
  return Buffer.byteLength(name) === name.length || name.split('.').every(label => Buffer.byteLength(label) <= nameLimits.labelBytes)
}
