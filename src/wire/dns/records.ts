/**
 * The nouns of DNS that both directions share: type and rcode numbers, a name as labels, and a resource record. Names are texts
 * of labels joined by dots and ended by one; only texts that `nameLabels` can split are ever written.
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
}

/** RFC 1035 2.3.4. */
export const nameLimits = { labelBytes: 63, nameBytes: 255 } as const

/** The labels of a name, root excluded; undefined when the name cannot be written (an empty or long label, too long in all). */
export function nameLabels(name: string): string[] | undefined {
  const bare = name.endsWith('.') ? name.slice(0, -1) : name
  if (bare === '') return []
  const labels = bare.split('.')
  let bytes = 1
  for (const label of labels) {
    const length = Buffer.byteLength(label)
    if (length === 0 || length > nameLimits.labelBytes) return undefined
    bytes += length + 1
  }
  return bytes > nameLimits.nameBytes ? undefined : labels
}
