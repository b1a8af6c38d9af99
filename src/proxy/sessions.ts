/**
 * The multiplexed sessions of one upstream: a few long-lived TLS connections to each endpoint, and the streams on them that requests use
 * one at a time, again and again. Invariants: a session that is old, told to go or made for another leaf gets no new stream once there
 * is a better one, keeps what is under way, and ends with its last stream; requests go round the sessions of an endpoint, because a
 * gateway pins each of them to one instance.
 */
import type { TLSSocket } from 'node:tls'
import { sharedDeadlines, type Deadlines, type Watched } from '../lib/deadlines.ts'
import { addressOf, type Endpoint } from '../mesh/snapshot.ts'
import type { UpstreamStream } from './http1/door.ts'
import { MuxSession } from './mux/session.ts'
import type { MuxStream } from './mux/stream.ts'
import type { Verdict } from './pool.ts'

export interface SessionLimits {
  /** Age at which a session is given up; each one's own is up to 20 % less, so that they do not all go at once. */
  maxAgeMs: number
  /** A stream that carries nothing for so long is closed. */
  idleStreamMs: number
  /** A session without streams is closed after so long. */
  idleSessionMs: number
  /** Requests at a time on one session, above which another one is opened. */
  busyStreams: number
  /** Sessions to one endpoint, however many instances or requests there are. */
  maxSessions: number
  /** After a session that was wanted beside others could not be opened: how long until the next attempt. */
  retryMs: number
  /** A session behind which no app could be reached: how long others to the same gateway are taken first, because they may lead elsewhere. */
  shunMs: number
  /** How long a session that was given up counts as one: its successor should not come to the gateway before it has gone. */
  leavingMs: number
}
export const sessionLimits: Readonly<SessionLimits> = {
  maxAgeMs: 300_000,
  idleStreamMs: 30_000,
  idleSessionMs: 60_000,
  busyStreams: 128,
  maxSessions: 32,
  retryMs: 1000,
  shunMs: 5000,
  leavingMs: 1000,
}

export interface SessionsOptions {
  /** One more session to this endpoint is wanted; `add` or `failed` answers. */
  dial: (endpoint: Endpoint) => void
  /** A session ended because nothing was heard of this endpoint any more; told before its streams are. */
  silent?: (endpoint: Endpoint) => void
  limits?: Partial<SessionLimits>
  deadlines?: Deadlines
}

/** An address with its sessions. */
interface Place {
  address: string
  sessions: Session[]
  /** Where the round goes on. */
  next: number
  /** A session more is being opened, or may not be tried before. */
  dialling: boolean
  retryAtMs: number
}

export class Sessions implements Watched {
  readonly #options: SessionsOptions
  readonly #limits: SessionLimits
  readonly #deadlines: Deadlines
  readonly #places = new Map<string, Place>()
  /** The same by endpoint, so that no address is put together for a request. */
  #byEndpoint = new WeakMap<Endpoint, Place>()
  #key = ''
  /** Sessions wanted for each endpoint. */
  #wanted = 1
  #watched = false
  #isClosed = false

  constructor(options: SessionsOptions) {
    this.#options = options
    this.#limits = { ...sessionLimits, ...options.limits }
    this.#deadlines = options.deadlines ?? sharedDeadlines
  }

  get count(): number {
    return this.#all().length
  }

  get idleCount(): number {
    return this.#all().reduce((sum, session) => sum + session.idle.length, 0)
  }

  get busyCount(): number {
    return this.#all().reduce((sum, session) => sum + session.busy, 0)
  }

  /** How many sessions each endpoint should have: more than one where it is a gateway with several instances behind it. */
  want(count: number): void {
    this.#wanted = Math.min(this.#limits.maxSessions, Math.max(1, count))
  }

  /**
   * A stream to this endpoint: an idle one, unless `fresh`, else a new one; undefined where a session must be opened first. Where all that there
   * are lead to no app one is opened while more are wanted, unless `any` will do.
   */
  take(endpoint: Endpoint, fresh: boolean, any = false): UpstreamStream | undefined {
    const place = this.#byEndpoint.get(endpoint) ?? this.#placeOf(endpoint)
    if (place === undefined) return undefined
    let lease = this.#lease(place, 'good', fresh) ?? this.#lease(place, 'old', fresh)
    if (lease === undefined && (any || !this.#mayGrow(place))) {
      lease = this.#lease(place, 'shunned', fresh)
      if (lease !== undefined) lease.isLastResort = true
    }
    if (lease !== undefined && !place.dialling) this.#grow(place, endpoint)
    return lease
  }

  /** Takes a new session in and lends its first stream. `key` is what it was opened under. */
  add(socket: TLSSocket, endpoint: Endpoint, key: string): UpstreamStream | undefined {
    // Its dial was under way when everything was closed.
    if (this.#isClosed) return void socket.destroy()
    const address = addressOf(endpoint)
    let place = this.#places.get(address)
    if (!place) this.#places.set(address, (place = { address, sessions: [], next: 0, dialling: false, retryAtMs: 0 }))
    place.dialling = false
    const endsMs = this.#deadlines.clock.monotonicMs() + this.#limits.maxAgeMs * (1 - Math.random() * 0.2)
    const session = new Session(socket, endpoint, key, endsMs, {
      closed: () => this.#closed(place, session),
      appUnreached: () => this.#shun(session),
    })
    session.old = key !== this.#key
    place.sessions.push(session)
    retireReplaced(place)
    if (!this.#watched) this.#deadlines.add(this)
    this.#watched = true
    return session.lend(false)
  }

  /** A session that was wanted could not be opened. */
  failed(endpoint: Endpoint): void {
    const place = this.#places.get(addressOf(endpoint))
    if (!place) return
    place.dialling = false
    place.retryAtMs = this.#deadlines.clock.monotonicMs() + this.#limits.retryMs
    this.#forgetIfEmpty(place)
  }

  /** From now on sessions are of this key; those of another are used until there is one of it. */
  rekey(key: string): void {
    this.#key = key
    for (const session of this.#all()) session.old ||= session.key !== key
  }

  /** Closes what may no longer be used, or gives it up when its streams have ended. */
  retire(verdict: (socket: TLSSocket, endpoint: Endpoint) => Verdict): void {
    this.#byEndpoint = new WeakMap()
    for (const session of this.#all()) {
      const outcome = verdict(session.socket, session.endpoint)
      if (outcome === 'close') session.mux.destroy()
      else if (outcome === 'drain') session.retire()
    }
  }

  close(): void {
    this.#isClosed = true
    for (const session of this.#all()) session.mux.destroy()
  }

  /** Ages sessions and streams. */
  check(nowMs: number): void {
    const sessions = this.#all()
    for (const session of sessions) session.age(nowMs, this.#limits)
    for (const place of this.#places.values()) retireReplaced(place)
    if (sessions.length > 0) return
    this.#watched = false
    this.#deadlines.delete(this)
  }

  #all(): Session[] {
    return [...this.#places.values()].flatMap(place => place.sessions)
  }

  #placeOf(endpoint: Endpoint): Place | undefined {
    const place = this.#places.get(addressOf(endpoint))
    if (place !== undefined) this.#byEndpoint.set(endpoint, place)
    return place
  }

  #lease(place: Place, rank: Rank, fresh: boolean): Lease | undefined {
    const { sessions } = place
    for (let tried = 0; tried < sessions.length; tried++) {
      if (place.next >= sessions.length) place.next = 0
      const session = sessions[place.next++]!
      if (session.retired || this.#rankOf(session) !== rank) continue
      const lease = session.lend(!fresh)
      if (lease !== undefined) return lease
    }
    return undefined
  }

  /** True when it was not shunned before. */
  #shun(session: Session): boolean {
    if (this.#rankOf(session) === 'shunned') return false
    session.shunnedUntilMs = this.#deadlines.clock.monotonicMs() + this.#limits.shunMs
    return true
  }

  #rankOf(session: Session): Rank {
    if (session.shunnedUntilMs > 0) {
      if (this.#deadlines.clock.monotonicMs() < session.shunnedUntilMs) return 'shunned'
      session.shunnedUntilMs = 0
    }
    return session.old ? 'old' : 'good'
  }

  /** Opens a session more where there are fewer than wanted, or all of them are busy. */
  #grow(place: Place, endpoint: Endpoint): void {
    const { maxSessions, busyStreams, leavingMs } = this.#limits
    let [count, leaving, busy] = [0, 0, 0]
    for (const session of place.sessions) {
      if (session.retired) {
        const now = this.#deadlines.clock.monotonicMs()
        if (now - (session.leftAtMs ||= now) < leavingMs) leaving += 1
      } else if (!session.old) {
        count += 1
        busy += session.busy
      }
    }
    const enough = count >= this.#wanted || (count > 0 && count + leaving >= this.#wanted)
    if (count >= maxSessions || (enough && busy < count * busyStreams)) return
    if (this.#dialFailed(place)) return
    place.dialling = true
    place.retryAtMs = 0
    this.#options.dial(endpoint)
  }

  /** So lately that it is not tried again yet. */
  #dialFailed({ retryAtMs }: Place): boolean {
    return retryAtMs > 0 && this.#deadlines.clock.monotonicMs() < retryAtMs
  }

  /** As far as only the number of those that lead somewhere counts. */
  #mayGrow(place: Place): boolean {
    return !this.#dialFailed(place) && place.sessions.reduce((count, { retired }) => (retired ? count : count + 1), 0) < this.#wanted
  }

  #closed(place: Place, session: Session): void {
    const at = place.sessions.indexOf(session)
    if (at >= 0) place.sessions.splice(at, 1)
    if (session.mux.fault === 'silent') this.#options.silent?.(session.endpoint)
    this.#forgetIfEmpty(place)
  }

  #forgetIfEmpty(place: Place): void {
    if (place.sessions.length > 0 || place.dialling) return
    this.#places.delete(place.address)
    this.#byEndpoint = new WeakMap()
  }
}

/** What is old has done its duty when there is one that is not. A gateway counts who leaves, so the successor comes to the same instance. */
function retireReplaced({ sessions }: Place): void {
  if (sessions.some(session => !session.old && !session.retired)) for (const session of sessions) if (session.old) session.retire()
}

/** In which order sessions are taken. */
type Rank = 'good' | 'old' | 'shunned'

interface SessionOwner {
  closed(): void
  /** The server says that it could not reach the app. True when it had not said so lately. */
  appUnreached(): boolean
}

class Session {
  readonly mux: MuxSession
  readonly socket: TLSSocket
  readonly endpoint: Endpoint
  readonly key: string
  /** Streams that carry nothing; the one used last is at the end. */
  readonly idle: Lease[] = []
  busy = 0
  /** Used only while there is none that is better. */
  old = false
  retired = false
  shunnedUntilMs = 0
  /** Set by the first look at it after it was retired. */
  leftAtMs = 0
  readonly #endsMs: number
  #emptySinceMs = 0

  readonly owner: SessionOwner

  constructor(socket: TLSSocket, endpoint: Endpoint, key: string, endsMs: number, owner: SessionOwner) {
    this.socket = socket
    this.endpoint = endpoint
    this.key = key
    this.owner = owner
    this.#endsMs = endsMs
    this.mux = new MuxSession(socket, { role: 'client', onGoAway: () => this.retire(), onClose: () => owner.closed() })
  }

  lend(reuse: boolean): Lease | undefined {
    const idle = reuse ? this.idle.pop() : undefined
    if (idle !== undefined) {
      this.busy += 1
      idle.busy = idle.reusable = true
      idle.isLastResort = false
      return idle
    }
    const stream = this.mux.open()
    if (stream === undefined) return undefined
    this.busy += 1
    return new Lease(this, stream)
  }

  /** No new streams; those under way go on, and the session ends with the last. */
  retire(): void {
    if (this.retired) return
    this.retired = true
    for (const lease of this.idle.splice(0)) lease.stream.destroy()
    this.mux.goAway()
  }

  age(nowMs: number, limits: SessionLimits): void {
    if (nowMs >= this.#endsMs) return this.retire()
    // While it still serves, or another one does, its successor is opened.
    if (nowMs >= this.#endsMs - limits.maxAgeMs * 0.05) this.old = true
    for (const lease of this.idle) if (lease.idleSinceMs === 0) lease.idleSinceMs = nowMs
    while (this.idle.length > 0 && nowMs - this.idle[0]!.idleSinceMs > limits.idleStreamMs) this.idle.shift()!.stream.destroy()
    if (this.mux.size > 0) this.#emptySinceMs = 0
    else if (this.#emptySinceMs === 0) this.#emptySinceMs = nowMs
    else if (nowMs - this.#emptySinceMs > limits.idleSessionMs) this.retire()
  }

  back(lease: Lease): void {
    this.busy -= 1
    if (this.retired || !lease.stream.writable || lease.stream.readableLength > 0) lease.stream.destroy()
    else {
      lease.idleSinceMs = 0
      this.idle.push(lease)
    }
  }

  lost(lease: Lease): void {
    const at = this.idle.indexOf(lease)
    if (at >= 0) this.idle.splice(at, 1)
  }
}

/** One stream as it is lent, one object for all its requests. */
class Lease implements UpstreamStream {
  readonly stream: MuxStream
  reusable = false
  busy = true
  /** There was none that leads to an app, as far as is known. */
  isLastResort = false
  /** Set by the first look at it after it was given back. */
  idleSinceMs = 0
  readonly #session: Session

  constructor(session: Session, stream: MuxStream) {
    this.#session = session
    this.stream = stream
    stream.once('close', () => {
      if (!this.busy) session.lost(this)
    })
  }

  appUnreached(): boolean {
    return this.#session.owner.appUnreached() || this.isLastResort
  }

  release(): void {
    if (!this.busy) return
    this.busy = false
    this.#session.back(this)
  }

  destroy(): void {
    if (!this.busy) return
    this.busy = false
    this.#session.busy -= 1
    this.stream.destroy()
  }
}
