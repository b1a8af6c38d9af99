/**
 * Config entries: the settings of the whole cluster (spec/data-plane.md 9, http-api.md 7). One schema for each kind, and the reading
 * of one from the outside; what a schema cannot say (rules between fields) is in config-entry-check.ts.
 */
import * as z from 'zod'
import { multiError, type ErrorCode } from '../lib/errors.ts'
import { decode, duration, type DecodeIssue } from '../lib/shape.ts'
import { indexes, opaque } from './entry-members.ts'
import { ApiGateway, HttpRoute, IngressGateway, InlineCertificate, TcpRoute, TerminatingGateway } from './gateway-entry.ts'
import { ServiceIntentions } from './intention-entry.ts'
import { JwtProvider } from './jwt-provider.ts'
import { ServiceResolver, ServiceRouter, ServiceSplitter } from './routing-entry.ts'
import { AccessLogs, Expose, MeshGatewayMode, TransparentProxy } from './proxy-settings.ts'

export const UpstreamLimits = z.object({
  maxConnections: z.number().int().optional(),
  maxPendingRequests: z.number().int().optional(),
  maxConcurrentRequests: z.number().int().optional(),
})
export const PassiveHealthCheck = z.object({
  intervalMs: duration('Interval', 'nanoseconds').optional(),
  maxFailures: z.number().int().optional(),
  enforcingConsecutive5xx: z.number().int().optional(),
  maxEjectionPercent: z.number().int().optional(),
  baseEjectionTimeMs: duration('BaseEjectionTime', 'nanoseconds').optional(),
})
export type PassiveHealthCheck = z.infer<typeof PassiveHealthCheck>
const upstreamConfig = z.object({
  name: z.string().optional(),
  peer: z.string().default(''),
  protocol: z.string().optional(),
  connectTimeoutMs: z.number().int().optional(),
  envoyListenerJson: z.string().optional(),
  envoyClusterJson: z.string().optional(),
  limits: UpstreamLimits.optional(),
  passiveHealthCheck: PassiveHealthCheck.optional(),
  meshGateway: MeshGatewayMode.default({}),
  balanceOutboundConnections: z.string().optional(),
})
const envoyExtension = z.object({
  name: z.string().default(''),
  required: z.boolean().default(false),
  arguments: opaque.nullable().default(null),
  consulVersion: z.string().default(''),
  envoyVersion: z.string().default(''),
})

export const ServiceDefaults = z.object({
  kind: z.literal('service-defaults'),
  name: z.string().default(''),
  protocol: z.string().optional(),
  mode: z.string().optional(),
  transparentProxy: TransparentProxy.default({}),
  mutualTlsMode: z.string().optional(),
  meshGateway: MeshGatewayMode.default({}),
  expose: Expose.default({}),
  externalSni: z.string().optional(),
  upstreamConfig: z.object({ overrides: z.array(upstreamConfig).optional(), defaults: upstreamConfig.optional() }).optional(),
  destination: z.object({ addresses: z.array(z.string()).optional(), port: z.number().int().optional() }).optional(),
  maxInboundConnections: z.number().int().optional(),
  localConnectTimeoutMs: z.number().int().optional(),
  localRequestTimeoutMs: z.number().int().optional(),
  balanceInboundConnections: z.string().optional(),
  envoyExtensions: z.array(envoyExtension).optional(),
  ...indexes,
})
export type ServiceDefaults = z.infer<typeof ServiceDefaults>

export const ProxyDefaults = z.object({
  kind: z.literal('proxy-defaults'),
  name: z.string().default('global'),
  config: opaque.optional(),
  mode: z.string().optional(),
  transparentProxy: TransparentProxy.default({}),
  mutualTlsMode: z.string().optional(),
  meshGateway: MeshGatewayMode.default({}),
  expose: Expose.default({}),
  accessLogs: AccessLogs.default({}),
  envoyExtensions: z.array(envoyExtension).optional(),
  ...indexes,
})
export type ProxyDefaults = z.infer<typeof ProxyDefaults>

const tlsDirection = z.object({
  tlsMinVersion: z.string().optional(),
  tlsMaxVersion: z.string().optional(),
  cipherSuites: z.array(z.string()).optional(),
})

export const Mesh = z.object({
  kind: z.literal('mesh'),
  transparentProxy: z.object({ meshDestinationsOnly: z.boolean().optional() }).default({}),
  allowEnablingPermissiveMutualTls: z.boolean().optional(),
  tls: z.object({ incoming: tlsDirection.optional(), outgoing: tlsDirection.optional() }).optional(),
  http: z.object({ sanitizeXForwardedClientCert: z.boolean().default(false) }).optional(),
  peering: z.object({ peerThroughMeshGateways: z.boolean().default(false) }).optional(),
  ...indexes,
})
export type Mesh = z.infer<typeof Mesh>

export const ExportedServices = z.object({
  kind: z.literal('exported-services'),
  name: z.string().default(''),
  services: z
    .array(
      z.object({
        name: z.string().default(''),
        consumers: z
          .array(
            z.object({
              peer: z
                .string()
                .optional()
                .meta({ aliases: ['PeerName'] }),
              partition: z.string().optional(),
              samenessGroup: z.string().optional(),
            }),
          )
          .default([]),
      }),
    )
    .default([]),
  ...indexes,
})
export type ExportedServices = z.infer<typeof ExportedServices>

/** Every kind that may be stored, each with its schema. */
export const configEntryKinds = {
  'service-defaults': ServiceDefaults,
  'proxy-defaults': ProxyDefaults,
  mesh: Mesh,
  'exported-services': ExportedServices,
  'service-intentions': ServiceIntentions,
  'service-resolver': ServiceResolver,
  'service-router': ServiceRouter,
  'service-splitter': ServiceSplitter,
  'jwt-provider': JwtProvider,
  'ingress-gateway': IngressGateway,
  'terminating-gateway': TerminatingGateway,
  'api-gateway': ApiGateway,
  'http-route': HttpRoute,
  'tcp-route': TcpRoute,
  'inline-certificate': InlineCertificate,
} as const
export type ConfigEntryKind = keyof typeof configEntryKinds
export type EntryOf<K extends ConfigEntryKind> = z.infer<(typeof configEntryKinds)[K]>
export type ConfigEntry = { [K in ConfigEntryKind]: EntryOf<K> }[ConfigEntryKind]

/** Kinds of Consul's of which there is never an entry here: one is its enterprise edition's, one is written by its controller only. */
export const absentKinds: ReadonlySet<string> = new Set(['sameness-group', 'bound-api-gateway'])

export function isConfigEntryKind(kind: string): kind is ConfigEntryKind {
  return Object.hasOwn(configEntryKinds, kind)
}

/** `text` is what a door says, without the prefix that the HTTP API puts before a decoding error (code `bad-request`). */
export type ParsedConfigEntry =
  | { ok: true; value: ConfigEntry }
  | { ok: false; code: Extract<ErrorCode, 'bad-request' | 'invalid' | 'permission-denied'>; text: string; issues: DecodeIssue[] }

/** Reads an entry as Consul does: CamelCase or snake_case keys, weakly typed, every unknown key named (spec/http-api.md 1.4). */
export function parseConfigEntry(input: unknown): ParsedConfigEntry {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) {
    const got = Array.isArray(input) ? 'slice' : input === null ? 'nil' : typeof input
    return refuse('bad-request', `'' expected a map, got '${got}'`)
  }
  const { kind, Kind, hash: _hash, Hash: _Hash, ...rest } = input as Record<string, unknown>
  const named = Kind ?? kind
  if (named === undefined) return refuse('bad-request', 'Payload does not contain a kind/Kind key at the top level')
  if (typeof named !== 'string') return refuse('bad-request', 'Kind value in payload is not a string')
  if (named === 'sameness-group') return refuse('invalid', 'sameness-groups are an enterprise-only feature')
  if (named === 'bound-api-gateway') return refuse('permission-denied', 'Permission denied: only writeable by controller')
  if (!isConfigEntryKind(named)) return refuse('bad-request', `invalid config entry kind: ${named}`)
  const decoded = decode(configEntryKinds[named], { ...rest, kind: named }, { weak: true })
  const issues = [...(decoded.ok ? [] : decoded.issues), ...(named === 'exported-services' ? peerNameKeys(rest) : [])]
  if (decoded.ok && issues.length === 0) return { ok: true, value: decoded.value }
  return { ok: false, code: 'bad-request', text: decodeText(issues), issues }
}

function refuse(code: 'bad-request' | 'invalid' | 'permission-denied', text: string): ParsedConfigEntry {
  return { ok: false, code, text, issues: [{ path: '', message: text }] }
}

function decodeText(issues: readonly DecodeIssue[]): string {
  const wrong = issues.filter(issue => issue.unknownKey === undefined)
  if (wrong.length > 0) {
    return `${wrong.length} error(s) decoding:\n\n${wrong.map(({ path, message }) => `* error decoding '${path}': ${message}`).join('\n')}`
  }
  return multiError(
    issues.map(({ path }) => {
      const enterprise = path.toLowerCase().endsWith('namespace') ? ', namespaces are a consul enterprise feature' : ''
      return `invalid config key ${JSON.stringify(path)}${enterprise}`
    }),
  )
}

/** A consumer's peer may be given as `peer_name`, but, alone among the aliases, not as `PeerName`. */
function peerNameKeys(entry: Record<string, unknown>): DecodeIssue[] {
  const issues: DecodeIssue[] = []
  for (const [i, service] of listOf(entry['Services'] ?? entry['services']).entries()) {
    for (const [j, consumer] of listOf(service['Consumers'] ?? service['consumers']).entries()) {
      const key = Object.keys(consumer).find(name => name.toLowerCase() === 'peername')
      if (key !== undefined) issues.push({ path: `Services[${i}].Consumers[${j}].${key}`, message: 'unknown key', unknownKey: key })
    }
  }
  return issues
}

function listOf(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.filter(each => typeof each === 'object' && each !== null) : []
}
