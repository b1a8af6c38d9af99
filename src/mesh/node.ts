/** A node of the catalog (spec/http-api.md 2). Imported nodes carry the local name of the peer they came from. */
import * as z from 'zod'

export const Locality = z.object({ region: z.string().optional(), zone: z.string().optional() })
export type Locality = z.infer<typeof Locality>

export const Node = z.object({
  id: z.string().default(''),
  node: z.string(),
  address: z.string().default(''),
  datacenter: z.string().default(''),
  /** Local name of the peer this was imported from; absent for our own. */
  peerName: z.string().optional(),
  taggedAddresses: z.record(z.string(), z.string()).nullable().default(null),
  meta: z.record(z.string(), z.string()).nullable().default(null),
  locality: Locality.optional(),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
})
export type Node = z.infer<typeof Node>
