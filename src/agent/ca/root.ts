/** Roots: how a new one is made, how the old one vouches for it, and which of those vouchers still count (spec/data-plane.md 2.3). */
import { createPublicKey, X509Certificate, type KeyObject } from 'node:crypto'
import type { CaRoot } from '../catalog/tables.ts'
import { caCertificate, caCommonName, certificateId, colonHex, keyId, newPrivateKey, type Signer, type Validity } from './certificate.ts'
import type { CaSettings } from './configuration.ts'

const crossSignedMs = 7 * 24 * 3_600_000
const backdateMs = 60_000

/** A root is not backdated: nothing was signed by it before it was. */
export async function newRoot(options: {
  clusterId: string
  serial: number
  settings: CaSettings
  nowMs: number
}): Promise<{ root: CaRoot; key: KeyObject }> {
  const { clusterId, serial, settings } = options
  const key = await newPrivateKey(settings.key)
  const commonName = caCommonName(clusterId)
  const notBeforeMs = seconds(options.nowMs)
  const validity = { notBeforeMs, notAfterMs: notBeforeMs + settings.rootTtlMs }
  const publicKey = createPublicKey(key)
  const rootCert = caCertificate({
    serial,
    trustDomain: `${clusterId}.consul`,
    subject: commonName,
    publicKey,
    signer: { commonName, key },
    validity,
  })
  const root: CaRoot = {
    id: certificateId(rootCert),
    name: 'Consul CA Primary Cert',
    serialNumber: serial,
    signingKeyId: colonHex(keyId(publicKey)),
    externalTrustDomain: clusterId,
    notBefore: date(validity.notBeforeMs),
    notAfter: date(validity.notAfterMs),
    rootCert,
    intermediateCerts: null,
    active: true,
    privateKeyType: settings.key.type,
    privateKeyBits: settings.key.bits,
    createIndex: 0,
    modifyIndex: 0,
  }
  return { root, key }
}

/** A week, and never past the old root's own end. */
export function crossSignedValidity(old: CaRoot, nowMs: number): Validity {
  const notBeforeMs = seconds(nowMs) - backdateMs
  return { notBeforeMs, notAfterMs: Math.min(notBeforeMs + crossSignedMs, Date.parse(old.notAfter)) }
}

/** The new root's name and key, signed by the old root. */
export function crossSign(options: { root: CaRoot; key: KeyObject; signer: Signer; serial: number; validity: Validity }): string {
  const { root, key, ...rest } = options
  return caCertificate({
    ...rest,
    trustDomain: `${root.externalTrustDomain}.consul`,
    subject: commonNameOf(root),
    publicKey: createPublicKey(key),
  })
}

export function commonNameOf(root: CaRoot): string {
  return new X509Certificate(root.rootCert).subject.replace(/^CN=/, '')
}

/** An ended intermediate in a chain makes some verifiers refuse it. */
export function validIntermediates(root: CaRoot, nowMs: number): string[] {
  return (root.intermediateCerts ?? []).filter(pem => Date.parse(new X509Certificate(pem).validTo) > nowMs)
}

function seconds(ms: number): number {
  return Math.floor(ms / 1000) * 1000
}

function date(ms: number): string {
  return new Date(ms).toISOString().replace('.000Z', 'Z')
}
