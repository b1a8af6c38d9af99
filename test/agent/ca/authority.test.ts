/** The CA as its users see it: roots, leaves, rotation and configuration, judged by the openssl command. */
import { createPrivateKey, X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { CertificateAuthority } from '../../../src/agent/ca/authority.ts'
import { CaConfiguration } from '../../../src/agent/ca/configuration.ts'
import { Tables } from '../../../src/agent/catalog/tables.ts'
import { openEmbeddedStore } from '../../../src/agent/store/embedded.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { encode } from '../../../src/lib/shape.ts'
import { apiId, certificatesOf, csr, openCa, scratch, textOf, trustDomain, verifies } from './scene.ts'

const hourMs = 3_600_000
const golden = (file: string): string[] => certificatesOf(readFileSync(`test/golden/ca/${file}`, 'utf8'))
const keyMatches = (leaf: { certPem: string; privateKeyPem: string }): boolean =>
  new X509Certificate(leaf.certPem).checkPrivateKey(createPrivateKey(leaf.privateKeyPem))

void t.test('a new cluster has one root, whose text is that of a Consul root', async t => {
  const { ca, dir } = await openCa(t)
  const { activeRootId, roots, trustDomain: domain } = ca.roots().value
  t.equal(roots.length, 1)
  t.equal(domain, trustDomain)
  t.equal(ca.trustDomain, trustDomain)
  const root = roots[0]!
  const certificate = new X509Certificate(root.rootCert)
  t.equal(textOf(root.rootCert), textOf(golden('dc1-roots.crt')[0]!))
  t.ok(verifies(dir, root.rootCert, root.rootCert))
  const { createIndex, modifyIndex, notBefore, notAfter, rootCert: _, signingKeyId, ...rest } = root
  t.same(rest, {
    id: certificate.fingerprint.toLowerCase(),
    name: 'Consul CA Primary Cert',
    serialNumber: 1,
    externalTrustDomain: trustDomain.slice(0, -'.consul'.length),
    intermediateCerts: null,
    active: true,
    privateKeyType: 'ec',
    privateKeyBits: 256,
  })
  t.equal(activeRootId, root.id)
  t.ok(createIndex > 0 && modifyIndex >= createIndex)
  t.match(signingKeyId, /^(?:[0-9a-f]{2}:){31}[0-9a-f]{2}$/)
  t.match(notBefore, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/)
  t.equal(Date.parse(notAfter) - Date.parse(notBefore), 87_600 * hourMs)
})

void t.test('leaves and the server certificate are valid to openssl, their text is that of Consul, and they last 72 hours', async t => {
  const { ca, dir, clock } = await openCa(t)
  const root = ca.roots().value.roots[0]!.rootCert
  const leaf = await ca.issueLeaf('api')
  const server = await ca.issueServerCertificate()
  t.equal(textOf(leaf.certPem), textOf(golden('dc1-leaf-web.crt')[0]!))
  t.equal(textOf(server.certPem), textOf(golden('dc2-server-peering.crt')[0]!))
  t.ok(verifies(dir, root, leaf.certPem, '-purpose', 'sslclient'))
  t.ok(verifies(dir, root, server.certPem, '-purpose', 'sslserver', '-verify_hostname', `server.dc1.peering.${trustDomain}`))
  t.notOk(verifies(dir, root, server.certPem, '-verify_hostname', 'server.dc2.peering.example'))
  t.ok(keyMatches(leaf) && keyMatches(server))
  t.same([leaf.serialNumber, leaf.uri, server.serialNumber], ['02', apiId, '03'])
  t.same([leaf.validBeforeMs - leaf.validAfterMs, clock.nowMs() - leaf.validAfterMs - (clock.nowMs() % 1000)], [72 * hourMs, 60_000])
})

void t.test('a name cannot forge an identity', async t => {
  const { ca } = await openCa(t)
  const leaf = await ca.issueLeaf('x/../api?é')
  t.equal(leaf.uri, `spiffe://${trustDomain}/ns/default/dc/dc1/svc/x%2F..%2Fapi%3F%C3%A9`)
  t.equal(new X509Certificate(leaf.certPem).subjectAltName, `URI:${leaf.uri}`)
})

void t.test('100 leaves at once have 100 serial numbers', async t => {
  const { ca } = await openCa(t)
  const leaves = await Promise.all(Array.from({ length: 100 }, (_, i) => ca.issueLeaf(`s${i}`)))
  t.equal(new Set(leaves.map(leaf => leaf.serialNumber)).size, 100)
})

void t.test('a rotation changes who signs, keeps the old root, and the chain leads to either root', async t => {
  const { ca, dir } = await openCa(t)
  const told: string[] = []
  ca.onRootsChanged(() => told.push(ca.roots().value.activeRootId))
  const old = ca.roots().value.roots[0]!
  const before = await ca.issueServerCertificate()
  await ca.rotate()
  const { roots, activeRootId } = ca.roots().value
  const active = roots.find(root => root.active)!
  t.same(
    [roots.length, active.id === activeRootId, active.id !== old.id, roots.find(root => root.id === old.id)!.active],
    [2, true, true, false],
  )
  t.same(told, [activeRootId])
  const after = await ca.issueServerCertificate()
  t.ok(verifies(dir, old.rootCert, after.certPem), 'who knows only the old root accepts the new leaf')
  t.ok(verifies(dir, active.rootCert, after.certPem))
  t.ok(verifies(dir, old.rootCert, before.certPem))
  t.notOk(verifies(dir, active.rootCert, before.certPem))
  const [, intermediate, ...none] = certificatesOf(after.certPem)
  t.same(none, [])
  t.same(active.intermediateCerts, [intermediate])
  const { validFrom, validTo, subject, issuer } = new X509Certificate(intermediate!)
  t.equal(Date.parse(validTo) - Date.parse(validFrom), 7 * 24 * hourMs)
  t.same([subject, issuer], [new X509Certificate(active.rootCert).subject, new X509Certificate(old.rootCert).subject])
})

void t.test('a change to RSA rotates, as in the recorded rotation, and back; a change of lifetimes does not', async t => {
  const { ca, dir } = await openCa(t)
  const first = ca.roots().value.activeRootId
  await ca.setConfiguration({ Provider: 'consul', Config: { LeafCertTTL: '1h' }, ForceWithoutCrossSigning: true })
  t.equal(ca.roots().value.activeRootId, first)
  const short = await ca.issueLeaf('api')
  t.equal(short.validBeforeMs - short.validAfterMs, hourMs)
  await ca.setConfiguration({ Provider: 'consul', Config: { private_key_type: 'rsa', PrivateKeyBits: 2048 } })
  const rsa = ca.roots().value.roots.find(root => root.active)!
  t.same([rsa.privateKeyType, rsa.privateKeyBits, ca.roots().value.roots.length], ['rsa', 2048, 2])
  const leaf = await ca.issueServerCertificate()
  t.equal(textOf(certificatesOf(leaf.certPem)[0]!).includes('sha256WithRSAEncryption'), true)
  t.equal(textOf(certificatesOf(leaf.certPem)[1]!), textOf(golden('dc2-leaf-api-after-rotation.crt')[1]!))
  t.ok(verifies(dir, rsa.rootCert, leaf.certPem))
  for (const bits of [224, 384, 521]) {
    await ca.setConfiguration({ Config: { PrivateKeyType: 'ec', PrivateKeyBits: bits } })
    const root = ca.roots().value.roots.find(each => each.active)!
    t.ok(verifies(dir, root.rootCert, (await ca.issueServerCertificate()).certPem), `an EC root of ${bits} bits`)
  }
})

void t.test('an old root stays while anything that it signed is valid, then goes with its key', async t => {
  const { ca, clock, store } = await openCa(t)
  await ca.setConfiguration({ Config: { LeafCertTTL: '240h' } })
  const old = ca.roots().value.activeRootId
  const leaf = await ca.issueServerCertificate()
  await ca.rotate()
  const ids = (): string[] => ca.roots().value.roots.map(root => root.id)
  await clock.advance(leaf.validBeforeMs - clock.nowMs())
  t.ok(ids().includes(old))
  const told = new Promise<void>(resolve => ca.onRootsChanged(resolve))
  await clock.advance(3 * hourMs)
  await told
  t.same(ids(), [ca.roots().value.activeRootId])
  t.same(
    (await store.list('ca-key/')).entries.map(entry => decodeURIComponent(entry.key)),
    [`ca-key/${ca.roots().value.activeRootId}`],
  )
})

void t.test('an intermediate that has ended is no longer sent, and no leaf outlives its root', async t => {
  const { ca, clock } = await openCa(t)
  await ca.rotate()
  t.equal(certificatesOf((await ca.issueServerCertificate()).certPem).length, 2)
  await clock.advance(8 * 24 * hourMs)
  t.equal(certificatesOf((await ca.issueServerCertificate()).certPem).length, 1)
  const root = ca.roots().value.roots.find(each => each.active)!
  clock.setWallClock(Date.parse(root.notAfter) - hourMs)
  t.equal((await ca.issueServerCertificate()).validBeforeMs, Date.parse(root.notAfter))
})

void t.test("a service's leaf is the same one until 60 to 90 % of its life, and then has a greater index", async t => {
  for (const [random, share] of [
    [0, 0.6],
    [0.999_999, 0.9],
  ] as const) {
    const { ca, clock } = await openCa(t, { random: () => random })
    const first = await ca.issueLeaf('api')
    const dueMs = first.validAfterMs + share * 72 * hourMs
    await clock.advance(dueMs - clock.nowMs() - 2000)
    t.equal(await ca.issueLeaf('api'), first)
    await clock.advance(4000)
    const [second, same] = await Promise.all([ca.issueLeaf('api'), ca.issueLeaf('api')])
    t.equal(second, same)
    t.not(second.serialNumber, first.serialNumber)
    t.ok(second.index > first.index)
  }
})

void t.test('after a rotation a leaf is renewed within 30 seconds, and who waits for it is woken', async t => {
  const { ca, clock } = await openCa(t, { random: () => 0.5 })
  const first = await ca.issueLeaf('api')
  let woken = false
  const waiting = ca.waitForLeaf('api', first.index, 600_000).then(leaf => {
    woken = true
    return leaf
  })
  await ca.rotate()
  await clock.advance(14_000)
  t.equal(await ca.issueLeaf('api'), first)
  t.notOk(woken)
  await clock.advance(1500)
  const second = await waiting
  t.not(second.serialNumber, first.serialNumber)
  t.equal(certificatesOf(second.certPem).length, 2)
})

void t.test('waiting for a leaf ends at its timeout, its abort and at the close of the CA', async t => {
  const { ca, clock } = await openCa(t)
  const leaf = await ca.issueLeaf('api')
  const timed = ca.waitForLeaf('api', leaf.index, 5000)
  const abort = new AbortController()
  const aborted = ca.waitForLeaf('api', leaf.index, 50_000, abort.signal)
  const closed = ca.waitForLeaf('api', leaf.index, 50_000)
  await clock.advance(5001)
  t.equal(await timed, leaf)
  abort.abort()
  t.equal(await aborted, leaf)
  ca.close()
  t.equal(await closed, leaf)
})

void t.test('requests are signed at 50 a second', async t => {
  const { ca, clock, dir } = await openCa(t)
  const { pem } = csr(dir, `URI:${apiId}`)
  for (let i = 0; i < 50; i++) await ca.signCsr(pem, apiId)
  await t.rejects(ca.signCsr(pem, apiId), {
    code: 'unavailable',
    message: 'rate limit of certificate requests reached; try again in a second, or raise CSRMaxPerSecond',
  })
  await clock.advance(20)
  await ca.signCsr(pem, apiId)
  await t.rejects(ca.signCsr(pem, apiId), { code: 'unavailable' })
  await ca.setConfiguration({ Config: { CSRMaxPerSecond: 0 } })
  for (let i = 0; i < 60; i++) await ca.signCsr(pem, apiId)
})

void t.test("the configuration is shown as Consul shows it, and a wrong one is refused in Consul's words", async t => {
  const { ca } = await openCa(t)
  const recorded = JSON.parse(readFileSync('test/golden/ca/dc1-ca-configuration.json', 'utf8')) as {
    CreateIndex: number
    ModifyIndex: number
  }
  const { createIndex, modifyIndex } = ca.configuration()
  t.same(encode(CaConfiguration, ca.configuration()), { ...recorded, CreateIndex: createIndex, ModifyIndex: modifyIndex })
  const refusals: [unknown, string, string][] = [
    [{ Provider: 'zz', Config: {} }, 'invalid', 'could not initialize provider: unknown CA provider "zz"'],
    [
      { Provider: 'consul', Config: { LeafCertTTL: '1s' } },
      'invalid',
      'error configuring provider: leaf cert TTL must be greater or equal than 1h0m0s',
    ],
    [{ Config: { LeafCertTTL: '8761h' } }, 'invalid', 'error configuring provider: leaf cert TTL must be less than 8760h0m0s'],
    [
      { Config: { LeafCertTTL: '2h', IntermediateCertTTL: '4h' } },
      'invalid',
      'error configuring provider: Intermediate Cert TTL must be greater or equal than 3 * LeafCertTTL (>=6h0m0s).',
    ],
    [
      { Config: { LeafCertTTL: '1h', IntermediateCertTTL: '4h', RootCertTTL: '3h' } },
      'invalid',
      'error configuring provider: root cert TTL is set and is not greater than intermediate cert ttl. root cert ttl: 3h0m0s, intermediate cert ttl: 4h0m0s',
    ],
    [{ Config: { PrivateKeyBits: 255 } }, 'invalid', 'error configuring provider: EC key length must be one of (224, 256, 384, 521) bits'],
    [
      { Config: { PrivateKeyType: 'rsa', PrivateKeyBits: 1024 } },
      'invalid',
      'error configuring provider: RSA key length must be 2048 or 4096 bits',
    ],
    [{ Config: { PrivateKeyType: 'dsa' } }, 'invalid', "error configuring provider: private key type must be either 'ec' or 'rsa'"],
    [
      { Config: { RootCertTTL: 'soon' } },
      'invalid',
      'error configuring provider: error decoding config: RootCertTTL: time: invalid duration "soon"',
    ],
    [{ Bogus: 1 }, 'bad-request', 'Request decode failed: Bogus: unknown key "Bogus"'],
    [
      { Config: { PrivateKey: 'x' } },
      'unsupported',
      'error configuring provider: PrivateKey is not supported; leave it out and the CA makes its own key',
    ],
  ]
  for (const [input, code, message] of refusals) t.throws(() => void ca.setConfiguration(input), { code, message })
  t.equal(ca.configuration().modifyIndex, modifyIndex, 'and nothing was written')
})

void t.test('a reopened CA is the same CA, and two on one store are one CA', async t => {
  const dir = scratch(t)
  const logger = silentLogger()
  const open = async () => {
    const store = await openEmbeddedStore({ dir, logger })
    const tables = await Tables.open(store)
    return { store, tables, ca: await CertificateAuthority.open({ store, tables, datacenter: 'dc1', logger }) }
  }
  const first = await open()
  await first.ca.rotate()
  await first.ca.issueLeaf('api')
  const { trustDomain: domain, roots } = first.ca.roots().value
  first.ca.close()
  first.tables.close()
  await first.store.close()

  const { store, tables, ca } = await open()
  t.same([ca.trustDomain, ca.roots().value.roots], [domain, roots])
  const leaf = await ca.issueLeaf('api')
  t.equal(leaf.serialNumber, '05', 'serial numbers go on')
  t.ok(verifies(scratch(t), roots.find(root => root.active)!.rootCert, leaf.certPem))

  const other = await CertificateAuthority.open({ store, tables, datacenter: 'dc1', logger })
  const heard = new Promise<void>(resolve => other.onRootsChanged(resolve))
  await ca.rotate()
  await heard
  t.equal(other.roots().value.activeRootId, ca.roots().value.activeRootId)
  const active = ca.roots().value.roots.find(root => root.active)!
  t.ok(verifies(scratch(t), active.rootCert, (await other.issueServerCertificate()).certPem), 'the other signs with the new root')
  ca.close()
  other.close()
  tables.close()
  await store.close()
})

void t.test('private keys are nowhere but under the secret prefix', async t => {
  const { ca, store } = await openCa(t)
  await ca.rotate()
  await ca.issueLeaf('api')
  const holding = (await store.list('')).entries.filter(entry => Buffer.from(entry.value).includes('PRIVATE KEY')).map(entry => entry.key)
  t.equal(holding.length, 2)
  t.ok(holding.every(key => key.startsWith('ca-key/')))
  t.notMatch(JSON.stringify([ca.roots(), ca.configuration()]), /PRIVATE/)
})
