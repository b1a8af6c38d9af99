/**
 * The plan: a snapshot compiled into what the hot path reads. A request keeps the plan it started with; a change makes a new plan,
 * in which only the parts whose resources changed are new objects, so that TLS contexts and pools bound to the others stay valid.
 * What a snapshot says that cannot be true (a peer's name in another trust domain, two owners of one SNI) is refused here, kept out
 * of every table and listed in `problems`; the rest of the plan works on.
 */
import { compileIntentions, type Authorizer } from './authorize.ts'
import {
  defaultBalance,
  defaultCircuitLimits,
  defaultOutlierLimits,
  defaultRetryLimits,
  type Balance,
  type CircuitLimits,
  type OutlierLimits,
  type RetryLimits,
} from './balance/config.ts'
import type { Picker } from './balance/picker.ts'
import { isHashing, pickerOf } from './balance/policy.ts'
import { RequestHash } from './balance/request-hash.ts'
import { RoundRobin } from './balance/round-robin.ts'
import { isHttpLike } from './protocol.ts'
import { compileRoutes } from './gateway-routes.ts'
import { Memo } from './memo.ts'
import { compileRouting, type RoutingPlan } from './routing.ts'
import { isExternalSniOf } from './sni.ts'
import {
  names,
  type ChainResource,
  type Endpoint,
  type JwtProviderResource,
  type Resource,
  type ResourceKind,
  type ResourceValue,
  type Self,
  type UpstreamResource,
} from './snapshot.ts'
import { trustDomainOf } from './spiffe.ts'

/** By `resourceKey`. A deleted resource may stay with a null value or be taken out. */
export type Resources = ReadonlyMap<string, Resource>

export function resourceKey(resource: { kind: string; name: string }): string {
  return `${resource.kind}/${resource.name}`
}

/** The CA roots of one trust domain. */
export interface RootsPlan {
  trustDomain: string
  /** Empty for our own cluster. */
  peer: string
  exportedPartition: string
  pems: readonly string[]
  version: string
}

export interface EndpointsPlan {
  endpoints: readonly Endpoint[]
  picker: Picker
}

export interface UpstreamPlan extends EndpointsPlan {
  name: string
  resource: UpstreamResource
  /** Of the cluster that owns the service; empty while it is not known. */
  trustDomain: string
  spiffeIds: ReadonlySet<string>
  /** Verify the server against these only. */
  rootPems: readonly string[]
  /** Healthy instances behind endpoints that are gateways, where that is known. */
  instances?: number | undefined
  /** Why it must not be dialled, if so. */
  problem: UpstreamProblem | undefined
  /** Where equal requests go to the same endpoint: what makes them equal. */
  hash: RequestHash | undefined
  limits: CircuitLimits
  outlier: OutlierLimits
  retry: RetryLimits
  /** Changes when sessions made for the old one must not be used any more; a change of endpoints alone leaves it. */
  version: string
}

export interface UpstreamProblem {
  code: 'no-trust-bundle' | 'wrong-identity' | 'wrong-sni'
  text: string
}

export interface ChainPlan {
  name: string
  resource: ChainResource
  routing: RoutingPlan
}

export interface SidecarPlan {
  kind: 'sidecar'
  revision: number
  self: Self
  authorizer: Authorizer
  /** The app speaks requests, so each is judged; else the connection is. */
  l7: boolean
  /** By trust domain: our own and every peer's that is known. */
  roots: ReadonlyMap<string, RootsPlan>
  /** Whose identities may come in: our own and those of the peers to which this service is exported. */
  inboundTrustDomains: ReadonlySet<string>
  /** By name: `NAME` or `NAME?peer=PEER`. */
  upstreams: ReadonlyMap<string, UpstreamPlan>
  /** By the name that the app dials. Their targets are among the upstreams. */
  chains: ReadonlyMap<string, ChainPlan>
  /** Whose tokens the intentions ask for, by name. */
  jwtProviders: ReadonlyMap<string, JwtProviderResource>
  problems: readonly string[]
  /** What the next compilation builds on. */
  memo: Memo
}

export interface GatewayRoute extends EndpointsPlan {
  sni: string
  service: string
  peer: string
  scope: 'exported' | 'server' | 'internal' | 'imported' | 'peer-server'
  /** TLS ends here, and requests go on by this upstream or chain of the plan. */
  upstream?: string | undefined
}

export interface GatewayPlan {
  kind: 'gateway'
  revision: number
  self: Self
  /** By SNI in lower case: what may be asked for at the WAN address. */
  wan: ReadonlyMap<string, GatewayRoute>
  /** At the listening address. The same as `wan` where there is only one address. */
  lan: ReadonlyMap<string, GatewayRoute>
  /** By trust domain: our own, and those of the peers that it has to do with. */
  roots: ReadonlyMap<string, RootsPlan>
  /** Where requests go that end here, by name. */
  upstreams: ReadonlyMap<string, UpstreamPlan>
  chains: ReadonlyMap<string, ChainPlan>
  problems: readonly string[]
  memo: Memo
}

export type Plan = SidecarPlan | GatewayPlan

/** Compiles a whole set of resources (one that a `sync` ended). Undefined while there is no `self`: no such proxy is registered. */
export function compile(resources: Resources, previous?: Plan, revision = 0): Plan | undefined {
  const self = valueOf(resources, 'self', undefined)
  if (self === undefined) return undefined
  const compiler = new Compiler(resources, self.value, previous?.memo)
  const plan = self.value.kind === 'mesh-gateway' ? compiler.gateway(revision) : compiler.sidecar(revision)
  plan.memo.seal()
  return plan
}

interface Found<K extends ResourceKind> {
  name: string
  version: string
  value: ResourceValue<K>
}

/** The resource of that kind and name; without a name, the only one of its kind. */
function valueOf<K extends ResourceKind>(resources: Resources, kind: K, name: string | undefined): Found<K> | undefined {
  if (name === undefined) return allOf(resources, kind)[0]
  const resource = resources.get(`${kind}/${name}`)
  return resource === undefined || resource.value === null ? undefined : (resource as unknown as Found<K>)
}

/** In order of their names, so that what a plan refuses does not depend on the order of arrival. */
function allOf<K extends ResourceKind>(resources: Resources, kind: K): Found<K>[] {
  const found: Found<K>[] = []
  for (const resource of resources.values())
    if (resource.kind === kind && resource.value !== null) found.push(resource as unknown as Found<K>)
  return found.sort((a, b) => (a.name < b.name ? -1 : 1))
}

class Compiler {
  readonly #resources: Resources
  readonly #self: Self
  readonly #memo: Memo
  readonly #problems: string[] = []

  constructor(resources: Resources, self: Self, before: Memo | undefined) {
    this.#resources = resources
    this.#self = self
    this.#memo = new Memo(before)
  }

  sidecar(revision: number): SidecarPlan {
    const self = this.#self
    const roots = this.#roots()
    const inbound = this.#inboundPeers(roots)
    return {
      kind: 'sidecar',
      revision,
      self,
      authorizer: this.#authorizer(inbound),
      l7: isHttpLike(self.protocol),
      roots,
      inboundTrustDomains: new Set([self.trustDomain, ...inbound.map(each => each.trustDomain)]),
      upstreams: this.#upstreams(roots),
      chains: this.#chains(),
      jwtProviders: new Map(allOf(this.#resources, 'jwt-provider').map(({ name, value }) => [name, value])),
      problems: this.#problems,
      memo: this.#memo,
    }
  }

  gateway(revision: number): GatewayPlan {
    const self = this.#self
    const rows = (['exported', 'server', 'internal', 'imported', 'peer-server'] as const).flatMap(scope =>
      allOf(this.#resources, scope).map(({ version, value }) => ({ scope, version, value })),
    )
    const roots = this.#roots()
    const upstreams = this.#upstreams(roots)
    const chains = this.#chains()
    const trustDomains = new Map([...roots.values()].map(({ peer, trustDomain }) => [peer, trustDomain]))
    const { wan, lan, problems } = compileRoutes(rows, {
      self,
      trustDomains,
      ways: new Set([...upstreams.keys(), ...chains.keys()]),
      memo: this.#memo,
      endpoints: name => this.#endpoints(name),
      endpointsVersion: name => this.#version('endpoints', name),
    })
    this.#problems.push(...problems)
    return { kind: 'gateway', revision, self, wan, lan, roots, upstreams, chains, problems: this.#problems, memo: this.#memo }
  }

  #version(kind: ResourceKind, name: string): string {
    return valueOf(this.#resources, kind, name)?.version ?? ''
  }

  /** One owner for each trust domain. Our own is ours; one that two peers claim is nobody's. */
  #roots(): Map<string, RootsPlan> {
    const found = allOf(this.#resources, 'roots')
    const claims = new Map<string, number>()
    for (const { value } of found) claims.set(value.trustDomain, (claims.get(value.trustDomain) ?? 0) + 1)
    const roots = new Map<string, RootsPlan>()
    for (const { name, version, value } of found) {
      const { trustDomain, exportedPartition, pems } = value
      const local = name === names.localRoots
      if (local !== (trustDomain === this.#self.trustDomain)) {
        this.#problems.push(`roots ${name}: the trust domain ${trustDomain} is ${local ? 'not ours' : 'our own'}: refused`)
      } else if (!local && claims.get(trustDomain)! > 1) {
        this.#problems.push(`roots ${name}: the trust domain ${trustDomain} is claimed by several peers: refused`)
      } else {
        const peer = local ? '' : name
        roots.set(
          trustDomain,
          this.#memo.part(`roots/${name}`, version, () => ({ trustDomain, peer, exportedPartition, pems, version })),
        )
      }
    }
    return roots
  }

  #inboundPeers(roots: ReadonlyMap<string, RootsPlan>): RootsPlan[] {
    const wanted = new Set(this.#self.inboundPeers)
    return [...roots.values()].filter(({ peer }) => peer !== '' && wanted.has(peer))
  }

  #authorizer(inbound: readonly RootsPlan[]): Authorizer {
    const self = this.#self
    const intentions = valueOf(this.#resources, 'intentions', self.service)
    // No list is not an empty list: without one nobody may call.
    if (intentions === undefined) this.#problems.push(`intentions ${self.service}: missing; every caller is denied`)
    const defaultAction = intentions === undefined ? 'deny' : self.defaultAction
    const httpLike = isHttpLike(self.protocol)
    const peers = inbound.map(({ peer, trustDomain, exportedPartition }) => [peer, { trustDomain, exportedPartition }] as const)
    const version = JSON.stringify([intentions?.version, defaultAction, httpLike, self.trustDomain, peers])
    return this.#memo.part('authorizer', version, () =>
      compileIntentions(intentions?.value.sources ?? [], {
        localTrustDomain: self.trustDomain,
        peers: new Map(peers),
        defaultAction,
        httpLike,
      }),
    )
  }

  #endpoints(name: string): EndpointsPlan {
    const found = valueOf(this.#resources, 'endpoints', name)
    return this.#memo.part<EndpointsPlan & { picker: RoundRobin }>(`endpoints/${name}`, found?.version ?? '', before => {
      const endpoints = found?.value.endpoints ?? []
      return { endpoints, picker: new RoundRobin(endpoints, before?.picker) }
    })
  }

  /** Asked for in every compilation, so that it goes on where the one before it stood whenever endpoints or settings change. */
  #picker(name: string, source: string, endpoints: readonly Endpoint[], balance: Balance): Picker {
    const settings = balance === defaultBalance ? '' : JSON.stringify(balance)
    const version = `${this.#version('endpoints', source)}/${endpoints.length}/${settings}`
    return this.#memo.part<Picker>(`picker/${name}`, version, before => pickerOf(endpoints, balance, before))
  }

  #chains(): Map<string, ChainPlan> {
    const chains = new Map<string, ChainPlan>()
    for (const { name, version, value } of allOf(this.#resources, 'chain')) {
      const { plan, problems } = this.#memo.part(`chain/${name}`, version, () => {
        const found: string[] = []
        return { plan: { name, resource: value, routing: compileRouting(value.chain, found) }, problems: found }
      })
      chains.set(name, plan)
      for (const problem of problems) this.#problems.push(`chain ${name}: ${problem}`)
    }
    return chains
  }

  #upstreams(roots: ReadonlyMap<string, RootsPlan>): Map<string, UpstreamPlan> {
    const byPeer = new Map([...roots.values()].map(each => [each.peer, each]))
    const upstreams = new Map<string, UpstreamPlan>()
    for (const { name, version, value } of allOf(this.#resources, 'upstream')) {
      const owner = byPeer.get(value.peer)
      const problem = upstreamProblem(value, owner)
      if (problem !== undefined) this.#problems.push(`upstream ${name}: ${problem.text}`)
      // A refused upstream keeps its listener and has nowhere to go, so that its app sees an error and not a refused connection.
      const source = problem === undefined ? valueOf(this.#resources, 'endpoints', value.endpoints)?.value : undefined
      const endpoints = source?.endpoints ?? []
      const balance = value.balance ?? defaultBalance
      const picker = this.#picker(name, value.endpoints, endpoints, balance)
      const session = `${version}/${owner?.version ?? ''}/${problem?.text ?? ''}`
      upstreams.set(
        name,
        this.#memo.part(`upstream/${name}`, `${session}/${this.#version('endpoints', value.endpoints)}`, () => ({
          name,
          resource: value,
          trustDomain: owner?.trustDomain ?? '',
          spiffeIds: new Set(problem === undefined ? value.spiffeIds : []),
          rootPems: owner?.pems ?? [],
          endpoints,
          instances: source?.instances,
          picker,
          problem,
          hash: isHashing(balance.policy) && balance.hashPolicies.length > 0 ? new RequestHash(balance.hashPolicies) : undefined,
          limits: value.limits ?? defaultCircuitLimits,
          // A peer is seen through its gateways, which are not to blame for what the apps behind them answer: only where it is asked for.
          outlier: value.passiveHealthCheck ?? { ...defaultOutlierLimits, enabled: value.peer === '' },
          retry: value.retry ?? defaultRetryLimits,
          version: session,
        })),
      )
    }
    return upstreams
  }
}

/** Why this upstream must not be dialled; undefined when it may. Identities and SNI must be the owner's own (DESIGN 6). */
function upstreamProblem({ peer, sni, spiffeIds }: UpstreamResource, owner: RootsPlan | undefined): UpstreamProblem | undefined {
  if (owner === undefined) {
    return { code: 'no-trust-bundle', text: `no trust bundle of ${peer === '' ? 'our own cluster' : `peer ${peer}`} yet` }
  }
  const { trustDomain } = owner
  const foreign = spiffeIds.find(id => trustDomainOf(id) !== trustDomain)
  if (foreign !== undefined) return { code: 'wrong-identity', text: `the identity ${foreign} is not in the trust domain ${trustDomain}` }
  if (spiffeIds.length === 0) return { code: 'wrong-identity', text: 'no identity to verify' }
  if (owner.peer !== '' && !isExternalSniOf(sni, trustDomain)) {
    return { code: 'wrong-sni', text: `the SNI ${sni} has not the external form in the trust domain ${trustDomain}` }
  }
  return undefined
}
