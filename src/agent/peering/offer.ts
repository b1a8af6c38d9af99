/**
 * The exporting half of a session: what the other side subscribed to, what it was sent, and what it is owed. Nothing waits in a
 * queue: a resource that changes while the stream is full is sent once, in its latest state, when there is room again; identical
 * content is not sent twice on one stream (spec/peering-wire.md 7.5).
 */
import {
  formatNonce,
  isTypeUrl,
  messageLimits,
  resourceIds,
  sidecarSuffix,
  typeUrls,
  upsert,
  type TypeUrl,
} from '../../wire/peer-stream.ts'
import type { ReplicationMessage } from '../../wire/gen/peerstream.ts'
import { serviceSlots, slots } from '../../wire/freshness.ts'
import { applyList, idsIn, keptBy, newLedger, note, slotOf, type Ledger } from './ledger.ts'

/** One resource, encoded. */
export interface Offered {
  value: Uint8Array
}

/** Everything that one peer may know of us at this moment. */
export interface Offer {
  /** Plain names only, sorted (7.1). */
  names: readonly string[]
  list: Offered
  /** By ResourceID: plain services and `-sidecar-proxy`. */
  services: ReadonlyMap<string, Offered>
  /** Absent while Connect is off. */
  bundle?: Offered
  /** Acceptors only, and never empty (7.7). */
  addresses?: Offered
  /** Ids of all services that are others than in the offer before this one, of the same names; absent where more may have changed. */
  changed?: readonly string[]
}

/** A resource that does not fit into a message. Its name is exported without instances. */
export interface Oversized {
  id: string
  bytes: number
}

export interface Outbox {
  subscribed: Set<TypeUrl>
  offer: Offer | undefined
  /** Services that may have to be sent; undefined: any, and the list, and what is no longer offered. */
  due: Set<string> | undefined
  /** What was last sent, by id, as it was offered; undefined: it is to be sent again, whatever it is. */
  sent: Record<TypeUrl, Map<string, Uint8Array | undefined>>
  /** What the other side was told, for digests. */
  ledger: Ledger
  nonce: number
  /** Bytes handed over and not yet taken by the transport. */
  unsentBytes: number
  oversized: Map<string, number>
}

/** While this much is on its way nothing further is handed over. */
const highWaterBytes = 1024 * 1024
/** Room in a message for everything but the value. */
const envelopeBytes = 512

/** A service without instances: on the wire it is how one is deleted (5.4). */
export const noInstances: Offered = { value: new Uint8Array(0) }

export function newOutbox(): Outbox {
  const sent: Outbox['sent'] = {
    [typeUrls.service]: new Map(),
    [typeUrls.list]: new Map(),
    [typeUrls.bundle]: new Map(),
    [typeUrls.addresses]: new Map(),
  }
  return {
    subscribed: new Set(),
    offer: undefined,
    due: undefined,
    sent,
    ledger: newLedger(),
    nonce: 0,
    unsentBytes: 0,
    oversized: new Map(),
  }
}

export function oversizedOf(outbox: Outbox): Oversized[] {
  return Array.from(outbox.oversized, ([id, bytes]) => ({ id, bytes })).sort((a, b) => (a.id < b.id ? -1 : 1))
}

export function takeOffer(outbox: Outbox, offer: Offer): void {
  if (!offer.changed) outbox.due = undefined
  else for (const id of offer.changed) outbox.due?.add(id)
  outbox.offer = offer
}

/** What a request means before anything has been sent: a subscription, an answer, or the end of the stream (5.3). */
export function subscribe(
  outbox: Outbox,
  request: { ResourceURL: string; ResponseNonce: string; PeerID: string; Error?: object | undefined },
  expectedPeerId: string | undefined,
): 'subscribed' | 'answered' | { fatal: string } {
  const url = request.ResourceURL
  if (!isTypeUrl(url)) return { fatal: `subscription request to unknown resource URL: ${url.slice(0, 256)}` }
  if (outbox.subscribed.has(url)) return 'answered'
  // The list comes with the services, asked for or not; a peer that acknowledges it has done nothing wrong.
  if (url === typeUrls.list && request.ResponseNonce !== '' && outbox.subscribed.has(typeUrls.service)) return 'answered'
  if (request.ResponseNonce !== '') return { fatal: 'initial subscription requests for a resource type must not contain a nonce' }
  if (request.Error) return { fatal: 'initial subscription request for a resource type must not contain an error' }
  if (expectedPeerId !== undefined && request.PeerID !== '' && request.PeerID !== expectedPeerId) {
    return { fatal: 'initial subscription requests for a resource type must have consistent PeerID values' }
  }
  outbox.subscribed.add(url)
  return 'subscribed'
}

/**
 * Messages that are due now. `listSent` is set when the list of names is among them, `complete` when with them the other side has
 * been sent everything that it may know.
 */
export function flush(outbox: Outbox): { messages: ReplicationMessage[]; listSent: boolean; complete: boolean } {
  const messages: ReplicationMessage[] = []
  const { offer, subscribed } = outbox
  const put: Put = (url, id, offered) => {
    const sent = outbox.sent[url]
    if (isSame(sent.get(id), offered.value)) return true
    if (outbox.unsentBytes >= highWaterBytes) return false
    const fits = offered.value.length + 2 * url.length + id.length + envelopeBytes <= messageLimits.sent
    if (fits) outbox.oversized.delete(id)
    else outbox.oversized.set(id, offered.value.length)
    sent.set(id, offered.value)
    // Only a service can be sent empty: that hides its instances and leaves its name. An empty list would delete everything.
    if (!fits && url !== typeUrls.service) return true
    const value = fits ? offered.value : noInstances.value
    outbox.nonce += 1
    outbox.unsentBytes += value.length + 2 * url.length + id.length
    messages.push(upsert(url, id, formatNonce(outbox.nonce), value))
    note(outbox.ledger, url, id, value)
    if (url === typeUrls.list) applyList(outbox.ledger, keptBy(offer!.names))
    return true
  }
  let listSent = false
  let complete = false
  if (!offer) return { messages, listSent, complete }
  const others =
    (!subscribed.has(typeUrls.bundle) || !offer.bundle || put(typeUrls.bundle, resourceIds.bundle, offer.bundle)) &&
    (!subscribed.has(typeUrls.addresses) || !offer.addresses || put(typeUrls.addresses, resourceIds.addresses, offer.addresses))
  if (subscribed.has(typeUrls.service)) {
    const before = outbox.sent[typeUrls.list].get(resourceIds.list)
    // What goes away goes before the list says so (7.5).
    complete = outbox.due
      ? putDue(outbox.due, offer, put)
      : retract(outbox, offer, put) && put(typeUrls.list, resourceIds.list, offer.list) && putServices(offer, put)
    if (complete) outbox.due = new Set()
    listSent = outbox.sent[typeUrls.list].get(resourceIds.list) !== before
  }
  return { messages, listSent, complete: complete && others }
}

/**
 * The other side holds something else in these slots than it was told: what is in them is sent again, deletions too. What it holds there that it
 * was never told goes by the list, which names what there is, or, where it is the virtual proxy of a name on the list, by being emptied.
 */
export function sendAgain(outbox: Outbox, wanted: readonly number[]): void {
  outbox.due = undefined
  const { sent } = outbox
  const services = new Set(wanted.filter(slot => slot < serviceSlots))
  // Still known as sent, so that what is no longer offered is emptied once more.
  const forgetSent = (id: string) => void sent[typeUrls.service].set(id, undefined)
  for (const slot of services) for (const id of idsIn(outbox.ledger, slot)) forgetSent(id)
  for (const name of outbox.offer?.names ?? []) {
    const proxy = name + sidecarSuffix
    if (services.has(slotOf(typeUrls.service, proxy))) forgetSent(proxy)
  }
  if (services.size > 0 || wanted.includes(slots.list)) sent[typeUrls.list].delete(resourceIds.list)
  if (wanted.includes(slots.bundle)) sent[typeUrls.bundle].delete(resourceIds.bundle)
  if (wanted.includes(slots.addresses)) sent[typeUrls.addresses].delete(resourceIds.addresses)
}

/** False when there is no room for it now. */
type Put = (url: TypeUrl, id: string, offered: Offered) => boolean

function putDue(due: Set<string>, { services }: Offer, put: Put): boolean {
  for (const id of due) {
    if (!put(typeUrls.service, id, services.get(id)!)) return false
    due.delete(id)
  }
  return true
}

function putServices({ services }: Offer, put: Put): boolean {
  for (const [id, offered] of services) if (!put(typeUrls.service, id, offered)) return false
  return true
}

/** Empties the virtual proxies that are no longer offered. Plain names need nothing: the list sweeps them (7.5). */
function retract(outbox: Outbox, offer: Offer, put: Put): boolean {
  const sent = outbox.sent[typeUrls.service]
  for (const id of sent.keys()) {
    if (offer.services.has(id)) continue
    if (id.endsWith(sidecarSuffix) && !put(typeUrls.service, id, noInstances)) return false
    sent.delete(id)
    outbox.oversized.delete(id)
  }
  return true
}

function isSame(a: Uint8Array | undefined, b: Uint8Array): boolean {
  return a === b || (a !== undefined && a.length === b.length && Buffer.compare(a, b) === 0)
}
