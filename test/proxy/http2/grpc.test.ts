/** gRPC through a sidecar pair, with grpc-js on both ends: every kind of call, what a denial and a failure look like, and what ends a call. */
import { setTimeout as sleep } from 'node:timers/promises'
import {
  Client,
  credentials,
  Metadata,
  Server,
  ServerCredentials,
  status,
  type ClientDuplexStream,
  type ServerDuplexStream,
  type ServiceError,
} from '@grpc/grpc-js'
import t from 'tap'
import { source, until } from '../../support/proxy-scene.ts'
import { startHttp2Scene, type Http2Scene } from './scene.ts'

const bytes = (value: Buffer) => value
const method = (name: string, requestStream: boolean, responseStream: boolean) => ({
  path: `/test.Echo/${name}`,
  requestStream,
  responseStream,
  requestSerialize: bytes,
  requestDeserialize: bytes,
  responseSerialize: bytes,
  responseDeserialize: bytes,
})
const methods = {
  unary: method('Unary', false, false),
  secret: method('Secret', false, false),
  collect: method('Collect', true, false),
  repeat: method('Repeat', false, true),
  chat: method('Chat', true, true),
}

/** What the app saw of calls that did not run to their end. */
const app = { cancelled: 0, chats: 0 }

async function startGrpcApp(): Promise<{ server: Server; port: number }> {
  const server = new Server({ 'grpc.max_receive_message_length': -1 })
  server.addService(methods, {
    unary: (call: { request: Buffer; metadata: Metadata }, callback: (e: unknown, value?: Buffer, trailer?: Metadata) => void) => {
      if (call.request.toString() === 'fail') {
        const metadata = new Metadata()
        metadata.set('x-why-bin', Buffer.from([0, 1, 255]))
        callback({ code: status.FAILED_PRECONDITION, details: 'not “now”', metadata })
        return
      }
      const trailer = new Metadata()
      trailer.set('x-trailer', 'yes')
      callback(null, Buffer.concat([Buffer.from('echo '), call.request]), trailer)
    },
    secret: (_call: unknown, callback: (e: unknown, value?: Buffer) => void) => callback(null, Buffer.from('secret')),
    collect: (call: NodeJS.ReadableStream, callback: (e: unknown, value?: Buffer) => void) => {
      let size = 0
      call.on('data', (chunk: Buffer) => (size += chunk.length))
      call.on('end', () => callback(null, Buffer.from(String(size))))
    },
    repeat: (call: ServerDuplexStream<Buffer, Buffer>) => {
      for (let i = 0; i < 5; i += 1) call.write(Buffer.from(`${i}`))
      call.end()
    },
    chat: (call: ServerDuplexStream<Buffer, Buffer>) => {
      app.chats += 1
      call.on('cancelled', () => (app.cancelled += 1))
      call.on('error', () => {})
      call.on('data', (chunk: Buffer) => call.write(Buffer.concat([Buffer.from('re '), chunk])))
      call.on('end', () => call.end())
    },
  } as never)
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound))),
  )
  return { server, port }
}

interface Answered {
  code: status
  details: string
  value: string
  trailers: Record<string, unknown>
}

function callUnary(client: Client, path: string, request: Buffer | string): Promise<Answered> {
  return new Promise(resolve => {
    let trailers: Record<string, unknown> = {}
    const call = client.makeUnaryRequest(path, bytes, bytes, Buffer.from(request), (error: ServiceError | null, value?: Buffer) =>
      setImmediate(() =>
        resolve({
          code: error?.code ?? status.OK,
          details: error?.details ?? '',
          value: value === undefined ? '' : value.toString('latin1'),
          trailers,
        }),
      ),
    )
    call.on('status', got => (trailers = got.metadata.getMap()))
  })
}

function chat(client: Client): { call: ClientDuplexStream<Buffer, Buffer>; heard: string[]; ended: Promise<number> } {
  const call = client.makeBidiStreamRequest('/test.Echo/Chat', bytes, bytes)
  const heard: string[] = []
  call.on('data', (chunk: Buffer) => heard.push(chunk.toString()))
  call.on('error', () => {})
  const ended = new Promise<number>(resolve => call.on('status', got => resolve(got.code)))
  return { call, heard, ended }
}

const allowed = [source('web', 'allow', 'partner-east')]
const allowedMethods = (...paths: string[]) => [
  {
    ...source('web', 'allow', 'partner-east'),
    action: undefined,
    permissions: paths.map(pathPrefix => ({ action: 'allow', http: { pathPrefix } })),
  },
]

t.test('gRPC', async t => {
  const { server, port } = await startGrpcApp()
  const scene: Http2Scene = await startHttp2Scene(port)
  const client = new Client(`127.0.0.1:${scene.port}`, credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 })
  t.teardown(async () => {
    client.close()
    await scene.close()
    server.forceShutdown()
  })

  await t.test('a unary call, its trailers, and its failure with details reach the caller', async t => {
    t.match(await callUnary(client, '/test.Echo/Unary', 'hello'), { code: 0, value: 'echo hello', trailers: { 'x-trailer': 'yes' } })
    const failed = await callUnary(client, '/test.Echo/Unary', 'fail')
    t.match(failed, { code: status.FAILED_PRECONDITION, details: 'not “now”', trailers: { 'x-why-bin': Buffer.from([0, 1, 255]) } })
    t.equal((await callUnary(client, '/test.Echo/Missing', '')).code, status.UNIMPLEMENTED)
  })

  await t.test('streams of either side, and of both, run to their end', async t => {
    const size = await new Promise<string>((resolve, reject) => {
      const call = client.makeClientStreamRequest('/test.Echo/Collect', bytes, bytes, (error, value?: Buffer) =>
        error ? reject(error) : resolve(value!.toString()),
      )
      for (let i = 0; i < 10; i += 1) call.write(Buffer.alloc(1000))
      call.end()
    })
    t.equal(size, '10000')
    const repeated: string[] = []
    for await (const chunk of client.makeServerStreamRequest('/test.Echo/Repeat', bytes, bytes, Buffer.from('x')))
      repeated.push(String(chunk))
    t.strictSame(repeated, ['0', '1', '2', '3', '4'])
    const { call, heard, ended } = chat(client)
    call.write(Buffer.from('one'))
    await until(() => heard.length === 1)
    call.write(Buffer.from('two'))
    await until(() => heard.length === 2)
    call.end()
    t.equal(await ended, 0)
    t.strictSame(heard, ['re one', 're two'])
  })

  await t.test('2 MiB go through every window, both ways', async t => {
    const big = Buffer.alloc(2 * 1024 * 1024, 'x')
    const { value } = await callUnary(client, '/test.Echo/Unary', big)
    t.equal(value.length, big.length + 5)
    t.ok(value.endsWith('xx'))
  })

  await t.test('a hundred calls at once are all answered, over few connections', async t => {
    const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => callUnary(client, '/test.Echo/Unary', `${i}`)))
    t.strictSame(
      answers.map(({ value }) => value),
      Array.from({ length: 100 }, (_, i) => `echo ${i}`),
    )
    const metrics = await (await fetch(`http://127.0.0.1:${scene.api.admin!.port}/metrics`)).text()
    const connections = Number(/isthmus_proxy_connections_total\{[^}]*door="inbound"[^}]*\} (\d+)/.exec(metrics)?.[1])
    t.ok(connections >= 1 && connections <= 4, `${connections} connections`)
  })

  await t.test('a cancelled call ends in the app', async t => {
    const before = app.cancelled
    const { call, heard, ended } = chat(client)
    call.write(Buffer.from('one'))
    await until(() => heard.length === 1)
    call.cancel()
    t.equal(await ended, status.CANCELLED)
    await until(() => app.cancelled === before + 1)
  })

  await t.test('a permission names a method; the others are denied as gRPC says it', async t => {
    scene.tell(allowedMethods('/test.Echo/Unary', '/test.Echo/Chat'))
    await until(async () => (await callUnary(client, '/test.Echo/Secret', '')).code === status.PERMISSION_DENIED)
    t.match(await callUnary(client, '/test.Echo/Secret', ''), { code: status.PERMISSION_DENIED, details: 'RBAC: access denied' })
    t.match(await callUnary(client, '/test.Echo/Unary', 'x'), { code: 0, value: 'echo x' })
  })

  await t.test('a stream that is no longer allowed ends, on a connection that stays', async t => {
    scene.tell(allowedMethods('/test.Echo/'))
    await until(async () => (await callUnary(client, '/test.Echo/Secret', '')).code === status.OK)
    const before = app.cancelled
    const { call, heard, ended } = chat(client)
    call.write(Buffer.from('one'))
    await until(() => heard.length === 1)
    scene.tell(allowedMethods('/test.Echo/Unary'))
    t.equal(await ended, status.PERMISSION_DENIED)
    await until(() => app.cancelled === before + 1)
    t.equal((await callUnary(client, '/test.Echo/Unary', 'x')).code, 0)
    scene.tell(allowed)
    await until(async () => (await callUnary(client, '/test.Echo/Secret', '')).code === status.OK)
  })

  await t.test('the decisions are counted', async t => {
    const metrics = await (await fetch(`http://127.0.0.1:${scene.api.admin!.port}/metrics`)).text()
    t.match(metrics, /isthmus_proxy_requests_total\{[^}]*class="2xx"[^}]*decision="allow"[^}]*\} \d+/)
    t.match(metrics, /isthmus_proxy_decisions_total\{[^}]*decision="deny-(?:intention|peer-default|default)"[^}]*\} \d+/)
    const outbound = await (await fetch(`http://127.0.0.1:${scene.web.admin!.port}/metrics`)).text()
    t.match(outbound, /isthmus_proxy_requests_total\{[^}]*door="outbound"[^}]*class="2xx"[^}]*\} \d+/)
  })

  await t.test('a deadline ends the call at both ends', async t => {
    const before = app.cancelled
    const call = client.makeBidiStreamRequest('/test.Echo/Chat', bytes, bytes, new Metadata(), { deadline: Date.now() + 300 })
    call.on('error', () => {})
    call.on('data', () => {})
    call.write(Buffer.from('x'))
    t.equal(await new Promise(resolve => call.on('status', got => resolve(got.code))), status.DEADLINE_EXCEEDED)
    await until(() => app.cancelled === before + 1)
  })

  await t.test('an app that is gone is UNAVAILABLE, and is called again when it is back', async t => {
    const { call, heard, ended } = chat(client)
    call.write(Buffer.from('one'))
    await until(() => heard.length === 1)
    server.forceShutdown()
    t.not(await ended, 0)
    const answer = await callUnary(client, '/test.Echo/Unary', 'x')
    t.equal(answer.code, status.UNAVAILABLE)
    const back = await startGrpcApp()
    scene.tellSelf({ app: { address: '127.0.0.1', port: back.port } })
    await until(async () => (await callUnary(client, '/test.Echo/Unary', 'x')).code === status.OK)
    await sleep(10)
    back.server.forceShutdown()
  })
})
