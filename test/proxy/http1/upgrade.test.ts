// Upgrades: a tunnel after 101, nothing else switches protocol, and tunnels end when they are no longer allowed.
import { once } from 'node:events'
import { createServer as createApp } from 'node:http'
import { connect, createServer, type Socket } from 'node:net'
import t from 'tap'
import type { ByteStream } from '../../../src/lib/byte-stream.ts'
import { Link } from '../../../src/proxy/http1/link.ts'
import { Tunnel } from '../../../src/proxy/http1/tunnel.ts'
import { get, raw } from './apps.ts'
import { eventually } from '../../support/until.ts'
import { listen, RawClient, serve } from './harness.ts'

t.test('what is no longer allowed when the 101 comes becomes no tunnel', async t => {
  let answer = (): void => {}
  let heard = ''
  const served = await raw(t, (socket, chunk) => {
    heard += chunk
    answer = () => socket.write('HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsecret')
  })
  const client = new RawClient(served.port)
  client.send('GET /ws HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframe')
  await eventually(() => heard !== '')
  served.door.allowed = false
  for (const connection of served.connections) connection.reauthorize()
  answer()
  t.notMatch(await client.end(), 'secret')
  t.notMatch(heard, 'frame')
  t.match(served.door.outcomes, [{ status: 101, reason: 'denied' }])
})

t.test('an upgrade becomes a tunnel that a new plan can end', async t => {
  const server = createApp()
  server.on('upgrade', (request, socket: Socket, head) => {
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: ${request.headers['sec-websocket-key']}\r\n\r\n`,
    )
    socket.write(`early:${head.toString()}`)
    socket.on('data', chunk => socket.write(`echo:${chunk.toString()}`))
    socket.on('end', () => socket.end('bye'))
    socket.on('error', () => {})
  })
  const served = await serve(await listen(server))
  t.teardown(async () => {
    await served.close()
    server.closeAllConnections()
    await new Promise(resolve => server.close(resolve))
  })
  const ask = 'GET /ws HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n\r\n'
  const first = new RawClient(served.port)
  first.send(`${ask}frame`)
  await first.until(text => /early:.*frame/s.test(text) || text.includes('echo:frame'))
  t.match(
    first.received,
    /^HTTP\/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: abc\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n/,
  )
  first.send('one')
  await first.until('echo:one')
  first.socket.end()
  t.match(await first.end(), /bye$/, 'half-close goes through')
  await eventually(() => served.door.outcomes.length === 1)
  t.match(served.door.outcomes[0], { status: 101, source: 'app', reason: 'ok', requestBytes: 8 })

  const second = new RawClient(served.port)
  second.send(ask)
  await second.until('early:')
  for (const connection of served.connections) connection.reauthorize()
  second.send('still')
  await second.until('echo:still')
  served.door.allowed = false
  for (const connection of served.connections) connection.reauthorize()
  await second.end()
  t.match(served.door.outcomes[1], { status: 101, reason: 'denied' })

  served.door.allowed = true
  const third = new RawClient(served.port)
  third.send(ask)
  await third.until('early:')
  for (const connection of served.connections) connection.close()
  await third.end()
  t.match(served.door.outcomes.slice(2), [{ status: 101, reason: 'closed' }], 'it ends once')
  t.equal(served.pool.released, 0)
})

t.test('an app that switches protocols unasked is a 502', async t => {
  const served = await raw(t, socket => socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'))
  const client = new RawClient(served.port)
  client.send(get())
  t.match(await client.until('protocol error'), /^HTTP\/1.1 502 /)
  client.socket.destroy()
})

t.test('what waits to be written when both sides have ended still reaches the app', async t => {
  const accepted: Socket[] = []
  const app = createServer({ allowHalfOpen: true, pauseOnConnect: true }, socket => void accepted.push(socket))
  const stream = connect({ port: await listen(app), host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(async () => {
    for (const socket of [stream, ...accepted]) socket.destroy()
    await new Promise(resolve => app.close(resolve))
  })
  await eventually(() => accepted.length === 1 && !stream.connecting)
  const client = { write: () => true, end() {}, destroy() {}, pause() {}, resume() {} } as unknown as ByteStream
  const reasons: string[] = []
  const upstream = { stream, reusable: false, release() {}, destroy: () => void stream.destroy() }
  const tunnel = new Tunnel(
    client,
    upstream,
    Link.of(stream),
    () => {},
    reason => reasons.push(reason),
  )
  // Until the system takes no more: the last piece waits in this process.
  while (stream.writableLength === 0) tunnel.clientData(Buffer.alloc(4096, 120))
  const [socket] = accepted
  let heard = 0
  socket!.on('data', chunk => (heard += chunk.length)).on('error', () => {})
  socket!.pause()
  socket!.end()
  await once(stream, 'end')
  tunnel.clientEnd()
  socket!.resume()
  await once(socket!, 'close')
  t.equal(heard, tunnel.clientBytes)
  await eventually(() => reasons.length === 1)
  t.same(reasons, ['ok'])
})
