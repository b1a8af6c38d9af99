/**
 * Compiles a discovery chain of config entries as Consul does (spec/data-plane.md 10): the router of the name that was asked for, splitters
 * one within another, resolvers with their redirects, default subsets and failovers. Pure and total: entries that contradict each other
 * give a text, never an exception; cycles are found, and what would grow without bound is refused.
 */
import { failoverTargets, mergedSplit, rewritten, type Target } from './chain-steps.ts'
import { customizationHash, type Customization } from './customization-hash.ts'
import type { ProxyDefaults, ServiceDefaults } from './config-entry.ts'
import {
  defaultConnectTimeoutMs,
  targetId,
  type ChainNode,
  type ChainOverrides,
  type ChainTarget,
  type DiscoveryChain,
} from './discovery-chain.ts'
import type { LoadBalancer } from './entry-members.ts'
import { scaledWeight, type ServiceResolver, type ServiceRouter, type ServiceSplitter, type Split } from './routing-entry.ts'
import { internalSni } from './sni.ts'

/** Where the entries come from. Each is asked for by the name of a service in our own cluster. */
export interface ChainEntries {
  router(service: string): ServiceRouter | undefined
  splitter(service: string): ServiceSplitter | undefined
  resolver(service: string): ServiceResolver | undefined
  serviceDefaults(service: string): ServiceDefaults | undefined
  proxyDefaults(): ProxyDefaults | undefined
}

export interface ChainRequest {
  service: string
  datacenter: string
  trustDomain: string
  overrides?: ChainOverrides | undefined
}

export type CompiledChain = { ok: true; chain: DiscoveryChain } | { ok: false; problem: string }

export const chainLimits = {
  maxNodes: 2048,
  maxSplits: 1024,
  maxDepth: 64,
  /** As JSON: a proxy takes no longer line from its agent (proxy/snapshot-client), and it holds more than the chain. */
  maxLength: 2 * 1024 * 1024,
} as const

export function compileChain(request: ChainRequest, entries: ChainEntries): CompiledChain {
  try {
    return { ok: true, chain: new ChainCompiler(request, entries).compile() }
  } catch (error) {
    if (error instanceof Contradiction) return { ok: false, problem: error.message }
    throw error
  }
}

/** Entries that make no chain together. Thrown and caught in this file only. */
class Contradiction extends Error {}

type CompiledSplit = NonNullable<ChainNode['splits']>[number]

interface Next {
  node: ChainNode
  via: string[]
}

const httpLike = new Set(['http', 'http2', 'grpc'])
const hashing = new Set(['ring_hash', 'maglev'])

class ChainCompiler {
  readonly #request: ChainRequest
  readonly #entries: ChainEntries
  readonly #nodes = new Map<string, ChainNode>()
  readonly #targets = new Map<string, ChainTarget>()
  readonly #customized: Customization = { meshGatewayMode: '', protocol: '', connectTimeoutMs: 0 }
  #isCustomized = false
  #protocol = ''
  /** Something that only requests can have. */
  #advanced = false
  #depth = 0

  constructor(request: ChainRequest, entries: ChainEntries) {
    this.#request = request
    this.#entries = entries
  }

  compile(): DiscoveryChain {
    const { service, datacenter } = this.#request
    const start = this.#router() ?? this.#splitterOrResolver({ service, datacenter })
    this.#refuseCycles(start.node)
    this.#flatten()
    const protocol = this.#settledProtocol()
    const reached = this.#reached(keyOf(start.node))
    const chain: DiscoveryChain = {
      serviceName: service,
      namespace: 'default',
      partition: 'default',
      datacenter,
      protocol,
      startNode: keyOf(start.node),
      startVia: start.via,
      nodes: Object.fromEntries([...reached].sort().map(key => [key, this.#nodes.get(key)!])),
      targets: {},
    }
    chain.targets = Object.fromEntries(
      targetsOf(chain)
        .sort()
        .map(id => [id, this.#targets.get(id)!]),
    )
    if (this.#isCustomized) chain.customizationHash = customizationHash(this.#customized)
    const { meta } = this.#entries.serviceDefaults(service) ?? {}
    if (meta && Object.keys(meta).length > 0) chain.serviceMeta = meta
    if (this.#isDefault(start.node)) chain.default = true
    else if (JSON.stringify(chain).length > chainLimits.maxLength) throw this.#tooMuch(`${chainLimits.maxLength} characters`)
    return chain
  }

  get #plain(): boolean {
    const { overrideProtocol = '' } = this.#request.overrides ?? {}
    return overrideProtocol !== '' && !httpLike.has(overrideProtocol.toLowerCase())
  }

  /** The name itself, by a resolver that nobody wrote. */
  #isDefault(start: ChainNode): boolean {
    const target = start.resolver && this.#targets.get(start.resolver.target)
    return start.resolver?.default === true && target?.service === this.#request.service && target.peer === undefined
  }

  #settledProtocol(): string {
    const { service, overrides } = this.#request
    // Where every target is in a peer, nobody else said it.
    if (this.#protocol === '') this.#record(service)
    if (this.#advanced && !httpLike.has(this.#protocol)) {
      throw new Contradiction(
        `discovery chain ${JSON.stringify(service)} uses a protocol ${JSON.stringify(this.#protocol)} that does not permit advanced routing or splitting behavior`,
      )
    }
    const wanted = (overrides?.overrideProtocol ?? '').toLowerCase()
    if (wanted === '' || wanted === this.#protocol) return this.#protocol
    this.#customize({ protocol: wanted })
    return wanted
  }

  #customize(by: Partial<Customization>): void {
    this.#isCustomized = true
    Object.assign(this.#customized, by)
  }

  #router(): Next | undefined {
    const { service, datacenter } = this.#request
    const entry = this.#entries.router(service)
    if (entry === undefined || this.#skipped(entry)) return undefined
    this.#advanced = true
    this.#record(service)
    const node: ChainNode = { type: 'router', name: `${entry.name}.default.default`, routes: [] }
    for (const definition of entry.routes ?? []) {
      const { service: named = '', serviceSubset = '', peer = '' } = definition.destination ?? {}
      const target = { service: named || service, serviceSubset, ...(peer === '' ? { datacenter } : { peer }) }
      const next = serviceSubset === '' && peer === '' ? this.#splitterOrResolver(target) : this.#resolver(target)
      node.routes!.push({ definition, nextNode: keyOf(next.node), via: next.via })
    }
    const rest = this.#splitterOrResolver({ service, datacenter })
    const destination = { service: entry.name, namespace: 'default', partition: 'default' }
    const definition = { match: { http: { pathPrefix: '/' } }, destination }
    node.routes!.push({ definition, nextNode: keyOf(rest.node), via: rest.via })
    this.#add(node)
    return { node, via: [] }
  }

  /** With a protocol of bytes asked for, routers and splitters are not looked at. */
  #skipped(_entry: ServiceRouter | ServiceSplitter): boolean {
    if (!this.#plain) return false
    this.#customize({ protocol: this.#request.overrides!.overrideProtocol!.toLowerCase() })
    return true
  }

  #splitterOrResolver(target: Target): Next {
    const node = this.#splitter(target.service)
    return node ? { node, via: [] } : this.#resolver(target)
  }

  #splitter(service: string): ChainNode | undefined {
    const known = this.#nodes.get(`splitter:${service}.default.default`)
    if (known !== undefined) return known
    const entry = this.#entries.splitter(service)
    if (entry === undefined || this.#skipped(entry)) return undefined
    const node: ChainNode = { type: 'splitter', name: `${service}.default.default`, splits: [] }
    // Known before it is gone into, so that a circle ends.
    this.#add(node)
    this.#advanced = true
    this.#deeper(() => {
      for (const [i, definition] of (entry.splits ?? []).entries()) {
        const next = this.#split(definition, service)
        const from = `service-splitter/${entry.name}[${i}]`
        node.splits!.push({ definition, weight: definition.weight, nextNode: keyOf(next.node), via: next.via, entry: from })
        // Requests of one split share a route, which has one way of hashing: the first that is found.
        const { loadBalancer } = next.node
        if (next.node.type === 'resolver' && node.loadBalancer === undefined && isHashing(loadBalancer)) node.loadBalancer = loadBalancer
      }
    })
    return node
  }

  #split({ service: named = '', serviceSubset = '', peer = '' }: Split, own: string): Next {
    const service = named || own
    if (peer !== '') return this.#resolver({ service, peer })
    const nested = service !== own && serviceSubset === '' ? this.#splitter(service) : undefined
    if (nested !== undefined) return { node: nested, via: [] }
    return this.#resolver({ service, serviceSubset, datacenter: this.#request.datacenter })
  }

  /** Goes on from a target to the resolver node that it ends at. `failover`: it is one of a failover's, whose own failover does not count. */
  #resolver(from: Target, failover = false): Next {
    const seen: string[] = []
    const via: string[] = []
    let target = from
    for (;;) {
      const id = targetId(target)
      const known = this.#nodes.get(`resolver:${id}`)
      if (known !== undefined) return { node: known, via }
      if (!target.peer) this.#record(target.service)
      // What a peer does with the name is the peer's to say: our own resolver of that name does not count.
      const entry = target.peer ? undefined : this.#entries.resolver(target.service)
      if (seen.includes(id)) throw new Contradiction(`detected circular resolver redirect: [${[...seen, id].join(' -> ')}]`)
      seen.push(id)
      const redirected = entry?.redirect && rewritten(target, entry.redirect)
      if (redirected && targetId(redirected) !== id) {
        via.push(`service-resolver/${entry.name}`)
        target = redirected
        continue
      }
      if (entry?.defaultSubset && !target.serviceSubset) {
        via.push(`service-resolver/${entry.name}`)
        target = { ...target, serviceSubset: entry.defaultSubset }
        continue
      }
      return { node: this.#resolverNode(target, entry, failover), via }
    }
  }

  #resolverNode(target: Target, entry: ServiceResolver | undefined, failover: boolean): ChainNode {
    const { service, serviceSubset = '' } = target
    if (serviceSubset !== '' && !Object.hasOwn(entry?.subsets ?? {}, serviceSubset)) {
      throw new Contradiction(`service ${JSON.stringify(service)} does not have a subset named ${JSON.stringify(serviceSubset)}`)
    }
    const made = this.#target(target, entry)
    this.#targets.set(made.id, made)
    const { connectTimeoutMs } = made
    const node: ChainNode = { type: 'resolver', name: made.id, resolver: { connectTimeoutMs, target: made.id } }
    // Told by our own entry of that name, in a peer as well, though that does not count there.
    if (this.#entries.resolver(service) === undefined) node.resolver!.default = true
    if (entry?.requestTimeoutMs) node.resolver!.requestTimeoutMs = entry.requestTimeoutMs
    if (entry?.loadBalancer) node.loadBalancer = entry.loadBalancer
    if (failover) return node
    this.#add(node)
    const { failover: sections = {} } = entry ?? {}
    const section = Object.hasOwn(sections, serviceSubset) ? sections[serviceSubset] : sections['*']
    const targets = section ? failoverTargets(target, section) : []
    if (targets.length > 0) {
      this.#deeper(() => {
        node.resolver!.failover = { targets: targets.map(each => this.#resolver(each, true).node.resolver!.target) }
      })
    }
    return node
  }

  #target(target: Target, entry: ServiceResolver | undefined): ChainTarget {
    const { service, serviceSubset = '', datacenter, peer } = target
    const defaults = peer ? undefined : this.#entries.serviceDefaults(service)
    const made: ChainTarget = {
      connectTimeoutMs: this.#connectTimeout(entry),
      id: targetId(target),
      service,
      namespace: 'default',
      partition: 'default',
      meshGateway: this.#gatewayMode(defaults),
      subset: entry?.subsets?.[serviceSubset] ?? {},
      transparentProxy: defaults?.transparentProxy.dialedDirectly ? { dialedDirectly: true } : {},
    }
    if (serviceSubset !== '') made.serviceSubset = serviceSubset
    if (peer) return { ...made, peer }
    const name = internalSni(service, datacenter ?? '', this.#request.trustDomain)
    made.datacenter = datacenter
    made.sni = made.name = serviceSubset === '' ? name : `${serviceSubset}.${name}`
    return defaults?.externalSni ? external(made, defaults.externalSni, entry) : made
  }

  #connectTimeout(entry: ServiceResolver | undefined): number {
    const configured = entry?.connectTimeoutMs || defaultConnectTimeoutMs
    const wanted = this.#request.overrides?.overrideConnectTimeoutMs ?? 0
    if (wanted <= 0 || wanted === configured) return configured
    this.#customize({ connectTimeoutMs: wanted })
    return wanted
  }

  #gatewayMode(defaults: ServiceDefaults | undefined): { mode?: string } {
    const configured = defaults?.meshGateway.mode || this.#entries.proxyDefaults()?.meshGateway.mode || ''
    const wanted = this.#request.overrides?.overrideMeshGateway.mode ?? ''
    if (wanted !== '' && wanted !== configured) this.#customize({ meshGatewayMode: wanted })
    const mode = wanted || configured
    return mode === '' ? {} : { mode }
  }

  /** Every service of a chain must speak the same. */
  #record(service: string): void {
    const own = this.#entries.serviceDefaults(service)?.protocol
    const global = this.#entries.proxyDefaults()?.config?.['protocol']
    const protocol = own || (typeof global === 'string' && global !== '' ? global.toLowerCase() : 'tcp')
    if (this.#protocol === '') this.#protocol = protocol
    else if (this.#protocol !== protocol) {
      const [chain, one, has, not] = [this.#request.service, service, protocol, this.#protocol].map(each => JSON.stringify(each))
      throw new Contradiction(`discovery chain ${chain} uses inconsistent protocols; service ${one} has ${has} which is not ${not}`)
    }
  }

  #add(node: ChainNode): void {
    if (this.#nodes.size >= chainLimits.maxNodes) throw this.#tooMuch(`${chainLimits.maxNodes} nodes`)
    this.#nodes.set(keyOf(node), node)
  }

  #deeper(step: () => void): void {
    if (this.#depth >= chainLimits.maxDepth) throw this.#tooMuch(`${chainLimits.maxDepth} entries one behind another`)
    this.#depth += 1
    step()
    this.#depth -= 1
  }

  #tooMuch(what: string): Contradiction {
    return new Contradiction(`discovery chain ${JSON.stringify(this.#request.service)} has more than ${what}; make it smaller`)
  }

  #refuseCycles(start: ChainNode): void {
    const done = new Set<string>()
    const path: string[] = []
    const visit = (key: string): void => {
      if (path.includes(key)) throw new Contradiction(`detected circular reference: [${[...path, key].join(' -> ')}]`)
      if (done.has(key)) return
      path.push(key)
      for (const next of nextOf(this.#nodes.get(key)!)) visit(next)
      path.pop()
      done.add(key)
    }
    visit(keyOf(start))
  }

  /** A split that goes to another splitter becomes that splitter's splits, each with its share of the weight. There are no cycles. */
  #flatten(): void {
    for (let changed = true; changed;) {
      changed = false
      for (const node of this.#nodes.values()) {
        if (node.splits === undefined) continue
        const flat = node.splits.flatMap(split => this.#flattened(split))
        if (flat.length > chainLimits.maxSplits) throw this.#tooMuch(`${chainLimits.maxSplits} splits`)
        changed ||= flat.some((split, i) => split !== node.splits![i])
        node.splits = flat
      }
    }
  }

  #flattened(split: CompiledSplit): CompiledSplit[] {
    const inner = this.#nodes.get(split.nextNode)?.splits
    if (inner === undefined) return [split]
    return inner.map(each => ({
      definition: mergedSplit(each.definition, split.definition),
      weight: scaledWeight((split.weight * each.weight) / 100) / 100,
      nextNode: each.nextNode,
      via: [split.entry, ...split.via, ...each.via],
      entry: each.entry,
    }))
  }

  #reached(start: string): Set<string> {
    const reached = new Set([start])
    for (const key of reached) for (const next of nextOf(this.#nodes.get(key)!)) reached.add(next)
    return reached
  }
}

function keyOf(node: ChainNode): string {
  return `${node.type}:${node.name}`
}

function nextOf({ routes = [], splits = [] }: ChainNode): string[] {
  return [...routes, ...splits].map(each => each.nextNode)
}

/** The targets that the nodes of a chain lead to. */
function targetsOf(chain: DiscoveryChain): string[] {
  const ids = Object.values(chain.nodes).flatMap(({ resolver }) =>
    resolver ? [resolver.target, ...(resolver.failover?.targets ?? [])] : [],
  )
  return [...new Set(ids)]
}

function isHashing(balancer: LoadBalancer | undefined): boolean {
  return hashing.has(balancer?.policy ?? '')
}

/** Behind a name of its own the service is outside the mesh, and nothing of it can be routed. */
function external(target: ChainTarget, sni: string, entry: ServiceResolver | undefined): ChainTarget {
  const has = {
    redirects: entry?.redirect,
    subsets: Object.keys(entry?.subsets ?? {}).length > 0,
    failover: Object.keys(entry?.failover ?? {}).length > 0,
  }
  for (const [what, given] of Object.entries(has)) {
    if (given)
      throw new Contradiction(
        `service ${JSON.stringify(target.service)} has an external SNI set; cannot define ${what} for external services`,
      )
  }
  return { ...target, external: true, sni }
}
