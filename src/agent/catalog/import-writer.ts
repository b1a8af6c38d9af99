/**
 * Writes of imported sets, put together: what comes while transactions are under way makes up the next, as much as a transaction
 * holds. Each set still counts whole or not at all; one that must not be written keeps no other from being written. They are early:
 * whoever reads sees them at once, for a peer says everything again on its next stream; the peer is answered once they are durable.
 */
import { storeLimits, type Compare, type Op, type Store } from '../store/store.ts'
import type { Tables } from './tables.ts'

/** Who comes alone waits for nobody; who come together share. */
const maxUnderWay = 4

interface Job {
  ops: Op[]
  compare: Compare[]
  bytes: number
  resolve: (written: boolean) => void
  reject: (error: unknown) => void
}

export class ImportWriter {
  readonly #store: Store
  readonly #tables: Tables
  #waiting: Job[] = []
  #underWay = 0

  constructor(store: Store, tables: Tables) {
    this.#store = store
    this.#tables = tables
  }

  /** Answers once it is durable and in the tables; false, with nothing written, when a comparison failed. */
  write(ops: Op[], compare: Compare[] = []): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ ops, compare, bytes: bytesOf(ops, compare), resolve, reject })
      this.#drain()
    })
  }

  #drain(): void {
    while (this.#waiting.length > 0 && this.#underWay < maxUnderWay) {
      this.#underWay += 1
      void this.#settle(this.#take()).then(() => {
        this.#underWay -= 1
        this.#drain()
      })
    }
  }

  async #settle(jobs: Job[]): Promise<void> {
    if (!(await this.#commit(jobs)) && jobs.length > 1) for (const job of jobs) await this.#commit([job])
  }

  /** What goes into one transaction: the first, whatever its size, and what fits beside it. */
  #take(): Job[] {
    let [ops, compares, bytes] = [0, 0, 0]
    let count = 0
    for (const job of this.#waiting) {
      ops += job.ops.length
      compares += job.compare.length
      bytes += job.bytes
      if (count > 0 && (ops > storeLimits.batchOps || compares > storeLimits.batchOps || bytes > storeLimits.maxTxnBytes)) break
      count += 1
    }
    return this.#waiting.splice(0, count)
  }

  /** False when several were refused together and each is to be tried alone. */
  async #commit(jobs: Job[]): Promise<boolean> {
    const alone = jobs.length === 1
    try {
      const ops = jobs.flatMap(job => job.ops)
      const { ok, revision } = await this.#store.txn({ ops, compare: jobs.flatMap(job => job.compare), early: true })
      await this.#tables.reached(revision)
      if (ok || alone) for (const job of jobs) job.resolve(ok)
      return ok || alone
    } catch (error) {
      if (alone) jobs[0]!.reject(error)
      return alone
    }
  }
}

/** As the store counts them; the keys of imports are ASCII. */
function bytesOf(ops: readonly Op[], compare: readonly Compare[]): number {
  let bytes = 0
  for (const { key } of compare) bytes += key.length
  for (const op of ops) {
    bytes += op.op === 'delete-prefix' ? op.prefix.length : op.key.length
    if (op.op === 'put') bytes += op.value.byteLength
  }
  return bytes
}
