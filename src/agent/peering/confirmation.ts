/**
 * The importing half of freshness: when each service was last known to be the peer's own word, and by what (mesh/freshness.ts). A
 * digest speaks of what was received before it on the same stream, so it is compared at once; it counts for a service when that is
 * stored, and from the moment at which it was asked for: a network that delays it makes nothing younger. Where it disagrees, the slot is asked for again, and what then arrives otherwise than it was held is a repair.
 */
import { freshnessLimits, type Confirmed, type Evidence } from '../../mesh/freshness.ts'
import { slots } from '../../wire/freshness.ts'
import { typeUrls } from '../../wire/peer-stream.ts'
import type { Item } from './intake.ts'
import { applyList, differing, digestOf, entryOf, foldId, forget, keptBy, newLedger, note, slotOf, type Ledger } from './ledger.ts'
import type { Now } from './session.ts'

/** How long after asking for a slot it is asked for again: doubled each time in vain, for what is refused stays different. */
const firstAskMs = 10_000
const maxAskMs = 16 * 60_000
/** Names that a peer may speak of before a list drops some, empty sets too: more than the services that it may export, twice each. */
const maxNames = 32_768

interface SlotState {
  agreedMs: number
  disagreedMs: number
  /** Asked for, and not in agreement since. */
  asked: boolean
  nextAskMs: number
  waitMs: number
}

export interface Confirmation {
  /** The peer sends digests on this stream. */
  confirms: boolean
  /** What was taken of this stream. */
  ledger: Ledger
  /** Those that a digest of this stream ever disagreed about. */
  slots: Map<number, SlotState>
  /** What the last digest spoke of was so then: it agreed about all slots but those. */
  comparedMs: number
  /** When the latest questions were asked, the last one's number, and when the next is due. */
  questions: Map<number, number>
  question: number
  nextQuestionMs: number
  /** By folded id: what is known without the digests of this stream. Only what is stored is in here. */
  services: Map<string, Confirmed>
  /** Taken, and not yet stored. */
  pending: Set<string>
  /** Everything that the peer exports to us, at once. */
  whole: Confirmed | undefined
  contradictedMs: number
  /** A digest agreed, but not all of it was stored yet. */
  agreedMs: number | undefined
  openedMs: number
  lastHeartbeatMs: number
  /** Since this process began: resources that were put right, and digests that disagreed. */
  repairs: number
  disagreements: number
  /** Services of the peer in the store, as of the message that is judged next. */
  held: readonly string[] | undefined
}

/** The first question leaves so long after the stream has begun: by then most of it has been said. */
const firstQuestionMs = 1000
/** Questions to which a late answer still counts. */
const maxQuestions = 8

/** For a new stream: ages go on, digests begin again. */
export function newConfirmation(now: Now, before?: Confirmation): Confirmation {
  const services = new Map(before?.services)
  // What digests said of the stream before is kept for each service.
  for (const id of services.keys()) services.set(id, confirmedOf(before!, id)!)
  return {
    confirms: false,
    ledger: newLedger(),
    slots: new Map(),
    comparedMs: -Infinity,
    questions: new Map(),
    question: 0,
    nextQuestionMs: Infinity,
    services,
    pending: new Set(),
    whole: before?.whole,
    contradictedMs: before?.contradictedMs ?? -Infinity,
    agreedMs: undefined,
    openedMs: now.monoMs,
    lastHeartbeatMs: now.monoMs,
    repairs: before?.repairs ?? 0,
    disagreements: before?.disagreements ?? 0,
    held: undefined,
  }
}

/** The other side has shown the mark: digests go both ways, to who asks for them. */
export function begin(confirmation: Confirmation, now: Now): void {
  if (confirmation.confirms) return
  confirmation.confirms = true
  confirmation.nextQuestionMs = now.monoMs + firstQuestionMs
}

/** The number of the question that is due; undefined when none is. */
export function nextQuestion(confirmation: Confirmation, now: Now): number | undefined {
  if (now.monoMs < confirmation.nextQuestionMs) return undefined
  confirmation.nextQuestionMs = now.monoMs + freshnessLimits.digestMs
  const question = (confirmation.question += 1)
  confirmation.questions.set(question, now.monoMs)
  confirmation.questions.delete(question - maxQuestions)
  return question
}

/** The latest moment at which a service, as it is stored, was known to be the peer's. */
export function confirmedOf(confirmation: Confirmation, id: string): Confirmed | undefined {
  const known = confirmation.services.get(foldId(id))
  // What is not yet stored is not what the digest spoke of.
  if (known === undefined || confirmation.pending.has(foldId(id))) return known
  const agreedMs = confirmation.slots.get(slotOf(typeUrls.service, id))?.agreedMs ?? confirmation.comparedMs
  if (agreedMs < known.atMs) return known
  return entryOf(confirmation.ledger, typeUrls.service, id) ? { atMs: agreedMs, evidence: 'digest' } : known
}

/** When a digest last disagreed about the slot of a service. */
export function contradictedMsOf(confirmation: Confirmation, id: string): number {
  return confirmation.slots.get(slotOf(typeUrls.service, id))?.disagreedMs ?? -Infinity
}

/** What is wrong with one name more; undefined where nothing is. A set without instances takes no room in the store, but here. */
export function overFull({ ledger }: Confirmation, { url, id }: Item): string | undefined {
  if (url !== typeUrls.service || ledger.size < maxNames || entryOf(ledger, url, id)) return undefined
  return `a peer may speak of ${maxNames} names at most; a list of what is exported drops others`
}

/** A resource was taken and waits for the store. */
export function taken(confirmation: Confirmation, item: Item, value: Uint8Array, now: Now): void {
  const { ledger, services, pending } = confirmation
  const { change, url, id } = item
  const asked = confirmation.slots.get(slotOf(url, id))?.asked === true
  if (change.kind === 'service') {
    // The digests before spoke of what is stored now, and go on doing so until the new state takes its place.
    const known = confirmedOf(confirmation, id)
    if (known) services.set(foldId(id), known)
    pending.add(foldId(id))
  }
  const { before, after } = note(ledger, url, id, value)
  const evidence: Evidence = before === undefined || asked ? 'resync' : 'received'
  item.proof = { hash: after.hash, takenMs: now.monoMs, evidence, repairs: asked && before?.hash.equals(after.hash) !== true }
  if (change.kind !== 'list') return
  const keep = keptBy(change.names)
  applyList(ledger, keep)
  for (const key of services.keys()) if (!keep(key)) services.delete(key)
}

/** It was stored (what is in excess was deleted), or with `ok` false it was not; `more`: a newer state of the same waits. */
export function settled(confirmation: Confirmation, { change, url, id, proof }: Item, ok: boolean, more: boolean): void {
  const { ledger, services, pending } = confirmation
  if (change.kind === 'service' && !more) pending.delete(foldId(id))
  if (!proof) {
    if (ok) confirmation.repairs += 1
    return
  }
  if (!ok) {
    // The peer must not hear that we hold it.
    if (entryOf(ledger, url, id)?.hash.equals(proof.hash)) forget(ledger, url, id)
    confirmation.agreedMs = undefined
    return
  }
  if (proof.repairs) confirmation.repairs += 1
  const confirmed = { atMs: proof.takenMs, evidence: proof.evidence }
  // A name that a list has dropped meanwhile is about to be swept.
  const kept = change.kind === 'service' && entryOf(ledger, url, id) !== undefined
  // Names of streams before this one are here too, until a list drops them.
  if (kept && (services.size < maxNames || services.has(foldId(id)))) services.set(foldId(id), confirmed)
  // Where digests come, one resource says nothing of the others; nor does it while some of them wait.
  if (!confirmation.confirms && pending.size === 0) confirmation.whole = confirmed
}

/** Nothing waits for the store any more. */
export function idle(confirmation: Confirmation): void {
  if (confirmation.agreedMs === undefined) return
  agree(confirmation, confirmation.agreedMs)
  confirmation.agreedMs = undefined
}

function agree(confirmation: Confirmation, atMs: number): void {
  confirmation.whole = { atMs, evidence: 'digest' }
  confirmation.contradictedMs = -Infinity
}

/** What lies in the store no longer is what was stored of these; `held` is all that lies there. Only while nothing waits for it. */
export function audited(confirmation: Confirmation, altered: readonly string[], held: readonly string[]): void {
  for (const id of altered) forget(confirmation.ledger, typeUrls.service, id)
  confirmation.held = held
}

/**
 * Compares the peer's digest of what it sent with what was taken. Answers the slots to ask for again, and the services that are in
 * the store though the peer has none of that name: what an earlier stream left, or what somebody put there. A digest that answers no
 * question of this stream says nothing.
 */
export function compare(
  confirmation: Confirmation,
  { digest, answers }: { digest: Uint8Array; answers: number },
  now: Now,
  busy: boolean,
): { ask: number[]; excess: string[] } {
  const { held } = confirmation
  const askedMs = confirmation.questions.get(answers)
  if (askedMs === undefined) return { ask: [], excess: [] }
  confirmation.held = undefined
  const wrong = new Set(differing(digestOf(confirmation.ledger), digest))
  const ask: number[] = []
  for (const [i, slot] of confirmation.slots) {
    if (!wrong.has(i))
      Object.assign(slot, { agreedMs: askedMs, disagreedMs: -Infinity, asked: false, nextAskMs: -Infinity, waitMs: firstAskMs })
  }
  for (const i of wrong) {
    const known = confirmation.slots.get(i)
    const slot: SlotState = {
      ...(known ?? { agreedMs: confirmation.comparedMs, nextAskMs: -Infinity, waitMs: firstAskMs }),
      disagreedMs: now.monoMs,
      asked: true,
    }
    confirmation.slots.set(i, slot)
    if (now.monoMs < slot.nextAskMs) continue
    ask.push(i)
    slot.nextAskMs = now.monoMs + slot.waitMs
    slot.waitMs = Math.min(2 * slot.waitMs, maxAskMs)
  }
  confirmation.comparedMs = askedMs
  const excess = busy || wrong.has(slots.list) ? [] : excessOf(confirmation, held ?? [], wrong)
  if (wrong.size > 0 || excess.length > 0) {
    confirmation.disagreements += 1
    confirmation.contradictedMs = now.monoMs
  } else if (busy) confirmation.agreedMs = askedMs
  else agree(confirmation, askedMs)
  return { ask, excess }
}

function excessOf({ ledger }: Confirmation, held: readonly string[], wrong: ReadonlySet<number>): string[] {
  return held.filter(id => entryOf(ledger, typeUrls.service, id)?.empty !== false && !wrong.has(slotOf(typeUrls.service, id)))
}
