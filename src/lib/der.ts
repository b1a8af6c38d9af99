/**
 * DER by node-forge's ASN.1: small constructors over its binary strings, so that certificates read like the RFC's syntax. Only that part
 * of it is loaded: a proxy makes its request with it and should not hold the rest in memory.
 */
import { createRequire } from 'node:module'
import type forge from 'node-forge'

const require = createRequire(import.meta.url)
const asn1 = require('node-forge/lib/asn1.js') as typeof forge.asn1
const util = require('node-forge/lib/util.js') as typeof forge.util
/** forge's types know no context tags. */
const create: (tagClass: forge.asn1.Class, type: number, constructed: boolean, value: string | Node[]) => Node = asn1.create
export type Node = forge.asn1.Asn1

const kinds = new Map<forge.asn1.Type, string>([
  [asn1.Type.SEQUENCE, 'sequence'],
  [asn1.Type.SET, 'set'],
  [asn1.Type.OID, 'oid'],
  [asn1.Type.INTEGER, 'integer'],
  [asn1.Type.BITSTRING, 'bits'],
  [asn1.Type.OCTETSTRING, 'octets'],
])

export const oids = {
  commonName: '2.5.4.3',
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  nameConstraints: '2.5.29.30',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  ecdsaWithSha384: '1.2.840.10045.4.3.3',
  ecdsaWithSha512: '1.2.840.10045.4.3.4',
  rsaWithSha256: '1.2.840.113549.1.1.11',
  rsaWithSha384: '1.2.840.113549.1.1.12',
  rsaWithSha512: '1.2.840.113549.1.1.13',
  extensionRequest: '1.2.840.113549.1.9.14',
} as const

export const sequence = (...members: Node[]): Node => universal(asn1.Type.SEQUENCE, members)
export const set = (...members: Node[]): Node => universal(asn1.Type.SET, members)
export const oid = (dotted: string): Node => universal(asn1.Type.OID, asn1.oidToDer(dotted).getBytes())
export const boolean = (value: boolean): Node => universal(asn1.Type.BOOLEAN, value ? '\xff' : '\0')
export const nothing = (): Node => universal(asn1.Type.NULL, '')
export const octets = (content: Buffer): Node => universal(asn1.Type.OCTETSTRING, binary(content))
export const integer = (value: number): Node => universal(asn1.Type.INTEGER, asn1.integerToDer(value).getBytes())
export const printable = (text: string): Node => universal(asn1.Type.PRINTABLESTRING, text)
/** A BIT STRING; `unused` bits at its end do not count. */
export const bits = (content: Buffer, unused = 0): Node => universal(asn1.Type.BITSTRING, String.fromCharCode(unused) + binary(content))
/** `[tag] IMPLICIT` over bytes. */
export const tagged = (tag: number, content: Buffer): Node => create(asn1.Class.CONTEXT_SPECIFIC, tag, false, binary(content))
/** `[tag] EXPLICIT`. */
export const explicit = (tag: number, ...members: Node[]): Node => create(asn1.Class.CONTEXT_SPECIFIC, tag, true, members)

/** RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from then on. */
export function time(ms: number): Node {
  const text = new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, '')
  return text < '2050' ? universal(asn1.Type.UTCTIME, text.slice(2)) : universal(asn1.Type.GENERALIZEDTIME, text)
}

export function encode(node: Node): Buffer {
  return Buffer.from(asn1.toDer(node).getBytes(), 'binary')
}

/** Reads DER that is exactly one value; undefined for anything else, BER that is not DER included, so that slices are what was signed. */
export function decode(bytes: Buffer): Node | undefined {
  try {
    // BIT STRINGs stay bytes: what is in them is signed or hashed, never read.
    const options = { strict: true, parseAllBytes: true, decodeBitStrings: false }
    const node = asn1.fromDer(util.createBuffer(binary(bytes)), options as unknown as boolean)
    return encode(node).equals(bytes) ? node : undefined
  } catch {
    return undefined
  }
}

/** What kind a node is: its universal type, or `[n]` for a context tag. */
export function kindOf(node: Node | undefined): string {
  if (node?.tagClass === asn1.Class.CONTEXT_SPECIFIC) return `[${String(node.type)}]`
  return node?.tagClass === asn1.Class.UNIVERSAL ? (kinds.get(node.type) ?? 'other') : 'other'
}

/** The members of a constructed node of this kind; undefined when it is none. */
export function membersOf(node: Node | undefined, kind: string): Node[] | undefined {
  return node && kindOf(node) === kind && Array.isArray(node.value) ? node.value : undefined
}

/** The bytes of a primitive node of this kind; undefined when it is none. */
export function bytesOf(node: Node | undefined, kind: string): Buffer | undefined {
  return node && kindOf(node) === kind && typeof node.value === 'string' ? Buffer.from(node.value, 'latin1') : undefined
}

export function oidOf(node: Node | undefined): string | undefined {
  const bytes = bytesOf(node, 'oid')
  return bytes && asn1.derToOid(util.createBuffer(binary(bytes)))
}

export function pem(label: string, der: Buffer): string {
  return `-----BEGIN ${label}-----\n${der
    .toString('base64')
    .match(/.{1,64}/g)!
    .join('\n')}\n-----END ${label}-----\n`
}

function universal(type: forge.asn1.Type, value: string | Node[]): Node {
  return asn1.create(asn1.Class.UNIVERSAL, type, typeof value !== 'string', value)
}

function binary(bytes: Buffer): string {
  return bytes.toString('latin1')
}
