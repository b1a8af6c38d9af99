/**
 * nginx as a pair, tuned as its own documents say for a proxy between services: one worker, kept-alive upstreams on both hops, no
 * logs, bodies passed on as they come. It checks the certificate chains; it cannot judge a SPIFFE id.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePorts } from '../../../test/support/free-ports.ts'
import type { Running } from '../../../test/support/processes.ts'
import { startOn, type Core } from '../../machine/programs.ts'
import { listening } from '../listening.ts'
import { pairOf, type Ground, type Pair } from '../pair.ts'

const forever = 1_000_000_000

/** The parts that are the same in every nginx here; `http` is what it serves. */
export function nginxConfig(directory: string, http: string): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(each => `${each}_temp_path ${join(directory, each)};`)
  return `
daemon off; worker_processes 1; pid ${join(directory, 'nginx.pid')}; error_log stderr error;
${process.getuid?.() === 0 ? 'user root;' : ''}
worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
  ${temporary.join(' ')}
  access_log off; server_tokens off; tcp_nodelay on;
  keepalive_requests ${forever}; keepalive_timeout 3600s; keepalive_time 24h; client_max_body_size 0;
  ${http}
}
`
}

export async function startNginx(nginx: string, core: Core, directory: string, http: string, port: number): Promise<Running> {
  mkdirSync(directory, { recursive: true })
  const path = join(directory, 'nginx.conf')
  writeFileSync(path, nginxConfig(directory, http))
  const running = startOn(core, nginx, ['-e', 'stderr', '-p', directory, '-c', path])
  await listening(running, port)
  return running
}

const upstream = (port: number) => `
  upstream next { server 127.0.0.1:${port}; keepalive 1024; keepalive_requests ${forever}; keepalive_timeout 3600s; keepalive_time 24h; }`

/** Both hops stream bodies; nothing is spooled to a disk. */
const passing = `
      proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_request_buffering off; proxy_max_temp_file_size 0;`

/** Takes plain HTTP on `port` and goes on with the caller's certificate. */
export function outboundHttp(ground: Ground, port: number, next: number, server = ground.certificates.api): string {
  const { web, rootPath } = ground.certificates
  return `${upstream(next)}
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location / {${passing}
      proxy_pass https://next;
      proxy_ssl_certificate ${web.certPath}; proxy_ssl_certificate_key ${web.keyPath};
      proxy_ssl_trusted_certificate ${rootPath}; proxy_ssl_verify on; proxy_ssl_verify_depth 2;
      proxy_ssl_server_name on; proxy_ssl_name ${server.dnsName};
    }
  }`
}

/** Ends TLS on `port` for callers with a certificate of the root, and goes on to the app. */
export function inboundHttp(ground: Ground, port: number, server = ground.certificates.api): string {
  const { rootPath } = ground.certificates
  return `${upstream(ground.backend.http)}
  server {
    listen 127.0.0.1:${port} ssl backlog=4096;
    ssl_certificate ${server.certPath}; ssl_certificate_key ${server.keyPath};
    ssl_client_certificate ${rootPath}; ssl_verify_client on; ssl_verify_depth 2;
    location / {${passing}
      proxy_pass http://next;
    }
  }`
}

export async function startNginxPair(nginx: string, ground: Ground): Promise<Pair> {
  const [port, between] = (await freePorts(2)) as [number, number]
  const directory = join(ground.directory, `nginx-${port}`)
  const inbound = await startNginx(nginx, 'measured', join(directory, 'inbound'), inboundHttp(ground, between), between)
  const outbound = await startNginx(nginx, 'measured', join(directory, 'outbound'), outboundHttp(ground, port, between), port)
  return pairOf(port, outbound, inbound)
}
