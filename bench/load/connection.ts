/**
 * One connection of the load generator: sends a request's bytes and says when the response has ended, one at a time. A connection that
 * the server has closed is opened again for the next request.
 */
import { connect, type Socket } from 'node:net'
import { ResponseReader } from './message.ts'

/** How a request ended: the status of its response, or why there was none. */
export type Outcome = number | 'connect' | 'closed' | 'malformed' | 'timeout'

export interface Target {
  host: string
  port: number
  method: string
  /** The whole request, made once. */
  bytes: Buffer
  timeoutMs: number
}

export class Connection {
  readonly #target: Target
  #socket: Socket | undefined
  #reader: ResponseReader
  #done: ((outcome: Outcome) => void) | undefined
  #deadline: NodeJS.Timeout | undefined
  #startedMs = 0
  #connected = false

  constructor(target: Target) {
    this.#target = target
    this.#reader = new ResponseReader(target.method)
  }

  /** Only when the one before is done. */
  send(done: (outcome: Outcome) => void): void {
    this.#done = done
    this.#startedMs = performance.now()
    // One timer for the life of the connection: setting one for each request would cost more than the request.
    this.#deadline ??= setInterval(() => this.#checkTime(), Math.max(10, this.#target.timeoutMs / 4))
    const socket = (this.#socket ??= this.#open())
    socket.write(this.#target.bytes)
  }

  close(): void {
    clearInterval(this.#deadline)
    this.#done = undefined
    this.#drop()
  }

  #open(): Socket {
    const { host, port } = this.#target
    const socket = connect({ host, port, noDelay: true })
    this.#reader = new ResponseReader(this.#target.method)
    this.#connected = false
    socket.once('connect', () => (this.#connected = true))
    socket.on('data', chunk => this.#read(socket, chunk))
    socket.on('error', () => this.#lost(socket))
    socket.on('close', () => this.#lost(socket))
    return socket
  }

  #read(socket: Socket, chunk: Buffer): void {
    if (socket !== this.#socket) return
    if (this.#done === undefined) return this.#drop()
    const head = this.#reader.push(chunk)
    if (head === undefined) return
    if (typeof head === 'string') return this.#finish('malformed')
    if (!head.keepAlive) this.#drop()
    this.#finish(head.status)
  }

  #lost(socket: Socket): void {
    if (socket !== this.#socket) return
    const head = this.#reader.end()
    this.#drop()
    this.#finish(head?.status ?? (this.#connected ? 'closed' : 'connect'))
  }

  #checkTime(): void {
    if (this.#done && performance.now() - this.#startedMs > this.#target.timeoutMs) this.#finish('timeout')
  }

  #finish(outcome: Outcome): void {
    const done = this.#done
    if (!done) return
    this.#done = undefined
    if (typeof outcome === 'string') this.#drop()
    done(outcome)
  }

  #drop(): void {
    this.#socket?.destroy()
    this.#socket = undefined
  }
}
