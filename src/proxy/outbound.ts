/**
 * The app's side of a sidecar: one plain listener for each name of the plan, led to its upstream or through its chain. They come and go
 * with the plan; an upstream that is no longer imported loses its listener and every stream at once, the others notice nothing, and a
 * name that becomes a chain, or ceases to be one, keeps its connections: the next request on each goes the new way.
 */
import type { Socket } from 'node:net'
import type { Logger } from '../lib/log.ts'
import type { Affinity, Hashable } from '../mesh/balance/request-hash.ts'
import { isHttp2 } from '../mesh/protocol.ts'
import type { SidecarPlan } from '../mesh/plan.ts'
import type { RouteFacts } from '../mesh/route-table.ts'
import type { ChainResource } from '../mesh/snapshot.ts'
import type { SidecarBinding } from './binding.ts'
import type { Way } from './chain.ts'
import { serveHttp1, type ServedConnection } from './http1/connection.ts'
import { defaultHttp1Limits, type Http1Limits } from './http1/limits.ts'
import { defaultHttp2Limits, type Http2Limits } from './http2/limits.ts'
import { Listener } from './listener.ts'
import type { ListeningSockets } from './listening-sockets.ts'
import type { ProxyMetrics, Tally } from './metrics.ts'
import { OutboundHttp } from './outbound-http.ts'
import { OutboundHttp2 } from './outbound-http2.ts'
import { openTunnel } from './tunnel.ts'
import type { Upstream } from './upstream.ts'
import { Ways } from './ways.ts'

const tunnelIdleMs = 3_600_000
/** A tunnel to an endpoint that is gone: until it is quiet, and at most. */
const drain = { quietMs: 1000, limitMs: 10_000 } as const

export interface OutboundOptions {
  metrics: ProxyMetrics
  logger: Logger
  sockets: ListeningSockets
  limits?: Partial<Http1Limits & Http2Limits>
}

type Served = { drain(): void; replan(): void }

/** A name that the app dials, with its listener and what came in through it. */
interface Entry {
  way: Way
  listener: Listener
  /** Listener and protocol; when one changes, the entry is made anew. */
  shape: string
  connections: Map<Socket, Served>
}

/** What is listened for. */
interface Dialled {
  name: string
  way: Way
  listen: NonNullable<ChainResource['listen']>
  protocol: string
}

export class Outbound {
  readonly #options: OutboundOptions
  readonly #ways: Ways
  readonly #entries = new Map<string, Entry>()
  readonly #accepted: Tally
  readonly #limits: Http1Limits
  readonly #http2Limits: Http2Limits
  #draining = false

  constructor(options: OutboundOptions) {
    this.#options = options
    this.#limits = { ...defaultHttp1Limits, ...options.limits }
    this.#http2Limits = { ...defaultHttp2Limits, ...options.limits }
    this.#ways = new Ways(options.metrics, this.#http2Limits)
    this.#accepted = options.metrics.connections('outbound')
    options.metrics.gauges.open.set('outbound', () => [...this.#entries.values()].reduce((sum, entry) => sum + entry.connections.size, 0))
  }

  get upstreams(): Upstream[] {
    return this.#ways.upstreams
  }

  /** Names whose listener is not bound. */
  get unbound(): string[] {
    return [...this.#entries].filter(([, entry]) => !entry.listener.listening).map(([name]) => name)
  }

  /** Where a name is listened for. */
  port(name: string): number | undefined {
    return this.#entries.get(name)?.listener.port
  }

  /** Brings listeners and streams in line with a new plan or leaf; resolves when every new listener was tried. */
  async update({ plan, identity }: SidecarBinding): Promise<void> {
    const letGo = this.#ways.update(plan, identity)
    const dialled = this.#dialled(plan)
    for (const [name, entry] of this.#entries) {
      const next = dialled.get(name)
      if (!next || shapeOf(next) !== entry.shape) this.#remove(name, entry)
    }
    const tried: Promise<void>[] = []
    for (const [name, next] of dialled) {
      const entry = this.#entries.get(name)
      if (entry) {
        entry.way = next.way
        for (const connection of entry.connections.values()) connection.replan()
      } else tried.push(this.#add(next).listener.tried())
    }
    letGo()
    await Promise.all(tried)
  }

  /** Says go-away to every connection of the app, new ones too. Tunnels, which cannot be told, are left to their end. */
  drain(): void {
    this.#draining = true
    for (const { connections } of this.#entries.values()) for (const connection of connections.values()) connection.drain()
  }

  close(): void {
    for (const [name, entry] of this.#entries) this.#remove(name, entry)
    this.#ways.close()
  }

  /** Every name with a listener, by its name. */
  #dialled({ upstreams, chains }: SidecarPlan): Map<string, Dialled> {
    const dialled = new Map<string, Dialled>()
    for (const { name, resource } of [...upstreams.values(), ...chains.values()]) {
      const way = this.#ways.way(name)
      const { listen, protocol } = resource
      if (listen && way) dialled.set(name, { name, way, listen, protocol })
    }
    return dialled
  }

  #add(dialled: Dialled): Entry {
    const { logger, sockets } = this.#options
    const { name, protocol, listen } = dialled
    const connections: Entry['connections'] = new Map()
    const http2 = isHttp2(protocol)
    const serve = this.#server(dialled, () => entry.way)
    const accept = (socket: Socket) => {
      this.#accepted.count += 1
      socket.on('error', () => {})
      socket.once('close', () => connections.delete(socket))
      const served = serve(socket)
      connections.set(socket, served)
      if (this.#draining) served.drain()
    }
    const listener = new Listener({ at: listen, purpose: `upstream ${name}`, logger, sockets, plain: !http2, onConnection: accept })
    const entry: Entry = { way: dialled.way, listener, shape: shapeOf(dialled), connections }
    this.#entries.set(name, entry)
    return entry
  }

  #remove(name: string, entry: Entry): void {
    this.#entries.delete(name)
    entry.listener.close()
    for (const socket of entry.connections.keys()) socket.destroy()
  }

  /** How connections of the app are served. */
  #server({ name, protocol }: Dialled, way: () => Way): (socket: Socket) => Served {
    const { logger, metrics } = this.#options
    const requests = metrics.requests('outbound', name)
    if (isHttp2(protocol)) {
      const channelsOf = (upstream: Upstream) => this.#ways.channelsOf(upstream)
      const door = new OutboundHttp2({ name, way, channelsOf, requests, limits: this.#http2Limits, logger })
      return socket => serving(door.serve(socket))
    }
    if (protocol !== 'http') return socket => serveBytes(socket, way())
    return socket => {
      const door = new OutboundHttp({ name, way, requests, logger, source: socket.remoteAddress ?? '' })
      return serving(serveHttp1(socket, door, this.#limits))
    }
  }
}

function serving(served: ServedConnection): Served {
  return { drain: () => served.drain(), replan: () => served.reauthorize() }
}

/** Of a request: a connection of bytes has an address only. */
const nothing: RouteFacts & Hashable = { method: '', path: '', target: '', headers: [], get: () => undefined }

/** Bytes: a tunnel from the start, to the first target that can be reached. */
function serveBytes(socket: Socket, way: Way): Served {
  let check: (() => void) | undefined
  socket.pause()
  void dialBytes(socket, way).then(found => {
    if (found === undefined) return void socket.resetAndDestroy()
    const { upstream, stream, endpoint } = found
    if (socket.destroyed) return void stream.destroy()
    const open = openTunnel(socket, stream, { idleMs: tunnelIdleMs })
    check = () => {
      if (!upstream.accepts(stream)) open.destroy()
      else if (!upstream.hasEndpoint(endpoint)) open.drain(drain.quietMs, drain.limitMs)
    }
  })
  return { drain: () => {}, replan: () => check?.() }
}

type Reached = Extract<Awaited<ReturnType<Upstream['dial']>>, { ok: true }> & { upstream: Upstream }

async function dialBytes(socket: Socket, way: Way): Promise<Reached | undefined> {
  const routed = way.route(nothing)
  const tried = new Set<Upstream>()
  const affinity: Affinity = { hash: undefined, setCookie: '' }
  let upstream = routed && way.target(routed.resolver)
  for (;;) {
    if (upstream === undefined) {
      upstream = routed && way.other(routed.resolver, tried)
      if (upstream === undefined) return undefined
    }
    tried.add(upstream)
    upstream.plan.hash?.of(nothing, socket.remoteAddress ?? '', affinity)
    const dialled = await upstream.dial(undefined, affinity.hash)
    if (dialled.ok) return { ...dialled, upstream }
    upstream = undefined
  }
}

function shapeOf({ listen, protocol }: Dialled): string {
  return JSON.stringify([listen, protocol])
}
