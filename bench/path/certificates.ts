/**
 * The identities of every pair that is not isthmus: a root, the caller's leaf and the app's, made by the code that an agent uses and
 * written to a temporary directory. They name each other as Consul does (SPIFFE), and by DNS for proxies that know only that.
 */
import { createPublicKey, randomUUID } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { leafCertificate, newPrivateKey, privateKeyPem } from '../../src/agent/ca/certificate.ts'
import { defaultConfig, readSettings } from '../../src/agent/ca/configuration.ts'
import { commonNameOf, newRoot } from '../../src/agent/ca/root.ts'
import { serviceId } from '../../src/mesh/spiffe.ts'

export interface Identity {
  spiffeId: string
  dnsName: string
  certPath: string
  keyPath: string
  /** Certificate and key in one file, as HAProxy wants it. */
  bothPath: string
}

export interface Certificates {
  trustDomain: string
  rootPath: string
  web: Identity
  api: Identity
  /** One more, for what is known by another name. */
  leaf(service: string, dnsName: string): Promise<Identity>
}

export async function mintCertificates(directory: string): Promise<Certificates> {
  const settings = readSettings(defaultConfig)
  const nowMs = Math.floor(Date.now() / 1000) * 1000
  const clusterId = randomUUID()
  const trustDomain = `${clusterId}.consul`
  const { root, key } = await newRoot({ clusterId, serial: 1, settings, nowMs })
  const rootPath = join(directory, 'root.pem')
  writeFileSync(rootPath, root.rootCert)
  let serial = 1
  const leaf = async (service: string, dnsName: string): Promise<Identity> => {
    serial += 1
    const own = await newPrivateKey({ type: 'ec', bits: 256 })
    const spiffeId = serviceId(trustDomain, 'dc1', service)
    const certificate = leafCertificate({
      serial,
      spiffeId,
      dnsNames: [dnsName],
      publicKey: createPublicKey(own),
      signer: { commonName: commonNameOf(root), key },
      validity: { notBeforeMs: nowMs - 60_000, notAfterMs: nowMs + settings.leafTtlMs },
    })
    const path = (ending: string) => join(directory, `${service}.${ending}`)
    const identity = { spiffeId, dnsName, certPath: path('pem'), keyPath: path('key'), bothPath: path('both.pem') }
    writeFileSync(identity.certPath, certificate)
    for (const [to, text] of [
      [identity.keyPath, privateKeyPem(own)],
      [identity.bothPath, `${certificate}${privateKeyPem(own)}`],
    ] as const)
      writeFileSync(to, text, { mode: 0o600 })
    return identity
  }
  return { trustDomain, rootPath, web: await leaf('web', 'web.bench.internal'), api: await leaf('api', 'api.bench.internal'), leaf }
}
