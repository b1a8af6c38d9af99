// The scene of the end-to-end tests: clusters east (web, the caller) and west (api over http, db over tcp), peered by one token, each
// part an OS process of its own; the apps are plain servers of the test.
import { createServer as createHttpServer, type IncomingMessage, type Server as HttpServer } from 'node:http'
import { connect, createServer as createTcpServer, type Server as TcpServer } from 'node:net'
import { freePorts } from './free-ports.ts'
import { ClusterProcess, call, until } from './processes.ts'

/** What the api app saw of a request; it answers with this as JSON. */
export interface Seen {
  app: string
  method: string
  url: string
  headers: IncomingMessage['headers']
  body: string
}

export interface TwoClusters {
  east: ClusterProcess
  west: ClusterProcess
  /** web's local ports for its upstreams in west. */
  apiPort: number
  dbPort: number
  apiApp: { port: number; requests: () => number }
  westGatewayPort: number
  allow(source: string, destination: string): Promise<void>
  intentions(destination: string, sources: unknown[]): Promise<void>
  export(names: string[]): Promise<void>
  stop(): Promise<void>
}

export interface SceneOptions {
  /** Further agent configuration for both clusters. */
  config?: Record<string, unknown>
  /** Further flags of each proxy: gateway, api, db, web. */
  proxyFlags?: Record<string, string[]>
  /** Start only agents and peering, no apps and proxies. */
  controlPlaneOnly?: boolean
}

function portOf(server: HttpServer | TcpServer): number {
  return (server.address() as { port: number }).port
}

/** east calls west "west"; west calls east "partner-east", so that whose name is meant is always visible. */
export const eastName = 'partner-east'
export const westName = 'west'

export async function startTwoClusters(options: SceneOptions = {}): Promise<TwoClusters> {
  let served = 0
  const api = createHttpServer((incoming, outgoing) => {
    served += 1
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.on('end', () => {
      const seen: Seen = {
        app: 'api',
        method: incoming.method ?? '',
        url: incoming.url ?? '',
        headers: incoming.headers,
        body: Buffer.concat(chunks).toString(),
      }
      outgoing.setHeader('content-type', 'application/json')
      outgoing.end(JSON.stringify(seen))
    })
  })
  const db = createTcpServer({ allowHalfOpen: true }, socket => {
    socket.on('error', () => socket.destroy())
    socket.on('data', chunk => socket.write(chunk.toString().toUpperCase()))
    socket.on('end', () => socket.end('bye'))
  })
  await Promise.all([api, db].map(server => new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))))
  const [east, west] = await Promise.all([ClusterProcess.start('east', options.config), ClusterProcess.start('west', options.config)])
  const [apiPort, dbPort, westGatewayPort] = (await freePorts(3)) as [number, number, number]

  const scene: TwoClusters = {
    east,
    west,
    apiPort,
    dbPort,
    apiApp: { port: portOf(api), requests: () => served },
    westGatewayPort,
    allow: (source, destination) => scene.intentions(destination, [{ Name: source, Peer: eastName, Action: 'allow' }]),
    async intentions(destination, sources) {
      await west.api('PUT', '/v1/config', { Kind: 'service-intentions', Name: destination, Sources: sources })
    },
    async export(names) {
      await west.api('PUT', '/v1/config', {
        Kind: 'exported-services',
        Name: 'default',
        Services: names.map(Name => ({ Name, Consumers: [{ Peer: eastName }] })),
      })
    },
    async stop() {
      await Promise.all([east.stop(), west.stop()])
      api.closeAllConnections()
      await Promise.all([api, db].map(server => new Promise(resolve => server.close(resolve))))
    },
  }
  try {
    await peer(scene)
    if (!options.controlPlaneOnly) await populate(scene, portOf(api), portOf(db), options.proxyFlags ?? {})
    return scene
  } catch (error) {
    await scene.stop()
    throw error
  }
}

/** Token in west, establish in east, ACTIVE on both sides. */
export async function peer({ east, west }: Pick<TwoClusters, 'east' | 'west'>): Promise<void> {
  const made = await west.api('POST', '/v1/peering/token', { PeerName: eastName })
  await east.api('POST', '/v1/peering/establish', {
    PeerName: westName,
    PeeringToken: (made.json as { PeeringToken: string }).PeeringToken,
  })
  await peeringActive({ east, west })
}

export async function peeringActive({ east, west }: Pick<TwoClusters, 'east' | 'west'>): Promise<void> {
  for (const [cluster, name] of [
    [east, westName],
    [west, eastName],
  ] as const) {
    await until(`${cluster.datacenter} sees ${name} ACTIVE`, async () => {
      const read = await cluster.api('GET', `/v1/peering/${name}`)
      return (read.json as { State: string }).State === 'ACTIVE'
    })
  }
}

/** The caller: no app of its own, a sidecar with these upstreams. */
export async function registerWeb(cluster: ClusterProcess, Upstreams: object[]): Promise<void> {
  await cluster.api('PUT', '/v1/agent/service/register', { Name: 'web', Port: 9, Connect: { SidecarService: { Proxy: { Upstreams } } } })
}

async function populate(scene: TwoClusters, apiAppPort: number, dbAppPort: number, flags: Record<string, string[]>): Promise<void> {
  const { east, west } = scene
  await west.api('PUT', '/v1/config', { Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
  await west.api('PUT', '/v1/agent/service/register', {
    Name: 'api',
    Port: apiAppPort,
    Check: { CheckID: 'api-ttl', TTL: '1h', Status: 'passing' },
    Connect: { SidecarService: {} },
  })
  await west.api('PUT', '/v1/agent/service/register', { Name: 'db', Port: dbAppPort, Connect: { SidecarService: {} } })
  await scene.export(['api', 'db'])
  await scene.allow('web', 'api')
  await scene.allow('web', 'db')
  await registerWeb(east, [
    { DestinationName: 'api', DestinationPeer: westName, LocalBindPort: scene.apiPort },
    { DestinationName: 'db', DestinationPeer: westName, LocalBindPort: scene.dbPort },
  ])
  await Promise.all([
    west.proxy('gateway', 'gateway', '--address', `127.0.0.1:${scene.westGatewayPort}`, ...(flags['gateway'] ?? [])),
    west.proxy('api', 'sidecar', '--for', 'api', ...(flags['api'] ?? [])),
    west.proxy('db', 'sidecar', '--for', 'db', ...(flags['db'] ?? [])),
    east.proxy('web', 'sidecar', '--for', 'web', ...(flags['web'] ?? [])),
  ])
  await until('a request crosses', async () => (await call(scene.apiPort, '/', { timeoutMs: 1000 })).status === 200, 30_000)
  await until('a tunnel crosses', async () => (await exchange(scene.dbPort, 'x')) === 'Xbye', 30_000)
}

/** Sends a text to db, half-closes, and answers all that came back: the text in capitals, and `bye`. */
export function exchange(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    let said = ''
    socket.setTimeout(5000, () => socket.destroy(new Error('silence')))
    socket.on('data', chunk => {
      said += chunk.toString()
    })
    socket.on('error', reject)
    socket.on('end', () => resolve(said))
    socket.end(text)
  })
}
