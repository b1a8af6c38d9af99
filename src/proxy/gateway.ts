/**
 * The mesh gateway: reads the server name of a ClientHello, looks it up in the table of the address that was dialled and passes the
 * bytes on, untouched, so that identity is end to end; where requests are wanted, TLS ends here (terminator.ts). Whatever is in no table gets a TCP reset before a single TLS byte, exactly
 * like a name that does not exist: nothing can be learnt here about what is not exported (data-plane.md 1.3, 5.4).
 */
import type { Socket } from 'node:net'
import type { Logger } from '../lib/log.ts'
import { Outlier } from '../mesh/balance/outlier.ts'
import type { Picker } from '../mesh/balance/picker.ts'
import type { GatewayPlan, GatewayRoute } from '../mesh/plan.ts'
import { addressOf, type Endpoint } from '../mesh/snapshot.ts'
import { dialPlain } from './dial.ts'
import { Listener } from './listener.ts'
import type { ListeningSockets } from './listening-sockets.ts'
import type { ProxyMetrics, RefusalReason, Tally } from './metrics.ts'
import { maxHelloBytes, peekServerName } from './sni-peek.ts'
import { Terminator } from './terminator.ts'
import type { ProxyIdentity } from './tls.ts'
import { openTunnel, type Tunnel } from './tunnel.ts'

export interface GatewayLimits {
  /** From accepting to a whole ClientHello. */
  peekMs: number
  connectMs: number
  /** Endpoints tried for one connection. */
  attempts: number
  tunnelIdleMs: number
  /** Connections at a time. */
  maxConnections: number
  /** A tunnel to an endpoint that is gone: until it is quiet, and at most. */
  drainQuietMs: number
  drainLimitMs: number
  /** A tunnel whose requests are wanted from now on: new connections end here, and those of one of us grow no older than this. */
  changeLimitMs: number
}
export const gatewayLimits: GatewayLimits = {
  peekMs: 5000,
  connectMs: 5000,
  attempts: 3,
  tunnelIdleMs: 3_600_000,
  maxConnections: 16_384,
  drainQuietMs: 1000,
  drainLimitMs: 10_000,
  changeLimitMs: 300_000,
}

/** Which table answers at an address. */
type Table = 'wan' | 'lan'

interface Passage {
  table: Table
  sni: string
  scope: GatewayRoute['scope']
  endpoint: Endpoint
  tunnel: Tunnel
  dismissed: boolean
}

export interface GatewayOptions {
  sockets?: ListeningSockets
  metrics: ProxyMetrics
  logger: Logger
  limits?: Partial<GatewayLimits>
}

export class Gateway {
  readonly #options: GatewayOptions
  readonly #limits: GatewayLimits
  readonly #sockets = new Set<Socket>()
  readonly #passages = new Set<Passage>()
  /** Connection failures only: what is inside the tunnels is not ours to see. */
  readonly #outlier = new Outlier()
  /** Connections at each address, also those that are being opened. */
  readonly #loads = new Map<string, number>()
  readonly #listeners = new Map<Table, { shape: string; listener: Listener }>()
  readonly #accepted: Tally
  readonly #terminator: Terminator
  readonly #dials = new Map<string, { ok: Tally; failed: Tally; ejected: Tally }>()
  #plan: GatewayPlan | undefined
  /** An advertised WAN address that is not one of this machine (NAT). Strangers then arrive at the LAN address, so it serves theirs only. */
  #wanElsewhere = ''

  constructor(options: GatewayOptions) {
    this.#options = options
    this.#limits = { ...gatewayLimits, ...options.limits }
    this.#accepted = options.metrics.connections('gateway')
    this.#terminator = new Terminator({ metrics: options.metrics, logger: options.logger })
    options.metrics.gauges.open.set('gateway', () => this.#sockets.size)
    options.metrics.gauges.ejected.set('', () => this.#outlier.ejected)
  }

  port(table: Table): number | undefined {
    return (this.#listeners.get(table) ?? this.#listeners.get('lan'))?.listener.port
  }

  get listening(): boolean {
    return [...this.#listeners.values()].every(({ listener }) => listener.listening)
  }

  /** It has a leaf, if anything ends here. */
  get proven(): boolean {
    return this.#terminator.ready
  }

  /** Says go-away to whoever can hear it. */
  drain(): void {
    this.#terminator.drain()
  }

  /** Takes over a new plan: listeners, then tunnels whose way is no longer in it. `onListening` hears of every address that is bound, late ones too. */
  async update(plan: GatewayPlan, onListening: () => void, identity?: ProxyIdentity): Promise<void> {
    this.#plan = plan
    this.#terminator.update(plan, identity)
    const rows = [...plan.wan.values(), ...plan.lan.values()]
    this.#outlier.update(undefined, new Set(rows.flatMap(row => row.endpoints.map(addressOf))))
    const { listen, wan } = plan.self
    // Where the LAN listener is on every address of the port, a second one cannot be told apart from it.
    const separate = wan !== undefined && plan.lan !== plan.wan && !(anyAddress(listen.address) && wan.port === listen.port)
    const tried = [this.#listenAt('lan', listen, onListening)]
    if (separate) tried.push(this.#listenAt('wan', wan, onListening))
    else this.#stop('wan')
    for (const passage of this.#passages) {
      const route = this.#table(passage.table).get(passage.sni)
      if (!route && passage.scope === 'server') this.#dismiss(passage)
      else if (!route) passage.tunnel.destroy()
      else if (route.upstream !== undefined) passage.tunnel.drain(this.#limits.drainQuietMs, this.#limits.changeLimitMs)
      else if (!route.endpoints.some(endpoint => addressOf(endpoint) === addressOf(passage.endpoint))) this.#drainPassage(passage)
    }
    await Promise.all(tried)
  }

  close(): void {
    for (const table of ['lan', 'wan'] as const) this.#stop(table)
    for (const socket of this.#sockets) socket.destroy()
    for (const { tunnel } of this.#passages) tunnel.destroy()
    this.#terminator.close()
  }

  async #listenAt(table: Table, at: { address: string; port: number }, onListening: () => void): Promise<void> {
    const shape = `${at.address}:${at.port}`
    if (this.#listeners.get(table)?.shape === shape || (table === 'wan' && this.#wanElsewhere === shape)) return
    this.#stop(table)
    const { logger, sockets } = this.#options
    const onFailure = (code: string) => {
      if (table === 'lan' || code !== 'EADDRNOTAVAIL') return true
      this.#wanElsewhere = shape
      logger.warn(
        { address: at.address, port: at.port },
        'the WAN address is not of this machine: the LAN address serves exported names only',
      )
      this.#stop('wan')
      return false
    }
    const onConnection = (socket: Socket) => this.#accept(socket, table)
    const listener = new Listener({
      at,
      purpose: `gateway ${table}`,
      logger,
      ...(sockets ? { sockets } : {}),
      plain: true,
      onConnection,
      onFailure,
    })
    this.#listeners.set(table, { shape, listener })
    listener.whenListening(onListening)
    await listener.tried()
    onListening()
  }

  #stop(table: Table): void {
    this.#listeners.get(table)?.listener.close()
    this.#listeners.delete(table)
  }

  #table(table: Table): ReadonlyMap<string, GatewayRoute> {
    const plan = this.#plan!
    // Only while strangers have a door of their own are those at this one known to be none.
    const shared = this.#listeners.get('wan')?.listener.listening !== true
    return table === 'wan' || shared ? plan.wan : plan.lan
  }

  /** 1. A connection arrives; nothing is known of it but the address it dialled. */
  #accept(socket: Socket, table: Table): void {
    this.#accepted.count += 1
    socket.on('error', () => {})
    if (this.#sockets.size >= this.#limits.maxConnections) return this.#refuse(socket, 'limit')
    this.#sockets.add(socket)
    socket.once('close', () => this.#sockets.delete(socket))
    this.#peek(socket, (hello, sni) => void this.#pass(socket, table, hello, sni))
  }

  /** 2. The server name, within a time and a number of bytes. */
  #peek(socket: Socket, found: (hello: Buffer, sni: string) => void): void {
    let room = Buffer.allocUnsafe(2048)
    let length = 0
    const timer = setTimeout(() => this.#refuse(socket, 'timeout'), this.#limits.peekMs)
    const stop = () => {
      clearTimeout(timer)
      socket.off('data', onData)
      socket.off('end', onEnd)
    }
    const onData = (chunk: Buffer) => {
      const taken = Math.min(chunk.length, maxHelloBytes + 1 - length)
      if (length + chunk.length > room.length) {
        const larger = Buffer.allocUnsafe(Math.min(maxHelloBytes + 1, Math.max(room.length * 2, length + taken)))
        room.copy(larger, 0, 0, length)
        room = larger
      }
      chunk.copy(room, length, 0, taken)
      length += taken
      const peek = taken < chunk.length ? ({ state: 'refused', reason: 'too-long' } as const) : peekServerName(room.subarray(0, length))
      if (peek.state === 'more') return
      stop()
      socket.pause()
      if (peek.state === 'refused') return this.#refuse(socket, peek.reason)
      found(room.subarray(0, length), peek.sni)
    }
    const onEnd = () => {
      stop()
      // Who says nothing at all only looked whether somebody listens: a health check.
      if (length === 0) socket.destroy()
      else this.#refuse(socket, 'malformed')
    }
    socket.on('data', onData)
    socket.once('end', onEnd)
    socket.once('close', stop)
  }

  /** 3. The table of this address; 4. an endpoint that answers; 5. bytes both ways. */
  async #pass(socket: Socket, table: Table, hello: Buffer, sni: string): Promise<void> {
    const route = this.#table(table).get(sni)
    if (!route) return this.#refuse(socket, 'unknown-server-name')
    if (route.upstream !== undefined) return this.#end(socket, hello)
    const reached = await this.#reach(route)
    if (reached) this.#releaseWith(socket, reached)
    if (socket.destroyed) return void reached?.stream.destroy()
    if (!reached) return this.#refuse(socket, 'no-endpoint')
    // The plan may have changed while an endpoint was dialled: what is gone by now is not served.
    const now = this.#table(table).get(sni)
    if (!now || !now.endpoints.some(endpoint => addressOf(endpoint) === addressOf(reached.endpoint))) {
      reached.stream.destroy()
      return this.#refuse(socket, 'unknown-server-name')
    }
    reached.stream.write(hello)
    const onClose = () => this.#passages.delete(passage)
    const tunnel = openTunnel(socket, reached.stream, { idleMs: this.#limits.tunnelIdleMs, onClose })
    const passage: Passage = { table, sni, scope: now.scope, endpoint: reached.endpoint, tunnel, dismissed: false }
    this.#passages.add(passage)
    if (tunnel.closed) onClose()
  }

  /** 4b. Requests are wanted here: the handshake begins with the hello that was read. */
  #end(socket: Socket, hello: Buffer): void {
    if (!this.#terminator.ready) return this.#refuse(socket, 'not-ready')
    socket.unshift(hello)
    this.#terminator.accept(socket)
  }

  async #reach(route: GatewayRoute): Promise<{ stream: Socket; endpoint: Endpoint } | undefined> {
    const tried = new Set<string>()
    const dials = this.#dialsOf(route)
    const picker = fewestFirst(route, address => this.#loads.get(address) ?? 0)
    for (let attempt = 0; attempt < this.#limits.attempts; attempt += 1) {
      const endpoint = this.#outlier.pick(picker, tried, this.#limits.connectMs)
      if (!endpoint) return undefined
      const address = addressOf(endpoint)
      tried.add(address)
      this.#load(address, 1)
      const dialed = await dialPlain(endpoint, this.#limits.connectMs)
      dials[dialed.ok ? 'ok' : 'failed'].count += 1
      if (dialed.ok) {
        this.#outlier.reached(address)
        return { stream: dialed.stream, endpoint }
      }
      this.#load(address, -1)
      if (this.#outlier.failed(address)) dials.ejected.count += 1
    }
    return undefined
  }

  #load(address: string, change: 1 | -1): void {
    const load = (this.#loads.get(address) ?? 0) + change
    if (load > 0) this.#loads.set(address, load)
    else this.#loads.delete(address)
  }

  /** A client that has ended its half is leaving: whoever takes its place may have the same endpoint. */
  #releaseWith(socket: Socket, { stream, endpoint }: { stream: Socket; endpoint: Endpoint }): void {
    let counted = true
    const release = () => {
      if (counted) this.#load(addressOf(endpoint), -1)
      counted = false
    }
    socket.once('end', release)
    for (const side of [socket, stream]) {
      side.once('close', release)
      if (side.destroyed) release()
    }
  }

  #dialsOf({ service, peer }: GatewayRoute): { ok: Tally; failed: Tally; ejected: Tally } {
    const name = peer === '' ? service : `${service}?peer=${peer}`
    let dials = this.#dials.get(name)
    if (!dials) {
      const { metrics } = this.#options
      this.#dials.set(
        name,
        (dials = { ok: metrics.dials(name, 'ok'), failed: metrics.dials(name, 'failed'), ejected: metrics.ejections(name, 'unreachable') }),
      )
    }
    return dials
  }

  #refuse(socket: Socket, reason: RefusalReason): void {
    this.#options.metrics.refused('gateway', reason).count += 1
    if (!socket.destroyed) socket.resetAndDestroy()
  }

  /** The peer hears through this very tunnel where our servers are dialled from now on (peering-wire.md 7.7): time for that, however quiet it was. */
  #dismiss(passage: Passage): void {
    if (passage.dismissed) return
    passage.dismissed = true
    setTimeout(() => this.#drainPassage(passage), this.#limits.drainQuietMs).unref()
  }

  #drainPassage({ tunnel }: Passage): void {
    tunnel.drain(this.#limits.drainQuietMs, this.#limits.drainLimitMs)
  }
}

/**
 * The endpoint with the fewest connections for its weight, in the picker's turn among equals: the sessions of an importer stay where
 * they were put for minutes, so what counts is where they are, not whose turn it is.
 */
function fewestFirst({ endpoints, picker }: GatewayRoute, loadOf: (address: string) => number): Picker {
  const loadFor = (endpoint: Endpoint) => loadOf(addressOf(endpoint)) / endpoint.weight
  return {
    size: picker.size,
    pick(skip = () => false) {
      let fewest = Infinity
      for (const endpoint of endpoints)
        if (endpoint.healthy && endpoint.weight > 0 && !skip(endpoint)) fewest = Math.min(fewest, loadFor(endpoint))
      return picker.pick(endpoint => skip(endpoint) || loadFor(endpoint) > fewest)
    },
  }
}

function anyAddress(address: string): boolean {
  return address === '' || address === '0.0.0.0' || address === '::'
}
