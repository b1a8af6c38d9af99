/**
 * Connections of ours that speak HTTP/2 to the endpoints of one upstream, or to the app: few, long-lived, each carrying many streams.
 * A channel belongs to the key it was opened under (the own leaf and the roots it was checked against): when the key changes, it takes no
 * more streams and ends with its last one. Invariant: a stream is opened only on a channel that was reserved for it, so the server's
 * limit on streams is kept; whoever finds no room waits in one line, first come first served.
 */
import type { Duplex } from 'node:stream'
import { addressOf, type Endpoint } from '../../mesh/snapshot.ts'
import type { ConnectFailure } from '../http1/door.ts'
import type { ChannelLimits, Http2Limits } from './limits.ts'
import { ownHttp2 } from './own-alpn.ts'
import { errorCode } from './wire/frames.ts'
import { Http2Session } from './wire/session.ts'

/** How a channel comes to be. */
export interface ChannelDialer {
  /** Where the next stream should go, by its turn. */
  pick(): Endpoint | undefined
  /** It failed lately: only a new connection tells whether it is back. */
  doubts(endpoint: Endpoint): boolean
  /** A connection to `first`, or to another endpoint where that one cannot be reached. */
  dial(first: Endpoint | undefined): Promise<{ ok: true; stream: Duplex; endpoint: Endpoint } | { ok: false; failure: ConnectFailure }>
  /** A connection to this endpoint was there and died. */
  lost(endpoint: Endpoint): void
  /** What a connection made now is tied to. */
  key(): string
  /** Connections to one endpoint that are opened before one of them is full: behind a gateway each is pinned to one instance (DESIGN 6). */
  spread(): number
}

interface Waiter {
  resolve: (got: Channel | ConnectFailure) => void
  wanted: () => boolean
}

const overflow: ConnectFailure = { reset: 'overflow' }

export class Channels {
  private readonly dialer: ChannelDialer
  private readonly limits: ChannelLimits
  private readonly http2: Http2Limits
  /** Those that take streams. */
  private readonly byAddress = new Map<string, Channel[]>()
  /** Those that only end as well. */
  private readonly open = new Set<Channel>()
  /** Connections being opened, by the address that was picked for them. */
  private readonly dialing = new Map<string, number>()
  private readonly line: Waiter[] = []
  private dials = 0
  private sweeper: NodeJS.Timeout | undefined
  private closed = false

  constructor(dialer: ChannelDialer, limits: ChannelLimits, http2: Http2Limits) {
    this.dialer = dialer
    this.limits = limits
    this.http2 = http2
  }

  get waitMs(): number {
    return this.limits.waitMs
  }

  /** A channel with one stream reserved on it: at once where there is one. `wanted` turns false when its request is gone. */
  acquire(wanted: () => boolean): Channel | ConnectFailure | Promise<Channel | ConnectFailure> {
    const endpoint = this.dialer.pick()
    if (endpoint !== undefined && !this.dialer.doubts(endpoint)) {
      const address = addressOf(endpoint)
      const list = this.byAddress.get(address)
      const channel = list && roomiest(list)
      if (channel !== undefined) {
        const dialing = this.dialing.get(address) ?? 0
        const mayDial = list!.length + dialing < Math.min(this.dialer.spread(), this.limits.maxConnections)
        // Where all that there are lead to no app, the next one may lead elsewhere.
        if (channel.isShunned && (mayDial || dialing > 0)) return this.wait(endpoint, wanted)
        if (channel.active > 0 && mayDial) this.dial(endpoint)
        channel.active += 1
        return channel
      }
    }
    return this.wait(endpoint, wanted)
  }

  /** Ends what was opened under another key, each with its last stream. */
  rekey(): void {
    const key = this.dialer.key()
    for (const channel of this.open) if (channel.key !== key) channel.retire()
  }

  /** Ends what may no longer be used: with the last stream, or at once. */
  retire(verdict: (stream: Duplex, endpoint: Endpoint) => 'keep' | 'drain' | 'close'): void {
    for (const channel of this.open) {
      const outcome = verdict(channel.stream, channel.endpoint)
      if (outcome === 'close') channel.destroy()
      else if (outcome === 'drain') channel.retire()
    }
  }

  close(): void {
    this.closed = true
    clearTimeout(this.sweeper)
    for (const channel of this.open) channel.destroy()
    for (const waiter of this.line.splice(0)) waiter.resolve({ reset: 'remote connection failure' })
  }

  private wait(endpoint: Endpoint | undefined, wanted: () => boolean): ConnectFailure | Promise<Channel | ConnectFailure> {
    if (this.line.length >= this.limits.maxWaiting) {
      const still = this.line.splice(0).filter(waiter => waiter.wanted())
      this.line.push(...still)
      if (still.length >= this.limits.maxWaiting) return overflow
    }
    return new Promise(resolve => {
      this.line.push({ resolve, wanted })
      const address = endpoint === undefined ? '' : addressOf(endpoint)
      const dialing = this.dialing.get(address) ?? 0
      const enough = dialing * this.limits.maxStreams >= this.line.length
      if (!enough && (this.byAddress.get(address)?.length ?? 0) + dialing < this.limits.maxConnections) this.dial(endpoint)
    })
  }

  private dial(first: Endpoint | undefined): void {
    const key = this.dialer.key()
    const picked = first === undefined ? '' : addressOf(first)
    this.dials += 1
    this.dialing.set(picked, (this.dialing.get(picked) ?? 0) + 1)
    void this.dialer.dial(first).then(dialed => {
      this.dials -= 1
      const left = this.dialing.get(picked)! - 1
      if (left > 0) this.dialing.set(picked, left)
      else this.dialing.delete(picked)
      if (!dialed.ok) this.failed(dialed.failure)
      // One that was ended right after its handshake has nothing for a session to hold on to.
      else if (dialed.stream.destroyed) this.failed({ reset: 'connection termination' })
      else if (this.closed) dialed.stream.destroy()
      else this.add(dialed.stream, dialed.endpoint, key)
    })
  }

  /** Nobody is left to hope: no other attempt, and no channel that could have room some time. */
  private failed(failure: ConnectFailure): void {
    this.serve()
    if (this.dials > 0 || this.byAddress.size > 0) return
    for (const waiter of this.line.splice(0)) waiter.resolve(failure)
  }

  private add(stream: Duplex, endpoint: Endpoint, key: string): void {
    const address = addressOf(endpoint)
    const channel = new Channel(stream, endpoint, key, this.limits, this.http2, {
      freed: () => this.serve(),
      retired: gone => {
        const list = this.byAddress.get(address)
        const at = list?.indexOf(gone) ?? -1
        if (at < 0) return
        list!.splice(at, 1)
        if (list!.length === 0) this.byAddress.delete(address)
        // Whoever waited for a stream on it needs another.
        if (this.line.length > 0 && this.dials === 0 && !this.closed) this.dial(this.dialer.pick())
      },
      closed: gone => this.open.delete(gone),
      died: () => this.dialer.lost(endpoint),
    })
    this.open.add(channel)
    const list = this.byAddress.get(address)
    if (list) list.push(channel)
    else this.byAddress.set(address, [channel])
    this.serve()
    // The leaf was renewed meanwhile: this one has had its only streams.
    if (key !== this.dialer.key()) channel.retire()
    this.sweep()
  }

  /** Hands out what is free to those who wait. */
  private serve(): void {
    while (this.line.length > 0) {
      const channel = roomiest(this.open)
      if (channel === undefined || (channel.isShunned && this.dials > 0)) return
      const waiter = this.line.shift()!
      if (!waiter.wanted()) continue
      channel.active += 1
      waiter.resolve(channel)
    }
  }

  private sweep(): void {
    if (this.sweeper !== undefined) return
    this.sweeper = setTimeout(() => {
      this.sweeper = undefined
      const now = performance.now()
      for (const channel of this.open) channel.look(now)
      if (this.open.size > 0) this.sweep()
    }, this.limits.sweepMs)
    this.sweeper.unref()
  }
}

interface ChannelOwner {
  /** There is room again. */
  freed(): void
  /** It takes no more streams. */
  retired(channel: Channel): void
  /** It is gone. */
  closed(channel: Channel): void
  /** Its server is gone without a word. */
  died(): void
}

/** One connection. */
export class Channel {
  readonly stream: Duplex
  readonly endpoint: Endpoint
  readonly key: string
  readonly session: Http2Session
  /** The server is one of us, whose word counts. */
  readonly own: boolean
  /** Streams that are reserved or open. */
  active = 0
  private readonly limits: ChannelLimits
  private readonly owner: ChannelOwner
  private readonly endsMs: number
  private maxStreams: number
  private idleSinceMs = performance.now()
  private bytesSeen = -1
  private probedMs = 0
  private shunnedUntilMs = 0
  private retired = false

  constructor(stream: Duplex, endpoint: Endpoint, key: string, limits: ChannelLimits, http2: Http2Limits, owner: ChannelOwner) {
    this.stream = stream
    this.own = (stream as Duplex & { alpnProtocol?: string }).alpnProtocol === ownHttp2
    this.endpoint = endpoint
    this.key = key
    this.limits = limits
    this.owner = owner
    this.endsMs = performance.now() + limits.maxAgeMs * (1 - Math.random() * 0.2)
    this.maxStreams = limits.maxStreams
    this.session = new Http2Session(stream, 'client', http2, {
      allowed: maxStreams => {
        this.maxStreams = Math.min(limits.maxStreams, maxStreams)
        if (this.hasRoom) owner.freed()
      },
      leaving: () => this.retire(),
      closed: () => {
        this.retire()
        owner.closed(this)
      },
    })
    // From here on the session reads; a server that ends has nothing more to say.
    if ('allowHalfOpen' in stream) stream.allowHalfOpen = false
  }

  get hasRoom(): boolean {
    return !this.retired && this.active < this.maxStreams
  }

  /** The server says that it could not reach the app. True when it had not said so lately. */
  appUnreached(): boolean {
    if (this.isShunned) return false
    this.shunnedUntilMs = performance.now() + this.limits.shunMs
    return true
  }

  get isShunned(): boolean {
    return this.shunnedUntilMs > 0 && performance.now() < this.shunnedUntilMs
  }

  /** Gives a reserved stream back. */
  release(): void {
    this.active -= 1
    if (this.active === 0) this.idleSinceMs = performance.now()
    this.owner.freed()
  }

  /** Takes no more streams and ends with the last one. */
  retire(): void {
    if (this.retired) return
    this.retired = true
    this.owner.retired(this)
    this.session.close()
  }

  destroy(): void {
    this.retire()
    this.session.destroy(errorCode.cancel)
    this.stream.destroy()
  }

  /** A request on it had no answer in its time: whether its server still lives is asked at once, not at the next look. */
  suspect(): void {
    if (this.limits.probe && this.probedMs === 0) this.probe(performance.now())
  }

  /** Regularly. */
  look(nowMs: number): void {
    if (this.probedMs > 0 && nowMs - this.probedMs >= this.limits.sweepMs) {
      this.owner.died()
      this.destroy()
      return
    }
    // Its server was told, and does not end its side.
    if (this.retired && this.active === 0 && nowMs - this.idleSinceMs >= this.limits.sweepMs) return this.destroy()
    if (nowMs >= this.endsMs || (this.active === 0 && nowMs - this.idleSinceMs >= this.limits.idleMs)) this.retire()
    const bytes = (this.stream as Duplex & { bytesRead?: number }).bytesRead ?? 0
    const quiet = bytes === this.bytesSeen
    this.bytesSeen = bytes
    if (quiet && this.active > 0 && this.limits.probe && this.probedMs === 0) this.probe(nowMs)
  }

  private probe(nowMs: number): void {
    if (this.session.isClosed) return
    this.probedMs = nowMs
    this.session.ping(() => {
      this.probedMs = 0
    })
  }
}

/** The least loaded; of equals the one that was opened first. One that is shunned comes after all others. */
function roomiest(list: Iterable<Channel>): Channel | undefined {
  let best: Channel | undefined
  let shunned: Channel | undefined
  for (const channel of list) {
    if (!channel.hasRoom) continue
    if (channel.isShunned) shunned = shunned === undefined || channel.active < shunned.active ? channel : shunned
    else if (best === undefined || channel.active < best.active) best = channel
  }
  return best ?? shunned
}
