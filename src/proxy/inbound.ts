/**
 * The public door of a sidecar, in the order in which a caller meets it: connection limit, TLS, permit, then for every request (http)
 * or for the connection (anything else) the intentions, then the app. Nothing of the app is reached, and nothing of it is sent back,
 * before the decision; and a decision lasts only until the next plan.
 */
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import type { ByteStream } from '../lib/byte-stream.ts'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import type { Decision, Principal } from '../mesh/authorize.ts'
import { isHttp2, isHttpLike } from '../mesh/protocol.ts'
import type { SidecarBinding } from './binding.ts'
import { dialPlain } from './dial.ts'
import { serveHttp1 } from './http1/connection.ts'
import { defaultHttp1Limits, type Http1Limits } from './http1/limits.ts'
import type { Channels } from './http2/channels.ts'
import { serveHttp2 } from './http2/connection.ts'
import { defaultHttp2Limits, type Http2Limits } from './http2/limits.ts'
import { ownHttp2 } from './http2/own-alpn.ts'
import { InboundHttp } from './inbound-http.ts'
import { appChannels, InboundHttp2 } from './inbound-http2.ts'
import { InboundJudge, nobody } from './inbound-judge.ts'
import { type DecisionLabel, type ProxyMetrics, type RefusalReason, type RequestTallies, type Tally } from './metrics.ts'
import { serveMux, type Served } from './mux-connection.ts'
import type { Permit } from './permit.ts'
import { StreamPool } from './pool.ts'
import { readShared } from './socket-reads.ts'
import { TlsDoor, type Caller } from './tls-door.ts'
import { chooseAlpn, muxProtocol } from './tls.ts'
import { openTunnel, type Tunnel } from './tunnel.ts'

const auditEveryMs = 10_000
const maxAuditedRules = 1024

export const inboundLimits = {
  /** A connection of bytes that says nothing and is allowed nothing. */
  silentMs: 60_000,
  tunnelIdleMs: 3_600_000,
  /** Handshakes at a time; one more takes the place of the oldest. */
  maxHandshakes: 1024,
} as const

interface InboundCaller extends Caller {
  /** How it is served; when the service's protocol changes, it is served no longer. */
  protocol: string
}

export interface InboundOptions {
  binding: () => SidecarBinding | undefined
  metrics: ProxyMetrics
  logger: Logger
  limits?: Partial<Http1Limits & Http2Limits>
}

export class Inbound {
  readonly #options: InboundOptions
  readonly #door: TlsDoor<InboundCaller>
  /** Every accepted socket, in its handshake or beyond. */
  readonly #sockets = new Set<Socket>()
  /** Those in their handshake, the oldest first, by where they come from: the TLS socket does not tell which raw one it is on. */
  readonly #handshakes = new Map<string, Socket>()
  readonly #app = new StreamPool()
  readonly #appChannels: Channels
  readonly #refused: (reason: RefusalReason) => void
  readonly #accepted: Tally
  readonly #decisions: Record<DecisionLabel, Tally>
  /** By rule: when it was last said that it would deny somebody. */
  readonly #toldMs = new Map<string, number>()
  readonly #requests: Record<DecisionLabel | 'none', RequestTallies>
  readonly #limits: Http1Limits
  /** Open multiplexed sessions, and the streams in them. */
  #sessions = 0
  #streams = 0
  readonly #http2Limits: Http2Limits
  #context: SidecarBinding | undefined
  #appAddress = ''
  #hasThrown = false
  #closed = false

  constructor(options: InboundOptions) {
    const { metrics } = options
    this.#options = options
    this.#limits = { ...defaultHttp1Limits, ...options.limits }
    this.#http2Limits = { ...defaultHttp2Limits, ...options.limits }
    this.#appChannels = appChannels(options.binding, this.#http2Limits)
    this.#refused = reason => {
      metrics.refused('inbound', reason).count += 1
    }
    this.#accepted = metrics.connections('inbound')
    this.#decisions = byDecision(label => metrics.decision(label))
    const requests = byDecision(label => metrics.requests('inbound', '', label))
    this.#requests = { ...requests, none: metrics.requests('inbound', '') }
    metrics.gauges.open.set('inbound', () => this.#sockets.size)
    this.#door = new TlsDoor<InboundCaller>({
      name: 'inbound',
      metrics,
      logger: options.logger,
      alpn: offered => chooseAlpn(offered, this.#context?.plan.self.protocol ?? ''),
      rootsOf: () => {
        const binding = options.binding()
        return binding && (domain => binding.inboundRoots.get(domain))
      },
      admit: (socket, permit) => this.#admit(socket, permit),
      helloWasRead: false,
      isDraining: () => this.#options.binding()?.plan.self.draining === true,
      shook: socket => this.#shook(remoteOf(socket)),
      threw: error => this.#threw(error),
    })
  }

  get app(): StreamPool {
    return this.#app
  }

  get sessions(): number {
    return this.#sessions
  }

  /** 1. A connection arrives. */
  accept(raw: Socket): void {
    const binding = this.#options.binding()
    raw.on('error', () => {})
    if (!binding || this.#closed || this.#context === undefined) return this.#turnAway(raw, 'not-ready')
    const { maxInboundConnections } = binding.plan.self
    if (maxInboundConnections > 0 && this.#sockets.size >= maxInboundConnections) return this.#turnAway(raw, 'limit')
    if (this.#handshakes.size >= inboundLimits.maxHandshakes) {
      // Whoever reaches the gateway can begin handshakes and leave them. An honest one takes milliseconds: the oldest is the least likely.
      const [oldest] = this.#handshakes.values()
      this.#turnAway(oldest!, 'limit')
    }
    const key = remoteOf(raw)
    this.#sockets.add(raw)
    this.#handshakes.delete(key)
    this.#handshakes.set(key, raw)
    raw.once('close', () => {
      this.#sockets.delete(raw)
      this.#shook(key, raw)
    })
    this.#door.accept(raw)
  }

  #shook(key: string, raw?: Socket): void {
    if (raw === undefined || this.#handshakes.get(key) === raw) this.#handshakes.delete(key)
  }

  #turnAway(raw: Socket, reason: RefusalReason): void {
    this.#refused(reason)
    this.#shook(remoteOf(raw), raw)
    raw.destroy()
  }

  /** 2. The handshake is done, and Node believes some root of ours; 3. whose root decides (tls-door.ts), and that one has a permit. */
  #admit(socket: TLSSocket, permit: Permit): InboundCaller {
    this.#accepted.count += 1
    const { protocol } = this.#options.binding()!.plan.self
    readShared(socket)
    const served = isHttpLike(protocol) ? this.#serveRequests(socket, permit, protocol) : this.#serveBytes(socket, permit)
    return { socket, permit, protocol, served }
  }

  /** 4a. Requests: each is judged by the door, against the binding of its own moment. */
  #serveRequests(socket: TLSSocket, permit: Permit, protocol: string): Served {
    if (isHttp2(protocol)) return this.#serveHttp2(socket, permit)
    return socket.alpnProtocol === muxProtocol ? this.#serveMux(socket, permit) : this.#serveHttp(socket, permit, false)
  }

  #serveHttp(stream: ByteStream, permit: Permit, own: boolean): Served {
    return serveHttp1(stream, new InboundHttp({ ...this.#doorOf(permit), app: this.#app, own }), this.#limits)
  }

  /** Each stream counts as a connection. */
  #serveMux(socket: TLSSocket, permit: Permit): Served {
    this.#sessions += 1
    return serveMux(socket, {
      serve: stream => {
        const { maxInboundConnections } = this.#options.binding()!.plan.self
        if (maxInboundConnections > 0 && this.#sockets.size + this.#streams >= maxInboundConnections) {
          this.#refused('limit')
          return undefined
        }
        this.#streams += 1
        stream.once('close', () => (this.#streams -= 1))
        return this.#serveHttp(stream, permit, true)
      },
      closed: fault => {
        this.#sessions -= 1
        if (fault !== '') this.#options.logger.warn({ fault, caller: permit.uri }, 'a multiplexed session was ended')
      },
    })
  }

  #serveHttp2(socket: TLSSocket, permit: Permit): Served {
    const flooded = () => this.#refused('limit')
    const own = socket.alpnProtocol === ownHttp2
    return serveHttp2(socket, new InboundHttp2({ ...this.#doorOf(permit), app: this.#appChannels, own, flooded }), this.#http2Limits)
  }

  /** What the doors of both codecs have in common. */
  #doorOf(permit: Permit) {
    const binding = () => this.#options.binding()!
    const judge = new InboundJudge({ permit, binding, decided: decision => this.#decided(decision) })
    return { judge, binding, requests: this.#requests, threw: (error: unknown) => this.#threw(error) }
  }

  /** 4b. Bytes: a caller who is allowed reaches the app at once, so that either side may speak first; the others' first byte closes. */
  #serveBytes(socket: TLSSocket, permit: Permit): Served {
    let tunnel: Tunnel | undefined
    let state: 'waiting' | 'dialling' | 'open' = 'waiting'
    const judge = (): boolean => this.#judge(permit).allow
    const reach = async () => {
      state = 'dialling'
      this.#decisions.allow.count += 1
      socket.off('data', onRefused)
      socket.pause()
      socket.setTimeout(0)
      const { app, localConnectTimeoutMs } = this.#options.binding()!.plan.self
      const dialed = app ? await dialPlain(app, localConnectTimeoutMs) : undefined
      if (!this.#options.binding()) return void socket.destroy()
      if (!dialed?.ok || socket.destroyed || !judge()) {
        if (dialed?.ok) dialed.stream.destroy()
        socket.destroy()
        return
      }
      state = 'open'
      tunnel = openTunnel(socket, dialed.stream, { idleMs: inboundLimits.tunnelIdleMs })
    }
    const onRefused = () => {
      this.#decided(this.#judge(permit))
      socket.end()
      socket.destroySoon()
    }
    if (judge()) void reach()
    else {
      socket.once('data', onRefused)
      socket.once('end', () => socket.end())
      socket.setTimeout(inboundLimits.silentMs, () => socket.destroy())
    }
    return {
      reauthorize: () => {
        const allowed = judge()
        if (state === 'waiting' && allowed) void reach()
        else if (state === 'open' && !allowed) tunnel?.destroy()
      },
      drain: () => {},
    }
  }

  /** A mistake of ours: said once, and paid by one connection. */
  #threw(error: unknown): void {
    if (!this.#hasThrown)
      this.#options.logger.error({ error: messageOf(error), stack: (error as Error | undefined)?.stack }, 'judging a caller failed')
    this.#hasThrown = true
  }

  #judge(permit: Permit): Decision {
    if (Date.now() >= permit.validUntilMs) return nobody
    const { authorizer } = this.#options.binding()!.plan
    const principal: Principal | undefined = authorizer.identify(permit.uri)
    return principal ? authorizer.authorize(principal, undefined) : nobody
  }

  #decided(decision: Decision): DecisionLabel {
    const label = decisionLabel(decision)
    this.#decisions[label].count += 1
    if (label === 'audit') this.#audited(decision)
    return label
  }

  /** Said now and then for each rule: every request would be too much, and the metric counts them all. */
  #audited({ rule, permission, unproven }: Decision): void {
    const now = performance.now()
    if (now - (this.#toldMs.get(rule) ?? -Infinity) < auditEveryMs) return
    if (this.#toldMs.size >= maxAuditedRules) this.#toldMs.clear()
    this.#toldMs.set(rule, now)
    this.#options.logger.warn({ rule, permission, unproven }, 'an intention that is only tried out would deny this caller')
  }

  /** A new plan or leaf is in place: contexts are swapped, and whoever may no longer be here goes. */
  update(binding: SidecarBinding): void {
    this.#door.prove(binding.identity, binding.inboundPems)
    const before = this.#context
    this.#context = binding
    const { app, protocol, draining } = binding.plan.self
    const appAddress = JSON.stringify(app)
    if (appAddress !== this.#appAddress) {
      this.#app.rekey(appAddress)
      this.#appChannels.rekey()
    }
    this.#appAddress = appAddress
    const rootsChanged = before === undefined || before.inboundPems.join() !== binding.inboundPems.join()
    for (const caller of this.#door.callers) {
      const trusted = !rootsChanged || this.#door.holds(caller)
      if (!trusted || caller.protocol !== protocol) caller.socket.destroy()
      else caller.served.reauthorize()
      if (draining) caller.served.drain()
    }
  }

  /** Says go-away to every caller, new ones too. */
  drain(): void {
    this.#door.drain()
  }

  close(): void {
    this.#closed = true
    this.#door.close()
    for (const raw of this.#sockets) raw.destroy()
    this.#app.close()
    this.#appChannels.close()
  }
}

function remoteOf(socket: Socket): string {
  return `${socket.remoteAddress}:${socket.remotePort}`
}

function decisionLabel(decision: Decision): DecisionLabel {
  if (decision.malformed === true) return 'malformed'
  if (decision.audited === true) return 'audit'
  return decision.allow ? 'allow' : `deny-${decision.reason}`
}

/** One of something for each decision. */
function byDecision<T>(make: (label: DecisionLabel) => T): Record<DecisionLabel, T> {
  const labels: DecisionLabel[] = ['allow', 'audit', 'deny-intention', 'deny-default', 'deny-peer-default', 'deny-identity', 'malformed']
  return Object.fromEntries(labels.map(label => [label, make(label)])) as Record<DecisionLabel, T>
}
