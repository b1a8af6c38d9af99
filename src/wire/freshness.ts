/**
 * What two isthmus clusters say to each other beyond Consul's protocol, in fields that a real Consul skips: a dialer marks its Open,
 * an acceptor that saw the mark marks a Heartbeat, and only then do digests and requests to send again ride on Heartbeats (DESIGN 5).
 * No field leaves for a peer that has not shown the mark, but the one in Open. Everything here is hostile until read here.
 */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import type { ReplicationMessage, ReplicationMessage_Open } from './gen/peerstream.ts'

/** Far from the numbers that Consul uses, outside those that protobuf reserves. */
const markField = 1000
const digestField = 1000
const resendField = 1001
const tagOf = (field: number, type: number) => (field << 3) | type
const markTag = tagOf(markField, WireType.Varint)
const digestTag = tagOf(digestField, WireType.LengthDelimited)
const resendTag = tagOf(resendField, WireType.LengthDelimited)

/** Of the digest's form and of what it covers. */
const version = 1

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
export const markedHeartbeat: ReplicationMessage = heartbeatWith(digestTag, new Uint8Array(0))

/** `hashes` are those of all slots, one behind the other. */
export function digestHeartbeat(hashes: Uint8Array): ReplicationMessage {
  return heartbeatWith(digestTag, hashes)
}

/** Asks for everything in these slots once more. */
export function resendHeartbeat(wanted: readonly number[]): ReplicationMessage {
  const bits = new Uint8Array(resendBytes)
  for (const slot of wanted) bits[slot >> 3]! |= 1 << (slot & 7)
  return heartbeatWith(resendTag, bits)
}

export interface HeartbeatFields {
  marked: boolean
  digest: Uint8Array | undefined
  /** Slots. */
  resend: number[]
}

/** What rides on a Heartbeat; undefined when it is as Consul's are. Fields of a form that we do not know count as absent. */
export function readHeartbeat(message: ReplicationMessage): HeartbeatFields | undefined {
  const unknown = message.Payload?.$case === 'heartbeat' ? message.Payload.value._unknownFields : undefined
  const digest = unknown && bytesOf(unknown[digestTag])
  const resend = unknown && bytesOf(unknown[resendTag])
  if (!digest && !resend) return undefined
  return {
    marked: digest !== undefined,
    digest: digest?.length === digestBytes ? digest : undefined,
    resend: resend?.length === resendBytes ? slotsIn(resend) : [],
  }
}

function slotsIn(bits: Uint8Array): number[] {
  const found: number[] = []
  for (let slot = 0; slot < slotCount; slot += 1) if (bits[slot >> 3]! & (1 << (slot & 7))) found.push(slot)
  return found
}

function heartbeatWith(tag: number, bytes: Uint8Array): ReplicationMessage {
  return { Payload: { $case: 'heartbeat', value: { _unknownFields: { [tag]: [new BinaryWriter().bytes(bytes).finish()] } } } }
}

/** The decoder keeps an unknown field as it came, its length included; the last of several counts. */
function bytesOf(raw: Uint8Array[] | undefined): Uint8Array | undefined {
  const last = raw?.at(-1)
  return last && new BinaryReader(last).bytes()
}
