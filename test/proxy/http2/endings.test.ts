/** How requests and connections of HTTP/2 end: draining loses nothing, what was refused is sent again, and each side hears of the other's end. */
import { constants, type ServerHttp2Stream } from 'node:http2'
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { silentLogger } from '../../../src/lib/log.ts'
import { startSidecar } from '../../../src/proxy/sidecar.ts'
import { apiSni, dbId, sidecarSelf, source, until, upstreamOf, westResources } from '../../support/proxy-scene.ts'
import { ask, openSession, startApp, startHttp2Scene, type Answer } from './scene.ts'

t.test('endings', async t => {
  /** By path, what the app does once with the next stream. */
  const once = new Map<string, (stream: ServerHttp2Stream) => void>()
  const seen: { path: string; body: string }[] = []
  const resets: number[] = []
  const open = new Set<ServerHttp2Stream>()
  const app = await startApp((stream, headers) => {
    const path = headers[':path']!
    stream.on('close', () => open.delete(stream))
    open.add(stream)
    const act = once.get(path)
    if (act) {
      once.delete(path)
      act(stream)
      return
    }
    if (path === '/echo') {
      // So that node does not end the stream before it resets it.
      stream.respond({ ':status': 200 }, { waitForTrailers: true })
      stream.on('close', () => resets.push(stream.rstCode))
      stream.pipe(stream)
      return
    }
    if (path === '/never') {
      stream.resume()
      return
    }
    const chunks: Buffer[] = []
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('end', () => {
      seen.push({ path, body: Buffer.concat(chunks).toString() })
      if (stream.destroyed) return
      stream.respond({ ':status': 200 })
      stream.end('ok')
    })
  })
  /** By the port of the other side. */
  const sockets = new Map<number, Socket>()
  app.server.on('connection', (socket: Socket) => sockets.set(socket.remotePort!, socket))
  const scene = await startHttp2Scene(app.port, { protocol: 'http2', self: { localRequestTimeoutMs: 700 }, limits: { goawayGraceMs: 100 } })
  const session = openSession(scene.port)
  t.teardown(async () => {
    session.destroy()
    await scene.close()
    app.close()
  })
  const post = (path: string, body = 'body') => ask(session, { ':method': 'POST', ':path': path }, body)
  const told = (answer: Answer) => [answer.status, answer.body, answer.code]
  const echo = async () => {
    const stream = session.request({ ':method': 'POST', ':path': '/echo' })
    stream.on('error', () => {})
    let heard = ''
    stream.on('data', (chunk: Buffer) => (heard += chunk.toString()))
    stream.write('one')
    await until(() => heard === 'one')
    return { stream, heard: () => heard }
  }
  /** Calls without a pause until told to stop; answers what was not as it should be. */
  const calling = () => {
    const state = { stop: false }
    const lost: unknown[] = []
    let count = 0
    const callers = Array.from({ length: 8 }, async () => {
      while (!state.stop) {
        const answer = await post('/call')
        count += 1
        if (answer.status !== 200 || answer.body !== 'ok') lost.push(told(answer))
      }
    })
    return async () => {
      state.stop = true
      await Promise.all(callers)
      t.ok(count > 8, `${count} calls`)
      return lost
    }
  }

  await t.test('a stream that nobody looked at is sent again, body and all; one that somebody did is not', async t => {
    once.set('/refused', stream => stream.close(constants.NGHTTP2_REFUSED_STREAM))
    t.strictSame(told(await post('/refused', 'x'.repeat(50_000))), [200, 'ok', 0])
    t.equal(seen.at(-1)!.body.length, 50_000)
    once.set('/broken', stream => stream.close(constants.NGHTTP2_INTERNAL_ERROR))
    const broken = await post('/broken')
    t.equal(broken.status, 503)
    t.match(broken.body, 'reset reason: connection termination')
    once.set('/broken', stream => stream.close(constants.NGHTTP2_INTERNAL_ERROR))
    t.strictSame(told(await ask(session, { ':path': '/broken' })), [200, 'ok', 0], 'what does nothing twice is')
  })

  await t.test('what does nothing twice is sent again where its connection dies without a word', async t => {
    once.set('/dies', stream => sockets.get(stream.session!.socket.remotePort!)!.destroy())
    t.strictSame(told(await ask(session, { ':path': '/dies' })), [200, 'ok', 0])
  })

  await t.test('a code that one side resets with reaches the other', async t => {
    const { stream } = await echo()
    stream.close(constants.NGHTTP2_ENHANCE_YOUR_CALM)
    await until(() => resets.length === 1)
    t.strictSame(resets, [constants.NGHTTP2_ENHANCE_YOUR_CALM])
    const second = await echo()
    const closed = new Promise(resolve => second.stream.once('close', resolve))
    for (const each of open) each.close(constants.NGHTTP2_INADEQUATE_SECURITY)
    await closed
    t.equal(second.stream.rstCode, constants.NGHTTP2_INADEQUATE_SECURITY)
  })

  await t.test('an answer before the end of its request ends the request', async t => {
    once.set('/early', stream => {
      stream.respond({ ':status': 413 })
      stream.end('enough')
    })
    const stream = session.request({ ':method': 'POST', ':path': '/early' })
    let status = 0
    let body = ''
    stream.on('error', () => {})
    stream.on('response', headers => (status = headers[':status']!))
    stream.on('data', (chunk: Buffer) => (body += chunk.toString()))
    const closed = new Promise(resolve => stream.once('close', resolve))
    stream.write('some')
    await closed
    t.strictSame([status, body, stream.rstCode], [413, 'enough', 0])
    await until(() => open.size === 0)
  })

  await t.test('a client that is gone ends its requests in the app', async () => {
    const other = openSession(scene.port)
    const stream = other.request({ ':method': 'POST', ':path': '/echo' })
    stream.on('error', () => {})
    stream.write('x')
    await until(() => open.size === 1)
    other.destroy()
    await until(() => open.size === 0)
  })

  await t.test('an answer that does not come in its time is a 504, and one that stops is reset', async t => {
    const never = await ask(session, { ':path': '/never' })
    t.strictSame([never.status, never.body], [504, 'upstream request timeout'])
    once.set('/half', stream => {
      stream.respond({ ':status': 200 })
      stream.write('half')
    })
    const half = await ask(session, { ':path': '/half' })
    t.strictSame(told(half), [200, 'half', constants.NGHTTP2_CANCEL])
    once.set('/half', stream => {
      stream.respond({ ':status': 200 })
      stream.write('half')
      stream.close(constants.NGHTTP2_INTERNAL_ERROR)
    })
    t.strictSame(told(await ask(session, { ':path': '/half' })), [200, 'half', constants.NGHTTP2_INTERNAL_ERROR])
    await until(() => open.size === 0)
  })

  await t.test('a service that drains serves on, on ever new connections, and loses nothing', async t => {
    const held = await echo()
    const stop = calling()
    await sleep(200)
    scene.tellSelf({ draining: true })
    await sleep(1500)
    scene.tellSelf({})
    await sleep(200)
    t.strictSame(await stop(), [])
    held.stream.write('two')
    await until(() => held.heard() === 'onetwo')
    held.stream.end()
    await new Promise(resolve => held.stream.once('close', resolve))
    t.equal(held.stream.rstCode, 0, 'a stream that was open runs to its end')
  })

  await t.test('a sidecar that drains and goes away loses nothing while there is another', async t => {
    const second = await startSidecar({ proxyId: 'api-sidecar-proxy', agent: { url: scene.west.url }, logger: silentLogger() })
    await second.ready()
    scene.tellEndpoints(second.port('public')!, scene.api.port('public')!)
    const stop = calling()
    await sleep(300)
    await second.drain(3000)
    await second.close()
    await sleep(100)
    t.strictSame(await stop(), [])
    scene.tellEndpoints(scene.api.port('public')!)
  })

  await t.test(
    'an app that cannot be reached behind its sidecar loses nothing while there is another; an app that says so itself does',
    async t => {
      const mark = 'x-isthmus-app-unreached'
      const proxyId = 'api-2'
      const self = sidecarSelf('west', 'api', 'http2', 1, { proxyId, serviceId: proxyId })
      scene.west.tell(proxyId, westResources(self, scene, [source('web', 'allow', 'partner-east')]))
      const second = await startSidecar({ proxyId, agent: { url: scene.west.url }, logger: silentLogger() })
      await second.ready()
      scene.tellEndpoints(second.port('public')!)
      await until(async () => (await post('/nobody')).status === 503)
      const alone = await ask(session, { ':method': 'POST', ':path': '/nobody', 'content-type': 'application/grpc' }, 'x')
      t.match(alone, { status: 200, headers: { 'grpc-status': '14' } })
      t.notOk(mark in alone.headers)
      scene.tellEndpoints(second.port('public')!, scene.api.port('public')!)
      await until(async () => (await post('/both')).status === 200)
      const stop = calling()
      for (let i = 0; i < 10; i += 1) t.same(told(await post('/both', 'the body')), [200, 'ok', 0])
      t.strictSame(await stop(), [])
      t.equal(seen.filter(({ path, body }) => path === '/both' && body === 'the body').length, 10)
      scene.tellEndpoints(scene.api.port('public')!)
      await second.close()
      let asked = 0
      const lie = (stream: ServerHttp2Stream) => {
        asked += 1
        stream.respond({ ':status': 503, [mark]: '1', 'x-kept': '1' }, { endStream: true })
        once.set('/says', lie)
      }
      once.set('/says', lie)
      const said = await post('/says')
      t.match(said, { status: 503, headers: { 'x-kept': '1' } })
      t.same([asked, mark in said.headers], [1, false])
      once.delete('/says')
    },
  )

  await t.test("an app that ends the sidecar's connections loses nothing", async t => {
    const sessions = new Set<{ close(): void }>()
    const onSession = (each: { close(): void }) => sessions.add(each)
    app.server.on('session', onSession)
    app.server.on('stream', stream => stream.session && sessions.add(stream.session))
    const stop = calling()
    for (let i = 0; i < 20; i += 1) {
      await sleep(30)
      for (const each of sessions) each.close()
      sessions.clear()
    }
    t.strictSame(await stop(), [])
    app.server.off('session', onSession)
  })

  await t.test('a server that the plan accepts no longer loses its streams at once', async t => {
    const { stream } = await echo()
    const closed = new Promise(resolve => stream.once('close', resolve))
    scene.east.tell('web-sidecar-proxy', [
      ['upstream', 'api?peer=west', { ...upstreamOf('api', 'http2', apiSni, dbId), spiffeIds: [dbId] }],
    ])
    await closed
    t.not(stream.rstCode, 0)
    t.equal((await post('/call')).status, 503)
  })
})
