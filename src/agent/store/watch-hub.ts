/**
 * Watches over one stream of revisions, with a bounded memory of the past: a watch sees every batch after its revision in order and
 * once, or is told that the past is gone. Batches are handed over synchronously, so whoever awaited a write finds them applied.
 */
import { messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import type { Watch, WatchBatch, WatchHandler } from './store.ts'

export interface HistoryLimits {
  maxRevisions: number
  maxBytes: number
}

export const historyLimits: HistoryLimits = { maxRevisions: 8192, maxBytes: 32 * 1024 * 1024 }

interface Watcher {
  prefix: string
  /** Everything up to here has been delivered. */
  seen: number
  handler: WatchHandler
  /** False until its replay has run, true afterwards, for as long as it is open. */
  live: boolean
}

export class WatchHub {
  readonly #limits: HistoryLimits
  readonly #logger: Logger
  readonly #watchers = new Set<Watcher>()
  #batches: { batch: WatchBatch; bytes: number }[] = []
  #bytes = 0
  /** Batches up to and including this revision are forgotten. */
  #compacted: number

  constructor(revision: number, logger: Logger, limits: HistoryLimits) {
    this.#compacted = revision
    this.#logger = logger
    this.#limits = limits
  }

  publish(batch: WatchBatch): void {
    let bytes = 64
    for (const event of batch.events) bytes += 64 + event.key.length + (event.value?.byteLength ?? 0)
    this.#batches.push({ batch, bytes })
    this.#bytes += bytes
    this.#trim()
    for (const watcher of this.#watchers) if (watcher.live) this.#deliver(watcher, batch)
  }

  /** The handler is first called after this returned. */
  watch(prefix: string, afterRevision: number, handler: WatchHandler): Watch {
    const watcher: Watcher = { prefix, seen: afterRevision, handler, live: false }
    this.#watchers.add(watcher)
    queueMicrotask(() => this.#replay(watcher))
    return { close: () => void this.#watchers.delete(watcher) }
  }

  /** What was published is not what will be read: everybody is to list again, from `revision`. */
  reset(revision: number): void {
    this.#batches = []
    this.#bytes = 0
    this.#compacted = revision
    // Those that come while others are told are not concerned.
    const watchers = Array.from(this.#watchers)
    for (const watcher of watchers) {
      // One that waits for its replay finds out there.
      if (!watcher.live) watcher.seen = -1
      else if (this.#watchers.delete(watcher)) this.#call(() => watcher.handler.onCompacted(revision))
    }
  }

  close(): void {
    this.#watchers.clear()
    this.#batches = []
  }

  #replay(watcher: Watcher): void {
    if (!this.#watchers.has(watcher)) return
    if (watcher.seen < this.#compacted) {
      this.#watchers.delete(watcher)
      this.#call(() => watcher.handler.onCompacted(this.#compacted))
      return
    }
    watcher.live = true
    for (const { batch } of this.#batches) this.#deliver(watcher, batch)
  }

  #deliver(watcher: Watcher, batch: WatchBatch): void {
    if (batch.revision <= watcher.seen || !this.#watchers.has(watcher)) return
    watcher.seen = batch.revision
    const events = batch.events.filter(event => event.key.startsWith(watcher.prefix))
    if (events.length > 0) this.#call(() => watcher.handler.onBatch({ revision: batch.revision, events }))
  }

  /** A watcher that throws must not keep a write from being acknowledged, nor another watcher from seeing it. */
  #call(callback: () => void): void {
    try {
      callback()
    } catch (error) {
      this.#logger.error({ error: messageOf(error) }, 'a watch of the store failed; report this')
    }
  }

  #trim(): void {
    let drop = 0
    while (
      this.#batches.length - drop > this.#limits.maxRevisions ||
      (this.#bytes > this.#limits.maxBytes && this.#batches.length - drop > 1)
    ) {
      const oldest = this.#batches[drop]!
      this.#bytes -= oldest.bytes
      this.#compacted = oldest.batch.revision
      drop += 1
    }
    // Watchers that still wait for their replay find out there; `splice` in bulk keeps publishing O(1) on average.
    if (drop > 0) this.#batches.splice(0, drop)
  }
}

/** Sorts events, or entries, by the bytes of their keys, which JavaScript's own string order (UTF-16) is not. */
export function inKeyOrder<T extends { key: string }>(all: T[]): T[] {
  if (all.length < 2) return all
  const keyed = all.map(each => ({ each, bytes: Buffer.from(each.key) }))
  keyed.sort((a, b) => Buffer.compare(a.bytes, b.bytes))
  return keyed.map(({ each }) => each)
}
