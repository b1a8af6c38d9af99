/**
 * Tests of intentions and routes (`isthmus intention test`): cases as somebody writes them down, each held against what the entries decide.
 * What is wrong with a case is said for all cases at once; a field that is not known is refused, so that no expectation is overlooked.
 */
import * as z from 'zod'
import type { TokenReader } from './jwt.ts'
import { requestFacts } from './forwarded.ts'
import type { Outcome, OutcomeCall, TargetOutcome } from './outcome.ts'
import { byteString } from './path.ts'
import type { RouteFacts } from './route-table.ts'
import { parseServiceName, type ServiceName } from './why-report.ts'

export const caseLimits = { cases: 10_000 } as const

const name = z.string().transform((text, issues): ServiceName => {
  const parsed = parseServiceName(text)
  if (parsed !== undefined) return parsed
  issues.addIssue({ code: 'custom', message: `${JSON.stringify(text)} is no service: write SERVICE, or SERVICE@PEER` })
  return z.NEVER
})

const Case = z.strictObject({
  name: z.string().optional(),
  source: name,
  destination: name,
  method: z.string().default('GET'),
  path: z
    .string()
    .regex(/^(?:\/|\*$)/, 'begins with a slash')
    .default('/'),
  headers: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()]).transform(String)).default({}),
  /** What a token proves, by the provider's name: instead of a real token in the headers. */
  claims: z.record(z.string(), z.record(z.string(), z.unknown())).default({}),
  expect: z.enum(['allow', 'deny', 'unreachable', 'unknown']).optional(),
  /** `web => api`. */
  rule: z.string().optional(),
  permission: z.number().int().optional(),
  /** `service-router/api[0]`. */
  route: z.string().optional(),
  /** `api`, `api (v2)`, `api@west`: one of those that the call may end at. */
  target: z.string().optional(),
})
export type IntentionCase = z.infer<typeof Case>

const CaseFile = z.strictObject({
  datacenter: z.string().default('dc1'),
  default: z.enum(['allow', 'deny']).optional(),
  /** Config entries; with them no agent is asked. */
  entries: z.array(z.record(z.string(), z.unknown())).optional(),
  cases: z.array(Case).min(1).max(caseLimits.cases),
})
export type CaseFile = z.infer<typeof CaseFile>

export function parseCases(document: unknown): { ok: true; file: CaseFile } | { ok: false; problems: string[] } {
  const parsed = CaseFile.safeParse(document)
  if (parsed.success) return { ok: true, file: parsed.data }
  return { ok: false, problems: parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`) }
}

export function titleOf({ name: given, source, destination, method, path }: IntentionCase): string {
  const at = ({ service, peer }: ServiceName) => (peer === '' ? service : `${service}@${peer}`)
  return given ?? `${at(source)} -> ${at(destination)} ${method} ${path}`
}

/** `tokens` reads real ones; claims that the case gives come before them. */
export function callOf(
  { source, destination, method, path, headers, claims }: IntentionCase,
  tokens: (request: RouteFacts) => TokenReader,
): OutcomeCall {
  const request = requestFacts(method.toUpperCase(), byteString(path), Object.entries(headers))
  const real = tokens(request)
  const given: TokenReader = {
    claims: provider => (Object.hasOwn(claims, provider) ? claims[provider] : real.claims(provider)),
  }
  return { source, destination, request, tokens: given }
}

/** What was expected and is not so; empty where all is as expected. */
export function differences({ expect, rule, permission, route, target }: IntentionCase, outcome: Outcome): string[] {
  const found: string[] = []
  const compare = (field: string, wanted: string | undefined, got: string, more = '') => {
    if (wanted !== undefined && wanted !== got) found.push(`${field}: expected ${wanted}, got ${got === '' ? 'none' : got}${more}`)
  }
  compare('outcome', expect, outcome.verdict, ` (${outcome.text})`)
  compare('route', route, outcome.route)
  const all = (of: (each: TargetOutcome) => string) => [...new Set(outcome.targets.map(of))].join(' | ')
  compare(
    'rule',
    rule,
    all(each => each.rule),
  )
  compare(
    'permission',
    permission?.toString(),
    all(each => each.permission?.toString() ?? ''),
  )
  if (target !== undefined && !outcome.targets.some(each => each.target === target))
    compare(
      'target',
      target,
      all(each => each.target),
    )
  return found
}
