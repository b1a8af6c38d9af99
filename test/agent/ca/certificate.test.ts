/** Certificates beside those of a real Consul: the same fields give the same bytes, signature apart. */
import { createPrivateKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import t from 'tap'
import {
  caCertificate,
  caCommonName,
  certificateId,
  colonHex,
  keyId,
  leafCertificate,
  privateKeyPem,
  serialText,
} from '../../../src/agent/ca/certificate.ts'
import { decode, encode, time } from '../../../src/lib/der.ts'
import { certificatesOf } from './scene.ts'

const golden = (file: string): string[] => certificatesOf(readFileSync(`test/golden/ca/${file}`, 'utf8'))
const [root] = golden('dc1-roots.crt')
const ecKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
const rsaKey = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey

/** The bytes of the part that is signed, with the authority's key id, the one thing that hangs on a key we do not have, blanked. */
function signedPart(pem: string): string {
  const members = decode(new X509Certificate(pem).raw)!.value as Parameters<typeof encode>[0][]
  const hex = encode(members[0]!).toString('hex')
  return hex.replace(/(0603551d230424302280 ?20)[0-9a-f]{64}/, '$1<authority>')
}

function fieldsOf(pem: string) {
  const certificate = new X509Certificate(pem)
  return {
    serial: Number.parseInt(certificate.serialNumber, 16),
    publicKey: certificate.publicKey,
    subject: certificate.subject?.replace('CN=', '') ?? '',
    issuer: certificate.issuer.replace('CN=', ''),
    uri: /URI:([^,]+)/.exec(certificate.subjectAltName ?? '')![1]!,
    dnsNames: [...(certificate.subjectAltName ?? '').matchAll(/DNS:([^,]+)/g)].map(match => match[1]!),
    validity: { notBeforeMs: Date.parse(certificate.validFrom), notAfterMs: Date.parse(certificate.validTo) },
  }
}

for (const [what, pem, key] of [
  ['a service leaf', golden('dc1-leaf-web.crt')[0]!, ecKey],
  ['a service leaf signed by RSA', golden('dc2-leaf-api-after-rotation.crt')[0]!, rsaKey],
  ['a mesh gateway leaf', golden('dc2-leaf-mesh-gateway.crt')[0]!, ecKey],
  ['a server certificate', golden('dc2-server-peering.crt')[0]!, ecKey],
] as const) {
  void t.test(`${what} is, byte for byte, what Consul signs`, async t => {
    const { uri, issuer, ...fields } = fieldsOf(pem)
    const ours = leafCertificate({ ...fields, spiffeId: uri, signer: { commonName: issuer, key } })
    t.equal(signedPart(ours), signedPart(pem))
    t.equal(new X509Certificate(ours).subject, undefined)
  })
}

for (const [what, pem, key] of [
  ['a root', root!, ecKey],
  ['a cross-signed root', golden('dc2-leaf-api-after-rotation.crt')[1]!, ecKey],
  ['an RSA root', golden('dc2-roots-all.crt').find(each => new X509Certificate(each).publicKey.asymmetricKeyType === 'rsa')!, rsaKey],
] as const) {
  void t.test(`${what} is, byte for byte, what Consul signs`, async t => {
    const { uri, issuer, ...fields } = fieldsOf(pem)
    const trustDomain = uri.slice('spiffe://'.length)
    const ours = caCertificate({ ...fields, trustDomain, signer: { commonName: issuer, key } })
    t.equal(signedPart(ours), signedPart(pem))
  })
}

void t.test("ids and key ids are those of Consul's API", async t => {
  const { Roots } = JSON.parse(readFileSync('test/golden/ca/dc2-agent-roots-after-rotation.json', 'utf8')) as {
    Roots: { ID: string; RootCert: string; SigningKeyID: string; SerialNumber: number }[]
  }
  t.equal(Roots.length, 2)
  for (const each of Roots) {
    const { publicKey, serial } = fieldsOf(each.RootCert)
    t.same([certificateId(each.RootCert), colonHex(keyId(publicKey)), serial], [each.ID, each.SigningKeyID, each.SerialNumber])
  }
  t.same([9, 22, 256, 65_535].map(serialText), ['09', '16', '01:00', 'ff:ff'])
  t.match(caCommonName('fa419230-416c-e97d-725d-9257d5db43d2'), /^pri-[0-9a-z]{1,8}\.consul\.ca\.fa419230\.consul$/)
})

void t.test("private keys have Consul's forms", async t => {
  t.match(privateKeyPem(ecKey), /^-----BEGIN EC PRIVATE KEY-----\n/)
  t.match(privateKeyPem(rsaKey), /^-----BEGIN RSA PRIVATE KEY-----\n/)
  t.ok(createPrivateKey(privateKeyPem(ecKey)).equals(ecKey))
})

void t.test('a date is UTCTime through 2049 and GeneralizedTime from 2050 on', async t => {
  t.same(
    ['2026-11-22T06:01:08Z', '2049-12-31T23:59:59Z', '2050-01-01T00:00:00Z'].map(text =>
      encode(time(Date.parse(text)))
        .toString('latin1')
        .slice(2),
    ),
    ['261122060108Z', '491231235959Z', '20500101000000Z'],
  )
})
