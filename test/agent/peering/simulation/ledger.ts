/**
 * Everything that was ever exported to a peer, and until when: what an importer holds must be in it, and, while it calls itself
 * active, must have been true not long ago.
 */
import type { View } from './views.ts'

/** What ended longer ago than any network was severed is forgotten once there is much of it. */
const keptMs = 3_600_000
const maxKept = 256

interface Page {
  current: View
  /** By service: what it was, and when that ended. */
  past: Map<string, Map<string, number>>
}

export class Ledger {
  /** By exporter and peer. */
  readonly #pages = new Map<string, Page>()

  note(page: string, view: View, nowMs: number): void {
    const known = this.#page(page)
    for (const [service, text] of known.current) if (view.get(service) !== text) end(known.past, service, text, nowMs)
    for (const service of view.keys()) if (!known.current.has(service)) end(known.past, service, '', nowMs)
    known.current = view
  }

  current(page: string): View {
    return this.#page(page).current
  }

  /** When this was last exported, which is now when it still is; undefined when it never was. */
  lastTrueMs(page: string, service: string, text: string, nowMs: number): number | undefined {
    const { current, past } = this.#page(page)
    if ((current.get(service) ?? '') === text) return nowMs
    return past.get(service)?.get(text)
  }

  #page(name: string): Page {
    const known = this.#pages.get(name)
    if (known) return known
    const made: Page = { current: new Map(), past: new Map() }
    this.#pages.set(name, made)
    return made
  }
}

function end(past: Page['past'], service: string, text: string, nowMs: number): void {
  const ended = past.get(service) ?? new Map<string, number>()
  past.set(service, ended)
  // In the order in which they ended.
  ended.delete(text)
  ended.set(text, nowMs)
  if (ended.size <= maxKept) return
  const [oldest] = ended
  if (oldest && oldest[1] < nowMs - keptMs) ended.delete(oldest[0])
}
