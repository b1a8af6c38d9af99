/** A session: opening and leaving, pings, a silent peer, its end; and what a hostile peer may say until it is put out. */
import t from 'tap'
import { initialWindow } from '../../../src/proxy/mux/frames.ts'
import { defaultMuxLimits } from '../../../src/proxy/mux/limits.ts'
import { settle } from '../../support/fake-clock.ts'
import { ack, data, encode, fin, goAwayFrame, hand, listen, ping, rst, syn, window, type Hand } from './wire.ts'

const { maxStreams, maxIdleFramesPerSecond, pingAfterMs, pongWithinMs, unusedMs, farewellMs } = defaultMuxLimits

t.test('a ping is answered with its value, whatever is under way', async t => {
  for (const role of ['client', 'server'] as const) {
    const { hear, said } = hand(role)
    await hear(ping(syn, 0xdead_beef), ping(ack, 7))
    t.strictSame(await said(), ['ping ack 0 3735928559'])
  }
})

t.test('a silent peer is asked, and given up when it does not answer', async t => {
  const client = hand('client')
  const events = listen(client.session.open()!)
  await client.clock.advance(pingAfterMs + 1000)
  t.strictSame(await client.said(), ['ping syn 0 0'])
  await client.clock.advance(pongWithinMs - 1500)
  t.strictSame([client.session.fault, events.log], ['', []])
  await client.clock.advance(1500)
  t.strictSame([client.session.fault, events.log, client.events], ['silent', ['close'], ['closed']])
  t.strictSame(await client.said(), [], 'nothing is said to the dead')
})

t.test('any byte is a sign of life; a session without streams is not asked, but as soon as it is used again', async t => {
  const client = hand('client')
  await client.clock.advance(60_000)
  t.strictSame(await client.said(), [])
  client.session.open()!.write('x', 'latin1')
  await client.clock.advance(1000)
  t.strictSame(await client.said(), ['data syn 1 "x"', 'ping syn 0 0'])
  await client.hear(ping(ack, 0))
  for (let i = 0; i < 6; i += 1) {
    await client.clock.advance(pingAfterMs + 1000)
    t.strictSame(await client.said(), ['ping syn 0 0'])
    await client.hear(i % 2 === 0 ? ping(ack, 0) : data(0, 1, 'x').subarray(0, 12))
    if (i % 2 === 1) await client.hear(Buffer.from('x'))
  }
  t.strictSame([client.session.fault, client.session.size], ['', 1])
})

t.test('nobody opens more streams than the limit: the client itself, and against the server a reset', async t => {
  const client = hand('client')
  const opened = Array.from({ length: maxStreams }, () => client.session.open()!)
  t.equal(client.session.open(), undefined)
  opened[0]!.destroy()
  t.not(client.session.open(), undefined)

  const server = hand('server')
  await server.hear(Buffer.concat(Array.from({ length: maxStreams }, (_, i) => window(syn, 2 * i + 1))))
  await server.said()
  await server.hear(data(syn, 9001, 'swallowed'), data(0, 9001, 'too'))
  t.strictSame([server.streams.length, await server.said()], [maxStreams, ['window rst 9001 0']])
  server.streams[3]!.destroy()
  await server.hear(window(syn, 9003))
  t.equal(server.streams.length, maxStreams + 1)
})

t.test('a client that leaves announces what it had opened, opens no more and ends with its last stream', async t => {
  const client = hand('client')
  const [used, unheard] = [client.session.open()!, client.session.open()!]
  used.write('x', 'latin1')
  client.session.goAway()
  client.session.goAway()
  t.strictSame([client.session.open(), client.session.leaving], [undefined, true])
  unheard.write('late', 'latin1')
  t.strictSame(await client.said(), ['data syn 1 "x"', 'window syn 3 0', 'goAway - 0 0', 'data - 3 "late"'])
  used.destroy()
  await settle()
  t.equal(client.socket.writableEnded, false)
  unheard.end()
  await client.hear(window(ack | fin, 3))
  listen(unheard)
  await settle()
  t.equal(client.socket.writableEnded, true)
  client.socket.push(null)
  await settle()
  t.strictSame(client.events, ['closed'])
})

t.test('a server that leaves takes what was opened before the client could hear of it', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1))
  await server.said()
  server.session.goAway()
  t.strictSame(await server.said(), ['goAway - 0 0', 'ping syn 0 1'])
  await server.hear(data(syn, 3, 'in the moment of the go-away'))
  t.equal(server.streams.length, 2)
  const late = listen(server.streams[1]!)
  await server.hear(ping(ack, 1), data(syn, 5, 'too late'), data(0, 3, 'goes on'))
  t.strictSame(await server.said(), ['window ack 3 0', 'window rst 5 0'])
  t.strictSame([server.streams.length, late.text()], [2, 'goes on'])
  for (const stream of server.streams) stream.destroy()
  await settle()
  t.equal(server.socket.writableEnded, true)
})

t.test('a server that leaves unused ends only when the client knows', async t => {
  const server = hand('server')
  server.session.goAway()
  await settle()
  t.equal(server.socket.writableEnded, false)
  await server.hear(ping(ack, 0))
  t.equal(server.socket.writableEnded, false, 'that was the answer to another ping')
  await server.hear(ping(ack, 1))
  t.equal(server.socket.writableEnded, true)
})

t.test('a client that is told to go keeps what is under way, and whatever it had opened is announced before the answer', async t => {
  const client = hand('client')
  const [used, unheard] = [client.session.open()!, client.session.open()!]
  const events = listen(used)
  used.write('x', 'latin1')
  await client.said()
  await client.hear(Buffer.concat([goAwayFrame(0), ping(syn, 1)]))
  t.strictSame([client.session.open(), client.events], [undefined, ['go away']])
  t.strictSame(await client.said(), ['window syn 3 0', 'ping ack 0 1'])
  unheard.destroy()
  await client.hear(data(ack | fin, 1, 'answer'))
  t.strictSame([events.text(), client.socket.writableEnded], ['answer', false])
  used.end()
  await settle()
  t.equal(client.socket.writableEnded, true)
  await client.hear(ping(syn, 9))
  t.equal(client.socket.errored, null, 'and says nothing after its end')
})

t.test('both sides may leave at once', async t => {
  const client = hand('client')
  const server = hand('server')
  client.session.goAway()
  server.session.goAway()
  await server.hear(goAwayFrame(0))
  await client.hear(goAwayFrame(0), ping(syn, 1))
  t.strictSame([client.socket.writableEnded, server.socket.writableEnded], [true, true])
})

t.test('a session that left is not kept by a peer that never ends its half, or never answers', async t => {
  const client = hand('client')
  client.session.goAway()
  await client.clock.advance(farewellMs + 1000)
  t.strictSame([client.socket.destroyed, client.events], [true, ['closed']])

  const server = hand('server')
  await server.hear(window(syn, 1))
  server.session.goAway()
  for (let i = 0; i < 10; i += 1) {
    await server.clock.advance(4000)
    await server.hear(ping(syn, 0))
  }
  t.equal(server.session.isClosed, false, 'a stream is still under way')
  server.streams[0]!.destroy()
  await server.clock.advance(farewellMs + 1000)
  t.strictSame(server.events, ['closed'])
})

t.test('a session that nobody uses is closed by the server', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1))
  await server.said()
  server.streams[0]!.destroy()
  await server.said()
  await server.clock.advance(unusedMs - 1000)
  t.strictSame(await server.said(), [])
  await server.clock.advance(2000)
  t.strictSame(await server.said(), ['goAway - 0 0', 'ping syn 0 1'])
})

t.test('whatever ends a session closes each stream once and tells once', async t => {
  const ends: Record<string, (at: Hand) => unknown> = {
    end: at => at.socket.push(null),
    'an end in the middle of a header': at => at.socket.push(window(0, 1).subarray(0, 5)) && at.socket.push(null),
    'an end in the middle of a body': at => at.socket.push(data(0, 1, 'body').subarray(0, 14)) && at.socket.push(null),
    error: at => at.socket.destroy(new Error('reset')),
    close: at => at.socket.destroy(),
    destroy: at => at.session.destroy(),
    'an internal error of the other side': at => at.hear(goAwayFrame(2)),
    'a protocol error': at => at.hear(encode(9, 0, 0, 0)),
  }
  for (const [name, end] of Object.entries(ends)) {
    const server = hand('server')
    await server.hear(window(syn, 1), window(syn, 3))
    const logs = server.streams.map(listen)
    await end(server)
    await settle()
    server.session.destroy()
    await settle()
    t.strictSame([logs.map(({ log }) => log.filter(each => each !== 'data')), server.events], [[['close'], ['close']], ['closed']], name)
    t.strictSame([server.session.size, server.session.isClosed, server.socket.destroyed], [0, true, true], name)
    await server.clock.advance(2000)
    t.equal(server.clock.timers, 0, `${name}: nothing waits`)
  }
  const dead = hand('client')
  dead.socket.destroy()
  const late = hand('client', {})
  late.session.destroy()
  t.equal(late.session.open(), undefined)
})

t.test('what breaks the framing ends the session and says that it did', async t => {
  const breaks: Record<string, [Buffer, string?]> = {
    'another version': [Buffer.concat([Buffer.from([1]), window(syn, 1).subarray(1)])],
    'an unknown type': [encode(4, 0, 0, 0)],
    'a type beyond': [encode(255, syn, 1, 0)],
    'an even id': [window(syn, 2)],
    'the id of the session itself': [window(syn, 0)],
    'an id that is in use': [Buffer.concat([window(syn, 1), window(syn, 1)])],
    'a length beyond every window': [Buffer.concat([window(syn, 1), encode(0, 0, 1, 0xffff_ffff)]), 'window exceeded'],
    'a first frame beyond its window': [encode(0, syn, 1, initialWindow + 1), 'window exceeded'],
  }
  for (const [name, [bytes, fault = 'protocol']] of Object.entries(breaks)) {
    const server = hand('server')
    await server.hear(bytes)
    t.strictSame([server.session.fault, server.events], [fault, ['closed']], name)
    t.ok((await server.said()).includes('goAway - 0 1'), name)
  }
  const client = hand('client')
  await client.hear(window(syn, 1))
  t.equal(client.session.fault, 'protocol', 'a server opens no streams')
})

t.test('an id may be used again once its stream is gone', async t => {
  const server = hand('server')
  await server.hear(data(syn, 1, 'a'), window(rst, 1), data(syn, 1, 'b'))
  t.strictSame([server.session.fault, server.streams.length], ['', 2])
})

t.test('a huge frame for nobody is read to nowhere', async t => {
  const server = hand('server')
  await server.hear(encode(0, 0, 77, 0xffff_ffff))
  for (let i = 0; i < 100; i += 1) server.socket.push(Buffer.alloc(60_000, i))
  await settle()
  t.strictSame([server.session.fault, server.streams.length, await server.said()], ['', 0, []])
})

t.test('a peer that asks and never takes an answer costs little, and is ended', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1))
  await server.said()
  server.socket.blocked = true
  const before = process.memoryUsage().arrayBuffers
  for (let i = 0; i < 2000; i += 1) await server.hear(ping(syn, i))
  const grown = process.memoryUsage().arrayBuffers - before
  t.ok(grown < 16 * 1024 * 1024, `${grown} bytes for 2000 answers of 12`)
  let asked = 2000
  for (; server.session.fault === '' && asked < 100_000; asked += 5000) {
    await server.hear(Buffer.concat(Array.from({ length: 5000 }, (_, i) => ping(syn, i))))
    await server.clock.advance(1001)
  }
  t.strictSame([server.session.fault, server.events], ['flood', ['closed']])
  t.ok(asked < 100_000, `after ${asked} pings`)
})

const floods: Record<string, (i: number) => Buffer> = {
  pings: () => ping(syn, 1),
  'answers to no ping': () => ping(ack, 1),
  'windows of nothing': () => window(0, 1),
  'windows of a byte': () => window(0, 1, 1),
  'wide windows of no stream': () => window(0, 99, 100_000),
  'empty data': () => data(0, 1, ''),
  ends: () => window(fin, 1),
  'resets of no stream': () => window(rst, 99),
  'resets of no stream with a window': () => window(rst, 99, 100_000),
  'go-aways': () => goAwayFrame(0),
  'streams opened and reset': i => Buffer.concat([data(syn, 2 * i + 11, 'GET'), data(rst, 2 * i + 11, 'x')]),
  'streams opened and reset at once': i => data(syn | rst, 2 * i + 11, 'GET'),
  'streams beyond the limit': i => data(syn, 2 * i + 11, 'GET'),
}
for (const [name, flood] of Object.entries(floods)) {
  t.test(`a flood of ${name} ends the session, and as much over a longer time does not`, async t => {
    const count = maxIdleFramesPerSecond + maxStreams
    const server = hand('server', { onStream: stream => void stream.on('error', () => {}) })
    await server.hear(window(syn, 1))
    const half = Math.floor(count / 4)
    for (let at = 0; at < count && !name.includes('limit'); at += half) {
      await server.hear(Buffer.concat(Array.from({ length: half }, (_, i) => flood(at + i))))
      await server.clock.advance(1001)
      await settle()
    }
    if (name !== 'go-aways') t.equal(server.session.fault, '')
    const other = hand('server')
    await other.hear(window(syn, 1))
    const written = () => other.socket.written.reduce((sum, { length }) => sum + length, 0)
    for (let at = 0; at < count; at += 1000) await other.hear(Buffer.concat(Array.from({ length: 1000 }, (_, i) => flood(at + i))))
    t.strictSame([other.session.fault, other.events.at(-1)], ['flood', 'closed'])
    t.ok(written() < 2 * 12 * count, `${written()} bytes were said in answer`)
    t.ok(other.session.size === 0)
  })
}
