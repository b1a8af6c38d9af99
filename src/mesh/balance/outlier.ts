/**
 * Which addresses to leave out for a while, and when they may come back. Three reasons, kept apart:
 *
 * - `unreachable`: no connection could be made. It is passed over while there are others, whatever their number, because a connection
 *   that cannot be made serves nobody. Its time doubles with each failure in a row. Half way through it may be probed; once it is up, one
 *   caller tries it and the rest still go elsewhere: an address that swallows what is sent to it costs one caller its timeout, not everybody.
 * - `app-unreached`: its sidecar, which can be reached, says that it could not reach the app. It is passed over as well, but neither a connection
 *   nor a probe tells whether the app is back: once its time is up requests go there again, and such an answer costs them a second way.
 * - `responses`: too many 5xx in a row. What an app answers says little about the place, so this never leaves out more than the cap, never the
 *   last one, and nobody at all while fewer than the panic threshold would be left: the rest would only be overrun.
 *
 * Health checks have no part in it: an endpoint that is critical is in no picker.
 */
import { addressOf, type Endpoint } from '../snapshot.ts'
import type { OutlierLimits } from './config.ts'
import { realSources, type Picker, type Skip, type Sources } from './picker.ts'

export const ejectionLimits = {
  /** Unreachable, be it the address or the app: the first time; each failure in a row doubles it. */
  firstMs: 5000,
  longestMs: 60_000,
  /** Ways behind one address that may each have to be found out, before all of its apps are taken to be gone. */
  mostWays: 8,
  /** Responses: a base time longer than this is its own bound (Envoy's max_ejection_time). */
  longestResponsesMs: 300_000,
} as const

export type EjectionCause = 'unreachable' | 'app-unreached' | 'responses'

interface Unreachable {
  untilMs: number
  /** Of the next failure. */
  nextMs: number
  /** When it may be tried in the background. */
  probeAtMs: number
  /** Somebody tries it. */
  probed: boolean
}

interface Unreached {
  /** In a row, since it was last left out. */
  times: number
  /** When that was last said. */
  atMs: number
  /** End of the last time that it was left out, or 0. */
  untilMs: number
  /** Of the next one. */
  nextMs: number
}

interface Suspect {
  /** In a row. */
  failures: number
  ejections: number
  /** End of the last ejection, or 0. */
  untilMs: number
}

export class Outlier {
  readonly #sources: Sources
  readonly #unreachable = new Map<string, Unreachable>()
  readonly #unreached = new Map<string, Unreached>()
  readonly #suspects = new Map<string, Suspect>()
  /** Ejected for what they answered, and the first end among them. */
  readonly #out = new Set<string>()
  #earliestMs = Infinity
  #limits: OutlierLimits | undefined
  #addresses = 0

  /** Without limits only `unreachable` counts. */
  constructor(limits?: OutlierLimits, sources: Sources = realSources) {
    this.#limits = limits
    this.#sources = sources
  }

  /** How many are left out now. */
  get ejected(): number {
    this.#expire()
    const now = this.#sources.now()
    const ejected = new Set([...this.#unreachable.keys(), ...this.#out])
    for (const [address, { untilMs }] of this.#unreached) if (untilMs > now) ejected.add(address)
    return ejected.size
  }

  /** Takes over a new plan, and forgets what is no address any more. */
  update(limits: OutlierLimits | undefined, addresses: ReadonlySet<string>): void {
    this.#limits = limits
    this.#addresses = addresses.size
    for (const known of [this.#unreachable, this.#unreached, this.#suspects, this.#out])
      for (const address of known.keys()) if (!addresses.has(address)) known.delete(address)
  }

  /** No connection could be made. True when that leaves it out, or does so for longer. */
  failed(address: string): boolean {
    const known = this.#unreachable.get(address)
    const now = this.#sources.now()
    // Attempts that were under way to it when it was ejected say nothing new.
    if (known !== undefined && known.untilMs > now && !known.probed) return false
    const ms = known?.nextMs ?? ejectionLimits.firstMs
    const nextMs = Math.min(ms * 2, ejectionLimits.longestMs)
    this.#unreachable.set(address, { untilMs: now + ms, nextMs, probeAtMs: now + ms / 2, probed: false })
    return true
  }

  reached(address: string): void {
    this.#unreachable.delete(address)
  }

  /**
   * Its sidecar could not reach the app. `ways` is how many there are behind the address: a gateway is not left out for one of them. True when
   * that leaves it out, or does so again.
   */
  unreached(address: string, ways: number): boolean {
    const now = this.#sources.now()
    let known = this.#unreached.get(address)
    // After so long it is another story.
    if (known === undefined || now - known.atMs > 2 * ejectionLimits.longestMs) {
      this.#unreached.set(address, (known = { times: 0, atMs: now, untilMs: 0, nextMs: ejectionLimits.firstMs }))
    }
    known.atMs = now
    // What was under way to it when it was left out says nothing new.
    if (known.untilMs > now) return false
    known.times += 1
    if (known.times < Math.min(ways, ejectionLimits.mostWays)) return false
    known.times = 0
    known.untilMs = now + known.nextMs
    known.nextMs = Math.min(known.nextMs * 2, ejectionLimits.longestMs)
    return true
  }

  /** The catalog says that nobody is there: it knows about the app itself now, and that it is back will be its news. */
  down(address: string): void {
    this.#unreached.delete(address)
  }

  /** Failed lately and not reached since: only a new connection tells whether it is back, an older one does not. */
  doubts(endpoint: Endpoint): boolean {
    return this.#unreachable.size > 0 && this.#unreachable.has(addressOf(endpoint))
  }

  /** One of these at least may be dialled without a doubt, and has an app as far as is known. */
  reaches(endpoints: readonly Endpoint[]): boolean {
    if (this.#unreachable.size === 0 && this.#unreached.size === 0) return true
    const now = this.#sources.now()
    return endpoints.some(
      endpoint => endpoint.healthy && endpoint.weight > 0 && !this.doubts(endpoint) && !this.#hasNoApp(addressOf(endpoint), now),
    )
  }

  /** A request was answered well. */
  answered(endpoint: Endpoint): void {
    if (this.#suspects.size === 0 && this.#unreached.size === 0) return
    const address = addressOf(endpoint)
    this.#unreached.delete(address)
    const suspect = this.#suspects.get(address)
    if (suspect === undefined) return
    suspect.failures = 0
    this.#expire()
    // As many intervals of good conduct as it was ejected times, and nothing is held against it any more.
    const { intervalMs = 0 } = this.#limits ?? {}
    if (!this.#out.has(address) && this.#sources.now() - suspect.untilMs >= suspect.ejections * intervalMs) this.#suspects.delete(address)
  }

  /** A request was answered with 5xx, or broken off. True when that leaves the endpoint out. */
  erred(endpoint: Endpoint): boolean {
    const limits = this.#limits
    if (limits === undefined || !limits.enabled || limits.maxFailures < 1) return false
    const address = addressOf(endpoint)
    let suspect = this.#suspects.get(address)
    if (suspect === undefined) this.#suspects.set(address, (suspect = { failures: 0, ejections: 0, untilMs: 0 }))
    suspect.failures += 1
    this.#expire()
    if (suspect.failures < limits.maxFailures || this.#out.has(address) || !this.#mayEject(limits)) return false
    const now = this.#sources.now()
    suspect.failures = 0
    suspect.ejections += 1
    const longest = Math.max(ejectionLimits.longestResponsesMs, limits.baseEjectionMs)
    suspect.untilMs = now + Math.min(limits.baseEjectionMs * suspect.ejections, longest)
    this.#out.add(address)
    this.#earliestMs = Math.min(this.#earliestMs, suspect.untilMs)
    return true
  }

  /** When the next address should be probed; undefined while none should. */
  get nextProbeMs(): number | undefined {
    let next: number | undefined
    for (const { probeAtMs, probed } of this.#unreachable.values())
      if (!probed && (next === undefined || probeAtMs < next)) next = probeAtMs
    return next
  }

  /** The addresses that whoever asks must now probe, each within `probeMs`; `failed` or `reached` says how it went. */
  takeProbes(probeMs: number): string[] {
    const now = this.#sources.now()
    const due: string[] = []
    for (const [address, each] of this.#unreachable) {
      if (each.probed || each.probeAtMs > now) continue
      each.probed = true
      each.untilMs = Math.max(each.untilMs, now + probeMs)
      due.push(address)
    }
    return due
  }

  /** The next endpoint that was not tried. `probeMs` is how long an attempt may take. */
  pick(picker: Picker, tried: ReadonlySet<string>, probeMs: number, hash?: number): Endpoint | undefined {
    const untried: Skip | undefined = tried.size === 0 ? undefined : endpoint => tried.has(addressOf(endpoint))
    if (this.#unreachable.size === 0 && this.#out.size === 0 && this.#unreached.size === 0) return picker.pick(untried, hash)
    this.#expire()
    const out = this.#panics(picker.size) ? nobody : this.#out
    const now = this.#sources.now()
    const picked = picker.pick(endpoint => {
      const address = addressOf(endpoint)
      if (tried.has(address) || out.has(address) || this.#hasNoApp(address, now)) return true
      return (this.#unreachable.get(address)?.untilMs ?? 0) > now
    }, hash)
    if (picked !== undefined) {
      const probed = this.#unreachable.get(addressOf(picked))
      if (probed !== undefined) {
        probed.untilMs = now + probeMs
        probed.probed = true
      }
      return picked
    }
    // All of them failed lately. One that answers badly is better than one that does not answer, and trying one is better than answering that there is none.
    const reachable = picker.pick(endpoint => tried.has(addressOf(endpoint)) || this.doubts(endpoint), hash)
    return reachable ?? picker.pick(untried, hash)
  }

  #hasNoApp(address: string, nowMs: number): boolean {
    return this.#unreached.size > 0 && (this.#unreached.get(address)?.untilMs ?? 0) > nowMs
  }

  #mayEject({ maxEjectionPercent, enforcingPercent }: OutlierLimits): boolean {
    const out = this.#out.size + 1
    if (out >= this.#addresses || (out * 100) / this.#addresses > maxEjectionPercent) return false
    return this.#sources.random() * 100 < enforcingPercent
  }

  #panics(healthy: number): boolean {
    return this.#out.size > 0 && (healthy - this.#out.size) * 100 < (this.#limits?.panicPercent ?? 0) * healthy
  }

  /** Lets those back in whose time is up. */
  #expire(): void {
    if (this.#out.size === 0) return
    const now = this.#sources.now()
    if (now < this.#earliestMs) return
    this.#earliestMs = Infinity
    for (const address of this.#out) {
      const untilMs = this.#suspects.get(address)?.untilMs ?? 0
      if (untilMs <= now) this.#out.delete(address)
      else this.#earliestMs = Math.min(this.#earliestMs, untilMs)
    }
  }
}

const nobody: ReadonlySet<string> = new Set()
