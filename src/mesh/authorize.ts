/**
 * Who may call this service: intentions compiled so that a decision costs the same with ten as with ten thousand of them
 * (spec/data-plane.md 7). Identities are compared as exact text; the first source by precedence decides; a peer that no source names
 * is denied even where local callers are allowed by default; an identity that no intention can name (a gateway, a server, another
 * partition, an unknown trust domain) has no rights of its own.
 */
import type { JwtRequirement } from './intention-entry.ts'
import type { Intentions } from './snapshot.ts'
import { precedenceOf } from './intention.ts'
import { requirementHolds, unmetRequirement, type TokenExplainer, type TokenReader } from './jwt.ts'
import { judgePath } from './path.ts'
import { Permissions, unmatched, unproven, type HttpFacts, type PermissionMatch } from './permission.ts'
import { parseSpiffeId, type Identity } from './spiffe.ts'

export type { HttpFacts } from './permission.ts'

export interface Principal {
  uri: string
  /** Local name of the peer whose trust domain this is; empty for our own cluster. */
  peer: string
  identity: Identity
}

export interface Decision {
  allow: boolean
  /** `identity`: the caller is nobody that an intention could name. */
  reason: 'intention' | 'default' | 'peer-default' | 'identity'
  /** `web => api`, `peer:east/web => api`; empty where no source matched. */
  rule: string
  /** Index of the L7 permission that decided, if one did. */
  permission?: number
  /** The request would be allowed, but its path is malformed: 400. */
  malformed?: boolean
  /** It would be denied, but the intention is only being tried out: counted and logged, and let in. */
  audited?: boolean
  /** It needs a token that the request does not carry. */
  unproven?: boolean
}

export interface AuthorizeContext {
  localTrustDomain: string
  /** Peers whose callers may come in and whose trust bundle is known. Sources of any other peer match nobody. */
  peers: ReadonlyMap<string, { trustDomain: string; exportedPartition: string }>
  defaultAction: 'allow' | 'deny'
  /** The service carries requests; where it does not, a source with L7 permissions denies. */
  httpLike: boolean
}

export interface Authorizer {
  /** Decides for one caller. `request` undefined is a decision on a connection (L4): L7 permissions then deny. */
  authorize(principal: Principal, request: HttpFacts | undefined, tokens?: TokenReader): Decision
  /** The principal that a verified URI names; undefined for one that may not come in. */
  identify(uri: string): Principal | undefined
  /**
   * Decides for a TLS peer that may speak for somebody else. Only our own mesh gateway may, and only for a caller of a peer: then the
   * first element of `xfcc` (the first X-Forwarded-Client-Cert line) names the caller. For everyone else `xfcc` is not looked at.
   */
  authorizeForwarded(tlsPeer: Principal, xfcc: string | undefined, request: HttpFacts | undefined, tokens?: TokenReader): Decision
  /** For people: how `authorize` comes to its decision on a request. */
  explain(principal: Principal, request: HttpFacts, tokens?: TokenExplainer): RuleView
}

/** The rule that a caller is judged by. */
export interface RuleView {
  /** `web => api`: the first source that is about this caller; empty where none is. */
  rule: string
  /** What every caller must prove and this one does not. */
  unmet: string | undefined
  /** Each permission; empty where there are none, or where the path is malformed. */
  permissions: PermissionMatch[]
}

type Source = Intentions['sources'][number]

/** A compiled source, or what stands in for none. */
interface Rule {
  name: string
  permissions: Permissions | undefined
  /** Without permissions, or where none of them matched. */
  decision: Decision
  /** For a connection without a request: there is nothing to hold permissions against. */
  connection: Decision
  malformed: Decision
  byPermission: readonly Decision[]
  /** Every caller must have such a token besides. */
  requires: JwtRequirement | undefined
  /** For one who has none. */
  unproven: Decision
}

/** The callers of one trust domain. */
interface Side {
  peer: string
  partition: string
  exact: Map<string, Rule>
  otherwise: Rule
}

export function compileIntentions(sources: readonly Source[], context: AuthorizeContext): Authorizer {
  const sides = new Map<string, Side>()
  const byPeer = new Map<string, Side>()
  const localDefault: Decision = { allow: context.defaultAction === 'allow', reason: 'default', rule: '' }
  const add = (peer: string, trustDomain: string, partition: string, decision: Decision) => {
    // Two clusters in one trust domain cannot be told apart: the first, our own before all, keeps it.
    if (sides.has(trustDomain)) return
    const side: Side = { peer, partition: partition || 'default', exact: new Map(), otherwise: plainRule(decision) }
    sides.set(trustDomain, side)
    byPeer.set(peer, side)
  }
  add('', context.localTrustDomain, 'default', localDefault)
  for (const [peer, { trustDomain, exportedPartition }] of context.peers) {
    if (peer !== '') add(peer, trustDomain, exportedPartition, { allow: false, reason: 'peer-default', rule: '' })
  }
  for (const [peer, list] of groupByPeer(sources)) {
    const side = byPeer.get(peer)
    if (side !== undefined) compileSide(side, list, context)
  }
  return new CompiledAuthorizer(sides)
}

function groupByPeer(sources: readonly Source[]): Map<string, Source[]> {
  const groups = new Map<string, Source[]>()
  for (const source of sources) {
    const peer = source.peer ?? ''
    const group = groups.get(peer)
    if (group) group.push(source)
    else groups.set(peer, [source])
  }
  return groups
}

/** In order of precedence; after the first `*` nothing of this side can match any more. */
function compileSide(side: Side, list: Source[], context: AuthorizeContext): void {
  const precedence = (source: Source) => precedenceOf(source.name, source.destination)
  for (const source of list.toSorted((a, b) => precedence(b) - precedence(a))) {
    if (source.name === '*') {
      side.otherwise = compileSource(source, side.otherwise.decision, context.httpLike)
      return
    }
    if (!side.exact.has(source.name)) side.exact.set(source.name, compileSource(source, side.otherwise.decision, context.httpLike))
  }
}

function plainRule(decision: Decision, name = '', requires?: JwtRequirement, unproven: Decision = decision): Rule {
  const malformed = { ...decision, allow: false, malformed: true }
  const connection = requires === undefined ? decision : unproven
  return { name, permissions: undefined, decision, connection, malformed, byPermission: [], requires, unproven }
}

/** What a source is called in decisions. */
export function ruleOf({ peer, name, destination }: Source): string {
  return `${peer ? `peer:${peer}/` : ''}${name} => ${destination}`
}

/** Every decision is made here, once; deciding allocates nothing. */
function compileSource(source: Source, fallback: Decision, httpLike: boolean): Rule {
  const rule = ruleOf(source)
  const deciding = (allow: boolean, more: Partial<Decision> = {}): Decision => {
    const decision: Decision = { allow, reason: 'intention', rule, ...more }
    // What is only being tried out denies nobody.
    return source.audit === true && !allow ? { ...decision, allow: true, audited: true } : decision
  }
  const denied = deciding(false)
  const withoutToken = deciding(false, { unproven: true })
  if (source.permissions === undefined || source.permissions.length === 0) {
    return plainRule(source.action === 'allow' ? deciding(true) : denied, rule, source.jwt, withoutToken)
  }
  if (!httpLike) return plainRule(denied, rule)
  const permissions = new Permissions(source.permissions, fallback.allow)
  return {
    name: rule,
    permissions,
    decision: fallback,
    connection: denied,
    malformed: { allow: false, reason: 'intention', rule, malformed: true },
    byPermission: permissions.allows.map((allow, permission) => deciding(allow, { permission })),
    requires: source.jwt,
    unproven: withoutToken,
  }
}

/** What a caller of our own cluster is told of a denial: the rule. A peer's caller, and whoever is nobody here, learns nothing. */
export function toldOf({ reason, rule, permission, unproven: needsToken }: Decision): string | undefined {
  if (reason === 'default') return 'no intention; default deny'
  if (reason !== 'intention' || rule.startsWith('peer:')) return undefined
  const why = needsToken ? ', a token is needed' : permission === undefined ? '' : `, permission ${permission}`
  // It goes into a header line: names of services are not always ASCII.
  return `${rule}${why}`.replace(/[^ -~]/g, '?')
}

const nobody: Decision = { allow: false, reason: 'identity', rule: '' }
const forNobody = plainRule(nobody)
const forPeers = plainRule({ allow: false, reason: 'peer-default', rule: '' })

/** Callers that an authorizer remembers by their URI; over this it begins anew. */
export const authorizerLimits = { maxKnownCallers: 1024 } as const

class CompiledAuthorizer implements Authorizer {
  readonly #sides: ReadonlyMap<string, Side>
  /** Reading a URI costs more than deciding, and the same few come again with every request. */
  readonly #known = new Map<string, Principal>()

  constructor(sides: ReadonlyMap<string, Side>) {
    this.#sides = sides
  }

  authorize(principal: Principal, request: HttpFacts | undefined, tokens?: TokenReader): Decision {
    return decide(this.#ruleOf(principal), request, tokens)
  }

  explain(principal: Principal, request: HttpFacts, tokens?: TokenExplainer): RuleView {
    const { name, requires, permissions } = this.#ruleOf(principal)
    const path = judgePath(request.path)
    return {
      rule: name,
      unmet: requires && unmetRequirement(requires, tokens),
      permissions: (path && permissions?.explain(request, path, tokens)) ?? [],
    }
  }

  #ruleOf({ identity, peer }: Principal): Rule {
    const side = this.#sides.get(identity.trustDomain)
    if (side === undefined || side.peer !== peer || identity.kind !== 'service') return forNobody
    if (identity.namespace !== 'default' || identity.partition !== side.partition) return side.peer === '' ? forNobody : forPeers
    return side.exact.get(identity.service) ?? side.otherwise
  }

  identify(uri: string): Principal | undefined {
    const known = this.#known.get(uri)
    if (known !== undefined) return known
    const identity = parseSpiffeId(uri)
    const side = identity && this.#sides.get(identity.trustDomain)
    if (identity === undefined || side === undefined) return undefined
    const principal = { uri, peer: side.peer, identity }
    if (this.#known.size >= authorizerLimits.maxKnownCallers) this.#known.clear()
    this.#known.set(uri, principal)
    return principal
  }

  authorizeForwarded(tlsPeer: Principal, xfcc: string | undefined, request: HttpFacts | undefined, tokens?: TokenReader): Decision {
    if (tlsPeer.identity.kind !== 'mesh-gateway' || tlsPeer.peer !== '') return this.authorize(tlsPeer, request, tokens)
    const uri = xfcc === undefined ? undefined : forwardedUri(xfcc)
    const caller = uri === undefined ? undefined : this.identify(uri)
    if (caller === undefined || caller.peer === '' || this.#sides.get(tlsPeer.identity.trustDomain)?.peer !== '') return nobody
    return this.authorize(caller, request, tokens)
  }
}

function decide(rule: Rule, request: HttpFacts | undefined, tokens: TokenReader | undefined): Decision {
  if (request === undefined) return rule.connection
  if (rule.requires !== undefined && !requirementHolds(rule.requires, tokens)) return rule.unproven
  if (rule.permissions === undefined && !rule.decision.allow) return rule.decision
  const path = judgePath(request.path)
  if (path === undefined) return rule.malformed
  if (rule.permissions === undefined) return rule.decision
  const permission = rule.permissions.judge(request, path, tokens)
  if (permission === unproven) return rule.unproven
  return permission === unmatched ? rule.decision : rule.byPermission[permission]!
}

/**
 * The URI of the first element of X-Forwarded-Client-Cert, as a real sidecar reads it (spec/data-plane.md 6): something before it,
 * `;URI=` last in the element, unquoted. Anything else is no caller.
 */
export function forwardedUri(xfcc: string): string | undefined {
  const comma = xfcc.indexOf(',')
  const first = comma === -1 ? xfcc : xfcc.slice(0, comma)
  const at = first.lastIndexOf(';URI=')
  if (at <= 0) return undefined
  const uri = first.slice(at + ';URI='.length)
  return /^[^;"\s]+$/.test(uri) ? uri : undefined
}
