/**
 * Servers of three makes, each behind a real pair of sidecars: node:http, and nginx and HAProxy in front of the same app. What the
 * sidecar sends is recorded before it reaches the server, and what the app reads behind it; a program that is not installed has no backend.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer as createApp } from 'node:http'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { which } from '../../bench/machine/programs.ts'
import { listening } from '../../bench/path/listening.ts'
import { silentLogger } from '../../src/lib/log.ts'
import { names } from '../../src/mesh/snapshot.ts'
import { externalSni } from '../../src/mesh/sni.ts'
import { serviceId } from '../../src/mesh/spiffe.ts'
import { startSidecar } from '../../src/proxy/sidecar.ts'
import { AgentStandIn } from './agent-stand-in.ts'
import { freePorts } from './free-ports.ts'
import { Mint, type Minted } from './mint.ts'
import { start, type Running } from './processes.ts'
import { eastDomain, endpointAt, sidecarSelf, source, upstreamOf, webId, westDomain, westResources } from './proxy-scene.ts'

/** Denied by the intentions of every backend; everything else is allowed. */
const deniedPath = '/denied'

export interface AppRequest {
  method: string
  url: string
  body: string
  /** Names of its fields and trailers. */
  fields: string[]
}

export interface Backend {
  name: string
  /** Where the caller's sidecar listens for it, and the sidecar in front of it. */
  port: number
  inboundPort: number
  tap: Tap
}

export interface Backends {
  all: Backend[]
  /** `nginx` or `haproxy`, where it is not installed. */
  missing: string[]
  /** Whole requests that the app read; empties what it answers. */
  takeSeen(): AppRequest[]
  /** A leaf that may call every backend. */
  leaf: Minted
  close(): Promise<void>
}

/** Passes the bytes of a sidecar on to a server (or to `answer`), and keeps what came on each connection. */
export class Tap {
  connections = 0
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  readonly #came = new Map<Socket, string>()

  constructor(handle: (socket: Socket) => void) {
    this.#server = createServer({ noDelay: true, allowHalfOpen: true }, socket => {
      this.connections++
      this.#sockets.add(socket)
      socket.on('close', () => this.#sockets.delete(socket))
      socket.on('error', () => {})
      socket.on('data', (chunk: Buffer) => this.#came.set(socket, (this.#came.get(socket) ?? '') + chunk.toString('latin1')))
      handle(socket)
    })
  }

  static to(port: number): Tap {
    return new Tap(socket => {
      const server = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
      server.on('error', () => socket.destroy())
      server.on('close', () => socket.destroy())
      socket.on('close', () => server.destroy())
      socket.pipe(server).pipe(socket)
    })
  }

  async listen(): Promise<number> {
    await new Promise<void>(resolve => this.#server.listen(0, '127.0.0.1', resolve))
    return (this.#server.address() as AddressInfo).port
  }

  /** What came since it was last asked, by connection, in the order of their first bytes. */
  get came(): string[] {
    return [...this.#came.values()]
  }

  forget(): void {
    this.#came.clear()
  }

  close(): void {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
  }
}

/** The app behind them all. It answers `METHOD /target`. */
async function startApp(seen: AppRequest[]): Promise<{ port: number; close(): void }> {
  const server = createApp({ keepAliveTimeout: 60_000, maxHeaderSize: 128 * 1024 }, (request, response) => {
    const { method = '', url = '' } = request
    const answer = (): void => void response.end(`${method} ${url}`)
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('error', () => {})
    request.on('end', () => {
      const fields = [...request.rawHeaders, ...request.rawTrailers].filter((_, i) => i % 2 === 0).map(name => name.toLowerCase())
      seen.push({ method, url, body: Buffer.concat(chunks).toString('latin1'), fields })
      if (!url.startsWith('/early')) answer()
    })
    if (url.startsWith('/early')) answer()
  })
  server.on('checkContinue', (request, response) => {
    if (request.url === '/unwanted') return void response.writeHead(417).end()
    response.writeContinue()
    server.emit('request', request, response)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const close = (): void => {
    server.close()
    server.closeAllConnections()
  }
  return { port: (server.address() as AddressInfo).port, close }
}

async function startNginx(program: string, directory: string, appPort: number): Promise<{ port: number; running: Running }> {
  const [port] = (await freePorts(1)) as [number]
  const path = join(directory, 'nginx.conf')
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(each => `${each}_temp_path ${join(directory, each)};`)
  writeFileSync(
    path,
    `daemon off; worker_processes 1; pid ${join(directory, 'nginx.pid')}; error_log stderr error; ${process.getuid?.() === 0 ? 'user root;' : ''}
events { worker_connections 256; }
http {
  ${temporary.join(' ')}
  access_log off; client_max_body_size 0; large_client_header_buffers 8 128k; underscores_in_headers on;
  upstream app { server 127.0.0.1:${appPort}; keepalive 16; }
  server {
    listen 127.0.0.1:${port};
    location / { proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass http://app; }
  }
}
`,
  )
  const running = start(program, ['-e', 'stderr', '-p', directory, '-c', path])
  await listening(running, port)
  return { port, running }
}

async function startHaproxy(program: string, directory: string, appPort: number): Promise<{ port: number; running: Running }> {
  const [port] = (await freePorts(1)) as [number]
  const path = join(directory, 'haproxy.cfg')
  writeFileSync(
    path,
    `global
  nbthread 1
  maxconn 256
  tune.bufsize 65536
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend in
  bind 127.0.0.1:${port}
  default_backend app
backend app
  server app 127.0.0.1:${appPort}
`,
  )
  const running = start(program, ['-db', '-f', path])
  await listening(running, port)
  return { port, running }
}

/** `raw` backends are apps of the test itself, by name. */
export async function startBackends(raw: Record<string, (socket: Socket) => void> = {}): Promise<Backends> {
  const mint = new Mint()
  const directory = mkdtempSync(join(tmpdir(), 'isthmus-backends-'))
  const [eastRoot, westRoot] = await Promise.all([mint.root(eastDomain), mint.root(westDomain)])
  const [east, west] = [new AgentStandIn(mint, eastRoot), new AgentStandIn(mint, westRoot)]
  const seen: AppRequest[] = []
  const [app] = await Promise.all([startApp(seen), east.start(), west.start()])
  const programs = { nginx: which('nginx'), haproxy: which('haproxy') }
  const running: Running[] = []
  const taps: [string, Tap][] = [['node', Tap.to(app.port)]]
  for (const [name, program] of Object.entries(programs)) {
    if (program === undefined) continue
    const made = await (name === 'nginx' ? startNginx : startHaproxy)(program, directory, app.port)
    running.push(made.running)
    taps.push([name, Tap.to(made.port)])
  }
  for (const [name, handle] of Object.entries(raw)) taps.push([name, new Tap(handle)])

  const logger = silentLogger()
  const inbound = await Promise.all(
    taps.map(async ([name, tap]) => {
      const proxyId = `${name}-sidecar-proxy`
      const permissions = [
        { action: 'deny', http: { pathPrefix: deniedPath } },
        { action: 'allow', http: { pathPrefix: '/' } },
        { action: 'allow', http: { methods: ['OPTIONS'] } },
      ]
      const allowed = { ...source('web', '', 'partner-east', name), permissions }
      west.tell(proxyId, westResources(sidecarSelf('west', name, 'http', await tap.listen()), { eastRoot, westRoot }, [allowed]))
      const sidecar = await startSidecar({ proxyId, agent: { url: west.url }, logger })
      await sidecar.ready()
      return sidecar
    }),
  )
  const proxyId = 'web-sidecar-proxy'
  east.tell(proxyId, [
    ['self', proxyId, sidecarSelf('east', 'web', 'tcp', 1)],
    ['roots', names.localRoots, { trustDomain: eastDomain, peer: '', exportedPartition: '', pems: [eastRoot.certPem] }],
    ['roots', 'west', { trustDomain: westDomain, peer: 'west', exportedPartition: '', pems: [westRoot.certPem] }],
    ['intentions', 'web', { sources: [] }],
  ])
  for (const [i, [name]] of taps.entries()) {
    const upstream = upstreamOf(name, 'http', externalSni(name, 'partner-east', westDomain), serviceId(westDomain, 'west', name))
    east.tell(proxyId, [
      ['upstream', `${name}?peer=west`, upstream],
      ['endpoints', `${name}-endpoints`, { endpoints: [endpointAt(inbound[i]!.port('public')!)] }],
    ])
  }
  const web = await startSidecar({ proxyId, agent: { url: east.url }, logger })
  await web.ready()

  return {
    all: taps.map(([name, tap], i) => ({ name, tap, port: web.port(`${name}?peer=west`)!, inboundPort: inbound[i]!.port('public')! })),
    missing: Object.entries(programs).flatMap(([name, program]) => (program === undefined ? [name] : [])),
    takeSeen: () => seen.splice(0),
    leaf: await mint.leaf(eastRoot, { san: `URI:${webId}` }),
    async close() {
      await Promise.all([web, ...inbound].map(each => each.close()))
      for (const [, tap] of taps) tap.close()
      await Promise.all(running.map(each => each.stop()))
      app.close()
      await Promise.all([east.stop(), west.stop()])
      mint.remove()
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
