/** What a hostile client of HTTP/2 gets: each of its floods ends its own connection, early, and costs nobody else anything. */
import { constants, type ServerHttp2Stream } from 'node:http2'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { defaultHttp2Limits } from '../../../src/proxy/http2/limits.ts'
import { until } from '../../support/proxy-scene.ts'
import { block, endHeaders, endStream, frame, frames, RawClient, request, u32 } from './frames.ts'
import { ask, openSession, startApp, startHttp2Scene } from './scene.ts'

const calm = constants.NGHTTP2_ENHANCE_YOUR_CALM
const whole = endStream | endHeaders
const heldBytes = 4 * 1024 * 1024

t.test('limits', async t => {
  let requests = 0
  let written = 0
  const app = await startApp((stream: ServerHttp2Stream, headers) => {
    requests += 1
    const path = headers[':path']
    if (path === '/head-only') stream.respond({ ':status': 204, 'set-cookie': 'x'.repeat(16_000) }, { endStream: true })
    else if (path === '/endless') {
      stream.respond({ ':status': 200 })
      const write = () => {
        while (!stream.destroyed) {
          written += 16 * 1024
          if (!stream.write(Buffer.alloc(16 * 1024))) return
        }
      }
      stream.on('drain', write)
      write()
    } else if (path === '/deaf') {
      // Takes nothing of the body.
      stream.respond({ ':status': 200 })
      stream.write('go on')
    } else if (path === '/slow') {
      setTimeout(() => !stream.destroyed && stream.respond({ ':status': 200 }, { endStream: true }), 2000).unref()
    } else {
      stream.resume()
      stream.on('end', () => {
        if (stream.destroyed) return
        stream.respond({ ':status': 200 })
        stream.end('ok')
      })
    }
  })
  const scene = await startHttp2Scene(app.port, {
    protocol: 'http2',
    limits: { maxConcurrentStreams: 50, prefaceTimeoutMs: 300, heldBytes },
  })
  const honest = openSession(scene.port)
  t.teardown(async () => {
    honest.destroy()
    await scene.close()
    app.close()
  })
  const stillServes = async () => t.equal((await ask(honest, { ':path': '/' })).body, 'ok', 'others are served')

  await t.test('rapid reset (CVE-2023-44487): the connection ends before the app has seen much', async t => {
    const before = requests
    const client = new RawClient(scene.port)
    for (let id = 1; id < 40_000 && !client.closed; id += 2) {
      client.send(frame(frames.headers, whole, id, request('/slow')), frame(frames.rst, 0, id, u32(constants.NGHTTP2_CANCEL)))
      if (id % 100 === 1) await new Promise(resolve => setImmediate(resolve))
    }
    await until(() => client.closed)
    t.equal(client.goaway, calm)
    await sleep(50)
    t.ok(requests - before <= defaultHttp2Limits.resetBurst + 100, `${requests - before} requests reached the app`)
    await stillServes()
  })

  await t.test('cancelling now and then is a right', async t => {
    const client = new RawClient(scene.port)
    for (let id = 1; id < 100; id += 2)
      client.send(frame(frames.headers, whole, id, request('/slow')), frame(frames.rst, 0, id, u32(constants.NGHTTP2_CANCEL)))
    client.send(frame(frames.headers, whole, 101, request('/')))
    await until(() => client.heard.some(each => each.type === frames.data && each.stream === 101))
    t.notOk(client.closed)
    client.socket.destroy()
  })

  await t.test('resets that the client provokes (CVE-2025-8671) count like its own', async t => {
    const client = new RawClient(scene.port)
    for (let id = 1; id < 40_000 && !client.closed; id += 2) {
      // A window that grows by nothing is a stream error.
      client.send(frame(frames.headers, whole, id, request('/slow')), frame(frames.window, 0, id, u32(0)))
      if (id % 100 === 1) await new Promise(resolve => setImmediate(resolve))
    }
    await until(() => client.closed)
    t.ok(client.goaway)
    await stillServes()
  })

  await t.test('CONTINUATION flood: a header block without an end is not read for long', async t => {
    const client = new RawClient(scene.port)
    const before = requests
    client.send(frame(frames.headers, endStream, 1, request('/')))
    let sent = 0
    while (!client.closed && sent < 10_000) {
      client.send(frame(frames.continuation, 0, 1, block([['x', `${sent}`]])))
      sent += 1
      if (sent % 20 === 0) await new Promise(resolve => setImmediate(resolve))
    }
    await until(() => client.closed)
    t.ok(sent < 5000, `${sent} frames were taken before the connection ended`)
    t.equal(requests, before)
    await stillServes()
  })

  for (const [name, flood] of [
    ['SETTINGS', frame(frames.settings, 0, 0, Buffer.concat([Buffer.from([0, 4]), u32(70_000)]))],
    ['PING', frame(frames.ping, 0, 0, Buffer.alloc(8))],
    ['empty DATA', frame(frames.data, 0, 1)],
  ] as const) {
    await t.test(`${name} flood: the connection ends`, async t => {
      const client = new RawClient(scene.port)
      client.send(frame(frames.headers, endHeaders, 1, request('/', [], 'POST')))
      let sent = 0
      while (!client.closed && sent < 20_000) {
        client.send(flood)
        sent += 1
        if (sent % 20 === 0) await new Promise(resolve => setImmediate(resolve))
      }
      await until(() => client.closed)
      t.ok(sent < 10_000, `${sent} frames were taken`)
      if (name !== 'empty DATA') t.equal(client.goaway, calm)
      await stillServes()
    })
  }

  await t.test('header lists that are too long or have too many fields are refused, and their connection goes on', async t => {
    const before = requests
    const client = new RawClient(scene.port)
    const long = request('/', [['x', 'x'.repeat(15_000)]])
    const more = block([1, 2, 3, 4].map(i => [`x${i}`, 'x'.repeat(15_000)] as const))
    const sendLong = (id: number) => {
      client.send(frame(frames.headers, endStream, id, long))
      for (let at = 0; at < more.length; at += 16_000) {
        const last = at + 16_000 >= more.length
        client.send(frame(frames.continuation, last ? endHeaders : 0, id, more.subarray(at, at + 16_000)))
      }
    }
    sendLong(1)
    const told = async (id: number) => {
      await until(() => client.heard.some(each => each.type === frames.data && each.stream === id))
      return client.heard.find(each => each.type === frames.data && each.stream === id)!.payload.toString()
    }
    t.match(await told(1), 'head too large')
    client.send(
      frame(
        frames.headers,
        whole,
        5,
        request(
          '/',
          Array.from({ length: 200 }, (_, i) => [`x${i}`, ''] as const),
        ),
      ),
    )
    t.match(await told(5), 'too many fields')
    t.equal(requests, before)
    client.send(frame(frames.headers, whole, 7, request('/')))
    await until(() => client.heard.some(each => each.type === frames.data && each.stream === 7))
    client.socket.destroy()
  })

  await t.test('one stream too many is refused, and may come again', async t => {
    const client = new RawClient(scene.port)
    for (let id = 1; id <= 101; id += 2) client.send(frame(frames.headers, whole, id, request('/slow')))
    await until(() => client.reset(101) !== undefined)
    t.equal(client.reset(101), constants.NGHTTP2_REFUSED_STREAM)
    t.notOk(client.closed)
    client.socket.destroy()
  })

  await t.test('streams whose refusal is not read count as open', async t => {
    const client = new RawClient(scene.port)
    client.send(frame(frames.settings, 0, 0, Buffer.concat([Buffer.from([0, 4]), u32(0)])))
    for (let id = 1; id <= 101; id += 2) client.send(frame(frames.headers, whole, id, request('no path')))
    await until(() => client.reset(101) !== undefined)
    t.equal(client.reset(101), constants.NGHTTP2_REFUSED_STREAM)
    t.notOk(client.closed)
    client.socket.destroy()
  })

  await t.test('who says nothing, and who speaks something else, is gone soon', async t => {
    const silent = new RawClient(scene.port, { preface: false })
    await until(() => silent.closed)
    t.equal(silent.bytes, 0)
    const other = new RawClient(scene.port, { preface: false })
    other.send(Buffer.from('EHLO there\r\n'))
    await until(() => other.closed)
    t.equal(other.bytes, 0)
    const old = await fetch(`http://127.0.0.1:${scene.port}/`)
    t.strictSame([old.status, await old.text()], [505, 'this service speaks HTTP/2: use prior knowledge'])
  })

  await t.test('a caller that does not read stops the app, without what it wrote being held', async t => {
    const stream = honest.request({ ':path': '/endless' })
    stream.on('error', () => {})
    await new Promise(resolve => stream.once('response', resolve))
    let last = -1
    await until(async () => {
      const before = written
      await sleep(200)
      last = written
      return before === last && before > 0
    })
    t.ok(last < 4 * 1024 * 1024, `${last} bytes are under way`)
    await stillServes()
    stream.close(constants.NGHTTP2_CANCEL)
  })

  await t.test('an app that does not read stops its caller, likewise', async t => {
    const stream = honest.request({ ':method': 'POST', ':path': '/deaf' })
    stream.on('error', () => {})
    await new Promise(resolve => stream.once('response', resolve))
    let sent = 0
    const write = () => {
      while (!stream.destroyed) {
        sent += 16 * 1024
        if (!stream.write(Buffer.alloc(16 * 1024))) return
      }
    }
    stream.on('drain', write)
    write()
    let before = -1
    await until(async () => {
      const same = before === sent
      before = sent
      await sleep(200)
      return same
    })
    t.ok(sent < 4 * 1024 * 1024, `${sent} bytes are under way`)
    await stillServes()
    stream.close(constants.NGHTTP2_CANCEL)
  })

  await t.test('frames that must be answered, from a client that reads nothing: its connection ends', async t => {
    const client = new RawClient(scene.port)
    client.send(
      frame(frames.settings, 0, 0, Buffer.concat([Buffer.from([0, 4]), u32(2 ** 31 - 1)])),
      frame(frames.window, 0, 0, u32(2 ** 30)),
      frame(frames.headers, endHeaders, 1, request('/endless', [], 'POST')),
    )
    client.socket.pause()
    // All that lies between is full.
    let before = -1
    await until(async () => {
      const same = before === written
      before = written
      await sleep(200)
      return same
    })
    const pair = Buffer.concat([frame(frames.data, 0, 1, Buffer.alloc(1)), frame(frames.ping, 0, 0, Buffer.alloc(8))])
    const pingBytes = 17
    for (let answers = 0; answers * pingBytes <= defaultHttp2Limits.untakenBytes; answers += 1024) {
      client.send(Buffer.alloc(1024 * pair.length, pair))
      await new Promise(resolve => setImmediate(resolve))
    }
    client.socket.resume()
    await until(() => client.closed)
    t.equal(client.goaway, calm)
    await stillServes()
  })

  await t.test('answers without a body, to a client that reads nothing: no more of them wait than of any body', async t => {
    const client = new RawClient(scene.port)
    const before = requests
    client.socket.pause()
    for (let sent = 1; sent <= 4000 && !client.closed; sent++) {
      client.send(frame(frames.headers, whole, 2 * sent - 1, request('/head-only')))
      if (sent % 20 > 0) continue
      // So that no more are open than may be, as long as they are taken.
      const arrived = () => requests - before >= sent
      for (let i = 0; i < 50 && !arrived(); i++) await sleep(1)
    }
    client.socket.resume()
    await until(() => client.closed)
    const bytes = (requests - before) * 16_000
    t.ok(bytes > heldBytes / 2, `${bytes} bytes of answers`)
    // What the system holds, too.
    t.ok(bytes < 4 * heldBytes)
    await stillServes()
  })
})
