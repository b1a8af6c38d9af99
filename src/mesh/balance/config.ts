/**
 * How a proxy uses one upstream: the part of an `upstream` resource that says how to choose among endpoints, when to leave one out, how
 * much may be under way and what is tried again. Each has a default, so that a resource of an older agent still means something.
 */
import * as z from 'zod'
import { Locality } from '../node.ts'

/** Consul's ChoiceCount; Envoy's default, and a bound on what one pick may cost. */
export const choiceLimits = { least: 2, most: 16 } as const

export const ringLimits = {
  /** Envoy's default and bound for what is asked for. */
  minimum: 1024,
  maximum: 8_388_608,
  /** What is laid out at most, whatever is asked for: a ring is laid out whenever an endpoint changes, between two requests. */
  places: 65_536,
} as const

/** What a request is hashed by; the first that says `terminal` and finds something ends the list. */
export const HashPolicy = z.object({
  field: z.enum(['header', 'cookie', 'query_parameter', 'source_ip']),
  /** The name of the header, cookie or parameter. */
  name: z.string().default(''),
  terminal: z.boolean().default(false),
  /** A cookie that the proxy sets where the caller brings none; `ttlMs` 0 is one for the session. */
  generate: z.object({ ttlMs: z.number(), path: z.string() }).optional(),
})
export type HashPolicy = z.infer<typeof HashPolicy>

export const balancePolicies = ['round_robin', 'random', 'least_request', 'peak_ewma', 'ring_hash', 'maglev'] as const

export const Balance = z.object({
  policy: z.enum(balancePolicies).default('round_robin'),
  choiceCount: z.number().int().default(choiceLimits.least),
  minimumRingSize: z.number().int().default(ringLimits.minimum),
  maximumRingSize: z.number().int().default(ringLimits.maximum),
  hashPolicies: z.array(HashPolicy).default([]),
  slowStartMs: z.number().default(0),
  /** Where the caller is: endpoints near it come first. Absent: all are alike. */
  near: Locality.optional(),
})
export type Balance = z.infer<typeof Balance>

/** Consul's UpstreamConfig.Limits; unset is Envoy's 1024. */
export const CircuitLimits = z.object({
  maxConnections: z.number().int().default(1024),
  maxPendingRequests: z.number().int().default(1024),
  maxConcurrentRequests: z.number().int().default(1024),
})
export type CircuitLimits = z.infer<typeof CircuitLimits>

/** Consul's PassiveHealthCheck, about what apps answer; that an address cannot be reached is judged apart (see outlier.ts). */
export const OutlierLimits = z.object({
  /** Ejects at all. */
  enabled: z.boolean().default(true),
  intervalMs: z.number().default(10_000),
  /** Answers of 5xx in a row. */
  maxFailures: z.number().int().default(5),
  enforcingPercent: z.number().int().default(100),
  maxEjectionPercent: z.number().int().default(10),
  baseEjectionMs: z.number().default(30_000),
  /** With fewer than this share left, what was answered ejects nobody. */
  panicPercent: z.number().int().default(50),
})
export type OutlierLimits = z.infer<typeof OutlierLimits>

export const RetryLimits = z.object({
  /** Tries after the first one. */
  retries: z.number().int().default(1),
  /** A try without an answer is given up after this; 0 is never. */
  perTryMs: z.number().default(0),
  /** Answers that are tried again, where the request may be. */
  statuses: z.array(z.number().int()).default([]),
  /** Retries under way at a time, as a share of the requests under way; and how many there may always be. */
  budgetPercent: z.number().default(20),
  budgetMinimum: z.number().int().default(3),
})
export type RetryLimits = z.infer<typeof RetryLimits>

export const defaultBalance = Balance.parse({})
export const defaultCircuitLimits = CircuitLimits.parse({})
export const defaultOutlierLimits = OutlierLimits.parse({})
export const defaultRetryLimits = RetryLimits.parse({})
