/**
 * Replies that are kept as bytes, by what was asked (everything but the id). One holds as long as the tables say that nothing which it
 * was made from has changed, however long that is; only what differs from one reply to the next is written: the id, the serial
 * of an SOA, and which of the addresses come, in an order of their own each time. Of other answers with an order several are kept.
 */
import { LRUCache } from 'lru-cache'
import type { Tables } from '../catalog/tables.ts'
import type { AddressPool } from './hosts.ts'

/** A finished reply, and what of it is not the same each time. */
export interface Template {
  bytes: Buffer
  topics: readonly string[]
  /** Where the serial of an SOA record stands; 0 where there is none. */
  serialAt: number
  /** Answers that are drawn, `stride` bytes apart, the first address at `firstAt`. */
  draw: { pool: AddressPool; count: number; firstAt: number; stride: number } | undefined
  /** One order of several. */
  shuffled: boolean
}

interface Kept extends Template {
  /** Replies that differ in their order alone; the first is `bytes`. */
  orders: Buffer[]
  /** Which of them is replaced next. */
  next: number
  /** How often it was asked for. */
  uses: number
  index: number
  /** The tables' revision at which the index was last looked at. */
  seen: number
  /** By address: the use that took it last. */
  taken: Float64Array
}

/** The longest name with an OPT record fits; what is longer is rare, and made anew each time. */
const maxKeyBytes = 300
const maxReplies = 4096
const maxBytes = 32 * 1024 * 1024
/** Names that nobody has are asked for by the million: they have a small place of their own. */
const maxErrors = 512
/** Orders that are kept of one answer; as often as that one is replaced by a new one. */
const maxOrders = 8
const rcodeMask = 0x0f

export class KeptAnswers {
  readonly #tables: Pick<Tables, 'revision' | 'indexOf'>
  readonly #nowMs: () => number
  readonly #random: () => number
  readonly #answers = new LRUCache<string, Kept>({
    max: maxReplies,
    maxSize: maxBytes,
    sizeCalculation: ({ bytes, draw, shuffled }) =>
      256 + bytes.length * (shuffled ? maxOrders : 1) + (draw ? draw.pool.all.length + 8 * draw.pool.instances.length : 0),
  })
  readonly #errors = new LRUCache<string, Kept>({ max: maxErrors })

  constructor(options: { tables: Pick<Tables, 'revision' | 'indexOf'>; nowMs: () => number; random: () => number }) {
    this.#tables = options.tables
    this.#nowMs = options.nowMs
    this.#random = options.random
  }

  /** The reply to a message, if one is kept that still holds. */
  reply(message: Buffer): Buffer | undefined {
    if (message.length > maxKeyBytes || message.length < 12) return undefined
    const key = keyOf(message)
    const kept = this.#answers.get(key) ?? this.#errors.get(key)
    if (!kept) return undefined
    const { revision } = this.#tables
    if (kept.seen !== revision) {
      if (this.#tables.indexOf(kept.topics) !== kept.index) return undefined
      kept.seen = revision
    }
    kept.uses += 1
    if (kept.shuffled && (kept.orders.length < maxOrders || kept.uses % maxOrders === 0)) return undefined
    const bytes = kept.shuffled ? kept.orders[Math.floor(this.#random() * kept.orders.length)]! : kept.bytes
    const out = Buffer.allocUnsafe(bytes.length)
    bytes.copy(out)
    out[0] = message[0]!
    out[1] = message[1]!
    if (kept.serialAt > 0) out.writeUInt32BE(Math.floor(this.#nowMs() / 1000), kept.serialAt)
    if (kept.draw) this.#draw(kept, kept.draw, out)
    return out
  }

  keep(message: Buffer, template: Template): void {
    if (message.length > maxKeyBytes) return
    // Of its own memory: a piece of a pool would hold the whole of it.
    const bytes = Buffer.allocUnsafeSlow(template.bytes.length)
    template.bytes.copy(bytes)
    const place = (template.bytes[3]! & rcodeMask) === 0 ? this.#answers : this.#errors
    const key = keyOf(message)
    const index = this.#tables.indexOf(template.topics)
    const known = template.shuffled ? place.peek(key) : undefined
    if (known?.index === index) {
      known.orders[known.next] = bytes
      known.next = (known.next + 1) % maxOrders
      return
    }
    const addresses = template.draw ? template.draw.pool.all.length / template.draw.pool.width : 0
    const kept: Kept = {
      ...template,
      bytes,
      index,
      seen: this.#tables.revision,
      orders: [bytes],
      next: 1,
      uses: 0,
      taken: new Float64Array(addresses),
    }
    place.set(key, kept)
  }

  /** Draws instances without putting them back, each address once: an address that more instances have comes first more often. */
  #draw(kept: Kept, { pool, count, firstAt, stride }: NonNullable<Template['draw']>, out: Buffer): void {
    const { instances, all, width } = pool
    let at = firstAt
    const end = firstAt + count * stride
    for (let left = instances.length; at < end; left--) {
      const drawn = Math.floor(this.#random() * left)
      const address = instances[drawn]!
      instances[drawn] = instances[left - 1]!
      instances[left - 1] = address
      if (kept.taken[address] === kept.uses) continue
      kept.taken[address] = kept.uses
      const from = address * width
      for (let i = 0; i < width; i++) out[at + i] = all[from + i]!
      at += stride
    }
  }
}

function keyOf(message: Buffer): string {
  return message.toString('latin1', 2)
}
