/**
 * The Snapshot: what one proxy is told, as named, versioned resources. It is the hinge between the planes: agent/snapshots makes
 * it, mesh/plan compiles it, nothing in it is particular to either, and it holds no functions and no private keys. The zod schema
 * is the contract on the wire (NDJSON, one Resource or marker a line).
 */
import * as z from 'zod'
import { Balance, CircuitLimits, OutlierLimits, RetryLimits } from './balance/config.ts'
import { tokenLocation } from './jwt-provider.ts'
import { ExposePath } from './proxy-settings.ts'
import { IntentionSource, JwtRequirement } from './intention-entry.ts'
import { DiscoveryChain } from './discovery-chain.ts'
import { Locality } from './node.ts'

const address = z.object({ address: z.string(), port: z.number().int() })

/** Who this proxy is and how it serves its app. A gateway has no app and no intentions. */
export const Self = z.object({
  proxyId: z.string(),
  kind: z.enum(['sidecar', 'mesh-gateway']),
  /** The service it stands for (`web`), or the gateway's own service name. */
  service: z.string(),
  serviceId: z.string(),
  datacenter: z.string(),
  trustDomain: z.string(),
  /** The URI that its leaf must carry. */
  spiffeId: z.string(),
  protocol: z.string(),
  /** Where it listens: the sidecar's public port, the gateway's LAN address. */
  listen: address,
  /** Gateways: the advertised WAN address; equal to `listen` when there is only one. */
  wan: address.optional(),
  /** Gateways: serve internal and imported names on the WAN address too. Only where the operator asked for it (DESIGN 6). */
  lanNamesOnWan: z.boolean().default(false),
  /** The app: an address, or a unix socket. */
  app: z.object({ address: z.string(), port: z.number().int(), socketPath: z.string().optional() }).optional(),
  expose: z.array(ExposePath).default([]),
  /** What happens to a local caller that no intention names. Peers are denied by default, always. */
  defaultAction: z.enum(['allow', 'deny']),
  /** Peers whose identities may come in: those to which this service is exported. */
  inboundPeers: z.array(z.string()).default([]),
  /** This instance is critical, in maintenance or deregistered: say go-away. */
  draining: z.boolean().default(false),
  maxInboundConnections: z.number().int().default(0),
  localConnectTimeoutMs: z.number().default(5000),
  localRequestTimeoutMs: z.number().default(15_000),
})
export type Self = z.infer<typeof Self>

/** CA roots of one trust domain. Resource name: `names.localRoots` or the peer's name. */
export const Roots = z.object({
  trustDomain: z.string(),
  peer: z.string(),
  exportedPartition: z.string().default(''),
  pems: z.array(z.string()),
})
export type Roots = z.infer<typeof Roots>

/** Every intention whose destination is this service or `*`, by descending precedence. Resource name: the service. */
export const Intentions = z.object({
  sources: z.array(
    IntentionSource.extend({
      destination: z.string(),
      /** Of every caller that the source is about. */
      jwt: JwtRequirement.optional(),
      /** What the source would deny is let in, counted and logged. */
      audit: z.boolean().optional(),
    }),
  ),
})
export type Intentions = z.infer<typeof Intentions>

const listen = z.object({
  address: z.string(),
  port: z.number().int(),
  socketPath: z.string().optional(),
  socketMode: z.string().optional(),
})

/** A service that this sidecar may dial. Resource name: `NAME` or `NAME?peer=PEER`; of a chain's target `names.target`. */
export const UpstreamResource = z.object({
  service: z.string(),
  /** Local name of the peer; empty for our own cluster. */
  peer: z.string(),
  protocol: z.string(),
  /** Absent where no app dials it itself: a target of a chain, and whatever a gateway has. */
  listen: listen.optional(),
  sni: z.string(),
  /** Accepted server identities, compared byte for byte. */
  spiffeIds: z.array(z.string()),
  connectTimeoutMs: z.number().default(5000),
  /** Instead of the proxy's own; 0 is none. */
  requestTimeoutMs: z.number().optional(),
  /** Name of the `endpoints` resource. */
  endpoints: z.string(),
  /** Absent where nothing was configured; the plan has the defaults. */
  balance: Balance.optional(),
  limits: CircuitLimits.optional(),
  passiveHealthCheck: OutlierLimits.optional(),
  retry: RetryLimits.optional(),
})
export type UpstreamResource = z.infer<typeof UpstreamResource>

/** A name that requests are routed by: its listener and where they go. Resource name: the service that the app dials. */
export const ChainResource = z.object({
  protocol: z.string(),
  /** Absent at a gateway. */
  listen: listen.optional(),
  chain: DiscoveryChain,
  /** By the id of a target: the name of its `upstream` resource. One that cannot be reached now is not there. */
  targets: z.record(z.string(), z.string()),
})
export type ChainResource = z.infer<typeof ChainResource>

/** Whose tokens intentions may ask for. Resource name: the provider's. */
export const JwtProviderResource = z.object({
  issuer: z.string(),
  audiences: z.array(z.string()),
  locations: z.array(tokenLocation),
  clockSkewSeconds: z.number(),
  /** The header by which the app gets the claims of a valid token, in base64url; from a caller it is never taken. */
  forwarding: z.object({ header: z.string(), pad: z.boolean() }).optional(),
  /** A JSON web key set in base64; empty where the keys are elsewhere. */
  jwks: z.string(),
})
export type JwtProviderResource = z.infer<typeof JwtProviderResource>

export const Endpoint = z.object({
  id: z.string(),
  address: z.string(),
  port: z.number().int(),
  weight: z.number().int().default(1),
  healthy: z.boolean(),
  /** Where that is known. */
  locality: Locality.optional(),
})
export type Endpoint = z.infer<typeof Endpoint>

/** What an endpoint is told apart by where it is dialled: two with one address are one place. */
export function addressOf({ address, port }: { address: string; port: number }): string {
  return `${address}:${port}`
}

/** Where a name is reached. Resource name: chosen by the producer, referred to by the others. */
export const Endpoints = z.object({
  endpoints: z.array(Endpoint),
  /** Where the endpoints are gateways: how many healthy instances are known to be behind them. */
  instances: z.number().int().optional(),
})
export type Endpoints = z.infer<typeof Endpoints>

/** One row of a gateway's table: this SNI goes to those endpoints. Matching ignores case. Resource name: the SNI; for `imported` the upstream's name. */
export const SniRoute = z.object({
  sni: z.string(),
  service: z.string(),
  peer: z.string(),
  endpoints: z.string(),
  /** `exported`: the gateway ends TLS here, and requests go on by the upstream or chain of this name. Without it bytes pass through. */
  upstream: z.string().optional(),
})
export type SniRoute = z.infer<typeof SniRoute>

/**
 * `exported`: own services under their external names, served on the WAN address (and the LAN one). `server`: the peering servers,
 * likewise. `internal`: own services under internal names, LAN only. `imported`: services of peers (mode local), LAN only; each in
 * its own peer's trust domain. `peer-server`: the peering servers of clusters that ours dials, LAN only.
 */
const kinds = {
  self: Self,
  roots: Roots,
  intentions: Intentions,
  upstream: UpstreamResource,
  chain: ChainResource,
  'jwt-provider': JwtProviderResource,
  endpoints: Endpoints,
  exported: SniRoute,
  server: SniRoute,
  internal: SniRoute,
  imported: SniRoute,
  'peer-server': SniRoute,
} as const
export const resourceKinds = kinds
export type ResourceKind = keyof typeof kinds
export type ResourceValue<K extends ResourceKind> = z.infer<(typeof kinds)[K]>

export type Resource = { [K in ResourceKind]: { kind: K; name: string; version: string; value: ResourceValue<K> | null } }[ResourceKind]

/** Ends every set of resources that belong together; also sent alone every few seconds, so that silence is noticed. */
export interface SyncMarker {
  kind: 'sync'
  /** The store's revision that the resources before it reflect. */
  revision: number
}
export type SnapshotLine = Resource | SyncMarker

/** Resource names. */
export const names = {
  upstream: (service: string, peer: string) => (peer === '' ? service : `${service}?peer=${peer}`),
  /** What a chain of that name calls one of its targets. */
  target: (service: string, id: string) => `${service}/${id}`,
  /** Not a name that a peer can have. */
  localRoots: '@local',
} as const
