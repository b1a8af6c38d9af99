/** `why` offline: what the agent knows of a call, step by step; and that what entries alone decide is what the proxies' plans decide. */
import t from 'tap'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { whyScene } from '../../../src/agent/snapshots/why.ts'
import { boundaryCases } from '../../../src/mesh/boundary-cases.ts'
import { EntrySet } from '../../../src/mesh/entry-set.ts'
import { requestFacts } from '../../../src/mesh/forwarded.ts'
import { unknownFreshness, type Freshness } from '../../../src/mesh/freshness.ts'
import { Outcomes } from '../../../src/mesh/outcome.ts'
import type { PeeringState } from '../../../src/mesh/peering.ts'
import { parseServiceName, type WhyReport } from '../../../src/mesh/why-report.ts'
import { explain } from '../../../src/mesh/why.ts'
import { Mint } from '../../support/mint.ts'
import { entryOf } from '../../support/chain-entries.ts'
import { east, World } from './world.ts'

const mint = new Mint()
t.teardown(() => mint.remove())
const root = await mint.root(east)
const expired = await mint.leaf(root, { san: `URI:spiffe://${east}`, ca: true, days: -1 })

let world: World
let state: PeeringState
let freshness: Freshness
t.beforeEach(async () => {
  world = await World.open()
  state = 'ACTIVE'
  freshness = { state: 'FRESH', ageMs: 1000, evidence: 'digest' }
  const own = { value: { roots: [{ rootCert: root.certPem }] }, index: 1, topics: ['ca-roots'] }
  world.context.ca = { ...world.context.ca, roots: () => own }
})
t.afterEach(() => world.close())

function why(source: string, destination: string, method = 'GET', path = '/', headers: [string, string][] = []): WhyReport {
  const asked = {
    source: parseServiceName(source)!,
    destination: parseServiceName(destination)!,
    request: requestFacts(method, path, headers),
  }
  const peerings = {
    read: (name: string) => {
      const { value } = world.tables.peering(name)
      return { value: value && { ...value, state } }
    },
    freshness: () => freshness,
  }
  return explain(asked, whyScene(asked, world.context, peerings))
}

const amiss = ({ steps }: WhyReport) => steps.filter(each => each.state !== 'ok').map(each => `${each.step} ${each.code ?? ''}`)
const upstreams = (...names: string[]) => ({
  upstreams: names.map((destinationName, i) => ({ destinationType: 'service', destinationName, meshGateway: {}, localBindPort: 5000 + i })),
})
const peered = (name: string) => {
  const [first] = upstreams(name).upstreams
  return { upstreams: [{ ...first!, destinationPeer: 'east' }] }
}

/** East as a peer, with its bundle, and api imported. */
async function importApi(meta: Parameters<World['importedProxies']>[3] = {}): Promise<void> {
  await world.peer('east', east)
  await world.put(keys.trustBundle('east'), { peer: 'east', trustDomain: east, rootPems: [root.certPem], exportedPartition: '' })
  await world.meshService('web', peered('api'))
  await world.importedInstances('east', 'api', ['passing', 'critical'])
  await world.importedProxies('east', 'api', [{ wan: '192.0.2.1' }, { wan: '192.0.2.2', status: 'critical' }], meta)
}

t.test('a service of a peer: health, age, names and bundle', async t => {
  await importApi()
  const whole = why('web', 'api@east', 'GET', '/x')
  t.same([whole.verdict, amiss(whole)], ['unknown', ['intentions exporter-decides']])
  const gateway = whole.steps.find(({ step }) => step === 'gateway')!
  t.equal(gateway.text, '2 gateways towards east, 1 healthy; behind them 1 of 2 instances healthy; FRESH 1.0s (digest)')
  t.same(
    gateway.endpoints!.map(({ address, healthy, health }) => [address, healthy, health]),
    [
      ['192.0.2.1', true, 'passing'],
      ['192.0.2.2', false, 'overall is critical'],
    ],
  )
  t.match(whole.next, "isthmus why web@us '->' api GET /x", 'the name that east has for us is in its server name')
  t.equal(whole.probe!.targets[0]!.peer, 'east')

  state = 'FAILING'
  freshness = unknownFreshness
  t.same(amiss(why('web', 'api@east')), ['peering peering-stale', 'intentions exporter-decides'])
  state = 'ACTIVE'
  freshness = { state: 'FROZEN', ageMs: 90_000, evidence: 'digest' }
  t.same(amiss(why('web', 'api@east')), ['peering peering-stale', 'intentions exporter-decides'])
  freshness = { ...freshness, state: 'FRESH' }
  state = 'TERMINATED'
  t.match(why('web', 'api@east'), { verdict: 'unreachable', code: 'peering-down' })
  state = 'ACTIVE'

  await world.put(keys.trustBundle('east'), { peer: 'east', trustDomain: east, rootPems: [expired.certPem], exportedPartition: '' })
  t.match(why('web', 'api@east'), { verdict: 'unreachable', code: 'certificate-expired', text: /1 root of peer east, valid until/ })
  await world.delete(keys.trustBundle('east'))
  t.match(why('web', 'api@east'), { verdict: 'unreachable', code: 'no-trust-bundle' })
  await world.importedInstances('east', 'api', ['critical', 'critical'])
})

t.test('what a peer may not say of itself', async t => {
  await importApi({ spiffeId: ['spiffe://other.consul/ns/default/dc/dc2/svc/api'] })
  t.match(why('web', 'api@east'), { verdict: 'unreachable', code: 'wrong-identity', text: /is not in the trust domain/ })
  await importApi({ sni: ['api.default.dc2.internal.x'] })
  t.match(why('web', 'api@east'), { verdict: 'unreachable', code: 'wrong-sni' })
  await world.importedProxies('east', 'api', [])
  await world.importedInstances('east', 'api', ['passing'])
  t.match(why('web', 'api@east'), { verdict: 'unreachable', code: 'no-gateway', next: /mesh gateway/ })
})

t.test('names that lead nowhere', async t => {
  await world.meshService('web', upstreams('api', 'loop', 'far'))
  await world.entry({ kind: 'service-resolver', name: 'loop', redirect: { service: 'loop2' } })
  await world.entry({ kind: 'service-resolver', name: 'loop2', redirect: { service: 'loop' } })
  t.match(why('web', 'loop'), { verdict: 'unreachable', code: 'chain-invalid' })
  await world.entry({ kind: 'service-resolver', name: 'far', redirect: { service: 'api', peer: 'east' } })
  t.match(why('web', 'far'), { verdict: 'unreachable', code: 'unreachable-target' })
  t.match(why('web', 'api'), { verdict: 'unreachable', code: 'no-endpoint' })
  await world.service({ service: 'bare' })
  t.match(why('bare', 'api'), { verdict: 'unreachable', code: 'unknown-source', text: 'bare is registered, but has no sidecar' })
})

t.test('a caller of a peer, at our gateway and behind it', async t => {
  await world.peer('east', east)
  await world.put(keys.trustBundle('east'), { peer: 'east', trustDomain: east, rootPems: [root.certPem], exportedPartition: '' })
  await world.meshService('api')
  await world.entry({ kind: 'service-defaults', name: 'api', protocol: 'http' })
  await world.exports([{ name: 'other', peers: ['east'] }])
  t.same(amiss(why('web@east', 'api')), ['export not-exported', 'gateway no-gateway', 'intentions unknown-identity'])
  await world.service({ service: 'gw', kind: 'mesh-gateway', port: 8443 })
  t.same(amiss(why('web@east', 'api')), ['export not-exported', 'gateway gateway-route-missing', 'intentions unknown-identity'])
  await world.exports([{ name: 'api', peers: ['east'] }])
  t.match(why('web@east', 'api'), { verdict: 'deny', code: 'denied-by-default', text: /callers of a peer are denied by default/ })
  t.match(why('web@east', 'api').next, '"Sources":[{"Name":"web","Peer":"east","Action":"allow"}]')
  const write = (more: object) => world.entry({ kind: 'service-intentions', name: 'api', ...more })
  await write({ sources: [{ name: 'web', peer: 'east', action: 'deny' }], meta: { 'isthmus-audit': 'true' } })
  t.match(why('web@east', 'api'), { verdict: 'allow', code: 'audited' })
  await write({ sources: [{ name: 'web', peer: 'east', permissions: [{ action: 'allow', http: { pathPrefix: '/' } }] }] })
  t.match(why('web@east', 'api', 'GET', '/%00'), { verdict: 'deny', code: 'malformed-path' })
  t.match(why('web@north', 'api'), { verdict: 'unreachable', code: 'unknown-peer' })

  // Requests that end at the gateway go on by the chain, and are judged as they arrive.
  await world.entry({ kind: 'service-defaults', name: 'front', protocol: 'http' })
  const match = { http: { pathPrefix: '/v1/' } }
  await world.entry({ kind: 'service-router', name: 'front', routes: [{ match, destination: { service: 'api', prefixRewrite: '/' } }] })
  await world.exports([{ name: 'front', peers: ['east'] }])
  await write({ sources: [{ name: 'web', peer: 'east', permissions: [{ action: 'allow', http: { pathExact: '/x' } }] }] })
  const through = why('web@east', 'front', 'GET', '/v1/x')
  t.same([through.verdict, amiss(through)], ['allow', []])
  t.match(
    through.steps.find(({ step }) => step === 'route'),
    { from: [{ entry: 'service-router/front[0]' }] },
  )
  t.match(why('web@east', 'front', 'GET', '/v1/y'), { verdict: 'deny', code: 'denied-by-default' })
  t.match(why('web@east', 'front', 'GET', '/x'), { verdict: 'unreachable', code: 'no-endpoint' })
})

t.test('what entries alone decide is what the plans decide', async t => {
  const bodies = [
    { Kind: 'proxy-defaults', Name: 'global', Config: { protocol: 'http' } },
    { Kind: 'service-defaults', Name: 'db', Protocol: 'tcp' },
    {
      Kind: 'service-router',
      Name: 'api',
      Routes: [
        { Match: { HTTP: { PathPrefix: '/v2/', Methods: ['GET'] } }, Destination: { Service: 'api2', PrefixRewrite: '/' } },
        { Match: { HTTP: { Header: [{ Name: 'x-canary', Present: true }] } }, Destination: { Service: 'api2' } },
        { Match: { HTTP: { PathRegex: '/old/[^/]+' } }, Destination: { Service: 'split' } },
      ],
    },
    {
      Kind: 'service-splitter',
      Name: 'split',
      Splits: [
        { Weight: 50, Service: 'api' },
        { Weight: 50, Service: 'api2' },
      ],
    },
    {
      Kind: 'service-intentions',
      Name: 'api',
      Sources: [
        {
          Name: 'web',
          Permissions: [
            { Action: 'deny', HTTP: { PathPrefix: '/admin' } },
            { Action: 'allow', HTTP: { Methods: ['GET'], Header: [{ Name: 'x-role', Prefix: 'op' }] } },
          ],
        },
        { Name: 'web', Peer: 'east', Action: 'allow' },
        { Name: '*', Action: 'allow' },
      ],
    },
    {
      Kind: 'service-intentions',
      Name: 'api2',
      Sources: [{ Name: 'web', Permissions: [{ Action: 'allow', HTTP: { PathExact: '/ping' } }] }],
    },
    {
      Kind: 'service-intentions',
      Name: 'db',
      Sources: [
        { Name: 'web', Action: 'allow' },
        { Name: '*', Action: 'deny' },
      ],
    },
    { Kind: 'exported-services', Name: 'default', Services: [{ Name: 'api', Consumers: [{ Peer: 'east' }] }] },
  ]
  const entries = bodies.map(entryOf)
  await world.peer('east', east)
  await world.put(keys.trustBundle('east'), { peer: 'east', trustDomain: east, rootPems: [root.certPem], exportedPartition: '' })
  for (const entry of entries) await world.entry(entry)
  await world.service({ service: 'gw', kind: 'mesh-gateway', port: 8443 })
  for (const name of ['api', 'api2', 'db']) await world.meshService(name)
  for (const name of ['web', 'cron']) await world.meshService(name, upstreams('api', 'api2', 'db', 'split'))
  const { cases, unsampled, cut } = boundaryCases([new EntrySet(entries)], ['web', 'cron'])
  t.same([unsampled, cut], [[], false])
  const outcomes = new Outcomes(new EntrySet(entries), { datacenter: 'dc1', defaultAction: 'deny' })
  const seen: Record<string, number> = {}
  for (const { source, destination, method, target, headers } of cases) {
    const known = source.peer === '' ? ['web', 'cron'].includes(source.service) : true
    if (!known || !['api', 'api2', 'db', 'split'].includes(destination.service)) continue
    const alone = outcomes.of({ source, destination, request: requestFacts(method, target, headers) })
    const name = source.peer === '' ? source.service : `${source.service}@${source.peer}`
    const planned = why(name, destination.service, method, target, headers)
    seen[planned.verdict] = (seen[planned.verdict] ?? 0) + 1
    if (planned.verdict !== alone.verdict) t.same(planned, alone, `${name} -> ${destination.service} ${method} ${target} ${headers.join()}`)
  }
  t.same(Object.keys(seen).toSorted(), ['allow', 'deny', 'depends', 'unreachable'], JSON.stringify(seen))
})
