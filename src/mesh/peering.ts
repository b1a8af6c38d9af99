/** A peering as the operator sees it (spec/http-api.md 6, peering-wire.md 9). Secrets are not part of it. */
import * as z from 'zod'
import { Freshness } from './freshness.ts'
import { Locality } from './node.ts'

export const peeringStates = ['UNDEFINED', 'PENDING', 'ESTABLISHING', 'ACTIVE', 'FAILING', 'DELETING', 'TERMINATED'] as const
/** ACTIVE and FAILING are computed from the stream and never stored. */
export type PeeringState = (typeof peeringStates)[number]

/** Of everything that the peer exports to us at once. */
export const PeeringFreshness = Freshness.extend({
  /** Since this process began: resources that were put right, and digests that disagreed with what was held. */
  repairs: z.number(),
  disagreements: z.number(),
})
export type PeeringFreshness = z.infer<typeof PeeringFreshness>

export const ImportedFreshness = Freshness.extend({ service: z.string() })
export type ImportedFreshness = z.infer<typeof ImportedFreshness>

export const StreamStatus = z.object({
  importedServices: z.array(z.string()).nullable().default(null),
  exportedServices: z.array(z.string()).nullable().default(null),
  /** RFC 3339 dates; null before the first. */
  lastHeartbeat: z.string().nullable().default(null),
  lastReceive: z.string().nullable().default(null),
  lastSend: z.string().nullable().default(null),
  /** isthmus's own; absent while nothing was ever imported. */
  freshness: PeeringFreshness.optional(),
  /** isthmus's own: each imported service. Only where one peering is read. */
  importedFreshness: z.array(ImportedFreshness).optional(),
})
export type StreamStatus = z.infer<typeof StreamStatus>

export const Peering = z.object({
  id: z.string(),
  name: z.string(),
  deletedAt: z.string().optional(),
  meta: z.record(z.string(), z.string()).optional(),
  state: z.enum(peeringStates),
  /** The acceptor's id for this peering; set on dialers only. */
  peerId: z.string().optional(),
  peerCaPems: z.array(z.string()).optional().meta({ wire: 'PeerCAPems' }),
  peerServerName: z.string().optional(),
  peerServerAddresses: z.array(z.string()).optional(),
  streamStatus: StreamStatus.default({
    importedServices: null,
    exportedServices: null,
    lastHeartbeat: null,
    lastReceive: null,
    lastSend: null,
  }),
  /** isthmus's own: what is left out or refused, and what to do. Only where one peering is read. */
  warnings: z.array(z.string()).optional(),
  createIndex: z.number().default(0),
  modifyIndex: z.number().default(0),
  remote: z
    .object({ partition: z.string().default(''), datacenter: z.string().default(''), locality: Locality.optional() })
    .default({ partition: '', datacenter: '' }),
})
export type Peering = z.infer<typeof Peering>

/** Servers of another cluster, by the name that their certificate carries. */
export interface PeeringServers {
  serverName: string
  addresses: readonly string[]
}

/** A peering as it is kept: with what gateways must know, and no API shows. */
export type StoredPeering = Peering & {
  /** Dialers only. When not empty, only these are dialled. */
  manualServerAddresses?: string[]
  /** Dialers only: whose token is being spent at this moment; not yet, and perhaps never, what the rest of the record tells. */
  exchanging?: PeeringServers
}

/** Whom a peering dials. */
export function dialledServers({
  peerServerName = '',
  peerServerAddresses = [],
  manualServerAddresses = [],
}: StoredPeering): PeeringServers {
  return { serverName: peerServerName, addresses: manualServerAddresses.length > 0 ? manualServerAddresses : peerServerAddresses }
}

/** What a peer says about its CA. `trustDomain` is pinned by the first bundle (DESIGN 5). */
export const TrustBundle = z.object({
  peer: z.string(),
  trustDomain: z.string(),
  rootPems: z.array(z.string()),
  exportedPartition: z.string().default(''),
})
export type TrustBundle = z.infer<typeof TrustBundle>

/** Consul's rule for a peer's local name. */
export const peerNamePattern = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/
