/**
 * The importing half of a session: judges each Response by the rules of a real importer and in its words (spec/peering-wire.md 5.4),
 * then queues what is good until it is stored. An answer leaves only after that. Of one resource the newest waits alone, so the
 * queue is never longer than the peer has resources; a list waits for everything before it, because it sweeps.
 */
import type { Evidence } from '../../mesh/freshness.ts'
import type { CheckServiceNode } from '../../mesh/service.ts'
import { Operation, ExportedServiceList, type ReplicationMessage_Response } from '../../wire/gen/peerstream.ts'
import { PeeringServerAddresses, PeeringTrustBundle } from '../../wire/gen/peering.ts'
import { decodeBounded, TooManyFields } from '../../wire/bounded-reader.ts'
import { acknowledgement, grpcCodes, isTypeUrl, refusal, typeUrls } from '../../wire/peer-stream.ts'
import type { ReplicationMessage } from '../../wire/gen/peerstream.ts'
import { ReceivedSets } from './received-sets.ts'
import type { Read } from './replica.ts'

/** What the peer says, read and checked. */
export type Change =
  | { kind: 'service'; name: string; instances: CheckServiceNode[]; bytes: number }
  | { kind: 'list'; names: string[] }
  | { kind: 'bundle'; trustDomain: string; rootPems: string[]; exportedPartition: string }
  | { kind: 'addresses'; addresses: string[] }

export interface Item {
  change: Change
  key: string
  url: string
  id: string
  /** As it came. */
  bytes: number
  nonces: string[]
  /** What it is worth as evidence once it is stored. */
  proof?: Proof
}

export interface Proof {
  hash: Buffer
  takenMs: number
  evidence: Evidence
  /** It was asked for, and is not what we held. */
  repairs: boolean
}

export interface Intake {
  received: ReceivedSets
  /** Good, not yet begun; in order of arrival of the newest of each resource. */
  waiting: Map<string, Item>
  /** Being stored, by ticket. */
  running: Map<number, Item>
  nextTicket: number
}

/** Changes of different resources that are stored at the same time: twice as many as fill a transaction of the store. */
const concurrency = 64
/** Of a resource that is replaced faster than it can be stored, this many answers are owed at most. */
const owedAnswers = 32
const maxTextLength = 256
/** Tags and lengths in one resource that is no set of instances. */
const maxReads = 1_000_000

export function newIntake(): Intake {
  return { received: new ReceivedSets(), waiting: new Map(), running: new Map(), nextTicket: 1 }
}

/** What has arrived and is not yet stored. */
export function intakeSize({ waiting, running }: Intake): { items: number; bytes: number } {
  let bytes = 0
  for (const items of [waiting, running]) for (const item of items.values()) bytes += item.bytes
  return { items: waiting.size + running.size, bytes }
}

export type Judgement = { ok: true; item: Item } | { ok: false; answer: ReplicationMessage; message: string }

export function judge(
  { received }: Intake,
  response: ReplicationMessage_Response,
  role: 'acceptor' | 'dialer',
  peerName: string,
): Judgement {
  const { ResourceURL: url, ResourceID: id, Nonce: nonce, Resource: resource, operation } = response
  // Refusals repeat no more of what a peer says than a name could need.
  if ([url, id, nonce].some(text => text.length > maxTextLength)) {
    const message = `a resource URL, resource ID or nonce is longer than ${maxTextLength}`
    return { ok: false, answer: refusal(clip(url), clip(nonce), grpcCodes.invalidArgument, message), message }
  }
  const refuse = (code: number, message: string): Judgement => ({ ok: false, answer: refusal(url, nonce, code, message), message })
  const invalid = (message: string) => refuse(grpcCodes.invalidArgument, message)
  const failed = (message: string) => refuse(grpcCodes.internal, upsertError(url, id, message))
  if (!isTypeUrl(url)) return invalid(`received response for unknown resource type "${url}"`)
  if (nonce === '') return invalid(`received response without a nonce for: ${url}:${id}`)
  // An operation that this version does not know arrives as its number, whatever the type says.
  if (operation === Operation.OPERATION_UNSPECIFIED) return invalid('unsupported operation: "OPERATION_UNSPECIFIED"')
  if (operation !== Operation.OPERATION_UPSERT) return invalid(`unsupported operation: ${String(operation)}`)
  if (!resource) return invalid('received upsert response with no content')
  if (resource.typeUrl !== url) return failed(`mismatched resourceURL "${url}" and Any typeUrl "${clip(resource.typeUrl)}"`)
  let read: Read<Change>
  try {
    read = readResource(received, url, id, resource.value, role, peerName)
  } catch (error) {
    const reason = error instanceof TooManyFields ? error.message : 'proto: cannot parse invalid wire-format data'
    return failed(`failed to unmarshal resource: ${reason}`)
  }
  if (!read.ok) return failed(read.message)
  return { ok: true, item: { change: read.value, key: keyOf(read.value), url, id, bytes: resource.value.length, nonces: [nonce] } }
}

function readResource(
  received: ReceivedSets,
  url: string,
  id: string,
  value: Buffer,
  role: 'acceptor' | 'dialer',
  peerName: string,
): Read<Change> {
  switch (url) {
    case typeUrls.service: {
      if (id === '') return { ok: false, message: 'the resource ID is no service name' }
      const instances = received.read(id, value, peerName)
      return instances.ok ? { ok: true, value: { kind: 'service', name: id, instances: instances.value, bytes: value.length } } : instances
    }
    case typeUrls.list:
      return { ok: true, value: { kind: 'list', names: decodeBounded(ExportedServiceList, value, maxReads).Services } }
    case typeUrls.bundle: {
      const bundle = decodeBounded(PeeringTrustBundle, value, maxReads)
      return {
        ok: true,
        value: {
          kind: 'bundle',
          trustDomain: bundle.TrustDomain,
          rootPems: bundle.RootPEMs.map(pem => (pem.endsWith('\n') ? pem : `${pem}\n`)),
          exportedPartition: bundle.ExportedPartition,
        },
      }
    }
    default: {
      const { Addresses: addresses } = decodeBounded(PeeringServerAddresses, value, maxReads)
      // Who has no address is dialled by nobody, and who dials cannot become someone who waits (5.1, 7.7).
      if (role === 'acceptor') return { ok: false, message: 'Cannot switch peering dialing mode from false to true' }
      if (addresses.length === 0) return { ok: false, message: 'Cannot switch peering dialing mode from true to false' }
      return { ok: true, value: { kind: 'addresses', addresses } }
    }
  }
}

/** As much of a peer's text as is repeated or kept. */
export function clip(text: string): string {
  return text.slice(0, maxTextLength)
}

function upsertError(url: string, id: string, message: string): string {
  return `upsert error, ResourceURL: "${url}", ResourceID: "${id}": ${message}`
}

/** Puts an item into the queue, in place of an older one of the same resource. */
export function enqueue(intake: Intake, item: Item): void {
  const older = intake.waiting.get(item.key)
  intake.waiting.delete(item.key)
  if (older) item.nonces = [...older.nonces, ...item.nonces].slice(-owedAnswers)
  if (older?.proof?.repairs && item.proof) item.proof.repairs = true
  intake.waiting.set(item.key, item)
}

/** The answer to an item that is not even queued. */
export function rejection({ url, id, nonces }: Item, message: string): ReplicationMessage {
  return refusal(url, nonces[0]!, grpcCodes.internal, upsertError(url, id, message))
}

/** What is held of a name that the peer does not have: to be deleted. Nobody is answered. */
export function excess(id: string): Item {
  const change: Change = { kind: 'service', name: id, instances: [], bytes: 0 }
  return { change, key: keyOf(change), url: typeUrls.service, id, bytes: 0, nonces: [] }
}

function keyOf(change: Change): string {
  return change.kind === 'service' ? `service ${change.name.toLowerCase()}` : change.kind
}

/** Takes from the queue what may be stored now. */
export function startNext(intake: Intake): { ticket: number; change: Change }[] {
  const started: { ticket: number; change: Change }[] = []
  if (intake.waiting.size === 0 || intake.running.size >= concurrency) return started
  const busy = new Set(Array.from(intake.running.values(), item => item.key))
  for (const item of intake.waiting.values()) {
    if (intake.running.size >= concurrency || busy.has('list') || busy.has(item.key)) break
    if (item.key === 'list' && busy.size > 0) break
    intake.waiting.delete(item.key)
    intake.running.set(intake.nextTicket, item)
    busy.add(item.key)
    started.push({ ticket: intake.nextTicket, change: item.change })
    intake.nextTicket += 1
  }
  return started
}

/** An item was stored, or was refused with `error`: the answers that are owed for it. */
export function finish(
  intake: Intake,
  ticket: number,
  error: string | undefined,
): { item: Item; answers: ReplicationMessage[] } | undefined {
  const item = intake.running.get(ticket)
  if (!item) return undefined
  intake.running.delete(ticket)
  const answers = item.nonces.map(nonce =>
    error === undefined
      ? acknowledgement(item.url, nonce)
      : refusal(item.url, nonce, grpcCodes.internal, upsertError(item.url, item.id, error)),
  )
  return { item, answers }
}
