/** Server names on the wire (spec/data-plane.md 4). The trust domain is always the one of the cluster that owns the service. */

/** A service inside its own cluster. */
export function internalSni(service: string, datacenter: string, trustDomain: string): string {
  return `${service}.default.${datacenter}.internal.${trustDomain}`
}

/** A service exported to a peer; `peer` is the EXPORTER's name for the importer, so an importer never computes this. */
export function externalSni(service: string, peer: string, trustDomain: string): string {
  return `${service}.default.default.${peer}.external.${trustDomain}`
}

/** The peering server of a cluster: what a dialer sends, and the DNS name in the server's certificate. */
export function peeringServerName(datacenter: string, trustDomain: string): string {
  return `server.${datacenter}.peering.${trustDomain}`
}

/** True when `sni` has the form of a peering server's name, whosever it is. */
export function isPeeringServerName(sni: string): boolean {
  return /^server\.[a-z0-9_-]+\.peering\.[a-z0-9-]+(?:\.[a-z0-9-]+)*$/.test(sni.toLowerCase())
}

/** True when `sni` has the external form in exactly this trust domain: five labels, then `external`, then the domain. */
export function isExternalSniOf(sni: string, trustDomain: string): boolean {
  const lower = sni.toLowerCase()
  const suffix = `.external.${trustDomain}`
  if (!lower.endsWith(suffix)) return false
  return /^[a-z0-9_-]+\.[a-z0-9-]+\.[a-z0-9-]+\.[a-z0-9-]+$/.test(lower.slice(0, -suffix.length))
}
