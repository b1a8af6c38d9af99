/**
 * The HTTP door: node:http servers over one route table. In the order in which a request meets it: connection limit, guard, path,
 * method, blocked endpoints, parameters that every endpoint shares, body, handler, one reply. Nothing a client sends may end the
 * process, and what a failure nobody foresaw was about goes to the log, never to the client.
 */
import { setMaxListeners } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, BlockList, type Socket } from 'node:net'
import { messageOf, MeshError } from '../../lib/errors.ts'
import type { Logger } from '../../lib/log.ts'
import { clearSocketFile } from '../../lib/socket-file.ts'
import { parseNetwork } from '../config.ts'
import { errorReply } from './errors.ts'
import { ConnectionCounter, guard, mayUseInternal, remoteOf } from './guard.ts'
import { type DoorLimits, httpLimits } from './limits.ts'
import type { AgentParts } from './parts.ts'
import {
  askedDatacenter,
  checkDatacenter,
  parseQuery,
  type Query,
  type ReadDefaults,
  readOptions,
  refuseEnterprise,
  tokenOf,
} from './request.ts'
import { empty, failedMeta, json, type Reply, send, text } from './reply.ts'
import type { Call, Method, Route } from './route.ts'
import { parseTarget, Router, type Target } from './router.ts'
import { routes } from './routes.ts'

export type HttpAddress = { host: string; port: number } | { socketPath: string }

export interface HttpConfig {
  allowedHosts?: readonly string[]
  responseHeaders?: Record<string, string>
  blockEndpoints?: readonly string[]
  allowWriteHttpFrom?: readonly string[]
  useCache?: boolean
  /** Reads of catalog and health are stale unless they say otherwise. */
  staleDiscovery?: boolean
  translateWanAddrs?: boolean
}

export interface HttpDoorOptions {
  listen: HttpAddress | HttpAddress[]
  agent: AgentParts
  logger: Logger
  /** `http_config` of the agent's configuration. */
  config?: HttpConfig
  /** `httpLimits` unless told. */
  limits?: Partial<DoorLimits>
}

export interface HttpDoor {
  /** Of the first TCP address; 0 when there is none. */
  port: number
  close(): Promise<void>
}

export async function startHttpDoor(options: HttpDoorOptions): Promise<HttpDoor> {
  const door = new Door(options)
  try {
    for (const address of Array.isArray(options.listen) ? options.listen : [options.listen]) await door.listen(address)
  } catch (error) {
    await door.close()
    throw error
  }
  return { port: door.port, close: () => door.close() }
}

const uiDisabled = 'Consul Agent: UI disabled. To enable, set ui_config.enabled=true in the agent configuration and restart.'
const tooManyConnections = 'Your IP is issuing too many concurrent connections, please rate limit your calls\n'

class Door {
  readonly #agent: AgentParts
  readonly #logger: Logger
  readonly #router = new Router(routes)
  readonly #servers: Server[] = []
  readonly #limits: DoorLimits
  readonly #counter: ConnectionCounter
  readonly #refused = new WeakSet<Socket>()
  readonly #closing = new AbortController()
  readonly #allowedHosts: ReadonlySet<string>
  readonly #blockEndpoints: readonly string[]
  readonly #writers: BlockList | undefined
  readonly #config: HttpConfig
  readonly #common: Record<string, string>
  port = 0

  constructor(options: HttpDoorOptions) {
    // Every request under way listens.
    setMaxListeners(0, this.#closing.signal)
    this.#agent = options.agent
    this.#logger = options.logger
    this.#limits = { ...httpLimits, ...options.limits }
    this.#counter = new ConnectionCounter(this.#limits.connectionsPerClient)
    this.#allowedHosts = new Set((options.config?.allowedHosts ?? []).map(each => each.toLowerCase()))
    this.#config = options.config ?? {}
    this.#blockEndpoints = this.#config.blockEndpoints ?? []
    this.#writers = writersOf(this.#config.allowWriteHttpFrom ?? [])
    this.#common = {
      ...this.#config.responseHeaders,
      ...(this.#config.translateWanAddrs ? { 'X-Consul-Translate-Addresses': 'true' } : {}),
      Vary: 'Accept-Encoding',
      'X-Consul-Default-Acl-Policy': options.agent.defaultAclPolicy,
    }
  }

  async listen(address: HttpAddress): Promise<void> {
    const server = createServer(
      {
        maxHeaderSize: httpLimits.headerBytes,
        headersTimeout: this.#limits.headersTimeoutMs,
        requestTimeout: this.#limits.requestTimeoutMs,
        keepAliveTimeout: httpLimits.keepAliveTimeoutMs,
        connectionsCheckingInterval: Math.min(2000, this.#limits.headersTimeoutMs),
      },
      (request, response) => void this.#serve(request, response),
    )
    // Node would drop what is beyond the number, an Origin perhaps: all are read (their size is limited), and too many are refused.
    server.maxHeadersCount = 0
    server.prependListener('connection', socket => this.#admit(socket))
    server.on('clientError', (error: NodeJS.ErrnoException, socket) => refuseMalformed(error, socket as Socket))
    if ('socketPath' in address) await removeStaleSocket(address.socketPath)
    await new Promise<void>((resolve, reject) => {
      server.once('error', error => reject(cannotListen(address, error)))
      server.listen('socketPath' in address ? { path: address.socketPath } : { host: address.host, port: address.port }, resolve)
    })
    this.#servers.push(server)
    if (this.port === 0 && 'port' in address) this.port = (server.address() as AddressInfo).port
  }

  async close(): Promise<void> {
    this.#closing.abort()
    await Promise.all(
      this.#servers.map(
        server =>
          new Promise<void>(resolve => {
            server.close(() => resolve())
            server.closeAllConnections()
          }),
      ),
    )
  }

  #admit(socket: Socket): void {
    if (this.#counter.admit(socket)) return
    this.#refused.add(socket)
    socket.on('error', () => socket.destroy())
    socket.end(
      `HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain\r\nContent-Length: ${tooManyConnections.length}\r\nConnection: close\r\n\r\n${tooManyConnections}`,
      () => socket.destroy(),
    )
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (this.#refused.has(request.socket)) return void request.socket.destroy()
    response.on('error', () => response.destroy())
    const plain = (reply: Reply, close = false) => {
      if (close) response.setHeader('Connection', 'close')
      send(response, reply, { request, common: {}, pretty: false, compress: false, timeoutMs: this.#limits.answerTimeoutMs })
    }
    if (request.rawHeaders.length / 2 > httpLimits.headerCount) return plain(empty({}, 431), true)
    const target = parseTarget(request.url ?? '')
    // Anything before HTTP/1.0 has no headers to be judged by, and of two Hosts the guard would see one.
    if (!target || request.httpVersionMajor !== 1 || (request.headersDistinct['host']?.length ?? 0) > 1) return plain(empty({}, 400), true)
    const refusal = guard(request, target.authority ?? request.headers.host, remoteOf(request.socket, request.headers), {
      allowedHosts: this.#allowedHosts,
    })
    if (refusal) return plain(text(refusal.body, refusal.status), true)
    if (target.path === '/') return plain(text(uiDisabled, 200))
    const routed = this.#router.route(request.method ?? '', target)
    if (routed.kind === 'answer') return plain({ kind: 'bytes', status: routed.status, headers: routed.headers, body: routed.body })
    await this.#serveRoute(request, response, target, routed)
  }

  async #serveRoute(
    request: IncomingMessage,
    response: ServerResponse,
    target: Target,
    routed: { methods: ReadonlyMap<Method, Route>; allow: string; path: string; params: Record<string, string | undefined> },
  ): Promise<void> {
    const query = parseQuery(target.query)
    const route = routed.methods.get(request.method as Method)
    const reply = (value: Reply) =>
      send(response, value, {
        request,
        common: route?.unregistered ? { Vary: 'Accept-Encoding' } : this.#common,
        pretty: this.#agent.config.dev || (query?.has('pretty') ?? false),
        compress: route?.plain !== true,
        timeoutMs: this.#limits.answerTimeoutMs,
      })
    try {
      const ownOptions = [...routed.methods.values()].some(each => each.ownOptions)
      if (request.method === 'OPTIONS') return reply(ownOptions ? json({}, { Allow: routed.allow }) : empty({ Allow: routed.allow }))
      if (this.#blockEndpoints.some(prefix => routed.path.startsWith(prefix))) {
        return reply(text('Endpoint is blocked by agent configuration', 403))
      }
      if (!route)
        return reply(
          text(`method ${request.method} not allowed`, 405, { Allow: ownOptions ? routed.allow.replace('OPTIONS,', '') : routed.allow }),
        )
      if (route.method !== 'GET' && !this.#mayWrite(request)) return reply(text('Access is restricted', 403))
      if (!query) return reply(empty({}, 500))
      reply(await this.#handle(route, request, response, query, routed))
    } catch (error) {
      reply(this.#failure(error, request, response, route))
    }
  }

  async #handle(
    route: Route,
    request: IncomingMessage,
    response: ServerResponse,
    query: Query,
    routed: { path: string; params: Record<string, string | undefined> },
  ): Promise<Reply> {
    refuseEnterprise(query, request.headers)
    const remote = remoteOf(request.socket, request.headers)
    if (route.localOnly !== undefined && !mayUseInternal(remote)) {
      // A body that nobody will read.
      response.setHeader('Connection', 'close')
      throw new MeshError('permission-denied', route.localOnly)
    }
    if (!route.agentLocal) checkDatacenter(askedDatacenter(query), this.#agent.config.datacenter, this.#agent.tables)
    const gone = new AbortController()
    const stop = () => gone.abort()
    response.once('close', stop)
    this.#closing.signal.addEventListener('abort', stop, { once: true })
    try {
      const call: Call = {
        agent: this.#agent,
        method: route.method,
        path: routed.path,
        query,
        header: name => headerOf(request, name),
        rest: routed.params['*'] ?? '',
        params: routed.params,
        token: tokenOf(query, request.headers),
        body: route.method === 'GET' ? Buffer.alloc(0) : await readBody(request, route, this.#limits),
        read: route.agentLocal
          ? { consistency: 'leader', cached: false }
          : readOptions(query, request.headers, this.#readDefaults(routed.path)),
        signal: gone.signal,
        remote,
      }
      return await route.handler(call)
    } finally {
      response.removeListener('close', stop)
      this.#closing.signal.removeEventListener('abort', stop)
    }
  }

  #mayWrite(request: IncomingMessage): boolean {
    const { address, unix } = remoteOf(request.socket, request.headers)
    return unix || this.#writers === undefined || this.#writers.check(address, address.includes(':') ? 'ipv6' : 'ipv4')
  }

  #readDefaults(path: string): Partial<ReadDefaults> {
    const discovery = path.startsWith('/v1/catalog/') || path.startsWith('/v1/health/')
    return { useCache: this.#config.useCache ?? true, stale: discovery && this.#config.staleDiscovery === true }
  }

  #failure(error: unknown, request: IncomingMessage, response: ServerResponse, route: Route | undefined): Reply {
    const { status, body, expected } = errorReply(error)
    if (!expected)
      this.#logger.error(
        { method: request.method, route: route?.path, error: messageOf(error), stack: (error as Error)?.stack },
        'request failed',
      )
    // The rest of a body that is too large is not worth reading.
    if (status === 413) response.setHeader('Connection', 'close')
    const read = route?.method === 'GET' && route.agentLocal !== true && status === 500
    return text(body, status, read ? failedMeta : {})
  }
}

function headerOf(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name]
  return Array.isArray(value) ? value.join(', ') : value
}

/** Undefined: anyone. */
function writersOf(networks: readonly string[]): BlockList | undefined {
  if (networks.length === 0) return undefined
  const list = new BlockList()
  for (const text of networks) {
    const network = parseNetwork(text)
    if (network) list.addSubnet(network.address, network.bits, network.family)
  }
  return list
}

/** Where Consul's documentation speaks of the limit. */
const limitKeys = { kvValueBytes: 'kv_max_value_size', txnBytes: 'txn_max_req_len' } as const

function readBody(request: IncomingMessage, route: Route, limits: DoorLimits): Promise<Buffer> {
  const named = route.bodyLimit
  const limit = typeof named === 'string' ? limits[named] : (named ?? httpLimits.bodyBytes)
  const help =
    typeof named === 'string' ? `See https://www.consul.io/docs/agent/config/config-files#${limitKeys[named]}.` : 'Send less at a time.'
  const tooLarge = (size: number) => new MeshError('too-large', `Request body(${size} bytes) too large, max size: ${limit} bytes. ${help}`)
  const declared = Number(request.headers['content-length'] ?? 0)
  if (declared > limit) return Promise.reject(tooLarge(declared))
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    let size = 0
    request.on('data', (chunk: Buffer) => {
      size += chunk.length
      if (size <= limit) return void chunks.push(chunk)
      request.removeAllListeners('data')
      request.pause()
      reject(tooLarge(size))
    })
    request.once('end', () => resolve(Buffer.concat(chunks)))
    request.once('error', reject)
    request.once('close', () => reject(new MeshError('bad-request', 'the request body ended early')))
  })
}

/** What node's parser refuses never becomes a request; the client is told and the connection ends. */
function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
  if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
  const status =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? '431 Request Header Fields Too Large'
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? '408 Request Timeout'
        : '400 Bad Request'
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`, () => socket.destroy())
}

function cannotListen(address: HttpAddress, error: Error): MeshError {
  const where = 'socketPath' in address ? `unix://${address.socketPath}` : `${address.host}:${address.port}`
  return new MeshError('unavailable', `cannot listen for HTTP on ${where}: ${error.message}; stop what uses it, or set ports.http`, {
    cause: error,
  })
}

/** A socket file that nobody answers on is left over from a process that died. */
async function removeStaleSocket(path: string): Promise<void> {
  if (await clearSocketFile(path)) return
  throw new MeshError(
    'unavailable',
    `cannot listen for HTTP on unix://${path}: another process answers there; stop it, or set addresses.http`,
  )
}
