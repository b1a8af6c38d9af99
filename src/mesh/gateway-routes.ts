/**
 * A gateway's tables: which SNI goes where, by address. Explicit rows only; a row whose name does not belong to the cluster that it
 * says it belongs to is refused, and so are all rows of a name that two of them claim (DESIGN 6, spec/data-plane.md 5.4).
 */
import type { Memo } from './memo.ts'
import type { EndpointsPlan, GatewayRoute } from './plan.ts'
import { internalSni, isExternalSniOf, isPeeringServerName, peeringServerName } from './sni.ts'
import type { Self, SniRoute } from './snapshot.ts'

export interface RouteRow {
  scope: GatewayRoute['scope']
  version: string
  value: SniRoute
}

interface RouteContext {
  self: Self
  /** By peer; our own under ''. */
  trustDomains: ReadonlyMap<string, string>
  /** Names of what requests may go on by. */
  ways: ReadonlySet<string>
  memo: Memo
  endpoints(name: string): EndpointsPlan
  endpointsVersion(name: string): string
}

interface Tables {
  wan: Map<string, GatewayRoute>
  lan: Map<string, GatewayRoute>
  problems: string[]
}

export function compileRoutes(rows: readonly RouteRow[], context: RouteContext): Tables {
  const { self, memo } = context
  const problems: string[] = []
  const claims = new Map<string, number>()
  for (const { value } of rows) claims.set(value.sni.toLowerCase(), (claims.get(value.sni.toLowerCase()) ?? 0) + 1)
  const wan = new Map<string, GatewayRoute>()
  const lan = new Map<string, GatewayRoute>()
  for (const { scope, version, value } of rows) {
    const sni = value.sni.toLowerCase()
    const problem = claims.get(sni)! > 1 ? 'claimed more than once' : rowProblem(scope, value, context)
    if (problem !== undefined) {
      problems.push(`${scope} ${value.sni}: ${problem}: refused`)
      continue
    }
    const route = memo.part(`${scope}/${sni}`, `${version}/${context.endpointsVersion(value.endpoints)}`, (): GatewayRoute => {
      const { endpoints, picker } = context.endpoints(value.endpoints)
      const { service, peer, upstream } = value
      return { sni, service, peer, scope, endpoints, picker, ...(upstream === undefined ? {} : { upstream }) }
    })
    lan.set(sni, route)
    if (scope === 'exported' || scope === 'server' || self.lanNamesOnWan) wan.set(sni, route)
  }
  return { wan, lan: hasOwnLan(self) ? lan : wan, problems }
}

/** Where WAN and LAN callers come in at one address they cannot be told apart: everybody is a stranger. */
function hasOwnLan({ listen, wan }: Self): boolean {
  return wan !== undefined && (wan.address !== listen.address || wan.port !== listen.port)
}

function rowProblem(scope: GatewayRoute['scope'], row: SniRoute, { self, trustDomains, ways }: RouteContext): string | undefined {
  const { datacenter, trustDomain } = self
  // Passed through instead, its requests would escape what was to be done with them.
  if (row.upstream !== undefined && (scope !== 'exported' || !ways.has(row.upstream))) return `no upstream ${row.upstream} for its requests`
  if (scope === 'server') return sameName(row.sni, peeringServerName(datacenter, trustDomain)) ? undefined : 'not our peering server'
  if (scope === 'peer-server') {
    const own = sameName(row.sni, peeringServerName(datacenter, trustDomain))
    return isPeeringServerName(row.sni) && !own ? undefined : "not the name of another cluster's peering server"
  }
  if (scope === 'internal') {
    return sameName(row.sni, internalSni(row.service, datacenter, trustDomain)) ? undefined : `not the internal name of ${row.service}`
  }
  if (scope === 'exported') return isExternalSniOf(row.sni, trustDomain) ? undefined : 'not an external name in our own trust domain'
  const theirs = trustDomains.get(row.peer)
  if (row.peer === '' || theirs === undefined) return `no trust bundle of peer ${row.peer} yet`
  return isExternalSniOf(row.sni, theirs) ? undefined : `not an external name in the trust domain ${theirs} of peer ${row.peer}`
}

function sameName(a: string, b: string): boolean {
  return a.toLowerCase() === b.toLowerCase()
}
