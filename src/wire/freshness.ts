/**
 * What two isthmus clusters say to each other beyond Consul's protocol, in fields that a real Consul skips: a dialer marks its Open,
 * an acceptor that saw the mark marks a Heartbeat, and only then do questions, the digests that answer them and requests to send again
 * ride on Heartbeats (DESIGN 5). A digest names the question that it answers: it proves what was so after that was asked, however long
 * the network took, while the moment at which it arrives proves nothing.
 * No field leaves for a peer that has not shown the mark, but the one in Open. Everything here is hostile until read here.
 */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import type { ReplicationMessage, ReplicationMessage_Open } from './gen/peerstream.ts'

/** Far from the numbers that Consul uses, outside those that protobuf reserves. */
const markField = 1000
const digestField = 1000
const resendField = 1001
const questionField = 1002
const answerField = 1003
const tagOf = (field: number, type: number) => (field << 3) | type
const markTag = tagOf(markField, WireType.Varint)
const digestTag = tagOf(digestField, WireType.LengthDelimited)
const resendTag = tagOf(resendField, WireType.LengthDelimited)
const questionTag = tagOf(questionField, WireType.Varint)
const answerTag = tagOf(answerField, WireType.Varint)

/** Of the digest's form and of what it covers. */
const version = 2

/** Some services are compared together, by their names; of the other types there is one resource each. */
export const serviceSlots = 1024
export const slots = { list: serviceSlots, bundle: serviceSlots + 1, addresses: serviceSlots + 2 } as const
export const slotCount = serviceSlots + 3
/** Of each slot's hash as much travels: an accident in 2^64. */
export const slotBytes = 8
const digestBytes = slotCount * slotBytes
const resendBytes = Math.ceil(slotCount / 8)

export function markOpen(open: ReplicationMessage_Open): ReplicationMessage_Open {
  return { ...open, _unknownFields: { [markTag]: [new BinaryWriter().uint32(version).finish()] } }
}

export function isMarked(open: ReplicationMessage_Open): boolean {
  const raw = open._unknownFields?.[markTag]?.[0]
  return raw?.length === 1 && raw[0] === version
}

/** Says that we understand digests, and nothing yet. */
export const markedHeartbeat: ReplicationMessage = heartbeatWith({ [digestTag]: bytes(new Uint8Array(0)) })

/** Asks for a digest of what is so now. Questions are numbered from 1 on each stream. */
export function questionHeartbeat(question: number): ReplicationMessage {
  return heartbeatWith({ [questionTag]: number(question) })
}

/** `hashes` are those of all slots, one behind the other; looked up after question `answers` was heard. */
export function digestHeartbeat(hashes: Uint8Array, answers: number): ReplicationMessage {
  return heartbeatWith({ [digestTag]: bytes(hashes), [answerTag]: number(answers) })
}

/** Asks for everything in these slots once more. */
export function resendHeartbeat(wanted: readonly number[]): ReplicationMessage {
  const bits = new Uint8Array(resendBytes)
  for (const slot of wanted) bits[slot >> 3]! |= 1 << (slot & 7)
  return heartbeatWith({ [resendTag]: bytes(bits) })
}

export interface HeartbeatFields {
  marked: boolean
  digest: Uint8Array | undefined
  /** The question that the digest answers; 0 is none. */
  answers: number
  /** A question; 0 is none. */
  question: number
  /** Slots. */
  resend: number[]
}

/** What rides on a Heartbeat; undefined when it is as Consul's are. Fields of a form that we do not know count as absent. */
export function readHeartbeat(message: ReplicationMessage): HeartbeatFields | undefined {
  const unknown = message.Payload?.$case === 'heartbeat' ? message.Payload.value._unknownFields : undefined
  const digest = unknown && bytesOf(unknown[digestTag])
  const resend = unknown && bytesOf(unknown[resendTag])
  const question = numberOf(unknown?.[questionTag])
  if (!digest && !resend && question === 0) return undefined
  return {
    marked: digest !== undefined,
    digest: digest?.length === digestBytes ? digest : undefined,
    answers: numberOf(unknown?.[answerTag]),
    question,
    resend: resend?.length === resendBytes ? slotsIn(resend) : [],
  }
}

function slotsIn(bits: Uint8Array): number[] {
  const found: number[] = []
  for (let slot = 0; slot < slotCount; slot += 1) if (bits[slot >> 3]! & (1 << (slot & 7))) found.push(slot)
  return found
}

function heartbeatWith(fields: Record<number, Uint8Array>): ReplicationMessage {
  const _unknownFields = Object.fromEntries(Object.entries(fields).map(([tag, raw]) => [tag, [raw]]))
  return { Payload: { $case: 'heartbeat', value: { _unknownFields } } }
}

function bytes(value: Uint8Array): Uint8Array {
  return new BinaryWriter().bytes(value).finish()
}

function number(value: number): Uint8Array {
  return new BinaryWriter().uint32(value).finish()
}

function numberOf(raw: Uint8Array[] | undefined): number {
  const last = raw?.at(-1)
  return last ? new BinaryReader(last).uint32() : 0
}

/** The decoder keeps an unknown field as it came, its length included; the last of several counts. */
function bytesOf(raw: Uint8Array[] | undefined): Uint8Array | undefined {
  const last = raw?.at(-1)
  return last && new BinaryReader(last).bytes()
}
