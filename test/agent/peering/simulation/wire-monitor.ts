/**
 * What holds for every message of every stream, whatever the clusters do: no message that a real peer would refuse for its size,
 * nonces counted from 1, one answer at most for each, and only for what has arrived (spec/peering-wire.md 5.3, 5.6).
 */
import type { ReplicationMessage } from '../../../../src/wire/gen/peerstream.ts'
import { messageLimits, typeUrls } from '../../../../src/wire/peer-stream.ts'
import type { Passing, Side, Stream } from './network.ts'

/** A resource that waits for room on the stream waits in its latest state alone: more than this is never handed over. */
const maxWaitingBytes = 1024 * 1024 + messageLimits.sent

interface OfStream {
  nonces: Record<Side, number>
  /** Resources that arrived and are unanswered, by the side that sent them: nonce to type. */
  owed: Record<Side, Map<string, string>>
  subscribed: Record<Side, Set<string>>
}

export class WireMonitor {
  readonly #violate: (what: string) => void
  readonly #streams = new WeakMap<Stream, OfStream>()
  messages = 0
  largestBytes = 0

  constructor(violate: (what: string) => void) {
    this.#violate = violate
  }

  sent({ stream, from, message }: Passing, bytes: number, waitingBytes: number): void {
    this.messages += 1
    this.largestBytes = Math.max(this.largestBytes, bytes)
    const { cluster } = stream.hosts[from]
    if (bytes > messageLimits.sent) this.#violate(`${cluster} sends a message of ${bytes} bytes`)
    if (waitingBytes > maxWaitingBytes) this.#violate(`${cluster} lets ${waitingBytes} bytes wait for a slow reader`)
    const payload = message.Payload
    const known = this.#of(stream)
    if (payload?.$case === 'response') {
      known.nonces[from] += 1
      const expected = known.nonces[from].toString(16).padStart(8, '0')
      if (payload.value.Nonce !== expected) this.#violate(`${cluster} sends nonce ${payload.value.Nonce}, not ${expected}`)
    } else if (payload?.$case === 'request') {
      this.#answered(known, stream, from, payload.value.ResourceURL, payload.value.ResponseNonce)
    }
  }

  delivered({ stream, from, message }: Passing): void {
    const payload = message.Payload
    if (payload?.$case !== 'response') return
    this.#of(stream).owed[from].set(payload.value.Nonce, payload.value.ResourceURL)
  }

  #answered(known: OfStream, stream: Stream, from: Side, url: string, nonce: string): void {
    const { cluster } = stream.hosts[from]
    const owed = known.owed[from === 'dialer' ? 'acceptor' : 'dialer']
    if (!known.subscribed[from].has(url)) {
      if (nonce !== '') this.#violate(`${cluster} answers ${url} before it subscribed`)
      known.subscribed[from].add(url)
    } else if (owed.get(nonce) !== url) {
      this.#violate(`${cluster} answers nonce "${nonce}" of ${url}, which it never got or has answered`)
    } else owed.delete(nonce)
  }

  #of(stream: Stream): OfStream {
    const known = this.#streams.get(stream)
    if (known) return known
    const made: OfStream = {
      nonces: { dialer: 0, acceptor: 0 },
      owed: { dialer: new Map(), acceptor: new Map() },
      subscribed: { dialer: new Set(), acceptor: new Set() },
    }
    this.#streams.set(stream, made)
    return made
  }
}

/** One message as a line of a trace. */
export function describe({ Payload: payload }: ReplicationMessage): string {
  if (payload?.$case === 'response') {
    const { ResourceURL: url, ResourceID: id, Nonce: nonce, Resource: resource } = payload.value
    // How long a bundle is, is the certificates' chance.
    const length = url === typeUrls.service ? ` ${resource?.value.length ?? 'no'} bytes` : ''
    return `${shortUrl(url)} ${id} ${nonce}${length}`
  }
  if (payload?.$case === 'request') {
    const { ResourceURL: url, ResponseNonce: nonce, Error: error } = payload.value
    if (nonce === '') return `subscribe ${shortUrl(url)}`
    return error ? `nack ${shortUrl(url)} ${nonce} ${error.message}` : `ack ${shortUrl(url)} ${nonce}`
  }
  return payload?.$case ?? 'nothing'
}

function shortUrl(url: string): string {
  return url.slice(url.lastIndexOf('.') + 1)
}
