/**
 * What the hot path reads: one plan and what it is bound to, behind a single reference. A request keeps the binding it started with;
 * a new plan or a new leaf makes a new binding, built before it is put in place.
 */
import type { X509Certificate } from 'node:crypto'
import type { SidecarPlan } from '../mesh/plan.ts'
import { Tokens } from '../wire/tokens.ts'
import { readBundle } from './permit.ts'
import type { ProxyIdentity } from './tls.ts'

export interface SidecarBinding {
  plan: SidecarPlan
  identity: ProxyIdentity
  /** Parsed roots of the trust domains whose identities may come in. */
  inboundRoots: ReadonlyMap<string, readonly X509Certificate[]>
  /** The same as PEM, for the handshake. */
  inboundPems: readonly string[]
  /** Of the callers, where an intention may ask for them. */
  tokens: Tokens | undefined
}

export function bindSidecar(plan: SidecarPlan, identity: ProxyIdentity): SidecarBinding {
  const inboundRoots = new Map<string, readonly X509Certificate[]>()
  const inboundPems: string[] = []
  for (const trustDomain of plan.inboundTrustDomains) {
    const roots = plan.roots.get(trustDomain)
    if (!roots) continue
    inboundRoots.set(trustDomain, readBundle(roots.pems))
    inboundPems.push(...roots.pems)
  }
  const tokens = plan.jwtProviders.size > 0 ? new Tokens(plan.jwtProviders) : undefined
  return { plan, identity, inboundRoots, inboundPems, tokens }
}
