/** Prepared queries: a stored question for instances of a service, with the places to ask when there are none (spec/http-api.md 13). */
import * as z from 'zod'

const stringMap = z.record(z.string(), z.string()).nullable().default(null)

export const QueryTarget = z.object({
  /** Accepted by name so that the refusal can name it. */
  partition: z.string().optional(),
  peer: z.string().default(''),
  datacenter: z.string().default(''),
})
export type QueryTarget = z.infer<typeof QueryTarget>

export const PreparedQuery = z.object({
  id: z.string().default(''),
  name: z.string().default(''),
  /** The query ends with this session. */
  session: z.string().default(''),
  token: z.string().default(''),
  template: z
    .object({ type: z.string().default(''), regexp: z.string().default(''), removeEmptyTags: z.boolean().default(false) })
    .default({ type: '', regexp: '', removeEmptyTags: false }),
  service: z
    .object({
      service: z.string().default(''),
      samenessGroup: z.string().default(''),
      failover: z
        .object({
          nearestN: z.number().int().default(0),
          datacenters: z.array(z.string()).nullable().default(null),
          targets: z.array(QueryTarget).nullable().default(null),
        })
        .default({ nearestN: 0, datacenters: null, targets: null }),
      onlyPassing: z.boolean().default(false),
      ignoreCheckIds: z.array(z.string()).nullable().default(null).meta({ wire: 'IgnoreCheckIDs' }),
      near: z.string().default(''),
      tags: z.array(z.string()).nullable().default(null),
      nodeMeta: stringMap,
      serviceMeta: stringMap,
      connect: z.boolean().default(false),
      peer: z.string().default(''),
    })
    .prefault({}),
  dns: z.object({ ttl: z.string().default('') }).default({ ttl: '' }),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
})
export type PreparedQuery = z.infer<typeof PreparedQuery>
