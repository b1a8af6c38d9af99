/**
 * The config entries that a discovery chain is made of: service-resolver, service-router and service-splitter
 * (spec/data-plane.md 9.3 to 9.5). `peer` in a route's or a split's destination is ours: in Consul it needs a resolver that redirects.
 */
import * as z from 'zod'
import { duration } from '../lib/shape.ts'
import { HeaderMatch, HeaderModifiers, indexes, LoadBalancer, opaque } from './entry-members.ts'

/** Read only so that it can be refused by name: the community edition has one namespace and one partition. */
const enterprise = { namespace: z.string().optional(), partition: z.string().optional() }

export const ResolverSubset = z.object({ filter: z.string().optional(), onlyPassing: z.boolean().optional() })
export type ResolverSubset = z.infer<typeof ResolverSubset>

export const FailoverTarget = z.object({
  service: z.string().optional(),
  serviceSubset: z.string().optional(),
  datacenter: z.string().optional(),
  peer: z.string().optional(),
  ...enterprise,
})
export type FailoverTarget = z.infer<typeof FailoverTarget>

export const ResolverFailover = z.object({
  service: z.string().optional(),
  serviceSubset: z.string().optional(),
  datacenters: z.array(z.string()).optional(),
  targets: z.array(FailoverTarget).optional(),
  policy: z.object({ mode: z.string().optional(), regions: z.array(z.string()).optional() }).optional(),
  samenessGroup: z.string().optional(),
  ...enterprise,
})
export type ResolverFailover = z.infer<typeof ResolverFailover>

export const ServiceResolver = z.object({
  kind: z.literal('service-resolver'),
  name: z.string().default(''),
  defaultSubset: z.string().optional(),
  subsets: z.record(z.string(), ResolverSubset).optional(),
  redirect: FailoverTarget.extend({ samenessGroup: z.string().optional() }).optional(),
  failover: z.record(z.string(), ResolverFailover).optional(),
  prioritizeByLocality: opaque.optional(),
  connectTimeoutMs: duration('ConnectTimeout').optional(),
  requestTimeoutMs: duration('RequestTimeout').optional(),
  loadBalancer: LoadBalancer.optional(),
  ...indexes,
})
export type ServiceResolver = z.infer<typeof ServiceResolver>

export const QueryMatch = z.object({
  name: z.string().default(''),
  present: z.boolean().optional(),
  exact: z.string().optional(),
  regex: z.string().optional(),
})
export type QueryMatch = z.infer<typeof QueryMatch>

export const RouteMatch = z.object({
  pathExact: z.string().optional(),
  pathPrefix: z.string().optional(),
  pathRegex: z.string().optional(),
  header: z.array(HeaderMatch).optional(),
  queryParam: z.array(QueryMatch).optional(),
  methods: z.array(z.string()).optional(),
})
export type RouteMatch = z.infer<typeof RouteMatch>

export const RouteDestination = z.object({
  service: z.string().optional(),
  serviceSubset: z.string().optional(),
  peer: z.string().optional(),
  ...enterprise,
  prefixRewrite: z.string().optional(),
  requestTimeoutMs: duration('RequestTimeout').optional(),
  idleTimeoutMs: duration('IdleTimeout').optional(),
  numRetries: z.number().int().optional(),
  retryOnConnectFailure: z.boolean().optional(),
  retryOn: z.array(z.string()).optional(),
  retryOnStatusCodes: z.array(z.number().int()).optional(),
  requestHeaders: HeaderModifiers.optional(),
  responseHeaders: HeaderModifiers.optional(),
})
export type RouteDestination = z.infer<typeof RouteDestination>

export const Route = z.object({
  match: z.object({ http: RouteMatch.optional() }).optional(),
  destination: RouteDestination.optional(),
})
export type Route = z.infer<typeof Route>

export const ServiceRouter = z.object({
  kind: z.literal('service-router'),
  name: z.string().default(''),
  routes: z.array(Route).optional(),
  ...indexes,
})
export type ServiceRouter = z.infer<typeof ServiceRouter>

export const Split = z.object({
  weight: z.number().default(0),
  service: z.string().optional(),
  serviceSubset: z.string().optional(),
  peer: z.string().optional(),
  ...enterprise,
  requestHeaders: HeaderModifiers.optional(),
  responseHeaders: HeaderModifiers.optional(),
})
export type Split = z.infer<typeof Split>

export const ServiceSplitter = z.object({
  kind: z.literal('service-splitter'),
  name: z.string().default(''),
  splits: z.array(Split).optional(),
  ...indexes,
})
export type ServiceSplitter = z.infer<typeof ServiceSplitter>

/** Hundredths of a percent: what a weight counts, however it was written. */
export function scaledWeight(weight: number): number {
  return Math.round(weight * 100)
}
