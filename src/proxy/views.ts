/** What the admin door shows of a proxy: what it was told and what it made of it. No key and no secret is in here. */
import { X509Certificate } from 'node:crypto'
import type { GatewayRoute } from '../mesh/plan.ts'
import type { Control } from './control.ts'

function head(control: Control): object {
  const { plan } = control
  return {
    proxyId: plan?.self.proxyId,
    revision: plan?.revision,
    ageSeconds: Number(control.ageSeconds.toFixed(3)),
    agent: control.connected ? 'connected' : control.problem,
    problems: plan?.problems ?? [],
    self: plan?.self,
  }
}

export function sidecarView(control: Control, unbound: readonly string[]): object {
  const { plan } = control
  if (plan?.kind !== 'sidecar') return head(control)
  const upstreams = [...plan.upstreams.values()].map(({ name, resource, spiffeIds, trustDomain, endpoints }) => ({
    name,
    listen: resource.listen,
    ...(resource.listen ? { bound: !unbound.includes(name) } : {}),
    protocol: resource.protocol,
    sni: resource.sni,
    trustDomain,
    spiffeIds: [...spiffeIds],
    endpoints,
  }))
  const chains = [...plan.chains.values()].map(({ name, resource }) => ({
    name,
    listen: resource.listen,
    bound: !unbound.includes(name),
    protocol: resource.protocol,
    chain: resource.chain,
    targets: resource.targets,
  }))
  const inbound = [...plan.inboundTrustDomains].map(trustDomain => ({ trustDomain, peer: plan.roots.get(trustDomain)?.peer }))
  return { ...head(control), inbound, upstreams, chains }
}

export function gatewayView(control: Control): object {
  const { plan } = control
  if (plan?.kind !== 'gateway') return head(control)
  const rows = (table: ReadonlyMap<string, GatewayRoute>) =>
    [...table.values()].map(({ sni, service, peer, scope, endpoints, upstream }) => ({ sni, service, peer, scope, endpoints, upstream }))
  return { ...head(control), wan: rows(plan.wan), lan: plan.lan === plan.wan ? 'the same as wan' : rows(plan.lan) }
}

export function certsView(control: Control): object {
  const { identity, plan } = control
  const leaf = identity && new X509Certificate(identity.certPem)
  const roots = plan ? [...plan.roots.values()] : []
  return {
    leaf: leaf && {
      uri: identity.uri,
      serialNumber: leaf.serialNumber.toLowerCase(),
      fingerprint256: leaf.fingerprint256,
      validAfter: new Date(identity.validAfterMs).toISOString(),
      validBefore: new Date(identity.validBeforeMs).toISOString(),
    },
    roots: roots.map(({ trustDomain, peer, pems }) => ({ trustDomain, peer, certificates: pems.length })),
  }
}
