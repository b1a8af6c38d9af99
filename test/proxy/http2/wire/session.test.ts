/** A session of HTTP/2 as its other side sees it: what ends it or a stream and with which code, windows, turns, and how it ends. */
import t from 'tap'
import { errorCode } from '../../../../src/proxy/http2/wire/frames.ts'
import { block, frame, frames, request, u32 } from '../frames.ts'
import {
  dataFrame,
  flags,
  get,
  goawayFrame,
  hand,
  inside,
  padded,
  prefaceText,
  resetFrame,
  settings,
  started,
  windowUpdate,
  type Hand,
} from './hand.ts'

const { endStream, endHeaders, padded: isPadded, priority: hasPriority } = flags
const { protocolError, flowControlError, streamClosed, frameSizeError, compressionError, enhanceYourCalm, cancel, noError } = errorCode
const { refusedStream } = errorCode

const ask = (id: number, end = true, more: [string, string][] = []) =>
  frame(frames.headers, endHeaders | (end ? endStream : 0), id, request('/', more, 'POST'))
const answer = (id: number, end = false, more: [string, string][] = []) =>
  frame(frames.headers, endHeaders | (end ? endStream : 0), id, block([[':status', '200'], ...more]))
const trailers = (id: number, end = true) => frame(frames.headers, endHeaders | (end ? endStream : 0), id, block([['x', 'y']]))
const join = (parts: readonly Buffer[]) => Buffer.concat(parts)
const bytes = (length: number) => Buffer.alloc(length, 'x')
/** Bytes of the bodies that were said. */
const sentOf = (said: string[]) =>
  said.reduce((sum, each) => {
    const [, size, text] = /^data \d+ (?:<(\d+)>|"(.*)")/.exec(each) ?? []
    return sum + (size === undefined ? (text?.length ?? 0) : Number(size))
  }, 0)

/** A client with one request under way whose body goes on. */
async function asking(limits: Parameters<typeof hand>[1] = {}): Promise<Hand> {
  const at = await started('client', limits)
  at.open()
  await at.said()
  return at
}

/** A server with the streams 1 (its request goes on), 3 (ended) and 5 (reset by the server). */
async function asked(limits: Parameters<typeof hand>[1] = {}): Promise<Hand> {
  const at = await started('server', limits)
  await at.hear(ask(1, false), ask(3), ask(5, false))
  at.owners[2]!.stream.reset(cancel)
  await at.said()
  return at
}

t.test('a session begins with its SETTINGS, at a client behind the preface', async t => {
  const client = hand('client')
  t.strictSame(await client.said(), ['settings', 'window 0 983041'])
  t.ok(client.session.request(get, undefined, true, { headers() {}, data() {}, sent() {}, closed() {} }), 'it need not wait')
  await client.hear(settings([3, 7]))
  t.strictSame(client.events, ['allowed 7'])
  const server = hand('server')
  t.strictSame(await server.said(), ['settings', 'window 0 983041'])
  t.equal(server.session.started, false)
  for (const byte of join([prefaceText, settings([1, 0])])) await server.hear(Buffer.from([byte]))
  t.equal(server.session.started, true)
  t.strictSame(await server.said(), ['settings ack'])
})

/** What ends a session: the code of its GOAWAY. */
const fatal: [what: string, at: () => Promise<Hand>, said: Buffer, code: number][] = [
  ['another preface', async () => hand('server'), Buffer.from('PRI * HTTP/1.1\r\n'), protocolError],
  ['a preface without SETTINGS', async () => hand('server'), join([prefaceText, ask(1)]), protocolError],
  ['a preface and DATA', async () => hand('server'), join([prefaceText, dataFrame(1, 'x')]), protocolError],
  ['an acknowledgement first', async () => hand('client'), frame(frames.settings, 1, 0), protocolError],
  ['anything but SETTINGS first', async () => hand('client'), frame(frames.ping, 0, 0, bytes(8)), protocolError],
  ['a frame that is too long (4.2)', asked, frame(frames.data, 0, 1, bytes(16_385)), frameSizeError],
  ['an unknown frame that is too long', asked, frame(77, 0, 1, bytes(16_385)), frameSizeError],
  ['DATA on stream 0 (6.1)', asked, dataFrame(0, 'x'), protocolError],
  ['DATA on an idle stream', asked, dataFrame(7, 'x'), protocolError],
  ['DATA on an idle stream, at a client', asking, dataFrame(3, 'x'), protocolError],
  ['DATA with more padding than payload', asked, frame(frames.data, isPadded, 1, Buffer.from([3, 1, 1])), protocolError],
  ['DATA with padding that has no length', asked, frame(frames.data, isPadded, 1), frameSizeError],
  ['HEADERS on stream 0 (6.2)', asked, ask(0), protocolError],
  ['HEADERS on an even stream', asked, ask(2), protocolError],
  ['HEADERS on an even stream, at a client', asking, answer(2), protocolError],
  ['HEADERS on an idle stream, at a client', asking, answer(3), protocolError],
  ['HEADERS with more padding than payload', asked, frame(frames.headers, isPadded | 5, 7, Buffer.from([9, 1])), protocolError],
  ['HEADERS with padding that has no length', asked, frame(frames.headers, isPadded | 5, 7), frameSizeError],
  ['HEADERS too short for their priority', asked, frame(frames.headers, hasPriority | 5, 7, bytes(4)), protocolError],
  ['HEADERS on a stream below the last one', async () => started('server'), join([ask(3), ask(1)]), streamClosed],
  [
    'HEADERS on a stream that had ended',
    async () => started('server', {}, owner => owner.stream.sendHeaders([':status', '200'], undefined, true)),
    join([ask(1), ask(1)]),
    streamClosed,
  ],
  ['a stream that depends on itself', asked, frame(frames.headers, hasPriority | 5, 7, join([u32(7), bytes(1)])), protocolError],
  ['PRIORITY on stream 0 (6.3)', asked, frame(frames.priority, 0, 0, bytes(5)), protocolError],
  ['PRIORITY of another length', asked, frame(frames.priority, 0, 1, bytes(4)), frameSizeError],
  ['PRIORITY on itself', asked, frame(frames.priority, 0, 1, join([u32(1), bytes(1)])), protocolError],
  ['RST_STREAM on stream 0 (6.4)', asked, resetFrame(0, 8), protocolError],
  ['RST_STREAM on an idle stream', asked, resetFrame(7, 8), protocolError],
  ['RST_STREAM of another length', asked, frame(frames.rst, 0, 1, bytes(5)), frameSizeError],
  ['SETTINGS on a stream (6.5)', asked, frame(frames.settings, 0, 1), protocolError],
  ['SETTINGS with half a parameter', asked, frame(frames.settings, 0, 0, bytes(5)), frameSizeError],
  ['an acknowledgement with a payload', asked, frame(frames.settings, 1, 0, bytes(6)), frameSizeError],
  ['ENABLE_PUSH of 2 (6.5.2)', asked, settings([2, 2]), protocolError],
  ['ENABLE_PUSH of a server', asking, settings([2, 1]), protocolError],
  ['an initial window of 2^31', asked, settings([4, 2 ** 31]), flowControlError],
  ['a frame size that is too small', asked, settings([5, 16_383]), protocolError],
  ['a frame size that is too large', asked, settings([5, 2 ** 24]), protocolError],
  ['an initial window that makes one too large', asked, join([windowUpdate(1, 2 ** 30), settings([4, 2 ** 31 - 1])]), flowControlError],
  ['too many parameters', asked, settings(...Array.from({ length: 33 }, () => [9, 9] as const)), enhanceYourCalm],
  ['PUSH_PROMISE (6.6, 8.4)', asked, frame(frames.push, endHeaders, 1, bytes(4)), protocolError],
  ['PUSH_PROMISE of a server', asking, frame(frames.push, endHeaders, 1, join([u32(2), request()])), protocolError],
  ['PING on a stream (6.7)', asked, frame(frames.ping, 0, 1, bytes(8)), protocolError],
  ['PING of another length', asked, frame(frames.ping, 0, 0, bytes(7)), frameSizeError],
  ['GOAWAY on a stream (6.8)', asked, frame(frames.goaway, 0, 1, bytes(8)), protocolError],
  ['GOAWAY that is too short', asked, frame(frames.goaway, 0, 0, bytes(7)), frameSizeError],
  ['WINDOW_UPDATE of another length (6.9)', asked, frame(frames.window, 0, 1, bytes(3)), frameSizeError],
  ['WINDOW_UPDATE on an idle stream', asked, windowUpdate(7, 1), protocolError],
  ['WINDOW_UPDATE of nothing', asked, windowUpdate(0, 0), protocolError],
  ['a window beyond 2^31 - 1', asked, windowUpdate(0, 2 ** 31 - 1), flowControlError],
  ['CONTINUATION of nothing (6.10)', asked, frame(frames.continuation, endHeaders, 1, bytes(1)), protocolError],
  [
    'CONTINUATION of another stream',
    asked,
    join([frame(frames.headers, 0, 7, request()), frame(frames.continuation, endHeaders, 9)]),
    protocolError,
  ],
  ['DATA between the parts of a block', asked, join([frame(frames.headers, 0, 7, request()), dataFrame(1, 'x')]), protocolError],
  ['an unknown frame between the parts of a block', asked, join([frame(frames.headers, 0, 7, request()), frame(77, 0, 7)]), protocolError],
  ['a header block that is none (4.3)', asked, frame(frames.headers, endHeaders, 7, Buffer.from([0x80])), compressionError],
  ['such a block for a stream that is gone', asked, frame(frames.headers, endHeaders, 5, Buffer.from([0x80])), compressionError],
]

for (const [what, at, said, code] of fatal)
  t.test(`${what} ends the session`, async t => {
    const it = await at()
    await it.hear(join([said, ask(21), frame(frames.ping, 0, 0, bytes(8))]))
    const last = (await it.said()).at(-1)!
    t.match(last, new RegExp(`^goaway \\d+ ${code}$`))
    t.equal(it.events.at(-1), 'closed')
    t.equal(it.session.isClosed, true)
    t.equal(it.socket.writableEnded, true)
    t.strictSame([it.session.streams.size, it.session.unsent, inside(it.session).waiting.size], [0, 0, 0])
    for (const owner of it.owners) t.equal(owner.ends, 1)
    t.ok(it.owners.length < 4, 'nothing behind it was read')
    it.socket.destroy()
  })

/** What ends stream 1 alone: the code of its RST_STREAM. */
const faulty: [what: string, at: () => Promise<Hand>, said: Buffer, id: number, code: number][] = [
  ['DATA behind the end', asked, dataFrame(3, 'x'), 3, streamClosed],
  ['HEADERS behind the end', asked, trailers(3), 3, streamClosed],
  ['trailers that do not end a request', asked, trailers(1, false), 1, protocolError],
  ['a name in upper case (8.2.1)', asked, frame(frames.headers, endHeaders | endStream, 7, request('/', [['Big', '1']])), 7, protocolError],
  ['trailers with a name in upper case', asked, frame(frames.headers, endHeaders | endStream, 1, block([['Big', '1']])), 1, protocolError],
  ['WINDOW_UPDATE of nothing', asked, windowUpdate(1, 0), 1, protocolError],
  ['a window beyond 2^31 - 1', asked, windowUpdate(1, 2 ** 31 - 1), 1, flowControlError],
  [
    'trailers with too many fields',
    () => asked({ headerCount: 4 }),
    frame(1, 5, 1, block(Array.from({ length: 5 }, () => ['a', ''] as const))),
    1,
    enhanceYourCalm,
  ],
  [
    'trailers that are too long',
    () => asked({ headerListBytes: 200 }),
    frame(1, 5, 1, block([['a', 'b'.repeat(200)]])),
    1,
    enhanceYourCalm,
  ],
  ['a response behind its end', asking, join([answer(1, true), dataFrame(1, 'x')]), 1, streamClosed],
  ['a window of a stream that is passed', () => asked({ streamWindowBytes: 10 }), dataFrame(1, bytes(11)), 1, flowControlError],
]

for (const [what, at, said, id, code] of faulty)
  t.test(`${what} ends the stream alone`, async t => {
    const it = await at()
    await it.hear(join([said, frame(frames.ping, 0, 0, Buffer.alloc(8))]))
    t.strictSame(await it.said(), [`reset ${id} ${code}`, 'ping ack 0000000000000000'])
    t.equal(it.session.streams.has(id), false)
    t.equal(inside(it.session).held, 0)
    const owner = it.owners[(id - 1) / 2]
    if (owner) t.equal(owner.log.at(-1), `closed ${code} fault`)
    it.socket.destroy()
  })

t.test('the windows of a connection and a stream are kept to the byte', async t => {
  const it = await started('server', { streamWindowBytes: 100_000, connectionWindowBytes: 100_000 }, owner => (owner.slow = true))
  await it.hear(ask(1, false), ask(3, false))
  for (let i = 0; i < 6; i += 1) await it.hear(dataFrame(1, bytes(16_000)))
  await it.hear(dataFrame(1, bytes(4000)))
  t.strictSame(await it.said(), ['window 0 64000'], 'of the connection, since nothing much is held')
  await it.hear(dataFrame(1, 'x'))
  t.strictSame(await it.said(), [`reset 1 ${flowControlError}`])
  for (let i = 0; i < 10; i += 1) await it.hear(dataFrame(5 - 2, bytes(10_000)))
  t.match((await it.said()).join(), /^window 0 \d+(,window 0 \d+)?$/)
  const { receiveWindow } = inside(it.session)
  const left = Math.floor(receiveWindow / 16_000)
  for (let i = 0; i < left + 1; i += 1) await it.hear(dataFrame(1, bytes(16_000)))
  t.equal(it.session.isClosed, false, 'late ones are dropped at once')
  it.socket.destroy()
})

t.test('what nobody takes shuts its own stream; the connection stays open for the others until too much is held', async t => {
  const limits = { streamWindowBytes: 300_000, connectionWindowBytes: 100_000, heldBytes: 150_000 }
  const it = await started('server', limits, owner => (owner.slow = true))
  await it.hear(ask(1, false), ask(3, false))
  const granted = async () => (await it.said()).filter(each => each.startsWith('window 0')).length
  let grants = 0
  let sent = 0
  while (inside(it.session).receiveWindow >= 10_000) {
    await it.hear(dataFrame(1, bytes(10_000)))
    sent += 10_000
    grants += await granted()
    if (sent > 1_000_000) break
  }
  t.strictSame([sent, grants], [250_000, 3], 'heldBytes, and the window that was open then')
  t.equal(inside(it.session).held, 250_000)
  it.owners[0]!.stream.consumed(99_000)
  t.strictSame(await it.said(), [])
  it.owners[0]!.stream.consumed(1000)
  t.strictSame(await it.said(), ['window 0 100000'], 'taken bytes open it again')
  t.equal(inside(it.session).receiveWindow, 100_000)
  it.owners[0]!.stream.consumed(50_000)
  t.strictSame(await it.said(), ['window 1 150000'], 'and the stream, at half its window')
  it.owners[0]!.stream.reset(cancel)
  t.equal(inside(it.session).held, 0, 'a stream that is gone holds nothing')
  it.socket.destroy()
})

t.test('padding counts in both windows, and is taken as soon as it came', async t => {
  const it = await started('server', { streamWindowBytes: 1000 }, owner => (owner.slow = true))
  await it.hear(ask(1, false))
  const frames12 = join([
    frame(frames.data, isPadded, 1, padded(Buffer.from('hello'), 200)),
    frame(frames.data, isPadded, 1, padded(Buffer.alloc(0), 255)),
    frame(frames.data, isPadded, 1, padded(Buffer.alloc(0), 0)),
    frame(frames.data, isPadded, 1, padded(Buffer.from(' you'), 0)),
  ])
  for (const byte of frames12) it.socket.push(Buffer.from([byte]))
  t.strictSame(await it.said(), [])
  t.strictSame(it.owners[0]!.chunks.map(String).join(''), 'hello you')
  t.equal(inside(it.session).held, 9)
  await it.hear(frame(frames.data, isPadded, 1, padded(Buffer.from('!'), 60)))
  t.strictSame(await it.said(), ['window 1 520'], '201 + 256 + 1 + 1 + 61')
  await it.hear(frame(frames.data, isPadded | endStream, 1, padded(Buffer.from('.'), 7)))
  t.strictSame(it.owners[0]!.log.at(-1), 'data "." end')
  it.owners[0]!.stream.consumed(11)
  t.equal(inside(it.session).held, 0)
  t.strictSame(await it.said(), [], 'a stream that ended needs no window')
  const early = await started('server', { streamWindowBytes: 300 })
  await early.hear(ask(1, false), frame(frames.data, isPadded, 1, padded(bytes(100), 200)))
  t.strictSame(await early.said(), [`reset 1 ${flowControlError}`], 'the padding and its length too: 301 bytes')
  it.socket.destroy()
  early.socket.destroy()
})

t.test('HEADERS may be padded and prioritised, in parts too', async t => {
  const it = await started('server')
  const list = request('/', [['a', 'b']])
  await it.hear(
    frame(
      frames.headers,
      isPadded | hasPriority | endHeaders | endStream,
      1,
      join([Buffer.from([9]), u32(0), Buffer.from([1]), list, bytes(9)]),
    ),
    join([
      frame(frames.headers, isPadded | endStream, 3, join([Buffer.from([4]), list.subarray(0, 7), bytes(4)])),
      frame(frames.continuation, 0, 3),
      frame(frames.continuation, endHeaders, 3, list.subarray(7)),
    ]),
  )
  t.strictSame(
    it.owners.map(({ log }) => log),
    [['end'], ['end']],
  )
  it.socket.destroy()
})

t.test('a body is as long as was said, in both directions', async t => {
  const cases: [body: Buffer[], ended: string][] = [
    [[dataFrame(1, 'hello', endStream)], 'data "hello" end'],
    [[dataFrame(1, 'hell'), dataFrame(1, 'o'), trailers(1)], 'headers x=y end'],
    [[dataFrame(1, 'hello'), dataFrame(1, '', endStream)], 'data "" end'],
    [[dataFrame(1, 'hell', endStream)], 'closed 1 fault'],
    [[dataFrame(1, 'hello!', endStream)], 'closed 1 fault'],
    [[dataFrame(1, 'hello'), dataFrame(1, '!')], 'closed 1 fault'],
    [[dataFrame(1, 'hell'), trailers(1)], 'closed 1 fault'],
    [[dataFrame(1, 'hell'), dataFrame(1, '', endStream)], 'closed 1 fault'],
    [[frame(frames.data, isPadded | endStream, 1, padded(Buffer.from('hello'), 3))], 'data "hello" end'],
    [[frame(frames.data, isPadded | endStream, 1, padded(Buffer.from('hell'), 3))], 'closed 1 fault'],
  ]
  for (const role of ['server', 'client'] as const)
    for (const [body, ended] of cases) {
      const it = await started(role, {}, owner => owner.stream.expect(5))
      const owner = role === 'client' ? it.open() : undefined
      owner?.stream.expect(5)
      await it.hear(role === 'client' ? answer(1) : ask(1, false), ...body)
      t.equal((owner ?? it.owners[0]!).log.at(-1), ended, `${role}: ${body.length} frames`)
      t.equal(
        (await it.said()).some(each => each === 'reset 1 1'),
        ended.startsWith('closed'),
      )
      t.equal(inside(it.session).held, 0)
      it.socket.destroy()
    }
})

t.test('an initial window that changes moves those of all streams, below nothing too', async t => {
  const it = await started('client')
  const [one, other] = [it.open(), it.open()]
  await it.hear(windowUpdate(0, 10_000_000))
  t.equal(one.stream.sendData(bytes(65_600), false), 65_535)
  t.equal(it.session.unsent, 65)
  await it.said()
  await it.hear(settings([4, 1000]))
  t.equal(other.stream.sendData(bytes(5000), true), 1000)
  t.strictSame(await it.said(), ['settings ack', 'data 3 <1000>'])
  await it.hear(windowUpdate(1, 64_535))
  t.strictSame(await it.said(), [], 'its window is no more than 0 now')
  await it.hear(windowUpdate(1, 2))
  t.strictSame(await it.said(), ['data 1 "xx"'])
  const late = it.open()
  t.equal(late.stream.sendData(bytes(1001), false), 1000, 'and that of those that come')
  it.socket.destroy()
})

t.test('what a larger initial window lets go comes behind its acknowledgement', async t => {
  const it = await started('client')
  await it.hear(windowUpdate(0, 10_000_000))
  const [one, two] = [it.open(), it.open()]
  one.stream.sendData(bytes(65_535 + 20), true)
  two.stream.sendData(bytes(65_535 + 30), false)
  await it.said()
  await it.hear(settings([4, 65_545]))
  t.strictSame(await it.said(), ['settings ack', 'data 1 "xxxxxxxxxx"', 'data 3 "xxxxxxxxxx"'])
  await it.hear(settings([4, 65_540]))
  t.strictSame(await it.said(), ['settings ack'])
  await it.hear(windowUpdate(1, 6))
  t.strictSame(await it.said(), ['data 1 "x"'])
  await it.hear(settings([4, 0], [4, 70_000]))
  t.strictSame(await it.said(), ['settings ack', 'data 1 "xxxxxxxxx" end', 'data 3 "xxxxxxxxxxxxxxxxxxxx"'])
  t.strictSame(one.log, ['sent 10', 'sent 1', 'sent 9'])
  t.equal(it.session.unsent, 0)
  it.socket.destroy()
})

t.test('streams that wait take turns, a frame each', async t => {
  const it = await started('client', { maxUnsentBytes: 1 << 30 })
  await it.hear(settings([4, 1_000_000]))
  const first = it.open()
  first.stream.sendData(bytes(65_535), false)
  const owners = [it.open(), it.open(), it.open()]
  for (const owner of owners) owner.stream.sendData(bytes(100_000), true)
  await it.said()
  await it.hear(windowUpdate(0, 150_000))
  const counts = new Map<string, number>()
  for (const each of await it.said()) {
    const id = each.split(' ')[1]!
    counts.set(id, (counts.get(id) ?? 0) + sentOf([each]))
  }
  t.strictSame([...counts.keys()], ['3', '5', '7'])
  t.ok(
    [...counts.values()].every(count => Math.abs(count - 50_000) <= 16_384),
    [...counts.values()].join(' '),
  )
  t.equal(it.session.unsent, 150_000)
  await it.hear(windowUpdate(0, 1_000_000))
  t.strictSame((await it.said()).filter(each => each.endsWith('end')).length, 3)
  t.strictSame([it.session.unsent, inside(it.session).waiting.size], [0, 0])
  it.socket.destroy()
})

t.test('ends and trailers come behind what waits, and once', async t => {
  const it = await started('client')
  await it.hear(settings([4, 3]))
  const [ends, trails, ended, empty] = [it.open(), it.open(), it.open(), it.open()]
  t.equal(ends.stream.sendData(Buffer.from('hello'), false), 3)
  ends.stream.sendData(Buffer.from(' you'), false)
  ends.stream.end()
  t.equal(trails.stream.sendData(Buffer.from('hello'), false), 3)
  trails.stream.sendTrailers(['x', 'y'], undefined)
  t.equal(ended.stream.sendData(Buffer.from('hello'), true), 3)
  t.equal(ended.stream.sendData(Buffer.from('dropped'), true), 7)
  t.equal(empty.stream.sendData(Buffer.from('abc'), false), 3)
  empty.stream.end()
  await it.said()
  await it.hear(join([3, 5, 1, 7].map(id => windowUpdate(id, 2))), windowUpdate(1, 1), windowUpdate(1, 9), windowUpdate(3, 9))
  t.strictSame(await it.said(), ['data 3 "lo"', 'headers 3 x=y end', 'data 5 "lo" end', 'data 1 "lo"', 'data 1 " "', 'data 1 "you" end'])
  t.strictSame(ends.log, ['sent 2', 'sent 1', 'sent 3'])
  for (const owner of [ends, trails, ended, empty]) t.equal(owner.stream.localEnded, true)
  t.equal(it.session.unsent, 0)
  it.socket.destroy()
})

t.test('a stream that is reset takes what waits along', async t => {
  const it = await started('client')
  await it.hear(settings([4, 3]))
  const [ours, theirs] = [it.open(), it.open()]
  for (const owner of [ours, theirs]) {
    owner.stream.sendData(bytes(100), false)
    owner.stream.sendTrailers(['x', 'y'], undefined)
  }
  await it.said()
  t.equal(it.session.unsent, 194)
  ours.stream.reset(cancel)
  await it.hear(resetFrame(3, 2))
  t.strictSame([ours.log, theirs.log], [['closed 8 us'], ['closed 2 peer']])
  await it.hear(join([windowUpdate(1, 100), windowUpdate(3, 100), resetFrame(1, 8)]))
  t.strictSame(await it.said(), ['reset 1 8'])
  t.strictSame([it.session.unsent, it.session.streams.size, inside(it.session).waiting.size], [0, 0, 0])
  ours.stream.sendData(bytes(1), true)
  ours.stream.reset(cancel)
  ours.stream.stop()
  ours.stream.consumed(5)
  t.strictSame(await it.said(), [], 'nothing comes of it any more')
  it.socket.destroy()
})

t.test('a server that wants no more of a body says so behind its own end alone', async t => {
  const it = await started('server')
  await it.hear(settings([4, 3]), ask(1, false), ask(3, false), ask(5, false))
  const [waits, done, late] = it.owners
  await it.said()
  waits!.stream.sendHeaders([':status', '200'], undefined, false)
  waits!.stream.sendData(Buffer.from('hello'), true)
  waits!.stream.stop()
  done!.stream.stop()
  done!.stream.sendHeaders([':status', '200'], undefined, true)
  late!.stream.stop()
  await it.hear(dataFrame(5, 'x', endStream))
  late!.stream.sendHeaders([':status', '200'], undefined, true)
  t.strictSame(await it.said(), [
    'headers 1 :status=200',
    'data 1 "hel"',
    'headers 3 :status=200 end',
    `reset 3 ${noError}`,
    'headers 5 :status=200 end',
  ])
  await it.hear(windowUpdate(1, 9))
  t.strictSame(await it.said(), ['data 1 "lo" end', `reset 1 ${noError}`])
  t.strictSame(
    it.owners.map(({ log }) => log),
    [['closed 0 us'], ['closed 0 us'], ['data "x" end', 'closed 0 both']],
  )
  await it.hear(dataFrame(1, 'late', endStream), trailers(3))
  t.strictSame([await it.said(), it.session.isClosed, inside(it.session).held], [[], false, 0])
  it.socket.destroy()
})

t.test('what was on its way for a stream that was reset is ignored, but for its windows and header tables', async t => {
  const it = await asked({ connectionWindowBytes: 100_000 })
  const indexed = Buffer.concat([Buffer.from([0x40, 1]), Buffer.from('k'), Buffer.from([1]), Buffer.from('v')])
  await it.hear(
    join([
      dataFrame(5, bytes(16_000)),
      frame(frames.data, isPadded, 5, padded(bytes(100), 50)),
      windowUpdate(5, 10),
      windowUpdate(5, 0),
      frame(frames.headers, endHeaders | endStream, 5, indexed),
      dataFrame(5, bytes(16_000)),
      resetFrame(5, 8),
    ]),
  )
  t.strictSame(await it.said(), [])
  t.equal(inside(it.session).held, 0)
  t.equal(it.owners[2]!.ends, 1)
  await it.hear(join([dataFrame(5, bytes(16_000)), dataFrame(5, bytes(16_000))]))
  t.strictSame(await it.said(), ['window 0 64151'])
  await it.hear(frame(frames.headers, endHeaders | endStream, 7, join([request(), Buffer.from([0x80 | 62])])))
  t.equal(it.owners.length, 4, 'the table has what came for it')
  it.socket.destroy()
})

t.test('DATA for a stream that ended long ago is told so', async t => {
  const it = await started('server', {}, owner => owner.stream.sendHeaders([':status', '200'], undefined, true))
  await it.hear(ask(1))
  await it.said()
  await it.hear(dataFrame(1, 'x'))
  t.strictSame(await it.said(), [`reset 1 ${streamClosed}`])
  t.equal(inside(it.session).held, 0)
  it.socket.destroy()
})

t.test('a GOAWAY gives up the streams above its last one, and ends with the others', async t => {
  const it = await started('client')
  const [one, two, three] = [it.open(), it.open(true), it.open()]
  await it.said()
  await it.hear(goawayFrame(3))
  t.strictSame([one.log, two.log, three.log, it.events], [[], [], [`closed ${refusedStream} peer`], ['leaving']])
  t.equal(it.session.request(get, undefined, true, one), undefined)
  await it.hear(goawayFrame(1))
  t.strictSame([two.log, it.events], [[`closed ${refusedStream} peer`], ['leaving']], 'and once more with less')
  one.stream.sendData(Buffer.from('still'), true)
  t.strictSame(await it.said(), ['goaway 0 0', 'data 1 "still" end'])
  t.equal(it.socket.writableEnded, false)
  await it.hear(answer(1), dataFrame(1, 'heard', endStream))
  t.strictSame(one.log, ['headers :status=200', 'data "heard" end', 'closed 0 both'])
  await it.said()
  t.equal(it.socket.writableEnded, true)
  it.socket.push(null)
  await it.said()
  t.strictSame(it.events, ['leaving', 'closed'])
})

t.test('a GOAWAY for no stream at all ends a session that has none at once', async t => {
  const it = await started('client')
  await it.hear(goawayFrame(0, 2))
  t.strictSame([await it.said(), it.socket.writableEnded], [['goaway 0 0'], true])
  it.socket.destroy()
})

t.test('a server that closes takes no more streams and ends with the last one', async t => {
  const it = await started('server')
  await it.hear(ask(1), ask(3, false))
  it.session.goaway()
  await it.hear(ask(5))
  t.equal(it.owners.length, 3, 'those that were on their way are taken')
  it.session.close()
  it.session.close()
  await it.hear(join([ask(7, false), dataFrame(7, 'x'), trailers(7), ask(9)]))
  t.equal(it.owners.length, 3)
  t.strictSame(await it.said(), ['goaway 2147483647 0', 'goaway 5 0'])
  for (const { stream } of it.owners) stream.sendHeaders([':status', '200'], undefined, true)
  t.equal(it.socket.writableEnded, false)
  await it.hear(dataFrame(3, 'x', endStream))
  t.equal((await it.said()).length, 3)
  t.equal(it.socket.writableEnded, true)
  t.strictSame(
    it.owners.map(({ ends }) => ends),
    [1, 1, 1],
  )
  it.socket.push(null)
  await it.said()
  t.strictSame(it.events, ['closed'])
})

t.test('the last stream of a GOAWAY never grows: those that were not taken are not in it', async t => {
  const it = await started('server')
  await it.hear(ask(1))
  it.session.close()
  await it.hear(join([ask(3), ask(5)]))
  it.session.destroy(cancel)
  t.strictSame(await it.said(), ['goaway 1 0', `goaway 1 ${cancel}`])
  it.socket.destroy()
})

t.test('a client that closes ends with its last stream, and answers pings until then', async t => {
  const it = await started('client')
  const owner = it.open(true)
  it.session.close()
  await it.hear(frame(frames.ping, 0, 0, Buffer.alloc(8)))
  t.strictSame((await it.said()).slice(1), ['goaway 0 0', 'ping ack 0000000000000000'])
  await it.hear(answer(1, true))
  await it.said()
  t.strictSame([owner.log, it.socket.writableEnded], [['headers :status=200 end', 'closed 0 both'], true])
  await it.hear(frame(frames.ping, 0, 0, Buffer.alloc(8)))
  t.strictSame(await it.said(), [], 'nothing is said behind the end')
  it.socket.push(null)
  await it.said()
  t.strictSame(it.events, ['closed'])
})

t.test('a connection that is gone ends every stream once', async t => {
  for (const end of [(it: Hand) => it.socket.destroy(new Error('reset')), (it: Hand) => it.socket.push(null)]) {
    const it = await started('client')
    await it.hear(settings([4, 3]))
    const [one, two] = [it.open(), it.open(true)]
    one.stream.sendData(bytes(100), true)
    one.slow = true
    await it.hear(answer(1), dataFrame(1, 'x'))
    end(it)
    await it.said()
    t.strictSame([one.log.at(-1), two.log, it.events.at(-1)], ['closed 8 session', ['closed 8 session'], 'closed'])
    t.strictSame([it.session.unsent, inside(it.session).held, it.session.streams.size], [0, 0, 0])
    t.equal(it.session.request(get, undefined, true, one), undefined)
    it.session.destroy(cancel)
    t.equal(it.events.filter(each => each === 'closed').length, 1)
  }
})

t.test('pings are answered, and each body frame earns one', async t => {
  const it = await asked({ idleFrameBurst: 20, idleFramesPerSecond: 0 })
  const ping = frame(frames.ping, 0, 0, Buffer.from('01234567'))
  for (let i = 0; i < 60; i += 1) it.socket.push(join([ping, dataFrame(1, 'x')]))
  const said = await it.said()
  t.strictSame([said.length, new Set(said).size, said[0]], [60, 1, `ping ack ${Buffer.from('01234567').toString('hex')}`])
  for (let i = 0; i < 25; i += 1) it.socket.push(ping)
  t.match((await it.said()).at(-1), /^goaway 5 11$/)
  t.strictSame(it.events, ['flooded', 'closed'])
  it.socket.destroy()
})

t.test('frames that are sent earn pings, too', async t => {
  const it = await asking({ idleFrameBurst: 20, idleFramesPerSecond: 0 })
  const owner = it.open()
  for (let i = 0; i < 60; i += 1) {
    owner.stream.sendData(bytes(1), false)
    it.socket.push(frame(frames.ping, 0, 0, bytes(8)))
  }
  t.equal((await it.said()).filter(each => each.startsWith('ping ack')).length, 60)
  it.socket.destroy()
})

t.test('a ping of our own hears its answer; one that was not asked for does nothing', async t => {
  const it = await started('client')
  let answers = 0
  it.session.ping(() => (answers += 1))
  t.strictSame(await it.said(), ['ping 0000000000000000'])
  await it.hear(frame(frames.ping, 1, 0, bytes(8)), frame(frames.ping, 1, 0, bytes(8)))
  t.strictSame([answers, await it.said()], [1, []])
  it.socket.destroy()
})

t.test('unknown frames, flags, settings and reserved bits are ignored', async t => {
  const it = await asked()
  const reserved = dataFrame(1, 'x', 0xf0 & ~isPadded & ~hasPriority)
  reserved[5]! |= 0x80
  await it.hear(
    join([
      frame(77, 255, 1, bytes(10)),
      frame(10, 0, 0),
      settings([99, 1], [3, 0]),
      reserved,
      frame(frames.priority, 0, 9, join([u32(3), bytes(1)])),
    ]),
  )
  t.strictSame([await it.said(), it.owners[0]!.log], [['settings ack'], ['data "x"']])
  t.strictSame(it.events, ['allowed 0'])
  it.socket.destroy()
})
