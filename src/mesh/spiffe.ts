/**
 * SPIFFE ids as Consul forms them (spec/data-plane.md 2.2). Parsing works on the raw, still percent-encoded text; comparing is
 * exact text, never a pattern. Community forms only: a partition appears in a peer's ids alone.
 */

export type Identity =
  | { kind: 'service'; trustDomain: string; partition: string; namespace: string; datacenter: string; service: string }
  | { kind: 'mesh-gateway'; trustDomain: string; partition: string; datacenter: string }
  | { kind: 'server'; trustDomain: string; datacenter: string }

export function serviceId(trustDomain: string, datacenter: string, service: string): string {
  return `spiffe://${trustDomain}/ns/default/dc/${encodeURIComponent(datacenter)}/svc/${encodeURIComponent(service)}`
}

export function meshGatewayId(trustDomain: string, datacenter: string): string {
  return `spiffe://${trustDomain}/gateway/mesh/dc/${encodeURIComponent(datacenter)}`
}

export function serverId(trustDomain: string, datacenter: string): string {
  return `spiffe://${trustDomain}/agent/server/dc/${encodeURIComponent(datacenter)}`
}

export function signingId(trustDomain: string): string {
  return `spiffe://${trustDomain}`
}

const servicePath = /^(?:\/ap\/([^/]+))?\/ns\/([^/]+)\/dc\/([^/]+)\/svc\/([^/]+)$/
const gatewayPath = /^(?:\/ap\/([^/]+))?\/gateway\/mesh\/dc\/([^/]+)$/
const serverPath = /^\/agent\/server\/dc\/([^/]+)$/

/** The trust domain of a SPIFFE URI; undefined when the text is none. Upper case is refused, as Envoy refuses it. */
export function trustDomainOf(uri: string): string | undefined {
  const match = /^spiffe:\/\/([a-z0-9][a-z0-9._-]{0,254})(?:\/|$)/.exec(uri)
  return match?.[1]
}

/** Reads an id; undefined for anything that is not one of Consul's forms, `/ap/default` included. At most 2,048 characters. */
export function parseSpiffeId(uri: string): Identity | undefined {
  if (uri.length > 2048) return undefined
  const trustDomain = trustDomainOf(uri)
  if (trustDomain === undefined) return undefined
  const path = uri.slice('spiffe://'.length + trustDomain.length)
  try {
    const service = servicePath.exec(path)
    if (service) {
      if (service[1] === 'default') return undefined
      const [partition, namespace, datacenter, name] = [service[1] ?? 'default', service[2]!, service[3]!, service[4]!].map(
        decodeURIComponent,
      ) as [string, string, string, string]
      return { kind: 'service', trustDomain, partition, namespace, datacenter, service: name }
    }
    const gateway = gatewayPath.exec(path)
    if (gateway) {
      if (gateway[1] === 'default') return undefined
      return {
        kind: 'mesh-gateway',
        trustDomain,
        partition: decodeURIComponent(gateway[1] ?? 'default'),
        datacenter: decodeURIComponent(gateway[2]!),
      }
    }
    const server = serverPath.exec(path)
    if (server) return { kind: 'server', trustDomain, datacenter: decodeURIComponent(server[1]!) }
  } catch {
    // A malformed percent escape: no id.
  }
  return undefined
}
