/**
 * Proxies of two clusters on one machine, with a stand-in for each agent: in east `web`, in west `api` (http) and `db` (tcp) behind a
 * gateway. East calls west "west"; west calls east "partner-east".
 */
import {
  Agent,
  createServer as createHttpServer,
  request as requestHttp,
  type IncomingHttpHeaders,
  type Server as HttpServer,
} from 'node:http'
import { connect, createServer as createTcpServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { silentLogger } from '../../src/lib/log.ts'
import { names, type Self, type SniRoute, type UpstreamResource } from '../../src/mesh/snapshot.ts'
import { externalSni, internalSni } from '../../src/mesh/sni.ts'
import { meshGatewayId, serviceId } from '../../src/mesh/spiffe.ts'
import { startGateway, type RunningGateway } from '../../src/proxy/mesh-gateway.ts'
import { startSidecar, type RunningSidecar } from '../../src/proxy/sidecar.ts'
import { AgentStandIn } from './agent-stand-in.ts'
import { Mint, type Minted } from './mint.ts'

export { eventually as until } from './until.ts'

export const eastDomain = 'aaaaaaaa-0000-0000-0000-000000000001.consul'
export const westDomain = 'bbbbbbbb-0000-0000-0000-000000000002.consul'
export const webId = serviceId(eastDomain, 'east', 'web')
export const apiId = serviceId(westDomain, 'west', 'api')
export const dbId = serviceId(westDomain, 'west', 'db')
export const westGatewayId = meshGatewayId(westDomain, 'west')
export const apiSni = externalSni('api', 'partner-east', westDomain)
export const dbSni = externalSni('db', 'partner-east', westDomain)
export const apiInternalSni = internalSni('api', 'west', westDomain)

const loopback = (port: number) => ({ address: '127.0.0.1', port })
export const endpointAt = (port: number, healthy = true) => ({ id: `e${port}`, ...loopback(port), weight: 1, healthy })
export const source = (name: string, action: string, peer?: string, destination = 'api') => ({
  name,
  action,
  destination,
  type: 'consul',
  precedence: 9,
  ...(peer === undefined ? {} : { peer }),
})

const selfDefaults = {
  expose: [],
  inboundPeers: [],
  draining: false,
  lanNamesOnWan: false,
  maxInboundConnections: 0,
  localConnectTimeoutMs: 5000,
  localRequestTimeoutMs: 15_000,
  defaultAction: 'deny',
} as const

export function sidecarSelf(cluster: 'east' | 'west', service: string, protocol: string, appPort: number, more: Partial<Self> = {}): Self {
  const trustDomain = cluster === 'east' ? eastDomain : westDomain
  return {
    ...selfDefaults,
    expose: [],
    inboundPeers: cluster === 'west' ? ['partner-east'] : [],
    proxyId: `${service}-sidecar-proxy`,
    kind: 'sidecar',
    service,
    serviceId: service,
    datacenter: cluster,
    trustDomain,
    spiffeId: serviceId(trustDomain, cluster, service),
    protocol,
    listen: loopback(0),
    app: loopback(appPort),
    ...more,
  }
}

export function gatewaySelf(more: Partial<Self> = {}): Self {
  const names = { proxyId: 'gateway', service: 'gateway', serviceId: 'gateway', datacenter: 'west', trustDomain: westDomain }
  return {
    ...selfDefaults,
    expose: [],
    inboundPeers: [],
    ...names,
    kind: 'mesh-gateway',
    spiffeId: westGatewayId,
    protocol: 'tcp',
    listen: loopback(0),
    ...more,
  }
}

export interface Seen {
  method: string
  url: string
  headers: IncomingHttpHeaders
  body: string
}

/** An app that answers with what it saw. */
export async function startHttpApp(): Promise<{ server: HttpServer; port: number; seen: Seen[]; close(): void }> {
  const seen: Seen[] = []
  const server = createHttpServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      seen.push({ method: request.method!, url: request.url!, headers: request.headers, body: Buffer.concat(chunks).toString() })
      response.writeHead(200, { 'content-type': 'text/plain' }).end(`api ${request.method} ${request.url}`)
    })
  })
  server.on('upgrade', (_request, socket) => {
    socket.on('error', () => {})
    socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n')
    socket.pipe(socket)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const close = () => {
    server.close()
    server.closeAllConnections()
  }
  return { server, port: (server.address() as AddressInfo).port, seen, close }
}

/** An app that greets, then echoes, and ends when its client ends. */
export async function startTcpApp(greeting = ''): Promise<{ server: Server; port: number; sockets: Set<Socket>; close(): void }> {
  const sockets = new Set<Socket>()
  const server = createTcpServer({ allowHalfOpen: true }, socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
    socket.on('error', () => {})
    if (greeting !== '') socket.write(greeting)
    socket.pipe(socket)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const close = () => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
  return { server, port: (server.address() as AddressInfo).port, sockets, close }
}

export interface Scene {
  mint: Mint
  eastRoot: Minted
  westRoot: Minted
  east: AgentStandIn
  west: AgentStandIn
  api: RunningSidecar
  db: RunningSidecar
  gateway: RunningGateway
  web: RunningSidecar
  apiApp: Awaited<ReturnType<typeof startHttpApp>>
  dbApp: Awaited<ReturnType<typeof startTcpApp>>
  close(): Promise<void>
}

/** West as its own agent tells it to a sidecar. */
export function westResources(self: Self, scene: { westRoot: Minted; eastRoot: Minted }, sources: ReturnType<typeof source>[]) {
  return [
    ['self', self.proxyId, self],
    ['roots', names.localRoots, { trustDomain: westDomain, peer: '', exportedPartition: '', pems: [scene.westRoot.certPem] }],
    ['roots', 'partner-east', { trustDomain: eastDomain, peer: 'partner-east', exportedPartition: '', pems: [scene.eastRoot.certPem] }],
    ['intentions', self.service, { sources }],
  ] satisfies Parameters<AgentStandIn['tell']>[1]
}

export const upstreamOf = (service: string, protocol: string, sni: string, spiffeId: string) => ({
  service,
  peer: 'west',
  protocol,
  listen: loopback(0),
  sni,
  spiffeIds: [spiffeId, westGatewayId],
  connectTimeoutMs: 2000,
  endpoints: `${service}-endpoints`,
})

/** The gateway's row for api, by which it passes; and by which it ends what comes. */
export const passing: SniRoute = { sni: apiSni, service: 'api', peer: 'partner-east', endpoints: 'api' }
const ending: SniRoute = { ...passing, upstream: 'api' }

/** Has api's requests from east end at the gateway of west: whom it is to believe, and where they go on to. */
export function endAtGateway({ west, eastRoot }: Pick<Scene, 'west' | 'eastRoot'>, protocol = 'http'): void {
  const target: UpstreamResource = { ...upstreamOf('api', protocol, apiInternalSni, apiId), peer: '', spiffeIds: [apiId], endpoints: 'api' }
  west.tell('gateway', [
    ['roots', 'partner-east', { trustDomain: eastDomain, peer: 'partner-east', exportedPartition: '', pems: [eastRoot.certPem] }],
    ['upstream', 'api', target],
    ['exported', apiSni, ending],
  ])
}

export async function startScene(): Promise<Scene> {
  const mint = new Mint()
  const [eastRoot, westRoot] = await Promise.all([mint.root(eastDomain), mint.root(westDomain)])
  const [east, west] = [new AgentStandIn(mint, eastRoot), new AgentStandIn(mint, westRoot)]
  const [apiApp, dbApp] = await Promise.all([startHttpApp(), startTcpApp('hello from db\n'), east.start(), west.start()])
  const logger = silentLogger()
  const roots = { eastRoot, westRoot }
  west.tell(
    'api-sidecar-proxy',
    westResources(sidecarSelf('west', 'api', 'http', apiApp.port), roots, [source('web', 'allow', 'partner-east')]),
  )
  west.tell(
    'db-sidecar-proxy',
    westResources(sidecarSelf('west', 'db', 'tcp', dbApp.port), roots, [source('web', 'allow', 'partner-east', 'db')]),
  )
  const [api, db] = await Promise.all(
    ['api', 'db'].map(name =>
      startSidecar({ proxyId: `${name}-sidecar-proxy`, agent: { url: west.url }, admin: { host: '127.0.0.1', port: 0 }, logger }),
    ),
  )
  await Promise.all([api!.ready(), db!.ready()])
  west.tell('gateway', [
    ['self', 'gateway', gatewaySelf()],
    ['roots', names.localRoots, { trustDomain: westDomain, peer: '', exportedPartition: '', pems: [westRoot.certPem] }],
    ['exported', apiSni, passing],
    ['exported', dbSni, { sni: dbSni, service: 'db', peer: 'partner-east', endpoints: 'db' }],
    ['internal', apiInternalSni, { sni: apiInternalSni, service: 'api', peer: '', endpoints: 'api' }],
    ['endpoints', 'api', { endpoints: [endpointAt(api!.port('public')!)] }],
    ['endpoints', 'db', { endpoints: [endpointAt(db!.port('public')!)] }],
  ])
  const gateway = await startGateway({ proxyId: 'gateway', agent: { url: west.url }, admin: { host: '127.0.0.1', port: 0 }, logger })
  await gateway.ready()
  east.tell('web-sidecar-proxy', [
    ['self', 'web-sidecar-proxy', sidecarSelf('east', 'web', 'tcp', 1)],
    ['roots', names.localRoots, { trustDomain: eastDomain, peer: '', exportedPartition: '', pems: [eastRoot.certPem] }],
    ['roots', 'west', { trustDomain: westDomain, peer: 'west', exportedPartition: '', pems: [westRoot.certPem] }],
    ['intentions', 'web', { sources: [] }],
    ['upstream', 'api?peer=west', upstreamOf('api', 'http', apiSni, apiId)],
    ['upstream', 'db?peer=west', upstreamOf('db', 'tcp', dbSni, dbId)],
    ['endpoints', 'api-endpoints', { endpoints: [endpointAt(gateway.port('wan')!)] }],
    ['endpoints', 'db-endpoints', { endpoints: [endpointAt(gateway.port('wan')!)] }],
  ])
  const web = await startSidecar({ proxyId: 'web-sidecar-proxy', agent: { url: east.url }, admin: { host: '127.0.0.1', port: 0 }, logger })
  await web.ready()
  const close = async () => {
    await Promise.all([web, gateway, api!, db!].map(each => each.close()))
    apiApp.close()
    dbApp.close()
    await Promise.all([east.stop(), west.stop()])
    mint.remove()
  }
  return { mint, eastRoot, westRoot, east, west, api: api!, db: db!, gateway, web, apiApp, dbApp, close }
}

/** One more instance of `api` in west, in front of an app; the gateway hears of it from the test. */
export async function startInstance(scene: Scene, name: string, appPort: number, more: Partial<Self> = {}): Promise<RunningSidecar> {
  const self = sidecarSelf('west', 'api', 'http', appPort, { proxyId: name, serviceId: name, ...more })
  scene.west.tell(name, westResources(self, scene, [source('web', 'allow', 'partner-east')]))
  const options = { proxyId: name, agent: { url: scene.west.url }, admin: { host: '127.0.0.1', port: 0 }, logger: silentLogger() }
  const sidecar = await startSidecar(options)
  await sidecar.ready()
  return sidecar
}

/** A number of a proxy's metrics page; 0 where it has no such line yet. `line` is what stands before the number, as a pattern. */
export async function metricOf(proxy: { admin?: { port: number } }, line: string): Promise<number> {
  const page = (await call(proxy.admin!.port, '/metrics')).body
  return Number(new RegExp(`^${line}(?:\\{[^}]*\\})? (\\d+)`, 'm').exec(page)?.[1] ?? 0)
}

/** Callers of one port that go on until they are stopped, each on a connection of its own that is kept alive. */
export class Load {
  readonly answers: { atMs: number; status: number; body: string; tookMs: number }[] = []
  readonly #agent = new Agent({ keepAlive: true })
  readonly #callers: Promise<void>[] = []
  #stopped = false

  constructor(port: () => number, callers: number, path: () => string = () => '/') {
    for (let i = 0; i < callers; i += 1) this.#callers.push(this.#call(port, path))
  }

  async #call(port: () => number, path: () => string): Promise<void> {
    while (!this.#stopped) {
      const began = performance.now()
      const { status, body } = await call(port(), path(), { agent: this.#agent }).catch((error: unknown) => ({
        status: 0,
        body: String(error),
      }))
      const now = performance.now()
      this.answers.push({ atMs: now, status, body, tookMs: now - began })
    }
  }

  /** How often each status came. */
  get statuses(): Record<number, number> {
    const statuses: Record<number, number> = {}
    for (const { status } of this.answers) statuses[status] = (statuses[status] ?? 0) + 1
    return statuses
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await Promise.all(this.#callers)
    this.#agent.destroy()
  }
}

/** One request with node:http; a keep-alive agent may be given. */
export function call(
  port: number,
  path: string,
  options: { method?: string; headers?: Record<string, string | string[]>; body?: string; agent?: import('node:http').Agent } = {},
): Promise<{ status: number; headers: IncomingHttpHeaders; body: string }> {
  return new Promise((resolve, reject) => {
    const { method = 'GET', headers = {}, body, agent } = options
    const request = requestHttp({ host: '127.0.0.1', port, path, method, headers, ...(agent ? { agent } : { agent: false }) }, response => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => resolve({ status: response.statusCode!, headers: response.headers, body: Buffer.concat(chunks).toString() }))
      response.on('error', reject)
    })
    request.on('error', reject)
    request.end(body)
  })
}

/** What a plain connection hears until it is closed; `say` once it is open. */
export function converse(port: number, say: string, end = true): Promise<{ heard: string; error: string }> {
  return new Promise(resolve => {
    let heard = ''
    let error = ''
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => (end ? socket.end(say) : socket.write(say)))
    socket.setEncoding('utf8')
    socket.on('data', text => {
      heard += String(text)
    })
    socket.on('end', () => socket.end())
    socket.on('error', failure => {
      error = (failure as NodeJS.ErrnoException).code ?? ''
    })
    socket.on('close', () => resolve({ heard, error }))
  })
}
