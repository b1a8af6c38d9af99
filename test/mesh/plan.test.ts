// The plan: only what changed is built again, and what cannot be true is in no table.
import t from 'tap'
import { compile, resourceKey, type GatewayPlan, type Plan, type Resources, type SidecarPlan } from '../../src/mesh/plan.ts'
import { externalSni, internalSni, peeringServerName } from '../../src/mesh/sni.ts'
import { names, type Resource, type ResourceKind, type ResourceValue, type Self } from '../../src/mesh/snapshot.ts'
import { meshGatewayId, serviceId } from '../../src/mesh/spiffe.ts'

const own = 'aaaaaaaa-0000-0000-0000-000000000001.consul'
const east = 'bbbbbbbb-0000-0000-0000-000000000002.consul'
const west = 'cccccccc-0000-0000-0000-000000000003.consul'

function make<K extends ResourceKind>(kind: K, name: string, value: ResourceValue<K> | null, version = '1'): Resource {
  return { kind, name, version, value } as Resource
}
function set(...resources: Resource[]): Resources {
  return new Map(resources.map(each => [resourceKey(each), each]))
}
function sidecar(plan: Plan | undefined): SidecarPlan {
  if (plan?.kind !== 'sidecar') throw new Error('no sidecar plan')
  return plan
}
function gateway(plan: Plan | undefined): GatewayPlan {
  if (plan?.kind !== 'gateway') throw new Error('no gateway plan')
  return plan
}

const selfValue: Self = {
  proxyId: 'web-sidecar-proxy',
  kind: 'sidecar',
  service: 'web',
  serviceId: 'web',
  datacenter: 'dc1',
  trustDomain: own,
  spiffeId: serviceId(own, 'dc1', 'web'),
  protocol: 'http',
  listen: { address: '127.0.0.1', port: 21000 },
  lanNamesOnWan: false,
  app: { address: '127.0.0.1', port: 8080 },
  expose: [],
  defaultAction: 'allow',
  inboundPeers: ['east'],
  draining: false,
  maxInboundConnections: 0,
  localConnectTimeoutMs: 5000,
  localRequestTimeoutMs: 15_000,
}
const self = (change: Partial<Self> = {}, version = '1') => make('self', 'web-sidecar-proxy', { ...selfValue, ...change }, version)
const localRoots = make('roots', names.localRoots, { trustDomain: own, peer: '', exportedPartition: '', pems: ['own pem'] })
const roots = (peer: string, trustDomain: string, version = '1') =>
  make('roots', peer, { trustDomain, peer, exportedPartition: '', pems: [`${peer} pem`] }, version)
const intentions = (action: string, version = '1') => {
  const source = { type: 'consul', precedence: 9, destination: 'web', action }
  const sources = [
    { ...source, name: 'app' },
    { ...source, name: 'app', peer: 'east' },
    { ...source, name: 'app', peer: 'west' },
  ]
  return make('intentions', 'web', { sources }, version)
}
const endpoints = (name: string, port: number, version = '1', healthy = true) =>
  make('endpoints', name, { endpoints: [{ id: 'one', address: '127.0.0.1', port, weight: 1, healthy }] }, version)
const upstream = (peer: string, trustDomain: string, change: Partial<ResourceValue<'upstream'>> = {}) => {
  const name = names.upstream('api', peer)
  return make('upstream', name, {
    service: 'api',
    peer,
    protocol: 'http',
    listen: { address: '127.0.0.1', port: 9001 },
    sni: peer === '' ? internalSni('api', 'dc1', trustDomain) : externalSni('api', 'them', trustDomain),
    spiffeIds: [serviceId(trustDomain, 'dc1', 'api')],
    connectTimeoutMs: 5000,
    endpoints: name,
    ...change,
  })
}

t.test('without a self there is no plan', t => {
  t.equal(compile(set(localRoots)), undefined)
  t.equal(compile(set(localRoots, make('self', 'web-sidecar-proxy', null))), undefined)
  t.end()
})

t.test('a sidecar plan holds who may come in and where to go', t => {
  const peered = upstream('east', east)
  const plan = sidecar(
    compile(
      set(self(), localRoots, roots('east', east), roots('west', west), intentions('allow'), peered, endpoints('api?peer=east', 8443)),
      undefined,
      7,
    ),
  )
  t.same(plan.problems, [])
  t.equal(plan.revision, 7)
  t.equal(plan.l7, true)
  t.same([...plan.inboundTrustDomains], [own, east])
  t.same([...plan.roots.keys()].sort(), [own, east, west])
  const one = plan.upstreams.get('api?peer=east')!
  t.equal(one.trustDomain, east)
  t.same([...one.spiffeIds], [serviceId(east, 'dc1', 'api')])
  t.same(one.rootPems, ['east pem'])
  t.equal(one.picker.pick()?.port, 8443)
  const decide = (trustDomain: string) => {
    const principal = plan.authorizer.identify(serviceId(trustDomain, 'dc9', 'app'))
    return principal && plan.authorizer.authorize(principal, { method: 'GET', path: '/', headers: [] }).allow
  }
  t.same([own, east, west].map(decide), [true, true, undefined], 'a peer that the service is not exported to is nobody')
  t.end()
})

t.test('without a list of intentions nobody may call', t => {
  const plan = sidecar(compile(set(self(), localRoots)))
  const principal = plan.authorizer.identify(serviceId(own, 'dc1', 'app'))!
  t.equal(plan.authorizer.authorize(principal, undefined).allow, false)
  t.same(plan.problems, ['intentions web: missing; every caller is denied'])
  t.end()
})

t.test('a new plan keeps the very objects of what did not change', t => {
  const base = [self(), localRoots, roots('east', east), intentions('allow'), upstream('', own), endpoints('api', 1)]
  const first = sidecar(compile(set(...base)))
  const same = sidecar(compile(set(...base), first))
  t.equal(same.authorizer, first.authorizer)
  t.equal(same.upstreams.get('api'), first.upstreams.get('api'))
  t.equal(same.roots.get(east), first.roots.get(east))

  const health = sidecar(compile(set(...base, endpoints('api', 2, '2')), same))
  t.equal(health.authorizer, first.authorizer)
  t.not(health.upstreams.get('api'), first.upstreams.get('api'))
  t.equal(health.upstreams.get('api')!.version, first.upstreams.get('api')!.version, 'sessions of endpoints that stay are kept')
  t.equal(health.upstreams.get('api')!.picker.pick()?.port, 2)
  t.equal(first.upstreams.get('api')!.picker.pick()?.port, 1, 'who started with the old plan keeps it')

  const rules = sidecar(compile(set(...base, intentions('deny', '2')), health))
  t.not(rules.authorizer, first.authorizer)
  t.equal(rules.roots.get(own), first.roots.get(own))

  const rotated = sidecar(
    compile(
      set(...base, make('roots', names.localRoots, { trustDomain: own, peer: '', exportedPartition: '', pems: ['new'] }, '2')),
      first,
    ),
  )
  t.not(rotated.upstreams.get('api')!.version, first.upstreams.get('api')!.version, 'new roots want new sessions')
  t.equal(rotated.authorizer, first.authorizer)
  t.end()
})

t.test('a change of who may come in makes new rules', t => {
  const base = [localRoots, roots('east', east), intentions('allow')]
  const first = sidecar(compile(set(self(), ...base)))
  const closed = sidecar(compile(set(self({ inboundPeers: [] }, '2'), ...base), first))
  t.equal(closed.authorizer.identify(serviceId(east, 'dc1', 'app')), undefined)
  t.same([...closed.inboundTrustDomains], [own])
  const denied = sidecar(compile(set(self({ defaultAction: 'deny' }, '3'), ...base), closed))
  const stranger = denied.authorizer.identify(serviceId(own, 'dc1', 'stranger'))!
  t.equal(denied.authorizer.authorize(stranger, undefined).allow, false)
  t.end()
})

t.test('a picker goes on where it stood when health changes', t => {
  const two = (version: string, third: boolean) => {
    const list = ['a', 'b', ...(third ? ['c'] : [])].map(id => ({ id, address: '127.0.0.1', port: 1, weight: 1, healthy: true }))
    return make('endpoints', 'api', { endpoints: list }, version)
  }
  const base = [self(), localRoots, intentions('allow'), upstream('', own)]
  const first = sidecar(compile(set(...base, two('1', false))))
  t.equal(first.upstreams.get('api')!.picker.pick()?.id, 'a')
  const second = sidecar(compile(set(...base, two('2', true)), first))
  t.equal(second.upstreams.get('api')!.picker.pick()?.id, 'b')
  t.end()
})

t.test('a peer cannot name identities or an SNI of another cluster', t => {
  const cases: [string, Partial<ResourceValue<'upstream'>>, RegExp][] = [
    ['an identity of ours', { spiffeIds: [serviceId(east, 'dc1', 'api'), serviceId(own, 'dc1', 'web')] }, /is not in the trust domain/],
    ['an identity that is none', { spiffeIds: ['spiffe:/x'] }, /is not in the trust domain/],
    ['no identity', { spiffeIds: [] }, /no identity/],
    ['our SNI', { sni: externalSni('api', 'them', own) }, /external form/],
    ["another peer's SNI", { sni: externalSni('api', 'them', west) }, /external form/],
    ['an internal SNI', { sni: internalSni('api', 'dc1', east) }, /external form/],
  ]
  for (const [name, change, problem] of cases) {
    const plan = sidecar(
      compile(
        set(self(), localRoots, roots('east', east), intentions('allow'), upstream('east', east, change), endpoints('api?peer=east', 1)),
      ),
    )
    t.match(plan.problems, [problem], name)
    const refused = plan.upstreams.get('api?peer=east')!
    t.equal(refused.picker.pick(), undefined, 'keeps its listener and goes nowhere')
    t.equal(refused.spiffeIds.size, 0)
  }
  t.end()
})

t.test('an upstream of a peer without a bundle goes nowhere', t => {
  const plan = sidecar(compile(set(self(), localRoots, intentions('allow'), upstream('east', east), endpoints('api?peer=east', 1))))
  t.same(plan.problems, ['upstream api?peer=east: no trust bundle of peer east yet'])
  t.equal(plan.upstreams.get('api?peer=east')!.picker.size, 0)
  t.end()
})

t.test('a bundle that claims our trust domain, or that of another peer, is refused', t => {
  const plan = sidecar(compile(set(self({ inboundPeers: ['east', 'west'] }), localRoots, roots('east', own), intentions('allow'))))
  t.match(plan.problems, [/roots east: the trust domain .* is our own: refused/])
  t.equal(plan.roots.get(own)!.peer, '')
  const twice = sidecar(
    compile(set(self({ inboundPeers: ['east', 'west'] }), localRoots, roots('east', east), roots('west', east), intentions('allow'))),
  )
  t.equal(twice.problems.length, 2)
  t.equal(twice.roots.get(east), undefined)
  t.same([...twice.inboundTrustDomains], [own])
  t.end()
})

const gatewaySelf = (change: Partial<Self> = {}) =>
  self({
    kind: 'mesh-gateway',
    service: 'mesh-gateway',
    spiffeId: meshGatewayId(own, 'dc1'),
    inboundPeers: [],
    listen: { address: '127.0.0.1', port: 8443 },
    wan: { address: '192.0.2.1', port: 8443 },
    ...change,
  })
const row = (kind: 'exported' | 'server' | 'internal' | 'imported', sni: string, peer = '', name = sni) =>
  make(kind, name, { sni, service: 'api', peer, endpoints: 'e' })
/** At which requests end. */
const ending = (kind: 'exported' | 'internal', sni: string, peer: string) =>
  make(kind, sni, { sni, service: 'api', peer, endpoints: 'e', upstream: 'api' })

t.test('a gateway serves each name where it belongs', t => {
  const exported = externalSni('api', 'them', own)
  const server = peeringServerName('dc1', own)
  const internal = internalSni('api', 'dc1', own)
  const imported = externalSni('api', 'us', east)
  const rows = [
    row('exported', exported, 'east'),
    row('server', server),
    row('internal', internal),
    row('imported', imported.toUpperCase(), 'east'),
  ]
  const all = (change: Partial<Self>) => set(gatewaySelf(change), localRoots, roots('east', east), endpoints('e', 5), ...rows)
  const plan = gateway(compile(all({})))
  t.same(plan.problems, [])
  t.same([...plan.wan.keys()], [exported, server])
  t.same([...plan.lan.keys()], [exported, server, internal, imported])
  t.match(plan.lan.get(imported), { scope: 'imported', peer: 'east', service: 'api', sni: imported })
  t.equal(plan.wan.get(exported)!.picker.pick()?.port, 5)

  const single = gateway(compile(all({ wan: { address: '127.0.0.1', port: 8443 } })))
  t.same([...single.lan.keys()], [exported, server], 'one address: every caller is a stranger')
  const none = gateway(compile(all({ wan: undefined })))
  t.same([...none.lan.keys()], [exported, server])
  const asked = gateway(compile(all({ wan: undefined, lanNamesOnWan: true })))
  t.equal(asked.wan.size, 4, 'unless asked for')
  t.end()
})

t.test('a gateway refuses names that do not belong to their cluster, and those with two owners', t => {
  const imported = externalSni('api', 'us', east)
  const cases: [string, Resource[], number][] = [
    ['an import that claims our own name', [row('imported', externalSni('api', 'them', own), 'east')], 1],
    ["an import that claims another peer's name", [row('imported', externalSni('api', 'us', west), 'east')], 1],
    ['an import that claims the peering server', [row('imported', peeringServerName('dc1', own), 'east')], 1],
    ['an import of a peer without a bundle', [row('imported', externalSni('api', 'us', west), 'nobody')], 1],
    ['an import of nobody', [row('imported', imported)], 1],
    ['two imports of one name', [row('imported', imported, 'east', 'a'), row('imported', imported.toUpperCase(), 'east', 'b')], 2],
    ['an export in another trust domain', [row('exported', imported, 'east')], 1],
    ['an export under an internal name', [row('exported', internalSni('api', 'dc1', own), 'east')], 1],
    ['an internal name of another service', [row('internal', internalSni('db', 'dc1', own))], 1],
    ['an export whose requests have nowhere to go', [ending('exported', externalSni('api', 'them', own), 'east')], 1],
    ['an internal name at which requests end', [ending('internal', internalSni('api', 'dc1', own), ''), upstream('', own)], 1],
    ['a server of another datacenter', [row('server', peeringServerName('dc2', own))], 1],
  ]
  for (const [name, rows, problems] of cases) {
    const plan = gateway(compile(set(gatewaySelf(), localRoots, roots('east', east), roots('west', west), endpoints('e', 5), ...rows)))
    t.equal(plan.lan.size + plan.wan.size, 0, name)
    t.equal(plan.problems.length, problems, name)
  }
  t.end()
})

t.test('requests that end at a gateway go on by an upstream of its own', t => {
  const exported = externalSni('api', 'them', own)
  const rows = [ending('exported', exported, 'east'), upstream('', own), endpoints('api', 6)]
  const plan = gateway(compile(set(gatewaySelf(), localRoots, roots('east', east), endpoints('e', 5), ...rows)))
  t.match([plan.problems, plan.wan.get(exported)?.upstream], [[], 'api'])
  t.equal(plan.upstreams.get('api')!.picker.pick()?.port, 6)
  t.same(
    [...plan.roots.values()].map(each => each.peer),
    ['', 'east'],
    'it knows whom its callers are believed by',
  )
  t.end()
})

t.test('a conflict takes nothing else with it', t => {
  const imported = externalSni('api', 'us', east)
  const other = externalSni('db', 'us', east)
  const rows = [row('imported', imported, 'east', 'a'), row('imported', imported, 'east', 'b'), row('imported', other, 'east', 'c')]
  const plan = gateway(compile(set(gatewaySelf(), localRoots, roots('east', east), endpoints('e', 5), ...rows)))
  t.same([...plan.lan.keys()], [other])
  t.end()
})

t.test('a route is the same object until it or its endpoints change', t => {
  const exported = externalSni('api', 'them', own)
  const base = [gatewaySelf(), localRoots, endpoints('e', 5), row('exported', exported, 'east')]
  const first = gateway(compile(set(...base)))
  const same = gateway(compile(set(...base), first))
  t.equal(same.wan.get(exported), first.wan.get(exported))
  const health = gateway(compile(set(...base, endpoints('e', 5, '2', false)), same))
  t.equal(health.wan.get(exported)!.picker.pick(), undefined)
  t.end()
})

t.test('plans do not hold on to the plans before them', t => {
  const base = [self(), localRoots, intentions('allow'), upstream('', own), endpoints('api', 1)]
  const first = sidecar(compile(set(...base)))
  const without = sidecar(compile(set(self(), localRoots, intentions('allow')), first))
  const again = sidecar(compile(set(...base), without))
  t.equal(without.upstreams.size, 0)
  t.not(again.upstreams.get('api'), first.upstreams.get('api'))
  t.end()
})
