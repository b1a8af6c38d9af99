/** What schemas of several kinds of config entries have in common. Each is the form of one of Consul's own structs. */
import * as z from 'zod'
import { duration } from '../lib/shape.ts'

export const opaque = z.record(z.string(), z.unknown())

/** Every entry has them; the store sets the indexes. */
export const indexes = {
  meta: z.record(z.string(), z.string()).optional(),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
}

/** Exactly one test of a header's value; `invert` turns it (spec/data-plane.md 7.6, 9.4). */
export const HeaderMatch = z.object({
  name: z.string().default(''),
  present: z.boolean().optional(),
  exact: z.string().optional(),
  prefix: z.string().optional(),
  suffix: z.string().optional(),
  regex: z.string().optional(),
  invert: z.boolean().optional(),
})
export type HeaderMatch = z.infer<typeof HeaderMatch>

export const HeaderModifiers = z.object({
  add: z.record(z.string(), z.string()).optional(),
  set: z.record(z.string(), z.string()).optional(),
  remove: z.array(z.string()).optional(),
})
export type HeaderModifiers = z.infer<typeof HeaderModifiers>

export const hashPolicy = z.object({
  field: z.string().optional(),
  fieldValue: z.string().optional(),
  cookieConfig: z
    .object({ session: z.boolean().optional(), ttlMs: duration('TTL', 'nanoseconds').optional(), path: z.string().optional() })
    .optional(),
  sourceIp: z.boolean().optional(),
  terminal: z.boolean().optional(),
})

export const LoadBalancer = z.object({
  policy: z.string().optional(),
  ringHashConfig: z.object({ minimumRingSize: z.number().int().optional(), maximumRingSize: z.number().int().optional() }).optional(),
  leastRequestConfig: z.object({ choiceCount: z.number().int().optional() }).optional(),
  hashPolicies: z.array(hashPolicy).optional(),
})
export type LoadBalancer = z.infer<typeof LoadBalancer>
