/**
 * The calls between a proxy and its agent that are not Consul's: the snapshot stream, having a leaf signed, and saying that it serves. All are
 * served to holders of a token that may write the proxy's service; while ACLs are off, on loopback or a unix socket only (DESIGN 3).
 */
import * as z from 'zod'

export const internalApi = {
  /** GET, chunked application/x-ndjson: SnapshotLine a line, first the whole set and a `sync`, then changes, each set ended by a `sync`. 404 while the proxy is not registered. */
  snapshot: (proxyId: string) => `/v1/internal/isthmus/snapshot/${encodeURIComponent(proxyId)}`,
  /** PUT SignRequest -> SignResponse. 400 for a CSR that is not for this proxy's own identity. */
  sign: (proxyId: string) => `/v1/internal/isthmus/sign/${encodeURIComponent(proxyId)}`,
  /** PUT {} -> {}. The proxy listens: its checks are run now, not when their interval says so. */
  serving: (proxyId: string) => `/v1/internal/isthmus/serving/${encodeURIComponent(proxyId)}`,
} as const

/** A `sync` line comes at least this often. */
export const snapshotHeartbeatMs = 2000

export const SignRequest = z.object({ csr: z.string().max(16_384).meta({ wire: 'CSR' }) })
export const SignResponse = z.object({
  /** Leaf, then intermediates, PEM. */
  certPem: z.string().meta({ wire: 'CertPEM' }),
  spiffeId: z.string().meta({ wire: 'SpiffeID' }),
  /** ms since the epoch. */
  validAfterMs: z.number(),
  validBeforeMs: z.number(),
})
export type SignResponse = z.infer<typeof SignResponse>
