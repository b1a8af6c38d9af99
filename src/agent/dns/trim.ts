/**
 * Makes a reply fit its transport (dns.md 5): by answers and bytes over plain UDP, by bytes alone with EDNS and over TCP. A cut SRV
 * reply keeps the addresses of the targets that are left and nothing else.
 */
import type { Query } from '../../wire/dns/query.ts'
import type { DnsRecord } from '../../wire/dns/records.ts'
import { replyBytes, type Reply } from '../../wire/dns/writer.ts'

export type Transport = 'udp' | 'tcp'

/** RFC 1035 4.2.1: what every client takes. */
const plainUdpBytes = 512
/** Beyond it a datagram is fragmented many times and a forged source is sent far more than it cost; such answers are TCP's. */
const maxUdpBytes = 4096
const maxTcpBytes = 65_523
const maxUdpAnswers = 8
const smallestAnswerBytes = 16

export interface TrimOptions {
  udpAnswerLimit: number
  compress: boolean
}

export interface Room {
  bytes: number
  /** Answers beyond this number are cut whatever their size; also where building may stop, one later. */
  answers: number
}

export function roomFor(query: Query, transport: Transport, udpAnswerLimit: number): Room {
  if (transport === 'tcp') return { bytes: maxTcpBytes, answers: Math.floor(maxTcpBytes / smallestAnswerBytes) }
  const bytes = Math.min(maxUdpBytes, Math.max(plainUdpBytes, query.edns?.udpSize ?? 0))
  const byBytes = Math.floor(bytes / smallestAnswerBytes)
  return { bytes, answers: bytes === plainUdpBytes ? Math.min(maxUdpAnswers, udpAnswerLimit) : byBytes }
}

/** Cuts `reply` in place; true when an answer was left out. */
export function trimReply(query: Query, reply: Reply, room: Room, options: TrimOptions): boolean {
  const before = reply.answer.length
  const addresses = indexAddresses(reply.additional)
  // An answer that was cut by number is measured uncompressed, so that it fits whoever unpacks and forwards it.
  let compress = options.compress
  const cutTo = (count: number) => {
    reply.answer = reply.answer.slice(0, count)
    reply.additional = addressesOf(reply.answer, addresses)
  }
  if (before > room.answers) {
    compress = compress && room.bytes !== plainUdpBytes
    cutTo(room.answers)
  }
  const fits = () => replyBytes(query, reply, { compress }) <= room.bytes
  if (fits()) return reply.answer.length < before
  // What merely explains goes before an answer does.
  cutTo(reply.answer.length)
  if (!fits()) reply.authority = []
  if (!fits()) {
    const all = reply.answer
    let most = 0
    let tooMany = all.length
    while (tooMany - most > 1) {
      const middle = (most + tooMany) >> 1
      reply.answer = all
      cutTo(middle)
      if (fits()) most = middle
      else tooMany = middle
    }
    reply.answer = all
    cutTo(most)
  }
  return reply.answer.length < before
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
