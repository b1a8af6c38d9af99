/**
 * One message in, at most one message out: the path of a query in the order in which it meets the rules (dns.md 7). What was answered
 * before and still holds is answered from bytes, the rest of ours at once; only foreign names wait for a recursor. Never throws: what
 * fails inside is a SERVFAIL.
 */
import { messageOf } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import { isPlain, readQuery, type Query } from '../../wire/dns/query.ts'
import { classIn, rcodes, rrTypes, type DnsRecord } from '../../wire/dns/records.ts'
import { writeRefusal, writeReply, type Reply } from '../../wire/dns/writer.ts'
import type { DnsConfig } from '../config.ts'
import { isReverse, matchZone, reverseAddress, type ZoneMatch } from './question.ts'
import type { KeptAnswers, Template } from './kept-answers.ts'
import type { Recursors } from './recursors.ts'
import { fitReply, roomFor, type Transport } from './trim.ts'
import { maxChasedRecords, type Chase, type Zone, type ZoneAnswer } from './zone.ts'

/** Names outside the zones that one query may make us look up. */
const maxChases = 5
const truncatedFlag = 0x02
const headerBytes = 12
/** An OPT record without options, and the five numbers that end an SOA record. */
const optBytes = 11
const soaNumbersBytes = 20

export class Responder {
  readonly #zone: Zone
  readonly #config: DnsConfig
  readonly #recursors: Recursors
  readonly #logger: Logger
  readonly #kept: Record<Transport, KeptAnswers>

  constructor(options: { zone: Zone; config: DnsConfig; recursors: Recursors; logger: Logger; keptAnswers: () => KeptAnswers }) {
    this.#kept = { udp: options.keptAnswers(), tcp: options.keptAnswers() }
    this.#zone = options.zone
    this.#config = options.config
    this.#recursors = options.recursors
    this.#logger = options.logger
  }

  /** The reply, or undefined where silence is the answer. A promise only if somebody else had to be asked. */
  respond(message: Buffer, transport: Transport): Buffer | undefined | Promise<Buffer | undefined> {
    const kept = this.#kept[transport].reply(message)
    if (kept) return kept
    const read = readQuery(message)
    if (read.kind === 'ignored') return undefined
    if (read.kind === 'refused') return writeRefusal(read)
    const { query } = read
    const asked = keyOf(message, query)
    const same = asked === message ? undefined : asked && this.#kept[transport].reply(asked)
    if (same) return same
    try {
      const reply = this.#answer(asked, query, transport)
      return reply instanceof Promise ? reply.catch(error => this.#failed(query, error)) : reply
    } catch (error) {
      return this.#failed(query, error)
    }
  }

  #answer(asked: Buffer | undefined, query: Query, transport: Transport): Buffer | undefined | Promise<Buffer | undefined> {
    // RFC 6891 6.1.3: there is no version but 0.
    if (query.edns && query.edns.version !== 0) return this.#bare(query, rcodes.badVersion)
    if (query.class !== classIn) return this.#bare(query, rcodes.refused)
    const match = matchZone(query.labels, this.#zone.zones)
    if (match) return this.#fromZone(asked, query, match, transport)
    if (isReverse(query.labels)) return this.#fromReverse(query, transport)
    return this.#recursors.configured ? this.#forward(query, transport) : this.#bare(query, rcodes.refused)
  }

  #fromZone(
    asked: Buffer | undefined,
    query: Query,
    match: ZoneMatch,
    transport: Transport,
  ): Buffer | undefined | Promise<Buffer | undefined> {
    // A label with a dot, a blank or a control character in it names nothing here, and must not be read as two labels.
    if (!isPlain(query)) return this.#send(query, transport, this.#zone.nameError(match, undefined))
    const room = roomFor(query, transport, this.#config.udpAnswerLimit)
    const found = this.#zone.answer({ ...query, wanted: room.answers + 1, bytes: room.bytes }, match)
    if (found.chase.length > 0 && this.#recursors.configured) {
      return this.#chase(query, found).then(() => this.#send(query, transport, found))
    }
    const reply = this.#send(query, transport, found)
    const template = asked && reply && templateOf(query, reply, found)
    if (template) this.#kept[transport].keep(asked, template)
    return reply
  }

  /** Adds what recursors know of names that the answer points at, with the TTL of the answer (dns.md 2). */
  async #chase(query: Query, found: ZoneAnswer): Promise<void> {
    const look = async (chase: Chase): Promise<DnsRecord[]> => {
      const records = await this.#recursors.resolve(chase.name, query.type)
      const taken = query.edns ? records : records.slice(0, maxChasedRecords)
      return taken.map(record => ({ ...record, ttl: chase.ttl }))
    }
    const chases = found.chase.slice(0, maxChases)
    const results = await Promise.all(chases.map(look))
    chases.forEach((chase, i) => found[chase.into].push(...results[i]!))
  }

  #fromReverse(query: Query, transport: Transport): Buffer | undefined | Promise<Buffer | undefined> {
    const address = reverseAddress(query.labels)
    const found = address === undefined ? undefined : this.#zone.reverse(query.name, address)
    const asked = query.type === rrTypes.ptr || query.type === rrTypes.any
    if (asked && found) return this.#send(query, transport, found)
    return this.#forward(query, transport)
  }

  async #forward(query: Query, transport: Transport): Promise<Buffer | undefined> {
    const reply = await this.#recursors.ask(query, transport)
    if (!reply) return this.#bare(query, rcodes.serverFailure, true)
    const { bytes } = roomFor(query, transport, this.#config.udpAnswerLimit)
    // A recursor that sends more than the client can take: the client is told to come back over TCP.
    const fitting = transport === 'udp' && reply.length > bytes ? cut(reply, query) : Buffer.from(reply)
    fitting.writeUInt16BE(query.id, 0)
    return fitting
  }

  #send(query: Query, transport: Transport, found: ZoneAnswer): Buffer | undefined {
    const reply: Reply = {
      ...found,
      authoritative: true,
      truncated: false,
      recursionAvailable: this.#recursors.configured,
      opt: true,
    }
    const { udpAnswerLimit, enableTruncate, disableCompression } = this.#config
    return fitReply(query, reply, roomFor(query, transport, udpAnswerLimit), { compress: !disableCompression, enableTruncate })
  }

  #bare(query: Query, rcode: Reply['rcode'], recursionAvailable = false): Buffer | undefined {
    const nothing = { answer: [], authority: [], additional: [] }
    return writeReply(
      query,
      { rcode, authoritative: false, truncated: false, recursionAvailable, opt: true, ...nothing },
      { compress: true },
    )
  }

  #failed(query: Query, error: unknown): Buffer | undefined {
    this.#logger.error({ error: messageOf(error), type: query.type }, 'a dns query could not be answered')
    return this.#bare(query, rcodes.serverFailure)
  }
}

/** The message that is answered alike: without options that no answer depends on, such as a cookie. None, where a subnet is given. */
function keyOf(message: Buffer, { edns, question }: Query): Buffer | undefined {
  if (!edns?.options) return message
  const end = headerBytes + question.length + optBytes
  // Nothing but a question and an OPT record, whose length is its last field.
  if (edns.clientSubnet || message.readUInt32BE(6) !== 0 || message.readUInt16BE(10) !== 1) return undefined
  const plain = Buffer.from(message.subarray(0, end))
  plain.writeUInt16BE(0, end - 2)
  return plain
}

/** What of a reply can be sent again; nothing where the catalog says nothing for sure. */
function templateOf(query: Query, reply: Buffer, found: ZoneAnswer): Template | undefined {
  const { topics, pool, authority, additional, shuffled } = found
  if (!topics) return undefined
  const end = reply.length - (query.edns ? optBytes : 0)
  const count = reply.readUInt16BE(6)
  // Which of many were left out is drawn anew each time.
  if (shuffled && count < found.answer.length) return undefined
  if (!pool || pool.instances.length < 2 || count === 0) {
    const [soa] = authority
    // A reply that was cut has lost it.
    const ends = soa?.type === 'SOA' && additional.length === 0 && reply.readUInt16BE(8) === 1
    return { bytes: reply, topics, serialAt: ends ? end - soaNumbersBytes : 0, draw: undefined, shuffled }
  }
  const firstAt = headerBytes + query.question.length
  const stride = (end - firstAt) / count
  return { bytes: reply, topics, serialAt: 0, draw: { pool, count, firstAt: firstAt + stride - pool.width, stride }, shuffled: false }
}

/** Header and question of a reply alone, marked as truncated. */
function cut(reply: Buffer, query: Query): Buffer {
  const short = Buffer.from(reply.subarray(0, headerBytes + query.question.length))
  short[2]! |= truncatedFlag
  short.fill(0, 6, headerBytes)
  return short
}
