// What equal requests share: a header, a cookie, a parameter or the caller's address, in the order of the policies.
import * as fc from 'fast-check'
import t from 'tap'
import { HashPolicy } from '../../../src/mesh/balance/config.ts'
import { RequestHash, type Affinity } from '../../../src/mesh/balance/request-hash.ts'
import { seeded } from './endpoints.ts'

interface Facts {
  target?: string
  headers?: Record<string, string>
  source?: string
}
type Given = Partial<HashPolicy> & { field: HashPolicy['field'] }

function affinityOf(policies: Given[], { target = '/', headers = {}, source = '' }: Facts): Affinity {
  const into: Affinity = { hash: undefined, setCookie: 'of the request before' }
  const list = policies.map(each => HashPolicy.parse(each))
  new RequestHash(list, seeded()).of({ target, get: name => headers[name] }, source, into)
  return into
}
const hashOf = (policies: Given[], facts: Facts) => affinityOf(policies, facts).hash

t.test('a header, by its name in any case', t => {
  const policies: Given[] = [{ field: 'header', name: 'X-User' }]
  t.equal(hashOf(policies, { headers: { 'x-user': 'ann' } }), hashOf(policies, { headers: { 'x-user': 'ann' }, target: '/other' }))
  t.not(hashOf(policies, { headers: { 'x-user': 'ann' } }), hashOf(policies, { headers: { 'x-user': 'bob' } }))
  t.equal(hashOf(policies, {}), undefined)
  t.end()
})

t.test('a cookie by its exact name, quoted or not', t => {
  const policies: Given[] = [{ field: 'cookie', name: 'sid' }]
  const of = (cookie: string) => hashOf(policies, { headers: { cookie } })
  const alone = of('sid=1')
  t.not(alone, undefined)
  for (const cookie of ['a=b; sid=1', 'sid=1; sid=2', 'sid="1"', 'xsid=9;  sid=1 ;z', 'a; =; sid=1']) t.equal(of(cookie), alone, cookie)
  for (const cookie of ['', 'sid', 'sid=', 'sid=""', 'xsid=1', 'sidx=1', 'SID=1']) t.equal(of(cookie), undefined, cookie)
  t.end()
})

t.test('a parameter of the query by its exact name', t => {
  const policies: Given[] = [{ field: 'query_parameter', name: 'id' }]
  const of = (target: string) => hashOf(policies, { target })
  const alone = of('/?id=1')
  for (const target of ['/x?a=b&id=1', '/?id=1&id=2', '/?&&id=1']) t.equal(of(target), alone, target)
  for (const target of ['/id=1', '/?xid=1', '/?idx=1', '/?id', '/?', '/']) t.equal(of(target), undefined, target)
  t.end()
})

t.test('policies are combined in their order, and a terminal one that finds something ends the list', t => {
  const header: Given = { field: 'header', name: 'h' }
  const source: Given = { field: 'source_ip' }
  const facts: Facts = { headers: { h: '1' }, source: '10.0.0.1' }
  t.not(hashOf([header, source], facts), hashOf([source, header], facts))
  t.not(hashOf([header, source], facts), hashOf([header], facts))
  t.equal(hashOf([{ ...header, terminal: true }, source], facts), hashOf([header], facts))
  t.equal(hashOf([{ ...header, terminal: true }, source], { source: '10.0.0.1' }), hashOf([source], { source: '10.0.0.1' }))
  t.not(hashOf([header], { headers: { h: 'x' } }), hashOf([{ field: 'cookie', name: 'h' }], { headers: { cookie: 'h=x' } }))
  t.end()
})

t.test('who brings no cookie gets one, and goes where the next request with it will go', t => {
  const policies: Given[] = [{ field: 'cookie', name: 'sid', generate: { ttlMs: 30_500, path: '/a' } }]
  const { hash, setCookie } = affinityOf(policies, {})
  t.match(setCookie, /^sid=[0-9a-f]{16}; Max-Age=31; Path=\/a; HttpOnly$/)
  t.same(affinityOf(policies, { headers: { cookie: setCookie.split(';')[0]! } }), { hash, setCookie: '' })
  const session: Given[] = [{ field: 'cookie', name: 'sid', generate: { ttlMs: 0, path: '' } }]
  t.match(affinityOf(session, {}).setCookie, /^sid=[0-9a-f]{16}; HttpOnly$/)
  const behind: Given[] = [{ field: 'header', name: 'h', terminal: true }, ...policies]
  t.equal(affinityOf(behind, { headers: { h: '1' } }).setCookie, '', 'not where another policy has decided')
  t.end()
})

t.test('a name or path that would break the line makes no cookie', t => {
  for (const [name, path] of [
    ['a\r\nb', '/'],
    ['a;b', '/'],
    ['', '/'],
    ['sid', '/;x'],
    ['sid', '/\n'],
  ]) {
    t.same(affinityOf([{ field: 'cookie', name: name!, generate: { ttlMs: 0, path: path! } }], {}), { hash: undefined, setCookie: '' })
  }
  t.end()
})

t.test('whatever a caller sends is hashed or not, and never an exception', t => {
  const policies: Given[] = [
    { field: 'cookie', name: 'sid', generate: { ttlMs: 1, path: '/' } },
    { field: 'query_parameter', name: 'id' },
    { field: 'header', name: 'h' },
  ]
  const text = fc.string({ unit: 'binary', maxLength: 60 })
  fc.assert(
    fc.property(text, text, text, (cookie, query, h) => {
      const { hash, setCookie } = affinityOf(policies, { headers: { cookie, h }, target: `/?${query}` })
      return hash !== undefined && Number.isInteger(hash) && hash >= 0 && hash < 2 ** 32 && !/[\r\n]/.test(setCookie)
    }),
    { numRuns: process.env['ISTHMUS_DEEP'] ? 100_000 : 500 },
  )
  t.end()
})
