/** What clients of /v1/connect/intentions send: an intention, and the names of its two ends (spec/http-api.md 9). */
import * as z from 'zod'
import { MeshError } from '../../lib/errors.ts'
import { type IntentionSource, Permission } from '../../mesh/intention-entry.ts'

/** What a client may send; what Consul computes itself is taken and dropped. */
export const IntentionRequest = z.object({
  id: z.string().optional(),
  description: z.string().optional(),
  sourceNs: z.string().optional(),
  sourceName: z.string().optional(),
  sourcePartition: z.string().optional(),
  destinationNs: z.string().optional(),
  destinationName: z.string().optional(),
  destinationPartition: z.string().optional(),
  sourcePeer: z.string().optional(),
  sourceSamenessGroup: z.string().optional(),
  sourceType: z.string().optional(),
  action: z.string().optional(),
  permissions: z.array(Permission).optional(),
  meta: z.record(z.string(), z.string()).nullable().optional(),
  defaultAddr: z.string().optional(),
  defaultPort: z.number().optional(),
  precedence: z.number().optional(),
  createdAt: z.string().optional(),
  updatedAt: z.string().optional(),
  hash: z.string().nullable().optional(),
  createIndex: z.number().optional(),
  modifyIndex: z.number().optional(),
})
export type IntentionRequest = z.infer<typeof IntentionRequest>

/** A source as it is stored; precedence is computed by whoever stores it. */
export function sourceOf(request: IntentionRequest, name: string): IntentionSource {
  return {
    name,
    action: request.action || undefined,
    permissions: request.permissions?.length ? request.permissions : undefined,
    description: request.description || undefined,
    precedence: 0,
    type: request.sourceType || 'consul',
  }
}

/** `name`, `ns/name`, `ap/ns/name`; for reading also `peer:<peer>/<name>`. The community edition drops what stands before the name. */
export function parseIntentionName(param: string, text: string, peerAllowed: boolean): { name: string; peer: string } {
  const bad = (why: string) => new MeshError('invalid', `${param} ${JSON.stringify(text)} is invalid: ${why}`)
  const parts = text.split('/')
  if (parts[0]!.startsWith('peer:')) {
    if (!peerAllowed) throw bad('cannot specify a peer here')
    if (parts.length !== 2) throw bad('a peer is given as peer:<peer>/<name>')
    return { name: parts[1]!, peer: parts[0]!.slice('peer:'.length) }
  }
  if (parts.length > 3) throw bad("input can contain at most two '/'")
  return { name: parts.at(-1)!, peer: '' }
}
