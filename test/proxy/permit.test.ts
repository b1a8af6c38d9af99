/** Who is believed to be whom: chains, trust domains, names, and the request for a leaf. */
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { X509Certificate } from 'node:crypto'
import t from 'tap'
import { createCsr, createKey } from '../../src/proxy/csr.ts'
import { permitOf, readBundle, uriOf } from '../../src/proxy/permit.ts'
import { xfccElement, xfccOf } from '../../src/proxy/xfcc.ts'
import { Mint, type Minted } from '../support/mint.ts'

const [tdA, tdB] = ['aaaaaaaa-0000-0000-0000-000000000001.consul', 'bbbbbbbb-0000-0000-0000-000000000002.consul']
const idOf = (trustDomain: string, service: string) => `spiffe://${trustDomain}/ns/default/dc/dc1/svc/${service}`
const chain = (...minted: Minted[]) => readBundle(minted.map(each => each.certPem))

t.test('permits', async t => {
  const mint = new Mint()
  t.teardown(() => mint.remove())
  const [rootA, rootB] = [await mint.root(tdA), await mint.root(tdB)]
  const roots = new Map([
    [tdA, chain(rootA)],
    [tdB, chain(rootB)],
  ])
  const judge = (presented: X509Certificate[], now = Date.now()) => {
    const made = permitOf(presented, domain => roots.get(domain), now)
    return made.ok ? made.permit.uri : made.reason
  }
  const web = await mint.leaf(rootA, { san: `URI:${idOf(tdA, 'web')}` })

  t.test('a leaf of its own trust domain is who it says', async t => {
    t.equal(judge(chain(web)), idOf(tdA, 'web'))
  })
  t.test('a leaf of peer B that claims the trust domain of peer A is untrusted', async t => {
    t.equal(judge(chain(await mint.leaf(rootB, { san: `URI:${idOf(tdA, 'web')}` }))), 'untrusted')
  })
  t.test('a leaf signed by a leaf is untrusted', async t => {
    const forged = await mint.leaf(web, { san: `URI:${idOf(tdA, 'admin')}` })
    t.equal(judge(chain(forged, web)), 'untrusted')
    const bare = await mint.leaf(rootA, { san: `URI:${idOf(tdA, 'web')}`, bare: true })
    t.equal(judge(chain(bare)), idOf(tdA, 'web'))
    t.equal(judge(chain(await mint.leaf(bare, { san: `URI:${idOf(tdA, 'admin')}` }), bare)), 'untrusted')
  })
  t.test('a leaf behind an intermediate of its own root is believed, in whatever order the chain comes', async t => {
    const one = await mint.leaf(rootA, { san: `URI:spiffe://${tdA}`, ca: true })
    const two = await mint.leaf(one, { san: `URI:spiffe://${tdA}`, ca: true })
    const leaf = await mint.leaf(two, { san: `URI:${idOf(tdA, 'web')}` })
    t.equal(judge(chain(leaf, two, one)), idOf(tdA, 'web'))
    t.equal(judge(chain(leaf, one, two)), idOf(tdA, 'web'))
    t.equal(judge(chain(leaf, two)), 'untrusted')
  })
  t.test('an intermediate of B does not lead to A by being sent along', async t => {
    const other = await mint.leaf(rootB, { san: `URI:spiffe://${tdB}`, ca: true })
    const leaf = await mint.leaf(other, { san: `URI:${idOf(tdA, 'web')}` })
    t.equal(judge(chain(leaf, other, rootA)), 'untrusted')
  })
  t.test('a leaf that may sign is no leaf', async t => {
    t.equal(judge(chain(await mint.leaf(rootA, { san: `URI:${idOf(tdA, 'web')}`, ca: true }))), 'no-identity')
  })
  t.test('no URI, two URIs, or an upper-case trust domain is no identity', async t => {
    for (const san of ['DNS:web', `URI:${idOf(tdA, 'web')},URI:${idOf(tdA, 'api')}`, `URI:${idOf(tdA.toUpperCase(), 'web')}`]) {
      t.equal(judge(chain(await mint.leaf(rootA, { san }))), 'no-identity', san)
    }
  })
  t.test('a DNS name beside the URI changes nothing; one that imitates a URI is no identity', async t => {
    t.equal(judge(chain(await mint.leaf(rootA, { san: `URI:${idOf(tdA, 'web')},DNS:localhost` }))), idOf(tdA, 'web'))
    const leaf = await mint.leaf(rootA, { san: `URI:${idOf(tdA, 'web')}` })
    t.equal(uriOf({ subjectAltName: `URI:"spiffe://x/y, URI:${idOf(tdA, 'web')}"` } as X509Certificate), undefined)
    t.equal(uriOf(new X509Certificate(leaf.certPem)), idOf(tdA, 'web'))
  })
  t.test('a name that would be read as more than one field or element of X-Forwarded-Client-Cert is no identity', async t => {
    for (const path of [`/x;URI=${idOf(tdA, 'web')}`, '/ns/default/dc/dc1/svc/web;Hash=x', '/x;DNS=y']) {
      t.equal(judge(chain(await mint.leaf(rootB, { san: `URI:spiffe://${tdB}${path}` }))), 'no-identity', path)
    }
  })
  t.test('a trust domain that may not come in is unknown', async t => {
    const rootC = await mint.root('cccccccc.consul')
    t.equal(judge(chain(await mint.leaf(rootC, { san: `URI:${idOf('cccccccc.consul', 'web')}` }))), 'unknown-trust-domain')
  })
  t.test('a leaf is untrusted once it has expired, and its chain once a root has', async t => {
    t.equal(judge(chain(web), Date.now() + 4 * 86_400_000), 'untrusted')
    const longer = await mint.leaf(rootA, { san: `URI:${idOf(tdA, 'web')}`, days: 90 })
    t.equal(judge(chain(longer), Date.now() + 40 * 86_400_000), 'untrusted')
  })
  t.test('nobody is nobody, and a path of no known form has no identity but a name', async t => {
    t.equal(judge([]), 'no-certificate')
    const odd = permitOf(chain(await mint.leaf(rootA, { san: `URI:spiffe://${tdA}/odd` })), domain => roots.get(domain), Date.now())
    t.strictSame(odd.ok && [odd.permit.uri, odd.permit.identity], [`spiffe://${tdA}/odd`, undefined])
  })
  t.test('a request for a leaf passes openssl and carries one critical URI and an empty subject', async t => {
    const path = join(mint.dir, 'request.pem')
    writeFileSync(path, createCsr(await createKey(), idOf(tdA, 'web')))
    const text = execFileSync('openssl', ['req', '-in', path, '-noout', '-verify', '-text', '-subject'], {
      encoding: 'utf8',
      stdio: 'pipe',
    })
    t.match(
      text,
      /X509v3 Subject Alternative Name: critical\s+URI:spiffe:\/\/aaaaaaaa-0000-0000-0000-000000000001\.consul\/ns\/default\/dc\/dc1\/svc\/web\n/,
    )
    t.match(text, /Subject: \n|subject=\n/)
  })
})

t.test('an XFCC element is written byte for byte as Envoy writes it', async t => {
  const sample = readFileSync('test/golden/proxy/xfcc-sample.txt', 'utf8').trim()
  const elements = sample.split(',')
  for (const element of elements) {
    const field = (name: string) => new RegExp(`(?:^|;)${name}="?([^";]*)`).exec(element)![1]!
    const presented = readBundle([decodeURIComponent(field('Chain'))])
    const uri = field('URI')
    const written = xfccElement(field('By'), { uri, trustDomain: '', identity: undefined, validUntilMs: Infinity, chain: presented })
    t.equal(written, element)
  }
  t.equal(elements.length, 2)
})

t.test('the lines of the header are one list', async t => {
  t.equal(xfccOf(['a', 'b', 'x-forwarded-client-cert', 'By=a;URI=b', 'x-forwarded-client-cert', 'By=c;URI=d']), 'By=a;URI=b,By=c;URI=d')
  t.equal(xfccOf(['a', 'b']), undefined)
})
