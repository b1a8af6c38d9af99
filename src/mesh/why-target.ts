/**
 * The part of `why` about one target of a call: its endpoints with their health and age, the gateways of a peer, protocol, server name and
 * identities, and the certificates that the server is verified by. It reads the plan that the caller's proxy runs.
 */
import { isHttp2, isHttpLike } from './protocol.ts'
import { describeFreshness, type Freshness } from './freshness.ts'
import type { UpstreamPlan } from './plan.ts'
import type { Endpoint } from './snapshot.ts'
import type { WhyCertificate, WhyEndpoint, WhyStep } from './why-report.ts'

/** What is known of a service of a peer. */
export interface ImportedFacts {
  /** Plain instances. */
  instances: number
  healthy: number
  freshness: Freshness
}

export interface TargetFacts {
  /** What the target is called in the steps; absent where there is only one. */
  target: string | undefined
  /** By the endpoint's id: `passing`, or what is wrong with it. */
  health: (endpoint: Endpoint) => string
  imported: ImportedFacts | undefined
  /** What the service that is called says it speaks; undefined where that is not known here. */
  served: string | undefined
  certificates(pems: readonly string[]): WhyCertificate[]
  nowMs: number
}

/** Certificates that end sooner are worth a word. */
const soonMs = 3 * 86_400_000

export function explainTarget(plan: UpstreamPlan, facts: TargetFacts): WhyStep[] {
  const who = [tlsStep(plan), trustStep(plan.rootPems, ownerOf(plan), facts)]
  // One that the proxy refuses has lost its endpoints with that.
  const steps = plan.problem === undefined ? [endpointsStep(plan, facts), protocolStep(plan, facts), ...who] : who
  return facts.target === undefined ? steps : steps.map(step => ({ ...step, target: facts.target }))
}

function ownerOf({ resource: { peer } }: UpstreamPlan): string {
  return peer === '' ? 'this cluster' : `peer ${peer}`
}

export function endpointViews(endpoints: readonly Endpoint[], health: TargetFacts['health']): WhyEndpoint[] {
  return endpoints.map(endpoint => {
    const { id, address, port, healthy } = endpoint
    return { id, address, port, healthy, health: health(endpoint) }
  })
}

function endpointsStep(plan: UpstreamPlan, facts: TargetFacts): WhyStep {
  const { service, peer } = plan.resource
  const endpoints = endpointViews(plan.endpoints, facts.health)
  const healthy = endpoints.filter(each => each.healthy).length
  if (peer !== '') return gatewayStep(plan, endpoints, healthy, facts.imported)
  if (plan.endpoints.length === 0) {
    return {
      step: 'endpoints',
      state: 'failed',
      code: 'no-endpoint',
      text: `${service} has no instance in the mesh that this target selects`,
      next: `register ${service} with a sidecar (Connect.SidecarService), or look at the subset's filter in service-resolver/${service}`,
    }
  }
  const text = `${endpoints.length} endpoint${endpoints.length === 1 ? '' : 's'} of ${service}, ${healthy} healthy; known to this agent itself`
  if (healthy > 0) return { step: 'endpoints', state: 'ok', text, endpoints }
  const next = `make a check of ${service} pass: GET /v1/health/service/${service}`
  return { step: 'endpoints', state: 'failed', code: 'no-healthy-endpoint', text, endpoints, next }
}

/** A peer is reached through gateways: its own, or ours that hand the call on. */
function gatewayStep(
  { resource: { service, peer } }: UpstreamPlan,
  endpoints: WhyEndpoint[],
  healthy: number,
  imported: ImportedFacts | undefined,
): WhyStep {
  const { instances = 0, healthy: alive = 0, freshness } = imported ?? {}
  const age = freshness === undefined ? '' : `; ${describeFreshness(freshness)}`
  const behind = instances === 0 ? '' : `; behind them ${alive} of ${instances} instances healthy`
  const text = `${endpoints.length} gateway${endpoints.length === 1 ? '' : 's'} towards ${peer}, ${healthy} healthy${behind}${age}`
  if (endpoints.length === 0) {
    const next = 'register a mesh gateway: in this cluster where the mode is local, else ask the operator of the peer'
    return { step: 'gateway', state: 'failed', code: 'no-gateway', text, next }
  }
  if (instances > 0 && alive === 0) {
    const next = `every instance of ${service} is down in ${peer}: ask its operator, who sees them with GET /v1/health/service/${service}`
    return { step: 'endpoints', state: 'failed', code: 'no-healthy-endpoint', text, endpoints, next }
  }
  if (healthy === 0)
    return { step: 'gateway', state: 'failed', code: 'no-gateway', text, endpoints, next: `every gateway is down: look at their checks` }
  return { step: 'gateway', state: 'ok', text, endpoints }
}

/** Two sides that do not mean the same by their bytes. */
function protocolStep({ resource: { protocol, service } }: UpstreamPlan, { served }: TargetFacts): WhyStep {
  if (served === undefined) return { step: 'protocol', state: 'ok', text: `${service} is told to speak ${protocol}` }
  if (served === protocol) return { step: 'protocol', state: 'ok', text: `both sides speak ${protocol}` }
  const text = `the caller's side speaks ${protocol}, ${service} is served as ${served}`
  const next = `give both one protocol: service-defaults/${service}, and "protocol" in the upstream's Config`
  const broken = isHttpLike(protocol) && isHttpLike(served) && isHttp2(protocol) !== isHttp2(served)
  return { step: 'protocol', state: broken ? 'failed' : 'warning', code: 'protocol-mismatch', text, next }
}

function tlsStep(plan: UpstreamPlan): WhyStep {
  const { sni, spiffeIds, peer } = plan.resource
  const details = spiffeIds.map(id => `accepts ${id}`)
  if (plan.problem === undefined || plan.problem.code === 'no-trust-bundle') {
    return {
      step: 'tls',
      state: 'ok',
      text: `server name ${sni}, ${spiffeIds.length} accepted ${spiffeIds.length === 1 ? 'identity' : 'identities'}`,
      details,
    }
  }
  const next =
    peer === ''
      ? 'this is a mistake of the agent; please report it'
      : `the proxy refuses what ${peer} says of its own service: its operator must correct it`
  return { step: 'tls', state: 'failed', code: plan.problem.code, text: plan.problem.text, details, next }
}

/** The roots that somebody's certificates are verified by. */
export function trustStep(
  pems: readonly string[],
  owner: string,
  { certificates, nowMs }: Pick<TargetFacts, 'certificates' | 'nowMs'>,
): WhyStep {
  const list = certificates(pems)
  if (list.length === 0) {
    const next = `wait for the trust bundle of ${owner}, or see why the peering does not bring it`
    return { step: 'trust', state: 'failed', code: 'no-trust-bundle', text: `no trust bundle of ${owner}`, next }
  }
  const last = list
    .map(({ notAfter }) => notAfter)
    .sort()
    .at(-1)!
  const text = `${list.length} root${list.length === 1 ? '' : 's'} of ${owner}, valid until ${last}`
  if (list.every(({ expired }) => expired)) {
    const next = `every root of ${owner} has expired: its CA must be rotated`
    return { step: 'trust', state: 'failed', code: 'certificate-expired', text, certificates: list, next }
  }
  if (Date.parse(last) - nowMs < soonMs)
    return { step: 'trust', state: 'warning', code: 'certificate-expired', text: `${text}, which is soon`, certificates: list }
  return { step: 'trust', state: 'ok', text, certificates: list }
}
