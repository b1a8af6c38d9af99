/**
 * Who is at the other end of a TLS connection. A Permit is made once per connection and is the only thing that requests are judged
 * by: it exists only when a path from the presented leaf to a root in the bundle of the trust domain of the leaf's single URI SAN
 * holds by signature, validity and CA flag of every issuer. Node's own check is against the union of all roots, with which a leaf
 * signed by peer B that claims peer A's trust domain passes; this one is what keeps peers apart (DESIGN 6, data-plane.md 2.5).
 */
import { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { LRUCache } from 'lru-cache'
import { parseSpiffeId, trustDomainOf, type Identity } from '../mesh/spiffe.ts'

export interface Permit {
  /** The SPIFFE id, byte for byte as in the certificate. */
  uri: string
  trustDomain: string
  /** Undefined for a path that is no form of Consul's: such a caller is known, but nothing is ever granted to it. */
  identity: Identity | undefined
  /** As presented, leaf first. */
  chain: X509Certificate[]
  /** Wall clock at which the first certificate of the path that holds ends: from then on the permit is none. */
  validUntilMs: number
}

/** Certificates beyond the leaf that are looked at; a longer chain is refused. */
const maxChain = 8
/** Work that one chain may cause, in signature checks. */
const maxChecks = 64

/** Parsed roots: the same PEM arrives with every plan. */
const parsed = new LRUCache<string, X509Certificate>({ max: 1024 })

/** Reads the PEM certificates of a bundle; text that is no certificate is left out, so it can vouch for nobody. */
export function readBundle(pems: readonly string[]): X509Certificate[] {
  const certificates: X509Certificate[] = []
  for (const pem of pems) {
    for (const block of pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []) {
      const known = parsed.get(block)
      if (known) {
        certificates.push(known)
        continue
      }
      try {
        const certificate = new X509Certificate(block)
        parsed.set(block, certificate)
        certificates.push(certificate)
      } catch {
        // Not a certificate.
      }
    }
  }
  return certificates
}

const chains = new WeakMap<TLSSocket, X509Certificate[]>()

/** The chain as the peer sent it, leaf first; empty when it sent none or too many. */
export function presentedChain(socket: TLSSocket): X509Certificate[] {
  // Node 20 takes the chain apart while handing it out: asked again, a connection has lost it.
  const known = chains.get(socket)
  if (known) return known
  const chain: X509Certificate[] = []
  let next = socket.getPeerX509Certificate()
  while (next && chain.length <= maxChain) {
    chain.push(next)
    next = next.issuerCertificate
  }
  if (chain.length > maxChain) chain.length = 0
  chains.set(socket, chain)
  return chain
}

/** What ends a field or an element of X-Forwarded-Client-Cert, and what is in no URI: a name with these would be read as another there. */
const ambiguous = /[^!-~]|[,;"]/

/** The single URI SAN of a leaf; undefined when there is none, more than one, an ambiguous one, or any name that Node had to quote. DNS and IP names beside it are ignored. */
export function uriOf(leaf: X509Certificate): string | undefined {
  const text = leaf.subjectAltName
  if (text === undefined || text.includes('"')) return undefined
  const uris = text.split(', ').filter(name => name.startsWith('URI:'))
  return uris.length === 1 && !ambiguous.test(uris[0]!) ? uris[0]!.slice(4) : undefined
}

/** The bundle of a trust domain that may come in, if it may. */
export type RootsOf = (trustDomain: string) => readonly X509Certificate[] | undefined

/** Makes the permit of a chain, or says why there is none. */
export function permitOf(
  chain: X509Certificate[],
  rootsOf: RootsOf,
  nowMs: number,
): { ok: true; permit: Permit } | { ok: false; reason: 'no-certificate' | 'no-identity' | 'unknown-trust-domain' | 'untrusted' } {
  const leaf = chain[0]
  if (!leaf) return { ok: false, reason: 'no-certificate' }
  const uri = uriOf(leaf)
  const trustDomain = uri === undefined ? undefined : trustDomainOf(uri)
  if (uri === undefined || trustDomain === undefined || leaf.ca) return { ok: false, reason: 'no-identity' }
  const roots = rootsOf(trustDomain)
  if (!roots) return { ok: false, reason: 'unknown-trust-domain' }
  const validUntilMs = chainEnd(chain, roots, nowMs)
  if (validUntilMs === undefined) return { ok: false, reason: 'untrusted' }
  return { ok: true, permit: { uri, trustDomain, identity: parseSpiffeId(uri), chain, validUntilMs } }
}

/** True when some path from the leaf over presented intermediates ends in one of `roots`, every step signed, in date and by a CA. */
export function chainHolds(chain: readonly X509Certificate[], roots: readonly X509Certificate[], nowMs: number): boolean {
  return chainEnd(chain, roots, nowMs) !== undefined
}

/** When the path that holds ends, by the first of its certificates to do so; undefined when none holds. */
function chainEnd(chain: readonly X509Certificate[], roots: readonly X509Certificate[], nowMs: number): number | undefined {
  const leaf = chain[0]
  if (!leaf || !inDate(leaf, nowMs)) return undefined
  const issuers = chain.slice(1)
  const used = new Set<X509Certificate>()
  let checks = 0
  const signedBy = (certificate: X509Certificate, issuer: X509Certificate): boolean => {
    if (!issuer.ca || !inDate(issuer, nowMs) || !certificate.checkIssued(issuer)) return false
    checks += 1
    if (checks > maxChecks) return false
    try {
      return certificate.verify(issuer.publicKey)
    } catch {
      // A key of a kind that nobody knows, in a certificate that anybody may send along: it signed nothing.
      return false
    }
  }
  const reaches = (certificate: X509Certificate): number | undefined => {
    const ownEnd = Date.parse(certificate.validTo)
    const root = roots.find(each => signedBy(certificate, each))
    if (root) return Math.min(ownEnd, Date.parse(root.validTo))
    for (const issuer of issuers) {
      if (used.has(issuer) || !signedBy(certificate, issuer)) continue
      used.add(issuer)
      const end = reaches(issuer)
      if (end !== undefined) return Math.min(ownEnd, end)
    }
    return undefined
  }
  return reaches(leaf)
}

function inDate(certificate: X509Certificate, nowMs: number): boolean {
  return Date.parse(certificate.validFrom) <= nowMs && nowMs <= Date.parse(certificate.validTo)
}
