/**
 * Certificates for the doors of agents and for who talks to them, as `consul tls` makes them (spec/cli.md 2): a CA of their own, apart
 * from that of the mesh, whose leaves are known by DNS names and addresses. The keys never leave the caller.
 */
import { randomInt, type KeyObject } from 'node:crypto'
import { addressBytes } from '../../lib/address-bytes.ts'
import { certificate, extension, keyIdentifiers, type Signer, type Validity } from './certificate.ts'
import { bits, boolean, explicit, oid, oids, sequence, tagged } from '../../lib/der.ts'

/** node-forge writes integers of 32 bits. */
const maxSerial = 2 ** 31 - 1

export function agentCaCertificate(options: { signer: Signer; validity: Validity; permittedDomains: readonly string[] }): string {
  const { signer, validity, permittedDomains } = options
  const permitted = permittedDomains.map(domain => sequence(tagged(2, Buffer.from(domain, 'latin1'))))
  const extensions = [
    // digitalSignature, keyCertSign, cRLSign.
    extension(oids.keyUsage, true, bits(Buffer.from([0x86]), 1)),
    extension(oids.basicConstraints, true, sequence(boolean(true))),
    ...keyIdentifiers(signer.key, signer.key),
    ...(permitted.length > 0 ? [extension(oids.nameConstraints, true, sequence(explicit(0, ...permitted)))] : []),
  ]
  return certificate({ serial: newSerial(), subject: signer.commonName, publicKey: signer.key, signer, validity, extensions })
}

export interface AgentCertificateOptions {
  commonName: string
  dnsNames: readonly string[]
  addresses: readonly string[]
  usages: readonly ('serverAuth' | 'clientAuth')[]
  publicKey: KeyObject
  signer: Signer
  validity: Validity
}

export function agentCertificate(options: AgentCertificateOptions): string {
  const { commonName, dnsNames, addresses, usages, publicKey, signer, validity } = options
  const names = [...dnsNames.map(name => tagged(2, Buffer.from(name, 'latin1'))), ...addresses.map(each => tagged(7, addressBytes(each)))]
  const extensions = [
    // digitalSignature, keyEncipherment.
    extension(oids.keyUsage, true, bits(Buffer.from([0xa0]), 5)),
    ...(usages.length > 0 ? [extension(oids.extendedKeyUsage, false, sequence(...usages.map(usage => oid(oids[usage]))))] : []),
    extension(oids.basicConstraints, true, sequence()),
    ...keyIdentifiers(publicKey, signer.key),
    extension(oids.subjectAltName, false, sequence(...names)),
  ]
  return certificate({ serial: newSerial(), subject: commonName, publicKey, signer, validity, extensions })
}

function newSerial(): number {
  return randomInt(1, maxSerial)
}
