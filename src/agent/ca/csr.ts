/**
 * Certificate signing requests (RFC 2986), which come from whoever can reach the API and are hostile until proven otherwise. Of a
 * request only its key and its single URI are used: every other wish in it is either refused (another name) or ignored (extensions).
 */
import { createPublicKey, verify, type KeyObject } from 'node:crypto'
import { MeshError } from '../../lib/errors.ts'
import { bytesOf, decode, encode, kindOf, membersOf, oidOf, oids, type Node } from '../../lib/der.ts'

export interface SigningRequest {
  /** The one URI SAN, as it is written. */
  uri: string
  publicKey: KeyObject
}

export const csrLimits = { maxPemBytes: 16_384, maxUriBytes: 2048 } as const

const hashes: Record<string, { key: 'ec' | 'rsa'; hash: string }> = {
  [oids.ecdsaWithSha256]: { key: 'ec', hash: 'sha256' },
  [oids.ecdsaWithSha384]: { key: 'ec', hash: 'sha384' },
  [oids.ecdsaWithSha512]: { key: 'ec', hash: 'sha512' },
  [oids.rsaWithSha256]: { key: 'rsa', hash: 'sha256' },
  [oids.rsaWithSha384]: { key: 'rsa', hash: 'sha384' },
  [oids.rsaWithSha512]: { key: 'rsa', hash: 'sha512' },
}
const curves = new Set(['prime256v1', 'secp384r1', 'secp521r1'])

/** Reads a request and checks that whoever made it has the key; throws `bad-request` with the reason. */
export function readSigningRequest(pem: string): SigningRequest {
  const parts = membersOf(decode(derOf(pem)), 'sequence')
  if (parts?.length !== 3) throw refused('it is not a PKCS#10 request in DER')
  const [body, algorithm, signature] = parts as [Node, Node, Node]
  const fields = membersOf(body, 'sequence')
  if (!fields || fields.length < 3 || fields.length > 4) throw refused('it is not a PKCS#10 request in DER')
  if (bytesOf(fields[0], 'integer')?.toString('hex') !== '00') throw refused('its version is unknown')
  const publicKey = keyOf(fields[2]!)
  checkSignature(body, algorithm, signature, publicKey)
  return { uri: uriOf(fields[3]), publicKey }
}

function derOf(pem: string): Buffer {
  if (pem.length > csrLimits.maxPemBytes) throw refused(`it has more than ${csrLimits.maxPemBytes} characters`)
  const begin = '-----BEGIN CERTIFICATE REQUEST-----'
  const end = '-----END CERTIFICATE REQUEST-----'
  const text = pem.trim()
  if (!text.startsWith(begin) || !text.endsWith(end)) throw refused('it is not one PEM block CERTIFICATE REQUEST')
  const body = text.slice(begin.length, -end.length).replace(/[\r\n]+/g, '')
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(body)) throw refused('its base64 is broken')
  return Buffer.from(body, 'base64')
}

function keyOf(spki: Node): KeyObject {
  const der = encode(spki)
  let key: KeyObject
  try {
    key = createPublicKey({ key: der, format: 'der', type: 'spki' })
  } catch {
    throw refused('its public key cannot be read')
  }
  const { namedCurve, modulusLength, publicExponent } = key.asymmetricKeyDetails ?? {}
  const good =
    key.asymmetricKeyType === 'ec'
      ? curves.has(namedCurve ?? '')
      : key.asymmetricKeyType === 'rsa' &&
        modulusLength! >= 2048 &&
        modulusLength! <= 4096 &&
        publicExponent! >= 65_537n &&
        publicExponent! < 2n ** 32n
  if (!good) throw refused('its key is neither EC (P-256, P-384, P-521) nor RSA (2048 to 4096 bits)')
  // Explicit curve parameters, compressed points and the like would put bytes into a certificate that others read differently.
  const canonical = createPublicKey({ key: key.export({ format: 'jwk' }), format: 'jwk' })
  if (!canonical.export({ type: 'spki', format: 'der' }).equals(der)) throw refused('its public key is not in the usual encoding')
  return key
}

function checkSignature(body: Node, algorithm: Node, signature: Node, key: KeyObject): void {
  const kind = hashes[oidOf(membersOf(algorithm, 'sequence')?.[0]) ?? '']
  const bits = bytesOf(signature, 'bits')
  if (!kind || kind.key !== key.asymmetricKeyType || !bits || bits[0] !== 0) throw refused('its signature algorithm is not accepted')
  if (!verify(kind.hash, encode(body), key, bits.subarray(1))) throw refused('its signature is wrong')
}

/** `attributes` is [0] IMPLICIT SET OF Attribute. */
function uriOf(attributes: Node | undefined): string {
  const requests = (membersOf(attributes, '[0]') ?? []).flatMap(attribute => {
    const [id, values] = membersOf(attribute, 'sequence') ?? []
    return oidOf(id) === oids.extensionRequest ? (membersOf(values, 'set') ?? []) : []
  })
  const names = requests
    .flatMap(extensions => membersOf(extensions, 'sequence') ?? [])
    .map(extension => membersOf(extension, 'sequence') ?? [])
    .filter(members => oidOf(members[0]) === oids.subjectAltName)
    .flatMap(members => {
      const value = bytesOf(members.at(-1), 'octets')
      const list = value && membersOf(decode(value), 'sequence')
      if (!list) throw refused('its alternative names cannot be read')
      return list
    })
  const other = names.find(each => kindOf(each) !== '[6]')
  if (kindOf(other) === '[1]') throw new MeshError('bad-request', 'CSR SAN does not allow specifying email addresses')
  if (other) throw refused('it asks for a name that is no URI; ask for the SPIFFE id alone')
  if (names.length !== 1) throw new MeshError('bad-request', `CSR SAN contains an invalid number of URIs: ${names.length}`)
  const uri = bytesOf(names[0], '[6]')
  if (!uri || uri.length > csrLimits.maxUriBytes || !uri.every(byte => byte > 0x20 && byte < 0x7f)) throw refused('its URI is malformed')
  return uri.toString('latin1')
}

function refused(why: string): MeshError {
  return new MeshError('bad-request', `the certificate request is refused: ${why}`)
}
