/**
 * The door of a mesh gateway at which exported http ends (spec/data-plane.md 5.3): TLS with the gateway's own leaf, a permit by the roots
 * of the one peer that the server name is for, and requests that go on to a sidecar with X-Forwarded-Client-Cert written anew. Nothing is
 * judged here: the sidecar judges whom this gateway names, so only a proven caller is ever named, and never by itself.
 */
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { isHttp2 } from '../mesh/protocol.ts'
import type { GatewayPlan, GatewayRoute, RootsPlan } from '../mesh/plan.ts'
import { nowhere } from './chain.ts'
import { serveHttp1 } from './http1/connection.ts'
import { defaultHttp1Limits } from './http1/limits.ts'
import { defaultHttp2Limits } from './http2/limits.ts'
import { serveMux, type Served } from './mux-connection.ts'
import type { Upstream } from './upstream.ts'
import type { ProxyMetrics, RequestTallies } from './metrics.ts'
import { OutboundHttp } from './outbound-http.ts'
import { OutboundHttp2 } from './outbound-http2.ts'
import { readBundle, type Permit, type RootsOf } from './permit.ts'
import { readShared } from './socket-reads.ts'
import { nameOf, TlsDoor, type Caller } from './tls-door.ts'
import { chooseAlpn, muxProtocol, type ProxyIdentity } from './tls.ts'
import { Ways, type WaysPlan } from './ways.ts'
import { xfccElement } from './xfcc.ts'

/** Where requests of one service go. */
interface Target {
  name: string
  protocol: string
  http2: OutboundHttp2 | undefined
  requests: RequestTallies
}

interface GatewayCaller extends Caller {
  /** By whom its requests go on; when that is another, it is served no longer. */
  target: Target
}

export interface TerminatorOptions {
  metrics: ProxyMetrics
  logger: Logger
}

export class Terminator {
  readonly #options: TerminatorOptions
  readonly #door: TlsDoor<GatewayCaller>
  readonly #ways: Ways
  readonly #targets = new Map<string, Target>()
  #plan: GatewayPlan | undefined
  #identity: ProxyIdentity | undefined

  constructor(options: TerminatorOptions) {
    this.#options = options
    this.#ways = new Ways(options.metrics, defaultHttp2Limits)
    this.#door = new TlsDoor<GatewayCaller>({
      name: 'gateway',
      metrics: options.metrics,
      logger: options.logger,
      alpn: (offered, servername) => chooseAlpn(offered, this.#targetOf(servername)?.protocol ?? ''),
      rootsOf: socket => this.#rootsOf(nameOf(socket.servername)),
      admit: (socket, permit) => this.#admit(socket, permit),
      helloWasRead: true,
      isDraining: () => this.#plan!.self.draining,
      threw: error => options.logger.error({ error: messageOf(error) }, 'a caller could not be let in by a mistake of ours'),
    })
  }

  /** False while something is to end here and there is no leaf to prove who we are. */
  get ready(): boolean {
    return this.#plan === undefined || this.#plan.upstreams.size === 0 || this.#identity !== undefined
  }

  /** A new plan or leaf: contexts and upstreams are swapped, and whoever may no longer be here goes. */
  update(plan: GatewayPlan, identity: ProxyIdentity | undefined): void {
    this.#plan = plan
    this.#identity = identity
    // Any root of any peer, at first.
    const pems = [...plan.roots.values()].flatMap(roots => (roots.peer === '' ? [] : roots.pems))
    if (identity !== undefined) this.#door.prove(identity, pems)
    const letGo = identity && this.#ways.update(plan, identity)
    const protocols = protocolsOf(plan)
    for (const [name, target] of this.#targets) if (protocols.get(name) !== target.protocol) this.#targets.delete(name)
    if (identity !== undefined) for (const [name, protocol] of protocols) this.#bind(name, protocol)
    for (const caller of this.#door.callers) this.#review(caller)
    letGo?.()
  }

  /** A connection whose hello is still to be read. */
  accept(socket: Socket): void {
    this.#door.accept(socket)
  }

  drain(): void {
    this.#door.drain()
  }

  close(): void {
    this.#door.close()
    this.#ways.close()
  }

  #bind(name: string, protocol: string): void {
    if (this.#targets.has(name)) return
    const { metrics, logger } = this.#options
    const requests = metrics.requests('gateway', name)
    const way = () => this.#ways.way(name) ?? nowhere
    const channelsOf = (upstream: Upstream) => this.#ways.channelsOf(upstream)
    const http2 = isHttp2(protocol) ? new OutboundHttp2({ name, way, channelsOf, requests, limits: defaultHttp2Limits, logger }) : undefined
    this.#targets.set(name, { name, protocol, http2, requests })
  }

  /** What ends here is exported, so it is in the table of strangers. */
  #routeOf(servername: string): GatewayRoute | undefined {
    return this.#plan?.wan.get(servername)
  }

  #targetOf(servername: string): Target | undefined {
    const name = this.#routeOf(servername)?.upstream
    return name === undefined ? undefined : this.#targets.get(name)
  }

  /** Of the one peer that the name is for. */
  #rootsOf(servername: string): RootsOf | undefined {
    const route = this.#routeOf(servername)
    if (route === undefined) return undefined
    return trustDomain => {
      const roots: RootsPlan | undefined = this.#plan!.roots.get(trustDomain)
      return roots?.peer === route.peer ? readBundle(roots.pems) : undefined
    }
  }

  /** A name may have ceased to end here since its hello. */
  #admit(socket: TLSSocket, permit: Permit): GatewayCaller | undefined {
    const target = this.#targetOf(nameOf(socket.servername))
    if (target === undefined || this.#identity === undefined) return undefined
    return { socket, permit, target, served: this.#serve(socket, target, permit, xfccElement(this.#identity.uri, permit)) }
  }

  #serve(socket: TLSSocket, { name, http2, requests }: Target, { uri }: Permit, caller: string): Served {
    readShared(socket)
    if (http2 !== undefined) return http2.serve(socket, caller)
    const { logger } = this.#options
    const source = socket.remoteAddress ?? ''
    const own = socket.alpnProtocol === muxProtocol
    const doorOf = () => new OutboundHttp({ name, way: () => this.#ways.way(name) ?? nowhere, requests, logger, source, caller, own })
    if (!own) return serveHttp1(socket, doorOf(), defaultHttp1Limits)
    return serveMux(socket, {
      serve: stream => serveHttp1(stream, doorOf(), defaultHttp1Limits),
      closed: fault => {
        if (fault !== '') logger.warn({ fault, caller: uri }, 'a multiplexed session was ended')
      },
    })
  }

  /** Whether a caller may stay, after a change. */
  #review(caller: GatewayCaller): void {
    const { socket, target, served } = caller
    // Un-exported, or no caller of that peer any more.
    if (!this.#door.holds(caller)) return void socket.destroy()
    if (this.#targetOf(nameOf(socket.servername)) !== target || this.#plan!.self.draining) served.drain()
    else served.reauthorize()
  }
}

/** By the names that requests may go on by: what is spoken there. */
function protocolsOf({ upstreams, chains }: WaysPlan): Map<string, string> {
  return new Map([...upstreams.values(), ...chains.values()].map(({ name, resource }) => [name, resource.protocol]))
}
