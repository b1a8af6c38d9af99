/**
 * What a name asks for (dns.md 1): from labels to a zone and a form, and nothing else; no catalog is touched here. Labels are
 * compared without regard to case, and the zone keeps the spelling of the question, because answers use it.
 */
import { isIP } from 'node:net'
import { rrTypes } from '../../wire/dns/records.ts'
import { addressText } from '../../lib/address-bytes.ts'

/** Where a name is looked for: `datacenter` is empty for our own. A name never carries both. */
export interface Locality {
  datacenter: string
  peer: string
}

export type Form =
  | ({ form: 'service'; service: string; tag: string } & Locality)
  | { form: 'connect'; service: string; datacenter: string }
  | ({ form: 'virtual'; service: string } & Locality)
  | ({ form: 'node'; node: string } & Locality)
  /** A prepared query, by name or id. */
  | { form: 'query'; query: string; datacenter: string }
  /** `name` is what the record is owned by: lower case left of the zone. */
  | { form: 'address'; address: string; name: string }
  /** An `addr` of a length that no address has: no error, and no answer. */
  | { form: 'nothing' }
  /** NXDOMAIN. */
  | { form: 'unknown' }

export interface Zones {
  /** Labels of the domain, lower case. */
  primary: string[]
  alternative: string[] | undefined
}

export interface ZoneMatch {
  zone: 'primary' | 'alternative'
  /** The zone as the question spells it, with its closing dot. */
  domain: string
  /** Labels left of the zone, lower case. */
  rest: string[]
}

export function zonesOf(domain: string, altDomain: string | undefined): Zones {
  const labels = (text: string) =>
    text
      .toLowerCase()
      .split('.')
      .filter(label => label !== '')
  return { primary: labels(domain), alternative: altDomain ? labels(altDomain) : undefined }
}

/** The longer zone wins where one lies inside the other. */
export function matchZone(labels: readonly string[], zones: Zones): ZoneMatch | undefined {
  const lower = labels.map(label => label.toLowerCase())
  const candidates: ('primary' | 'alternative')[] = ['primary', 'alternative']
  const found = candidates
    .filter(name => zones[name] !== undefined && endsWith(lower, zones[name]))
    .sort((a, b) => zones[b]!.length - zones[a]!.length)[0]
  if (!found) return undefined
  const at = labels.length - zones[found]!.length
  return { zone: found, domain: `${labels.slice(at).join('.')}.`, rest: lower.slice(0, at) }
}

function endsWith(labels: string[], suffix: string[]): boolean {
  const at = labels.length - suffix.length
  return at >= 0 && suffix.every((label, i) => labels[at + i] === label)
}

const keywords = new Set(['service', 'connect', 'virtual', 'ingress', 'node', 'query', 'addr'])
const unknown: Form = { form: 'unknown' }

/** The form of a name inside a zone. Scans from the right, so that a service may be called `node`. */
export function parseForm(match: ZoneMatch, type: number): Form {
  const { rest } = match
  for (let i = rest.length - 1; i >= 0; i--) {
    const label = rest[i]!
    if (keywords.has(label)) return formOf(label, rest.slice(0, i), rest.slice(i + 1), match)
    // dns.md 1.2: `_web._tcp.consul` is a service, for SRV only.
    if (type === rrTypes.srv && label.startsWith('_')) return serviceForm(rest.slice(0, i + 1), rest.slice(i + 1))
  }
  return unknown
}

function formOf(keyword: string, parts: string[], suffix: string[], match: ZoneMatch): Form {
  switch (keyword) {
    case 'service':
      return serviceForm(parts, suffix)
    case 'connect': {
      const locality = parseLocality(suffix, 'datacenter')
      // A peer's mesh endpoints are not looked up by name; answering with a local service of that name would be worse than nothing.
      if (!locality || locality.peer !== '' || parts.length === 0) return unknown
      return { form: 'connect', service: parts.at(-1)!, datacenter: locality.datacenter }
    }
    case 'virtual': {
      const locality = parseLocality(suffix, 'peer')
      return locality && parts.length > 0 ? { form: 'virtual', service: parts.at(-1)!, ...locality } : unknown
    }
    case 'node': {
      const locality = parseLocality(suffix, 'datacenter')
      return locality && parts.length > 0 ? { form: 'node', node: parts.join('.'), ...locality } : unknown
    }
    case 'addr':
      return parts.length === 1 ? addressForm(parts[0]!, match) : unknown
    case 'query': {
      const locality = parseLocality(suffix, 'datacenter')
      if (!locality || locality.peer !== '' || parts.length === 0) return unknown
      return { form: 'query', query: queryName(parts), datacenter: locality.datacenter }
    }
    default:
      // `ingress` names something that this catalog does not have.
      return unknown
  }
}

/** A name may have dots; RFC 2782's `_NAME._tcp` is the same, whatever the protocol (dns.md 1). */
function queryName(parts: string[]): string {
  const rfc2782 = parts.length > 1 && parts[0]!.startsWith('_') && parts.at(-1)!.startsWith('_')
  return rfc2782 ? parts.slice(0, -1).join('.').slice(1) : parts.join('.')
}

/** `[tag.]NAME`, where a tag may have dots, or RFC 2782's `_NAME._tcp` (any other protocol is a tag). */
function serviceForm(parts: string[], suffix: string[]): Form {
  const locality = parseLocality(suffix, 'datacenter')
  if (!locality || parts.length === 0) return unknown
  const [first, second] = parts as [string, string | undefined]
  if (parts.length === 2 && first.startsWith('_') && second!.startsWith('_')) {
    const tag = second!.slice(1)
    return { form: 'service', service: first.slice(1), tag: tag === 'tcp' ? '' : tag, ...locality }
  }
  return { form: 'service', service: parts.at(-1)!, tag: parts.slice(0, -1).join('.'), ...locality }
}

/** dns.md 1.3. `single` says what one bare label means. */
function parseLocality(suffix: string[], single: 'datacenter' | 'peer'): Locality | undefined {
  const [name, kind] = suffix
  if (name === undefined) return { datacenter: '', peer: '' }
  if (suffix.length > 2) return undefined
  const meaning = kind === undefined ? single : kind === 'dc' ? 'datacenter' : kind === 'peer' ? 'peer' : undefined
  if (meaning === undefined) return undefined
  return meaning === 'peer' ? { datacenter: '', peer: name } : { datacenter: name, peer: '' }
}

/** 8 hex digits are an IPv4 address, 32 an IPv6 one; what stands right of `addr` is ignored. */
function addressForm(hex: string, match: ZoneMatch): Form {
  // Consul halves the length: 9 digits are a malformed IPv4 address, 7 are no address at all.
  const bytes = Math.floor(hex.length / 2)
  if (bytes !== 4 && bytes !== 16) return { form: 'nothing' }
  if (hex.length % 2 === 1 || !/^[0-9a-f]+$/.test(hex)) return unknown
  return { form: 'address', address: addressText(Buffer.from(hex, 'hex')), name: `${match.rest.join('.')}.${match.domain}` }
}

/** The address that a name under in-addr.arpa or ip6.arpa stands for, in its canonical text. */
export function reverseAddress(labels: readonly string[]): string | undefined {
  const [family, arpa] = labels.slice(-2).map(label => label.toLowerCase())
  const parts = labels.slice(0, -2).toReversed()
  if (arpa !== 'arpa') return undefined
  if (family === 'in-addr' && parts.length === 4 && parts.every(part => /^\d{1,3}$/.test(part))) {
    const text = parts.map(Number).join('.')
    return isIP(text) === 4 ? text : undefined
  }
  if (family === 'ip6' && parts.length === 32 && parts.every(part => /^[0-9a-fA-F]$/.test(part))) {
    return addressText(Buffer.from(parts.join(''), 'hex'))
  }
  return undefined
}

/** True for names under `arpa`, which are answered from the catalog before anyone else is asked. */
export function isReverse(labels: readonly string[]): boolean {
  return labels.at(-1)?.toLowerCase() === 'arpa'
}
