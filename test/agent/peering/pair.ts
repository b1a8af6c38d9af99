/**
 * Both ends of a stream as pure state machines, joined by queues that a test may tamper with, on a time that the test moves. What
 * one side takes lies in a map, as its store would have it.
 */
import type { Offer, Offered } from '../../../src/agent/peering/offer.ts'
import { newSession, nextTickMs, step, type Effect, type Event, type Role, type SessionState } from '../../../src/agent/peering/session.ts'
import { isMarked, readHeartbeat } from '../../../src/wire/freshness.ts'
import { ExportedService, ExportedServiceList, ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { keptBy } from '../../../src/agent/peering/ledger.ts'

/** What a cluster exports: an id of an instance for each service; '' for a service without instances. */
export type Exports = Record<string, string>

export function offerOf(exports: Exports): Offer {
  const names = Object.keys(exports)
    .filter(name => !name.endsWith('-sidecar-proxy'))
    .toSorted()
  const offered = (value: Uint8Array): Offered => ({ value })
  const service = (name: string, id: string) => {
    const Kind = name.endsWith('-sidecar-proxy') ? 'connect-proxy' : ''
    const Nodes = id === '' ? [] : [{ Node: { Node: 'n' }, Service: { ID: id, Service: name, Kind } }]
    return ExportedService.encode(ExportedService.fromPartial({ Nodes })).finish()
  }
  return {
    names,
    list: offered(ExportedServiceList.encode({ Services: names }).finish()),
    services: new Map(Object.entries(exports).map(([name, id]) => [name, offered(service(name, id))])),
  }
}

export class End {
  readonly role: Role
  state: SessionState
  exports: Exports = {}
  /** Imported services: the id of the instance. */
  held = new Map<string, string>()
  /** As the importer remembers it. */
  readonly #stored = new Map<string, string>()
  sent: ReplicationMessage[] = []
  notices: string[] = []
  /** Answers no `look` any more. */
  frozen = false
  /** Its store is slow: what is to be stored waits for `catchUp`. */
  slow = false
  readonly #waiting: Extract<Effect, { type: 'store' }>[] = []
  /** A refusal by the store. */
  refuse: (name: string) => string | undefined = () => undefined

  constructor(role: Role, nowMs: number, before?: End) {
    this.role = role
    this.state = newSession(
      { role, peerId: 'id', peerName: 'peer', streamSecret: 's', remote: { partition: '', datacenter: 'dc' } },
      { monoMs: nowMs, wallMs: nowMs },
      before?.state.status,
    )
    if (before) Object.assign(this, { exports: before.exports, held: before.held })
  }

  do(event: Event, nowMs: number): void {
    const [state, effects] = step(this.state, event, { monoMs: nowMs, wallMs: nowMs })
    this.state = state
    for (const effect of effects) this.#carryOut(effect, nowMs)
    if (effects.some(effect => effect.type === 'send')) this.do({ type: 'drained' }, nowMs)
  }

  hear(message: ReplicationMessage, nowMs: number): void {
    if (readHeartbeat(message)?.digest) this.do({ type: 'audited', altered: this.#altered(), held: [...this.held.keys()] }, nowMs)
    this.do({ type: 'message', message }, nowMs)
  }

  #altered(): string[] {
    return [...this.#stored].filter(([name, id]) => this.held.get(name) !== id).map(([name]) => name)
  }

  #carryOut(effect: Effect, nowMs: number): void {
    if (effect.type === 'send') this.sent.push(ReplicationMessage.decode(ReplicationMessage.encode(effect.message).finish()))
    else if (effect.type === 'notice') this.notices.push(effect.message)
    else if (effect.type === 'look' && !this.frozen) this.do({ type: 'looked', offer: offerOf(this.exports) }, nowMs)
    else if (effect.type === 'store') {
      this.#waiting.push(effect)
      if (!this.slow) this.catchUp(nowMs)
    }
  }

  /** Stores what waits, and what begins to be stored by that. */
  catchUp(nowMs: number): void {
    for (let next = this.#waiting.shift(); next; next = this.#waiting.shift()) {
      const { change, ticket } = next
      const error = change.kind === 'service' ? this.refuse(change.name) : undefined
      if (error === undefined) this.#store(change)
      this.do(error === undefined ? { type: 'stored', ticket } : { type: 'stored', ticket, error }, nowMs)
    }
  }

  #store(change: Extract<Effect, { type: 'store' }>['change']): void {
    if (change.kind === 'service') {
      const id = change.instances[0]?.service.id
      for (const map of [this.held, this.#stored]) {
        if (id === undefined) map.delete(change.name)
        else map.set(change.name, id)
      }
    } else if (change.kind === 'list') {
      const keep = keptBy(change.names)
      for (const map of [this.held, this.#stored]) for (const name of map.keys()) if (!keep(name)) map.delete(name)
    }
  }
}

export class Pair {
  nowMs: number
  acceptor: End
  dialer: End
  /** False: the message is lost. */
  passes: (message: ReplicationMessage, from: Role) => boolean = () => true

  constructor(nowMs = 0) {
    this.nowMs = nowMs
    this.acceptor = new End('acceptor', nowMs)
    this.dialer = new End('dialer', nowMs)
  }

  open(): void {
    this.dialer.do({ type: 'opened' }, this.nowMs)
    const open = this.dialer.sent.shift()?.Payload
    const marked = open?.$case === 'open' && isMarked(open.value)
    this.acceptor.do({ type: 'opened', marked }, this.nowMs)
    for (const end of [this.acceptor, this.dialer]) end.do({ type: 'offer', offer: offerOf(end.exports) }, this.nowMs)
    this.settle()
  }

  /** Another stream after this one. */
  reopen(): void {
    for (const end of [this.acceptor, this.dialer]) end.do({ type: 'ended' }, this.nowMs)
    this.acceptor = new End('acceptor', this.nowMs, this.acceptor)
    this.dialer = new End('dialer', this.nowMs, this.dialer)
    this.open()
  }

  /** Changes what an end exports. */
  export(end: End, exports: Exports): void {
    end.exports = exports
    end.do({ type: 'offer', offer: offerOf(exports) }, this.nowMs)
    this.settle()
  }

  /** Lets messages travel until none is left. */
  settle(): void {
    const { acceptor, dialer } = this
    while (acceptor.sent.length + dialer.sent.length > 0) {
      for (const [from, to] of [
        [acceptor, dialer],
        [dialer, acceptor],
      ] as const) {
        for (const message of from.sent.splice(0)) if (this.passes(message, from.role)) to.hear(message, this.nowMs)
      }
    }
  }

  advance(ms: number): void {
    const end = this.nowMs + ms
    for (;;) {
      const next = Math.min(nextTickMs(this.acceptor.state), nextTickMs(this.dialer.state))
      if (next > end) break
      this.nowMs = next
      for (const each of [this.acceptor, this.dialer]) if (nextTickMs(each.state) <= next) each.do({ type: 'tick' }, next)
      this.settle()
    }
    this.nowMs = end
  }
}
