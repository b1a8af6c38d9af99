/** Routing: the route of a request among few and many, and all that one request asks: may it come, where does it go, to which endpoint. */
import { authorizerLimits } from '../../src/mesh/authorize.ts'
import { configEntryKinds } from '../../src/mesh/config-entry.ts'
import { compileChain } from '../../src/mesh/discovery-chain-compiler.ts'
import { chooseLeg, compileRouting, route, type RoutingPlan } from '../../src/mesh/routing.ts'
import type { RouteFacts } from '../../src/mesh/route-table.ts'
import { names } from '../../src/mesh/snapshot.ts'
import type { Case } from './measure.ts'
import { callerOf, planOf } from './plans.ts'

/** Numbers of routes. What a route costs must be the same for all of them. */
export const routeCounts = [10, 1000, 10_000] as const

/** By turns an exact path, a prefix, and a prefix that wants a method and a header; the last one goes to a splitter. */
function routesOf(count: number): object[] {
  return Array.from({ length: count }, (_, i) => {
    const destination = { service: i === count - 1 ? 'split' : `target-${i % 50}` }
    const path = `/v1/tenant-${i}/items`
    if (i % 3 === 0) return { match: { http: { pathExact: path } }, destination }
    if (i % 3 === 1) return { match: { http: { pathPrefix: path } }, destination }
    const http = { pathPrefix: path, methods: ['GET', 'POST'], header: [{ name: 'x-team', exact: 'red' }] }
    return { match: { http }, destination }
  })
}

export function routingOf(count: number): RoutingPlan {
  const router = configEntryKinds['service-router'].parse({ kind: 'service-router', name: 'web', routes: routesOf(count) })
  const splits = [90, 10].map((weight, i) => ({ weight, service: `leg-${i}` }))
  const splitter = configEntryKinds['service-splitter'].parse({ kind: 'service-splitter', name: 'split', splits })
  const global = configEntryKinds['proxy-defaults'].parse({ kind: 'proxy-defaults', config: { protocol: 'http' } })
  const compiled = compileChain(
    { service: 'web', datacenter: 'dc1', trustDomain: 'local.consul' },
    {
      router: name => (name === 'web' ? router : undefined),
      splitter: name => (name === 'split' ? splitter : undefined),
      resolver: () => undefined,
      serviceDefaults: () => undefined,
      proxyDefaults: () => global,
    },
  )
  if (!compiled.ok) throw new Error(compiled.problem)
  return compileRouting(compiled.chain, [])
}

const headers = ['host', 'api', 'user-agent', 'bench/1', 'accept', '*/*', 'x-team', 'red', 'content-type', 'application/json']

/** Requests for the last routes, which a scan would reach last, and for none. */
function requestsOf(count: number): RouteFacts[] {
  const paths = [count - 1, count - 2, count - 3].map(i => `/v1/tenant-${i}/items`)
  return [...paths, '/v1/elsewhere'].map(path => ({ method: 'GET', path, target: `${path}?limit=20`, headers }))
}

export function routingCases(count: number): Case[] {
  const routing = routingOf(count)
  const requests = requestsOf(count)
  return [
    {
      name: `route: ${count} routes`,
      run: times => {
        let found = 0
        for (let i = 0; i < times; i++) if (route(routing, requests[i & 3]!) !== undefined) found += 1
        return found
      },
    },
  ]
}

/** What one request costs its two sidecars in decisions: authorize + route + split + pick. */
export function wholeCase(routes: number, intentions: number): Case {
  const routing = routingOf(routes)
  const requests = requestsOf(routes)
  const { authorizer, upstreams } = planOf(intentions, 100)
  const callers = Array.from({ length: Math.min(64, authorizerLimits.maxKnownCallers) }, (_, i) =>
    callerOf(i * Math.floor((intentions - 2) / 64)),
  )
  const { picker } = upstreams.get(names.upstream('up-7', 'east'))!
  return {
    name: `authorize + route + pick, ${routes} routes, ${intentions} intentions`,
    run: times => {
      let ports = 0
      for (let i = 0; i < times; i++) {
        const request = requests[i & 3]!
        if (authorizer.authorize(callers[i & 63]!, request).allow) ports += 1
        const { next } = route(routing, request)!
        const resolver = next.kind === 'split' ? chooseLeg(next, (i & 1023) / 1024).resolver : next
        ports += picker.pick()!.port + resolver.targets.length
      }
      return ports
    },
  }
}
