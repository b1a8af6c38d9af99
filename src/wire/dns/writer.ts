/**
 * Writes messages: replies with name compression (dns.md 5), and the queries that go to recursors. dns-packet never compresses,
 * which answers need. Invariant: what cannot be written (a name of the catalog that is no DNS name) is left out, never half written.
 */
import { addressBytes } from '../../lib/address-bytes.ts'
import type { Query } from './query.ts'
import { classIn, isWritable, nameLimits, rrTypes, type DnsRecord, type Edns, type Rcode } from './records.ts'

export interface Reply {
  rcode: Rcode
  authoritative: boolean
  truncated: boolean
  recursionAvailable: boolean
  answer: DnsRecord[]
  authority: DnsRecord[]
  additional: DnsRecord[]
  /** An OPT record echoes the client's, if it sent one. */
  opt: boolean
  /** The answer depends on the client's subnet: its scope is the whole of it (RFC 7871 7.2.1). */
  scoped?: boolean
}

const responseFlag = 0x8000
const authoritativeFlag = 0x0400
const truncatedFlag = 0x0200
const recursionAvailableFlag = 0x0080
const headerBytes = 12
/** A pointer has 14 bits (RFC 1035 4.1.4). */
const maxPointer = 0x3fff
const maxMessageBytes = 65_535

const typeNumbers: Record<DnsRecord['type'], number> = {
  A: rrTypes.a,
  AAAA: rrTypes.aaaa,
  CNAME: rrTypes.cname,
  NS: rrTypes.ns,
  PTR: rrTypes.ptr,
  SRV: rrTypes.srv,
  SOA: rrTypes.soa,
  TXT: rrTypes.txt,
}

/** The message as bytes; undefined when it is longer than any DNS message can be. */
export function writeReply(query: Query, reply: Reply, options: { compress: boolean }): Buffer | undefined {
  const out = new MessageWriter(options.compress)
  out.question(query)
  const answers = out.records(reply.answer)
  const authorities = out.records(reply.authority)
  let additionals = out.records(reply.additional)
  if (reply.opt && query.edns) {
    out.opt(query.edns, reply.rcode, reply.scoped ? 'source' : 'none')
    additionals += 1
  }
  const flags =
    responseFlag |
    (reply.authoritative ? authoritativeFlag : 0) |
    (reply.truncated ? truncatedFlag : 0) |
    (reply.recursionAvailable ? recursionAvailableFlag : 0) |
    // Of the client's flags a reply keeps RD only (RFC 1035 4.1.1).
    (query.recursionDesired ? 0x0100 : 0) |
    (reply.rcode & 0x0f)
  return out.finish(query.id, flags, [1, answers, authorities, additionals])
}

/** A header alone: all that a message deserves whose question could not be read. */
export function writeRefusal(refusal: { id: number; flags: number; rcode: Rcode }): Buffer {
  const header = Buffer.alloc(headerBytes)
  header.writeUInt16BE(refusal.id, 0)
  header.writeUInt16BE(responseFlag | refusal.flags | refusal.rcode, 2)
  return header
}

/** The query that asks a recursor what a client asked us, under an id of our own. */
export function writeQuery(id: number, query: Pick<Query, 'flags' | 'question' | 'edns'>): Buffer {
  const out = new MessageWriter(false)
  out.raw(query.question)
  if (query.edns) out.opt(query.edns, 0, 'as it came')
  return out.finish(id, query.flags, [1, 0, 0, query.edns ? 1 : 0])!
}

/** The question of a name and type, as it stands in a message; undefined when the name cannot be written. */
export function questionBytes(name: string, type: number): Buffer | undefined {
  if (!isWritable(name)) return undefined
  const labels = name === '.' ? [] : name.slice(0, -1).split('.')
  const parts = labels.flatMap(label => [Buffer.from([Buffer.byteLength(label)]), Buffer.from(label)])
  return Buffer.concat([...parts, Buffer.from([0, type >> 8, type & 0xff, 0, classIn])])
}

class MessageWriter {
  #buffer = Buffer.allocUnsafe(1024)
  #length = headerBytes
  readonly #offsets: Map<string, number> | undefined

  constructor(compress: boolean) {
    this.#offsets = compress ? new Map() : undefined
  }

  question(query: Query): void {
    let offset = this.#length
    if (this.#offsets) {
      for (let i = 0; i < query.labels.length; i++) {
        this.#offsets.set(`${query.labels.slice(i).join('.')}.`, offset)
        offset += query.labels[i]!.length + 1
      }
    }
    this.raw(query.question)
  }

  raw(bytes: Buffer): void {
    this.#reserve(bytes.length)
    bytes.copy(this.#buffer, this.#length)
    this.#length += bytes.length
  }

  /** How many of them were written. */
  records(records: DnsRecord[]): number {
    let written = 0
    for (const record of records) if (this.#record(record)) written += 1
    return written
  }

  /** RFC 6891 6.1.2; a client subnet comes back with scope 0 where the answer does not depend on it (RFC 7871 7.2.1). */
  opt(edns: Edns, rcode: number, scope: 'none' | 'source' | 'as it came'): void {
    const subnet = edns.clientSubnet
    this.#reserve(11 + (subnet ? 4 + subnet.length : 0))
    this.#byte(0)
    this.#uint16(rrTypes.opt)
    this.#uint16(edns.udpSize)
    this.#byte(rcode >> 4)
    this.#byte(0)
    this.#uint16(scope === 'as it came' && edns.dnssecOk ? 0x8000 : 0)
    this.#uint16(subnet ? 4 + subnet.length : 0)
    if (!subnet) return
    this.#uint16(8)
    this.#uint16(subnet.length)
    const at = this.#length
    this.raw(subnet)
    if (scope !== 'as it came') this.#buffer[at + 3] = scope === 'source' ? subnet[2]! : 0
  }

  finish(id: number, flags: number, counts: [number, number, number, number]): Buffer | undefined {
    if (this.#length > maxMessageBytes) return undefined
    this.#buffer.writeUInt16BE(id, 0)
    this.#buffer.writeUInt16BE(flags, 2)
    counts.forEach((count, i) => this.#buffer.writeUInt16BE(count, 4 + 2 * i))
    return this.#buffer.subarray(0, this.#length)
  }

  #record(record: DnsRecord): boolean {
    if (!isWritable(record.name) || !targetsOf(record).every(isWritable)) return false
    // Three names at most, and SOA's five numbers; texts reserve their own.
    this.#reserve(3 * nameLimits.nameBytes + 64)
    this.#name(record.name, true)
    this.#uint16(typeNumbers[record.type])
    this.#uint16(classIn)
    this.#uint32(record.ttl)
    const lengthAt = this.#length
    this.#length += 2
    this.#data(record)
    this.#buffer.writeUInt16BE(this.#length - lengthAt - 2, lengthAt)
    return true
  }

  #data(record: DnsRecord): void {
    switch (record.type) {
      case 'A':
      case 'AAAA':
        return this.raw(addressBytes(record.address))
      case 'CNAME':
      case 'NS':
      case 'PTR':
        return this.#name(record.target, true)
      case 'SRV':
        this.#uint16(record.priority)
        this.#uint16(record.weight)
        this.#uint16(record.port)
        // RFC 2782: the target is not compressed; later names may point at it.
        return this.#name(record.target, false)
      case 'SOA':
        this.#name(record.mname, true)
        this.#name(record.rname, true)
        for (const each of [record.serial, record.refresh, record.retry, record.expire, record.minimum]) this.#uint32(each)
        return undefined
      case 'TXT':
        return this.#text(record.text)
    }
  }

  /** Character strings of up to 255 bytes (RFC 1035 3.3.14). */
  #text(text: string): void {
    const bytes = Buffer.from(text)
    this.#reserve(bytes.length + Math.ceil(bytes.length / 255) + 1)
    let at = 0
    do {
      const part = bytes.subarray(at, at + 255)
      this.#byte(part.length)
      this.raw(part)
      at += 255
    } while (at < bytes.length)
  }

  /** Of a writable name. Suffixes are remembered as texts, so that case is kept and compared. */
  #name(name: string, mayPoint: boolean): void {
    for (let at = 0; at < name.length - 1;) {
      if (this.#offsets) {
        const rest = at === 0 ? name : name.slice(at)
        const known = this.#offsets.get(rest)
        if (known !== undefined && mayPoint) return this.#uint16(0xc000 | known)
        if (known === undefined && this.#length <= maxPointer) this.#offsets.set(rest, this.#length)
      }
      const dot = name.indexOf('.', at)
      this.#byte(this.#buffer.write(name.slice(at, dot), this.#length + 1))
      this.#length += this.#buffer[this.#length - 1]!
      at = dot + 1
    }
    return this.#byte(0)
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return
    const grown = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#length + bytes))
    this.#buffer.copy(grown, 0, 0, this.#length)
    this.#buffer = grown
  }

  #byte(value: number): void {
    this.#buffer[this.#length++] = value
  }

  #uint16(value: number): void {
    this.#buffer.writeUInt16BE(value & 0xffff, this.#length)
    this.#length += 2
  }

  #uint32(value: number): void {
    this.#buffer.writeUInt32BE(value >>> 0, this.#length)
    this.#length += 4
  }
}

function targetsOf(record: DnsRecord): string[] {
  if (record.type === 'SOA') return [record.mname, record.rname]
  return 'target' in record ? [record.target] : []
}
