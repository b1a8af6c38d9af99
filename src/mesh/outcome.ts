/**
 * What config entries alone decide about a call: its route, the targets that it may end at, and the intention that judges it at each. For
 * tests of entries and for what a change would change; endpoints, health and certificates have no part in it. Chains, routes and
 * intentions are compiled by the functions that a proxy runs, and each but once.
 */
import { compileIntentions, type Authorizer, type Decision } from './authorize.ts'
import { isHttpLike, protocolOf } from './protocol.ts'
import { compileChain } from './discovery-chain-compiler.ts'
import type { DiscoveryChain } from './discovery-chain.ts'
import type { EntrySet } from './entry-set.ts'
import { consumersIn, leadsTo, withinCluster } from './exported.ts'
import { forwarded } from './forwarded.ts'
import { compileSources } from './intention-sources.ts'
import type { TokenReader } from './jwt.ts'
import { compileRouting, route, type LegPlan, type ResolverPlan, type RoutingPlan } from './routing.ts'
import type { RouteFacts } from './route-table.ts'
import { serviceId } from './spiffe.ts'
import type { ServiceName, Verdict } from './why-report.ts'
import { targetName } from './why-route.ts'

/** Of the cluster whose entries they are. */
export interface OutcomeContext {
  datacenter: string
  defaultAction: 'allow' | 'deny'
}

export interface OutcomeCall {
  source: ServiceName
  destination: ServiceName
  request: RouteFacts
  /** Claims that a request proves; without it no token is valid. */
  tokens?: TokenReader | undefined
}

export interface TargetOutcome {
  /** `api`, `api (v2)`, `api@west`. */
  target: string
  verdict: Verdict
  /** `web => api`; empty where no intention decided. */
  rule: string
  permission?: number
  text: string
}

export interface Outcome {
  verdict: Verdict
  text: string
  /** `service-router/api[0]`; empty where no route was taken. */
  route: string
  targets: TargetOutcome[]
}

const ownDomain = 'this.cluster'
const peerDomain = (peer: string) => `${peer}.peer`

type Way = { chain: DiscoveryChain; routing: RoutingPlan } | { problem: string }

export class Outcomes {
  readonly #entries: EntrySet
  readonly #context: OutcomeContext
  readonly #ways = new Map<string, Way>()
  readonly #judges = new Map<string, { authorizer: Authorizer; httpLike: boolean }>()

  constructor(entries: EntrySet, context: OutcomeContext) {
    this.#entries = entries
    this.#context = context
  }

  of(call: OutcomeCall): Outcome {
    const { source, destination, request } = call
    if (destination.peer !== '') return settled('', [this.#theirs(destination)])
    const exported = this.#exported(destination.service)
    if (source.peer !== '' && !exported.includes(source.peer)) {
      return nowhere('unreachable', `${destination.service} is not exported to ${source.peer}`)
    }
    const way = this.#way(destination.service, source.peer !== '')
    if ('problem' in way) return nowhere('unreachable', way.problem)
    const taken = route(way.routing, request)
    if (taken === undefined) return nowhere('unreachable', 'no route matches the request')
    const legs: (LegPlan | undefined)[] = taken.next.kind === 'split' ? [...taken.next.legs] : [undefined]
    const targets = legs.map(leg => {
      const resolver = leg?.resolver ?? (taken.next as ResolverPlan)
      return this.#target(resolver.targets[0] ?? '', way.chain, { ...call, request: forwarded(request, taken, leg) })
    })
    return settled(taken.entry, targets)
  }

  #exported(service: string): string[] {
    return consumersIn(this.#entries.get('exported-services', 'default'), service)
  }

  #way(service: string, fromPeer: boolean): Way {
    const key = `${fromPeer ? 'peer' : 'own'}/${service}`
    let way = this.#ways.get(key)
    if (way === undefined) {
      const compiled = compileChain({ service, datacenter: this.#context.datacenter, trustDomain: ownDomain }, this.#entries)
      if (compiled.ok) {
        const chain = fromPeer ? withinCluster(compiled.chain) : compiled.chain
        way = { chain, routing: compileRouting(chain, []) }
      } else way = { problem: compiled.problem }
      this.#ways.set(key, way)
    }
    return way
  }

  #target(id: string, chain: DiscoveryChain, call: OutcomeCall): TargetOutcome {
    const target = chain.targets[id]
    const name = targetName(chain, id)
    if (target === undefined)
      return { target: name, verdict: 'unreachable', rule: '', text: 'callers of a peer are not led out of the cluster' }
    const { service, peer = '' } = target
    if (peer !== '') return this.#theirs({ service, peer })
    if (target.datacenter !== chain.datacenter) return { target: name, verdict: 'unreachable', rule: '', text: 'in another datacenter' }
    const { authorizer, httpLike } = this.#judge(service)
    const { source, request, tokens } = call
    const domain = source.peer === '' ? ownDomain : peerDomain(source.peer)
    const principal = authorizer.identify(serviceId(domain, 'dc', source.service))
    const decision = principal && authorizer.authorize(principal, httpLike ? request : undefined, tokens)
    if (decision === undefined) return { target: name, verdict: 'deny', rule: '', text: `${source.peer} may not come in at ${service}` }
    return { target: name, ...outcomeOf(decision) }
  }

  /** A peer decides by its own entries. */
  #theirs({ service, peer }: ServiceName): TargetOutcome {
    return { target: `${service}@${peer}`, verdict: 'unknown', rule: '', text: `the intentions of ${peer} are not here` }
  }

  #judge(service: string) {
    let judge = this.#judges.get(service)
    if (judge === undefined) {
      const httpLike = isHttpLike(protocolOf(this.#entries.serviceDefaults(service), this.#entries.proxyDefaults()))
      const { sources } = compileSources(name => this.#entries.get('service-intentions', name), service)
      const peers = new Map(this.#callers(service).map(peer => [peer, { trustDomain: peerDomain(peer), exportedPartition: '' }]))
      const { defaultAction } = this.#context
      const authorizer = compileIntentions(sources, { localTrustDomain: ownDomain, peers, defaultAction, httpLike })
      this.#judges.set(service, (judge = { authorizer, httpLike }))
    }
    return judge
  }

  /** Peers whose callers may come to a service: by its own name, or by one whose chain leads to it. */
  #callers(service: string): string[] {
    const peers = new Set(this.#exported(service))
    for (const kind of ['service-router', 'service-splitter', 'service-resolver'] as const) {
      for (const { name } of this.#entries.all(kind)) {
        const way = this.#way(name, true)
        if ('chain' in way && leadsTo(way.chain, service)) for (const peer of this.#exported(name)) peers.add(peer)
      }
    }
    return [...peers]
  }
}

function outcomeOf(decision: Decision): Omit<TargetOutcome, 'target'> {
  const { allow, rule, permission, reason, malformed, unproven, audited } = decision
  const at = permission === undefined ? '' : `, permission ${permission}`
  const why = malformed
    ? 'the path is malformed'
    : reason === 'default'
      ? 'by the default'
      : reason === 'peer-default'
        ? 'callers of a peer are denied by default'
        : unproven
          ? `${rule} asks for a token`
          : `${rule}${at}${audited ? ', which is only being tried out' : ''}`
  return { verdict: allow ? 'allow' : 'deny', rule, ...(permission === undefined ? {} : { permission }), text: why }
}

function nowhere(verdict: Verdict, text: string): Outcome {
  return { verdict, text, route: '', targets: [] }
}

function settled(entry: string, targets: TargetOutcome[]): Outcome {
  const verdicts = new Set(targets.map(each => each.verdict))
  const verdict = verdicts.size === 1 ? targets[0]!.verdict : 'depends'
  const text = targets.map(each => `${each.target}: ${each.verdict} (${each.text})`).join('; ')
  return { verdict, text, route: entry, targets }
}
