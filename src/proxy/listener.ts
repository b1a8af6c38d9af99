/**
 * One listening socket that a plan asks for. A port in use is an error that is said clearly and tried again, never a crash: the
 * other listeners of the proxy go on, and this one appears when the port is free.
 */
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { Backoff } from '../lib/backoff.ts'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'
import { readShared, socketOptions } from './socket-reads.ts'
import { ListeningSockets } from './listening-sockets.ts'

export interface ListenAddress {
  address: string
  port: number
  socketPath?: string | undefined
  socketMode?: string | undefined
}

export interface ListenerOptions {
  at: ListenAddress
  /** What it is for: its name among the sockets of the proxy, and in log lines. */
  purpose: string
  logger: Logger
  /** The others of the same proxy. */
  sockets?: ListeningSockets
  /** Its bytes are read as they are, not by TLS or HTTP/2. */
  plain?: boolean
  onConnection: (socket: Socket) => void
  /** Told of the first refusal by the system; retrying goes on. Returning false gives up. */
  onFailure?: (code: string) => boolean
}

export class Listener {
  readonly #options: ListenerOptions
  readonly #sockets: ListeningSockets
  readonly #backoff = new Backoff({ firstMs: 250, maxMs: 5000, jitter: 0.2 })
  readonly #firstTry: Promise<void>
  #tried: () => void = () => {}
  #onListening: (() => void)[] = []
  #server: Server | undefined
  #retry: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: ListenerOptions) {
    this.#options = options
    this.#sockets = options.sockets ?? new ListeningSockets()
    this.#firstTry = new Promise(resolve => {
      this.#tried = resolve
    })
    void this.#listen()
  }

  /** Resolves when the first attempt has succeeded or failed. */
  tried(): Promise<void> {
    return this.#firstTry
  }

  /** Calls back whenever the port is bound, at once if it is. */
  whenListening(callback: () => void): void {
    if (this.listening) callback()
    this.#onListening.push(callback)
  }

  get listening(): boolean {
    return this.#server?.listening === true
  }

  /** The port that is bound; undefined while there is none. */
  get port(): number | undefined {
    const address = this.#server?.address()
    return typeof address === 'object' && address !== null ? (address satisfies AddressInfo).port : undefined
  }

  /** Stops accepting; connections that are open stay. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#retry)
    if (this.#server) this.#sockets.release(this.#server)
    this.#tried()
  }

  async #listen(): Promise<void> {
    const { at, purpose, logger, plain = false, onConnection, onFailure } = this.#options
    if (this.#sockets.stopped) return this.#tried()
    const { address, port, socketPath: path, socketMode } = at
    const fields = { purpose, address: path ?? address, port: path === undefined ? port : undefined }
    try {
      const accept = plain ? (socket: Socket) => onConnection(readShared(socket)) : onConnection
      const make = () => createServer(socketOptions, accept)
      const server = await this.#sockets.listen(purpose, { address, port, path, mode: modeOf(socketMode) }, make)
      if (this.#closed || this.#sockets.stopped) this.#sockets.release(server)
      else this.#listens(server, fields)
    } catch (error) {
      if (this.#closed || this.#sockets.stopped) return
      const code = (error as NodeJS.ErrnoException).code ?? messageOf(error)
      if (onFailure?.(code) === false) return
      const waitMs = Math.round(this.#backoff.nextMs())
      logger.error({ ...fields, code, retryMs: waitMs }, 'cannot listen: free the address or register another one; retrying')
      this.#retry = setTimeout(() => void this.#listen(), waitMs)
      this.#retry.unref()
    } finally {
      this.#tried()
    }
  }

  #listens(server: Server, fields: object): void {
    const { logger } = this.#options
    this.#server = server
    server.on('error', error => logger.warn({ ...fields, error: error.message }, 'accepting a connection failed'))
    logger.debug({ ...fields, port: this.port }, 'listening')
    for (const callback of this.#onListening) callback()
  }
}

/** The mode is free text of a registration; one that is none leaves the socket file closed to others. */
function modeOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  return /^[0-7]{1,4}$/.test(text) ? Number.parseInt(text, 8) : 0o600
}
