// Who may call: intentions against identities. Each attack that the specification or the design names has its test.
import t from 'tap'
import {
  authorizerLimits,
  compileIntentions,
  forwardedUri,
  toldOf,
  type AuthorizeContext,
  type HttpFacts,
} from '../../src/mesh/authorize.ts'
import type { JwtRequirement, Permission } from '../../src/mesh/intention-entry.ts'

const own = 'aaaaaaaa-0000-0000-0000-000000000001.consul'
const east = 'bbbbbbbb-0000-0000-0000-000000000002.consul'
const west = 'cccccccc-0000-0000-0000-000000000003.consul'
const local = (service: string) => `spiffe://${own}/ns/default/dc/dc1/svc/${service}`
const inEast = (service: string) => `spiffe://${east}/ns/default/dc/dc9/svc/${service}`

interface Rule {
  name: string
  jwt?: JwtRequirement
  audit?: boolean
  peer?: string
  action?: string
  permissions?: Permission[]
  destination?: string
}

function authorizer(rules: Rule[], context: Partial<AuthorizeContext> = {}) {
  const sources = rules.map(rule => ({ destination: 'api', type: 'consul', precedence: 0, ...rule }))
  return compileIntentions(sources, {
    localTrustDomain: own,
    peers: new Map([['east', { trustDomain: east, exportedPartition: '' }]]),
    defaultAction: 'deny',
    httpLike: true,
    ...context,
  })
}

function decide(rules: Rule[], uri: string, request?: HttpFacts, context?: Partial<AuthorizeContext>) {
  const compiled = authorizer(rules, context)
  const principal = compiled.identify(uri)
  return principal === undefined ? 'nobody' : compiled.authorize(principal, request)
}
const get = (path: string): HttpFacts => ({ method: 'GET', path, headers: [] })

t.test('a source decides for exactly its service', t => {
  const rules = [{ name: 'web', action: 'allow' }]
  t.same(decide(rules, local('web')), { allow: true, reason: 'intention', rule: 'web => api' })
  for (const service of ['webb', 'we', 'Web', 'w.b', 'web%20', '*', '.*']) {
    t.same(decide(rules, local(service)), { allow: false, reason: 'default', rule: '' }, service)
  }
  t.end()
})

t.test('the datacenter of an identity is not judged', t => {
  const rules = [{ name: 'web', action: 'allow' }]
  t.match(decide(rules, `spiffe://${own}/ns/default/dc/elsewhere/svc/web`), { allow: true })
  t.end()
})

t.test('the first source by precedence decides, whatever their order', t => {
  const exact = { name: 'web', action: 'allow' }
  const anyToApi = { name: '*', action: 'deny' }
  const webToAny = { name: 'web', destination: '*', action: 'allow' }
  const anyToAny = { name: '*', destination: '*', action: 'allow' }
  const rule = (rules: Rule[], service: string) => {
    const decision = decide(rules, local(service))
    return decision === 'nobody' ? '' : decision.rule
  }
  t.equal(rule([anyToAny, webToAny, anyToApi, exact], 'web'), 'web => api')
  t.equal(rule([anyToAny, webToAny, anyToApi], 'web'), '* => api')
  t.equal(rule([anyToAny, webToAny], 'web'), 'web => *')
  t.equal(rule([anyToAny, webToAny], 'other'), '* => *')
  t.end()
})

t.test('no source leaves local callers to the default and denies peers', t => {
  t.same(decide([], local('web'), undefined, { defaultAction: 'allow' }), { allow: true, reason: 'default', rule: '' })
  t.same(decide([], local('web')), { allow: false, reason: 'default', rule: '' })
  for (const defaultAction of ['allow', 'deny'] as const) {
    t.same(decide([], inEast('web'), undefined, { defaultAction }), { allow: false, reason: 'peer-default', rule: '' })
  }
  t.end()
})

t.test('a local source says nothing about peers, nor a peer about others', t => {
  const peers = new Map([
    ['east', { trustDomain: east, exportedPartition: '' }],
    ['west', { trustDomain: west, exportedPartition: '' }],
  ])
  const inWest = `spiffe://${west}/ns/default/dc/dc1/svc/web`
  for (const name of ['*', 'web']) {
    t.match(decide([{ name, action: 'allow' }], inEast('web'), undefined, { peers }), { allow: false, reason: 'peer-default' })
    const rules = [{ name, peer: 'east', action: 'allow' }]
    t.match(decide(rules, inEast('web'), undefined, { peers }), { allow: true, rule: `peer:east/${name} => api` })
    t.match(decide(rules, inWest, undefined, { peers }), { allow: false, reason: 'peer-default' })
    t.match(decide(rules, local('web'), undefined, { peers }), { allow: false, reason: 'default' })
  }
  t.end()
})

t.test('a peer whose bundle is not known, or that may not come in, is nobody', t => {
  const rules = [{ name: '*', peer: 'west', action: 'allow' }]
  t.equal(decide(rules, `spiffe://${west}/ns/default/dc/dc1/svc/web`), 'nobody')
  t.end()
})

t.test('a caller cannot pass for one of another cluster by the name of its peer', t => {
  const compiled = authorizer([{ name: 'web', action: 'allow' }])
  const stranger = compiled.identify(inEast('web'))!
  t.same(compiled.authorize({ ...stranger, peer: '' }, undefined), { allow: false, reason: 'identity', rule: '' })
  t.end()
})

t.test('the exported partition of the peer must be the identity’s', t => {
  const rules = [{ name: 'web', peer: 'east', action: 'allow' }]
  const inTeam = `spiffe://${east}/ap/team/ns/default/dc/dc1/svc/web`
  const peers = new Map([['east', { trustDomain: east, exportedPartition: 'team' }]])
  t.match(decide(rules, inTeam, undefined, { peers }), { allow: true })
  t.match(decide(rules, inEast('web'), undefined, { peers }), { allow: false })
  t.match(decide(rules, inTeam), { allow: false })
  t.match(decide(rules, inEast('web')), { allow: true })
  t.match(decide([{ name: 'web', action: 'allow' }], `spiffe://${own}/ap/team/ns/default/dc/dc1/svc/web`), { allow: false })
  t.match(decide([{ name: 'web', action: 'allow' }], `spiffe://${own}/ns/other/dc/dc1/svc/web`), { allow: false })
  t.equal(decide(rules, `spiffe://${east}/ap/default/ns/default/dc/dc1/svc/web`), 'nobody')
  t.end()
})

t.test('a gateway or a server has no rights of its own', t => {
  const rules = [{ name: '*', action: 'allow' }]
  for (const uri of [
    `spiffe://${own}/gateway/mesh/dc/dc1`,
    `spiffe://${own}/agent/server/dc/dc1`,
    `spiffe://${east}/gateway/mesh/dc/dc1`,
  ]) {
    t.same(decide(rules, uri, get('/'), { defaultAction: 'allow' }), { allow: false, reason: 'identity', rule: '' }, uri)
  }
  t.end()
})

t.test('a source without a decision denies', t => {
  t.match(decide([{ name: 'web' }], local('web'), undefined, { defaultAction: 'allow' }), { allow: false, rule: 'web => api' })
  t.match(decide([{ name: 'web', action: 'ALLOW' }], local('web')), { allow: false })
  t.end()
})

t.test('permissions decide per request; what none of them matches goes to the default, not to the next source', t => {
  const permissions: Permission[] = [
    { action: 'deny', http: { pathPrefix: '/admin' } },
    { action: 'allow', http: { methods: ['GET'] } },
  ]
  const rules = [
    { name: 'web', permissions },
    { name: '*', action: 'allow' },
  ]
  t.same(decide(rules, local('web'), get('/admin')), { allow: false, reason: 'intention', rule: 'web => api', permission: 0 })
  t.same(decide(rules, local('web'), get('/x')), { allow: true, reason: 'intention', rule: 'web => api', permission: 1 })
  const post = { method: 'POST', path: '/x', headers: [] }
  t.same(decide(rules, local('web'), post), { allow: false, reason: 'default', rule: '' })
  t.same(decide(rules, local('web'), post, { defaultAction: 'allow' }), { allow: true, reason: 'default', rule: '' })
  const peered = [{ name: 'web', peer: 'east', permissions }]
  t.same(decide(peered, inEast('web'), post, { defaultAction: 'allow' }), { allow: false, reason: 'peer-default', rule: '' })
  t.match(decide(peered, inEast('web'), get('/x')), { allow: true, permission: 1 })
  t.end()
})

t.test('permissions deny where there are no requests to hold them against', t => {
  const rules = [{ name: 'web', permissions: [{ action: 'allow' }] }]
  const denied = { allow: false, reason: 'intention', rule: 'web => api' }
  t.same(decide(rules, local('web'), undefined, { httpLike: false, defaultAction: 'allow' }), denied)
  t.same(decide(rules, local('web'), undefined, { defaultAction: 'allow' }), denied)
  t.end()
})

t.test('a malformed path is a bad request for those who would be let in', t => {
  const malformed = { allow: false, reason: 'intention', rule: 'web => api', malformed: true }
  t.same(decide([{ name: 'web', action: 'allow' }], local('web'), get('/%00')), malformed)
  t.same(decide([{ name: 'web', permissions: [{ action: 'allow' }] }], local('web'), get('/%zz')), malformed)
  t.same(decide([{ name: 'web', action: 'deny' }], local('web'), get('/%00')), { allow: false, reason: 'intention', rule: 'web => api' })
  t.same(decide([], local('web'), get('/%'), { defaultAction: 'allow' }), { allow: false, reason: 'default', rule: '', malformed: true })
  t.same(decide([], inEast('web'), get('/%')), { allow: false, reason: 'peer-default', rule: '' })
  t.end()
})

t.test('only our own gateway speaks for others, and only for callers of peers', t => {
  const compiled = authorizer(
    [
      { name: 'web', peer: 'east', action: 'allow' },
      { name: 'evil', peer: 'east', action: 'deny' },
      { name: 'web', action: 'allow' },
    ],
    { defaultAction: 'allow' },
  )
  const judge = (tlsPeer: string, xfcc: string | undefined) => compiled.authorizeForwarded(compiled.identify(tlsPeer)!, xfcc, get('/'))
  const gateway = `spiffe://${own}/gateway/mesh/dc/dc1`
  const says = (uri: string) => `By=${gateway};Hash=00;Subject="";URI=${uri}`
  t.match(judge(gateway, says(inEast('web'))), { allow: true, rule: 'peer:east/web => api' })
  t.match(judge(gateway, says(inEast('evil'))), { allow: false, rule: 'peer:east/evil => api' })
  t.match(judge(gateway, says(inEast('other'))), { allow: false, reason: 'peer-default' })
  const nobody = { allow: false, reason: 'identity', rule: '' }
  t.same(judge(gateway, undefined), nobody, 'the gateway itself')
  t.same(judge(gateway, says(local('web'))), nobody, 'for a local caller')
  t.same(judge(gateway, says(gateway)), nobody, 'for itself')
  t.same(judge(gateway, says(`spiffe://${west}/ns/default/dc/dc1/svc/web`)), nobody, 'for a stranger')
  t.same(judge(`spiffe://${east}/gateway/mesh/dc/dc1`, says(inEast('web'))), nobody, "a peer's gateway")
  t.match(judge(inEast('evil'), says(inEast('web'))), { allow: false, rule: 'peer:east/evil => api' }, 'dialling the sidecar directly')
  t.match(judge(local('other'), says(inEast('evil'))), { allow: true, reason: 'default' }, 'from anybody else it is not looked at')
  t.end()
})

t.test('the first element of XFCC is read as a real sidecar reads it', t => {
  const uri = inEast('web')
  const cases: [string, string | undefined][] = [
    [`By=x;URI=${uri}`, uri],
    [`By=x;Hash=00;Subject="";URI=${uri}`, uri],
    [`By=x;URI=${uri},By=y;URI=spiffe://x/y`, uri],
    [`By=x;URI=${uri},`, uri],
    [`URI=${uri}`, undefined],
    [`;URI=${uri}`, undefined],
    [`By=x;URI=${uri};Hash=abc`, undefined],
    [`By=x;URI=${uri};DNS=a.b`, undefined],
    [`By=x;URI="${uri}"`, undefined],
    [`By=x;uri=${uri}`, undefined],
    [`By=x; URI=${uri}`, undefined],
    [`By=x;URI= ${uri}`, undefined],
    [`By=x;Subject="a,b";URI=${uri}`, undefined],
    [`,By=x;URI=${uri}`, undefined],
    [`By=x,By=y;URI=${uri}`, undefined],
    ['By=x;URI=', undefined],
    ['', undefined],
  ]
  for (const [xfcc, expected] of cases) t.equal(forwardedUri(xfcc), expected, xfcc)
  t.end()
})

t.test('very many callers are all known, and remembered no more than so many', t => {
  const compiled = authorizer([{ name: '*', action: 'allow' }])
  for (let i = 0; i < authorizerLimits.maxKnownCallers * 2 + 1; i++) {
    const uri = local(`service-${i}`)
    t.match(compiled.identify(uri), { uri, peer: '', identity: { service: `service-${i}` } }, { quiet: true })
  }
  t.equal(compiled.identify(local('web')), compiled.identify(local('web')))
  t.end()
})

t.test('two clusters in one trust domain are told apart in favour of our own', t => {
  const peers = new Map([['east', { trustDomain: own, exportedPartition: '' }]])
  const rules = [{ name: 'web', peer: 'east', action: 'allow' }]
  t.match(decide(rules, local('web'), undefined, { peers }), { allow: false, reason: 'default' })
  t.end()
})

t.test('a source that wants a token lets nobody in without one, whatever the default and the permissions say', t => {
  const jwt = { providers: [{ name: 'okta', verifyClaims: [{ path: ['role'], value: 'admin' }] }] }
  const permissions: Permission[] = [{ action: 'allow', http: { pathPrefix: '/' } }]
  const withRole = (role: unknown) => ({ claims: () => ({ role }) })
  for (const rule of [{ action: 'allow' }, { permissions }]) {
    for (const defaultAction of ['allow', 'deny'] as const) {
      const compiled = authorizer([{ name: 'web', jwt, ...rule }], { defaultAction })
      const web = compiled.identify(local('web'))!
      t.same(compiled.authorize(web, get('/')), { allow: false, reason: 'intention', rule: 'web => api', unproven: true })
      t.equal(compiled.authorize(web, get('/'), withRole('user')).allow, false)
      t.equal(compiled.authorize(web, get('/'), withRole('admin')).allow, true)
      t.equal(compiled.authorize(web, get('/'), withRole(['user', 'admin'])).allow, true, 'a list that has the value in it')
      t.equal(compiled.authorize(web, undefined, withRole('admin')).allow, false, 'a connection carries no token')
    }
  }
  const denied = authorizer([{ name: 'web', jwt, action: 'deny' }])
  t.equal(denied.authorize(denied.identify(local('web'))!, get('/'), withRole('admin')).allow, false)
  t.end()
})

t.test('an intention that is only tried out denies nobody and says whom it would deny', t => {
  const permissions: Permission[] = [{ action: 'deny', http: { pathExact: '/x' } }]
  const rules = [
    { name: 'web', audit: true, permissions },
    { name: 'bad', audit: true, action: 'deny' },
    { name: 'good', audit: true, action: 'allow' },
    { name: '*', action: 'deny' },
  ]
  const would = { allow: true, reason: 'intention', audited: true }
  t.same(decide(rules, local('bad'), get('/')), { ...would, rule: 'bad => api' })
  t.same(decide(rules, local('bad')), { ...would, rule: 'bad => api' })
  t.same(decide(rules, local('web'), get('/x')), { ...would, rule: 'web => api', permission: 0 })
  t.same(decide(rules, local('good'), get('/')), { allow: true, reason: 'intention', rule: 'good => api' })
  t.match(decide(rules, local('web'), get('/%00')), { allow: false, malformed: true }, 'a malformed path is refused all the same')
  t.match(decide(rules, local('other'), get('/')), { allow: false }, 'others are denied in earnest')
  t.end()
})

t.test('only a caller of our own cluster is told which rule denied him', t => {
  const permissions: Permission[] = [{ action: 'deny', http: { pathExact: '/x' } }]
  const rules = [
    { name: 'web', permissions },
    { name: 'caf\u00e9', action: 'deny' },
    { name: 'web', peer: 'east', action: 'deny' },
  ]
  const told = (uri: string, path = '/x') => {
    const decision = decide(rules, uri, get(path))
    return decision === 'nobody' ? decision : toldOf(decision)
  }
  t.equal(told(local('web')), 'web => api, permission 0')
  t.equal(told(local('web'), '/y'), 'no intention; default deny')
  t.equal(told(local('other')), 'no intention; default deny')
  t.equal(told(local('caf%C3%A9')), 'caf? => api')
  t.equal(told(inEast('web')), undefined)
  t.equal(told(inEast('other')), undefined)
  t.end()
})
