/**
 * Byte streams to the endpoints of one upstream, each a connection of its own, kept for the next request once a message has ended
 * cleanly. A stream belongs to the session key it was opened under (the own leaf and the roots it was checked against): when the key
 * changes, idle streams go at once and busy ones are not taken back. The pool never reads: the HTTP code, whose listeners stay on a
 * stream, destroys one that says anything while idle, because it is out of step.
 */
import type { ByteStream } from '../lib/byte-stream.ts'
import { sharedDeadlines, type Deadlines, type Watched } from '../lib/deadlines.ts'
import { addressOf, type Endpoint } from '../mesh/snapshot.ts'
import type { UpstreamStream } from './http1/door.ts'

export interface PoolLimits {
  /** Idle streams kept for one endpoint. */
  maxIdle: number
  /** Shorter than the idle time of the server on the other side, so that a stream is seldom closed under a request. */
  idleMs: number
  /** Age at which a stream is no longer reused; each stream's own is up to 20 % less, so that they do not all go at once. */
  maxAgeMs: number
}
/** What becomes of something open when the plan changes. */
export type Verdict = 'keep' | 'drain' | 'close'

/** Twice a look at the pool, and half a second for what is on its way. */
const keptMarginMs = 1500

export const poolLimits: PoolLimits = { maxIdle: 1024, idleMs: 30_000, maxAgeMs: 300_000 }

export class StreamPool implements Watched {
  readonly #limits: PoolLimits
  readonly #deadlines: Deadlines
  readonly #idle = new Map<string, Pooled[]>()
  /** The same by endpoint, so that no address is put together for a request. */
  #byEndpoint = new WeakMap<Endpoint, Pooled[]>()
  readonly #all = new Set<Pooled>()
  #key = ''
  #watched = false

  constructor(limits: PoolLimits = poolLimits, deadlines: Deadlines = sharedDeadlines) {
    this.#limits = limits
    this.#deadlines = deadlines
  }

  get idleCount(): number {
    return this.#all.size - this.busyCount
  }

  get busyCount(): number {
    let busy = 0
    for (const pooled of this.#all) if (pooled.busy) busy += 1
    return busy
  }

  /** An idle stream to this endpoint, the one used last first. */
  take(endpoint: Endpoint): UpstreamStream | undefined {
    const list = this.#byEndpoint.get(endpoint) ?? this.#listOf(endpoint)
    for (let pooled = list.pop(); pooled !== undefined; pooled = list.pop()) {
      if (!pooled.stream.destroyed && pooled.stream.writable && !pooled.worn) {
        pooled.busy = pooled.reusable = true
        return pooled
      }
      this.#drop(pooled)
    }
    return undefined
  }

  /** Takes a new stream in, in use. `key` is what it was opened under. */
  add(stream: ByteStream, endpoint: Endpoint, key: string): UpstreamStream {
    const endsMs = this.#deadlines.clock.monotonicMs() + this.#limits.maxAgeMs * (1 - Math.random() * 0.2)
    const pooled: Pooled = new Pooled(stream, endpoint, this.#listOf(endpoint), key, endsMs, clean =>
      clean ? this.#putBack(pooled) : this.#drop(pooled),
    )
    this.#all.add(pooled)
    stream.once('close', () => this.#forget(pooled))
    // Whoever uses the stream learns of an error by its own listener or by `close`; without one here an idle one would throw.
    stream.on('error', () => {})
    if (!this.#watched) this.#deadlines.add(this)
    this.#watched = true
    return pooled
  }

  /** From now on streams are of this key; idle ones of another go, busy ones are closed at their end. */
  rekey(key: string): void {
    this.#key = key
    for (const pooled of this.#all) if (!pooled.busy && pooled.key !== key) this.#drop(pooled)
  }

  /** Closes what may no longer be used: idle streams at once, busy ones at once as well or when their message has ended. */
  retire(verdict: (stream: ByteStream, endpoint: Endpoint) => Verdict): void {
    this.#byEndpoint = new WeakMap()
    for (const pooled of this.#all) {
      const outcome = verdict(pooled.stream, pooled.endpoint)
      if (outcome === 'keep') continue
      if (outcome === 'close' || !pooled.busy) this.#drop(pooled)
      else pooled.worn = true
    }
  }

  close(): void {
    for (const pooled of this.#all) this.#drop(pooled)
  }

  /** Closes what was idle for too long; what is too old is not lent again. */
  check(nowMs: number): void {
    for (const pooled of this.#all) {
      if (nowMs > pooled.endsMs) pooled.worn = true
      if (pooled.busy) continue
      if (pooled.idleSinceMs === 0) pooled.idleSinceMs = nowMs
      if (pooled.worn || nowMs - pooled.idleSinceMs > Math.min(this.#limits.idleMs, pooled.keptMs)) this.#drop(pooled)
    }
    if (this.#all.size > 0) return
    this.#watched = false
    this.#deadlines.delete(this)
    this.#idle.clear()
    this.#byEndpoint = new WeakMap()
  }

  #listOf(endpoint: Endpoint): Pooled[] {
    const address = addressOf(endpoint)
    let list = this.#idle.get(address)
    if (!list) this.#idle.set(address, (list = []))
    this.#byEndpoint.set(endpoint, list)
    return list
  }

  #putBack(pooled: Pooled): void {
    const { stream, list } = pooled
    const fit = !stream.destroyed && stream.writable && stream.readableLength === 0
    if (!fit || pooled.worn || pooled.key !== this.#key || list.length >= this.#limits.maxIdle) {
      this.#drop(pooled)
      return
    }
    pooled.idleSinceMs = 0
    list.push(pooled)
  }

  #drop(pooled: Pooled): void {
    this.#forget(pooled)
    pooled.stream.destroy()
  }

  #forget(pooled: Pooled): void {
    this.#all.delete(pooled)
    const at = pooled.list.indexOf(pooled)
    if (at >= 0) pooled.list.splice(at, 1)
  }
}

/** One stream as it is lent, one object for all its requests. */
class Pooled implements UpstreamStream {
  readonly stream: ByteStream
  readonly endpoint: Endpoint
  /** The idle ones of its address. */
  readonly list: Pooled[]
  readonly key: string
  readonly endsMs: number
  reusable = false
  busy = true
  /** Not lent again. */
  worn = false
  /** Set by the first look at it after it was given back. */
  idleSinceMs = 0
  /** How long the other side keeps it idle, as far as it says, and less: it must not close it under a request. */
  keptMs = Infinity
  readonly #ended: (clean: boolean) => void

  constructor(stream: ByteStream, endpoint: Endpoint, list: Pooled[], key: string, endsMs: number, ended: (clean: boolean) => void) {
    this.stream = stream
    this.endpoint = endpoint
    this.list = list
    this.key = key
    this.endsMs = endsMs
    this.#ended = ended
  }

  release(keptSeconds = Infinity): void {
    if (!this.busy) return
    this.busy = false
    this.keptMs = Math.max(0, keptSeconds * 1000 - keptMarginMs)
    this.#ended(true)
  }

  destroy(): void {
    if (!this.busy) return
    this.busy = false
    this.#ended(false)
  }
}
