/** What a service speaks, as far as proxies care. */
import type { ProxyDefaults, ServiceDefaults } from './config-entry.ts'

/** `http`, `http2` and `grpc` carry requests; every other protocol is bytes. */
export function isHttpLike(protocol: string): boolean {
  return protocol === 'http' || isHttp2(protocol)
}

/** Its requests come in HTTP/2. */
export function isHttp2(protocol: string): boolean {
  return protocol === 'http2' || protocol === 'grpc'
}

/** service-defaults, else proxy-defaults, else tcp (spec/data-plane.md 9.1). */
export function protocolOf(own: ServiceDefaults | undefined, global: ProxyDefaults | undefined): string {
  const fallback = global?.config?.['protocol']
  return own?.protocol || (typeof fallback === 'string' && fallback !== '' ? fallback.toLowerCase() : 'tcp')
}
