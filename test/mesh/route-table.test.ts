/** The table of routes says what going through them one by one would say, whatever they are and in whatever order. */
import * as fc from 'fast-check'
import t from 'tap'
import { noRoute, RouteTable, type RouteFacts } from '../../src/mesh/route-table.ts'
import type { RouteMatch } from '../../src/mesh/routing-entry.ts'

const pathOf = fc.stringMatching(/^\/[ab/]{0,6}$/)
const match: fc.Arbitrary<RouteMatch> = fc
  .tuple(
    fc.oneof(
      pathOf.map((pathExact): RouteMatch => ({ pathExact })),
      pathOf.map((pathPrefix): RouteMatch => ({ pathPrefix })),
      fc.constantFrom('/a+', '/[ab]/.*', '.*').map((pathRegex): RouteMatch => ({ pathRegex })),
      fc.constant<RouteMatch>({}),
    ),
    fc.constantFrom<RouteMatch>(
      {},
      {},
      { methods: ['GET'] },
      { header: [{ name: 'X', exact: '1' }] },
      { queryParam: [{ name: 'q', present: true }] },
    ),
  )
  .map(([path, rest]) => ({ ...path, ...rest }))

/** By the letter of spec/data-plane.md 9.4. */
function isMatch(route: RouteMatch, { method, path, target, headers }: RouteFacts): boolean {
  if (route.pathExact && path !== route.pathExact) return false
  if (route.pathPrefix && !path.startsWith(route.pathPrefix)) return false
  if (route.pathRegex && !new RegExp(`^(?:${route.pathRegex})$`).test(path)) return false
  if (route.methods && !route.methods.includes(method)) return false
  if (route.header && !headers.includes('1')) return false
  return !route.queryParam || target.includes('?q')
}

t.test('the table agrees with a scan', async t => {
  const facts = fc
    .record({ method: fc.constantFrom('GET', 'PUT'), path: pathOf, query: fc.constantFrom('', '?q', '?x=1'), x: fc.constantFrom('1', '2') })
    .map(({ method, path, query, x }): RouteFacts => ({ method, path, target: path + query, headers: ['x', x] }))
  const found = { some: 0, none: 0 }
  fc.assert(
    fc.property(fc.array(match, { maxLength: 12 }), fc.array(facts, { minLength: 1, maxLength: 8 }), (routes, requests) => {
      const table = new RouteTable(routes, [])
      return requests.every(request => {
        const wanted = routes.findIndex(route => isMatch(route, request))
        found[wanted < 0 ? 'none' : 'some'] += 1
        return table.match(request) === (wanted < 0 ? noRoute : wanted)
      })
    }),
    { numRuns: process.env['ISTHMUS_DEEP'] ? 200_000 : 2000 },
  )
  t.ok(found.some > 1000 && found.none > 1000, JSON.stringify(found))
})

t.test('what cannot be compiled matches nothing and is named', async t => {
  const problems: string[] = []
  const routes: RouteMatch[] = [
    { pathRegex: '(' },
    { pathPrefix: '/', header: [{ name: 'x', regex: '(?=y)' }] },
    { pathPrefix: '/', queryParam: [{ name: 'q', regex: '[' }] },
    { pathPrefix: '/' },
  ]
  const table = new RouteTable(routes, problems)
  t.equal(table.match({ method: 'GET', path: '/', target: '/?q=1', headers: ['x', 'y'] }), 3)
  t.same(
    problems,
    [0, 1, 2].map(i => `route ${i} cannot be compiled and matches nothing`),
  )
})

t.test('a hostile value costs a route no more than its length', async t => {
  const table = new RouteTable([{ pathRegex: '/(a+)+b' }, { queryParam: [{ name: 'q', regex: '(x*)*y' }] }], [])
  const began = performance.now()
  const path = `/${'a'.repeat(8000)}`
  t.equal(table.match({ method: 'GET', path, target: `${path}?${'&'.repeat(4000)}q=${'x'.repeat(8000)}`, headers: [] }), noRoute)
  t.ok(performance.now() - began < 2000)
})
