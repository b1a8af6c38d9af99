/** What the tests of the multiplexer share: frames as a test writes and reads them, and a session over a connection that a test holds in its hand. */
import { Deadlines } from '../../../src/lib/deadlines.ts'
import { readUint32 } from '../../../src/lib/uint32.ts'
import { flag, frame, headerBytes, writeHeader } from '../../../src/proxy/mux/frames.ts'
import { MuxSession, type MuxOptions } from '../../../src/proxy/mux/session.ts'
import type { MuxStream } from '../../../src/proxy/mux/stream.ts'
import { FakeClock, settle } from '../../support/fake-clock.ts'
import { HandSocket } from '../../support/hand-socket.ts'

export const { syn, ack, fin, rst } = flag

/** The bytes of a frame; a number where it carries none. */
export function encode(type: number, flags: number, id: number, body: number | string | Buffer): Buffer {
  const data = typeof body === 'number' ? Buffer.alloc(0) : Buffer.from(body as string)
  const header = Buffer.alloc(headerBytes)
  writeHeader(header, 0, type, flags, id, typeof body === 'number' ? body : data.length)
  return Buffer.concat([header, data])
}
export const data = (flags: number, id: number, body: string | Buffer) => encode(frame.data, flags, id, body)
export const window = (flags: number, id: number, delta = 0) => encode(frame.window, flags, id, delta)
export const ping = (flags: number, value: number) => encode(frame.ping, flags, 0, value)
export const goAwayFrame = (code: number) => encode(frame.goAway, 0, 0, code)

export interface Frame {
  type: string
  flags: string
  id: number
  length: number
  body: Buffer
}

const typeNames = ['data', 'window', 'ping', 'goAway']

/** Whole frames in these bytes; throws where the end is not the end of a frame. */
export function decode(bytes: Buffer): Frame[] {
  const frames: Frame[] = []
  for (let at = 0; at < bytes.length;) {
    const type = bytes[at + 1]!
    const flags = bytes.readUInt16BE(at + 2)
    const length = readUint32(bytes, at + 8)
    const to = at + headerBytes + (type === frame.data ? length : 0)
    if (bytes[at] !== 0 || type > 3 || to > bytes.length) throw new Error(`no frame at ${at} of ${bytes.length}`)
    const names = Object.entries(flag).flatMap(([name, bit]) => ((flags & bit) === 0 ? [] : [name]))
    frames.push({
      type: typeNames[type]!,
      flags: names.join('+'),
      id: readUint32(bytes, at + 4),
      length,
      body: bytes.subarray(at + headerBytes, to),
    })
    at = to
  }
  return frames
}

/** A frame in a few characters: `data syn 1 "hello"`, `window fin 1 0`. */
export const brief = ({ type, flags, id, length, body }: Frame): string =>
  `${type} ${flags === '' ? '-' : flags} ${id} ${type === 'data' ? JSON.stringify(body.toString('latin1')) : length}`

export interface Hand {
  session: MuxSession
  socket: HandSocket
  clock: FakeClock
  deadlines: Deadlines
  /** Streams that the other side opened. */
  streams: MuxStream[]
  events: string[]
  /** What the other side says, in one read each. */
  hear: (...chunks: Buffer[]) => Promise<void>
  /** Frames said since the last look, once the turn is over. */
  said: () => Promise<string[]>
  frames: () => Promise<Frame[]>
}

export function hand(role: 'client' | 'server', options: Partial<MuxOptions> = {}): Hand {
  const socket = new HandSocket()
  const clock = new FakeClock()
  const deadlines = new Deadlines(clock)
  const streams: MuxStream[] = []
  const events: string[] = []
  const session = new MuxSession(socket, {
    role,
    deadlines,
    onGoAway: () => events.push('go away'),
    onClose: () => events.push('closed'),
    ...options,
    onStream: stream => {
      streams.push(stream)
      options.onStream?.(stream)
    },
  })
  const frames = async (): Promise<Frame[]> => {
    await settle()
    return decode(Buffer.concat(socket.written.splice(0)))
  }
  return {
    session,
    socket,
    clock,
    deadlines,
    streams,
    events,
    hear: (...chunks) => socket.hear(...chunks),
    frames,
    said: async () => (await frames()).map(brief),
  }
}

/** What a stream hands out, in order: text, `end`, `drain`, `close`. */
export function listen(stream: MuxStream): { log: string[]; text: () => string; bytes: () => number } {
  const log: string[] = []
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => {
    chunks.push(Buffer.from(chunk))
    if (log.at(-1) !== 'data') log.push('data')
  })
  for (const event of ['end', 'drain', 'close']) stream.on(event, () => log.push(event))
  return { log, text: () => Buffer.concat(chunks).toString('latin1'), bytes: () => chunks.reduce((sum, { length }) => sum + length, 0) }
}
