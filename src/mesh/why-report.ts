/**
 * What `why` answers: a decision step by step, each step with what it looked at and the config entry that it came from, then the verdict
 * and what the operator can do. It is data, the same for the API, the command line and a live probe; secrets are never in it, and of
 * request headers only their names.
 */
import * as z from 'zod'

export const whySteps = [
  'source',
  'upstream',
  'peering',
  'import',
  'export',
  'chain',
  'route',
  'split',
  'resolver',
  'gateway',
  'endpoints',
  'protocol',
  'tls',
  'trust',
  'intentions',
] as const
export type WhyStepName = (typeof whySteps)[number]

/** What can be the matter. */
export const whyCodes = [
  'unknown-source',
  'upstream-missing',
  'unknown-peer',
  'peering-down',
  'peering-stale',
  'not-exported',
  'chain-invalid',
  'no-route',
  'unreachable-target',
  'failed-over',
  'no-gateway',
  'gateway-unreachable',
  'endpoint-unreachable',
  'app-unreachable',
  'gateway-route-missing',
  'no-endpoint',
  'no-healthy-endpoint',
  'protocol-mismatch',
  'no-trust-bundle',
  'wrong-identity',
  'wrong-sni',
  'certificate-expired',
  'unknown-identity',
  'denied',
  'denied-by-default',
  'denied-permission',
  'token-needed',
  'malformed-path',
  'audited',
  'exporter-decides',
] as const
export type WhyCode = (typeof whyCodes)[number]

/** A config entry, registration or peering, with the place in it that counted and the index at which it was last written. */
export const Provenance = z.object({ entry: z.string(), index: z.number().default(0) })
export type Provenance = z.infer<typeof Provenance>

export const WhyEndpoint = z.object({
  id: z.string(),
  address: z.string(),
  port: z.number().int(),
  healthy: z.boolean().default(false),
  /** What made it so. */
  health: z.string().default(''),
})
export type WhyEndpoint = z.infer<typeof WhyEndpoint>

export const WhyCertificate = z.object({
  subject: z.string(),
  /** RFC 3339. */
  notBefore: z.string(),
  notAfter: z.string(),
  expired: z.boolean().default(false),
})
export type WhyCertificate = z.infer<typeof WhyCertificate>

/** An intention that was looked at. */
export const WhyRule = z.object({
  /** `web => api`. */
  rule: z.string(),
  entry: z.string(),
  index: z.number().default(0),
  precedence: z.number().int().default(0),
  /** It is the one by which the caller is judged. */
  decides: z.boolean().default(false),
  why: z.string().default(''),
  permissions: z
    .array(
      z.object({
        permission: z.number().int(),
        action: z.string(),
        matches: z.boolean().default(false),
        /** It is the one that decided. */
        decides: z.boolean().default(false),
        why: z.string().default(''),
      }),
    )
    .optional(),
})
export type WhyRule = z.infer<typeof WhyRule>

export const WhyStep = z.object({
  step: z.enum(whySteps),
  state: z.enum(['ok', 'warning', 'failed', 'unknown']),
  /** What is the matter, where something is. */
  code: z.enum(whyCodes).optional(),
  text: z.string(),
  /** Of a chain with several: the target that this is about. */
  target: z.string().optional(),
  from: z.array(Provenance).optional(),
  details: z.array(z.string()).optional(),
  endpoints: z.array(WhyEndpoint).optional(),
  certificates: z.array(WhyCertificate).optional(),
  intentions: z.array(WhyRule).optional(),
  next: z.string().optional(),
})
export type WhyStep = z.infer<typeof WhyStep>

/** All that a live probe needs: where the app dials, and who must answer on the way. */
export const WhyProbe = z.object({
  listen: z.object({ address: z.string(), port: z.number().int(), socketPath: z.string().optional() }),
  protocol: z.string(),
  targets: z
    .array(
      z.object({
        target: z.string(),
        peer: z.string().default(''),
        sni: z.string(),
        spiffeIds: z.array(z.string()).default([]),
        trustDomain: z.string().default(''),
        rootPems: z.array(z.string()).default([]),
        endpoints: z.array(WhyEndpoint).default([]),
      }),
    )
    .default([]),
})
export type WhyProbe = z.infer<typeof WhyProbe>

/**
 * `allow` and `deny`: what the other side decides. `unreachable`: it does not come to that. `unknown`: it is for another cluster to say.
 * `depends`: targets of one split differ.
 */
export const verdicts = ['allow', 'deny', 'unreachable', 'unknown', 'depends'] as const
export type Verdict = (typeof verdicts)[number]

export const WhyReport = z.object({
  source: z.string(),
  destination: z.string(),
  /** Of the headers only the names. */
  request: z.object({ method: z.string(), path: z.string(), headers: z.array(z.string()).optional() }),
  verdict: z.enum(verdicts),
  /** Of the step that decided. */
  code: z.enum(whyCodes).optional(),
  text: z.string(),
  next: z.string().optional(),
  steps: z.array(WhyStep),
  probe: WhyProbe.optional(),
})
export type WhyReport = z.infer<typeof WhyReport>

/** A service, in our own cluster where it has no peer. */
export interface ServiceName {
  service: string
  peer: string
}

/** `api`, `api@west`. */
export function shown({ service, peer }: ServiceName): string {
  return peer === '' ? service : `${service}@${peer}`
}

/** Reads `api` or `api@west`; undefined for what is neither. */
export function parseServiceName(text: string): ServiceName | undefined {
  const parts = text.split('@')
  const [service = '', peer = ''] = parts
  if (service === '' || parts.length > 2 || (parts.length === 2 && peer === '')) return undefined
  return { service, peer: peer.toLowerCase() }
}

const denials = new Set<WhyCode>(['denied', 'denied-by-default', 'denied-permission', 'token-needed', 'malformed-path', 'unknown-identity'])

function verdictOf(steps: readonly WhyStep[]): { verdict: Verdict; decisive: WhyStep | undefined } {
  const failed = steps.find(({ state }) => state === 'failed')
  if (failed !== undefined) return { verdict: denials.has(failed.code!) ? 'deny' : 'unreachable', decisive: failed }
  const unknown = steps.find(({ state }) => state === 'unknown')
  if (unknown !== undefined) return { verdict: 'unknown', decisive: unknown }
  return { verdict: 'allow', decisive: steps.find(({ state }) => state === 'warning') ?? steps.at(-1) }
}

/** The verdict on steps: the first that failed decides; of several targets each by its own. */
export function settle(question: Pick<WhyReport, 'source' | 'destination' | 'request'>, steps: WhyStep[], probe?: WhyProbe): WhyReport {
  const targets = new Set(steps.flatMap(({ target }) => target ?? []))
  const each = [...targets].map(target => verdictOf(steps.filter(step => step.target === undefined || step.target === target)))
  const found = each.length === 0 ? [verdictOf(steps)] : each
  const { verdict, decisive } = found[0]!
  const told = { ...question, steps, ...(probe ? { probe } : {}) }
  if (found.some(other => other.verdict !== verdict)) {
    const list = [...targets].map((target, i) => `${target}: ${found[i]!.verdict}`).join(', ')
    return { ...told, verdict: 'depends', text: `it depends on where the split sends the request: ${list}` }
  }
  const { code, next, text = '' } = decisive ?? {}
  return { ...told, verdict, text, ...(code ? { code } : {}), ...(next ? { next } : {}) }
}
