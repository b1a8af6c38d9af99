/**
 * A proxy's own key and the request to have it signed. The key is made here and never leaves the process but for the proxy's own
 * cache directory; what is asked for is exactly one URI SAN and an empty subject (data-plane.md 2.3).
 */
import { createPublicKey, generateKeyPair, sign, type KeyObject } from 'node:crypto'
import { promisify } from 'node:util'
import forge from 'node-forge'

const { asn1 } = forge
const { Class, Type } = asn1
const generate = promisify(generateKeyPair)

const oids = { extensionRequest: '1.2.840.113549.1.9.14', subjectAltName: '2.5.29.17', ecdsaWithSha256: '1.2.840.10045.4.3.2' }

/** Context-specific tags [6] (RFC 5280 GeneralName) and [0] (RFC 2986 attributes), by the universal types that forge knows of these numbers. */
const tags = { uri: Type.OID, attributes: Type.NONE }

/** A new ECDSA P-256 key. */
export async function createKey(): Promise<KeyObject> {
  return (await generate('ec', { namedCurve: 'P-256' })).privateKey
}

/** A PKCS#10 request (RFC 2986) for `uri`, PEM. */
export function createCsr(key: KeyObject, uri: string): string {
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('latin1')
  const san = sequence([tagged(tags.uri, uri)])
  // Critical, because the subject is empty (RFC 5280 4.2.1.6).
  const extension = sequence([oid(oids.subjectAltName), primitive(Type.BOOLEAN, '\u00ff'), primitive(Type.OCTETSTRING, der(san))])
  const attribute = sequence([oid(oids.extensionRequest), constructed(Type.SET, [sequence([extension])])])
  const info = sequence([primitive(Type.INTEGER, '\u0000'), sequence([]), asn1.fromDer(spki), tagged(tags.attributes, [attribute])])
  const body = der(info)
  const signature = sign('sha256', Buffer.from(body, 'latin1'), key).toString('latin1')
  const request = sequence([info, sequence([oid(oids.ecdsaWithSha256)]), primitive(Type.BITSTRING, `\u0000${signature}`)])
  const base64 = Buffer.from(der(request), 'latin1').toString('base64')
  return `-----BEGIN CERTIFICATE REQUEST-----\n${base64.match(/.{1,64}/g)!.join('\n')}\n-----END CERTIFICATE REQUEST-----\n`
}

/** A context-specific element. */
function tagged(tag: forge.asn1.Type, value: string | forge.asn1.Asn1[]): forge.asn1.Asn1 {
  return asn1.create(Class.CONTEXT_SPECIFIC, tag, typeof value !== 'string', value)
}

function primitive(type: forge.asn1.Type, value: string): forge.asn1.Asn1 {
  return asn1.create(Class.UNIVERSAL, type, false, value)
}

function constructed(type: forge.asn1.Type, value: forge.asn1.Asn1[]): forge.asn1.Asn1 {
  return asn1.create(Class.UNIVERSAL, type, true, value)
}

function sequence(value: forge.asn1.Asn1[]): forge.asn1.Asn1 {
  return constructed(Type.SEQUENCE, value)
}

function oid(text: string): forge.asn1.Asn1 {
  return primitive(Type.OID, asn1.oidToDer(text).getBytes())
}

function der(value: forge.asn1.Asn1): string {
  return asn1.toDer(value).getBytes()
}
