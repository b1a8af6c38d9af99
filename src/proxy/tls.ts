/**
 * TLS contexts of a proxy. They are built when a plan or a leaf arrives and then only looked up, because building one with 200
 * roots blocks for 27 ms. Sessions are never resumed: a resumed session would outlive a root that was removed.
 */
import { constants, createHash } from 'node:crypto'
import { createSecureContext, DEFAULT_CIPHERS, type SecureContext, type SecureContextOptions } from 'node:tls'
import { LRUCache } from 'lru-cache'
import { isHttp2 } from '../mesh/protocol.ts'
import { ownHttp2 } from './http2/own-alpn.ts'
import { readBundle } from './permit.ts'

/** A leaf, its key and what it says. Never logged, never shown. */
export interface ProxyIdentity {
  uri: string
  /** Leaf, then intermediates. */
  certPem: string
  keyPem: string
  /** SHA-256 of the leaf: what sessions are tied to. */
  generation: string
  validAfterMs: number
  validBeforeMs: number
}

/** Consul's Envoys offer TLS 1.2 only when they are clients, so it must stay (data-plane.md 1.2). */
const minVersion = 'TLSv1.2'

/** AES-128 first: it is as safe here and has ten rounds where AES-256 has fourteen, which long bodies feel. */
const ciphers = `TLS_AES_128_GCM_SHA256:${DEFAULT_CIPHERS}`

/** How one side presents itself and whom it would believe at all; the permit decides afterwards. */
export function contextOptions(identity: ProxyIdentity, rootPems: readonly string[]): SecureContextOptions {
  return {
    cert: identity.certPem,
    key: identity.keyPem,
    // One bad certificate in a peer's bundle must not cost the others theirs.
    ca: readBundle(rootPems).map(root => root.toString()),
    minVersion,
    ciphers,
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  }
}

/** Names what a context would be made of, so that an equal one is not made again. */
export function contextKey(identity: ProxyIdentity, rootPems: readonly string[]): string {
  const hash = createHash('sha256').update(identity.generation)
  for (const pem of rootPems) hash.update('\0').update(pem)
  return hash.digest('hex')
}

/** Client contexts, shared by upstreams of the same trust domain. */
export class ClientContexts {
  readonly #contexts = new LRUCache<string, SecureContext>({ max: 256 })

  get(identity: ProxyIdentity, rootPems: readonly string[]): { key: string; context: SecureContext } {
    const key = contextKey(identity, rootPems)
    let context = this.#contexts.get(key)
    if (!context) {
      context = createSecureContext(contextOptions(identity, rootPems))
      this.#contexts.set(key, context)
    }
    return { key, context }
  }
}

/** Streams of requests multiplexed over one connection (mux/), between two of us. */
export const muxProtocol = 'isthmus-mux/1'

/**
 * The server's answer to a client's ALPN offer. Returning nothing, as Node does when the lists do not overlap, would abort the
 * handshake and with it every Envoy; so the client's first offer is the last resort (data-plane.md 3.2).
 */
export function chooseAlpn(offered: readonly string[], protocol: string): string | undefined {
  if (protocol === 'http' && offered.includes(muxProtocol)) return muxProtocol
  if (isHttp2(protocol) && offered.includes(ownHttp2)) return ownHttp2
  if (isHttp2(protocol) && offered.includes('h2')) return 'h2'
  if (offered.includes('http/1.1')) return 'http/1.1'
  if (offered.includes('h2')) return 'h2'
  return offered[0]
}
