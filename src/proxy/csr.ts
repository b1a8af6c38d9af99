/**
 * A proxy's own key and the request to have it signed. The key is made here and never leaves the process but for the proxy's own
 * cache directory; what is asked for is exactly one URI SAN and an empty subject (data-plane.md 2.3).
 */
import { createPublicKey, generateKeyPair, sign, type KeyObject } from 'node:crypto'
import { promisify } from 'node:util'
import { bits, boolean, decode, encode, explicit, integer, octets, oid, oids, pem, sequence, set, tagged } from '../lib/der.ts'

const generate = promisify(generateKeyPair)

/** uniformResourceIdentifier of RFC 5280 GeneralName, and the attributes of RFC 2986. */
const tags = { uri: 6, attributes: 0 } as const

/** A new ECDSA P-256 key. */
export async function createKey(): Promise<KeyObject> {
  return (await generate('ec', { namedCurve: 'P-256' })).privateKey
}

/** A PKCS#10 request (RFC 2986) for `uri`, PEM. */
export function createCsr(key: KeyObject, uri: string): string {
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' })
  const san = encode(sequence(tagged(tags.uri, Buffer.from(uri))))
  // Critical, because the subject is empty (RFC 5280 4.2.1.6).
  const extension = sequence(oid(oids.subjectAltName), boolean(true), octets(san))
  const attribute = sequence(oid(oids.extensionRequest), set(sequence(extension)))
  const info = sequence(integer(0), sequence(), decode(spki)!, explicit(tags.attributes, attribute))
  const signature = sign('sha256', encode(info), key)
  return pem('CERTIFICATE REQUEST', encode(sequence(info, sequence(oid(oids.ecdsaWithSha256)), bits(signature))))
}
