/** Sessions: what holds a lock of the key-value store, and for how long (spec/http-api.md 11). */
import * as z from 'zod'
import { duration } from '../lib/shape.ts'

export const ServiceCheck = z.object({ id: z.string().default(''), namespace: z.string().default('') })

export const Session = z.object({
  id: z.string(),
  name: z.string().default(''),
  node: z.string(),
  /** After the session's end nobody gets its keys for so long. */
  lockDelayMs: duration('LockDelay', 'nanoseconds').default(0),
  /** What happens to its keys at its end: `release` or `delete`. */
  behavior: z.string().default('release'),
  /** As it was given; empty for a session that only its checks end. */
  ttl: z.string().default(''),
  nodeChecks: z.array(z.string()).default([]),
  serviceChecks: z.array(ServiceCheck).nullable().default(null),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
})
export type Session = z.infer<typeof Session>

export const sessionLimits = { minTtlMs: 10_000, maxTtlMs: 24 * 3_600_000, maxLockDelayMs: 60_000, defaultLockDelayMs: 15_000 } as const

/** Every check that keeps the session alive. */
export function checksOf(session: Pick<Session, 'nodeChecks' | 'serviceChecks'>): string[] {
  return [...session.nodeChecks, ...(session.serviceChecks ?? []).map(each => each.id)]
}
