/** Tokens without their signatures: what is one, where a request carries it, and what is asked of its claims. */
import * as fc from 'fast-check'
import t from 'tap'
import { checkJwtProvider } from '../../src/mesh/jwt-provider.ts'
import { claimsHold, parseToken, requirementHolds, tokenLimits, tokensOf } from '../../src/mesh/jwt.ts'

const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const token = (header: unknown, claims: unknown, signature = 'c2ln') => `${part(header)}.${part(claims)}.${signature}`

t.test('a token has three parts in base64url, two of them objects', async t => {
  t.match(parseToken(token({ alg: 'none' }, { a: 1 })), { header: { alg: 'none' }, claims: { a: 1 }, signature: Buffer.from('sig') })
  const whole = token({}, {})
  const broken = [
    '',
    'a.b',
    '...',
    `${whole}.`,
    `${part([])}.${part({})}.`,
    `${part({})}.${part('x')}.`,
    `${part({})}.${part(null)}.`,
    `${whole}=`,
    whole.replace('.', '. '),
    `${part({})}.${Buffer.from('{"a":"\xff"}', 'latin1').toString('base64url')}.`,
    token({ crit: ['exp'] }, {}),
    token({}, { a: 'x'.repeat(tokenLimits.length) }),
  ]
  for (const text of broken) t.equal(parseToken(text), undefined, text.slice(0, 60))
})

t.test('any text is a token or none', async t => {
  fc.assert(
    fc.property(fc.string(), text => parseToken(text) === undefined || text.split('.').length === 3),
    { numRuns: 300 },
  )
  const base64 = fc.stringMatching(/^[A-Za-z0-9_-]{0,30}$/)
  fc.assert(
    fc.property(base64, base64, base64, (...parts) => void parseToken(parts.join('.'))),
    { numRuns: 300 },
  )
  t.pass()
})

t.test('time, issuer and audience are held to, within the skew', async t => {
  const provider = { issuer: 'me', audiences: ['a', 'b'], clockSkewSeconds: 30 }
  const good = { iss: 'me', aud: 'a', exp: 1000, nbf: 500 }
  const holds = (claims: object, now = 700) => claimsHold(claims as never, provider, now)
  t.equal(holds(good), true)
  t.equal(holds({ ...good, aud: ['x', 'b'] }), true)
  for (const [claims, now] of [
    [good, 1030],
    [good, 469],
    [{ ...good, iss: 'you' }],
    [{ ...good, iss: ['me'] }],
    [{ ...good, aud: 'c' }],
    [{ ...good, aud: undefined }],
    [{ ...good, exp: '1000' }],
    [{ ...good, nbf: '1' }],
  ] as [object, number?][]) {
    t.equal(holds(claims, now), false, JSON.stringify([claims, now]))
  }
  t.equal(holds(good, 1029), true)
  t.equal(holds(good, 470), true)
  t.equal(claimsHold({}, { issuer: '', audiences: [], clockSkewSeconds: 0 }, 5), true, 'nothing is asked for')
})

t.test('one provider is enough, with all of its claims', async t => {
  const claims: Record<string, object> = { a: { perms: { role: 'user' } }, b: { perms: { role: ['user', 'admin'], level: 7, on: true } } }
  const reader = { claims: (provider: string) => claims[provider] as never }
  const asks = (...providers: { name: string; verifyClaims?: { path: string[]; value: string }[] }[]) =>
    requirementHolds({ providers }, reader)
  const admin = [{ path: ['perms', 'role'], value: 'admin' }]
  t.equal(asks({ name: 'a', verifyClaims: admin }), false)
  t.equal(asks({ name: 'b', verifyClaims: admin }), true)
  t.equal(asks({ name: 'a', verifyClaims: admin }, { name: 'b', verifyClaims: admin }), true)
  t.equal(
    asks({ name: 'b', verifyClaims: [...admin, { path: ['perms', 'level'], value: '7' }, { path: ['perms', 'on'], value: 'true' }] }),
    true,
  )
  t.equal(asks({ name: 'b', verifyClaims: [...admin, { path: ['perms', 'level'], value: '8' }] }), false)
  t.equal(asks({ name: 'b', verifyClaims: [{ path: ['constructor', 'name'], value: 'Object' }] }), false, 'only claims are claims')
  t.equal(asks({ name: 'c' }), false)
  t.equal(asks(), false)
  t.equal(requirementHolds({ providers: [{ name: 'a' }] }, undefined), false)
})

t.test('a token is looked for where the provider says', async t => {
  const headers = [
    'authorization',
    'Bearer one',
    'authorization',
    'bearer  two',
    'x-token',
    'v1 three',
    'cookie',
    'a=b; tok=four',
    'authorization',
    'Basic x',
  ]
  const target = '/p?access_token=five&t=six'
  t.same(tokensOf({ locations: [] }, { headers, target }), ['one', 'two', 'five'])
  const locations = [
    { header: { name: 'X-Token', valuePrefix: 'v1 ' } },
    { queryParam: { name: 't' } },
    { cookie: { name: 'tok' } },
    { header: { name: 'absent' } },
  ]
  t.same(tokensOf({ locations }, { headers, target }), ['three', 'six', 'four'])
  t.same(tokensOf({ locations: [] }, { headers: [] }), [])
})

t.test('a provider may not set what frames a request or says who sent it', async t => {
  const problemOf = (headerName: string) =>
    checkJwtProvider({
      kind: 'jwt-provider',
      name: 'p',
      jsonWebKeySet: { local: { jwks: 'e30=' } },
      forwarding: { headerName },
      createIndex: 0,
      modifyIndex: 0,
    })
  for (const name of ['Content-Length', 'transfer_encoding', 'Host', 'X-Forwarded-Client-Cert', '', 'a b']) {
    t.match(problemOf(name), /^Forwarding\.HeaderName is not a header that can be set: /, name)
  }
  t.equal(problemOf('X-Claims'), undefined)
})
