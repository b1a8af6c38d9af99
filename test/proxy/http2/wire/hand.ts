/** A session over a connection that a test holds in its hand; what it says and what its owners hear, in a few characters. */
import { defaultHttp2Limits, type Http2Limits } from '../../../../src/proxy/http2/limits.ts'
import { HpackDecoder } from '../../../../src/proxy/http2/wire/hpack-decoder.ts'
import { Http2Session, type Head } from '../../../../src/proxy/http2/wire/session.ts'
import type { EndedBy, Http2Stream, StreamOwner } from '../../../../src/proxy/http2/wire/stream.ts'
import { settle } from '../../../support/fake-clock.ts'
import { HandSocket } from '../../../support/hand-socket.ts'
import { frame, frames, u32, type Heard } from '../frames.ts'

export const prefaceText = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n')

export const flags = { endStream: 1, ack: 1, endHeaders: 4, padded: 8, priority: 32 } as const

/** A SETTINGS frame. */
export const settings = (...parameters: (readonly [id: number, value: number])[]) =>
  frame(frames.settings, 0, 0, Buffer.concat(parameters.map(([id, value]) => Buffer.concat([Buffer.from([0, id]), u32(value)]))))
export const windowUpdate = (stream: number, delta: number) => frame(frames.window, 0, stream, u32(delta))
export const resetFrame = (stream: number, code: number) => frame(frames.rst, 0, stream, u32(code))
export const goawayFrame = (last: number, code = 0) => frame(frames.goaway, 0, 0, Buffer.concat([u32(last), u32(code)]))
export const dataFrame = (stream: number, body: string | Buffer, flag = 0) => frame(frames.data, flag, stream, Buffer.from(body as string))
/** Its payload: the length of the padding, the body, the padding. */
export const padded = (body: Buffer, padding: number) => Buffer.concat([Buffer.from([padding]), body, Buffer.alloc(padding)])

export function parse(bytes: Buffer): Heard[] {
  const heard: Heard[] = []
  for (let at = 0; at < bytes.length;) {
    const end = at + 9 + bytes.readUIntBE(at, 3)
    if (end > bytes.length) throw new Error(`half a frame at ${at} of ${bytes.length}`)
    heard.push({ type: bytes[at + 3]!, flags: bytes[at + 4]!, stream: bytes.readUInt32BE(at + 5), payload: bytes.subarray(at + 9, end) })
    at = end
  }
  return heard
}

const shown = (bytes: Buffer) => (bytes.length > 40 ? `<${bytes.length}>` : `"${bytes.toString('latin1')}"`)
const paired = (fields: readonly string[]) => fields.flatMap((name, i) => (i % 2 === 0 ? [`${name}=${fields[i + 1]}`] : []))

/** Reads what a session writes; keeps the table that its header lists need. */
export class Reader {
  readonly #decoder = new HpackDecoder(4096)

  brief({ type, flags: flag, stream, payload }: Heard): string {
    const end = (flag & flags.endStream) !== 0 ? ' end' : ''
    switch (type) {
      case frames.data:
        return `data ${stream} ${shown(payload)}${end}`
      case frames.headers:
        // Only what came in one frame.
        this.#decoder.decode(payload, 0, payload.length, { headerListBytes: Infinity, headerCount: Infinity })
        return `headers ${stream} ${paired(this.#decoder.fields).join(' ')}${end}`
      case frames.rst:
        return `reset ${stream} ${payload.readUInt32BE(0)}`
      case frames.window:
        return `window ${stream} ${payload.readUInt32BE(0)}`
      case frames.goaway:
        return `goaway ${payload.readUInt32BE(0)} ${payload.readUInt32BE(4)}`
      case frames.ping:
        return `ping${flag === 1 ? ' ack' : ''} ${payload.toString('hex')}`
      case frames.settings:
        return flag === 1 ? 'settings ack' : 'settings'
      default:
        return `type ${type}`
    }
  }
}

/** The owner of a stream: writes down what it hears, and is done with the bytes at once unless it is `slow`. */
export class Recorder implements StreamOwner {
  readonly log: string[] = []
  readonly chunks: Buffer[] = []
  stream!: Http2Stream
  slow = false
  /** How often `closed` was heard. */
  ends = 0
  onData: ((bytes: Buffer) => void) | undefined
  onSent: ((length: number) => void) | undefined

  headers(head: Head, end: boolean): void {
    this.#hear(`headers ${paired(head.fields).join(' ')}${end ? ' end' : ''}`)
  }

  data(bytes: Buffer, end: boolean): void {
    this.#hear(`data ${shown(bytes)}${end ? ' end' : ''}`)
    this.chunks.push(Buffer.from(bytes))
    if (!this.slow) this.stream.consumed(bytes.length)
    this.onData?.(bytes)
  }

  sent(length: number): void {
    this.#hear(`sent ${length}`)
    this.onSent?.(length)
  }

  closed(code: number, by: EndedBy): void {
    this.ends += 1
    this.log.push(this.ends > 1 ? 'closed AGAIN' : `closed ${code} ${by}`)
  }

  #hear(what: string): void {
    this.log.push(this.ends > 0 ? `AFTER ITS END ${what}` : what)
  }
}

/** What nobody but a test looks at. */
export interface Inside {
  held: number
  sendWindow: number
  receiveWindow: number
  waiting: Set<unknown>
  resets: Set<number>
  writer: { settings(parameters: readonly (readonly [number, number])[]): void; pending: number; congested: boolean }
}
export const inside = (session: Http2Session) => session as unknown as Inside

export interface Hand {
  session: Http2Session
  socket: HandSocket
  /** Owners of the streams that the other side opened, in their order. */
  owners: Recorder[]
  /** What the session says of itself. */
  events: string[]
  /** What the other side says, in one read each. */
  hear(...chunks: Buffer[]): Promise<void>
  /** Frames said since the last look, once the turn is over. */
  said(): Promise<string[]>
  /** At a client: a request of its own. */
  open(end?: boolean, fields?: string[]): Recorder
}

export const get = [':method', 'GET', ':scheme', 'http', ':authority', 'api', ':path', '/']

/** `onRequest`: what the owner of a request does first. */
export function hand(role: 'client' | 'server', limits: Partial<Http2Limits> = {}, onRequest?: (owner: Recorder) => void): Hand {
  const socket = new HandSocket()
  const owners: Recorder[] = []
  const events: string[] = []
  const reader = new Reader()
  const session: Http2Session = new Http2Session(
    socket,
    role,
    { ...defaultHttp2Limits, ...limits },
    {
      request: (stream, head, end) => {
        const owner = new Recorder()
        owner.stream = stream
        stream.owner = owner
        owners.push(owner)
        if (head.tooLarge !== 0) owner.log.push(`too large ${head.tooLarge}`)
        else if (end) owner.log.push('end')
        onRequest?.(owner)
      },
      allowed: count => events.push(`allowed ${count}`),
      // With its end it leaves as well.
      leaving: () => session.isClosed || events.push('leaving'),
      faulted: () => events.push('faulted'),
      flooded: () => events.push('flooded'),
      closed: () => events.push('closed'),
    },
  )
  return {
    session,
    socket,
    owners,
    events,
    hear: (...chunks) => socket.hear(...chunks),
    async said() {
      await settle()
      await settle()
      const bytes = Buffer.concat(socket.written.splice(0))
      const at = bytes.subarray(0, prefaceText.length).equals(prefaceText) ? prefaceText.length : 0
      return parse(bytes.subarray(at)).map(each => reader.brief(each))
    },
    open(end = false, fields = get) {
      const owner = new Recorder()
      owner.stream = session.request(fields, undefined, end, owner)!
      return owner
    },
  }
}

/** A session whose other side has said its preface. */
export async function started(...args: Parameters<typeof hand>): Promise<Hand> {
  const at = hand(...args)
  await at.hear(args[0] === 'server' ? Buffer.concat([prefaceText, settings()]) : settings())
  await at.said()
  at.events.length = 0
  return at
}
