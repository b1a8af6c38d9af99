/** Whatever entries there are, a chain comes of them or a text: it ends, its nodes and targets are all there, and so it can be compiled. */
import * as fc from 'fast-check'
import t from 'tap'
import { DiscoveryChain } from '../../src/mesh/discovery-chain.ts'
import { compileChain, chainLimits, type ChainEntries } from '../../src/mesh/discovery-chain-compiler.ts'
import type { RouteDestination, ServiceResolver, ServiceRouter, ServiceSplitter } from '../../src/mesh/routing-entry.ts'
import { chooseLeg, compileRouting, route } from '../../src/mesh/routing.ts'

const name = fc.constantFrom('a', 'b', 'c', 'd', 'constructor', '__proto__')
const subset = fc.constantFrom('', '', 'v1', 'v2')
const peer = fc.constantFrom('', '', '', 'east')
const indexes = { createIndex: 0, modifyIndex: 0 }
const destination: fc.Arbitrary<RouteDestination> = fc.record({ service: fc.oneof(fc.constant(''), name), serviceSubset: subset, peer })
const target = fc.record({ service: name, serviceSubset: subset, peer, datacenter: fc.constantFrom('', 'dc9') })

const resolver = fc
  .record({
    subsets: fc.constantFrom({}, { v1: {} }, { v1: {}, v2: { onlyPassing: true } }),
    defaultSubset: subset,
    redirect: fc.option(target, { nil: undefined }),
    failover: fc.dictionary(fc.constantFrom('*', 'v1'), fc.record({ targets: fc.array(target, { maxLength: 3 }) }), {
      noNullPrototype: true,
    }),
    policy: fc.constantFrom('', 'maglev'),
  })
  .map(({ policy, ...rest }) => ({ kind: 'service-resolver', loadBalancer: { policy }, ...rest, ...indexes }))
const splitter = fc
  .array(fc.record({ weight: fc.integer({ min: 0, max: 100 }), service: name, serviceSubset: subset, peer }), {
    minLength: 1,
    maxLength: 4,
  })
  .map(splits => ({ kind: 'service-splitter', splits, ...indexes }))
const router = fc.array(fc.record({ path: fc.constantFrom('/', '/a', '/ab'), destination }), { maxLength: 4 }).map(routes => ({
  kind: 'service-router',
  routes: routes.map(each => ({ match: { http: { pathPrefix: each.path } }, destination: each.destination })),
  ...indexes,
}))

const byName = <T>(entry: fc.Arbitrary<T>) =>
  fc
    .array(fc.tuple(name, entry), { maxLength: 5 })
    .map(list => new Map<string, T & { name: string }>(list.map(([key, value]) => [key, { name: key, ...value }])))

const entriesOf = fc
  .record({
    resolvers: byName(resolver),
    splitters: byName(splitter),
    routers: byName(router),
    protocols: fc.dictionary(name, fc.constantFrom('http', 'grpc')),
  })
  .map(({ resolvers, splitters, routers, protocols }): ChainEntries => ({
    resolver: key => resolvers.get(key) as ServiceResolver | undefined,
    splitter: key => splitters.get(key) as ServiceSplitter | undefined,
    router: key => routers.get(key) as ServiceRouter | undefined,
    serviceDefaults: key =>
      Object.hasOwn(protocols, key) && key === 'd'
        ? ({ protocol: protocols[key], meshGateway: {}, transparentProxy: {} } as never)
        : undefined,
    proxyDefaults: () => ({ config: { protocol: 'http' }, meshGateway: {} }) as never,
  }))

t.test('a chain is whole, or there is a text that says why there is none', async t => {
  const outcomes = { chains: 0, problems: 0 }
  fc.assert(
    fc.property(entriesOf, name, (entries, service) => {
      const compiled = compileChain({ service, datacenter: 'dc1', trustDomain: 'x.consul' }, entries)
      outcomes[compiled.ok ? 'chains' : 'problems'] += 1
      if (!compiled.ok) return compiled.problem !== ''
      const { chain } = compiled
      for (const { routes = [], splits = [], resolver: end } of Object.values(chain.nodes)) {
        for (const { nextNode } of [...routes, ...splits]) if (!Object.hasOwn(chain.nodes, nextNode)) return false
        for (const id of end ? [end.target, ...(end.failover?.targets ?? [])] : []) if (!Object.hasOwn(chain.targets, id)) return false
        // What is left of a splitter goes to resolvers only.
        if (splits.some(({ nextNode }) => nextNode.startsWith('splitter:'))) return false
      }
      const problems: string[] = []
      const routing = compileRouting(chain, problems)
      if (problems.some(problem => !problem.includes('no split with a weight'))) return false
      const found = route(routing, { method: 'GET', path: '/abc', target: '/abc', headers: [] })
      if (found === undefined) return false
      const end = found.next.kind === 'resolver' ? found.next : chooseLeg(found.next, 0.999).resolver
      return end.targets.length > 0 || problems.length > 0
    }),
    { numRuns: process.env['ISTHMUS_DEEP'] ? 200_000 : 3000 },
  )
  t.ok(outcomes.chains > 500 && outcomes.problems > 200, JSON.stringify(outcomes))
})

t.test('entries that would grow without bound, or too deep, are refused and not waited for', async t => {
  const many = (count: number, next: (i: number) => number[]): ChainEntries => ({
    resolver: () => undefined,
    router: () => undefined,
    serviceDefaults: () => undefined,
    proxyDefaults: () => ({ config: { protocol: 'http' }, meshGateway: {} }) as never,
    splitter: key => {
      const i = Number(key.slice(1))
      if (i >= count) return undefined
      const splits = next(i).map((each, _, all) => ({ weight: 100 / all.length, service: `s${each}` }))
      return { kind: 'service-splitter', name: key, splits, ...indexes }
    },
  })
  const problemOf = (entries: ChainEntries) => {
    const compiled = compileChain({ service: 's0', datacenter: 'dc1', trustDomain: 'x.consul' }, entries)
    return compiled.ok ? '' : compiled.problem
  }
  const began = performance.now()
  t.match(problemOf(many(40, i => [i + 1, i + 1])), /more than 1024 splits/, 'each doubles the one before')
  t.match(problemOf(many(100_000, i => [i + 1])), new RegExp(`more than ${chainLimits.maxDepth} entries one behind another`))
  t.match(problemOf(many(1, () => Array.from({ length: 3000 }, (_, i) => i + 10))), /more than 2048 nodes/)
  const long = { 'x-long': 'x'.repeat(60_000) }
  const heavy = many(1, () => Array.from({ length: 50 }, (_, i) => i + 10))
  const splitter = (key: string) => {
    const entry = heavy.splitter(key)
    return entry && { ...entry, splits: entry.splits!.map(split => ({ ...split, requestHeaders: { set: long } })) }
  }
  t.match(problemOf({ ...heavy, splitter }), /more than 2097152 characters/)
  t.ok(performance.now() - began < 2000)
})

t.test('a chain that is not whole costs the requests that it loses, and no more', async t => {
  const chain = (nodes: object, startNode = 'splitter:a') =>
    DiscoveryChain.parse({ serviceName: 'a', datacenter: 'dc1', protocol: 'http', startNode, nodes, targets: {} })
  const split = (nextNode: string, weight = 100) => ({ definition: {}, weight, nextNode })
  const splitter = (...splits: object[]) => ({ type: 'splitter', name: 'a', splits })
  const catchAll = { definition: {}, nextNode: 'splitter:a' }
  const broken: Record<string, DiscoveryChain> = {
    'a split that leads nowhere': chain({ 'splitter:a': splitter(split('resolver:none')) }),
    'a split that leads to itself': chain({ 'splitter:a': splitter(split('splitter:a')) }),
    'a name that every object has': chain({ 'splitter:a': splitter(split('constructor')) }),
    'no weight at all': chain({ 'splitter:a': splitter(split('resolver:none', 0), split('resolver:none', -100)) }),
    'no splits': chain({ 'splitter:a': splitter() }),
    'a resolver of nothing': chain({ 'splitter:a': { type: 'resolver', name: 'a' } }),
    'a route that leads nowhere': chain({ r: { type: 'router', name: 'a', routes: [catchAll] } }, 'r'),
  }
  const facts = { method: 'GET', path: '/', target: '/', headers: [] }
  for (const [what, each] of Object.entries(broken)) {
    const problems: string[] = []
    const { next } = route(compileRouting(each, problems), facts)!
    const end = next.kind === 'split' ? chooseLeg(next, 0.5).resolver : next
    t.same([end.targets, problems.length], [[], 1], what)
  }
  const problems: string[] = []
  t.same([route(compileRouting(chain({}), problems), facts), problems.length], [undefined, 1], 'no beginning')
})
