/** What this program itself writes: whole replies, heads with the first bytes of their body, chunks. One write wherever the bytes are at hand. */
import type { ByteStream } from '../../lib/byte-stream.ts'
import { kept } from '../../lib/read-buffer.ts'
import { readLatin1 } from '../../lib/latin1.ts'

const phrases: Record<number, string> = {
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  408: 'Request Timeout',
  413: 'Content Too Large',
  414: 'URI Too Long',
  417: 'Expectation Failed',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  500: 'Internal Server Error',
  501: 'Not Implemented',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
  505: 'HTTP Version Not Supported',
}

/** A whole response of our own. `connection` is '' or one `connection: …` line; `headers` is flat. For HEAD the body is left out. */
export function reply(status: number, body: string, connection: string, head: boolean, headers?: readonly string[]): string {
  let more = connection
  if (headers !== undefined) for (let i = 0; i < headers.length; i += 2) more += `${headers[i]!}: ${headers[i + 1]!}\r\n`
  const length = Buffer.byteLength(body, 'latin1')
  return `HTTP/1.1 ${status} ${phrases[status] ?? ''}\r\ncontent-length: ${length}\r\ncontent-type: text/plain\r\n${more}\r\n${head ? '' : body}`
}

/** Envoy's text for a stream that broke before a response. */
export function resetText(reset: string): string {
  return `upstream connect error or disconnect/reset before headers. reset reason: ${reset}`
}

/** Writes a head and the body bytes [from, to). Up to `coalesce` bytes are copied behind the head, which is cheaper than a second buffer in a write. */
export function writeHead(stream: ByteStream, head: string, buffer: Buffer, from: number, to: number, coalesce: number): boolean {
  if (to === from) return stream.write(head, 'latin1')
  if (to - from <= coalesce) return stream.write(head + readLatin1(buffer, from, to), 'latin1')
  stream.cork()
  stream.write(head, 'latin1')
  const more = stream.write(part(stream, buffer, from, to))
  stream.uncork()
  return more
}

/** Writes one chunk of a chunked body. */
export function writeChunk(stream: ByteStream, buffer: Buffer, from: number, to: number): boolean {
  stream.cork()
  stream.write(`${(to - from).toString(16)}\r\n`, 'latin1')
  stream.write(part(stream, buffer, from, to))
  const more = stream.write('\r\n', 'latin1')
  stream.uncork()
  return more
}

/** [from, to) of a buffer, to be written to that stream. */
export function part(stream: ByteStream, buffer: Buffer, from: number, to: number): Buffer {
  const bytes = from === 0 && to === buffer.length ? buffer : buffer.subarray(from, to)
  return stream.copies === true ? bytes : kept(bytes)
}
