// Plans from any sequence of changes: the same as one made afresh, and never with a name outside its owner's trust domain.
import * as fc from 'fast-check'
import t from 'tap'
import { compile, resourceKey, type Plan } from '../../src/mesh/plan.ts'
import { externalSni, internalSni } from '../../src/mesh/sni.ts'
import { names, type Resource } from '../../src/mesh/snapshot.ts'
import { serviceId } from '../../src/mesh/spiffe.ts'

const own = 'own.consul'
const trustDomain = fc.constantFrom(own, 'east.consul', 'west.consul')
const peer = fc.constantFrom('', 'east', 'west')
const service = fc.constantFrom('api', 'db')

const self = fc.record({
  kind: fc.constant('self'),
  name: fc.constant('p'),
  value: fc.record({
    proxyId: fc.constant('p'),
    kind: fc.constantFrom('sidecar', 'mesh-gateway'),
    service: fc.constant('web'),
    datacenter: fc.constant('dc1'),
    trustDomain: fc.constant(own),
    protocol: fc.constantFrom('http', 'tcp'),
    listen: fc.constant({ address: '127.0.0.1', port: 1 }),
    wan: fc.constantFrom(undefined, { address: '127.0.0.1', port: 1 }, { address: '127.0.0.1', port: 2 }),
    lanNamesOnWan: fc.boolean(),
    defaultAction: fc.constantFrom('allow', 'deny'),
    inboundPeers: fc.subarray(['east', 'west']),
  }),
})
const roots = fc
  .record({ peer, trustDomain, pems: fc.subarray(['a', 'b']) })
  .map(value => ({ kind: 'roots', name: value.peer || names.localRoots, value: { ...value, exportedPartition: '' } }))
const intentions = fc
  .array(fc.record({ name: service, peer, action: fc.constantFrom('allow', 'deny'), destination: fc.constant('web') }), { maxLength: 3 })
  .map(sources => ({ kind: 'intentions', name: 'web', value: { sources } }))
const endpoints = fc
  .record({
    name: service,
    endpoints: fc.array(fc.record({ id: fc.string(), port: fc.nat(9), weight: fc.nat(200), healthy: fc.boolean() }), { maxLength: 3 }),
  })
  .map(({ name, endpoints }) => ({ kind: 'endpoints', name, value: { endpoints } }))
const sni = fc
  .record({ service, trustDomain, upper: fc.boolean(), form: fc.constantFrom('external', 'internal', 'none') })
  .map(({ service, trustDomain, upper, form }) => {
    const name =
      form === 'external'
        ? externalSni(service, 'us', trustDomain)
        : form === 'internal'
          ? internalSni(service, 'dc1', trustDomain)
          : service
    return upper ? name.toUpperCase() : name
  })
const upstream = fc
  .record({
    service,
    peer,
    sni,
    spiffeIds: fc.array(
      trustDomain.map(each => serviceId(each, 'dc1', 'api')),
      { maxLength: 2 },
    ),
    endpoints: service,
  })
  .map(value => ({ kind: 'upstream', name: names.upstream(value.service, value.peer), value }))
const row = fc
  .record({
    kind: fc.constantFrom('exported', 'internal', 'imported', 'server'),
    name: fc.constantFrom('1', '2', '3'),
    sni,
    service,
    peer,
    endpoints: service,
  })
  .map(({ kind, name, ...value }) => ({ kind, name, value }))

const change = fc
  .tuple(
    fc.oneof(self, roots, intentions, endpoints, upstream, row, row),
    fc.boolean().map(kept => kept || undefined),
  )
  .map(
    ([resource, kept]) =>
      ({ ...resource, value: kept ? resource.value : null, version: JSON.stringify(resource.value) }) as unknown as Resource,
  )
const history = fc.tuple(self, fc.array(fc.array(change, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 6 }))

/** What a plan says, without the objects that say it. */
function said(plan: Plan | undefined): unknown {
  if (plan === undefined) return undefined
  if (plan.kind === 'gateway') {
    const table = (routes: typeof plan.wan) =>
      [...routes].map(([sni, { scope, peer, endpoints, picker }]) => [sni, scope, peer, endpoints, picker.size])
    return { wan: table(plan.wan), lan: table(plan.lan), problems: plan.problems }
  }
  const upstreams = [...plan.upstreams.values()].map(({ name, trustDomain, spiffeIds, rootPems, endpoints, picker, version }) => {
    return [name, trustDomain, [...spiffeIds], rootPems, endpoints, picker.size, version]
  })
  const callers = [own, 'east.consul', 'west.consul'].flatMap(domain => ['api', 'db', 'x'].map(each => serviceId(domain, 'dc1', each)))
  const decisions = callers.map(uri => {
    const principal = plan.authorizer.identify(uri)
    return principal && plan.authorizer.authorize(principal, undefined)
  })
  return { upstreams, decisions, roots: [...plan.roots], inbound: [...plan.inboundTrustDomains], problems: plan.problems }
}

const numRuns = process.env.ISTHMUS_DEEP === '1' ? 50_000 : 1500

t.test('a plan made from the one before says the same as one made afresh', t => {
  fc.assert(
    fc.property(history, ([first, sets]) => {
      const resources = new Map<string, Resource>([['self/p', { ...first, version: JSON.stringify(first.value) } as unknown as Resource]])
      let plan: Plan | undefined
      for (const set of sets) {
        for (const resource of set) resources.set(resourceKey(resource), resource)
        plan = compile(resources, plan)
        t.same(said(plan), said(compile(resources)), { quiet: true })
      }
      return t.passing()
    }),
    { numRuns },
  )
  t.end()
})

/** As an honest producer writes it; names collide often enough all the same. */
const honestRow = fc
  .record({
    kind: fc.constantFrom('exported', 'internal', 'imported'),
    name: fc.constantFrom('4', '5', '6'),
    service,
    peer: fc.constantFrom('east', 'west'),
  })
  .map(({ kind, name, service, peer }) => {
    const sni =
      kind === 'internal' ? internalSni(service, 'dc1', own) : externalSni(service, 'us', kind === 'exported' ? own : `${peer}.consul`)
    return { kind, name, value: { sni, service, peer, endpoints: service } }
  })
const usualRoots = [
  ['', own],
  ['east', 'east.consul'],
  ['west', 'west.consul'],
].map(([peer, trustDomain]) => {
  return { kind: 'roots', name: peer || names.localRoots, value: { peer, trustDomain, exportedPartition: '', pems: ['a'] } }
})

t.test('a gateway serves no name outside its owner’s trust domain, and none twice', t => {
  let served = 0
  fc.assert(
    fc.property(self, fc.array(fc.oneof(row, honestRow), { maxLength: 6 }), fc.array(roots, { maxLength: 1 }), (self, rows, odd) => {
      const gateway = { ...self, value: { ...self.value, kind: 'mesh-gateway' } }
      const list = [gateway, ...usualRoots, ...odd, ...rows].map(each => ({ version: '', ...each }) as unknown as Resource)
      const resources = new Map(list.map(each => [resourceKey(each), each]))
      const plan = compile(resources)
      if (plan?.kind !== 'gateway') return true
      served += plan.lan.size
      const domains: Record<string, string | undefined> = {}
      for (const each of resources.values()) if (each.kind === 'roots' && each.value) domains[each.value.peer] = each.value.trustDomain
      return [...plan.lan, ...plan.wan].every(([sni, route]) => {
        const claims = [...resources.values()].filter(
          each =>
            ['exported', 'internal', 'imported', 'server'].includes(each.kind) &&
            each.value &&
            'sni' in each.value &&
            each.value.sni.toLowerCase() === sni,
        )
        const owner = route.scope === 'imported' ? domains[route.peer] : own
        return claims.length === 1 && owner !== undefined && sni.endsWith(`.${owner}`) && (route.scope !== 'imported' || owner !== own)
      })
    }),
    { numRuns },
  )
  t.ok(served > numRuns / 2, 'and there was something to serve')
  t.end()
})
