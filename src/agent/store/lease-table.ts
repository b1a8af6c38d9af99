/**
 * The leases of the embedded engine: their rows, the keys that hang on each, and the timers that end them. Invariant: a lease lives no
 * longer than its time after its last renewal, ends with all of its keys in one transaction, and not while a renewal is under way.
 */
import { randomBytes } from 'node:crypto'
import type { Clock, Timer } from '../../lib/clock.ts'
import { messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import type { Group } from './embedded.ts'
import { keysUnder, type Environment } from './lmdb-environment.ts'
import type { Lease } from './store.ts'

interface LeaseRecord {
  ttlMs: number
  /** Wall clock, ms: only used after a restart, which the monotonic clock does not survive. */
  endsAtMs: number
}

interface LiveLease {
  ttlMs: number
  /** Monotonic clock, ms. */
  endsAt: number
  /** Renewals that are under way. */
  renewals: number
  timer: Timer | undefined
}

/** The write path of the engine. */
interface Writer {
  submit<T>(run: (group: Group) => T, committed?: (value: T) => void): Promise<T>
  /** Within a group, as its next revision. */
  deleteAll(keys: readonly Buffer[], group: Group): void
}

const nothing = Buffer.from([0])

export class LeaseTable {
  readonly #environment: Environment
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #writer: Writer
  readonly #live = new Map<string, LiveLease>()
  #closed = false

  /** After a restart every lease has what was left of it, and never more than its time to live, whatever the wall clock did. */
  constructor(environment: Environment, clock: Clock, logger: Logger, writer: Writer) {
    this.#environment = environment
    this.#clock = clock
    this.#logger = logger
    this.#writer = writer
    for (const { key, value } of environment.leases.getRange({})) {
      const { ttlMs, endsAtMs } = JSON.parse(value.toString()) as LeaseRecord
      const leftMs = Math.min(ttlMs, Math.max(0, endsAtMs - clock.nowMs()))
      this.#arm(key.toString(), { ttlMs, endsAt: clock.monotonicMs() + leftMs, renewals: 0, timer: undefined })
    }
  }

  async grant(ttlMs: number): Promise<Lease> {
    const id = randomBytes(8).toString('hex')
    await this.#writer.submit(
      () => this.#write(id, ttlMs),
      () => this.#arm(id, { ttlMs, endsAt: this.#clock.monotonicMs() + ttlMs, renewals: 0, timer: undefined }),
    )
    return { id, renew: () => this.#renew(id), revoke: () => this.#revoke(id) }
  }

  close(): void {
    this.#closed = true
    for (const lease of this.#live.values()) lease.timer?.cancel()
  }

  // Within a group.

  has(id: string): boolean {
    return id !== '' && this.#environment.leases.get(Buffer.from(id)) !== undefined
  }

  /** A key that hung on `before` hangs on `lease` now; '' is none. */
  hang(key: Buffer, before: string, lease: string): void {
    const { leased } = this.#environment
    if (before !== '' && before !== lease) leased.removeSync(leasedKey(before, key))
    if (lease !== '') leased.putSync(leasedKey(lease, key), nothing)
  }

  async #renew(id: string): Promise<boolean> {
    const lease = this.#live.get(id)
    if (!lease) return false
    // From this moment until it is answered the lease cannot end.
    lease.renewals += 1
    try {
      const renewed = await this.#writer.submit(() => this.has(id) && this.#write(id, lease.ttlMs))
      if (renewed) lease.endsAt = this.#clock.monotonicMs() + lease.ttlMs
      return renewed
    } finally {
      lease.renewals -= 1
      if (this.#live.get(id) === lease && !this.#closed) this.#arm(id, lease)
    }
  }

  async #revoke(id: string): Promise<void> {
    await this.#writer.submit(
      group => this.#end(id, group),
      () => this.#forget(id),
    )
  }

  /** The timer's part. A renewal that is under way arms the timer again when it is done. */
  async #expire(id: string): Promise<void> {
    const lease = this.#live.get(id)
    if (!lease || this.#closed) return
    const due = (): boolean => lease.renewals === 0 && lease.endsAt <= this.#clock.monotonicMs()
    const ended = due() && (await this.#writer.submit(group => due() && this.#end(id, group)))
    if (ended) this.#forget(id)
    else if (lease.renewals === 0) this.#arm(id, lease)
  }

  #arm(id: string, lease: LiveLease): void {
    lease.timer?.cancel()
    lease.timer = this.#clock.after(Math.max(0, lease.endsAt - this.#clock.monotonicMs()), () => {
      this.#expire(id).catch((error: unknown) => {
        this.#logger.error({ lease: id, error: messageOf(error) }, 'a lease could not be ended; it is tried again')
        lease.endsAt = this.#clock.monotonicMs() + 1000
        if (!this.#closed) this.#arm(id, lease)
      })
    })
    this.#live.set(id, lease)
  }

  #forget(id: string): void {
    this.#live.get(id)?.timer?.cancel()
    this.#live.delete(id)
  }

  #write(id: string, ttlMs: number): true {
    const record: LeaseRecord = { ttlMs, endsAtMs: this.#clock.nowMs() + ttlMs }
    this.#environment.leases.putSync(Buffer.from(id), Buffer.from(JSON.stringify(record)))
    return true
  }

  #end(id: string, group: Group): true {
    const prefix = leasedKey(id, Buffer.alloc(0))
    this.#writer.deleteAll(
      keysUnder(this.#environment.leased, prefix).map(key => key.subarray(prefix.length)),
      group,
    )
    this.#environment.leases.removeSync(Buffer.from(id))
    return true
  }
}

function leasedKey(lease: string, key: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`${lease}\0`), key])
}
