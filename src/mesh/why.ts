/**
 * `why`: what becomes of one call, replayed step by step on the plans that the proxies on its way run. Pure: the agent hands in what it
 * knows (`WhyScene`), and nothing here decides anything that a proxy does not decide by the same function.
 */
import type { ConfigEntryKind } from './config-entry.ts'
import type { CompiledChain } from './discovery-chain-compiler.ts'
import { describeFreshness, type Freshness } from './freshness.ts'
import type { PeeringState } from './peering.ts'
import type { GatewayPlan, SidecarPlan, UpstreamPlan } from './plan.ts'
import type { RouteFacts } from './route-table.ts'
import { externalSni } from './sni.ts'
import { names, type Endpoint } from './snapshot.ts'
import { serviceId } from './spiffe.ts'
import { explainIntentions, type Judge } from './why-intentions.ts'
import {
  settle,
  shown,
  type Provenance,
  type ServiceName,
  type WhyCertificate,
  type WhyProbe,
  type WhyReport,
  type WhyStep,
} from './why-report.ts'
import { explainRoute, type ReachedTarget } from './why-route.ts'
import { endpointViews, explainTarget, trustStep, type ImportedFacts } from './why-target.ts'

export interface Question {
  source: ServiceName
  destination: ServiceName
  /** Looked at only where the protocol has requests. */
  request: RouteFacts
}

/** The sidecar of a caller in our own cluster. */
export interface CallerFacts {
  /** Plain instances. */
  instances: number
  proxies: readonly string[]
  /** The one whose plan this is. */
  proxyId: string
  index: number
  /** Place of the upstream in its registration; undefined where it is not there, and the plan has it all the same. */
  upstream: number | undefined
  plan: SidecarPlan
}

export interface PeerFacts {
  state: PeeringState
  index: number
  datacenter: string
  freshness: Freshness
  /** Undefined while it has sent none. */
  bundle: { trustDomain: string; exportedPartition: string; pems: readonly string[] } | undefined
}

export interface WhyScene {
  nowMs: number
  datacenter: string
  trustDomain: string
  /** When an entry was last written; undefined where there is none. */
  indexOf(kind: ConfigEntryKind, name: string): number | undefined
  chain(service: string): CompiledChain
  caller: CallerFacts | { missing: 'service' | 'sidecar' } | undefined
  peer(name: string): PeerFacts | undefined
  imported(service: string, peer: string): ImportedFacts | undefined
  /** Peers that a name is exported to. */
  consumers(service: string): readonly string[]
  judge(service: string): Judge | undefined
  gateways(): readonly { proxyId: string; plan: GatewayPlan }[]
  health(service: string, peer: string, endpoint: Endpoint): string
  certificates(pems: readonly string[]): WhyCertificate[]
}

export function explain(question: Question, scene: WhyScene): WhyReport {
  const { source, destination, request } = question
  const told = { source: shown(source), destination: shown(destination), request: requestView(request) }
  const walk = new Walk(question, scene)
  if (source.peer === '') walk.fromHere()
  else walk.fromPeer()
  return settle(told, walk.steps, walk.probe)
}

function requestView({ method, target, headers }: RouteFacts) {
  const named = [...new Set(headers.filter((_, i) => i % 2 === 0))]
  return { method, path: target.split('?')[0]!, ...(named.length > 0 ? { headers: named } : {}) }
}

const flowing = new Set<PeeringState>(['ACTIVE'])

class Walk {
  readonly steps: WhyStep[] = []
  probe: WhyProbe | undefined
  readonly #question: Question
  readonly #scene: WhyScene

  constructor(question: Question, scene: WhyScene) {
    this.#question = question
    this.#scene = scene
  }

  /** A caller of our own. */
  fromHere(): void {
    const { source, destination } = this.#question
    const { caller } = this.#scene
    if (caller === undefined || 'missing' in caller) return this.#noCaller(caller?.missing ?? 'service')
    const { plan, proxyId, proxies, index, instances } = caller
    const many = proxies.length > 1 ? `, one of ${proxies.length} sidecars` : ''
    const text = `${source.service} has ${instances} instance${instances === 1 ? '' : 's'}; its calls leave through ${proxyId}${many}`
    this.#add({ step: 'source', state: 'ok', text, from: [{ entry: `service/${proxyId}`, index }] })
    this.#upstream(caller)
    const { service, peer } = destination
    if (peer !== '') return this.#toPeer(plan)
    const { steps, targets } = explainRoute(service, this.#scene.chain(service), plan, this.#question.request, entry => this.#from(entry))
    this.steps.push(...steps)
    this.#probeAt(service, plan, targets)
    this.#targets(targets, serviceId(this.#scene.trustDomain, this.#scene.datacenter, source.service))
  }

  /** A caller of a peer: what happens is decided in this cluster. */
  fromPeer(): void {
    const { source, destination } = this.#question
    const peer = this.#peer(source.peer)
    const consumers = this.#scene.consumers(destination.service)
    const from = this.#from('exported-services/default')
    if (!consumers.includes(source.peer)) {
      const row = { Name: destination.service, Consumers: [{ Peer: source.peer }] }
      const text =
        consumers.length === 0
          ? `${destination.service} is exported to nobody`
          : `${destination.service} is exported to ${consumers.join(', ')}, not to ${source.peer}`
      const next = `add ${JSON.stringify(row)} to the Services of exported-services/default`
      this.#add({ step: 'export', state: 'failed', code: 'not-exported', text, from, next })
    } else this.#add({ step: 'export', state: 'ok', text: `${destination.service} is exported to ${source.peer}`, from })
    if (peer?.bundle !== undefined) this.#add(trustStep(peer.bundle.pems, `peer ${source.peer}`, this.#scene))
    const targets = this.#atGateway()
    const { trustDomain = '', exportedPartition = '' } = peer?.bundle ?? {}
    // In whose datacenter it is has no say in a decision.
    const id = serviceId(trustDomain, peer?.datacenter || 'unknown', source.service)
    const partition = exportedPartition === '' || exportedPartition === 'default' ? '' : `/ap/${exportedPartition}`
    this.#targets(targets, id.replace('/ns/', `${partition}/ns/`))
  }

  #noCaller(missing: 'service' | 'sidecar'): void {
    const { service } = this.#question.source
    const text = missing === 'service' ? `no service ${service} is registered` : `${service} is registered, but has no sidecar`
    const next = `register ${service} with Connect.SidecarService and run: isthmus sidecar --for ${service}`
    this.#add({ step: 'source', state: 'failed', code: 'unknown-source', text, next })
  }

  #upstream({ upstream, proxyId, index, plan }: CallerFacts): void {
    const { destination, source } = this.#question
    if (upstream === undefined) {
      const row = {
        DestinationName: destination.service,
        ...(destination.peer ? { DestinationPeer: destination.peer } : {}),
        LocalBindPort: 0,
      }
      const text = `${proxyId} has no upstream ${shown(destination)}: the app has no port to dial; what follows is as if it had one`
      const next = `add ${JSON.stringify(row)}, with a port, to Proxy.Upstreams in the registration of ${source.service}'s sidecar`
      return this.#add({ step: 'upstream', state: 'failed', code: 'upstream-missing', text, next })
    }
    const name = names.upstream(destination.service, destination.peer)
    const listen = plan.upstreams.get(name)?.resource.listen ?? plan.chains.get(name)?.resource.listen
    const at =
      listen === undefined ? 'without a listener' : listen.socketPath ? `at ${listen.socketPath}` : `at ${listen.address}:${listen.port}`
    const from = [{ entry: `service/${proxyId} Proxy.Upstreams[${upstream}]`, index }]
    this.#add({ step: 'upstream', state: 'ok', text: `the app dials ${shown(destination)} ${at}`, from })
  }

  #peer(name: string): PeerFacts | undefined {
    const peer = this.#scene.peer(name)
    if (peer === undefined) {
      const next = 'join the other cluster: isthmus peering generate-token there, isthmus peering establish here'
      this.#add({ step: 'peering', state: 'failed', code: 'unknown-peer', text: `there is no peering ${name}`, next })
      return undefined
    }
    const { state, freshness, index } = peer
    const text = `${name} is ${state}; what it told us is ${describeFreshness(freshness)}`
    const from = [{ entry: `peering/${name}`, index }]
    if (state === 'DELETING' || state === 'TERMINATED') {
      const next = `the peering has ended: delete it here and establish it anew`
      this.#add({ step: 'peering', state: 'failed', code: 'peering-down', text, from, next })
    } else if (!flowing.has(state) || freshness.state === 'FROZEN') {
      const next = `isthmus peering read --name ${name} says what is wrong; until the stream is back, calls go by what was last known`
      this.#add({ step: 'peering', state: 'warning', code: 'peering-stale', text, from, next })
    } else this.#add({ step: 'peering', state: 'ok', text, from })
    return peer
  }

  /** A service of a peer: as far as its gateway. */
  #toPeer(plan: SidecarPlan): void {
    const { source, destination } = this.#question
    const { service, peer } = destination
    if (this.#peer(peer) === undefined) return
    const upstream = plan.upstreams.get(names.upstream(service, peer))
    if (!this.#imported(destination, upstream)) return
    this.#probeAt(names.upstream(service, peer), plan, [{ name: shown(destination), plan: upstream, request: this.#question.request }])
    this.#target(
      { name: '', plan: upstream, request: this.#question.request },
      undefined,
      serviceId(plan.self.trustDomain, plan.self.datacenter, source.service),
    )
  }

  #imported({ service, peer }: ServiceName, upstream: UpstreamPlan | undefined): boolean {
    const imported = this.#scene.imported(service, peer)
    if (upstream !== undefined && imported !== undefined) {
      this.#add({ step: 'import', state: 'ok', text: `${peer} exports ${service} to us; ${describeFreshness(imported.freshness)}` })
      return true
    }
    const bundle = this.#scene.peer(peer)?.bundle
    if (imported !== undefined && bundle !== undefined) {
      const text = `${peer} says nothing by which ${service} could be dialled: it has no sidecar or no gateway there`
      this.#add({
        step: 'import',
        state: 'failed',
        code: 'no-gateway',
        text,
        next: `the operator of ${peer} must run a mesh gateway, and a sidecar for ${service}`,
      })
    } else if (imported !== undefined) this.#add(trustStep([], `peer ${peer}`, this.#scene))
    else {
      const text = `${peer} does not export ${service} to us`
      const next = `the operator of ${peer} must add ${service} to exported-services/default there, with our peering as the consumer`
      this.#add({ step: 'import', state: 'failed', code: 'not-exported', text, next })
    }
    return false
  }

  /** Where our gateways lead a caller of a peer. */
  #atGateway(): ReachedTarget[] {
    const { source, destination, request } = this.#question
    const sni = externalSni(destination.service, source.peer, this.#scene.trustDomain)
    const gateways = this.#scene.gateways()
    const next = 'run one: isthmus gateway, on an address that the peer reaches'
    if (gateways.length === 0) {
      this.#add({ step: 'gateway', state: 'failed', code: 'no-gateway', text: 'this cluster has no mesh gateway', next })
      return this.#passed(undefined)
    }
    const { proxyId, plan } = gateways[0]!
    const found = plan.wan.get(sni.toLowerCase())
    if (found === undefined) {
      const problem = plan.problems.find(each => each.includes(sni))
      const text = `${proxyId} does not serve ${sni}${problem === undefined ? '' : `: ${problem}`}`
      const way = `it is served once ${destination.service} is exported, and something of it is in the mesh`
      this.#add({ step: 'gateway', state: 'failed', code: 'gateway-route-missing', text, next: way })
      return this.#passed(undefined)
    }
    if (found.upstream === undefined) {
      const endpoints = endpointViews(found.endpoints, each => this.#scene.health(destination.service, '', each))
      const healthy = endpoints.filter(each => each.healthy).length
      const text = `${proxyId} passes ${sni} through to ${endpoints.length} endpoint${endpoints.length === 1 ? '' : 's'}, ${healthy} healthy`
      if (healthy > 0) this.#add({ step: 'gateway', state: 'ok', text, endpoints })
      else
        this.#add({
          step: 'gateway',
          state: 'failed',
          code: 'no-healthy-endpoint',
          text,
          endpoints,
          next: `make a check of ${destination.service} pass`,
        })
      return this.#passed(found.service)
    }
    this.#add({ step: 'gateway', state: 'ok', text: `TLS for ${sni} ends at ${proxyId}, which looks at the requests` })
    const compiled = this.#scene.chain(destination.service)
    const { steps, targets } = explainRoute(found.upstream, compiled, plan, request, entry => this.#from(entry))
    this.steps.push(...steps)
    return targets
  }

  /** Bytes that only pass the gateway go to the one service that the chain leads to. */
  #passed(service: string | undefined): ReachedTarget[] {
    const { destination, request } = this.#question
    const compiled = this.#scene.chain(service ?? destination.service)
    const [first] = compiled.ok ? Object.values(compiled.chain.targets) : []
    return [{ name: first?.service ?? destination.service, plan: undefined, request }]
  }

  /** The rest of the way, for each target. */
  #targets(targets: readonly ReachedTarget[], uri: string): void {
    for (const target of targets) this.#target(target, targets.length > 1 ? target.name : undefined, uri)
  }

  #target({ name, plan, request }: ReachedTarget, target: string | undefined, uri: string): void {
    const { service, peer } = plan?.resource ?? { service: name.split(' ')[0]!, peer: '' }
    const judge = peer === '' ? this.#scene.judge(service) : undefined
    if (plan !== undefined) {
      const { nowMs } = this.#scene
      const imported = peer === '' ? undefined : this.#scene.imported(service, peer)
      const certificates = (pems: readonly string[]) => this.#scene.certificates(pems)
      const health = (each: Endpoint) => this.#scene.health(service, peer, each)
      this.steps.push(...explainTarget(plan, { target, health, imported, served: judge?.plan.self.protocol, certificates, nowMs }))
    } else if (this.#question.source.peer === '') return
    const step = peer === '' ? this.#judged(judge, uri, request) : this.#theirs({ service, peer }, plan!)
    if (step !== undefined) this.#add(target === undefined ? step : { ...step, target })
  }

  #judged(judge: Judge | undefined, uri: string, request: RouteFacts): WhyStep | undefined {
    // Nobody is there to decide: another step has said so.
    if (judge === undefined) return undefined
    return explainIntentions(judge, { caller: this.#question.source, uri, request }, (kind, name) => this.#scene.indexOf(kind, name))
  }

  /** What a peer decides is not known here. */
  #theirs(service: ServiceName, { resource: { sni } }: UpstreamPlan): WhyStep {
    const { source, request } = this.#question
    // An external name says what its owner calls us.
    const ours = sni.split('.')[3] ?? ''
    const text = `the intentions of ${service.peer} are its own and not known here`
    const next = `ask the operator of ${service.peer} to run there: isthmus why ${source.service}@${ours} '->' ${service.service} ${request.method} ${request.target}`
    return { step: 'intentions', state: 'unknown', code: 'exporter-decides', text, next }
  }

  #probeAt(name: string, { upstreams, chains }: SidecarPlan, targets: readonly ReachedTarget[]): void {
    const resource = chains.get(name)?.resource ?? upstreams.get(name)?.resource
    if (resource?.listen === undefined) return
    const { address, port, socketPath } = resource.listen
    this.probe = {
      listen: { address, port, ...(socketPath ? { socketPath } : {}) },
      protocol: resource.protocol,
      targets: targets.flatMap(({ name: target, plan }) => (plan === undefined ? [] : [this.#probed(target, plan)])),
    }
  }

  #probed(target: string, { resource, trustDomain, rootPems, spiffeIds, endpoints }: UpstreamPlan): WhyProbe['targets'][number] {
    const { sni, service, peer } = resource
    const views = endpointViews(endpoints, each => this.#scene.health(service, peer, each))
    return { target, peer, sni, spiffeIds: [...spiffeIds], trustDomain, rootPems: [...rootPems], endpoints: views }
  }

  /** `service-router/api[0]` with the index of service-router/api. */
  #from(entry: string): Provenance[] {
    const match = /^([a-z-]+)\/([^[]+)/.exec(entry)
    if (match === null) return []
    const index = this.#scene.indexOf(match[1] as ConfigEntryKind, match[2]!)
    return index === undefined ? [] : [{ entry, index }]
  }

  #add(step: WhyStep): void {
    this.steps.push(step)
  }
}
