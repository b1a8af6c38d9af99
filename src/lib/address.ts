/** Addresses as text. */

/** `host:port`, with brackets around an IPv6 literal. */
export function hostPort(host: string, port: number | string): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/** The other way round; undefined for what is no host, or none at all as in Go, with a port in 1..65535. */
export function splitHostPort(text: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^:[\]\s/@]*)):(\d{1,5})$/.exec(text)
  const port = Number(match?.[3])
  return match !== null && port >= 1 && port <= 65_535 ? { host: match[1] ?? match[2] ?? '', port } : undefined
}

/** `localhost`, `::1` or 127.0.0.0/8, as people write them. */
export function isLoopbackHost(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(?:\.\d{1,3}){3}$/.test(host)
}
