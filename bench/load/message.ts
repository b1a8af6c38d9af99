/**
 * Where an HTTP/1.1 response ends (RFC 9112 section 6.3): just enough to reuse a connection, and cheap, because the load generator
 * must cost less than what it measures. Heads that repeat byte for byte, as they do under load, are read once.
 */

export interface Head {
  status: number
  /** The body's bytes; `chunked`, or `close` when only the end of the connection ends it. */
  length: number | 'chunked' | 'close'
  keepAlive: boolean
}

/** A longer head is an error. */
export const maxHeadBytes = 65_536
/** Of a chunk's size line. */
const maxChunkLineBytes = 1024

export function readHead(text: string, method: string): Head | string {
  const match = /^HTTP\/1\.([01]) (\d{3})[ \r]/.exec(text)
  if (!match) return `no HTTP/1.1 response: ${JSON.stringify(text.slice(0, 40))}`
  const status = Number(match[2])
  const connection = field(text, 'connection')?.toLowerCase() ?? ''
  const keepAlive = match[1] === '1' ? !connection.includes('close') : connection.includes('keep-alive')
  if (method === 'HEAD' || status === 204 || status === 304 || status < 200) return { status, length: 0, keepAlive }
  if (field(text, 'transfer-encoding')?.toLowerCase().endsWith('chunked')) return { status, length: 'chunked', keepAlive }
  const length = field(text, 'content-length')
  if (length === undefined) return { status, length: 'close', keepAlive: false }
  return /^\d{1,15}$/.test(length) ? { status, length: Number(length), keepAlive } : `content-length is ${length}`
}

function field(head: string, name: string): string | undefined {
  const lines = head.split('\r\n')
  const line = lines.find(each => each.slice(0, name.length + 1).toLowerCase() === `${name}:`)
  return line?.slice(name.length + 1).trim()
}

const noBytes: Buffer = Buffer.alloc(0)
const headEnd = Buffer.from('\r\n\r\n')

/** The responses of one connection, one after the other. */
export class ResponseReader {
  readonly #method: string
  #rest = noBytes
  #head: Head | undefined
  #left = 0
  #chunks: 'size' | 'data' | 'trailers' = 'size'
  #lastText = ''
  #lastHead: Head | undefined

  constructor(method: string) {
    this.#method = method
  }

  /** The response that these bytes end, undefined when they end none, and a text when they cannot be one. */
  push(bytes: Buffer): Head | string | undefined {
    let data = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes])
    this.#rest = noBytes
    while (this.#head === undefined) {
      const end = data.indexOf(headEnd)
      if (end === -1) {
        if (data.length > maxHeadBytes) return 'a head without an end'
        this.#rest = data
        return undefined
      }
      const head = this.#headOf(data.toString('latin1', 0, end + 2))
      if (typeof head === 'string') return head
      data = data.subarray(end + 4)
      if (head.status < 200 && head.status !== 101) continue
      this.#head = head
      this.#left = typeof head.length === 'number' ? head.length : 0
      this.#chunks = 'size'
    }
    return this.#body(this.#head, data)
  }

  /** The connection has ended: what that completes, if anything. */
  end(): Head | undefined {
    const head = this.#head?.length === 'close' ? this.#head : undefined
    this.#head = undefined
    return head
  }

  #headOf(text: string): Head | string {
    if (text === this.#lastText) return this.#lastHead!
    const head = readHead(text, this.#method)
    if (typeof head !== 'string') [this.#lastText, this.#lastHead] = [text, head]
    return head
  }

  #body(head: Head, data: Buffer): Head | string | undefined {
    if (head.length === 'close') return undefined
    if (head.length === 'chunked') return this.#chunked(head, data)
    if (data.length > this.#left) return 'bytes after the response'
    this.#left -= data.length
    return this.#left === 0 ? this.#done(head) : undefined
  }

  #chunked(head: Head, bytes: Buffer): Head | string | undefined {
    let data = bytes
    for (;;) {
      if (this.#chunks === 'data') {
        if (data.length < this.#left) {
          this.#left -= data.length
          return undefined
        }
        data = data.subarray(this.#left)
        this.#chunks = 'size'
      }
      const end = data.indexOf('\r\n')
      if (end === -1) {
        if (data.length > maxChunkLineBytes) return 'a chunk size without an end'
        this.#rest = data
        return undefined
      }
      const line = data.toString('latin1', 0, end)
      data = data.subarray(end + 2)
      if (this.#chunks === 'trailers') {
        if (line !== '') continue
        return data.length > 0 ? 'bytes after the response' : this.#done(head)
      }
      const size = /^([0-9A-Fa-f]{1,8})(?:;.*)?$/.exec(line)
      if (!size) return `a chunk size ${JSON.stringify(line.slice(0, 40))}`
      // With the line end behind the data.
      this.#left = Number.parseInt(size[1]!, 16) + 2
      this.#chunks = this.#left === 2 ? 'trailers' : 'data'
    }
  }

  #done(head: Head): Head {
    this.#head = undefined
    return head
  }
}
