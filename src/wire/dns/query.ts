/**
 * Reads one message from a client. Whatever the bytes are, the outcome is a query, a refusal that names an rcode, or silence;
 * nothing throws. dns-packet decodes; the walk before it makes sure that there is exactly one question, uncompressed, and few
 * records, so that decoding costs little and cannot be led astray.
 */
import { decode, type OptAnswer } from 'dns-packet'
import { classIn, nameLimits, rcodes, type Edns, type Rcode } from './records.ts'

export interface Query {
  id: number
  /** RD, AD and CD as the client sent them, in place; everything else zero. */
  flags: number
  recursionDesired: boolean
  /** The question as it came, to be echoed byte for byte (its case included). */
  question: Buffer
  /** Labels as they came, one character a byte. */
  labels: string[]
  /** The name with its closing dot, as it came. */
  name: string
  type: number
  class: number
  edns: Edns | undefined
}

export type ReadResult =
  | { kind: 'query'; query: Query }
  /** To be answered by a bare header (`refusal`) with this rcode. */
  | { kind: 'refused'; id: number; flags: number; rcode: Rcode }
  /** Not even a header, or a response: answering could start a loop. */
  | { kind: 'ignored' }

const headerBytes = 12
const responseFlag = 0x8000
const opcodeMask = 0x7800
const echoedFlags = 0x0100 | 0x0020 | 0x0010
const recursionDesiredFlag = 0x0100
const clientSubnetOption = 8

export function readQuery(message: Buffer): ReadResult {
  if (message.length < headerBytes) return { kind: 'ignored' }
  const id = message.readUInt16BE(0)
  const rawFlags = message.readUInt16BE(2)
  if ((rawFlags & responseFlag) !== 0) return { kind: 'ignored' }
  const flags = rawFlags & echoedFlags
  const refused = (rcode: Rcode): ReadResult => ({ kind: 'refused', id, flags: (rawFlags & opcodeMask) | flags, rcode })
  if ((rawFlags & opcodeMask) !== 0) return refused(rcodes.notImplemented)
  // The limits that resolvers in the field keep: a query carries one question, and OPT or a signature at most.
  const counts = [4, 6, 8, 10].map(offset => message.readUInt16BE(offset))
  if (counts[0] !== 1 || counts[1]! > 1 || counts[2]! > 1 || counts[3]! > 2) return refused(rcodes.formatError)
  const walked = walkName(message, headerBytes)
  if (!walked || walked.end + 4 > message.length) return refused(rcodes.formatError)
  const edns = readEdns(message)
  if (edns === 'malformed') return refused(rcodes.formatError)
  return {
    kind: 'query',
    query: {
      id,
      flags,
      recursionDesired: (rawFlags & recursionDesiredFlag) !== 0,
      question: message.subarray(headerBytes, walked.end + 4),
      labels: walked.labels,
      name: `${walked.labels.join('.')}.`,
      type: message.readUInt16BE(walked.end),
      class: message.readUInt16BE(walked.end + 2),
      edns,
    },
  }
}

/** A question's name: plain labels only. A pointer could only lead back into the header, so it is refused. */
function walkName(message: Buffer, start: number): { labels: string[]; end: number } | undefined {
  const labels: string[] = []
  let offset = start
  for (;;) {
    const length = message[offset]
    if (length === undefined || length > nameLimits.labelBytes) return undefined
    offset += 1
    if (length === 0) break
    if (offset + length > message.length || offset + length - start > nameLimits.nameBytes - 1) return undefined
    labels.push(message.toString('latin1', offset, offset + length))
    offset += length
  }
  return { labels, end: offset }
}

/** RFC 6891 6.1.1: at most one OPT. */
function readEdns(message: Buffer): Edns | undefined | 'malformed' {
  if (message.readUInt16BE(6) + message.readUInt16BE(8) + message.readUInt16BE(10) === 0) return undefined
  let found: OptAnswer[]
  try {
    found = (decode(message).additionals ?? []).filter((each): each is OptAnswer => each.type === 'OPT')
  } catch {
    return 'malformed'
  }
  const opt = found[0]
  if (!opt) return undefined
  if (found.length > 1) return 'malformed'
  const subnet = (opt.options ?? []).find(each => each.code === clientSubnetOption)?.data
  if (subnet && (subnet.length < 4 || subnet.length > 20)) return 'malformed'
  return { udpSize: opt.udpPayloadSize, version: opt.ednsVersion, dnssecOk: opt.flag_do, clientSubnet: subnet }
}

/** True for a question that a zone can answer: class IN and labels that a text can hold without ambiguity. */
export function isPlain(query: Query): boolean {
  return query.class === classIn && query.labels.every(label => /^[!-~]+$/.test(label) && !label.includes('.'))
}
