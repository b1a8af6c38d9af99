/** What the tests of the HTTP/1.1 code share: heads fed in pieces, and a served connection between real sockets with a plain TCP door. */
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { BodyReader } from '../../../src/proxy/http1/body.ts'
import {
  Deadlines,
  defaultHttp1Limits,
  serveHttp1,
  type ConnectFailure,
  type Http1Limits,
  type HttpDoor,
  type Opened,
  type Outcome,
  type Refused,
  type RequestHead,
  type ServedConnection,
  type UpstreamStream,
} from '../../../src/proxy/http1/connection.ts'
import { RequestHead as Request, ResponseHead as Response, type Framing } from '../../../src/proxy/http1/head.ts'
import { refusalOf } from '../../../src/proxy/http1/refusals.ts'

export const limits: Http1Limits = { ...defaultHttp1Limits }

export const bytes = (text: string): Buffer => Buffer.from(text, 'latin1')

/** Cuts a buffer at the given positions, into buffers of their own memory. */
export function cut(whole: Buffer, positions: readonly number[]): Buffer[] {
  const sorted = [...new Set(positions)].filter(at => at > 0 && at < whole.length).sort((a, b) => a - b)
  return [0, ...sorted].map((from, i) => Buffer.from(whole.subarray(from, sorted[i] ?? whole.length)))
}

/** What a head came to, as plain data. */
export type Parsed = { refused: string } | { more: true } | Record<string, unknown>

function growing<H>(pieces: Buffer[], parse: (buffer: Buffer) => number, show: (end: number) => H): H | Parsed {
  let buffer: Buffer = Buffer.alloc(0)
  for (const piece of pieces) {
    buffer = Buffer.concat([buffer, piece])
    const at = parse(buffer)
    if (at < 0) return { refused: refusalOf(at).reason }
    if (at > 0) return show(at)
  }
  return { more: true }
}

export function parseRequest(pieces: Buffer[], with_: Http1Limits = limits): Parsed {
  const head = new Request(with_)
  head.begin()
  return growing(
    pieces,
    buffer => head.parse(buffer, 0, buffer.length),
    end => ({
      end,
      method: head.method,
      target: head.target,
      path: head.path,
      version: head.version,
      host: head.host,
      framing: head.framing,
      contentLength: head.contentLength,
      keepAlive: head.keepAlive,
      upgrade: head.upgrade,
      expectContinue: head.expectContinue,
      headers: head.headers,
      forwarded: head.forwarded(),
    }),
  )
}

export function parseResponse(pieces: Buffer[], method = 'GET', with_: Http1Limits = limits): Parsed {
  const head = new Response(with_)
  head.begin()
  return growing(
    pieces,
    buffer => head.parse(buffer, 0, buffer.length, method),
    end => ({
      end,
      status: head.status,
      framing: head.framing,
      contentLength: head.contentLength,
      keepAlive: head.keepAlive,
      headers: head.headers,
      forwarded: head.forwarded(''),
    }),
  )
}

/** What a body came to: the bytes that go on, what is left behind, or why it was refused. */
export function readBody(
  pieces: Buffer[],
  kind: Framing,
  length = 0,
  framed = true,
  with_: Http1Limits = limits,
): { refused: string } | { done: boolean; out: string; rest: string } {
  const body = new BodyReader(with_)
  body.begin(kind, length, framed)
  let out = ''
  let rest = ''
  for (const piece of pieces) {
    let at = 0
    while (at < piece.length && !body.done) {
      at = body.read(piece, at, piece.length)
      if (at < 0) return { refused: refusalOf(at).reason }
      out += piece.toString('latin1', body.from, body.to)
      if (body.done) out += body.closing
    }
    rest += piece.toString('latin1', at)
  }
  return { done: body.done, out, rest }
}

/** A pool of plain TCP connections to one port. */
export class TcpPool {
  readonly idle: Socket[] = []
  dialled = 0
  reused = 0
  released = 0
  destroyed = 0
  private readonly port: number

  constructor(port: number) {
    this.port = port
  }

  get(fresh: boolean): UpstreamStream | Promise<UpstreamStream | ConnectFailure> {
    const pooled = fresh ? undefined : this.idle.pop()
    if (pooled !== undefined) {
      this.reused++
      return this.wrap(pooled, true)
    }
    this.dialled++
    return new Promise(resolve => {
      const socket = connect({ port: this.port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
      const failed = (): void => resolve({ reset: 'remote connection failure' })
      socket.once('error', failed)
      socket.once('connect', () => {
        socket.off('error', failed)
        socket.on('error', () => {})
        resolve(this.wrap(socket, false))
      })
    })
  }

  close(): void {
    for (const socket of this.idle) socket.destroy()
  }

  private wrap(stream: Socket, reusable: boolean): UpstreamStream {
    return {
      stream,
      reusable,
      release: () => {
        this.released++
        this.idle.push(stream)
        if (!reusable) stream.once('close', () => this.idle.includes(stream) && this.idle.splice(this.idle.indexOf(stream), 1))
      },
      destroy: () => {
        this.destroyed++
        stream.destroy()
      },
    }
  }
}

/** A door to a pool that lets everything through, unless `judge` says otherwise, and remembers how requests ended. */
export class TestDoor implements HttpDoor {
  readonly outcomes: Omit<Outcome, 'durationMs'>[] = []
  readonly refused: string[] = []
  allowed = true
  private readonly pool: TcpPool
  private readonly judge: (head: RequestHead) => Refused | Partial<Opened> | undefined

  constructor(pool: TcpPool, judge: (head: RequestHead) => Refused | Partial<Opened> | undefined = () => undefined) {
    this.pool = pool
    this.judge = judge
  }

  open(head: RequestHead): Opened | Refused {
    const verdict = this.judge(head)
    if (verdict?.ok === false) return verdict
    return { ok: true, connect: fresh => this.pool.get(fresh), ...verdict }
  }

  stillAllowed(): boolean {
    return this.allowed
  }

  finished({ status, source, reason, requestBytes, responseBytes, retried }: Outcome): void {
    this.outcomes.push({ status, source, reason, requestBytes, responseBytes, retried })
  }

  malformed(status: number, reason: string): void {
    this.refused.push(`${status} ${reason}`)
  }
}

export interface Served {
  port: number
  pool: TcpPool
  door: TestDoor
  connections: ServedConnection[]
  sockets: Socket[]
  close(): Promise<void>
}

/** A server whose every connection goes through `serveHttp1` to the app at `appPort`. */
export async function serve(
  appPort: number,
  options: { limits?: Partial<Http1Limits>; judge?: (head: RequestHead) => Refused | Partial<Opened> | undefined; tickMs?: number } = {},
): Promise<Served> {
  const pool = new TcpPool(appPort)
  const door = new TestDoor(pool, options.judge)
  const deadlines = new Deadlines(undefined, options.tickMs ?? 10)
  const connections: ServedConnection[] = []
  const sockets: Socket[] = []
  const server = createServer({ noDelay: true, allowHalfOpen: true }, socket => {
    sockets.push(socket)
    connections.push(serveHttp1(socket, door, { ...limits, ...options.limits }, deadlines))
  })
  const port = await listen(server)
  const close = async (): Promise<void> => {
    pool.close()
    for (const socket of sockets) socket.destroy()
    await new Promise(resolve => server.close(resolve))
  }
  return { port, pool, door, connections, sockets, close }
}

export function listen(server: Server): Promise<number> {
  return new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port)))
}

/** A raw client that collects what it is sent. */
export class RawClient {
  readonly socket: Socket
  received = ''
  ended = false
  error: string | undefined
  private readonly waiting: (() => void)[] = []

  constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
    this.socket.on('data', (chunk: Buffer) => {
      this.received += chunk.toString('latin1')
      this.wake()
    })
    this.socket.on('end', () => {
      this.ended = true
      this.wake()
    })
    this.socket.on('error', (error: NodeJS.ErrnoException) => {
      this.error = error.code ?? error.message
    })
    this.socket.on('close', () => {
      this.ended = true
      this.wake()
    })
  }

  send(text: string): void {
    this.socket.write(text, 'latin1')
  }

  /** Waits until what came holds `text`; a test that waits in vain runs into its time limit. */
  async until(text: string | ((received: string) => boolean)): Promise<string> {
    const there = typeof text === 'string' ? (received: string): boolean => received.includes(text) : text
    while (!there(this.received)) {
      if (this.ended) throw new Error(`ended after ${JSON.stringify(this.received.slice(0, 500))}`)
      await this.next()
    }
    return this.received
  }

  async end(): Promise<string> {
    while (!this.ended) await this.next()
    this.socket.destroy()
    return this.received
  }

  take(): string {
    const { received } = this
    this.received = ''
    return received
  }

  private next(): Promise<void> {
    return new Promise(resolve => this.waiting.push(resolve))
  }

  private wake(): void {
    for (const resolve of this.waiting.splice(0)) resolve()
  }
}

/** Sends one text on a connection of its own and answers all that comes back. */
export async function once(port: number, text: string): Promise<string> {
  const client = new RawClient(port)
  client.send(text)
  return client.end()
}
