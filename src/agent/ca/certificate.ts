/**
 * The two certificates of a mesh, exactly as Consul makes them (spec/data-plane.md 2.3): CA certificates, self-signed or
 * cross-signed, and leaves. Structure by ASN.1, keys and signatures by node:crypto. Signing always hashes with SHA-256.
 */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  randomBytes,
  sign,
  X509Certificate,
  type KeyObject,
} from 'node:crypto'
import { promisify } from 'node:util'
import { signingId } from '../../mesh/spiffe.ts'
import {
  bits,
  boolean,
  decode,
  encode,
  explicit,
  integer,
  nothing,
  octets,
  oid,
  oids,
  pem,
  printable,
  sequence,
  set,
  tagged,
  time,
  type Node,
} from '../../lib/der.ts'

export interface KeyKind {
  type: 'ec' | 'rsa'
  bits: number
}

export interface Validity {
  notBeforeMs: number
  notAfterMs: number
}

/** Who signs: a CA's name and key. */
export interface Signer {
  commonName: string
  key: KeyObject
}

const curves: Record<number, string> = { 224: 'secp224r1', 256: 'prime256v1', 384: 'secp384r1', 521: 'secp521r1' }
const generate = promisify(generateKeyPair)

export async function newPrivateKey(kind: KeyKind): Promise<KeyObject> {
  const pair =
    kind.type === 'rsa' ? await generate('rsa', { modulusLength: kind.bits }) : await generate('ec', { namedCurve: curves[kind.bits]! })
  return pair.privateKey
}

/** Consul's own form of private keys: SEC1 for EC, PKCS#1 for RSA. */
export function privateKeyPem(key: KeyObject): string {
  return key.export({ format: 'pem', type: key.asymmetricKeyType === 'rsa' ? 'pkcs1' : 'sec1' }) as string
}

/** A CA's common name: provider, a random id in base 36, and the start of the cluster's id. */
export function caCommonName(clusterId: string): string {
  return `pri-${randomBytes(5).readUIntBE(0, 5).toString(36)}.consul.ca.${clusterId.slice(0, 8)}.consul`
}

export function caCertificate(options: {
  serial: number
  trustDomain: string
  subject: string
  publicKey: KeyObject
  signer: Signer
  validity: Validity
}): string {
  const { serial, subject, publicKey, signer, validity } = options
  // digitalSignature, keyCertSign, cRLSign; a path length would forbid the cross-signed root (data-plane.md 2.3).
  const extensions = [
    extension(oids.keyUsage, true, bits(Buffer.from([0x86]), 1)),
    extension(oids.basicConstraints, true, sequence(boolean(true))),
    ...keyIdentifiers(publicKey, signer.key),
    extension(oids.subjectAltName, false, sequence(uri(signingId(options.trustDomain)))),
  ]
  return certificate({ serial, subject, publicKey, signer, validity, extensions })
}

export function leafCertificate(options: {
  serial: number
  spiffeId: string
  dnsNames?: string[]
  publicKey: KeyObject
  signer: Signer
  validity: Validity
}): string {
  const { serial, publicKey, signer, validity } = options
  const names = [...(options.dnsNames ?? []).map(name => tagged(2, Buffer.from(name, 'latin1'))), uri(options.spiffeId)]
  const extensions = [
    // digitalSignature, keyEncipherment, dataEncipherment, keyAgreement.
    extension(oids.keyUsage, true, bits(Buffer.from([0xb8]), 3)),
    extension(oids.extendedKeyUsage, false, sequence(oid(oids.clientAuth), oid(oids.serverAuth))),
    extension(oids.basicConstraints, true, sequence()),
    ...keyIdentifiers(publicKey, signer.key),
    // Critical, because the subject is empty (RFC 5280 4.2.1.6).
    extension(oids.subjectAltName, true, sequence(...names)),
  ]
  return certificate({ serial, subject: '', publicKey, signer, validity, extensions })
}

/** The key identifier of Consul's certificates: SHA-256 over the SubjectPublicKeyInfo, 32 bytes. */
export function keyId(key: KeyObject): Buffer {
  return createHash('sha256').update(spkiOf(key)).digest()
}

/** Bytes as lower-case hex pairs with colons: how Consul prints ids and leaf serials. */
export function colonHex(bytes: Buffer): string {
  return (bytes.toString('hex').match(/../g) ?? []).join(':')
}

/** A root's id in the API: the SHA-1 of its certificate. */
export function certificateId(certPem: string): string {
  return colonHex(createHash('sha1').update(new X509Certificate(certPem).raw).digest())
}

/** A serial number as the leaf API prints it: "09". */
export function serialText(serial: number): string {
  const hex = serial.toString(16)
  return colonHex(Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, 'hex'))
}

export function certificate(options: {
  serial: number
  subject: string
  publicKey: KeyObject
  signer: Signer
  validity: Validity
  extensions: Node[]
}): string {
  const { signer } = options
  const rsa = signer.key.asymmetricKeyType === 'rsa'
  const algorithm = rsa ? sequence(oid(oids.rsaWithSha256), nothing()) : sequence(oid(oids.ecdsaWithSha256))
  const body = sequence(
    explicit(0, integer(2)),
    integer(options.serial),
    algorithm,
    name(signer.commonName),
    sequence(time(options.validity.notBeforeMs), time(options.validity.notAfterMs)),
    name(options.subject),
    decode(spkiOf(options.publicKey))!,
    explicit(3, sequence(...options.extensions)),
  )
  const signature = sign('sha256', encode(body), signer.key)
  return pem('CERTIFICATE', encode(sequence(body, algorithm, bits(signature))))
}

function spkiOf(key: KeyObject): Buffer {
  return (key.type === 'private' ? createPublicKey(key) : key).export({ type: 'spki', format: 'der' })
}

export function keyIdentifiers(subject: KeyObject, issuer: KeyObject): Node[] {
  return [
    extension(oids.subjectKeyIdentifier, false, octets(keyId(subject))),
    extension(oids.authorityKeyIdentifier, false, sequence(tagged(0, keyId(issuer)))),
  ]
}

/** RFC 5280 4.1: `critical` has a default and is written only when true. */
export function extension(id: string, critical: boolean, value: Node): Node {
  return sequence(oid(id), ...(critical ? [boolean(true)] : []), octets(encode(value)))
}

function uri(text: string): Node {
  return tagged(6, Buffer.from(text, 'latin1'))
}

function name(commonName: string): Node {
  return commonName === '' ? sequence() : sequence(set(sequence(oid(oids.commonName), printable(commonName))))
}

export function readPrivateKey(text: string): KeyObject {
  return createPrivateKey(text)
}
