/**
 * A sidecar pair of two clusters for a service that speaks HTTP/2: east's `web` calls west's `api`, sidecar to sidecar, and west's own `local`
 * calls it too. The app is whatever the test listens with.
 */
import {
  connect,
  createServer,
  type ClientHttp2Session,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
  type ServerOptions,
} from 'node:http2'
import type { AddressInfo } from 'node:net'
import { silentLogger } from '../../../src/lib/log.ts'
import { names, type Self } from '../../../src/mesh/snapshot.ts'
import { startSidecar, type RunningSidecar, type SidecarOptions } from '../../../src/proxy/sidecar.ts'
import { AgentStandIn } from '../../support/agent-stand-in.ts'
import { Mint, type Minted } from '../../support/mint.ts'
import {
  apiId,
  apiSni,
  eastDomain,
  endpointAt,
  sidecarSelf,
  source,
  upstreamOf,
  westDomain,
  westResources,
} from '../../support/proxy-scene.ts'

type Source = Omit<ReturnType<typeof source>, 'action'> & { action?: string | undefined; permissions?: unknown }

export interface Http2Scene {
  mint: Mint
  eastRoot: Minted
  westRoot: Minted
  east: AgentStandIn
  west: AgentStandIn
  api: RunningSidecar
  web: RunningSidecar
  /** Where web's app reaches api. */
  port: number
  tell(sources: Source[]): void
  tellSelf(more: Partial<Self>): void
  /** Where web finds api. */
  tellEndpoints(...ports: number[]): void
  close(): Promise<void>
}

export async function startHttp2Scene(
  appPort: number,
  options: { protocol?: string; limits?: SidecarOptions['limits']; self?: Partial<Self> } = {},
): Promise<Http2Scene> {
  const { protocol = 'grpc', limits = {} } = options
  const mint = new Mint()
  const [eastRoot, westRoot] = await Promise.all([mint.root(eastDomain), mint.root(westDomain)])
  const [east, west] = [new AgentStandIn(mint, eastRoot), new AgentStandIn(mint, westRoot)]
  await Promise.all([east.start(), west.start()])
  const logger = silentLogger()
  const self = (more: Partial<Self> = {}) => sidecarSelf('west', 'api', protocol, appPort, { ...options.self, ...more })
  west.tell('api-sidecar-proxy', westResources(self(), { eastRoot, westRoot }, [source('web', 'allow', 'partner-east')]))
  const api = await startSidecar({
    proxyId: 'api-sidecar-proxy',
    agent: { url: west.url },
    admin: { host: '127.0.0.1', port: 0 },
    logger,
    limits,
  })
  await api.ready()
  east.tell('web-sidecar-proxy', [
    ['self', 'web-sidecar-proxy', sidecarSelf('east', 'web', 'tcp', 1)],
    ['roots', names.localRoots, { trustDomain: eastDomain, peer: '', exportedPartition: '', pems: [eastRoot.certPem] }],
    ['roots', 'west', { trustDomain: westDomain, peer: 'west', exportedPartition: '', pems: [westRoot.certPem] }],
    ['intentions', 'web', { sources: [] }],
    ['upstream', 'api?peer=west', upstreamOf('api', protocol, apiSni, apiId)],
    ['endpoints', 'api-endpoints', { endpoints: [endpointAt(api.port('public')!)] }],
  ])
  const web = await startSidecar({
    proxyId: 'web-sidecar-proxy',
    agent: { url: east.url },
    admin: { host: '127.0.0.1', port: 0 },
    logger,
    limits,
  })
  await web.ready()
  return {
    mint,
    eastRoot,
    westRoot,
    east,
    west,
    api,
    web,
    port: web.port('api?peer=west')!,
    tell: sources => west.tell('api-sidecar-proxy', [['intentions', 'api', { sources: sources as never }]]),
    tellSelf: more => west.tell('api-sidecar-proxy', [['self', 'api-sidecar-proxy', self(more)]]),
    tellEndpoints: (...ports) =>
      east.tell('web-sidecar-proxy', [['endpoints', 'api-endpoints', { endpoints: ports.map(port => endpointAt(port)) }]]),
    close: async () => {
      await Promise.all([web.close(), api.close()])
      await Promise.all([east.stop(), west.stop()])
      mint.remove()
    },
  }
}

export interface App {
  port: number
  server: Http2Server
  close(): void
}

/** An h2c server on a port of its own. */
export async function startApp(
  onStream: (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void,
  options: ServerOptions = {},
): Promise<App> {
  const server = createServer(options)
  server.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    onStream(stream, headers)
  })
  const sessions = new Set<ServerHttp2Session>()
  server.on('session', session => {
    sessions.add(session)
    session.on('close', () => sessions.delete(session))
    session.on('error', () => {})
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port,
    server,
    close: () => {
      server.close()
      for (const session of sessions) session.destroy()
    },
  }
}

export function openSession(port: number): ClientHttp2Session {
  const session = connect(`http://127.0.0.1:${port}`)
  session.on('error', () => {})
  return session
}

export interface Answer {
  status: number
  headers: IncomingHttpHeaders
  trailers: IncomingHttpHeaders
  interims: IncomingHttpHeaders[]
  body: string
  code: number
}

/** One request and all that came back. */
export function ask(
  session: ClientHttp2Session,
  headers: Record<string, string | string[]>,
  body?: string | Buffer,
  trailers?: Record<string, string>,
): Promise<Answer> {
  return new Promise(resolve => {
    const stream = session.request(headers, { endStream: body === undefined, waitForTrailers: trailers !== undefined })
    const answer: Answer = { status: 0, headers: {}, trailers: {}, interims: [], body: '', code: 0 }
    const chunks: Buffer[] = []
    stream.on('headers', interim => answer.interims.push(interim))
    stream.on('response', got => {
      answer.headers = got
      answer.status = got[':status']!
    })
    stream.on('trailers', got => (answer.trailers = got))
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('error', () => {})
    stream.on('wantTrailers', () => stream.sendTrailers(trailers!))
    stream.on('close', () => resolve({ ...answer, body: Buffer.concat(chunks).toString(), code: stream.rstCode }))
    if (body !== undefined) stream.end(body)
  })
}
