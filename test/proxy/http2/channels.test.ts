/** Connections of ours that carry many streams: how many there are, who waits, and when one ends. */
import { EventEmitter, once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t from 'tap'
import { Channel, Channels } from '../../../src/proxy/http2/channels.ts'
import { defaultHttp2Limits, upstreamChannelLimits, type ChannelLimits } from '../../../src/proxy/http2/limits.ts'
import { errorCode } from '../../../src/proxy/http2/wire/frames.ts'
import type { Http2Stream, StreamOwner } from '../../../src/proxy/http2/wire/stream.ts'
import { endpointAt, until } from '../../support/proxy-scene.ts'
import { startApp } from './scene.ts'

function open(ports: number[], { spread = 4, ...limits }: Partial<ChannelLimits> & { spread?: number } = {}) {
  const state = { key: 'first', dials: 0, down: false, lost: [] as number[], sockets: [] as Socket[] }
  const endpoints = ports.map(port => endpointAt(port))
  let turn = 0
  const channels = new Channels(
    {
      pick: () => endpoints[turn++ % endpoints.length],
      doubts: () => false,
      dial: first =>
        new Promise(resolve => {
          state.dials += 1
          if (state.down) return resolve({ ok: false, failure: { reset: 'remote connection failure' } })
          const socket = connect({ port: first!.port, host: '127.0.0.1', noDelay: true })
          state.sockets.push(socket)
          socket.once('error', () => resolve({ ok: false, failure: { reset: 'remote connection failure' } }))
          socket.once('connect', () => resolve({ ok: true, stream: socket, endpoint: first! }))
        }),
      lost: endpoint => state.lost.push(endpoint.port),
      key: () => state.key,
      spread: () => spread,
    },
    { ...upstreamChannelLimits, ...limits },
    defaultHttp2Limits,
  )
  return { channels, state }
}

async function take(channels: Channels): Promise<Channel> {
  const got = await channels.acquire(() => true)
  if (!(got instanceof Channel)) throw new Error(got.reset)
  return got
}

/** Says `response` and `close`. */
class Request extends EventEmitter implements StreamOwner {
  code: number | undefined
  readonly stream: Http2Stream
  readonly #channel: Channel

  constructor(channel: Channel) {
    super()
    this.#channel = channel
    const fields = [':method', 'GET', ':scheme', 'http', ':authority', 'api', ':path', '/']
    this.stream = channel.session.request(fields, undefined, true, this)!
  }

  headers(): void {
    this.emit('response')
  }

  data(bytes: Buffer): void {
    this.stream.consumed(bytes.length)
  }

  sent(): void {}

  closed(code: number): void {
    this.code = code
    this.#channel.release()
    this.emit('close')
  }
}

t.test('streams spread over a few connections, and no further', async t => {
  const app = await startApp(stream => stream.respond({ ':status': 200 }))
  const { channels, state } = open([app.port], { spread: 3 })
  t.teardown(() => {
    channels.close()
    app.close()
  })
  const taken: Channel[] = []
  for (let i = 0; i < 30; i += 1) {
    taken.push(await take(channels))
    await new Promise(resolve => setTimeout(resolve, 2))
  }
  t.equal(state.dials, 3)
  t.equal(new Set(taken).size, 3)
})

t.test('where all that are open lead to no app another one is opened, and they are used where that cannot be', async t => {
  const app = await startApp(stream => stream.respond({ ':status': 200 }))
  const { channels, state } = open([app.port], { spread: 2 })
  t.teardown(() => {
    channels.close()
    app.close()
  })
  const [first, ...all] = await Promise.all([take(channels), take(channels), take(channels)])
  t.same([first.appUnreached(), first.appUnreached()], [true, false], 'it is news once')
  for (const each of [first, ...all]) each.release()
  const second = await take(channels)
  t.not(second, first)
  t.equal(state.dials, 2)
  second.appUnreached()
  const third = await take(channels)
  t.ok(third === first || third === second, 'there are no more than may be')
  const failing = open([app.port])
  t.teardown(() => failing.channels.close())
  const only = await take(failing.channels)
  only.appUnreached()
  only.release()
  failing.state.down = true
  t.equal(await take(failing.channels), only)
})

t.test("the server's limit on streams is kept: whoever finds no room waits, first come first served, and some not at all", async t => {
  const app = await startApp(stream => stream.respond({ ':status': 200 }), { settings: { maxConcurrentStreams: 2 } })
  const { channels } = open([app.port], { spread: 1, maxConnections: 1, maxWaiting: 2 })
  t.teardown(() => {
    channels.close()
    app.close()
  })
  const first = await take(channels)
  const request = new Request(first)
  await once(request, 'response')
  t.ok(new Request(await take(channels)).stream)
  let gone = false
  const order: string[] = []
  const given = channels.acquire(() => !gone)
  const waiting = Promise.resolve(channels.acquire(() => true)).then(got => {
    order.push('second')
    return got
  })
  t.strictSame(
    channels.acquire(() => true),
    { reset: 'overflow' },
  )
  gone = true
  const later = Promise.resolve(channels.acquire(() => true)).then(() => order.push('third'))
  request.stream.reset(errorCode.cancel)
  t.equal(await waiting, first)
  t.strictSame(order, ['second'], 'who went away is passed over')
  void given
  void later
})

t.test('a server that ends a connection gets no more streams on it', async t => {
  const app = await startApp(stream => {
    stream.respond({ ':status': 200 })
    stream.session!.close()
    setTimeout(() => stream.end('x'), 50)
  })
  const { channels, state } = open([app.port], { spread: 1 })
  t.teardown(() => {
    channels.close()
    app.close()
  })
  const first = await take(channels)
  const request = new Request(first)
  await until(() => first.session.closing)
  const second = await take(channels)
  t.not(second, first)
  t.equal(state.dials, 2)
  second.release()
  await until(() => request.code !== undefined)
  t.equal(request.code, 0, 'what was under way ended well')
})

t.test('another key, old age and idleness end a connection with its last stream', async t => {
  const app = await startApp(stream => stream.respond({ ':status': 200 }))
  t.teardown(() => app.close())
  for (const [what, limits] of [
    ['key', {}],
    ['age', { maxAgeMs: 50, sweepMs: 10 }],
  ] as const) {
    const { channels, state } = open([app.port], { spread: 1, ...limits })
    const first = await take(channels)
    const request = new Request(first)
    await once(request, 'response')
    if (what === 'key') {
      state.key = 'second'
      channels.rekey()
    }
    await until(() => first.session.closing)
    t.notOk(request.stream.isClosed, `${what}: the stream goes on`)
    t.not(await take(channels), first)
    request.stream.reset(errorCode.cancel)
    await until(() => first.session.isClosed)
    channels.close()
  }
  const { channels, state } = open([app.port], { spread: 1, idleMs: 30, sweepMs: 10 })
  const first = await take(channels)
  first.release()
  await until(() => state.sockets[0]!.destroyed)
  t.ok(first.session.isClosed)
  channels.close()
})

t.test('all streams of a connection can be held up without holding up the connection', async t => {
  t.ok(upstreamChannelLimits.maxStreams * defaultHttp2Limits.streamWindowBytes <= defaultHttp2Limits.heldBytes)
})

t.test('a connection that has ended here ends, also where its server does not end its side', async t => {
  const server = createServer({ allowHalfOpen: true }, socket => socket.on('error', () => {}).resume())
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const { channels, state } = open([(server.address() as AddressInfo).port], { idleMs: 30, sweepMs: 10 })
  t.teardown(() => {
    channels.close()
    server.close()
  })
  const channel = await take(channels)
  channel.release()
  await until(() => state.sockets[0]!.destroyed)
  t.ok(channel.session.isClosed)
})

t.test('a server that is gone without a word is found out', async t => {
  const sockets = new Set<Socket>()
  const mute = createServer(socket => {
    sockets.add(socket)
    socket.resume()
  })
  await new Promise<void>(resolve => mute.listen(0, '127.0.0.1', resolve))
  const { port } = mute.address() as AddressInfo
  const { channels, state } = open([port], { sweepMs: 30 })
  t.teardown(() => {
    channels.close()
    mute.close()
    for (const socket of sockets) socket.destroy()
  })
  const channel = await take(channels)
  const request = new Request(channel)
  await until(() => request.stream.isClosed)
  t.strictSame(state.lost, [port])
})

t.test('where nobody can be reached, everybody who waits is told', async t => {
  const { channels } = open([1])
  const got = await Promise.all(Array.from({ length: 5 }, async () => channels.acquire(() => true)))
  t.strictSame(
    got,
    Array.from({ length: 5 }, () => ({ reset: 'remote connection failure' })),
  )
  channels.close()
})
