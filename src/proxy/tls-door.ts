/**
 * The door at which callers prove who they are, of a sidecar and of a gateway alike: handshake, permit, and the end of both. Invariants: nobody
 * is served without a permit; whoever's permit ends, or would not be given any more, goes without a request to say so; what the door is
 * told to everybody is told to those as well who come later.
 */
import type { Socket } from 'node:net'
import { createServer, type Server, type TLSSocket } from 'node:tls'
import type { Logger } from '../lib/log.ts'
import type { Door, ProxyMetrics, RefusalReason } from './metrics.ts'
import type { Served } from './mux-connection.ts'
import { permitOf, presentedChain, type Permit, type RootsOf } from './permit.ts'
import { contextKey, contextOptions, type ProxyIdentity } from './tls.ts'

export const tlsDoorLimits = {
  handshakeMs: 10_000,
  /** How often callers are looked at for certificates that have ended. */
  expiryMs: 1000,
} as const

/** Somebody who came in. */
export interface Caller {
  socket: TLSSocket
  permit: Permit
  served: Served
}

export interface TlsDoorOptions<C extends Caller> {
  name: Door
  metrics: ProxyMetrics
  logger: Logger
  /** Answers a client's ALPN offer; `servername` is in lower case, or empty. */
  alpn(offered: readonly string[], servername: string): string | undefined
  /** By whose roots a caller may come in on this connection now; undefined where nobody may. */
  rootsOf(socket: TLSSocket): RootsOf | undefined
  /** Serves somebody who has a permit; undefined where there is nothing for them. */
  admit(socket: TLSSocket, permit: Permit): C | undefined
  /** Whoever comes is to be told to go again. */
  isDraining(): boolean
  /** Connections come with their hello already read; else one that says nothing only looked whether somebody listens: a health check. */
  helloWasRead: boolean
  /** A handshake is over. */
  shook?(socket: TLSSocket): void
  /** A mistake of ours: it costs one connection. */
  threw(error: unknown): void
}

const untrusted = { ok: false, reason: 'untrusted' } as const

export class TlsDoor<C extends Caller> {
  readonly #options: TlsDoorOptions<C>
  readonly #server: Server
  readonly #callers = new Set<C>()
  readonly #expiry: NodeJS.Timeout
  #contextKey = ''
  #draining = false
  #closed = false

  constructor(options: TlsDoorOptions<C>) {
    this.#options = options
    // Never listens itself: it is handed connections.
    this.#server = createServer({
      requestCert: true,
      rejectUnauthorized: true,
      handshakeTimeout: tlsDoorLimits.handshakeMs,
      ALPNCallback: ({ servername, protocols }) => options.alpn(protocols, nameOf(servername)),
    })
    this.#server.on('secureConnection', socket => {
      try {
        this.#secured(socket)
      } catch (error) {
        options.threw(error)
        socket.destroy()
      }
    })
    this.#server.on('tlsClientError', (error, socket) => {
      if (!this.#closed && (options.helloWasRead || socket.bytesRead > 0)) this.#refused('tls')
      options.logger.debug({ door: options.name, error: error.message }, 'a handshake failed')
      socket.destroy()
    })
    this.#expiry = setInterval(() => this.#closeExpired(), tlsDoorLimits.expiryMs)
    this.#expiry.unref()
  }

  get callers(): ReadonlySet<C> {
    return this.#callers
  }

  /** How the door proves itself, and whom Node believes at first; whose root decides is the permit's. */
  prove(identity: ProxyIdentity, rootPems: readonly string[]): void {
    const key = contextKey(identity, rootPems)
    if (key === this.#contextKey) return
    this.#server.setSecureContext(contextOptions(identity, rootPems))
    this.#contextKey = key
  }

  /** A connection whose handshake is still to come. */
  accept(raw: Socket): void {
    // A client that ends in the middle of its handshake is gone; half-open is for those who have finished it.
    raw.allowHalfOpen = false
    this.#server.emit('connection', raw)
  }

  /** Whether somebody who is here would be let in now. */
  holds({ socket, permit }: C): boolean {
    const rootsOf = this.#options.rootsOf(socket)
    return rootsOf !== undefined && permitOf(permit.chain, rootsOf, Date.now()).ok
  }

  drain(): void {
    this.#draining = true
    for (const { served } of this.#callers) served.drain()
  }

  close(): void {
    this.#closed = true
    clearInterval(this.#expiry)
    for (const { socket } of this.#callers) socket.destroy()
  }

  #secured(socket: TLSSocket): void {
    const options = this.#options
    socket.on('error', () => {})
    socket.allowHalfOpen = true
    options.shook?.(socket)
    const roots = this.#closed ? undefined : options.rootsOf(socket)
    if (roots === undefined) return void socket.destroy()
    const made = socket.authorized ? permitOf(presentedChain(socket), roots, Date.now()) : untrusted
    if (!made.ok) {
      this.#refused(made.reason)
      options.logger.debug({ door: options.name, reason: made.reason, remote: socket.remoteAddress }, 'a caller was refused')
      return void socket.destroy()
    }
    const caller = options.admit(socket, made.permit)
    if (caller === undefined) return void socket.destroy()
    this.#callers.add(caller)
    socket.once('close', () => this.#callers.delete(caller))
    if (this.#draining || options.isDraining()) caller.served.drain()
  }

  /** Certificates end without a plan to say so. Requests are judged by it anyway; this is for connections that make none. */
  #closeExpired(): void {
    const now = Date.now()
    for (const { socket, permit } of this.#callers) if (now >= permit.validUntilMs) socket.destroy()
  }

  #refused(reason: RefusalReason): void {
    this.#options.metrics.refused(this.#options.name, reason).count += 1
  }
}

/** In lower case. A gateway has read a name, but a second hello of the same handshake may bring another one, or none (`false`). */
export function nameOf(servername: unknown): string {
  return typeof servername === 'string' ? servername.toLowerCase() : ''
}
