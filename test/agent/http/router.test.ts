/** Paths: what is matched, redirected and refused (http-api.md 1.2), and that the route table is what it says. */
import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { parameters } from '../../../src/agent/http/parameters.ts'
import { parseQuery } from '../../../src/agent/http/request.ts'
import { parseTarget, Router, type Routed } from '../../../src/agent/http/router.ts'
import { routes } from '../../../src/agent/http/routes.ts'

const router = new Router(routes)

function go(url: string, method = 'GET'): Routed {
  const target = parseTarget(url)
  if (!target) throw new Error(`no target: ${url}`)
  return router.route(method, target)
}

function matched(url: string): unknown {
  const routed = go(url)
  return routed.kind === 'route'
    ? { allow: routed.allow, path: routed.path, rest: routed.params['*'] }
    : { status: routed.status, body: routed.body }
}

const unknownApi = { status: 404, body: 'Invalid URL path: not a recognized HTTP API endpoint\n' }

t.test('the rest of a path is one name, percent-decoded once, slashes included', async t => {
  t.same(matched('/v1/kv/a%2Fb/c%20d%2525'), { allow: 'OPTIONS,GET,PUT,DELETE', path: '/v1/kv/a/b/c d%25', rest: 'a/b/c d%25' })
  t.same(matched('/v1/kv/'), { allow: 'OPTIONS,GET,PUT,DELETE', path: '/v1/kv/', rest: '' })
  t.same(matched(`/v1/catalog/service/${'n'.repeat(4000)}`), {
    allow: 'OPTIONS,GET',
    path: `/v1/catalog/service/${'n'.repeat(4000)}`,
    rest: 'n'.repeat(4000),
  })
})

t.test('a literal path comes before one with a rest', async t => {
  t.same(matched('/v1/connect/intentions/exact'), {
    allow: 'OPTIONS,GET,PUT,DELETE',
    path: '/v1/connect/intentions/exact',
    rest: undefined,
  })
  t.same(matched('/v1/connect/intentions/exactly'), {
    allow: 'OPTIONS,GET,PUT,DELETE',
    path: '/v1/connect/intentions/exactly',
    rest: 'exactly',
  })
  t.same(matched('/v1/peering/token'), { allow: 'OPTIONS,POST', path: '/v1/peering/token', rest: undefined })
})

t.test('case and trailing slashes count', async t => {
  t.same(matched('/v1/catalog/nodes/'), unknownApi)
  t.same(matched('/V1/catalog/nodes'), {
    status: 404,
    body: "Invalid URL path: if attempting to use the HTTP API, ensure the path starts with '/v1/'\n",
  })
  t.same(matched('/v1/Catalog/nodes'), unknownApi)
})

t.test('paths that are not clean are redirected, with their query, and never out of this host', async t => {
  const location = (url: string, method = 'PUT') => {
    const routed = go(url, method)
    return routed.kind === 'answer' ? [routed.status, routed.headers['Location']] : routed.kind
  }
  t.same(location('//evil.example/v1/kv/x'), [307, '/evil.example/v1/kv/x'])
  t.same(location('/v1/kv/a/../../catalog/nodes?dc=dc1'), [307, '/v1/catalog/nodes?dc=dc1'])
  t.same(location('/v1/./kv/x/'), [307, '/v1/kv/x/'])
  t.same(location('/../../..'), [307, '/'])
  t.same(location('/v1/kv/...'), 'route')
  const html = go(`//v1/"><script>alert(1)</script>`)
  t.same(html.kind === 'answer' && html.body, '<a href="/v1/&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;">Temporary Redirect</a>.\n\n')
})

t.test('unprintable characters and broken escapes are refused', async t => {
  for (const path of ['/v1/kv/a%01b', '/v1/kv/a%0d%0ab', '/v1/kv/%00', '/v1/kv/%', '/v1/kv/%zz', '/v1/kv/%ff', '/v1/kv/%e2%80%ae']) {
    t.same(matched(path), { status: 400, body: '' }, path)
  }
})

t.test('request targets that are no path are refused', async t => {
  for (const url of ['*', 'v1/kv', '', 'ftp://x/v1/kv', '/v1/kv#x', 'http:/v1']) t.equal(parseTarget(url), undefined, url)
  t.same(parseTarget('http://h:1/v1/kv/a?b=c'), { path: '/v1/kv/a', query: 'b=c', authority: 'h:1' })
})

t.test('queries are read as Go reads them', async t => {
  const query = parseQuery('a=1&a=2&stale&b=x+y%20z&=q&')
  t.same(
    [query?.get('a'), query?.all('a'), query?.has('stale'), query?.get('stale'), query?.get('b'), query?.has('c')],
    ['1', ['1', '2'], true, '', 'x y z', false],
  )
  for (const text of ['a=%', 'a=%zz', 'a=1;b=2', Array.from({ length: 300 }, (_, i) => `p${i}`).join('&')])
    t.equal(parseQuery(text), undefined)
  t.equal(parseQuery('__proto__=1')?.get('__proto__'), '1')
  t.equal(parseQuery('')?.get('constructor'), '')
})

t.test('every route says what it does, in one line', async t => {
  t.ok(routes.length > 60)
  for (const route of routes) t.match(route.what, /^[^\n]{5,100}$/, `${route.method} ${route.path}`)
})

t.test('the parameters that are documented are those that are read', async t => {
  const folder = 'src/agent/http'
  const source = readdirSync(folder)
    .map(file => readFileSync(`${folder}/${file}`, 'utf8'))
    .join('\n')
  const read = new Set(
    [...source.matchAll(/uery\.(?:get|has|all)\('([^']+)'\)|Param\(call(?:\.query)?, '([^']+)'\)/g)].map(match => (match[1] ?? match[2])!),
  )
  // Read by names that stand elsewhere: filters of events, sessions of a lock, refusals of what the community edition has not.
  const elsewhere = new Set(['node', 'service', 'tag', 'acquire', 'release', 'near', 'pretty'])
  // Spellings that are taken and not told of, and what every endpoint takes or refuses.
  const silent = new Set(['token', 'datacenter', 'seperator', 'merge-central-config'])
  t.same(
    [...read].filter(name => !silent.has(name) && !(name in parameters)),
    [],
    'everything that is read is documented',
  )
  t.same(
    Object.keys(parameters).filter(name => !read.has(name) && !elsewhere.has(name)),
    [],
    'everything that is documented is read',
  )
  const taken = new Set<string>(routes.flatMap(route => route.takes ?? []))
  const everywhere = new Set(['dc', 'stale', 'consistent', 'leader', 'max_stale', 'pretty'])
  t.same(
    Object.keys(parameters).filter(name => !taken.has(name) && !everywhere.has(name)),
    [],
    'and some row takes it',
  )
})
