/**
 * The secrets of a peering and the table that moves them (spec/peering-wire.md 4.1). An acceptor keeps only their digests: a secret
 * is shown once, in a token or in an answer, and only compared from then on. The old active secret stays good until the new
 * pending one is used, because a real dialer that established again comes back with the old one first.
 */
import { createHash, randomUUID, timingSafeEqual } from 'node:crypto'
import * as z from 'zod'
import { Locality } from '../../mesh/node.ts'

/** Digests, base64. */
export const AcceptorSecrets = z.object({
  role: z.literal('acceptor'),
  establishment: z.string().optional(),
  pending: z.string().optional(),
  active: z.string().optional(),
})
export type AcceptorSecrets = z.infer<typeof AcceptorSecrets>

/** What a dialer must keep in the clear to dial, and what of its token no API shows. */
export const DialerSecrets = z.object({
  role: z.literal('dialer'),
  /** Absent until the exchange succeeded; who has none does not dial. */
  stream: z.string().optional(),
  /** Roots of the token; good beside those of the trust bundle. Empty: plaintext. */
  tokenCa: z.array(z.string()),
  locality: Locality.optional(),
})
export type DialerSecrets = z.infer<typeof DialerSecrets>

export const PeeringSecrets = z.discriminatedUnion('role', [AcceptorSecrets, DialerSecrets])
export type PeeringSecrets = z.infer<typeof PeeringSecrets>

export function newSecret(): string {
  return randomUUID()
}

/** A new token: the secret of an older one that was not used is dead, streams are not disturbed. */
export function withToken(secrets: AcceptorSecrets | undefined, establishment: string): AcceptorSecrets {
  return { ...secrets, role: 'acceptor', establishment: digest(establishment) }
}

/** Spends the establishment secret on a new pending one; undefined when `offered` is not it. */
export function exchange(secrets: AcceptorSecrets | undefined, offered: string, pending: string): AcceptorSecrets | undefined {
  if (!secrets || !matches(secrets.establishment, offered)) return undefined
  return { role: 'acceptor', active: secrets.active, pending: digest(pending) }
}

/** Judges the secret of an Open; the secrets are new when the pending one was used and with it became the active one. */
export function authorize(secrets: AcceptorSecrets, offered: string): { secrets: AcceptorSecrets; promoted: boolean } | undefined {
  // Both comparisons always run, so that the time taken does not tell which one there was.
  const isPending = matches(secrets.pending, offered)
  const isActive = matches(secrets.active, offered)
  if (isPending) return { secrets: { role: 'acceptor', establishment: secrets.establishment, active: secrets.pending }, promoted: true }
  return isActive ? { secrets, promoted: false } : undefined
}

/** In constant time; nothing equals an absent or empty secret (4: a real acceptor once let empty equal empty). */
function matches(kept: string | undefined, offered: string): boolean {
  const actual = Buffer.from(digest(offered))
  const expected = Buffer.from(kept ?? digest(''))
  return expected.length === actual.length && timingSafeEqual(expected, actual) && kept !== undefined && offered !== ''
}

function digest(secret: string): string {
  return createHash('sha256').update(secret).digest('base64')
}
