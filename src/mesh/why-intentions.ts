/**
 * The last step of `why`: the intention that a caller is judged by, and why each of the others does not count. The decision itself is the
 * authorizer's, asked exactly as the sidecar asks it.
 */
import { ruleOf, type Decision, type RuleView } from './authorize.ts'
import { isHttpLike } from './protocol.ts'
import type { TokenExplainer } from './jwt.ts'
import type { PermissionMatch } from './permission.ts'
import type { SidecarPlan } from './plan.ts'
import type { RouteFacts } from './route-table.ts'
import type { Intentions } from './snapshot.ts'
import { shown, type Provenance, type ServiceName, type WhyCode, type WhyRule, type WhyStep } from './why-report.ts'

/** The sidecar of a service that is called, as it judges. */
export interface Judge {
  plan: SidecarPlan
  intentions: Intentions
  /** Those of a request. */
  tokens(request: RouteFacts): TokenExplainer
}

export interface Judged {
  caller: ServiceName
  /** The URI that its leaf carries. */
  uri: string
  request: RouteFacts
}

type Source = Intentions['sources'][number]
type IndexOf = (kind: 'service-intentions', name: string) => number | undefined

export function explainIntentions({ plan, intentions, ...judge }: Judge, { caller, uri, request }: Judged, indexOf: IndexOf): WhyStep {
  const { service, protocol } = plan.self
  const facts = isHttpLike(protocol) ? request : undefined
  const principal = plan.authorizer.identify(uri)
  const tokens = judge.tokens(request)
  const decision: Decision = principal ? plan.authorizer.authorize(principal, facts, tokens) : nobody
  const view = principal && plan.authorizer.explain(principal, request, tokens)
  const rules = intentions.sources.map(source => ruleView(source, { caller, decision, view, facts, indexOf }))
  const decides = rules.find(rule => rule.decides)
  const from: Provenance[] = decides ? [{ entry: decides.entry, index: decides.index }] : []
  const about = { caller, service, decides, view, plan }
  const code = codeOf(decision)
  const { text, next } = wordsOf(decision, about)
  const judged = facts === undefined ? `the connection is judged and no request in it (${protocol}): ` : ''
  return {
    step: 'intentions',
    state: decision.allow ? (decision.audited ? 'warning' : 'ok') : 'failed',
    ...(code ? { code } : {}),
    text: `${judged}${text}`,
    ...(from.length > 0 ? { from } : {}),
    intentions: rules,
    ...(next === '' ? {} : { next }),
  }
}

const nobody: Decision = { allow: false, reason: 'identity', rule: '' }

function codeOf({ allow, audited, malformed, unproven, reason, permission }: Decision): WhyCode | undefined {
  if (audited) return 'audited'
  if (allow) return undefined
  if (malformed) return 'malformed-path'
  if (unproven) return 'token-needed'
  if (reason === 'identity') return 'unknown-identity'
  if (reason !== 'intention') return 'denied-by-default'
  return permission === undefined ? 'denied' : 'denied-permission'
}

interface Looked {
  caller: ServiceName
  decision: Decision
  view: RuleView | undefined
  facts: RouteFacts | undefined
  indexOf: IndexOf
}

function ruleView(source: Source, { caller, decision, view, facts, indexOf }: Looked): WhyRule {
  const rule = ruleOf(source)
  const decides = view !== undefined && view.rule === rule
  const told = {
    rule,
    entry: `service-intentions/${source.destination}`,
    index: indexOf('service-intentions', source.destination) ?? 0,
    precedence: source.precedence,
    decides,
  }
  if (!decides) return { ...told, why: otherReason(source, caller) }
  const list = source.permissions ?? []
  if (list.length === 0) return { ...told, why: view.unmet ?? `${source.action === 'allow' ? 'allows' : 'denies'} every call` }
  if (facts === undefined) return { ...told, why: 'has permissions, which deny where there is no request to hold them against' }
  const permissions = view.permissions.map(each => permissionView(each, source, decision))
  const none = decision.permission === undefined && !decision.unproven && !decision.malformed
  return { ...told, why: view.unmet ?? (none ? 'no permission matches' : ''), permissions }
}

/** Why a source is not the one that counts. */
function otherReason(source: Source, caller: ServiceName): string {
  const peer = source.peer ?? ''
  if (peer !== caller.peer) return peer === '' ? 'is about callers of this cluster' : `is about callers of peer ${peer}`
  if (source.name !== '*' && source.name !== caller.service) return `is about ${source.name}`
  return 'another that is more particular counts'
}

function permissionView({ permission, allow, matches, why }: PermissionMatch, source: Source, decision: Decision) {
  const { http = {}, action } = source.permissions![permission]!
  const { pathExact, pathPrefix, pathRegex, methods = [] } = http
  const asked: Record<string, string> = { method: methods.join(','), path: pathExact || pathPrefix || pathRegex || '' }
  const told = why.startsWith('header ') ? why : why in asked ? `${why} ${asked[why]}` : undefined
  return {
    permission,
    action: action || (allow ? 'allow' : 'deny'),
    matches,
    decides: decision.permission === permission,
    why: told === undefined ? why : `${told} does not match`,
  }
}

interface About {
  caller: ServiceName
  service: string
  decides: WhyRule | undefined
  view: RuleView | undefined
  plan: SidecarPlan
}

/** What happened, and what the operator can do about it. */
function wordsOf(decision: Decision, { caller, service, decides, view, plan }: About): { text: string; next: string } {
  const who = shown(caller)
  const allowIt = `allow it in service-intentions/${service}: ${entryFor(caller, service)}`
  if (decision.malformed)
    return { text: 'the path is malformed and is answered with 400', next: 'send a path without %00, fragments or encoded dot segments' }
  const at = decision.permission === undefined ? '' : `, permission ${decision.permission}`
  if (decision.audited) {
    return {
      text: `${decision.rule}${at} would deny it, but is only being tried out`,
      next: `take isthmus-audit out of ${decides?.entry}'s Meta to enforce it`,
    }
  }
  if (decision.unproven) {
    const lacking = view?.unmet ?? view?.permissions.find(({ matches, why }) => !matches && why.startsWith('jwt-provider/'))?.why ?? ''
    return {
      text: `${decision.rule} asks for a token: ${lacking}`,
      next: 'send a valid token of that provider, or change what the entry asks for',
    }
  }
  if (decision.reason === 'identity') {
    const text = `${who} is nobody that may come in at ${service}`
    const next =
      caller.peer === ''
        ? 'its certificate must be one of this cluster'
        : `export ${service} to ${caller.peer}, and see that the peering is up`
    return { text, next }
  }
  const outcome = decision.allow ? 'allows' : 'denies'
  if (decision.reason === 'intention')
    return { text: `${decision.rule}${at} ${outcome} it`, next: decision.allow ? '' : `${allowIt}, or change ${decides?.entry}` }
  const fallback =
    decision.reason === 'peer-default'
      ? 'callers of a peer are denied by default'
      : `the default ${outcome} it (default_intention_policy ${plan.self.defaultAction})`
  const text =
    decides === undefined
      ? `no intention is about ${who} calling ${service}; ${fallback}`
      : `no permission of ${decides.rule} matches; ${fallback}`
  return { text, next: decision.allow ? '' : allowIt }
}

function entryFor({ service, peer }: ServiceName, destination: string): string {
  const source = { Name: service, ...(peer === '' ? {} : { Peer: peer }), Action: 'allow' }
  return JSON.stringify({ Kind: 'service-intentions', Name: destination, Sources: [source] })
}
