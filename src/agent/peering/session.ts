/**
 * One peering stream as a state machine, the same for the side that dialled and the side that accepted: `step(state, event, now)`
 * answers the next state and what to do. It owns no socket, timer or store; a driver carries out the effects and reports back
 * (spec/peering-wire.md 5, 7, 8, 9). The state is handed over: after a step only the returned one counts.
 */
import type { ReplicationMessage, ReplicationMessage_Request, ReplicationMessage_Response } from '../../wire/gen/peerstream.ts'
import { digestHeartbeat, markedHeartbeat, markOpen, questionHeartbeat, readHeartbeat, resendHeartbeat } from '../../wire/freshness.ts'
import { grpcCodes, heartbeat, subscription, terminated, typeUrls } from '../../wire/peer-stream.ts'
import {
  audited,
  begin,
  compare,
  idle,
  newConfirmation,
  nextQuestion,
  overFull,
  settled,
  taken,
  type Confirmation,
} from './confirmation.ts'
import { clip, enqueue, excess, finish, intakeSize, judge, newIntake, rejection, startNext, type Change, type Intake } from './intake.ts'
import { digestOf } from './ledger.ts'
import { flush, newOutbox, oversizedOf, sendAgain, subscribe, takeOffer, type Offer, type Outbox, type Oversized } from './offer.ts'
import { ask, beginLook, mayResend, newProof, nextLookMs, soon, type Proof } from './proof.ts'

export type Role = 'acceptor' | 'dialer'

/** A heartbeat leaves every 15 s; 120 s without one from the other side end the stream; nothing else counts (5.5). */
export const heartbeatMs = 15_000
export const silenceMs = 120_000
/** How long after Terminated the other side may take to finish (9.2). */
const graceMs = 1000
/** Of a refusal's words as much is kept. */
const maxReasonLength = 1000

export interface Identity {
  role: Role
  /** The acceptor's id of this peering: what travels as PeerID. */
  peerId: string
  /** Our own name for the peer; never travels. */
  peerName: string
  /** Dialers only: what Open carries. */
  streamSecret: string
  remote: { partition: string; datacenter: string; locality?: { region?: string; zone?: string } }
}

/** Two clocks at once: ages by the monotonic one, dates by the wall. */
export interface Now {
  monoMs: number
  wallMs: number
}

/** What is known of the stream; dates are wall-clock ms. */
export interface SessionStatus {
  connected: boolean
  /** The other side has said anything at all on this stream. */
  alive: boolean
  importedServices: string[] | undefined
  exportedServices: string[] | undefined
  /** Something that came is not yet durable, though it may be seen. */
  storing: boolean
  lastHeartbeatMs: number | undefined
  lastReceiveMs: number | undefined
  lastSendMs: number | undefined
  /** The other side refused something of ours, and has taken nothing of this type since. */
  lastNack: { atMs: number; url: string; message: string } | undefined
  /** We refused something of theirs that has not been put right since. */
  lastRefusal: { atMs: number; url: string; id: string; message: string } | undefined
  /** We refused their trust bundle and still do: alertable. */
  refusedBundle: string | undefined
  oversized: Oversized[]
  /** What is known of the age of what was imported. */
  confirmation: Confirmation
  /** Why the stream ended; undefined while it runs and when it ended as it should. */
  error: { atMs: number; message: string } | undefined
}

export interface SessionState {
  readonly identity: Identity
  phase: 'new' | 'open' | 'closing' | 'closed'
  outbox: Outbox
  intake: Intake
  proof: Proof
  status: SessionStatus
  nextHeartbeatMs: number
  silentSinceMs: number
  graceEndMs: number
}

export type Event =
  /** The stream is up. For an acceptor: Open was read and judged, and `marked` if it said that the dialer takes digests. */
  | { type: 'opened'; marked?: boolean }
  | { type: 'message'; message: ReplicationMessage }
  /** What we offer has changed. */
  | { type: 'offer'; offer: Offer }
  /** The answer to `look`. */
  | { type: 'looked'; offer: Offer }
  /**
   * What the store holds of this peer, by folded name, and what of it is no longer as it was stored. Said before a message with a
   * digest; without it digests are compared with what was stored.
   */
  | { type: 'audited'; altered: readonly string[]; held: readonly string[] }
  | { type: 'stored'; ticket: number; error?: string }
  /** The transport has taken everything. */
  | { type: 'drained' }
  | { type: 'tick' }
  /** The operator deleted this peering. */
  | { type: 'terminate' }
  /** This agent is going away; the peering stays. */
  | { type: 'leave' }
  /** The other side finished sending, or the stream broke with `error`. */
  | { type: 'ended'; error?: { code: number; message: string } }

export interface Status {
  code: number
  message: string
}

export type Effect =
  | { type: 'send'; message: ReplicationMessage }
  /** Keep it, then say `stored`. */
  | { type: 'store'; ticket: number; change: Change }
  /** Look up what we offer as it is now, from tables that are up to date, then say `looked`. While that takes, no digest leaves. */
  | { type: 'look' }
  /** The peer deleted this peering: mark it and purge what it gave us. */
  | { type: 'terminated' }
  /** Dialer: no more from us (END_STREAM). */
  | { type: 'half-close' }
  /** The end: an acceptor answers this status, a dialer lets go of the call. */
  | { type: 'close'; status: Status }
  /** Worth a line in the log. */
  | { type: 'notice'; message: string; fields: Record<string, unknown> }

/** `previous` is the status of the stream before this one: what was known stays known until something newer comes. */
export function newSession(identity: Identity, now: Now, previous?: SessionStatus): SessionState {
  return {
    identity,
    phase: 'new',
    outbox: newOutbox(),
    intake: newIntake(),
    proof: newProof(),
    nextHeartbeatMs: now.monoMs + heartbeatMs,
    silentSinceMs: now.monoMs,
    graceEndMs: Infinity,
    status: {
      importedServices: undefined,
      exportedServices: undefined,
      lastHeartbeatMs: undefined,
      lastReceiveMs: undefined,
      lastSendMs: undefined,
      refusedBundle: undefined,
      ...previous,
      connected: false,
      alive: false,
      storing: false,
      oversized: [],
      confirmation: newConfirmation(now, previous?.confirmation),
      // Everything is sent again, and refused again if it is no better.
      lastNack: undefined,
      lastRefusal: undefined,
      error: undefined,
    },
  }
}

/** When the next `tick` is due, on the monotonic clock. */
export function nextTickMs(state: SessionState): number {
  if (state.phase === 'open') {
    const { nextQuestionMs } = state.status.confirmation
    return Math.min(state.nextHeartbeatMs, state.silentSinceMs + silenceMs, nextLookMs(state.proof), nextQuestionMs)
  }
  return state.phase === 'closing' ? state.graceEndMs : Infinity
}

export function step(state: SessionState, event: Event, now: Now): [SessionState, Effect[]] {
  if (state.phase === 'closed') return [state, []]
  const effects: Effect[] = []
  switch (event.type) {
    case 'opened':
      open(state, event.marked === true, effects, now)
      break
    case 'message':
      state.status.alive = true
      receive(state, event.message, effects, now)
      break
    case 'offer':
      takeOffer(state.outbox, event.offer)
      sendDue(state, effects, now)
      break
    case 'looked':
      prove(state, event.offer, effects, now)
      break
    case 'audited':
      if (!isBusy(state)) audited(state.status.confirmation, event.altered, event.held)
      break
    case 'drained':
      state.outbox.unsentBytes = 0
      sendDue(state, effects, now)
      break
    case 'stored':
      stored(state, event.ticket, event.error, effects, now)
      break
    case 'tick':
      tick(state, effects, now)
      break
    case 'terminate':
      terminate(state, effects, now)
      break
    case 'leave':
      leave(state, effects, now)
      break
    case 'ended':
      ended(state, event.error, effects, now)
      break
  }
  state.status.storing = state.phase === 'open' && isBusy(state)
  return [state, effects]
}

function open(state: SessionState, marked: boolean, effects: Effect[], now: Now): void {
  if (state.phase !== 'new') return
  const { role, peerId, streamSecret, remote } = state.identity
  state.phase = 'open'
  state.status.connected = true
  state.nextHeartbeatMs = now.monoMs + heartbeatMs
  state.silentSinceMs = now.monoMs
  Object.assign(state.status.confirmation, { openedMs: now.monoMs, lastHeartbeatMs: now.monoMs })
  const { locality } = remote
  if (role === 'dialer') {
    const Remote = {
      Partition: remote.partition,
      Datacenter: remote.datacenter,
      Locality: locality?.region ? { Region: locality.region, Zone: locality.zone ?? '' } : undefined,
    }
    const value = markOpen({ PeerID: peerId, StreamSecretID: streamSecret, Remote })
    effects.push({ type: 'send', message: { Payload: { $case: 'open', value } } })
  } else if (marked) {
    effects.push({ type: 'send', message: markedHeartbeat })
    begin(state.status.confirmation, now)
  }
  // In this order, and both services and list: acknowledging a list that nobody subscribed to ends the stream (5.3).
  const wanted = [typeUrls.service, typeUrls.list, typeUrls.bundle, ...(role === 'dialer' ? [typeUrls.addresses] : [])]
  for (const url of wanted) effects.push({ type: 'send', message: subscription(url, role === 'dialer' ? peerId : '') })
}

function isBusy(state: SessionState): boolean {
  return intakeSize(state.intake).items > 0
}

function receive(state: SessionState, message: ReplicationMessage, effects: Effect[], now: Now): void {
  const payload = message.Payload
  // A second Open, and a message that says nothing, are ignored (5.1).
  if (!payload || payload.$case === 'open' || state.phase === 'new') return
  if (payload.$case === 'heartbeat') {
    state.silentSinceMs = now.monoMs
    state.status.confirmation.lastHeartbeatMs = now.monoMs
    state.status.lastHeartbeatMs = now.wallMs
    state.status.lastReceiveMs = now.wallMs
    if (state.phase === 'open') receiveFields(state, message, effects, now)
  } else if (payload.$case === 'terminated') {
    receiveTerminated(state, effects, now)
  } else if (state.phase === 'open') {
    if (payload.$case === 'request') receiveRequest(state, payload.value, effects, now)
    else receiveResponse(state, payload.value, effects, now)
  }
}

/** What isthmus says on a Heartbeat (DESIGN 5). An acceptor hears it only from a dialer that showed the mark in its Open. */
function receiveFields(state: SessionState, message: ReplicationMessage, effects: Effect[], now: Now): void {
  const fields = readHeartbeat(message)
  if (!fields) return
  const { confirmation } = state.status
  if (fields.marked && state.identity.role === 'dialer') begin(confirmation, now)
  if (!confirmation.confirms) return
  if (fields.question > 0) {
    ask(state.proof, fields.question, now)
    if (beginLook(state.proof, now)) effects.push({ type: 'look' })
  }
  const { digest, answers } = fields
  if (digest) {
    const { ask: again, excess: names } = compare(confirmation, { digest, answers }, now, isBusy(state))
    if (again.length > 0) effects.push({ type: 'send', message: resendHeartbeat(again) })
    for (const name of names) enqueue(state.intake, excess(name))
    if (again.length > 0 || names.length > 0) {
      effects.push({
        type: 'notice',
        message: 'what is imported is not what the peer exports; it is being put right',
        fields: { slots: again.length, excess: names.length },
      })
    }
    store(state, effects)
  }
  if (fields.resend.length > 0 && mayResend(state.proof, now)) {
    sendAgain(state.outbox, fields.resend)
    soon(state.proof, now)
    sendDue(state, effects, now)
  }
}

function receiveRequest(state: SessionState, request: ReplicationMessage_Request, effects: Effect[], now: Now): void {
  const { role, peerId } = state.identity
  // Only a dialer knows the id that belongs here; an acceptor's own requests leave it empty (5.1).
  const meaning = subscribe(state.outbox, request, role === 'dialer' ? peerId : undefined)
  if (typeof meaning === 'object') {
    close(state, effects, now, { code: grpcCodes.invalidArgument, message: meaning.fatal }, meaning.fatal)
    return
  }
  if (meaning === 'subscribed') sendDue(state, effects, now)
  else if (request.Error) {
    const url = request.ResourceURL
    const message = request.Error.message.slice(0, maxReasonLength)
    state.status.lastNack = { atMs: now.wallMs, url, message }
    effects.push({
      type: 'notice',
      message: 'peer refused a resource',
      fields: { resourceUrl: url, nonce: clip(request.ResponseNonce), code: request.Error.code, error: message },
    })
  } else if (state.status.lastNack?.url === request.ResourceURL) {
    // An answer does not name its resource, only its type: of a type with one resource, that one is good now.
    state.status.lastNack = undefined
  }
}

function receiveResponse(state: SessionState, response: ReplicationMessage_Response, effects: Effect[], now: Now): void {
  const { role, peerName } = state.identity
  const judgement = judge(state.intake, response, role, peerName)
  if (!judgement.ok) {
    effects.push({ type: 'send', message: judgement.answer })
    refused(state, response.ResourceURL, response.ResourceID, judgement.message, effects, now)
    return
  }
  const full = overFull(state.status.confirmation, judgement.item)
  if (full !== undefined) {
    effects.push({ type: 'send', message: rejection(judgement.item, full) })
    refused(state, response.ResourceURL, response.ResourceID, full, effects, now)
    return
  }
  taken(state.status.confirmation, judgement.item, response.Resource!.value, now)
  enqueue(state.intake, judgement.item)
  store(state, effects)
}

function store(state: SessionState, effects: Effect[]): void {
  for (const { ticket, change } of startNext(state.intake)) effects.push({ type: 'store', ticket, change })
}

function stored(state: SessionState, ticket: number, error: string | undefined, effects: Effect[], now: Now): void {
  const done = finish(state.intake, ticket, error)
  if (!done || state.phase !== 'open') return
  const { item } = done
  const { confirmation } = state.status
  settled(confirmation, item, error === undefined, state.intake.waiting.has(item.key))
  for (const message of done.answers) effects.push({ type: 'send', message })
  if (error === undefined) {
    state.status.lastReceiveMs = now.wallMs
    if (item.change.kind === 'list') state.status.importedServices = item.change.names.toSorted()
    if (item.change.kind === 'bundle') state.status.refusedBundle = undefined
    const { lastRefusal } = state.status
    if (lastRefusal?.url === item.url && lastRefusal.id === item.id) state.status.lastRefusal = undefined
  } else {
    if (item.change.kind === 'bundle') state.status.refusedBundle = error
    refused(state, item.url, item.id, error, effects, now)
  }
  store(state, effects)
  if (!isBusy(state)) idle(confirmation)
}

function refused(state: SessionState, url: string, id: string, message: string, effects: Effect[], now: Now): void {
  const known = { url: clip(url), id: clip(id), message }
  state.status.lastReceiveMs = now.wallMs
  state.status.lastRefusal = { atMs: now.wallMs, ...known }
  effects.push({
    type: 'notice',
    message: 'refused a resource of the peer',
    fields: { resourceUrl: known.url, resource: known.id, error: message },
  })
}

/** What we offer was looked up just now: once all of it has been handed over, its digest may say so. */
function prove(state: SessionState, offer: Offer, effects: Effect[], now: Now): void {
  const { outbox, proof } = state
  proof.looking = false
  proof.owed = false
  takeOffer(outbox, offer)
  if (sendDue(state, effects, now)) effects.push({ type: 'send', message: digestHeartbeat(digestOf(outbox.ledger), proof.answering) })
  else proof.owed = true
}

/** Answers whether the other side has been sent everything that it may know. */
function sendDue(state: SessionState, effects: Effect[], now: Now): boolean {
  if (state.phase !== 'open') return false
  const before = state.status.oversized.length
  const { messages, listSent, complete } = flush(state.outbox)
  for (const message of messages) effects.push({ type: 'send', message })
  if (messages.length > 0) state.status.lastSendMs = now.wallMs
  if (listSent) state.status.exportedServices = [...state.outbox.offer!.names]
  state.status.oversized = oversizedOf(state.outbox)
  if (state.status.oversized.length > before) {
    effects.push({
      type: 'notice',
      message: 'a service is too large for one message and is exported without instances; reduce its instances or their metadata',
      fields: { oversized: state.status.oversized },
    })
  }
  if (complete && state.proof.owed) {
    state.proof.owed = false
    soon(state.proof, now)
  }
  return complete
}

function tick(state: SessionState, effects: Effect[], now: Now): void {
  if (state.phase === 'closing') {
    if (now.monoMs >= state.graceEndMs) close(state, effects, now, { code: grpcCodes.ok, message: '' }, undefined)
    return
  }
  if (state.phase !== 'open') return
  if (now.monoMs >= state.nextHeartbeatMs) {
    effects.push({ type: 'send', message: heartbeat })
    // Beats that a sleeping machine missed are not made up for.
    state.nextHeartbeatMs = Math.max(state.nextHeartbeatMs + heartbeatMs, now.monoMs + 1)
  }
  const question = nextQuestion(state.status.confirmation, now)
  if (question !== undefined) effects.push({ type: 'send', message: questionHeartbeat(question) })
  if (beginLook(state.proof, now)) effects.push({ type: 'look' })
  if (now.monoMs >= state.silentSinceMs + silenceMs) {
    close(state, effects, now, { code: grpcCodes.unknown, message: 'heartbeat timeout' }, 'heartbeat timeout')
  }
}

/** Terminated and END_STREAM leave together: with any delay between them a real acceptor never ends the call (9.2). */
function terminate(state: SessionState, effects: Effect[], now: Now): void {
  if (state.phase === 'new') close(state, effects, now, { code: grpcCodes.ok, message: '' }, undefined)
  if (state.phase !== 'open') return
  effects.push({ type: 'send', message: terminated })
  beginClosing(state, effects, now)
}

function receiveTerminated(state: SessionState, effects: Effect[], now: Now): void {
  effects.push({ type: 'terminated' })
  if (state.phase === 'open') beginClosing(state, effects, now)
}

function beginClosing(state: SessionState, effects: Effect[], now: Now): void {
  state.phase = 'closing'
  state.graceEndMs = now.monoMs + graceMs
  if (state.identity.role === 'dialer') effects.push({ type: 'half-close' })
}

function ended(state: SessionState, error: Status | undefined, effects: Effect[], now: Now): void {
  if (state.phase === 'closing') {
    close(state, effects, now, { code: grpcCodes.ok, message: '' }, undefined)
    return
  }
  const message = error === undefined ? 'stream ended unexpectedly' : `unexpected error receiving from the stream: ${error.message}`
  close(state, effects, now, { code: grpcCodes.unknown, message }, error?.message ?? message)
}

/** The code is the one that makes a real dialer come back within 8 s instead of up to 64 (6.2). */
function leave(state: SessionState, effects: Effect[], now: Now): void {
  const message = 'node is not a leader anymore; cannot continue streaming'
  close(state, effects, now, { code: grpcCodes.failedPrecondition, message }, 'this agent is shutting down')
}

function close(state: SessionState, effects: Effect[], now: Now, status: Status, error: string | undefined): void {
  state.phase = 'closed'
  state.status.connected = false
  state.status.error = error === undefined ? undefined : { atMs: now.wallMs, message: error }
  if (error !== undefined) state.status.lastReceiveMs = now.wallMs
  effects.push({ type: 'close', status })
}
