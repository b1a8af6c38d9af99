/**
 * Plays a recorded stream to our session in the place of one of the two: it gets what the other side sent, at the recorded times,
 * is offered what the replaced side exported, and its own messages are collected beside those that real Consul sent.
 */
import { newSession, nextTickMs, step, type Effect, type Event, type Role, type SessionState } from '../../../src/agent/peering/session.ts'
import type { Offer, Offered } from '../../../src/agent/peering/offer.ts'
import { ExportedServiceList, ReplicationMessage } from '../../../src/wire/gen/peerstream.ts'
import { sidecarSuffix, typeUrls } from '../../../src/wire/peer-stream.ts'
import { recordingLines } from '../../wire/recordings.ts'

interface Line {
  t: number
  from: Role | undefined
  message: ReplicationMessage | undefined
  status: { code: number; details: string } | undefined
}

export interface Replay {
  name: string
  ours: string[]
  theirs: string[]
  closed: { code: number; message: string } | undefined
  recordedEnd: { code: number; details: string } | undefined
  state: SessionState
  changes: unknown[]
}

/** One replay for every stream of the file that begins with an Open and was accepted. */
export function replay(file: string, role: Role, storeError: (change: { kind: string }) => string | undefined = () => undefined): Replay[] {
  const accepted = streamsOf(file).filter(lines => lines.some(line => line.message && line.from === 'acceptor'))
  return accepted.map((lines, i) => replayStream(`${file} stream ${i + 1}`, lines, role, storeError))
}

function streamsOf(file: string): Line[][] {
  const streams: Line[][] = []
  for (const line of recordingLines(file)) {
    // Another stream that the recorder held open beside this one.
    if (line.dir?.includes('#')) continue
    const message = line.hex === undefined ? undefined : ReplicationMessage.decode(Buffer.from(line.hex, 'hex'))
    const from = line.dir?.split('->')[0] as Role | undefined
    const second = streams.at(-1)?.some(each => each.message?.Payload?.$case === 'open' && each.t > line.t_ms - 100)
    if (message?.Payload?.$case === 'open' && from === 'dialer' && !second) streams.push([])
    const status = line.event === 'stream-error' ? (line as unknown as { code: number; details: string }) : undefined
    streams.at(-1)?.push({ t: line.t_ms, from, message, status })
  }
  return streams
}

function replayStream(name: string, lines: Line[], role: Role, storeError: (change: { kind: string }) => string | undefined): Replay {
  const first = lines[0]!.message!.Payload
  if (first?.$case !== 'open') throw new Error('a stream begins with Open')
  const { PeerID: peerId, StreamSecretID: streamSecret, Remote: remote } = first.value
  const start = lines[0]!.t
  let state = newSession(
    {
      role,
      peerId,
      peerName: 'peer',
      streamSecret,
      remote: { partition: remote?.Partition ?? '', datacenter: remote?.Datacenter ?? '', locality: localityOf(remote?.Locality) },
    },
    { monoMs: start, wallMs: start },
  )
  const result: Replay = { name, ours: [], theirs: [], closed: undefined, recordedEnd: undefined, state, changes: [] }
  const run = (event: Event, t: number) => {
    let effects: Effect[]
    ;[state, effects] = step(state, event, { monoMs: t, wallMs: t })
    for (const effect of effects) {
      if (effect.type === 'send') result.ours.push(describe(withoutMark(effect.message)))
      else if (effect.type === 'close') result.closed ??= effect.status
      else if (effect.type === 'store') {
        result.changes.push(effect.change)
        const error = storeError(effect.change)
        run(error === undefined ? { type: 'stored', ticket: effect.ticket } : { type: 'stored', ticket: effect.ticket, error }, t)
      }
    }
    if (effects.some(effect => effect.type === 'send')) run({ type: 'drained' }, t)
  }
  const exported = new Exported(lines, role)
  run({ type: 'opened' }, start)
  for (const line of lines) {
    while (nextTickMs(state) <= line.t) run({ type: 'tick' }, nextTickMs(state))
    if (line.status) result.recordedEnd ??= line.status
    if (!line.message) continue
    if (line.from !== role) {
      run({ type: 'message', message: line.message }, line.t)
      continue
    }
    result.theirs.push(describe(line.message))
    if (line.message.Payload?.$case === 'terminated') run({ type: 'terminate' }, line.t)
    const offer = exported.after(line.message)
    if (offer) run({ type: 'offer', offer }, line.t)
  }
  result.state = state
  return result
}

function localityOf(locality: { Region: string; Zone: string } | undefined): { region: string; zone: string } | undefined {
  return locality && { region: locality.Region, zone: locality.Zone }
}

/** The one byte sequence in which we differ on purpose: our Open says that we take digests (wire/freshness.ts). */
export function withoutMark(message: ReplicationMessage): ReplicationMessage {
  if (message.Payload?.$case !== 'open') return message
  const { _unknownFields: _mark, ...value } = message.Payload.value
  return { Payload: { $case: 'open', value } }
}

/** A message as a line of text without its nonce, which counts in the order of sending. */
function describe(message: ReplicationMessage): string {
  const payload = message.Payload
  if (payload?.$case !== 'response') return Buffer.from(ReplicationMessage.encode(message).finish()).toString()
  const { ResourceURL: url, ResourceID: id, Resource: resource } = payload.value
  return `${url} ${id} ${resource?.value.toString('hex')}`
}

/** What the replaced side exported, as it was at each of its messages. */
class Exported {
  readonly #services = new Map<string, Offered>()
  #list: Offered | undefined
  #names: string[] = []
  #bundle: Offered | undefined
  #addresses: Offered | undefined

  constructor(lines: Line[], role: Role) {
    const list = lines.find(line => line.from === role && responseOf(line.message)?.ResourceURL === typeUrls.list)
    if (list) this.#take(list.message!)
  }

  after(message: ReplicationMessage): Offer | undefined {
    if (!responseOf(message)) return undefined
    this.#take(message)
    return {
      names: this.#names,
      list: this.#list ?? { value: new Uint8Array(0) },
      services: this.#services,
      ...(this.#bundle && { bundle: this.#bundle }),
      ...(this.#addresses && { addresses: this.#addresses }),
    }
  }

  #take(message: ReplicationMessage): void {
    const { ResourceURL: url, ResourceID: id, Resource: resource } = responseOf(message)!
    const value = resource!.value
    const offered = { value }
    if (url === typeUrls.list) {
      this.#list = offered
      this.#names = ExportedServiceList.decode(value).Services
    } else if (url === typeUrls.bundle) this.#bundle = offered
    else if (url === typeUrls.addresses) this.#addresses = offered
    else if (value.length === 0 && id.endsWith(sidecarSuffix) && this.#services.has(id)) this.#services.delete(id)
    else this.#services.set(id, offered)
  }
}

function responseOf(message: ReplicationMessage | undefined) {
  return message?.Payload?.$case === 'response' ? message.Payload.value : undefined
}
