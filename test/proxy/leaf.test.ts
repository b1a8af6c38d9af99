// When a proxy renews its leaf: in the middle of its life, soon after the roots changed, at once when its chain no longer holds; and
// that it keeps the one it has while the agent does not sign. Time is a fake clock; the CA is the agent's own.
import t from 'tap'
import { CertificateAuthority } from '../../src/agent/ca/authority.ts'
import { Tables } from '../../src/agent/catalog/tables.ts'
import { openEmbeddedStore } from '../../src/agent/store/embedded.ts'
import { silentLogger } from '../../src/lib/log.ts'
import { encode } from '../../src/lib/shape.ts'
import { Leaf } from '../../src/proxy/leaf.ts'
import type { ProxyIdentity } from '../../src/proxy/tls.ts'
import { SignResponse } from '../../src/wire/internal-api.ts'
import { FakeClock } from '../support/fake-clock.ts'

const logger = silentLogger()
const hour = 3_600_000

interface Scene {
  clock: FakeClock
  ca: CertificateAuthority
  leaf: Leaf
  taken: ProxyIdentity[]
  uri: string
  /** The agent is there; false makes it refuse. */
  agent: { up: boolean; asked: number }
  roots: () => string[]
  /** Moves time in steps, so that what waits for the store or a key can happen. */
  pass: (ms: number) => Promise<void>
}

async function scene(t: { teardown(end: () => Promise<void>): void }, draw: number): Promise<Scene> {
  const clock = new FakeClock(Date.now())
  const store = await openEmbeddedStore({ dir: undefined, logger })
  const tables = await Tables.open(store)
  const ca = await CertificateAuthority.open({ store, tables, datacenter: 'dc1', clock, logger })
  const uri = `spiffe://${ca.trustDomain}/ns/default/dc/dc1/svc/web`
  const taken: ProxyIdentity[] = []
  const agent = { up: true, asked: 0 }
  const leaf = new Leaf({
    proxyId: 'web-sidecar-proxy',
    logger,
    clock,
    random: () => draw,
    onLeaf: identity => taken.push(identity),
    agent: {
      async put(_path, body) {
        agent.asked += 1
        if (!agent.up) throw new Error('the agent is down')
        const signed = await ca.signCsr((body as { CSR: string }).CSR, uri)
        return encode(SignResponse, {
          certPem: signed.certPem,
          spiffeId: uri,
          validAfterMs: signed.validAfterMs,
          validBeforeMs: signed.validBeforeMs,
        })
      },
    },
  })
  t.teardown(async () => {
    leaf.close()
    ca.close()
    tables.close()
    await store.close()
  })
  return {
    clock,
    ca,
    leaf,
    taken,
    uri,
    agent,
    roots: () => ca.roots().value.roots.map(root => root.rootCert),
    async pass(ms) {
      await clock.advance(ms)
      // Keys and signatures are made outside the fake time.
      const end = performance.now() + 150
      while (performance.now() < end) await new Promise(resolve => setTimeout(resolve, 10))
    },
  }
}

t.test('a leaf of 72 hours is renewed at the drawn point between 60 and 90 % of its life', async t => {
  const { leaf, taken, uri, roots, pass } = await scene(t, 0.5)
  leaf.want(uri, roots())
  await pass(1)
  t.equal(taken.length, 1)
  await pass(53 * hour)
  t.equal(taken.length, 1, 'not before')
  await pass(1.5 * hour)
  t.equal(taken.length, 2, '75 % of 72 h is 54 h')
  t.not(taken[0]!.generation, taken[1]!.generation)
  t.not(taken[0]!.keyPem, taken[1]!.keyPem, 'with a new key')
})

t.test('after the roots changed it is renewed within 30 seconds, by a certificate of the new root', async t => {
  const { leaf, taken, uri, roots, pass, ca } = await scene(t, 0.9)
  leaf.want(uri, roots())
  await pass(1)
  await ca.rotate()
  leaf.want(uri, roots())
  await pass(26_000)
  t.equal(taken.length, 1, 'not all proxies at once')
  await pass(2000)
  t.equal(taken.length, 2)
  t.equal(taken[1]!.certPem.match(/BEGIN CERTIFICATE/g)!.length, 2, 'with the cross-signed intermediate')
})

t.test('a leaf whose chain reaches none of the own roots any more is replaced at once', async t => {
  const { leaf, taken, uri, roots, pass, ca } = await scene(t, 0.9)
  leaf.want(uri, roots())
  await pass(1)
  const before = roots()
  await ca.rotate()
  leaf.want(
    uri,
    roots().filter(pem => !before.includes(pem)),
  )
  await pass(1)
  t.equal(taken.length, 2)
})

t.test('while the agent does not sign, the leaf stays and it asks again with growing pauses', async t => {
  const { leaf, taken, uri, roots, pass, agent } = await scene(t, 0.5)
  leaf.want(uri, roots())
  await pass(1)
  agent.up = false
  await pass(54.5 * hour)
  t.equal(taken.length, 1)
  t.equal(leaf.identity, taken[0])
  const before = agent.asked
  for (let i = 0; i < 12; i += 1) await pass(10_000)
  const asked = agent.asked - before
  t.ok(asked >= 3 && asked <= 15, `asked ${asked} times in two minutes`)
  agent.up = true
  await pass(31_000)
  t.equal(taken.length, 2)
})
