/**
 * The app's side of a sidecar: one plain listener for each upstream of the plan. They come and go with the plan; an upstream that is
 * no longer imported loses its listener and every stream at once, the others notice nothing. What the app says about client
 * certificates is dropped: only a sidecar or a gateway may say who a caller is.
 */
import type { Socket } from 'node:net'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import type { Affinity, Hashable } from '../mesh/balance/request-hash.ts'
import type { SidecarBinding } from './binding.ts'
import { serveHttp1, type ServedConnection } from './http1/connection.ts'
import type { ConnectFailure, HttpDoor, Opened, Outcome, Refused, UpstreamStream } from './http1/door.ts'
import type { RequestHead, ResponseHead } from './http1/head.ts'
import { defaultHttp1Limits, type Http1Limits } from './http1/limits.ts'
import { defaultHttp2Limits, type Http2Limits } from './http2/limits.ts'
import { Listener } from './listener.ts'
import type { ListeningSockets } from './listening-sockets.ts'
import { recordRequest, type ProxyMetrics, type RequestTallies, type Tally } from './metrics.ts'
import { OutboundHttp2 } from './outbound-http2.ts'
import { ClientContexts, isHttp2 } from './tls.ts'
import { Call, tooMany } from './traffic.ts'
import { openTunnel } from './tunnel.ts'
import { Upstream } from './upstream.ts'
import { xfccHeader } from './xfcc.ts'

const tunnelIdleMs = 3_600_000
/** A tunnel to an endpoint that is gone: until it is quiet, and at most. */
const drain = { quietMs: 1000, limitMs: 10_000 } as const

export interface OutboundOptions {
  metrics: ProxyMetrics
  logger: Logger
  sockets: ListeningSockets
  limits?: Partial<Http1Limits & Http2Limits>
}

/** One upstream with its listener and what came in through it. */
interface Entry {
  upstream: Upstream
  http2: OutboundHttp2 | undefined
  listener: Listener
  /** Listener and protocol; when one changes, the entry is made anew. */
  shape: string
  connections: Map<Socket, { drain(): void; replan(upstream: Upstream): void }>
}

export class Outbound {
  readonly #options: OutboundOptions
  readonly #contexts = new ClientContexts()
  readonly #entries = new Map<string, Entry>()
  readonly #accepted: Tally
  readonly #limits: Http1Limits
  readonly #http2Limits: Http2Limits
  #draining = false

  constructor(options: OutboundOptions) {
    this.#options = options
    this.#limits = { ...defaultHttp1Limits, ...options.limits }
    this.#http2Limits = { ...defaultHttp2Limits, ...options.limits }
    this.#accepted = options.metrics.connections('outbound')
    options.metrics.gauges.open.set('outbound', () => [...this.#entries.values()].reduce((sum, entry) => sum + entry.connections.size, 0))
  }

  get upstreams(): Upstream[] {
    return [...this.#entries.values()].map(entry => entry.upstream)
  }

  /** Names of the upstreams whose listener is not bound. */
  get unbound(): string[] {
    return [...this.#entries].filter(([, entry]) => !entry.listener.listening).map(([name]) => name)
  }

  /** Where an upstream listens. */
  port(name: string): number | undefined {
    return this.#entries.get(name)?.listener.port
  }

  /** Brings listeners and streams in line with a new plan or leaf; resolves when every new listener was tried. */
  async update({ plan, identity }: SidecarBinding): Promise<void> {
    for (const [name, entry] of this.#entries) {
      const next = plan.upstreams.get(name)
      if (!next || shapeOf(next.resource) !== entry.shape) this.#remove(name, entry)
    }
    const tried: Promise<void>[] = []
    for (const [name, upstreamPlan] of plan.upstreams) {
      const entry = this.#entries.get(name)
      if (entry) {
        entry.upstream.update(upstreamPlan, identity)
        entry.http2?.update()
        for (const connection of entry.connections.values()) connection.replan(entry.upstream)
        continue
      }
      const upstream = new Upstream(upstreamPlan, identity, this.#contexts, this.#options.metrics)
      tried.push(this.#add(name, upstream).listener.tried())
    }
    await Promise.all(tried)
  }

  /** Says go-away to every connection of the app, new ones too. Tunnels, which cannot be told, are left to their end. */
  drain(): void {
    this.#draining = true
    for (const { connections } of this.#entries.values()) for (const connection of connections.values()) connection.drain()
  }

  close(): void {
    for (const [name, entry] of this.#entries) this.#remove(name, entry)
  }

  #add(name: string, upstream: Upstream): Entry {
    const { metrics, logger, sockets } = this.#options
    const { resource } = upstream.plan
    const requests = metrics.requests('outbound', name)
    const http2 = isHttp2(resource.protocol) ? new OutboundHttp2(upstream, requests, this.#http2Limits, logger) : undefined
    const connections: Entry['connections'] = new Map()
    const accept = (socket: Socket) => {
      this.#accepted.count += 1
      socket.on('error', () => {})
      socket.once('close', () => connections.delete(socket))
      const { protocol } = resource
      const served =
        http2 !== undefined
          ? serving(http2.serve(socket))
          : protocol === 'http'
            ? this.#serveHttp(socket, upstream, requests)
            : serveBytes(socket, upstream)
      connections.set(socket, served)
      if (this.#draining) served.drain()
    }
    const listener = new Listener({
      at: resource.listen,
      purpose: `upstream ${name}`,
      logger,
      sockets,
      plain: http2 === undefined,
      onConnection: accept,
    })
    const entry: Entry = { upstream, http2, listener, shape: shapeOf(resource), connections }
    this.#entries.set(name, entry)
    return entry
  }

  #remove(name: string, entry: Entry): void {
    this.#entries.delete(name)
    entry.listener.close()
    entry.http2?.close()
    entry.upstream.close()
    for (const socket of entry.connections.keys()) socket.destroy()
  }

  #serveHttp(socket: Socket, upstream: Upstream, requests: RequestTallies): { drain(): void; replan(): void } {
    const door = new OutboundHttp(upstream, requests, this.#options.logger, socket.remoteAddress ?? '')
    return serving(serveHttp1(socket, door, this.#limits))
  }
}

function serving(served: ServedConnection): { drain(): void; replan(): void } {
  return { drain: () => served.drain(), replan: () => served.reauthorize() }
}

/** One connection of a caller. Requests are not judged here: whom it may call is for the other side to say. */
export class OutboundHttp implements HttpDoor {
  readonly #opened: Opened
  readonly #requests: RequestTallies
  readonly #upstream: Upstream
  readonly #logger: Logger
  readonly #call: Call
  /** Where the app calls from. */
  readonly #source: string
  /** Who calls, where that was proven; an app proves nothing. */
  readonly #caller: string | undefined
  #stream: UpstreamStream | undefined

  constructor(upstream: Upstream, requests: RequestTallies, logger: Logger, source: string, caller?: string) {
    this.#logger = logger
    this.#source = source
    this.#caller = caller
    this.#call = new Call(upstream.traffic)
    this.#upstream = upstream
    this.#requests = requests
    this.#opened = { ok: true, connect: fresh => this.#connect(fresh), timeoutMs: undefined, retry: this.#call }
  }

  open(head: RequestHead): Opened | Refused {
    const { hash, resource } = this.#upstream.plan
    if (!this.#call.begin()) {
      this.#upstream.traffic.over('requests')
      return tooMany
    }
    head.remove(xfccHeader)
    if (this.#caller !== undefined) head.append(xfccHeader, this.#caller)
    if (hash !== undefined) hash.of(head, this.#source, this.#call)
    this.#opened.timeoutMs = resource.requestTimeoutMs
    return this.#opened
  }

  responding(head: ResponseHead): void {
    if (this.#call.setCookie !== '') head.append('set-cookie', this.#call.setCookie)
  }

  /** A tunnel stays while its server is still the right one. */
  stillAllowed(): boolean {
    return this.#stream === undefined || this.#upstream.accepts(this.#stream.stream)
  }

  threw(error: unknown): void {
    this.#logger.error({ upstream: this.#upstream.plan.name, error: messageOf(error) }, 'a request failed by a mistake of ours')
  }

  finished(outcome: Outcome): void {
    this.#stream = undefined
    this.#call.end(outcome)
    recordRequest(this.#requests, outcome.status, outcome.durationMs)
  }

  #connect(fresh: boolean): UpstreamStream | ConnectFailure | Promise<UpstreamStream | ConnectFailure> {
    const made = this.#upstream.connect(fresh, this.#call)
    if (made instanceof Promise) return made.then(stream => this.#note(stream))
    return this.#note(made)
  }

  #note(made: UpstreamStream | ConnectFailure): UpstreamStream | ConnectFailure {
    if ('stream' in made) this.#stream = made
    return made
  }
}

/** Of a request: a connection of bytes has an address only. */
const nothing: Hashable = { target: '', get: () => undefined }

/** Bytes: a tunnel from the start. */
function serveBytes(socket: Socket, upstream: Upstream): { drain(): void; replan(upstream: Upstream): void } {
  let check: (() => void) | undefined
  const affinity: Affinity = { hash: undefined, setCookie: '' }
  upstream.plan.hash?.of(nothing, socket.remoteAddress ?? '', affinity)
  socket.pause()
  void upstream.dial(undefined, affinity.hash).then(dialed => {
    if (!dialed.ok) return void socket.resetAndDestroy()
    const { stream, endpoint } = dialed
    if (socket.destroyed) return void stream.destroy()
    const open = openTunnel(socket, stream, { idleMs: tunnelIdleMs })
    check = () => {
      if (!upstream.accepts(stream)) open.destroy()
      else if (!upstream.hasEndpoint(endpoint)) open.drain(drain.quietMs, drain.limitMs)
    }
  })
  return { drain: () => {}, replan: () => check?.() }
}

function shapeOf(resource: { listen: object; protocol: string }): string {
  return JSON.stringify([resource.listen, resource.protocol])
}
