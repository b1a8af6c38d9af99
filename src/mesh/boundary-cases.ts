/**
 * Requests on either side of every boundary that rules draw: for each permission and route one that matches, and for each part of it one
 * that just does not. What two sets of entries decide about them tells how the sets differ, as far as their own rules go; a regex of which
 * no example can be made is named, so that nobody takes silence for sameness.
 */
import type { JwtRequirement, Permission } from './intention-entry.ts'
import type { HeaderMatch } from './entry-members.ts'
import type { EntrySet } from './entry-set.ts'
import { compileRegex } from './header-match.ts'
import type { Claims } from './jwt.ts'
import type { RouteMatch } from './routing-entry.ts'
import { shown, type ServiceName } from './why-report.ts'

export interface BoundaryCase {
  source: ServiceName
  destination: ServiceName
  method: string
  target: string
  headers: [string, string][]
  /** What its token proves, by provider. */
  claims: Record<string, Claims>
}

export const boundaryLimits = { cases: 200_000, requestsPerName: 5000 } as const

export interface BoundaryCases {
  cases: BoundaryCase[]
  /** Regexes of which no example could be made. */
  unsampled: string[]
  /** There would have been more. */
  cut: boolean
}

type Rule = Pick<RouteMatch, 'pathExact' | 'pathPrefix' | 'pathRegex' | 'header' | 'methods' | 'queryParam'> & {
  jwt?: JwtRequirement | undefined
}
type Request = Omit<BoundaryCase, 'source' | 'destination'>

/** A name that no service has. */
const anybodyElse = 'any-other-service'

/** `services`: names besides those that the entries know. */
export function boundaryCases(sets: readonly EntrySet[], services: readonly string[]): BoundaryCases {
  const unsampled = new Set<string>()
  const cases: BoundaryCase[] = []
  let cut = false
  const rules = new Map<string, Rule[]>()
  for (const name of destinationsOf(sets, services)) rules.set(name, rulesOf(sets, name))
  const sources = sourcesOf(sets, services)
  for (const [service, list] of rules) {
    const requests = requestsOf(list, unsampled)
    cut ||= requests.length > boundaryLimits.requestsPerName
    for (const source of sources) {
      if (source.service === service && source.peer === '') continue
      for (const request of requests.slice(0, boundaryLimits.requestsPerName)) {
        if (cases.length >= boundaryLimits.cases) return { cases, unsampled: [...unsampled], cut: true }
        cases.push({ source, destination: { service, peer: '' }, ...request })
      }
    }
  }
  return { cases, unsampled: [...unsampled], cut }
}

const chainKinds = ['service-router', 'service-splitter', 'service-resolver'] as const

function destinationsOf(sets: readonly EntrySet[], services: readonly string[]): Set<string> {
  const names = new Set(services)
  for (const set of sets) {
    for (const kind of [...chainKinds, 'service-intentions', 'service-defaults'] as const)
      for (const { name } of set.all(kind)) names.add(name)
    for (const { services: rows } of set.all('exported-services')) for (const { name } of rows) names.add(name)
  }
  // Whom `*` is about is everybody, and somebody of whom nothing else is said.
  if (names.delete('*') || names.size === 0) names.add(anybodyElse)
  names.delete('consul')
  return names
}

function sourcesOf(sets: readonly EntrySet[], services: readonly string[]): ServiceName[] {
  const found = new Map<string, ServiceName>()
  const add = (service: string, peer: string) => {
    const name = { service: service === '*' ? anybodyElse : service, peer }
    found.set(shown(name), name)
  }
  add('*', '')
  for (const service of services) add(service, '')
  for (const set of sets) {
    for (const { sources } of set.all('service-intentions')) for (const { name, peer = '' } of sources) add(name, peer)
    for (const { services: rows } of set.all('exported-services')) {
      for (const { consumers } of rows) for (const { peer = '' } of consumers) if (peer !== '') add('*', peer)
    }
  }
  for (const { peer } of found.values()) if (peer !== '') add('*', peer)
  return [...found.values()]
}

/** What is asked of requests for a name on their whole way: by its routes, and by the intentions of everybody they may end at. */
function rulesOf(sets: readonly EntrySet[], name: string): Rule[] {
  return sets.flatMap(set => {
    const { names, rewrites } = reachedFrom(set, name)
    const routes = [...names].flatMap(each => set.router(each)?.routes ?? [])
    const judged = [...names, '*'].flatMap(each => {
      const entry = set.get('service-intentions', each)
      if (entry === undefined) return []
      const permissions = entry.sources.flatMap(source => source.permissions ?? [])
      return [...(entry.jwt ? [{ jwt: entry.jwt }] : []), ...permissions.map(ruleOf)]
    })
    // The intention sees a path that the caller did not write.
    const before = judged.flatMap(rule => rewrites.flatMap(({ from, to }) => unrewritten(rule, from, to)))
    return [...routes.map(({ match }) => match?.http ?? {}), ...judged, ...before]
  })
}

function ruleOf({ http = {}, jwt }: Permission): Rule {
  return jwt === undefined ? http : { ...http, jwt }
}

interface Rewritten {
  from: string
  to: string
}

function reachedFrom(set: EntrySet, name: string): { names: Set<string>; rewrites: Rewritten[] } {
  const names = new Set([name])
  const rewrites: Rewritten[] = []
  for (const each of names) {
    for (const { match, destination = {} } of set.router(each)?.routes ?? []) {
      if (destination.service) names.add(destination.service)
      const from = match?.http?.pathPrefix || match?.http?.pathExact
      if (from && destination.prefixRewrite) rewrites.push({ from, to: destination.prefixRewrite })
    }
    for (const { service } of set.splitter(each)?.splits ?? []) if (service) names.add(service)
    const redirect = set.resolver(each)?.redirect?.service
    if (redirect) names.add(redirect)
  }
  return { names, rewrites }
}

function unrewritten(rule: Rule, from: string, to: string): Rule[] {
  const path = rule.pathExact || rule.pathPrefix
  if (!path?.startsWith(to)) return []
  const original = from + path.slice(to.length)
  return [rule.pathExact ? { ...rule, pathExact: original } : { ...rule, pathPrefix: original }]
}

function requestsOf(rules: readonly Rule[], unsampled: Set<string>): Request[] {
  const methods = methodsOf(rules)
  const found = new Map<string, Request>()
  const add = (request: Request) => found.set(JSON.stringify(request), request)
  for (const rule of [{}, ...rules]) {
    const headerSets = headersOf(rule, unsampled)
    const tokens = [{}, ...(rule.jwt ? [claimsFor(rule.jwt)] : [])]
    for (const path of pathsOf(rule, unsampled)) {
      for (const query of queriesOf(rule, unsampled)) {
        for (const method of methods)
          for (const headers of headerSets) for (const claims of tokens) add({ method, target: path + query, headers, claims })
      }
    }
  }
  return [...found.values()]
}

/** Every method that a rule names, and one that none does. */
function methodsOf(rules: readonly Rule[]): string[] {
  const named = new Set(rules.flatMap(({ methods = [] }) => methods))
  const other = ['GET', 'POST', 'DELETE', 'PATCH', 'PUT', 'HEAD', 'OPTIONS'].find(method => !named.has(method)) ?? 'QUERY'
  return [...named, other]
}

function pathsOf({ pathExact, pathPrefix, pathRegex }: Rule, unsampled: Set<string>): string[] {
  const path = pathExact || pathPrefix
  if (path)
    return [...new Set([path, `${path}x`, `${path.replace(/\/$/, '')}/x`, path.slice(0, -1) || '/'])].filter(each => each.startsWith('/'))
  if (!pathRegex) return ['/']
  const example = exampleOf(pathRegex, unsampled)
  return example?.startsWith('/') ? [example, `${example}x`, '/'] : ['/']
}

function queriesOf({ queryParam = [] }: Rule, unsampled: Set<string>): string[] {
  if (queryParam.length === 0) return ['']
  const pairs = queryParam.map(
    ({ name, exact, regex }) =>
      `${encodeURIComponent(name)}=${encodeURIComponent(exact || (regex ? (exampleOf(regex, unsampled) ?? '') : 'x'))}`,
  )
  return [`?${pairs.join('&')}`, '']
}

/** All as they are asked for, and for each one set in which only that one is not. */
function headersOf({ header = [] }: Rule, unsampled: Set<string>): [string, string][][] {
  const matching = header.map(match => headerFor(match, unsampled, false))
  const set = (at: number) => matching.flatMap((pair, i) => (i === at ? headerFor(header[i]!, unsampled, true) : pair) ?? [])
  const flat = (list: string[]): [string, string][] =>
    list.flatMap((_, i) => (i % 2 === 0 ? [[list[i]!, list[i + 1]!] as [string, string]] : []))
  return [flat(set(-1)), ...header.map((_, i) => flat(set(i)))]
}

/** A header that matches, or with `miss` one that does not; undefined stands for none. */
function headerFor(match: HeaderMatch, unsampled: Set<string>, miss: boolean): [string, string] | undefined {
  const { name, present, exact, prefix, suffix, regex, invert = false } = match
  const wanted = invert === miss
  if (present) return wanted ? [name, 'x'] : undefined
  const value = exact || (prefix ? `${prefix}x` : suffix ? `x${suffix}` : regex ? exampleOf(regex, unsampled) : '')
  return wanted ? [name, value ?? ''] : [name, 'none-of-them']
}

function claimsFor({ providers }: JwtRequirement): Record<string, Claims> {
  const all = noClaims<Claims>()
  for (const { name, verifyClaims = [] } of providers) {
    const claims = noClaims<unknown>()
    for (const { path, value } of verifyClaims) {
      let at = claims
      for (const key of path.slice(0, -1)) at = at[key] = objectAt(at, key)
      at[path.at(-1) ?? ''] = value
    }
    all[name] = claims
  }
  return all
}

/** Claims have names that others choose, and no prototype that one of them could be. */
function noClaims<V>(): Record<string, V> {
  return Object.create(null) as Record<string, V>
}

function objectAt(object: Record<string, unknown>, key: string): Record<string, unknown> {
  const found = object[key]
  return typeof found === 'object' && found !== null ? (found as Record<string, unknown>) : noClaims()
}

/** What the usual pieces of a regex may stand for; whatever comes out is tried. */
const pieces: readonly (readonly [RegExp, string])[] = [
  [/^\^|\$$/g, ''],
  [/\((?:\?:)?([^()|]*)(?:\|[^()]*)?\)/g, '$1'],
  [/\[\^[^\]]*\](?:[+*]|\{\d+(?:,\d*)?\})?/g, 'x'],
  [/\[0-9\](?:[+*]|\{\d+(?:,\d*)?\})?|\\d[+*]?/g, '1'],
  [/\[([A-Za-z])[^\]]*\](?:[+*]|\{\d+(?:,\d*)?\})?/g, '$1'],
  [/\\w[+*]?/g, 'x'],
  [/\.[+*]/g, 'x'],
  [/([^\\])[?*]/g, '$1'],
  [/\+/g, ''],
  [/\\(.)/g, '$1'],
]

/** A text that the regex matches; undefined, and noted, where none was found. */
function exampleOf(pattern: string, unsampled: Set<string>): string | undefined {
  const regex = compileRegex(pattern)
  let text = pattern
  const candidates = [text]
  for (const [piece, stands] of pieces) candidates.push((text = text.replace(piece, stands)))
  const found = candidates.findLast(candidate => regex?.testExact(candidate))
  if (found === undefined) unsampled.add(pattern)
  return found
}
