/** Requests made by the openssl command: what is signed, and what of the hostile is refused, each attack by its name. */
import { createPublicKey, X509Certificate } from 'node:crypto'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import * as fc from 'fast-check'
import t from 'tap'
import { readSigningRequest } from '../../../src/agent/ca/csr.ts'
import { MeshError } from '../../../src/lib/errors.ts'
import { meshGatewayId } from '../../../src/mesh/spiffe.ts'
import { apiId, csr, openCa, scratch, textOf, trustDomain, verifies } from './scene.ts'

const p256 = ['-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256']
const ec = (curve: string): string[] => ['-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${curve}`]
const rsa = (bits: number): string[] => ['-algorithm', 'RSA', '-pkeyopt', `rsa_keygen_bits:${bits}`]
const derOf = (pem: string): Buffer => Buffer.from(pem.replaceAll(/-----[^-]+-----|\s/g, ''), 'base64')
const pemOf = (der: Buffer): string => `-----BEGIN CERTIFICATE REQUEST-----\n${der.toString('base64')}\n-----END CERTIFICATE REQUEST-----\n`

/** The code and message of a refusal; 'accepted' for none. Anything but a MeshError is a crash. */
function refusalOf(pem: string): string {
  try {
    readSigningRequest(pem)
    return 'accepted'
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    return `${error.code}: ${error.message.replace('the certificate request is refused: ', '')}`
  }
}

void t.test("a leaf is signed for the requester's key and URI and nothing else", async t => {
  const { ca, dir } = await openCa(t)
  const root = ca.roots().value.roots[0]!.rootCert
  const leaf = await ca.issueLeaf('api')
  for (const [what, key] of [
    ['P-256', p256],
    ['P-384', ec('P-384')],
    ['P-521', ec('P-521')],
    ['RSA 2048', rsa(2048)],
  ] as const) {
    const request = csr(dir, `URI:${apiId}`, { key, extra: 'basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign' })
    const signed = await ca.signCsr(request.pem, apiId)
    const certificate = new X509Certificate(signed.certPem)
    t.ok(verifies(dir, root, signed.certPem), what)
    t.same([certificate.ca, certificate.subject, certificate.subjectAltName, signed.uri], [false, undefined, `URI:${apiId}`, apiId])
    t.ok(certificate.publicKey.equals(createPublicKey(readFileSync(request.keyPath))))
    if (what === 'P-256') t.equal(textOf(signed.certPem), textOf(leaf.certPem), 'the wish for a CA certificate is ignored')
  }
})

void t.test('the URI must be the expected one, in our trust domain and datacenter', async t => {
  const { ca, dir } = await openCa(t)
  const other = 'spiffe://99999999-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/api'
  const foreign = apiId.replace('/dc/dc1/', '/dc/dc2/')
  const cases: [string, string, string][] = [
    ['a service of another cluster', other, `SPIFFE ID in CSR from a different trust domain: ${other.slice(9, 52)}, we are ${trustDomain}`],
    ['another datacenter', foreign, 'SPIFFE ID in CSR from a different datacenter: dc2, we are dc1'],
    ['another service', apiId.replace('api', 'web'), `SPIFFE ID in CSR is not the requester's own: ${apiId.replace('api', 'web')}`],
    ['a longer name', `${apiId}2`, `SPIFFE ID in CSR is not the requester's own: ${apiId}2`],
    [
      'the same name, escaped',
      apiId.replace('api', '%61pi'),
      `SPIFFE ID in CSR is not the requester's own: ${apiId.replace('api', '%61pi')}`,
    ],
    ['no known form', `spiffe://${trustDomain}/whatever`, `SPIFFE ID in CSR is not in a known form: spiffe://${trustDomain}/whatever`],
    ['the CA itself', `spiffe://${trustDomain}`, `SPIFFE ID in CSR is not in a known form: spiffe://${trustDomain}`],
    ['another scheme', `https://${trustDomain}/ns/default/dc/dc1/svc/api`, 'SPIFFE ID in CSR from a different trust domain'],
  ]
  for (const [what, uri, message] of cases) {
    await t.rejects(ca.signCsr(csr(dir, `URI:${uri}`).pem, apiId), { code: 'bad-request', message }, what)
  }
  const upper = csr(dir, `URI:${apiId.replace(trustDomain, trustDomain.toUpperCase())}`)
  t.equal(
    new X509Certificate((await ca.signCsr(upper.pem, apiId)).certPem).subjectAltName,
    `URI:${apiId}`,
    'trust domains ignore case; what is signed does not',
  )
  const gateway = meshGatewayId(trustDomain, 'dc1')
  t.equal((await ca.signCsr(csr(dir, `URI:${gateway}`).pem, gateway)).uri, gateway)
})

void t.test('names beside the one URI are refused', t => {
  const dir = scratch(t)
  const refusals: [string, string][] = [
    ['', 'bad-request: CSR SAN contains an invalid number of URIs: 0'],
    [`URI:${apiId},URI:${apiId}`, 'bad-request: CSR SAN contains an invalid number of URIs: 2'],
    [`URI:${apiId},email:a@b.c`, 'bad-request: CSR SAN does not allow specifying email addresses'],
    [`URI:${apiId},DNS:server.dc1.peering.${trustDomain}`, 'bad-request: it asks for a name that is no URI; ask for the SPIFFE id alone'],
    [`URI:${apiId},IP:127.0.0.1`, 'bad-request: it asks for a name that is no URI; ask for the SPIFFE id alone'],
    [`URI:${apiId},otherName:1.2.3.4;UTF8:x`, 'bad-request: it asks for a name that is no URI; ask for the SPIFFE id alone'],
    [`URI:${apiId}/${'x'.repeat(2100)}`, 'bad-request: its URI is malformed'],
  ]
  for (const [san, refusal] of refusals) t.equal(refusalOf(csr(dir, san).pem), refusal, san.slice(0, 100))
  t.end()
})

void t.test('weak or unusual keys and signatures are refused', t => {
  const dir = scratch(t)
  const san = `URI:${apiId}`
  const key = 'bad-request: its key is neither EC (P-256, P-384, P-521) nor RSA (2048 to 4096 bits)'
  t.equal(refusalOf(csr(dir, san, { key: ec('P-224') }).pem), key)
  t.equal(refusalOf(csr(dir, san, { key: ec('secp256k1') }).pem), key)
  t.equal(refusalOf(csr(dir, san, { key: rsa(1024) }).pem), key)
  t.equal(refusalOf(csr(dir, san, { key: [...rsa(2048), '-pkeyopt', 'rsa_keygen_pubexp:3'] }).pem), key)
  const explicit = csr(dir, san, { key: [...p256, '-pkeyopt', 'ec_param_enc:explicit'] }).pem
  t.equal(refusalOf(explicit), 'bad-request: its public key is not in the usual encoding')
  t.equal(refusalOf(csr(dir, san, { digest: 'sha1' }).pem), 'bad-request: its signature algorithm is not accepted')
  t.end()
})

void t.test("a request whose key is not the signer's is refused", t => {
  const dir = scratch(t)
  const [mine, theirs] = [csr(dir, `URI:${apiId}`).pem, csr(dir, `URI:${apiId}`).pem].map(derOf) as [Buffer, Buffer]
  // The key of one request in the body of the other: an attempt to have somebody else's key certified.
  const marker = Buffer.from('03420004', 'hex')
  const at = mine.indexOf(marker)
  const from = theirs.indexOf(marker)
  theirs.copy(mine, at, from, from + 69)
  t.equal(refusalOf(pemOf(mine)), 'bad-request: its signature is wrong')
  t.end()
})

void t.test('what is not one PEM block of DER is refused', t => {
  const dir = scratch(t)
  const { pem } = csr(dir, `URI:${apiId}`)
  const der = derOf(pem)
  t.equal(refusalOf(pem), 'accepted')
  t.equal(refusalOf(`\r\n${pem.replaceAll('\n', '\r\n')}  `), 'accepted')
  const notDer = 'bad-request: it is not a PKCS#10 request in DER'
  const notPem = 'bad-request: it is not one PEM block CERTIFICATE REQUEST'
  const cases: [string, string, string][] = [
    ['nothing', '', notPem],
    ['a certificate', pem.replaceAll('CERTIFICATE REQUEST', 'CERTIFICATE'), notPem],
    ['two requests', pem + pem, 'bad-request: its base64 is broken'],
    ['text before', `x\n${pem}`, notPem],
    ['too much', pem.replace('\n', '\n'.repeat(17_000)), 'bad-request: it has more than 16384 characters'],
    ['bytes after', pemOf(Buffer.concat([der, Buffer.from([0])])), notDer],
    ['cut short', pemOf(der.subarray(0, -1)), notDer],
    ['indefinite length', pemOf(Buffer.concat([Buffer.from('3080', 'hex'), der.subarray(4), Buffer.alloc(2)])), notDer],
    ['a length in more bytes than needed', pemOf(Buffer.concat([Buffer.from('308300', 'hex'), der.subarray(2)])), notDer],
    ['10,000 nested sequences', pemOf(Buffer.from('3080'.repeat(5000), 'hex')), notDer],
    ['nested definite sequences', pemOf(nested(2000)), notDer],
    ['a number', pemOf(Buffer.from('020100', 'hex')), notDer],
  ]
  for (const [what, text, refusal] of cases) t.equal(refusalOf(text), refusal, what)
  t.end()
})

void t.test('no change of any byte gets through, and none crashes', t => {
  const dir = scratch(t)
  const der = derOf(csr(dir, `URI:${apiId}`).pem)
  const numRuns = process.env.ISTHMUS_DEEP === '1' ? 50_000 : 1500
  fc.assert(
    fc.property(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
      const changed = Buffer.from(der)
      changed[at]! ^= change
      return refusalOf(pemOf(changed)) !== 'accepted'
    }),
    { numRuns },
  )
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), bytes => refusalOf(pemOf(Buffer.from(bytes))) !== 'accepted'),
    { numRuns },
  )
  t.end()
})

void t.test('openssl reads back what we certify: the key of a request is that of the certificate', async t => {
  const { ca, dir } = await openCa(t)
  const { pem } = csr(dir, `URI:${apiId}`)
  const signed = await ca.signCsr(pem, apiId)
  const keyOf = (kind: string, input: string): string => execFileSync('openssl', [kind, '-noout', '-pubkey'], { input, encoding: 'utf8' })
  t.equal(keyOf('x509', signed.certPem), keyOf('req', pem))
})

function nested(depth: number): Buffer {
  let inner = Buffer.alloc(0)
  for (let i = 0; i < depth; i++) {
    const length = inner.length < 128 ? Buffer.from([inner.length]) : Buffer.from([0x82, inner.length >> 8, inner.length & 255])
    inner = Buffer.concat([Buffer.from([0x30]), length, inner])
  }
  return inner
}
