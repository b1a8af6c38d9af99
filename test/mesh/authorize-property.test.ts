// The compiled rules beside a reference that scans them in order: they always agree, whatever the rules and the caller.
import * as fc from 'fast-check'
import t from 'tap'
import { compileIntentions, type AuthorizeContext, type HttpFacts, type Principal } from '../../src/mesh/authorize.ts'
import type { Intentions } from '../../src/mesh/snapshot.ts'
import { parseSpiffeId } from '../../src/mesh/spiffe.ts'

type Source = Intentions['sources'][number]
type Rule = NonNullable<Source['permissions']>[number]

const trustDomains: Record<string, string> = { '': 'own.consul', east: 'east.consul', west: 'west.consul' }

/** Written from the specification alone, one rule after the other; no part of the program is used. */
function reference(sources: readonly Source[], context: AuthorizeContext, principal: Principal, request: HttpFacts | undefined): boolean {
  const { identity } = principal
  if (identity.kind !== 'service' || identity.namespace !== 'default') return false
  const peer = Object.keys(trustDomains).find(each => trustDomains[each] === identity.trustDomain)
  if (peer === undefined || (peer !== '' && !context.peers.has(peer))) return false
  if (identity.partition !== (peer === '' ? 'default' : context.peers.get(peer)!.exportedPartition || 'default')) return false
  if (request !== undefined && normal(request.path) === undefined) return false
  const fallback = peer === '' && context.defaultAction === 'allow'
  for (const [source, destination] of [
    [1, 1],
    [0, 1],
    [1, 0],
    [0, 0],
  ] as const) {
    for (const each of sources) {
      if ((each.name === '*' ? 0 : 1) !== source || (each.destination === '*' ? 0 : 1) !== destination) continue
      if ((each.peer ?? '') !== peer || (each.name !== '*' && each.name !== identity.service)) continue
      if (!each.permissions?.length) return each.action === 'allow'
      if (request === undefined || !context.httpLike) return false
      const forms = [request.path, normal(request.path)!]
      return forms.every(path => scan(each.permissions!, { ...request, path }, fallback))
    }
  }
  return fallback
}

function scan(permissions: readonly Rule[], request: HttpFacts, fallback: boolean): boolean {
  for (const { action, http } of permissions) {
    if (http?.pathExact !== undefined && request.path !== http.pathExact) continue
    if (http?.pathPrefix !== undefined && !request.path.startsWith(http.pathPrefix)) continue
    if (http?.methods !== undefined && !http.methods.includes(request.method)) continue
    return action === 'allow'
  }
  return fallback
}

/** By rewriting until nothing changes; the paths made here escape nothing but a dot and the letter a. */
function normal(path: string): string | undefined {
  if (/%(?!2e|61)/.test(path)) return undefined
  let now = path.replaceAll('%2e', '.').replaceAll('%61', 'a').replace(/\/+/g, '/')
  for (;;) {
    const next = now.replace(/\/\.(\/|$)/, '/').replace(/^\/\.\.(\/|$)/, '/')
    const up = next === now ? now.replace(/\/[^/]+\/\.\.(\/|$)/, '/') : next
    if (up === now) return now
    now = up
  }
}

const service = fc.constantFrom('a', 'b', 'c')
const peer = fc.constantFrom('', 'east', 'west')
const path = fc
  .array(fc.constantFrom('a', 'b', '/', '/', '.', '..', '%2e', '%61', '%00'), { maxLength: 7 })
  .map(pieces => `/${pieces.join('')}`)
const permission = fc.record({
  action: fc.constantFrom('allow', 'deny'),
  http: fc.oneof(
    fc.record({ pathExact: fc.constantFrom('/', '/a', '/a/b', '/ab', '/b/') }),
    fc.record({ pathPrefix: fc.constantFrom('/', '/a', '/a/', '/b'), methods: fc.constant(['GET']) }),
    fc.record({ pathPrefix: fc.constantFrom('/', '/a', '/a/', '/b') }),
    fc.record({ methods: fc.constant(['PUT']) }),
  ),
})
const source: fc.Arbitrary<Source> = fc
  .record({
    name: fc.constantFrom('a', 'b', '*'),
    peer,
    destination: fc.constantFrom('api', '*'),
    action: fc.constantFrom('allow', 'deny'),
    permissions: fc.option(fc.array(permission, { maxLength: 3 }), { nil: undefined }),
  })
  .map(each => ({ ...each, type: 'consul', precedence: 0 }) as Source)
const context: fc.Arbitrary<AuthorizeContext> = fc
  .record({
    defaultAction: fc.constantFrom('allow' as const, 'deny' as const),
    httpLike: fc.boolean(),
    partition: fc.constantFrom('', 'default', 'team'),
    west: fc.boolean(),
  })
  .map(({ defaultAction, httpLike, partition, west }) => ({
    localTrustDomain: 'own.consul',
    peers: new Map([
      ['east', { trustDomain: 'east.consul', exportedPartition: partition }],
      ...(west ? [['west', { trustDomain: 'west.consul', exportedPartition: '' }] as const] : []),
    ]),
    defaultAction,
    httpLike,
  }))
const caller: fc.Arbitrary<Principal> = fc
  .record({ peer, service, partition: fc.constantFrom('', '', '/ap/team'), gateway: fc.integer({ max: 9, min: 0 }) })
  .map(each => {
    const path = each.gateway === 0 ? '/gateway/mesh/dc/dc1' : `/ns/default/dc/dc1/svc/${each.service}`
    const uri = `spiffe://${trustDomains[each.peer]}${each.partition}${path}`
    return { uri, peer: each.peer, identity: parseSpiffeId(uri)! }
  })
const request = fc.option(fc.record({ method: fc.constantFrom('GET', 'PUT'), path, headers: fc.constant([]) }), { nil: undefined })

const numRuns = process.env.ISTHMUS_DEEP === '1' ? 300_000 : 10_000

t.test('compiled rules allow exactly what a scan in order allows', t => {
  fc.assert(
    fc.property(fc.array(source, { maxLength: 8 }), context, caller, request, (sources, context, caller, request) => {
      const decision = compileIntentions(sources, context).authorize(caller, request)
      return decision.allow === reference(sources, context, caller, request) && !(decision.allow && decision.malformed)
    }),
    { numRuns },
  )
  t.end()
})

t.test('a source of a peer never changes what a local caller may do, nor one of another peer', t => {
  fc.assert(
    fc.property(fc.array(source, { maxLength: 8 }), context, caller, request, (sources, context, caller, request) => {
      const all = compileIntentions(sources, context).authorize(caller, request)
      const own = compileIntentions(
        sources.filter(each => (each.peer ?? '') === caller.peer),
        context,
      ).authorize(caller, request)
      return all.allow === own.allow && all.rule === own.rule
    }),
    { numRuns: numRuns / 4 },
  )
  t.end()
})

t.test('any text as a forwarded caller is judged without a throw and lets nobody in', t => {
  const gateway = 'spiffe://own.consul/gateway/mesh/dc/dc1'
  const compiled = compileIntentions([], {
    localTrustDomain: 'own.consul',
    peers: new Map([['east', { trustDomain: 'east.consul', exportedPartition: '' }]]),
    defaultAction: 'allow',
    httpLike: true,
  })
  const tlsPeer = compiled.identify(gateway)!
  const piece = fc.constantFrom(
    'By=x',
    ';',
    ',',
    'URI=',
    'spiffe://own.consul/ns/default/dc/d/svc/a',
    'spiffe://east.consul',
    '/svc/',
    '"',
    ' ',
  )
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 8 }), pieces => {
      return !compiled.authorizeForwarded(tlsPeer, pieces.join(''), undefined).allow
    }),
  )
  t.end()
})
