/**
 * Reads one message from a client. Whatever the bytes are, the outcome is a query, a refusal that names an rcode, or silence;
 * nothing throws. One walk over the bytes: exactly one question, uncompressed, and few records behind it, of which only OPT is read.
 */
import { classIn, nameLimits, rcodes, rrTypes, type Edns, type Rcode } from './records.ts'

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
/** Type, class, TTL and length of a record. */
const recordHeadBytes = 10
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
  const answers = message.readUInt16BE(6)
  const authorities = message.readUInt16BE(8)
  const additionals = message.readUInt16BE(10)
  if (message.readUInt16BE(4) !== 1 || answers > 1 || authorities > 1 || additionals > 2) return refused(rcodes.formatError)
  const walked = walkName(message, headerBytes)
  if (!walked || walked.end + 4 > message.length) return refused(rcodes.formatError)
  const edns = readEdns(message, walked.end + 4, answers + authorities, additionals)
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

/** Walks the records behind the question; `before` of them stand in front of the additional section. RFC 6891 6.1.1: at most one OPT. */
function readEdns(message: Buffer, start: number, before: number, additional: number): Edns | undefined | 'malformed' {
  let found: Edns | undefined
  let at = start
  for (let i = 0; i < before + additional; i++) {
    const owner = skipName(message, at)
    if (owner === undefined || owner + recordHeadBytes > message.length) return 'malformed'
    const length = message.readUInt16BE(owner + recordHeadBytes - 2)
    const data = owner + recordHeadBytes
    if (data + length > message.length) return 'malformed'
    if (i >= before && message.readUInt16BE(owner) === rrTypes.opt) {
      // RFC 6891 6.1.2: it is owned by the root.
      if (found || owner !== at + 1) return 'malformed'
      found = readOpt(message, owner, data, length)
      if (!found) return 'malformed'
    }
    at = data + length
  }
  return found
}

/** Where a record's name ends; a pointer ends it, and is not followed. */
function skipName(message: Buffer, start: number): number | undefined {
  let at = start
  for (;;) {
    const length = message[at]
    if (length === undefined || at - start > nameLimits.nameBytes) return undefined
    if (length === 0) return at + 1
    if (length >= 0xc0) return at + 2
    if (length > nameLimits.labelBytes) return undefined
    at += 1 + length
  }
}

/** RFC 6891 6.1.3: the class is the size, the TTL the upper rcode, the version and the flags; then options of code and length. */
function readOpt(message: Buffer, owner: number, data: number, length: number): Edns | undefined {
  let clientSubnet: Buffer | undefined
  for (let at = data; at < data + length;) {
    if (at + 4 > data + length) return undefined
    const code = message.readUInt16BE(at)
    const end = at + 4 + message.readUInt16BE(at + 2)
    if (end > data + length) return undefined
    if (code === clientSubnetOption && !clientSubnet) clientSubnet = message.subarray(at + 4, end)
    at = end
  }
  if (clientSubnet && (clientSubnet.length < 4 || clientSubnet.length > 20)) return undefined
  return {
    udpSize: message.readUInt16BE(owner + 2),
    version: message[owner + 5]!,
    dnssecOk: (message[owner + 6]! & 0x80) !== 0,
    clientSubnet,
    options: length > 0,
  }
}

/** True for a question that a zone can answer: class IN and labels that a text can hold without ambiguity. */
export function isPlain(query: Query): boolean {
  return query.class === classIn && query.labels.every(label => /^[!-~]+$/.test(label) && !label.includes('.'))
}
