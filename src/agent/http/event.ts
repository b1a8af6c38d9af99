/**
 * /v1/event (spec/http-api.md 14): user events, the newest in memory. There is no gossip to carry them further than this agent. The
 * index of a list is made of its newest event's id, as Consul makes it: it tells change, not order.
 */
import { randomUUID } from 'node:crypto'
import { MeshError } from '../../lib/errors.ts'
import { compileRegex } from '../../mesh/filter/filter.ts'
import { waitParams } from './blocking.ts'
import { badRequest } from './errors.ts'
import { json, type Reply } from './reply.ts'
import { refusePeer } from './request.ts'
import type { Call, Route } from './route.ts'

interface UserEvent {
  ID: string
  Name: string
  /** base64. */
  Payload: string | null
  NodeFilter: string
  ServiceFilter: string
  TagFilter: string
  Version: number
  LTime: number
}

const maxEvents = 256
const maxPayloadBytes = 512
const shared = 'events are not shared between peers'

/** Consul's event clock stands at one before the first event. */
const firstLTime = 2

export class UserEvents {
  readonly #events: UserEvent[] = []
  readonly #waiters = new Set<() => void>()
  #lTime = firstLTime

  fire(event: Omit<UserEvent, 'LTime'>): void {
    this.#events.push({ ...event, LTime: this.#lTime })
    this.#lTime += 1
    if (this.#events.length > maxEvents) this.#events.shift()
    for (const wake of this.#waiters) wake()
  }

  list(wanted: (event: UserEvent) => boolean): UserEvent[] {
    return this.#events.filter(wanted)
  }

  /** Resolves at the next event, at the timeout, or at an abort. */
  next(timeoutMs: number, signal: AbortSignal): Promise<void> {
    return new Promise(resolve => {
      const end = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', end)
        this.#waiters.delete(end)
        resolve()
      }
      const timer = setTimeout(end, timeoutMs)
      signal.addEventListener('abort', end, { once: true })
      this.#waiters.add(end)
    })
  }
}

const filters = [
  ['node', 'NodeFilter'],
  ['service', 'ServiceFilter'],
  ['tag', 'TagFilter'],
] as const

function filterParam(call: Call, name: string): string {
  const text = call.query.get(name)
  if (text === '') return ''
  const compiled = compileRegex(text)
  if (!compiled.ok) throw new MeshError('invalid', `Invalid ${name} filter: ${compiled.problem}`)
  return text
}

function fire(call: Call): Reply {
  refusePeer(call, shared)
  if (call.rest === '') throw badRequest('Missing name')
  const [NodeFilter, ServiceFilter, TagFilter] = filters.map(([name]) => filterParam(call, name)) as [string, string, string]
  if (TagFilter !== '' && ServiceFilter === '') throw new MeshError('invalid', 'Cannot provide tag filter without service filter')
  if (call.body.length > maxPayloadBytes) {
    throw new MeshError(
      'invalid',
      `user event exceeds configured limit of ${maxPayloadBytes} bytes before encoding; store the data in a key and send its name`,
    )
  }
  const Payload = call.body.length === 0 ? null : call.body.toString('base64')
  const event = { ID: randomUUID(), Name: call.rest, Payload, NodeFilter, ServiceFilter, TagFilter, Version: 1 }
  call.agent.events.fire(event)
  return json({ ...event, LTime: 0 })
}

/** The two halves of the id, xored: 64 bits of which a client compares nothing but equality. */
function indexOf(events: readonly UserEvent[]): bigint {
  const newest = events.at(-1)
  if (!newest) return 1n
  const bytes = Buffer.from(newest.ID.replaceAll('-', ''), 'hex')
  return bytes.readBigUInt64BE(0) ^ bytes.readBigUInt64BE(8) || 1n
}

async function list(call: Call): Promise<Reply> {
  refusePeer(call, shared)
  const name = call.query.get('name')
  const wanted = filters.map(([param, field]) => [field, filterParam(call, param)] as const).filter(([, text]) => text !== '')
  const read = () =>
    call.agent.events.list(event => (name === '' || event.Name === name) && wanted.every(([field, text]) => event[field] === text))
  const { waitMs } = waitParams(call.query)
  const known = call.query.get('index')
  const deadline = performance.now() + waitMs
  let found = read()
  const isKnown = () => known !== '' && known !== '0' && String(indexOf(found)) === known
  while (isKnown() && performance.now() < deadline && !call.signal.aborted) {
    await call.agent.events.next(deadline - performance.now(), call.signal)
    found = read()
  }
  return json(found, { 'X-Consul-Index': String(indexOf(found)) })
}

export const eventRoutes: Route[] = [
  {
    method: 'PUT',
    path: '/v1/event/fire/*',
    takes: ['node', 'service', 'tag'],
    body: 'bytes',
    what: 'fires an event that this agent lists',
    handler: fire,
  },
  {
    method: 'GET',
    path: '/v1/event/list',
    takes: ['index', 'wait', 'name', 'node', 'service', 'tag'],
    what: 'the newest events; blocks until there is another',
    handler: list,
  },
]
