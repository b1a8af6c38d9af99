/** Boundary cases: on both sides of everything that a rule asks for, whatever it is called. */
import t from 'tap'
import { boundaryCases } from '../../src/mesh/boundary-cases.ts'
import { EntrySet } from '../../src/mesh/entry-set.ts'
import { requestFacts } from '../../src/mesh/forwarded.ts'
import { judgePath } from '../../src/mesh/path.ts'
import { Permissions } from '../../src/mesh/permission.ts'
import { entryOf } from '../support/chain-entries.ts'

function casesOf(permissions: object[]) {
  const entries = [
    { Kind: 'service-defaults', Name: 'api', Protocol: 'http' },
    { Kind: 'service-intentions', Name: 'api', Sources: [{ Name: 'web', Permissions: permissions }] },
  ].map(entryOf)
  const found = boundaryCases([new EntrySet(entries)], [])
  const [source] = entries.flatMap(entry => (entry.kind === 'service-intentions' ? entry.sources : []))
  return { ...found, permissions: source!.permissions! }
}

t.test('every part of a permission has a request on each side', async t => {
  const header = (more: object) => ({ Header: [{ Name: 'x-a', ...more }] })
  for (const HTTP of [
    { PathExact: '/a' },
    { PathPrefix: '/a/' },
    { PathRegex: '/v[0-9]+/(?:users|groups)/.*' },
    { PathExact: '/a', Methods: ['GET', 'POST', 'DELETE', 'PATCH', 'PUT', 'HEAD', 'OPTIONS'] },
    ...[{ Present: true }, { Exact: 'v' }, { Prefix: 'v' }, { Suffix: 'v' }, { Regex: '(?:u|w)x+' }].flatMap(each => [
      { PathPrefix: '/', ...header(each) },
      { PathPrefix: '/', ...header({ ...each, Invert: true }) },
    ]),
  ]) {
    const { cases, unsampled, permissions } = casesOf([{ Action: 'allow', HTTP }])
    t.same(unsampled, [], JSON.stringify(HTTP))
    const judged = new Permissions(permissions, false)
    const outcomes = new Set(
      cases.map(({ method, target, headers }) => {
        const facts = requestFacts(method, target, headers)
        return judged.judge(facts, judgePath(facts.path)!) === 0
      }),
    )
    t.same([outcomes.has(true), outcomes.has(false)], [true, true], JSON.stringify(HTTP))
  }
})

t.test('a claim may be called anything', async t => {
  const claim = (...Path: string[]) => ({ Providers: [{ Name: '__proto__', VerifyClaims: [{ Path, Value: 'yes' }] }] })
  const { cases } = casesOf([
    { Action: 'allow', HTTP: { PathPrefix: '/' }, JWT: claim('__proto__', 'polluted') },
    { Action: 'allow', HTTP: { PathPrefix: '/' }, JWT: claim('constructor', 'prototype', 'polluted') },
  ])
  t.ok(cases.some(({ claims }) => Object.keys(claims).length > 0))
  t.equal(({} as { polluted?: string }).polluted, undefined)
})
