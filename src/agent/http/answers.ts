/** What the catalog and health families share: the query-meta headers of a reading, and the selections by tag and by node meta. */
import type { Reading } from '../catalog/tables.ts'
import { metaHeaders } from './reply.ts'
import type { Call } from './route.ts'

/** Headers of the families that say their consistency (spec/http-api.md 1.6). */
export function readHeaders(
  call: Call,
  reading: Pick<Reading<unknown>, 'index'>,
  options: { cacheable?: boolean } = {},
): Record<string, string> {
  return metaHeaders(reading, { consistency: call.read.consistency, cached: options.cacheable === true && call.read.cached })
}

/** `?tag=`, repeatable: all must be there, whatever their case. */
export function hasTags(tags: readonly string[], wanted: readonly string[]): boolean {
  if (wanted.length === 0) return true
  const have = new Set(tags.map(tag => tag.toLowerCase()))
  return wanted.every(tag => have.has(tag.toLowerCase()))
}

/** `?node-meta=key:value`, repeatable: all must hold. */
export function hasNodeMeta(meta: Record<string, string> | null | undefined, wanted: readonly string[]): boolean {
  return wanted.every(pair => {
    const colon = pair.indexOf(':')
    const key = colon === -1 ? pair : pair.slice(0, colon)
    return meta !== null && meta !== undefined && Object.hasOwn(meta, key) && meta[key] === (colon === -1 ? '' : pair.slice(colon + 1))
  })
}
