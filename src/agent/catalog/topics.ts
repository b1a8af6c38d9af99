/**
 * Topics: a name for each thing that a read can depend on (`instances//web`, `config/mesh`, `kv/lead`), the last revision that
 * touched it, and who waits for it. A topic never goes back, and one whose subject is gone costs no memory: it falls back on the
 * floor of its class (the text before the first slash), the revision of the last such loss (spec/http-api.md 1.8).
 */
import { setImmediate } from 'node:timers'

/** What a read found. `index` is what X-Consul-Index says; `topics` is what to wait on. */
export interface Reading<T> {
  value: T
  index: number
  topics: readonly string[]
}

interface Waiter {
  /** Called for each of its topics that a revision touched. */
  note?(topic: string): void
  /** Then once, after that revision; of a restart with nothing noted. */
  wake(revision: number, everything: boolean): void
}

/** Topics that have changed since the last call; undefined when all may have. */
export type Changed = ReadonlySet<string> | undefined

/** A class whose indexes are known elsewhere, so that nothing is kept here for each of its topics. */
type ClassIndex = (subject: string) => number

export class Topics {
  readonly #indexes = new Map<string, number>()
  readonly #floors = new Map<string, number>()
  readonly #classes = new Map<string, ClassIndex>()
  readonly #waiters = new Map<string, Set<Waiter>>()
  /** Of the classes whose indexes are known elsewhere: topics that somebody waits for. */
  readonly #waited = new Map<string, Set<string>>()
  readonly #touched = new Set<string>()
  readonly #lost = new Set<string>()
  /** Ends each wait under way. */
  readonly #waits = new Set<() => void>()
  #base = 1

  /** Lets another index answer for a whole class of topics. */
  delegate(className: string, index: ClassIndex): void {
    this.#classes.set(className, index)
    this.#waited.set(className, new Set())
  }

  indexOf(topic: string): number {
    const className = classOf(topic)
    const delegated = this.#classes.get(className)
    if (delegated) return delegated(topic.slice(className.length + 1))
    return this.#indexes.get(topic) ?? this.#floors.get(className) ?? this.#base
  }

  read<T>(value: T, ...topics: string[]): Reading<T> {
    let index = 1
    for (const topic of topics) index = Math.max(index, this.indexOf(topic))
    return { value, index, topics }
  }

  /** Notes a change of the revision being applied. */
  touch(topic: string): void {
    this.#touched.add(topic)
    this.#lost.delete(topic)
  }

  /** Like touch, for a subject that is gone. */
  lose(topic: string): void {
    this.#touched.add(topic)
    this.#lost.add(topic)
  }

  /** What the revision being applied has touched so far. */
  touched(): Iterable<string> {
    return this.#touched
  }

  /** Of a class that was delegated. */
  waited(className: string): ReadonlySet<string> {
    return this.#waited.get(className)!
  }

  /** Ends a revision: its topics get their new index, then their waiters are woken. */
  commit(revision: number): void {
    const wake = new Set<Waiter>()
    for (const topic of this.#touched) {
      const className = classOf(topic)
      if (this.#lost.has(topic)) {
        this.#indexes.delete(topic)
        this.#floors.set(className, revision)
      } else if (!this.#classes.has(className)) {
        this.#indexes.set(topic, revision)
      }
      for (const waiter of this.#waiters.get(topic) ?? []) {
        waiter.note?.(topic)
        wake.add(waiter)
      }
    }
    this.#touched.clear()
    this.#lost.clear()
    for (const waiter of wake) waiter.wake(revision, false)
  }

  /** Everything may have changed: every topic starts again at `revision`, and everybody is woken. */
  restart(revision: number): void {
    this.#indexes.clear()
    this.#floors.clear()
    this.#touched.clear()
    this.#lost.clear()
    this.#base = revision
    const wake = new Set([...this.#waiters.values()].flatMap(waiters => [...waiters]))
    for (const waiter of wake) waiter.wake(revision, true)
  }

  /** Resolves true once one of the topics is newer than `index`; false at the timeout or an abort. */
  waitFor(topics: readonly string[], index: number, timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    if (topics.some(topic => this.indexOf(topic) > index)) return Promise.resolve(true)
    if (signal?.aborted || timeoutMs <= 0) return Promise.resolve(false)
    return new Promise(resolve => {
      const end = (changed: boolean) => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onAbort)
        this.#waits.delete(onAbort)
        this.#remove(topics, waiter)
        resolve(changed)
      }
      const onAbort = () => end(false)
      const waiter: Waiter = {
        wake(revision) {
          if (revision > index) end(true)
        },
      }
      const timer = setTimeout(() => end(false), timeoutMs)
      this.#waits.add(onAbort)
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#add(topics, waiter)
    })
  }

  /** Ends every wait as if its time were up. */
  close(): void {
    for (const end of this.#waits) end()
  }

  /**
   * Calls back, once a macrotask at most, after changes of the topics, with those that changed; which ones to wait on is asked anew
   * after every call, and costs nothing while the same array is given.
   */
  subscribe(topics: () => readonly string[], onChange: (changed: Changed) => void): { close(): void } {
    let current: readonly string[] = topics()
    let queued = false
    let closed = false
    let changed: Set<string> | undefined = new Set()
    const call = () => {
      queued = false
      if (closed) return
      const told = changed
      changed = new Set()
      onChange(told)
      if (closed) return
      const next = topics()
      if (next === current) return
      this.#remove(current, waiter)
      current = next
      this.#add(current, waiter)
    }
    const waiter: Waiter = {
      note: topic => void changed?.add(topic),
      wake: (_revision, everything) => {
        if (everything) changed = undefined
        if (queued) return
        queued = true
        setImmediate(call)
      },
    }
    this.#add(current, waiter)
    return {
      close: () => {
        closed = true
        this.#remove(current, waiter)
      },
    }
  }

  #add(topics: readonly string[], waiter: Waiter): void {
    for (const topic of topics) {
      const waiters = this.#waiters.get(topic)
      if (waiters) waiters.add(waiter)
      else {
        this.#waiters.set(topic, new Set([waiter]))
        this.#waited.get(classOf(topic))?.add(topic)
      }
    }
  }

  #remove(topics: readonly string[], waiter: Waiter): void {
    for (const topic of topics) {
      const waiters = this.#waiters.get(topic)
      waiters?.delete(waiter)
      if (waiters?.size !== 0) continue
      this.#waiters.delete(topic)
      this.#waited.get(classOf(topic))?.delete(topic)
    }
  }
}

function classOf(topic: string): string {
  const slash = topic.indexOf('/')
  return slash < 0 ? topic : topic.slice(0, slash)
}
