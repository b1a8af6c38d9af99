/**
 * jwt-provider entries (spec/data-plane.md 9.11): who may issue the tokens that intentions ask for, and with which keys. Keys are taken
 * from the entry itself (`Local.JWKS`); where they would have to be fetched or read from a file, no token is valid (it fails closed).
 */
import * as z from 'zod'
import { duration } from '../lib/shape.ts'
import { indexes, opaque } from './entry-members.ts'
import { isEditable } from './header-edit.ts'

/** Where a request carries the token. */
export const tokenLocation = z.object({
  header: z.object({ name: z.string().default(''), valuePrefix: z.string().optional(), forward: z.boolean().optional() }).optional(),
  queryParam: z.object({ name: z.string().default('') }).optional(),
  cookie: z.object({ name: z.string().default('') }).optional(),
})

export const JwtProvider = z.object({
  kind: z.literal('jwt-provider'),
  name: z.string().default(''),
  jsonWebKeySet: z
    .object({
      local: z.object({ jwks: z.string().optional(), filename: z.string().optional() }).optional(),
      remote: z
        .object({
          uri: z.string().optional(),
          requestTimeoutMs: z.number().int().optional(),
          cacheDurationMs: duration('CacheDuration', 'nanoseconds').optional(),
          fetchAsynchronously: z.boolean().optional(),
          retryPolicy: opaque.optional(),
          jwksCluster: opaque.optional(),
        })
        .optional(),
    })
    .optional(),
  issuer: z.string().optional(),
  audiences: z.array(z.string()).optional(),
  locations: z.array(tokenLocation).optional(),
  forwarding: z.object({ headerName: z.string().default(''), padForwardPayloadHeader: z.boolean().optional() }).optional(),
  clockSkewSeconds: z.number().int().optional(),
  cacheConfig: z.object({ size: z.number().int().optional() }).optional(),
  ...indexes,
})
export type JwtProvider = z.infer<typeof JwtProvider>

/** Consul's default; ours is used. */
export const defaultClockSkewSeconds = 30

export function checkJwtProvider(entry: JwtProvider): string | undefined {
  if (entry.name === '') return 'Name is required'
  for (const each of entry.locations ?? []) {
    if ([each.header, each.queryParam, each.cookie].filter(Boolean).length !== 1) {
      return 'Must set exactly one of: JWT location header, query param or cookie'
    }
    const { name = '' } = each.header ?? each.queryParam ?? each.cookie ?? {}
    if (name === '') return 'JWT location: Name is required'
  }
  const header = entry.forwarding?.headerName ?? ''
  // Framing, connection and identity of a request are not a provider's, either.
  if (entry.forwarding && !isEditable(header.toLowerCase()))
    return `Forwarding.HeaderName is not a header that can be set: ${JSON.stringify(header)}`
  const { local, remote } = entry.jsonWebKeySet ?? {}
  if (entry.jsonWebKeySet === undefined) return 'JSONWebKeySet is required'
  if ((local === undefined) === (remote === undefined)) return 'Must specify exactly one of Local or Remote JSON Web key set'
  return local ? checkLocal(local) : checkRemote(remote!.uri ?? '')
}

function checkLocal({ jwks = '', filename = '' }: { jwks?: string | undefined; filename?: string | undefined }): string | undefined {
  if ((jwks === '') === (filename === '')) return 'Must specify exactly one of String or filename for local keyset'
  if (jwks === '') return undefined
  return /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(jwks)
    ? undefined
    : 'JWKS must be valid base64 encoded string'
}

function checkRemote(uri: string): string | undefined {
  if (uri === '') return 'Remote JWKS URI is required'
  // Go's url.ParseRequestURI: absolute, or a rooted path.
  if (/^[A-Za-z][A-Za-z0-9+.-]*:\S*$/.test(uri) || /^\/\S*$/.test(uri)) return undefined
  return `Remote JWKS URI is invalid: parse ${JSON.stringify(uri)}: invalid URI for request, uri: ${uri}`
}
