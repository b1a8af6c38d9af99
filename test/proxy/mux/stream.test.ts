/** One stream: windows both ways, half-close, reset, backpressure, and what a consumer may do in the middle of a call. */
import t from 'tap'
import { readBuffer } from '../../../src/lib/read-buffer.ts'
import { initialWindow } from '../../../src/proxy/mux/frames.ts'
import { settle } from '../../support/fake-clock.ts'
import { ack, data, fin, goAwayFrame, hand, listen, rst, syn, window } from './wire.ts'

const half = initialWindow / 2
const piece = readBuffer.length
const filled = (size: number) => Buffer.alloc(size, 120)

t.test('the first frame of an opened stream says so, that of an accepted one acknowledges, and the others say nothing', async t => {
  const client = hand('client')
  const stream = client.session.open()!
  t.strictSame(await client.said(), [], 'nothing is said before there is something to say')
  stream.write('GET', 'latin1')
  stream.write(Buffer.from(' /'))
  t.strictSame(await client.said(), ['data syn 1 "GET"', 'data - 1 " /"'])
  t.equal(client.session.open()!.id, 3)

  const server = hand('server')
  await server.hear(data(syn, 1, 'GET'))
  t.strictSame(await server.said(), ['window ack 1 0'], 'at once, because the reference implementation counts what is not acknowledged')
  server.streams[0]!.write('200', 'latin1')
  t.strictSame(await server.said(), ['data - 1 "200"'])
})

t.test('an answer in the same turn carries the acknowledgement', async t => {
  const server = hand('server', { onStream: stream => void stream.write('hello', 'latin1') })
  await server.hear(window(syn, 1))
  t.strictSame(await server.said(), ['data ack 1 "hello"'])
})

t.test('what one turn writes leaves as one write', async t => {
  const client = hand('client')
  const [a, b] = [client.session.open()!, client.session.open()!]
  a.write('a', 'latin1')
  b.write('b', 'latin1')
  a.end()
  await settle()
  t.equal(client.socket.written.length, 1)
  t.strictSame(await client.said(), ['data syn 1 "a"', 'data syn 3 "b"', 'window fin 1 0'])
})

t.test('no more is sent than was granted, whatever the sizes of writes and grants', async t => {
  const client = hand('client')
  const stream = client.session.open()!
  const events = listen(stream)
  t.equal(stream.write(filled(initialWindow - piece)), true)
  t.equal(stream.write(filled(piece - 1)), false, 'what is left would not hold another piece')
  t.equal(stream.write(filled(10)), false)
  t.equal(stream.write('text', 'latin1'), false, 'and what comes behind waits too')
  const sum = async () => (await client.frames()).reduce((total, { body }) => total + body.length, 0)
  t.equal(await sum(), initialWindow)
  t.strictSame(events.log, [])
  await client.hear(window(0, 1, 4))
  t.equal(await sum(), 4)
  t.strictSame(events.log, [])
  await client.hear(window(0, 1, 100))
  t.equal(await sum(), 9)
  await client.hear(window(0, 1, piece - 92))
  t.strictSame(events.log, [])
  await client.hear(window(0, 1, 1))
  t.strictSame(events.log, ['drain'])
  t.equal(stream.write(filled(1)), false)
  t.equal(await sum(), 1)
})

t.test('a grant that comes with the first answer counts, and one that passes 32 bits ends the session', async t => {
  const client = hand('client')
  const stream = client.session.open()!
  stream.write(filled(initialWindow + 10))
  await client.hear(window(ack, 1, 10))
  t.equal(
    (await client.frames()).reduce((total, { body }) => total + body.length, 0),
    initialWindow + 10,
  )
  await client.hear(window(0, 1, 0xffff_ffff))
  t.equal(client.session.fault, '')
  await client.hear(window(0, 1, 1))
  t.equal(client.session.fault, 'window exceeded')
})

t.test('the window opens by what the consumer has taken, and not while it is paused', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1))
  const [stream] = server.streams
  const events = listen(stream!)
  await server.said()
  await server.hear(data(0, 1, filled(half - 1)))
  t.strictSame(await server.said(), [])
  await server.hear(data(0, 1, 'x'))
  t.strictSame(await server.said(), [`window - 1 ${half}`])
  stream!.pause()
  await server.hear(data(0, 1, filled(initialWindow)))
  t.strictSame(await server.said(), [])
  t.strictSame([events.bytes(), stream!.readableLength], [half, initialWindow])
  stream!.resume()
  t.equal(events.bytes(), half, 'nothing is handed out in the middle of resume()')
  const granted = (await server.frames()).reduce((sum, { length }) => sum + length, 0)
  t.strictSame([events.bytes(), granted, stream!.readableLength], [half + initialWindow, initialWindow, 0])
})

t.test('one byte beyond the window ends the session, from the header alone', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1))
  server.streams[0]!.pause()
  await server.hear(data(0, 1, filled(initialWindow)))
  t.equal(server.session.fault, '')
  await server.hear(data(0, 1, 'x').subarray(0, 12))
  t.equal(server.session.fault, 'window exceeded')
  t.ok((await server.said()).includes('goAway - 0 1'))
  t.strictSame(server.events, ['closed'])
})

t.test('a slow consumer of single bytes holds a window, and neither the reads they came with nor an object for each', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1))
  const [stream] = server.streams
  const events = listen(stream!)
  stream!.pause()
  // Each read brings one byte for the stream and 16 KiB for one that does not exist.
  const noise = data(0, 99, filled(16 * 1024))
  globalThis.gc?.()
  const before = process.memoryUsage().arrayBuffers
  for (let i = 0; i < 4096; i += 1) {
    server.socket.push(Buffer.concat([data(0, 1, Buffer.from([i & 255])), noise]))
    if (i % 64 === 0) await settle()
  }
  await settle()
  t.equal(stream!.readableLength, 4096)
  globalThis.gc?.()
  const kept = process.memoryUsage().arrayBuffers - before
  t.ok(kept < 48 * 1024 * 1024, `${kept} bytes are held for 4096`)
  const chunks: number[] = []
  stream!.on('data', (chunk: Buffer) => chunks.push(chunk.length))
  stream!.resume()
  await settle()
  t.strictSame(chunks, [4096])
  t.strictSame(Buffer.from(events.text(), 'latin1'), Buffer.from(Array.from({ length: 4096 }, (_, i) => i & 255)))
})

t.test('each half ends by itself', async t => {
  const server = hand('server')
  await server.hear(data(syn, 1, 'request'), window(fin, 1))
  const [stream] = server.streams
  t.strictSame([stream!.writable, stream!.destroyed], [true, false])
  const events = listen(stream!)
  stream!.write('late answer', 'latin1')
  stream!.end()
  t.strictSame((await server.said()).slice(1), ['data - 1 "late answer"', 'window fin 1 0'])
  t.equal(server.session.size, 0)
  t.strictSame(events.log, ['close'])

  const client = hand('client')
  const mine = client.session.open()!
  const heard = listen(mine)
  mine.end()
  t.strictSame([mine.writable, mine.write('no', 'latin1')], [false, false])
  await client.hear(window(ack, 1), data(0, 1, 'all'), data(fin, 1, ' of it'))
  t.strictSame([heard.text(), heard.log], ['all of it', ['data', 'end', 'close']])
  t.strictSame(await client.said(), ['window syn+fin 1 0'])
})

t.test('the end waits for the bytes before it, in both directions, and its callback with it', async t => {
  const client = hand('client')
  const stream = client.session.open()!
  const log: string[] = []
  stream.write(filled(initialWindow + 1))
  stream.end(() => log.push('done'))
  t.equal(
    (await client.said()).some(each => each.includes('fin')),
    false,
  )
  t.strictSame(log, [])
  await client.hear(window(ack, 1, 1))
  t.strictSame((await client.said()).slice(-2), ['data - 1 "x"', 'window fin 1 0'])
  t.strictSame(log, ['done'])
  stream.end(() => log.push('again'))
  await settle()
  t.strictSame(log, ['done', 'again'])

  const server = hand('server')
  await server.hear(window(syn, 1))
  const events = listen(server.streams[0]!)
  server.streams[0]!.pause()
  await server.hear(data(fin, 1, 'held'))
  t.strictSame(events.log, [])
  server.streams[0]!.resume()
  await settle()
  t.strictSame(events.log, ['data', 'end'])

  await server.hear(window(syn, 3))
  server.streams[1]!.pause()
  await server.hear(data(fin, 3, filled(initialWindow)))
  await server.said()
  listen(server.streams[1]!)
  server.streams[1]!.resume()
  t.strictSame(await server.said(), [], 'who has ended is granted nothing more')
})

t.test('a reset closes without an end, and destroying says so once', async t => {
  const client = hand('client')
  const [broken, given, unheard] = [client.session.open()!, client.session.open()!, client.session.open()!]
  const events = listen(broken)
  broken.write('x', 'latin1')
  given.write('x', 'latin1')
  await client.said()
  await client.hear(window(rst, 1))
  t.strictSame([events.log, broken.destroyed, broken.closed, broken.readableEnded], [['close'], true, true, false])
  given.destroy()
  given.destroy()
  unheard.destroy()
  t.strictSame(await client.said(), ['window rst 3 0'], 'nor is one reset that the other side never heard of')
  await client.hear(data(0, 3, 'late'), window(0, 3, 100_000), window(fin, 3))
  t.strictSame([client.session.fault, client.session.size], ['', 0], 'late words to a stream that is gone are ordinary')
})

t.test('bytes in a frame that resets, or behind the end of a stream, are never handed out', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1), window(syn, 3))
  const [reset, ended] = server.streams.map(listen)
  await server.hear(data(rst, 1, 'poison'))
  t.strictSame([reset!.text(), reset!.log], ['', ['close']])
  await server.hear(data(fin, 3, 'whole'), data(0, 3, 'more'))
  t.strictSame([ended!.text(), ended!.log, server.session.fault], ['whole', ['data', 'end', 'close'], 'protocol'])
})

t.test('what was ended before a reset, or before the end of the session, is still handed out whole', async t => {
  for (const after of [window(rst, 1), undefined]) {
    const client = hand('client')
    const stream = client.session.open()!
    const events = listen(stream)
    stream.write('x', 'latin1')
    stream.pause()
    await client.hear(data(ack, 1, filled(100_000)), window(fin, 1))
    if (after) await client.hear(after)
    else {
      client.socket.push(null)
      await settle()
      t.equal(client.session.isClosed, true)
    }
    t.strictSame([events.log, stream.writable, stream.destroyed], [[], false, false])
    stream.resume()
    await settle()
    t.strictSame([events.bytes(), events.log, client.session.size], [100_000, ['data', 'end', 'close'], 0])
  }
})

t.test('whoever accepted a stream has nobody to answer when the session ends: nothing is handed out any more', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1))
  const events = listen(server.streams[0]!)
  server.streams[0]!.pause()
  await server.hear(data(fin, 1, 'GET / HTTP/1.1'))
  server.socket.push(null)
  await settle()
  server.streams[0]!.resume()
  await settle()
  t.strictSame(events.log, ['close'])
})

t.test('what was not ended is cut off with its session, and so is everything when the session is destroyed here', async t => {
  const client = hand('client')
  const [open, ended] = [client.session.open()!, client.session.open()!]
  const logs = [listen(open), listen(ended)]
  for (const stream of [open, ended]) {
    stream.write('x', 'latin1')
    stream.pause()
  }
  await client.hear(data(ack, 1, 'part'), data(ack | fin, 3, 'all'))
  client.session.destroy()
  await settle()
  t.strictSame(
    logs.map(({ log }) => log),
    [['close'], ['close']],
  )
})

t.test('every write that answers false is followed by a drain, also when window and connection were both full', async t => {
  const client = hand('client')
  const stream = client.session.open()!
  const other = client.session.open()!
  const [events, others] = [listen(stream), listen(other)]
  client.socket.blocked = true
  // The connection takes nothing; then the window of one stream is full as well.
  for (let i = 0; i < 4; i += 1) client.session.open()!.write(filled(200_000))
  t.equal(other.write('x', 'latin1'), false)
  t.equal(stream.write(filled(initialWindow + 200_000)), false)
  await settle()
  // The connection drains while the window is shut ...
  client.socket.unblock()
  await settle()
  t.strictSame([events.log, others.log], [[], ['drain']])
  // ... and is full again when the window opens.
  client.socket.blocked = true
  for (let i = 0; i < 4; i += 1) client.session.open()!.write(filled(200_000))
  await client.hear(window(0, 1, 400_000))
  t.strictSame(events.log, [], 'its connection is full')
  client.socket.unblock()
  await settle()
  t.strictSame(events.log, ['drain'])
  t.strictSame([stream.writableNeedDrain, other.writableNeedDrain], [false, false])
})

t.test('a stream that was destroyed hears no drain, and its bytes go nowhere', async t => {
  const client = hand('client')
  const stream = client.session.open()!
  const events = listen(stream)
  stream.write(filled(initialWindow + 10))
  await client.said()
  stream.destroy()
  await client.hear(window(0, 1, 100_000))
  t.strictSame([events.log, await client.said()], [['close'], ['window rst 1 0']])
})

t.test('a consumer may destroy, pause and resume in the middle of what it is given', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1), window(syn, 3), window(syn, 5), window(syn, 7))
  const [destroys, pauses, bounces, ends] = server.streams
  const logs = server.streams.map(listen)
  destroys!.once('data', () => destroys!.destroy())
  pauses!.once('data', () => pauses!.pause())
  bounces!.on('data', () => {
    bounces!.pause()
    bounces!.resume()
  })
  ends!.once('data', () => ends!.end())
  const all = [1, 3, 5, 7].flatMap(id => [data(0, id, 'one'), data(0, id, 'two'), data(fin, id, 'three')])
  await server.hear(Buffer.concat(all))
  t.strictSame(
    logs.map(({ log, text }) => [text(), log]),
    [
      ['one', ['data', 'close']],
      ['one', ['data']],
      ['onetwothree', ['data', 'end']],
      ['onetwothree', ['data', 'end', 'close']],
    ],
  )
  pauses!.resume()
  pauses!.pause()
  await settle()
  t.equal(logs[1]!.text(), 'one')
  pauses!.resume()
  await settle()
  t.strictSame([logs[1]!.text(), logs[1]!.log], ['onetwothree', ['data', 'end']])
  t.equal(server.session.size, 2)
})

t.test('a consumer may end the session in the middle of what it is given', async t => {
  const server = hand('server')
  await server.hear(window(syn, 1), window(syn, 3))
  const logs = server.streams.map(listen)
  server.streams[0]!.once('data', () => server.session.destroy())
  await server.hear(Buffer.concat([data(0, 1, 'one'), data(0, 3, 'two'), data(0, 1, 'more'), goAwayFrame(0)]))
  t.strictSame(
    logs.map(({ log, text }) => [text(), log]),
    [
      ['one', ['data', 'close']],
      ['', ['close']],
    ],
  )
  t.strictSame(server.events, ['closed'])
})

t.test('a stream destroyed by whoever was given it hears none of its bytes', async t => {
  const heard: string[] = []
  const server = hand('server', {
    onStream: stream => {
      for (const event of ['data', 'end']) stream.on(event, () => heard.push(event))
      stream.destroy()
    },
  })
  await server.hear(data(syn | fin, 1, 'x'), window(syn | fin, 3))
  t.strictSame([heard, server.session.size], [[], 0])
  t.strictSame(await server.said(), ['window rst 1 0', 'window rst 3 0'])
})
