/**
 * The door of a mesh gateway at which exported http ends (spec/data-plane.md 5.3): TLS with the gateway's own leaf, a permit by the roots
 * of the one peer that the server name is for, and requests that go on to a sidecar with X-Forwarded-Client-Cert written anew. Nothing is
 * judged here: the sidecar judges whom this gateway names, so only a proven caller is ever named, and never by itself.
 */
import type { Socket } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { isHttp2 } from '../mesh/config-entry.ts'
import type { GatewayPlan, GatewayRoute, RootsPlan } from '../mesh/plan.ts'
import { nowhere } from './chain.ts'
import { serveHttp1 } from './http1/connection.ts'
import { defaultHttp1Limits } from './http1/limits.ts'
import { defaultHttp2Limits } from './http2/limits.ts'
import { serveMux, type Served } from './mux-connection.ts'
import type { Upstream } from './upstream.ts'
import type { ProxyMetrics, RefusalReason, RequestTallies } from './metrics.ts'
import { OutboundHttp } from './outbound-http.ts'
import { OutboundHttp2 } from './outbound-http2.ts'
import { permitOf, presentedChain, readBundle, type Permit } from './permit.ts'
import { readShared } from './socket-reads.ts'
import { chooseAlpn, contextKey, contextOptions, muxProtocol, type ProxyIdentity } from './tls.ts'
import { Ways, type WaysPlan } from './ways.ts'
import { xfccElement } from './xfcc.ts'

export const terminatorLimits = {
  handshakeMs: 10_000,
  /** How often connections are looked at for certificates that have ended. */
  expiryMs: 1000,
} as const

/** Where requests of one service go. */
interface Target {
  name: string
  protocol: string
  http2: OutboundHttp2 | undefined
  requests: RequestTallies
}

interface Connection {
  socket: TLSSocket
  sni: string
  permit: Permit
  /** By whom its requests go on; when that is another, it is served no longer. */
  target: Target
  served: Served
}

export interface TerminatorOptions {
  metrics: ProxyMetrics
  logger: Logger
}

export class Terminator {
  readonly #options: TerminatorOptions
  readonly #server: Server
  readonly #ways: Ways
  readonly #targets = new Map<string, Target>()
  readonly #connections = new Set<Connection>()
  readonly #expiry: NodeJS.Timeout
  #plan: GatewayPlan | undefined
  #identity: ProxyIdentity | undefined
  #contextKey = ''
  #draining = false

  constructor(options: TerminatorOptions) {
    this.#options = options
    this.#ways = new Ways(options.metrics, defaultHttp2Limits)
    // Never listens itself: it is handed the connections whose name is to end here.
    this.#server = createServer({
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: terminatorLimits.handshakeMs,
      ALPNCallback: ({ servername, protocols }) => chooseAlpn(protocols, this.#targetOf(nameOf(servername))?.protocol ?? ''),
    })
    this.#server.on('secureConnection', socket => {
      try {
        this.#secured(socket)
      } catch (error) {
        options.logger.error({ error: messageOf(error) }, 'a caller could not be let in by a mistake of ours')
        socket.destroy()
      }
    })
    this.#server.on('tlsClientError', (error, socket) => {
      this.#refused('tls')
      options.logger.debug({ error: error.message }, 'a handshake at the gateway failed')
      socket.destroy()
    })
    this.#expiry = setInterval(() => this.#closeExpired(), terminatorLimits.expiryMs)
    this.#expiry.unref()
  }

  /** False while something is to end here and there is no leaf to prove who we are. */
  get ready(): boolean {
    return this.#plan === undefined || this.#plan.upstreams.size === 0 || this.#identity !== undefined
  }

  /** A new plan or leaf: contexts and upstreams are swapped, and whoever may no longer be here goes. */
  update(plan: GatewayPlan, identity: ProxyIdentity | undefined): void {
    this.#plan = plan
    this.#identity = identity
    if (identity !== undefined) this.#prove(plan, identity)
    const letGo = identity && this.#ways.update(plan, identity)
    const protocols = protocolsOf(plan)
    for (const [name, target] of this.#targets) if (protocols.get(name) !== target.protocol) this.#targets.delete(name)
    if (identity !== undefined) for (const [name, protocol] of protocols) this.#bind(name, protocol)
    for (const connection of this.#connections) this.#review(connection)
    letGo?.()
  }

  /** A connection whose hello is still to be read. */
  accept(socket: Socket): void {
    // A client that ends in the middle of its handshake is gone.
    socket.allowHalfOpen = false
    this.#server.emit('connection', socket)
  }

  drain(): void {
    this.#draining = true
    for (const { served } of this.#connections) served.drain()
  }

  close(): void {
    clearInterval(this.#expiry)
    for (const { socket } of this.#connections) socket.destroy()
    this.#ways.close()
  }

  /** Node believes any root of any peer at first; whose root decides is the permit's. */
  #prove(plan: GatewayPlan, identity: ProxyIdentity): void {
    const pems = [...plan.roots.values()].flatMap(roots => (roots.peer === '' ? [] : roots.pems))
    const key = contextKey(identity, pems)
    if (key === this.#contextKey) return
    this.#server.setSecureContext(contextOptions(identity, pems))
    this.#contextKey = key
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

  #permitOf(chain: Permit['chain'], { peer }: GatewayRoute): ReturnType<typeof permitOf> {
    const rootsOf = (trustDomain: string) => {
      const roots: RootsPlan | undefined = this.#plan!.roots.get(trustDomain)
      return roots?.peer === peer ? readBundle(roots.pems) : undefined
    }
    return permitOf(chain, rootsOf, Date.now())
  }

  #secured(socket: TLSSocket): void {
    socket.on('error', () => {})
    socket.allowHalfOpen = true
    const sni = nameOf(socket.servername)
    const [route, target] = [this.#routeOf(sni), this.#targetOf(sni)]
    if (route === undefined || target === undefined || this.#identity === undefined) return void socket.destroy()
    const made = socket.authorized ? this.#permitOf(presentedChain(socket), route) : ({ ok: false, reason: 'untrusted' } as const)
    if (!made.ok) {
      this.#refused(made.reason)
      return void socket.destroy()
    }
    const { permit } = made
    const served = this.#serve(socket, target, permit, xfccElement(this.#identity.uri, permit))
    const connection: Connection = { socket, sni, permit, target, served }
    this.#connections.add(connection)
    socket.once('close', () => this.#connections.delete(connection))
    if (this.#draining || this.#plan!.self.draining) served.drain()
  }

  #serve(socket: TLSSocket, { name, http2, requests }: Target, { uri }: Permit, caller: string): Served {
    if (http2 !== undefined) return http2.serve(socket, caller)
    readShared(socket)
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

  /** Whether a connection may stay, after a change. */
  #review(connection: Connection): void {
    const { socket, sni, permit, target, served } = connection
    const route = this.#routeOf(sni)
    // Un-exported, or no caller of that peer any more.
    if (route === undefined || !this.#permitOf(permit.chain, route).ok) return void socket.destroy()
    if (this.#targetOf(sni) !== target || this.#plan!.self.draining) served.drain()
    else served.reauthorize()
  }

  #closeExpired(): void {
    const now = Date.now()
    for (const { socket, permit } of this.#connections) if (now >= permit.validUntilMs) socket.destroy()
  }

  #refused(reason: RefusalReason): void {
    this.#options.metrics.refused('gateway', reason).count += 1
  }
}

/** In lower case. The gateway has read a name, but a second hello of the same handshake may bring another one, or none (`false`). */
function nameOf(servername: unknown): string {
  return typeof servername === 'string' ? servername.toLowerCase() : ''
}

/** By the names that requests may go on by: what is spoken there. */
function protocolsOf({ upstreams, chains }: WaysPlan): Map<string, string> {
  return new Map([...upstreams.values(), ...chains.values()].map(({ name, resource }) => [name, resource.protocol]))
}
