/**
 * The RBAC filter that Consul 1.16 writes into an Envoy for a service's intentions: for tests, which hold it against what was recorded
 * (golden/envoy). Envoy knows no precedence and only one action in a filter, so every source and every permission excludes what comes before
 * it, and those that say what the default says are left out.
 */
import type { JwtRequirement, Permission, ServiceIntentions } from '../../src/mesh/intention-entry.ts'
import type { HeaderMatch } from '../../src/mesh/entry-members.ts'

type Source = ServiceIntentions['sources'][number]
export type Action = 'allow' | 'deny'

export interface RbacContext {
  default: Action
  protocol: 'http' | 'tcp'
  trustDomain: string
  /** Those whose trust bundle is known; sources of any other are left out. */
  peers: Readonly<Record<string, { trustDomain: string; exportedPartition: string }>>
  /** Of the JWT providers, by name. */
  issuers: Readonly<Record<string, string>>
}

/** A part of Envoy's configuration, as its JSON. */
type Part = Record<string, unknown>
/** `config.rbac.v3.RBAC`, in the form of a dump: what is the default is not there. */
export interface Rules {
  action?: 'DENY'
  policies?: Record<string, { permissions: Part[]; principals: Part[] }>
}

interface Ruling {
  source: Source
  jwt: JwtRequirement | undefined
  /** Sources of higher precedence that are a part of this one. */
  except: Source[]
}

/** `entries`: the service's own and those of `*`. */
export function rbacOf(entries: readonly ServiceIntentions[], context: RbacContext): Rules {
  const policies: NonNullable<Rules['policies']> = {}
  const plain: Part[] = []
  const rulings = rulingsOf(entries, context).filter(ruling => !isDefault(ruling.source, context))
  const kept = rulings.flatMap(ruling => {
    const permissions = permissionsOf(ruling.source, context)
    return permissions?.length === 0 ? [] : [{ principal: principalOf(ruling, context), permissions }]
  })
  for (const [i, { principal, permissions }] of kept.entries()) {
    if (permissions === undefined) plain.push(principal)
    else policies[`consul-intentions-layer7-${i}`] = { permissions, principals: [principal] }
  }
  if (plain.length > 0) policies['consul-intentions-layer4'] = { permissions: [{ any: true }], principals: plain }
  return {
    ...(context.default === 'allow' ? { action: 'DENY' } : {}),
    ...(Object.keys(policies).length > 0 ? { policies } : {}),
  }
}

function rulingsOf(entries: readonly ServiceIntentions[], context: RbacContext): Ruling[] {
  const all = entries.flatMap(entry => entry.sources.map(source => ({ source, jwt: entry.jwt })))
  const rulings: Ruling[] = []
  for (const { source, jwt } of all.sort((a, b) => b.source.precedence - a.source.precedence || byName(a.source, b.source))) {
    if (source.peer && context.peers[source.peer] === undefined) continue
    const before = rulings.map(ruling => ruling.source).filter(each => (each.peer ?? '') === (source.peer ?? ''))
    if (before.some(each => each.name === source.name)) continue
    rulings.push({ source, jwt, except: source.name === '*' ? before.toReversed() : [] })
  }
  return rulings
}

function byName(a: Source, b: Source): number {
  const [left, right] = [a, b].map(({ peer = '', name }) => `${peer}/${name}`) as [string, string]
  return left < right ? -1 : left > right ? 1 : 0
}

function isDefault(source: Source, context: RbacContext): boolean {
  if (source.permissions?.length) return context.protocol === 'tcp' && context.default === 'deny'
  return source.action === context.default
}

function principalOf({ source, jwt, except }: Ruling, context: RbacContext): Part {
  const not = except.map(each => ({ not_id: callerOf(each, context) }))
  const caller = allIds([callerOf(source, context), ...not])
  return jwt === undefined ? caller : allIds([caller, tokenOf(jwt, context, allIds, ids => ({ or_ids: { ids } }))])
}

/** A caller of a peer comes to an http service through our own gateway, which names it. */
function callerOf({ name, peer }: Source, context: RbacContext): Part {
  const side = peer ? context.peers[peer]! : { trustDomain: context.trustDomain, exportedPartition: '' }
  const partition = side.exportedPartition === '' ? '' : `/ap/${side.exportedPartition}`
  const uri = `spiffe://${side.trustDomain}${partition}/ns/default/dc/[^/]+/svc/${name === '*' ? '[^/]+' : name}`
  if (!peer || context.protocol === 'tcp') return authenticated(`^${uri}$`)
  const forwarded = { name: 'x-forwarded-client-cert', string_match: { safe_regex: regex(`^[^,]+;URI=${uri}(?:,.*)?$`) } }
  return allIds([authenticated(`^spiffe://${context.trustDomain}/gateway/mesh/dc/[^/]+$`), { header: forwarded }])
}

const regex = (pattern: string): Part => ({ google_re2: {}, regex: pattern })
const authenticated = (pattern: string): Part => ({ authenticated: { principal_name: { safe_regex: regex(pattern) } } })
const allIds = (ids: Part[]): Part => (ids.length === 1 ? ids[0]! : { and_ids: { ids } })
const allRules = (rules: Part[]): Part => (rules.length === 1 ? rules[0]! : { and_rules: { rules } })

/** Undefined where there are none to judge by; empty where all of them say what the default says. */
function permissionsOf({ permissions = [] }: Source, context: RbacContext): Part[] | undefined {
  if (permissions.length === 0 || context.protocol === 'tcp') return undefined
  return permissions.flatMap((permission, i) => {
    if (permission.action === context.default) return []
    const token = permission.jwt && tokenOf(permission.jwt, context, allRules, rules => ({ or_rules: { rules } }))
    // Of those before, without their tokens.
    const not = permissions
      .slice(0, i)
      .toReversed()
      .map(each => ({ not_rule: requestOf(each) }))
    const request = allRules([requestOf(permission), ...not])
    return [token === undefined ? request : allRules([request, token])]
  })
}

function requestOf({ http = {} }: Permission): Part {
  const parts: Part[] = []
  const path = http.pathExact
    ? { exact: http.pathExact }
    : http.pathPrefix
      ? { prefix: http.pathPrefix }
      : http.pathRegex
        ? { safe_regex: regex(http.pathRegex) }
        : undefined
  if (path !== undefined) parts.push({ url_path: { path } })
  for (const header of http.header ?? []) parts.push({ header: headerOf(header) })
  if (http.methods?.length) parts.push({ header: { name: ':method', safe_regex_match: regex(http.methods.join('|')) } })
  return parts.length === 0 ? { any: true } : allRules(parts)
}

function headerOf({ name, exact, regex: pattern, prefix, suffix, invert }: HeaderMatch): Part {
  const test = exact
    ? { exact_match: exact }
    : pattern
      ? { safe_regex_match: regex(pattern) }
      : prefix
        ? { prefix_match: prefix }
        : suffix
          ? { suffix_match: suffix }
          : { present_match: true }
  return { name, ...test, ...(invert ? { invert_match: true } : {}) }
}

/** One of the providers, by its issuer, with every claim that is asked for. */
function tokenOf({ providers }: JwtRequirement, context: RbacContext, all: (parts: Part[]) => Part, any: (parts: Part[]) => Part): Part {
  const each = providers.map(({ name, verifyClaims = [] }) => {
    const claim = (keys: string[], exact: string): Part => ({
      metadata: {
        filter: 'envoy.filters.http.jwt_authn',
        path: [`jwt_payload_${name}`, ...keys].map(key => ({ key })),
        value: { string_match: { exact } },
      },
    })
    const claims = verifyClaims.map(({ path, value }) => claim(path, value))
    // A permission that asks for none says so.
    if (all === allRules && claims.length === 0) claims.push({ any: true })
    return all([claim(['iss'], context.issuers[name] ?? ''), ...claims])
  })
  return each.length === 1 ? each[0]! : any(each)
}
