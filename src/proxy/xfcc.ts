/**
 * X-Forwarded-Client-Cert, as Envoy writes and Consul reads it (data-plane.md 6): elements joined by `,`, fields by `;`, `By=`
 * first, `URI=` last and unquoted. Only what one of our own cluster's mesh gateways sent is ever read or passed on (the reading is
 * mesh/authorize's).
 */
import type { Permit } from './permit.ts'

export const xfccHeader = 'x-forwarded-client-cert'

/** One element that tells the app who the TLS peer is. Made once per connection. */
export function xfccElement(by: string, permit: Permit): string {
  const pems = permit.chain.map(certificate => encodePem(certificate.raw))
  const hash = permit.chain[0]!.fingerprint256.replaceAll(':', '').toLowerCase()
  return `By=${by};Hash=${hash};Cert="${pems[0]!}";Chain="${pems.join('')}";Subject="";URI=${permit.uri}`
}

/** All lines of the header as one list; undefined when there is none. */
export function xfccOf(headers: readonly string[]): string | undefined {
  let joined: string | undefined
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i] === xfccHeader) joined = joined === undefined ? headers[i + 1]! : `${joined},${headers[i + 1]!}`
  }
  return joined
}

/** PEM with a line of 64, percent-encoded as Envoy does: everything but letters, digits, `-`, `_`, `.` and `~`. */
function encodePem(der: Buffer): string {
  const body = der
    .toString('base64')
    .match(/.{1,64}/g)!
    .join('\n')
  return encodeURIComponent(`-----BEGIN CERTIFICATE-----\n${body}\n-----END CERTIFICATE-----\n`)
}
