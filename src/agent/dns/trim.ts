/**
 * Makes a reply fit its transport (dns.md 5): by answers and bytes over plain UDP, by bytes alone with EDNS and over TCP. A cut SRV
 * reply keeps the addresses of the targets that are left and nothing else.
 */
import type { Query } from '../../wire/dns/query.ts'
import { rrTypes, type DnsRecord } from '../../wire/dns/records.ts'
import { writeReply, type Reply } from '../../wire/dns/writer.ts'

export type Transport = 'udp' | 'tcp'

/** RFC 1035 4.2.1: what every client takes. */
const plainUdpBytes = 512
/** Beyond it a datagram is fragmented many times and a forged source is sent far more than it cost; such answers are TCP's. */
const maxUdpBytes = 4096
const maxTcpBytes = 65_523
const maxUdpAnswers = 8
/** What the smallest answers take: an A record behind a pointer, an SRV record with the shortest target. */
const smallestAnswerBytes = 16
const smallestSrvBytes = 21

export interface FitOptions {
  compress: boolean
  /** Say so, by the TC flag, when answers were left out. */
  enableTruncate: boolean
}

export interface Room {
  bytes: number
  /** Answers beyond this number are cut whatever their size; also where building may stop, one later. */
  answers: number
}

export function roomFor(query: Query, transport: Transport, udpAnswerLimit: number): Room {
  const smallest = query.type === rrTypes.srv ? smallestSrvBytes : smallestAnswerBytes
  if (transport === 'tcp') return { bytes: maxTcpBytes, answers: Math.floor(maxTcpBytes / smallest) }
  const bytes = Math.min(maxUdpBytes, Math.max(plainUdpBytes, query.edns?.udpSize ?? 0))
  return { bytes, answers: bytes === plainUdpBytes ? Math.min(maxUdpAnswers, udpAnswerLimit) : Math.floor(bytes / smallest) }
}

/** The reply as bytes that fit, with as many answers as do. */
export function fitReply(query: Query, reply: Reply, room: Room, options: FitOptions): Buffer | undefined {
  const { compress } = options
  if (reply.answer.length <= room.answers) {
    const whole = writeReply(query, reply, { compress })
    if (whole && whole.length <= room.bytes) return whole
  }
  const fitting = cutToRoom(query, reply, room, compress)
  const cut = fitting.answer.length < reply.answer.length
  // Without any answer left, silence about the rest would read as "there is none".
  const truncated = cut && (options.enableTruncate || fitting.answer.length === 0)
  return writeReply(query, { ...fitting, truncated }, { compress })
}

/** What merely explains goes first, then the authority, then answers. */
function cutToRoom(query: Query, reply: Reply, room: Room, compress: boolean): Reply {
  const addresses = indexAddresses(reply.additional)
  const upTo = (count: number): Reply => {
    const answer = reply.answer.slice(0, count)
    return { ...reply, answer, additional: addressesOf(answer, addresses) }
  }
  const all = Math.min(reply.answer.length, room.answers)
  // Answers that were cut by number are measured uncompressed, so that they fit whoever unpacks and forwards them.
  const measured = { compress: compress && !(all < reply.answer.length && room.bytes === plainUdpBytes) }
  const bytesOf = (candidate: Reply) => writeReply(query, candidate, measured)?.length ?? Number.POSITIVE_INFINITY
  const most = upTo(all)
  const mostBytes = bytesOf(most)
  if (mostBytes <= room.bytes) return most
  const bare = (count: number): Reply => ({ ...upTo(count), authority: [] })
  // Bytes grow almost evenly with answers, so guessing by proportion finds the border in two or three steps.
  let fits = { count: 0, bytes: bytesOf(bare(0)) }
  let over = { count: all, bytes: Math.min(most.authority.length === 0 ? mostBytes : bytesOf(bare(all)), 2 * 0xffff) }
  if (over.bytes <= room.bytes) return bare(all)
  while (over.count - fits.count > 1) {
    const share = (room.bytes - fits.bytes) / (over.bytes - fits.bytes)
    const guess = fits.count + Math.floor(share * (over.count - fits.count))
    const count = Math.min(Math.max(guess, fits.count + 1), over.count - 1)
    const bytes = bytesOf(bare(count))
    if (bytes <= room.bytes) fits = { count, bytes }
    else over = { count, bytes }
  }
  return bare(fits.count)
}

/** The first address or alias that the additional section gives for each name. */
function indexAddresses(additional: DnsRecord[]): Map<string, DnsRecord> {
  const index = new Map<string, DnsRecord>()
  for (const record of additional) {
    const name = record.name.toLowerCase()
    if ((record.type === 'A' || record.type === 'AAAA' || record.type === 'CNAME') && !index.has(name)) index.set(name, record)
  }
  return index
}

function addressesOf(answers: DnsRecord[], index: Map<string, DnsRecord>): DnsRecord[] {
  const out: DnsRecord[] = []
  const seen = new Set<string>()
  for (const answer of answers) {
    let target = answer.type === 'SRV' ? answer.target.toLowerCase() : undefined
    while (target !== undefined && !seen.has(target)) {
      seen.add(target)
      const record = index.get(target)
      if (record) out.push(record)
      target = record?.type === 'CNAME' ? record.target.toLowerCase() : undefined
    }
  }
  return out
}
