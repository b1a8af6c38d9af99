/** Addresses as text. */

/** `host:port`, with brackets around an IPv6 literal. */
export function hostPort(host: string, port: number | string): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** `localhost`, `::1` or 127.0.0.0/8, as people write them. */
export function isLoopbackHost(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(?:\.\d{1,3}){3}$/.test(host)
}
