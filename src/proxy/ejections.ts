/**
 * Which addresses could not be reached lately. They are passed over while there are others. When the time of one is up, one caller
 * tries it and the rest still go elsewhere: an address that swallows what is sent to it costs one caller its timeout, not everybody.
 */
import type { Picker } from '../mesh/balance/picker.ts'
import type { Endpoint } from '../mesh/snapshot.ts'
import { addressOf } from './pool.ts'

/** The first time; each failure in a row doubles it. */
const ejectMs = { first: 5000, longest: 60_000 } as const

interface Ejection {
  untilMs: number
  /** Of the next failure. */
  nextMs: number
  /** Its time is up and somebody tries it. */
  probed: boolean
}

export class Ejections {
  readonly #ejected = new Map<string, Ejection>()
  readonly #now: () => number

  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  failed(address: string): void {
    const known = this.#ejected.get(address)
    const now = this.#now()
    const ms = known?.nextMs ?? ejectMs.first
    // Attempts that were under way to it when it was ejected say nothing new.
    if (known !== undefined && known.untilMs > now && !known.probed) return
    this.#ejected.set(address, { untilMs: now + ms, nextMs: Math.min(ms * 2, ejectMs.longest), probed: false })
  }

  /** Failed lately and not reached since: only a new connection tells whether it is back, an older one does not. */
  doubts(endpoint: Endpoint): boolean {
    return this.#ejected.size > 0 && this.#ejected.has(addressOf(endpoint))
  }

  reached(address: string): void {
    this.#ejected.delete(address)
  }

  /** Forgets what is no address any more. */
  keep(addresses: ReadonlySet<string>): void {
    for (const address of this.#ejected.keys()) if (!addresses.has(address)) this.#ejected.delete(address)
  }

  /** The next endpoint that was not tried. `probeMs` is how long an attempt may take. */
  pick(picker: Picker, tried: ReadonlySet<string>, probeMs: number): Endpoint | undefined {
    const untried = (endpoint: Endpoint) => tried.size > 0 && tried.has(addressOf(endpoint))
    if (this.#ejected.size === 0) return tried.size === 0 ? picker.pick() : picker.pick(untried)
    const now = this.#now()
    const picked = picker.pick(endpoint => untried(endpoint) || (this.#ejected.get(addressOf(endpoint))?.untilMs ?? 0) > now)
    if (picked) {
      const probed = this.#ejected.get(addressOf(picked))
      if (probed) {
        probed.untilMs = now + probeMs
        probed.probed = true
      }
      return picked
    }
    // All of them failed lately: trying one is better than answering that there is none.
    return picker.pick(untried)
  }
}
