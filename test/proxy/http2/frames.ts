/** A client that speaks HTTP/2 frame by frame, so that it can break every rule. Header blocks are literals without a table or Huffman code. */
import { connect, type Socket } from 'node:net'

export const frames = {
  data: 0,
  headers: 1,
  priority: 2,
  rst: 3,
  settings: 4,
  push: 5,
  ping: 6,
  goaway: 7,
  window: 8,
  continuation: 9,
} as const
export const endStream = 0x1
export const endHeaders = 0x4

export function frame(type: number, flags: number, stream: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const head = Buffer.alloc(9)
  head.writeUIntBE(payload.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(stream, 5)
  return Buffer.concat([head, payload])
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** Literal fields, never indexed (RFC 7541 6.2.3). */
export function block(fields: Fields): Buffer {
  return Buffer.concat(fields.flatMap(([name, value]) => [Buffer.from([0x10]), text(name), text(value)]))
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value, 'latin1')
  const length: number[] = []
  if (bytes.length < 127) length.push(bytes.length)
  else {
    length.push(127)
    let rest = bytes.length - 127
    while (rest >= 128) {
      length.push((rest % 128) + 128)
      rest = Math.floor(rest / 128)
    }
    length.push(rest)
  }
  return Buffer.concat([Buffer.from(length), bytes])
}

type Fields = readonly (readonly [string, string])[]

export const request = (path = '/', more: Fields = [], method = 'GET', pseudo: Fields = []) =>
  block([[':method', method], [':scheme', 'http'], [':authority', 'api'], [':path', path], ...pseudo, ...more])

export interface Heard {
  type: number
  flags: number
  stream: number
  payload: Buffer
}

export class RawClient {
  readonly socket: Socket
  readonly heard: Heard[] = []
  closed = false
  /** What the other side's socket said, beyond frames. */
  bytes = 0
  #rest: Buffer = Buffer.alloc(0)

  constructor(port: number, options: { preface?: boolean } = {}) {
    this.socket = connect({ port, host: '127.0.0.1' })
    this.socket.on('error', () => {})
    this.socket.on('close', () => {
      this.closed = true
    })
    this.socket.on('data', (chunk: Buffer) => this.#take(chunk))
    if (options.preface !== false)
      this.socket.write(Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(frames.settings, 0, 0)]))
  }

  send(...parts: Buffer[]): void {
    if (!this.closed && this.socket.writable) this.socket.write(Buffer.concat(parts))
  }

  /** The error code of the GOAWAY that came, if one did. */
  get goaway(): number | undefined {
    return this.heard.find(each => each.type === frames.goaway)?.payload.readUInt32BE(4)
  }

  /** The code with which a stream was reset. */
  reset(stream: number): number | undefined {
    return this.heard.find(each => each.type === frames.rst && each.stream === stream)?.payload.readUInt32BE(0)
  }

  #take(chunk: Buffer): void {
    this.bytes += chunk.length
    let rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk])
    while (rest.length >= 9) {
      const length = rest.readUIntBE(0, 3)
      if (rest.length < 9 + length) break
      const heard = { type: rest[3]!, flags: rest[4]!, stream: rest.readUInt32BE(5), payload: rest.subarray(9, 9 + length) }
      this.heard.push(heard)
      rest = rest.subarray(9 + length)
      if (heard.type === frames.settings && (heard.flags & 1) === 0) this.send(frame(frames.settings, 1, 0))
    }
    this.#rest = rest
  }
}
