/**
 * Byte streams to the endpoints of one upstream, each a connection of its own, kept for the next request once a message has ended
 * cleanly. A stream belongs to the session key it was opened under (the own leaf and the roots it was checked against): when the key
 * changes, idle streams go at once and busy ones are not taken back. The pool never reads: the HTTP code, whose listeners stay on a
 * stream, destroys one that says anything while idle, because it is out of step.
 */
import type { ByteStream } from '../lib/byte-stream.ts'
import type { Endpoint } from '../mesh/snapshot.ts'
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

export const poolLimits: PoolLimits = { maxIdle: 128, idleMs: 30_000, maxAgeMs: 300_000 }

interface Pooled {
  stream: ByteStream
  endpoint: Endpoint
  address: string
  key: string
  endsMs: number
  idleSinceMs: number
  busy: boolean
}

export function addressOf(endpoint: Endpoint): string {
  return `${endpoint.address}:${endpoint.port}`
}

export class StreamPool {
  readonly #limits: PoolLimits
  readonly #idle = new Map<string, Pooled[]>()
  readonly #all = new Set<Pooled>()
  #key = ''
  #sweep: NodeJS.Timeout | undefined

  constructor(limits: PoolLimits = poolLimits) {
    this.#limits = limits
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
    const list = this.#idle.get(addressOf(endpoint))
    for (let pooled = list?.pop(); pooled; pooled = list?.pop()) {
      if (pooled.stream.destroyed || !pooled.stream.writable || performance.now() > pooled.endsMs) {
        this.#drop(pooled)
        continue
      }
      pooled.busy = true
      return this.#lend(pooled, true)
    }
    return undefined
  }

  /** Takes a new stream in, in use. `key` is what it was opened under. */
  add(stream: ByteStream, endpoint: Endpoint, key: string): UpstreamStream {
    const endsMs = performance.now() + this.#limits.maxAgeMs * (1 - Math.random() * 0.2)
    const pooled: Pooled = { stream, endpoint, address: addressOf(endpoint), key, endsMs, idleSinceMs: 0, busy: true }
    this.#all.add(pooled)
    stream.once('close', () => this.#forget(pooled))
    // Whoever uses the stream learns of an error by its own listener or by `close`; without one here an idle one would throw.
    stream.on('error', () => {})
    return this.#lend(pooled, false)
  }

  /** From now on streams are of this key; idle ones of another go, busy ones are closed at their end. */
  rekey(key: string): void {
    this.#key = key
    for (const pooled of this.#all) if (!pooled.busy && pooled.key !== key) this.#drop(pooled)
  }

  /** Closes what may no longer be used: idle streams at once, busy ones at once as well or when their message has ended. */
  retire(verdict: (stream: ByteStream, endpoint: Endpoint) => Verdict): void {
    for (const pooled of this.#all) {
      const outcome = verdict(pooled.stream, pooled.endpoint)
      if (outcome === 'keep') continue
      if (outcome === 'close' || !pooled.busy) this.#drop(pooled)
      else pooled.endsMs = 0
    }
  }

  close(): void {
    clearTimeout(this.#sweep)
    this.#sweep = undefined
    for (const pooled of this.#all) this.#drop(pooled)
  }

  #lend(pooled: Pooled, reusable: boolean): UpstreamStream {
    let done = false
    const once = (end: () => void) => () => {
      if (done) return
      done = true
      end()
    }
    return {
      stream: pooled.stream,
      reusable,
      release: once(() => this.#putBack(pooled)),
      destroy: once(() => this.#drop(pooled)),
    }
  }

  #putBack(pooled: Pooled): void {
    const { stream, key, address } = pooled
    const now = performance.now()
    let list = this.#idle.get(address)
    if (!list) this.#idle.set(address, (list = []))
    if (
      stream.destroyed ||
      !stream.writable ||
      stream.readableLength > 0 ||
      key !== this.#key ||
      now > pooled.endsMs ||
      list.length >= this.#limits.maxIdle
    ) {
      this.#drop(pooled)
      return
    }
    pooled.busy = false
    pooled.idleSinceMs = now
    list.push(pooled)
    this.#startSweep()
  }

  #drop(pooled: Pooled): void {
    this.#forget(pooled)
    pooled.stream.destroy()
  }

  #forget(pooled: Pooled): void {
    this.#all.delete(pooled)
    const list = this.#idle.get(pooled.address)
    const at = list?.indexOf(pooled) ?? -1
    if (at >= 0) list!.splice(at, 1)
    if (list?.length === 0) this.#idle.delete(pooled.address)
  }

  #startSweep(): void {
    if (this.#sweep) return
    this.#sweep = setTimeout(
      () => {
        this.#sweep = undefined
        const now = performance.now()
        let idle = 0
        for (const pooled of this.#all) {
          if (pooled.busy) continue
          if (now - pooled.idleSinceMs > this.#limits.idleMs || now > pooled.endsMs) this.#drop(pooled)
          else idle += 1
        }
        if (idle > 0) this.#startSweep()
      },
      Math.max(50, this.#limits.idleMs / 4),
    )
    this.#sweep.unref()
  }
}
