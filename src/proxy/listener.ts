/**
 * One listening socket that a plan asks for. A port in use is an error that is said clearly and tried again, never a crash: the
 * other listeners of the proxy go on, and this one appears when the port is free.
 */
import { chmodSync, lstatSync, rmSync } from 'node:fs'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { Backoff } from '../lib/backoff.ts'
import { messageOf } from '../lib/errors.ts'
import type { Logger } from '../lib/log.ts'

export interface ListenAddress {
  address: string
  port: number
  socketPath?: string | undefined
  socketMode?: string | undefined
}

export interface ListenerOptions {
  at: ListenAddress
  /** What it is for, in log lines. */
  purpose: string
  logger: Logger
  onConnection: (socket: Socket) => void
  /** Told of the first refusal by the system; retrying goes on. Returning false gives up. */
  onFailure?: (code: string) => boolean
}

export class Listener {
  readonly #options: ListenerOptions
  readonly #backoff = new Backoff({ firstMs: 250, maxMs: 5000, jitter: 0.2 })
  readonly #firstTry: Promise<void>
  #tried: () => void = () => {}
  #onListening: (() => void)[] = []
  #server: Server | undefined
  #retry: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: ListenerOptions) {
    this.#options = options
    this.#firstTry = new Promise(resolve => {
      this.#tried = resolve
    })
    this.#listen()
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
    if (this.#server?.listening) this.#server.close()
    this.#tried()
  }

  #listen(): void {
    const { at, purpose, logger, onConnection, onFailure } = this.#options
    // Half-open: the end of a request must not end its answer.
    const server = createServer({ allowHalfOpen: true, noDelay: true }, onConnection)
    this.#server = server
    const fields = { purpose, address: at.socketPath ?? at.address, port: at.socketPath === undefined ? at.port : undefined }
    server.once('error', (error: NodeJS.ErrnoException) => {
      this.#tried()
      if (this.#closed) return
      const code = error.code ?? 'EUNKNOWN'
      if (onFailure?.(code) === false) return
      const waitMs = Math.round(this.#backoff.nextMs())
      logger.error({ ...fields, code, retryMs: waitMs }, 'cannot listen: free the address or register another one; retrying')
      this.#retry = setTimeout(() => this.#listen(), waitMs)
      this.#retry.unref()
    })
    server.once('listening', () => {
      this.#tried()
      if (this.#closed) {
        server.close()
        return
      }
      server.on('error', error => logger.warn({ ...fields, error: error.message }, 'accepting a connection failed'))
      this.#setMode()
      logger.debug({ ...fields, port: this.port }, 'listening')
      for (const callback of this.#onListening) callback()
    })
    try {
      if (at.socketPath === undefined) {
        server.listen({ host: at.address === '' ? '0.0.0.0' : at.address, port: at.port })
      } else {
        removeStaleSocket(at.socketPath)
        server.listen({ path: at.socketPath })
      }
    } catch (error) {
      // A port that is none: Node throws where the system would answer.
      server.emit('error', error)
    }
  }

  /** The mode is free text of a registration; one that cannot be set leaves the socket file closed to others. */
  #setMode(): void {
    const { socketPath, socketMode } = this.#options.at
    if (socketPath === undefined || socketMode === undefined) return
    try {
      chmodSync(socketPath, /^[0-7]{1,4}$/.test(socketMode) ? Number.parseInt(socketMode, 8) : 0o600)
    } catch (error) {
      this.#options.logger.error({ socketPath, socketMode, error: messageOf(error) }, 'cannot set the mode of a socket file')
    }
  }
}

/** A socket file that a killed process left behind would refuse the bind for ever. Nothing but a socket is ever removed. */
function removeStaleSocket(path: string): void {
  try {
    if (lstatSync(path).isSocket()) rmSync(path)
  } catch {
    // None there.
  }
}
