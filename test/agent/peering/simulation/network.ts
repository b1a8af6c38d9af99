/**
 * The network between simulated clusters: streams and calls that are late, held up, cut at one end or both, or refused. It carries
 * encoded messages, as gRPC would, so that what a cluster hears is what the wire can say. A monitor sees all of it.
 */
import { EventEmitter } from 'node:events'
import type { PeerStreamHandlers, StreamCall } from '../../../../src/agent/peering/acceptor.ts'
import type { Link, StreamHandler } from '../../../../src/agent/peering/driver.ts'
import type { Status } from '../../../../src/agent/peering/session.ts'
import type { PeerTransport, StreamEnd, Target } from '../../../../src/agent/peering/transport.ts'
import { ReplicationMessage, type ExchangeSecretRequest } from '../../../../src/wire/gen/peerstream.ts'
import { grpcCodes, peerStreamService } from '../../../../src/wire/peer-stream.ts'
import type { Dice } from './dice.ts'
import { Pipe, type Piece } from './pipe.ts'
import type { Timeline } from './timeline.ts'

const { requestSerialize: serialize, requestDeserialize: deserialize } = peerStreamService.streamResources

/** A process that runs, as the network sees it. */
export interface Host {
  readonly cluster: string
  /** It listens. */
  readonly handlers: PeerStreamHandlers
  readonly serverName: string
  roots(): string[]
  isAlive(): boolean
}

export type Side = 'dialer' | 'acceptor'

export interface Passing {
  stream: Stream
  from: Side
  message: ReplicationMessage
}

export interface NetworkOptions {
  timeline: Timeline
  dice: Dice
  /** What is sent, before anything happens to it. */
  onSend: (passing: Passing, bytes: number, waitingBytes: number) => void
  /** What comes out at the other end. */
  onDeliver: (passing: Passing) => void
  /** One end of a stream ends. */
  onEnd: (stream: Stream, side: Side, status: Status) => void
  /** A defect that a test puts in: undefined swallows the message. */
  tamper?: (passing: Passing) => ReplicationMessage | undefined
}

const unavailable = (message: string): Status => ({ code: grpcCodes.unavailable, message })
/** How long a dial to nowhere lasts. */
const connectTimeoutMs = 20_000
/** When TCP and gRPC notice that the other end is gone, where they notice. */
const keepaliveMs: [number, number] = [30_000, 40_000]

export class Network {
  readonly options: NetworkOptions
  /** By address. */
  readonly #hosts = new Map<string, Host>()
  readonly streams = new Set<Stream>()
  readonly #severed = new Set<string>()
  /** Latency now, ms; a slow network has more. */
  latency: [number, number] = [1, 40]
  /** Connections hang for ever when the other end is gone: only the heartbeats tell. */
  withoutKeepalive = false

  constructor(options: NetworkOptions) {
    this.options = options
  }

  listen(address: string, host: Host): void {
    this.#hosts.set(address, host)
  }

  transportOf(from: Host): PeerTransport {
    return {
      exchange: (target, request, deadlineMs) => this.#exchange(from, target, request, deadlineMs),
      openStream: (target, begin, _clock, over) => this.#openStream(from, target, begin, over),
    }
  }

  isSevered(a: string, b: string): boolean {
    return this.#severed.has(pairOf(a, b))
  }

  /** Nothing passes between the two; what is on its way waits. */
  sever(a: string, b: string): void {
    this.#severed.add(pairOf(a, b))
    for (const stream of this.#between(a, b)) {
      if (this.withoutKeepalive) continue
      for (const side of ['dialer', 'acceptor'] as const) {
        this.#after(keepaliveMs, () => {
          if (this.isSevered(a, b)) stream.break(side, 'keepalive timeout')
        })
      }
    }
  }

  heal(a: string, b: string): void {
    this.#severed.delete(pairOf(a, b))
    for (const stream of this.#between(a, b)) stream.healed()
  }

  /** Resets connections. One end notices at once, the other after `laterMs`. */
  cut(a: string, b: string, first: Side, laterMs: number): void {
    for (const stream of this.#between(a, b)) stream.break(first, 'connection reset', grpcCodes.unavailable, laterMs)
  }

  /** A process is gone, with or without its kernel saying so to the others. */
  lose(host: Host, silently: boolean): void {
    for (const stream of this.streams) {
      for (const side of ['dialer', 'acceptor'] as const) if (stream.hosts[side] === host) stream.abandon(side, silently)
    }
  }

  latencyMs(): number {
    return this.options.dice.between(...this.latency)
  }

  #between(a: string, b: string): Stream[] {
    return [...this.streams].filter(({ hosts }) => pairOf(hosts.dialer.cluster, hosts.acceptor.cluster) === pairOf(a, b))
  }

  #after([low, high]: [number, number], run: () => void): void {
    this.options.timeline.after(this.options.dice.between(low, high), run)
  }

  /** The host behind an address, or why a connection to it fails, and when. */
  #connect(from: Host, target: Target): { host: Host } | { status: Status; afterMs: number } {
    const host = this.#hosts.get(target.address)
    if (!host || this.isSevered(from.cluster, host.cluster)) {
      return { status: unavailable('connection timed out'), afterMs: connectTimeoutMs }
    }
    const refusal = { afterMs: this.latencyMs() }
    if (!host.isAlive()) return { status: unavailable('connection refused'), ...refusal }
    const trusted = target.serverName === host.serverName && target.caPems.some(pem => host.roots().includes(pem))
    return trusted ? { host } : { status: unavailable('the certificate is not trusted'), ...refusal }
  }

  #exchange(from: Host, target: Target, request: ExchangeSecretRequest, deadlineMs: number): ReturnType<PeerTransport['exchange']> {
    const { timeline } = this.options
    return new Promise(resolve => {
      const reached = this.#connect(from, target)
      if ('status' in reached) {
        timeline.after(Math.min(reached.afterMs, deadlineMs), () => resolve({ ok: false, status: reached.status }))
        return
      }
      timeline.after(deadlineMs, () => resolve({ ok: false, status: { code: 4, message: 'Deadline exceeded' } }))
      const passes = () => !this.isSevered(from.cluster, reached.host.cluster)
      timeline.after(this.latencyMs(), () => {
        if (!passes() || !reached.host.isAlive()) return
        const call = { request } as Parameters<PeerStreamHandlers['exchangeSecret']>[0]
        reached.host.handlers.exchangeSecret(call, (error, response) => {
          timeline.after(this.latencyMs(), () => {
            if (!passes()) return
            if (response) resolve({ ok: true, streamSecret: response.StreamSecret })
            else resolve({ ok: false, status: { code: error?.code ?? grpcCodes.unknown, message: error?.details ?? '' } })
          })
        })
      })
    })
  }

  #openStream(
    from: Host,
    target: Target,
    begin: (link: Link) => StreamHandler,
    over: (end: StreamEnd) => void,
  ): ReturnType<PeerTransport['openStream']> {
    const { timeline } = this.options
    const reached = this.#connect(from, target)
    if ('host' in reached) return new Stream(this, { dialer: from, acceptor: reached.host }).dial(begin, over)
    let handler: StreamHandler | undefined
    let fail: (status: Status) => void = () => undefined
    const ended = new Promise<void>(resolve => {
      fail = status => {
        fail = () => undefined
        if (!from.isAlive()) return
        handler?.ended(status)
        resolve()
        over({ status, lived: false })
      }
    })
    const cancelled = { code: grpcCodes.cancelled, message: 'Cancelled on client' }
    const link: Link = {
      send: () => undefined,
      halfClose: () => undefined,
      close: () => void timeline.after(0, () => fail(cancelled)),
      pause: () => undefined,
      resume: () => undefined,
    }
    handler = begin(link)
    handler.open()
    timeline.after(reached.afterMs, () => fail(reached.status))
    return { link, ended }
  }
}

function pairOf(a: string, b: string): string {
  return a < b ? `${a} ${b}` : `${b} ${a}`
}

/** One StreamResources call: two pipes and two ends, each of which ends once. */
export class Stream {
  readonly #network: Network
  readonly hosts: Record<Side, Host>
  readonly openedMs: number
  readonly pipes: Record<Side, Pipe>
  readonly #over: Record<Side, boolean> = { dialer: false, acceptor: false }
  #call: AcceptedCall | undefined
  #endDialer: (status: Status) => void = () => undefined
  #receive: (message: ReplicationMessage) => void = () => undefined

  constructor(network: Network, hosts: Record<Side, Host>) {
    this.#network = network
    this.hosts = hosts
    const { timeline } = network.options
    this.openedMs = timeline.monotonicMs()
    const isSevered = () => network.isSevered(hosts.dialer.cluster, hosts.acceptor.cluster)
    const pipe = (from: Side) =>
      new Pipe({ timeline, latencyMs: () => network.latencyMs(), isSevered, deliver: piece => this.#deliver(from, piece) })
    this.pipes = { dialer: pipe('dialer'), acceptor: pipe('acceptor') }
    network.streams.add(this)
  }

  dial(begin: (link: Link) => StreamHandler, over: (end: StreamEnd) => void): { link: Link; ended: Promise<void> } {
    const { timeline } = this.#network.options
    let lived = false
    const link: Link = {
      send: (message, taken) => this.write('dialer', message, taken),
      halfClose: () => this.pipes.dialer.write({ kind: 'end' }),
      close: () => void timeline.after(0, () => this.break('dialer', 'Cancelled on client', grpcCodes.cancelled)),
      pause: () => this.pipes.acceptor.pause(),
      resume: () => this.pipes.acceptor.resume(),
    }
    const handler = begin(link)
    this.#receive = message => {
      lived = true
      handler.receive(message)
    }
    const ended = new Promise<void>(resolve => {
      this.#endDialer = status => {
        handler.ended(status.code === grpcCodes.ok ? undefined : status)
        resolve()
        over({ status, lived })
      }
    })
    // What is written before the other end is there waits for it.
    this.pipes.dialer.pause()
    handler.open()
    timeline.after(this.#network.latencyMs(), () => {
      const { acceptor } = this.hosts
      if (!acceptor.isAlive() || this.#over.acceptor) return
      this.#call = new AcceptedCall(this)
      acceptor.handlers.streamResources(this.#call as unknown as StreamCall)
      this.pipes.dialer.resume()
    })
    return { link, ended }
  }

  write(from: Side, message: ReplicationMessage, taken: () => void): void {
    if (this.#over[from]) return
    const { onSend, tamper } = this.#network.options
    const bytes = serialize(message)
    onSend({ stream: this, from, message }, bytes.length, this.pipes[from].waitingBytes)
    const passed = tamper ? tamper({ stream: this, from, message }) : message
    const alive = () => this.hosts[from].isAlive() && !this.#over[from]
    const whenTaken = () => {
      if (alive()) taken()
    }
    if (!passed) queueMicrotask(whenTaken)
    else this.pipes[from].write({ kind: 'message', bytes: passed === message ? bytes : serialize(passed), taken: whenTaken })
  }

  /** An acceptor's last word. */
  finish({ code, message }: Status): void {
    this.#over.acceptor = true
    this.pipes.dialer.break()
    this.pipes.acceptor.write({ kind: 'status', code, message })
    this.#forget()
  }

  /** One end notices that the connection is gone; the other does later. */
  break(side: Side, reason: string, code: number = grpcCodes.unavailable, laterMs = 0): void {
    if (this.#over[side]) return
    this.#end(side, { code, message: reason })
    this.#tell(side === 'dialer' ? 'acceptor' : 'dialer', laterMs)
  }

  /** The process at one end is gone. */
  abandon(side: Side, silently: boolean): void {
    const other = side === 'dialer' ? 'acceptor' : 'dialer'
    this.#over[side] = true
    this.pipes[side].break()
    if (!silently) this.#tell(other)
    else if (!this.#network.withoutKeepalive) {
      const { timeline, dice } = this.#network.options
      timeline.after(dice.between(...keepaliveMs), () => this.break(other, 'keepalive timeout'))
    }
    this.#forget()
  }

  /** It is the process's stream with that cluster, and has not ended as far as the process knows. */
  isUpFor(process: Host, other: string): boolean {
    const { dialer, acceptor } = this.hosts
    if (dialer === process) return acceptor.cluster === other && !this.#over.dialer
    return acceptor === process && dialer.cluster === other && !this.#over.acceptor
  }

  healed(): void {
    for (const side of ['dialer', 'acceptor'] as const) {
      if (this.#over[side]) this.#tell(side === 'dialer' ? 'acceptor' : 'dialer')
      this.pipes[side].read()
    }
  }

  /** A reset, which is as slow as anything else and comes no further than a severed network. */
  #tell(side: Side, laterMs = 0): void {
    const { timeline } = this.#network.options
    const { dialer, acceptor } = this.hosts
    timeline.after(laterMs + this.#network.latencyMs(), () => {
      if (!this.#network.isSevered(dialer.cluster, acceptor.cluster)) this.break(side, 'connection reset')
    })
  }

  #end(side: Side, status: Status): void {
    this.#over[side] = true
    this.#network.options.onEnd(this, side, status)
    this.pipes.dialer.break()
    this.pipes.acceptor.break()
    this.#forget()
    if (!this.hosts[side].isAlive()) return
    if (side === 'dialer') this.#endDialer(status)
    else this.#call?.emit('cancelled')
  }

  #forget(): void {
    if (this.#over.dialer && this.#over.acceptor) this.#network.streams.delete(this)
  }

  #deliver(from: Side, piece: Piece): void {
    const to = from === 'dialer' ? 'acceptor' : 'dialer'
    if (this.#over[to] || !this.hosts[to].isAlive()) return
    if (piece.kind === 'status') this.#end('dialer', piece)
    else if (piece.kind === 'end') this.#call?.emit('end')
    else {
      const message = deserialize(piece.bytes)
      this.#network.options.onDeliver({ stream: this, from, message })
      if (to === 'dialer') this.#receive(message)
      else this.#call?.emit('data', message)
    }
  }
}

/** What grpc-js gives the accepting side of a stream, as far as that uses it. */
class AcceptedCall extends EventEmitter {
  readonly #stream: Stream

  constructor(stream: Stream) {
    super()
    this.#stream = stream
    this.on('error', ({ code, details }: { code: number; details: string }) => stream.finish({ code, message: details }))
  }

  write(message: ReplicationMessage, taken: () => void): void {
    this.#stream.write('acceptor', message, taken)
  }

  end(): void {
    this.#stream.finish({ code: grpcCodes.ok, message: '' })
  }

  pause(): void {
    this.#stream.pipes.dialer.pause()
  }

  resume(): void {
    this.#stream.pipes.dialer.resume()
  }
}
