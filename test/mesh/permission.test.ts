// L7 permissions as a real sidecar reads them (spec/data-plane.md 7.6), and stricter where a path has two readings.
import t from 'tap'
import type { Permission } from '../../src/mesh/intention-entry.ts'
import { judgePath } from '../../src/mesh/path.ts'
import { matchLimits } from '../../src/mesh/header-match.ts'
import { Permissions, unmatched, unproven } from '../../src/mesh/permission.ts'

type Http = NonNullable<Permission['http']>
type Header = NonNullable<Http['header']>[number]

/** The index of the permission that decides for a request. */
function judge(
  permissions: Permission[],
  path: string,
  more: { method?: string; headers?: string[]; defaultAllow?: boolean } = {},
): number {
  const { method = 'GET', headers = [], defaultAllow = false } = more
  return new Permissions(permissions, defaultAllow).judge({ method, path, headers }, judgePath(path)!)
}
const allow = (http: Http): Permission => ({ action: 'allow', http })
const deny = (http: Http): Permission => ({ action: 'deny', http })

t.test('a path is matched exactly, by prefix or by a regex that matches all of it', t => {
  const cases: [Http, string, boolean][] = [
    [{ pathExact: '/exact' }, '/exact', true],
    [{ pathExact: '/exact' }, '/exact/', false],
    [{ pathExact: '/exact' }, '/Exact', false],
    [{ pathExact: '/exact' }, '/exact;v=1', false],
    [{ pathExact: '/caf\u00e9' }, '/caf\xc3\xa9', true],
    [{ pathPrefix: '/pre' }, '/prefix/x', true],
    [{ pathPrefix: '/pre' }, '/x/pre', false],
    [{ pathRegex: '/r/[0-9]+' }, '/r/12', true],
    [{ pathRegex: '/r/[0-9]+' }, '/r/12/x', false],
    [{ pathRegex: '/r/[0-9]+' }, '/x/r/12', false],
    [{ pathRegex: '/a|/b' }, '/bc', false],
    [{}, '/anything', true],
  ]
  for (const [http, path, expected] of cases) {
    t.equal(judge([allow(http)], path), expected ? 0 : unmatched, `${JSON.stringify(http)} ${path}`)
  }
  t.end()
})

t.test('the first permission that matches decides', t => {
  const list = [deny({ pathPrefix: '/admin' }), allow({ pathPrefix: '/' }), deny({ pathPrefix: '/' })]
  t.equal(judge(list, '/admin/x'), 0)
  t.equal(judge(list, '/x'), 1)
  t.equal(judge([deny({ pathExact: '/a' })], '/b'), unmatched)
  t.end()
})

t.test('all parts of a permission must match', t => {
  const list = [
    allow({
      pathPrefix: '/p',
      methods: ['get', 'PUT'],
      header: [
        { name: 'X-A', exact: '1' },
        { name: 'x-b', present: true },
      ],
    }),
  ]
  const headers = ['x-a', '1', 'x-b', '']
  t.equal(judge(list, '/p', { headers }), 0)
  t.equal(judge(list, '/p', { headers, method: 'PUT' }), 0)
  t.equal(judge(list, '/p', { headers, method: 'POST' }), unmatched)
  t.equal(judge(list, '/p', { headers, method: 'get' }), unmatched)
  t.equal(judge(list, '/q', { headers }), unmatched)
  t.equal(judge(list, '/p', { headers: ['x-a', '1'] }), unmatched)
  t.equal(judge(list, '/p', { headers: ['x-b', '1'] }), unmatched)
  t.end()
})

t.test('headers are matched by value, absence and inversion', t => {
  const present = { name: 'X-H', present: true }
  const exact = { name: 'x-h', exact: 'one' }
  const cases: [string, Header, string[], boolean][] = [
    ['present', present, ['x-h', ''], true],
    ['present, missing', present, ['x-i', 'one'], false],
    ['present inverted', { ...present, invert: true }, ['x-h', ''], false],
    ['present inverted, missing', { ...present, invert: true }, [], true],
    ['exact', exact, ['x-h', 'one'], true],
    ['exact, other value', exact, ['x-h', 'ONE'], false],
    ['exact, outer blanks', exact, ['x-h', ' \tone \t'], true],
    ['exact, other white space is the value', exact, ['x-h', '\u00a0one'], false],
    ['exact, missing', exact, [], false],
    ['exact inverted', { ...exact, invert: true }, ['x-h', 'one'], false],
    ['exact inverted, other value', { ...exact, invert: true }, ['x-h', 'two'], true],
    ['exact inverted, missing', { ...exact, invert: true }, [], false],
    ['exact, one of two lines', exact, ['x-h', 'two', 'x-h', 'one'], true],
    ['exact inverted, one of two lines', { ...exact, invert: true }, ['x-h', 'two', 'x-h', 'one'], false],
    ['exact, one line with a list', exact, ['x-h', 'one, two'], false],
    ['prefix', { name: 'x-h', prefix: 'on' }, ['x-h', 'one'], true],
    ['prefix, elsewhere', { name: 'x-h', prefix: 'ne' }, ['x-h', 'one'], false],
    ['suffix', { name: 'x-h', suffix: 'ne' }, ['x-h', 'one'], true],
    ['suffix, elsewhere', { name: 'x-h', suffix: 'on' }, ['x-h', 'one'], false],
    ['regex, whole value', { name: 'x-h', regex: 'o.e' }, ['x-h', 'one'], true],
    ['regex, part of the value', { name: 'x-h', regex: 'o.' }, ['x-h', 'one'], false],
    ['a value is no name', exact, ['x-i', 'x-h', 'one', ''], false],
  ]
  for (const [name, header, headers, expected] of cases) {
    t.equal(judge([allow({ header: [header] })], '/', { headers }), expected ? 0 : unmatched, name)
  }
  t.end()
})

t.test('a denial is not slipped past by writing its path in another way', t => {
  const list = [deny({ pathPrefix: '/admin' }), allow({ pathPrefix: '/' })]
  for (const path of [
    '/admin',
    '//admin',
    '/%61dmin',
    '/x/../admin',
    '/./admin',
    '/x/%2e%2e/admin',
    '/%2Fadmin',
    '/\\admin',
    '/%5cadmin',
  ]) {
    t.equal(judge(list, path), 0, path)
  }
  t.equal(judge([deny({ pathExact: '/caf%C3%A9' }), allow({})], '/caf%c3%a9'), 0, 'the other case of hex digits')
  t.end()
})

t.test('what is allowed is allowed in both readings or not at all', t => {
  const list = [allow({ pathPrefix: '/public/' })]
  t.equal(judge(list, '/public/a'), 0)
  t.equal(judge(list, '/public/../admin'), unmatched, 'climbs out')
  t.equal(judge(list, '/x/../public/a'), unmatched, 'climbs in')
  t.equal(judge(list, '/public/a%2Fb'), 0, 'an encoded slash stays inside')
  t.equal(judge([allow({ pathRegex: '/items/[^/]+' })], '/items/a%2Fb'), 0, 'an encoded slash is part of a segment')
  t.equal(judge([allow({ pathExact: '/a%2fb' })], '/a%2fb'), 0, 'an escape in a pattern means itself')
  t.end()
})

t.test('with default allow a denial in any reading wins over no match', t => {
  const list = [deny({ pathExact: '/admin' })]
  t.equal(judge(list, '//admin', { defaultAllow: true }), 0)
  t.equal(judge(list, '/%2Fadmin', { defaultAllow: true }), 0)
  t.equal(judge(list, '/other', { defaultAllow: true }), unmatched)
  t.end()
})

t.test('a permission that cannot be compiled denies what it would match', t => {
  const broken: [string, Permission][] = [
    ['bad regex', allow({ pathRegex: '[' })],
    ['long regex', allow({ pathRegex: 'a'.repeat(matchLimits.maxRegexLength + 1) })],
    ['backreference', allow({ pathRegex: '(a)\\1' })],
    ['bad header regex', allow({ header: [{ name: 'x', regex: '(' }] })],
    ['header without a test', allow({ header: [{ name: 'x' }] })],
    ['header without a name', allow({ header: [{ name: '', exact: 'x' }] })],
    ['pseudo header', allow({ header: [{ name: ':path', exact: '/' }] })],
    ['unknown action', { action: 'permit' }],
  ]
  for (const [name, permission] of broken) {
    const permissions = new Permissions([permission, allow({})], true)
    t.same(permissions.allows, [false, true], name)
    t.equal(permissions.judge({ method: 'GET', path: '/x', headers: [] }, judgePath('/x')!), 0, name)
  }
  t.equal(judge([allow({ pathRegex: '[', methods: ['PUT'] }), allow({})], '/'), 1, 'but only that')
  t.end()
})

t.test('a token is a part of what a permission matches; what only lacks one is never left to a default that allows', t => {
  const jwt = { providers: [{ name: 'okta' }] }
  const guarded = [{ ...allow({ pathPrefix: '/admin' }), jwt }]
  const tokens = { claims: (provider: string) => (provider === 'okta' ? {} : undefined) }
  const at = (list: Permission[], path: string, defaultAllow: boolean, reader?: typeof tokens) =>
    new Permissions(list, defaultAllow).judge({ method: 'GET', path, headers: [] }, judgePath(path)!, reader)
  t.equal(at(guarded, '/admin', false, tokens), 0)
  t.equal(at(guarded, '/admin', false), unproven)
  t.equal(at(guarded, '/admin', true), unproven)
  t.equal(at(guarded, '/other', true), unmatched)
  const open = [...guarded, allow({})]
  t.equal(at(open, '/admin', false), unproven, 'nor to a later permission, which is for what this one does not match')
  t.equal(at(open, '/x', false), 1)
  t.equal(at(open, '/%61dmin', false), unproven, 'in every reading of the path')
  t.equal(at([{ ...allow({ pathPrefix: '/a/b' }), jwt }, allow({})], '/a%2Fb', false), unproven)
  const sealed = [{ ...deny({ pathPrefix: '/admin' }), jwt }, allow({})]
  t.equal(at(sealed, '/admin', false), unmatched, 'of a denial neither: then the default decides')
  t.equal(at(sealed, '/admin', false, tokens), 0)
  t.equal(at([{ ...deny({ pathPrefix: '/' }), jwt }], '/', true), unmatched, 'a denial of those with a token concerns nobody else')
  t.equal(at([{ ...deny({ pathPrefix: '/' }), jwt }], '/', true, tokens), 0)
  t.equal(at(guarded, '//admin/../admin', true), unproven, 'in every reading of the path')
  t.end()
})

t.test('a hostile value costs a regex no more than its length', t => {
  const list = [allow({ pathRegex: '(a+)+b' }), allow({ header: [{ name: 'x', regex: '(x*)*y' }] })]
  const started = performance.now()
  t.equal(judge(list, `/${'a'.repeat(4000)}`, { headers: ['x', 'x'.repeat(4000)] }), unmatched)
  t.ok(performance.now() - started < 2000)
  t.end()
})
