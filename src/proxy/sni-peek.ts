/**
 * Reads the server name out of a ClientHello that is still arriving (RFC 8446 4.1.2, RFC 6066 3), for a gateway that never takes
 * part in the handshake. Strict: what is not exactly one well-formed ClientHello has no name. Nothing here allocates by a length
 * that the peer states, and it never reads beyond `maxHelloBytes`.
 */

/** A ClientHello with post-quantum key shares and an ECH extension is under 3 KiB; Envoy's own limit is 16 KiB. */
export const maxHelloBytes = 16_384
/** Records that one ClientHello may be cut into. */
const maxFragments = 64

export type Peek =
  | { state: 'more' }
  /** `sni` is in lower case. */
  | { state: 'done'; sni: string }
  | { state: 'refused'; reason: 'not-tls' | 'malformed' | 'too-long' | 'no-server-name' }

const more: Peek = { state: 'more' }
const notTls: Peek = { state: 'refused', reason: 'not-tls' }
const malformed: Peek = { state: 'refused', reason: 'malformed' }
const tooLong: Peek = { state: 'refused', reason: 'too-long' }
const noServerName: Peek = { state: 'refused', reason: 'no-server-name' }

/** Looks at everything received so far. */
export function peekServerName(bytes: Buffer): Peek {
  const hello = handshakeMessage(bytes)
  return Buffer.isBuffer(hello) ? serverName(hello) : hello
}

/** The body of the first handshake message, put together from its records (RFC 8446 5.1). */
function handshakeMessage(bytes: Buffer): Buffer | Peek {
  const fragments: Buffer[] = []
  let gathered = 0
  let wanted = 0
  let at = 0
  for (let count = 0; count < maxFragments; count += 1) {
    // Content type handshake, legacy version 3.x: judged as soon as each byte is there.
    if (bytes.length > at && bytes[at] !== 22) return at === 0 ? notTls : malformed
    if (bytes.length > at + 1 && bytes[at + 1] !== 3) return at === 0 ? notTls : malformed
    if (bytes.length < at + 5) return bytes.length >= maxHelloBytes ? tooLong : more
    const length = bytes.readUInt16BE(at + 3)
    if (length === 0 || length > 16_384) return malformed
    const fragment = bytes.subarray(at + 5, at + 5 + length)
    fragments.push(fragment)
    gathered += fragment.length
    if (wanted === 0 && gathered >= 4) {
      const head = Buffer.concat(fragments.map(each => each.subarray(0, 4)))
      if (head[0] !== 1) return malformed
      wanted = 4 + head.readUIntBE(1, 3)
      if (wanted > maxHelloBytes) return tooLong
    }
    // Bytes after the hello in the same flight cannot be: the client waits for the server's answer.
    if (wanted > 0 && gathered > wanted) return malformed
    if (wanted > 0 && gathered === wanted) {
      if (fragment.length < length || bytes.length > at + 5 + length) return malformed
      return fragments.length === 1 ? fragments[0]!.subarray(4) : Buffer.concat(fragments).subarray(4)
    }
    if (fragment.length < length) return bytes.length >= maxHelloBytes ? tooLong : more
    at += 5 + length
  }
  return malformed
}

/** Walks one ClientHello to its server_name extension. */
function serverName(hello: Buffer): Peek {
  const reader = new Reader(hello)
  // legacy_version 3.x, random, then the three vectors that come before the extensions.
  const version = reader.take(2)
  if (version?.[0] !== 3 || !reader.take(32)) return malformed
  const session = reader.vector(1)
  const ciphers = reader.vector(2)
  const compressions = reader.vector(1)
  if (!session || session.length > 32 || !ciphers || ciphers.length < 2 || ciphers.length % 2 !== 0 || !compressions?.length)
    return malformed
  if (reader.left === 0) return noServerName
  const extensions = reader.vector(2)
  if (!extensions || reader.left !== 0) return malformed
  const list = new Reader(extensions)
  const seen = new Set<number>()
  let name: Buffer | undefined
  while (list.left > 0) {
    const type = list.take(2)?.readUInt16BE(0)
    const body = list.vector(2)
    if (type === undefined || !body || seen.has(type)) return malformed
    seen.add(type)
    if (type === 0) name = body
  }
  return name ? hostName(name) : noServerName
}

/** Exactly one host_name entry (RFC 6066 3: no more than one of a type), in characters that a name of a service can have. */
function hostName(extension: Buffer): Peek {
  const outer = new Reader(extension)
  const list = outer.vector(2)
  if (!list || outer.left !== 0) return malformed
  const reader = new Reader(list)
  const type = reader.take(1)
  const name = reader.vector(2)
  if (type?.[0] !== 0 || !name || reader.left !== 0 || name.length === 0 || name.length > 1023) return malformed
  const sni = name.toString('latin1')
  return /^[A-Za-z0-9._~-]+$/.test(sni) ? { state: 'done', sni: sni.toLowerCase() } : malformed
}

/** A cursor that never leaves its buffer: whatever does not fit is undefined. */
class Reader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  take(count: number): Buffer | undefined {
    if (count > this.left) return undefined
    this.#at += count
    return this.#bytes.subarray(this.#at - count, this.#at)
  }

  /** A vector with its length before it in `width` bytes. */
  vector(width: 1 | 2): Buffer | undefined {
    const length = this.take(width)?.readUIntBE(0, width)
    return length === undefined ? undefined : this.take(length)
  }
}
