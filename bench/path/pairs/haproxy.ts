/** HAProxy as a pair: one thread, connections to servers shared by all callers (`http-reuse always`), mTLS both ways, no logs. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { freePorts } from '../../../test/support/free-ports.ts'
import type { Running } from '../../../test/support/processes.ts'
import { startOn, type Core } from '../../machine/programs.ts'
import { listening } from '../listening.ts'
import { pairOf, type Ground, type Pair } from '../pair.ts'

export async function startHaproxy(
  haproxy: string,
  core: Core,
  path: string,
  mode: 'http' | 'tcp',
  text: string,
  port: number,
): Promise<Running> {
  const head = `
global
  nbthread 1
  maxconn 4096
  tune.ssl.default-dh-param 2048
defaults
  mode ${mode}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  ${mode === 'http' ? 'timeout http-keep-alive 1h\n  http-reuse always' : ''}
`
  writeFileSync(path, `${head}${text}\n`)
  const running = startOn(core, haproxy, ['-db', '-f', path])
  await listening(running, port)
  return running
}

export async function startHaproxyPair(haproxy: string, ground: Ground): Promise<Pair> {
  const [port, between] = (await freePorts(2)) as [number, number]
  const { web, api, rootPath } = ground.certificates
  const path = (name: string) => join(ground.directory, `haproxy-${port}-${name}.cfg`)
  const inbound = await startHaproxy(
    haproxy,
    'measured',
    path('inbound'),
    'http',
    `frontend mesh
  bind 127.0.0.1:${between} backlog 4096 ssl crt ${api.bothPath} ca-file ${rootPath} verify required
  default_backend app
backend app
  server app 127.0.0.1:${ground.backend.http}`,
    between,
  )
  const outbound = await startHaproxy(
    haproxy,
    'measured',
    path('outbound'),
    'http',
    `frontend caller
  bind 127.0.0.1:${port} backlog 4096
  default_backend mesh
backend mesh
  server api 127.0.0.1:${between} ssl crt ${web.bothPath} ca-file ${rootPath} verify required verifyhost ${api.dnsName} sni str(${api.dnsName})`,
    port,
  )
  return pairOf(port, outbound, inbound)
}
