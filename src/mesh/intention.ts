/**
 * Intentions as the API shows them: one object for each source of a service-intentions entry (spec/data-plane.md 7, http-api.md 9).
 * The entry is what is stored; nothing here decides about a request, which is mesh/authorize's.
 */
import * as z from 'zod'
import { Permission, type ServiceIntentions } from './intention-entry.ts'
import { compareText } from '../lib/order.ts'

export const Intention = z.object({
  /** Only those that were created with an id have dates. */
  createdAt: z.string().optional(),
  updatedAt: z.string().optional(),
  id: z.string().optional(),
  description: z.string().optional(),
  sourceNs: z.string().default('default').meta({ wire: 'SourceNS' }),
  sourceName: z.string().default(''),
  destinationNs: z.string().default('default').meta({ wire: 'DestinationNS' }),
  destinationName: z.string().default(''),
  sourcePeer: z.string().optional(),
  sourceType: z.string().default('consul'),
  action: z.string().optional(),
  permissions: z.array(Permission).optional(),
  meta: z.record(z.string(), z.string()).optional(),
  precedence: z.number().int().default(0),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
})
export type Intention = z.infer<typeof Intention>

/** 9 exact to exact, 8 `*` to exact, 6 exact to `*`, 5 `*` to `*`. A peer makes no difference. */
export function precedenceOf(source: string, destination: string): number {
  return (destination === '*' ? 6 : 9) - (source === '*' ? 1 : 0)
}

/** What matters more comes first; ties by peer, source and destination. */
export function compareIntentions(a: Intention, b: Intention): number {
  return (
    b.precedence - a.precedence ||
    compareText(a.sourcePeer ?? '', b.sourcePeer ?? '') ||
    compareText(a.sourceName, b.sourceName) ||
    compareText(a.destinationName, b.destinationName)
  )
}

/** The intentions of one entry, in its own order. */
export function intentionsOf(entry: ServiceIntentions): Intention[] {
  return entry.sources.map(source => ({
    createdAt: source.legacyCreateTime,
    updatedAt: source.legacyUpdateTime,
    id: source.legacyId,
    description: source.description,
    sourceNs: 'default',
    sourceName: source.name,
    destinationNs: 'default',
    destinationName: entry.name,
    sourcePeer: source.peer,
    sourceType: source.type,
    action: source.action,
    permissions: source.permissions,
    meta: entry.meta,
    precedence: source.precedence,
    createIndex: entry.createIndex,
    modifyIndex: entry.modifyIndex,
  }))
}

/** All intentions of all entries, by precedence. */
export function listIntentions(entries: readonly ServiceIntentions[]): Intention[] {
  return entries.flatMap(intentionsOf).sort(compareIntentions)
}

/** Every intention that can concern a service as destination or as source, by precedence. A source is one of our own cluster. */
export function matchIntentions(entries: readonly ServiceIntentions[], by: 'source' | 'destination', name: string): Intention[] {
  const isMatch = (value: string) => value === name || value === '*'
  return listIntentions(entries).filter(each =>
    by === 'destination' ? isMatch(each.destinationName) : !each.sourcePeer && isMatch(each.sourceName),
  )
}

/** The intention that decides between two of our own services; undefined leaves it to the default. */
export function decidingIntention(entries: readonly ServiceIntentions[], source: string, destination: string): Intention | undefined {
  return matchIntentions(entries, 'destination', destination).find(
    each => !each.sourcePeer && (each.sourceName === source || each.sourceName === '*'),
  )
}

/** `GET /v1/connect/intentions/check`: permissions of requests cannot be judged without one, and count as not allowed. */
export function isConnectionAllowed(
  entries: readonly ServiceIntentions[],
  source: string,
  destination: string,
  defaultAction: 'allow' | 'deny',
): boolean {
  const intention = decidingIntention(entries, source, destination)
  if (!intention) return defaultAction === 'allow'
  return (intention.permissions ?? []).length === 0 && intention.action === 'allow'
}
