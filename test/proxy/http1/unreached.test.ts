// A server that is one of us says that it could not reach its app: the request goes elsewhere as it was, whatever its method, and the word is
// believed of nobody else.
import { Duplex } from 'node:stream'
import t, { type Test } from 'tap'
import type { ByteStream } from '../../../src/lib/byte-stream.ts'
import type { Retry, UpstreamStream } from '../../../src/proxy/http1/door.ts'
import type { RequestHead } from '../../../src/proxy/http1/connection.ts'
import { Replay } from '../../../src/proxy/http1/replay.ts'
import { get, ok, raw } from './apps.ts'
import { limits, once, RawClient, type Served } from './harness.ts'

const mark = 'x-isthmus-app-unreached'
const unreached = `HTTP/1.1 503 X\r\ncontent-length: 2\r\n${mark}: 1\r\n\r\nno`
const closing = (message: string) => message.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')

interface Said {
  /** Of each word: whether the request goes elsewhere. */
  moves: boolean[]
  asked: string[]
  fresh: boolean[]
}

/** Each connection is another server; those of `own` are of us. */
async function servers(
  t: Test,
  answer: (nth: number) => string,
  own = true,
  tellUnreached = false,
): Promise<{ served: Served; said: Said; seen: string[] }> {
  const said: Said = { moves: [], asked: [], fresh: [] }
  const seen: string[] = []
  const retry: Retry = {
    retries: 1,
    perTryMs: 0,
    statuses: [],
    allow: cause => said.asked.push(cause) > 0,
    unreached: again => void said.moves.push(again),
  }
  const judge = (_head: RequestHead) => ({
    retry,
    tellUnreached,
    connect: async (fresh: boolean) => {
      said.fresh.push(fresh)
      const made = (await served.pool.get(true)) as UpstreamStream
      return own ? { ...made, appUnreached: () => true } : made
    },
  })
  const whole = /(?:^GET [^]*\r\n\r\n|end|0\r\n\r\n)$/
  const served: Served = await raw(
    t,
    (socket, chunk, nth) => {
      seen[nth - 1] = (seen[nth - 1] ?? '') + chunk
      const text = answer(nth)
      if (text.startsWith('HTTP/1.1 503') || whole.test(seen[nth - 1]!)) socket.write(text)
    },
    { judge },
  )
  return { served, said, seen }
}

t.test('a request that must not be done twice goes elsewhere with its body', async t => {
  const { served, said, seen } = await servers(t, nth => (nth < 3 ? unreached : ok('third')))
  const post = 'POST /x HTTP/1.1\r\nHost: api\r\nContent-Length: 7\r\n\r\nthe end'
  t.match(await once(served.port, closing(post)), /third$/)
  t.equal(seen.length, 3)
  t.match(seen[2], /^POST \/x [^]*the end$/)
  t.same(new Set(seen).size, 1, 'each saw the same')
  t.same([said.moves, said.asked, said.fresh], [[true, true], [], [false, false, false]], 'it is no retry')
  t.match(served.door.outcomes, [{ status: 200, source: 'app', retried: true, requestBytes: 7 }])
})

t.test('a body that is still on its way, in pieces, arrives whole', async t => {
  const { served, seen } = await servers(t, nth => (nth === 1 ? unreached : ok('second')))
  const client = new RawClient(served.port)
  client.send('POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n')
  await until(() => seen.length === 2)
  client.send('3;x=y\r\nde')
  client.send('f\r\n0\r\n\r\n')
  await client.until('second')
  t.match(seen[1], /\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n$/)
  client.take()
  client.send('POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\nend')
  await client.until('second')
  t.match(seen[2], /\r\n\r\nend$/, 'and nothing of it is left for the next')
  client.socket.destroy()
})

t.test('a server that took no more of the body, and then said it, stops nothing at the next one', async t => {
  let seen = ''
  const served: Served = await raw(
    t,
    (socket, chunk) => {
      seen += chunk
      if (seen.endsWith('end')) socket.write(ok('second'))
    },
    {
      judge: () => {
        let tries = 0
        const retry = { retries: 0, perTryMs: 0, statuses: [], allow: () => false, unreached: () => {} }
        return { retry, connect: () => (tries++ === 0 ? full() : own(served)) }
      },
    },
  )
  const client = new RawClient(served.port)
  client.send(`POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 30003\r\n\r\n${'x'.repeat(20_000)}`)
  await until(() => seen.length > 20_000)
  client.send(`${'y'.repeat(10_000)}end`)
  await client.until('second')
  t.equal(seen.split('\r\n\r\n')[1], `${'x'.repeat(20_000)}${'y'.repeat(10_000)}end`)
  client.socket.destroy()
})

/** One of us, which takes nothing, and says so only when it has more than it wants. */
function full(): UpstreamStream {
  const stream = new Duplex({
    writableHighWaterMark: 1024,
    read: () => {},
    write: () => setTimeout(() => stream.push(unreached), 20),
  })
  return { stream, reusable: false, appUnreached: () => true, release: () => {}, destroy: () => void stream.destroy() }
}

async function own(served: Served): Promise<UpstreamStream> {
  const made = (await served.pool.get(true)) as UpstreamStream
  return { ...made, appUnreached: () => true }
}

t.test('a body that came in single bytes is kept as few', t => {
  const replay = new Replay(limits)
  const { replayBytes } = limits
  replay.begin()
  const body = Buffer.alloc(replayBytes, 'abc')
  for (let at = 0; at < replayBytes; at += 1) replay.keep(body, at, at + 1, -1)
  const written: Buffer[] = []
  replay.send({ write: (piece: Buffer) => written.push(piece) > 0 } as unknown as ByteStream)
  t.ok(written.length <= 2)
  t.ok(Buffer.concat(written).equals(body))
  replay.keep(body, 0, 1, -1)
  t.same([replay.isWhole, replay.isEmpty], [false, true], 'and one byte more is too many')
  t.end()
})

t.test('trailers go with it', async t => {
  const { served, seen } = await servers(t, nth => (nth === 1 ? unreached : ok('second')))
  const text = 'POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n'
  const client = new RawClient(served.port)
  client.send(text)
  await until(() => seen.length === 2 && seen[1]!.endsWith('x-sum: 1\r\n\r\n'))
  t.match(seen[1], /\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n$/)
  client.socket.destroy()
})

t.test('it goes elsewhere so often and no more, and the caller never sees the word', async t => {
  const { served, said, seen } = await servers(t, () => unreached)
  const answer = await once(served.port, closing(get()))
  t.match(answer, /^HTTP\/1\.1 503 X\r\n[^]*no$/)
  t.notMatch(answer, mark)
  t.same([seen.length, said.moves], [9, [...Array<boolean>(8).fill(true), false]])
})

t.test('of a server that is none of us the word is dropped, and means nothing', async t => {
  const { served, said, seen } = await servers(t, () => unreached, false)
  const answer = await once(served.port, closing('POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 3\r\n\r\nend'))
  t.match(answer, /^HTTP\/1\.1 503 X\r\n/)
  t.notMatch(answer, mark)
  t.same([seen.length, said.moves], [1, []])
})

t.test('what one of us said is said on to one of us, where the request goes nowhere else', async t => {
  for (const own of [true, false]) {
    const { served } = await servers(t, () => unreached, own, true)
    const answer = await once(served.port, closing(get()))
    t.match(answer, /^HTTP\/1\.1 503 X\r\n[^]*no$/)
    t.equal(answer.split(mark).length - 1, own ? 1 : 0, own ? 'once' : 'and not what a stranger said')
  }
})

t.test('nor does an app see it, however it is spelt', async t => {
  const { served, seen } = await servers(t, () => ok('app'))
  await once(served.port, `GET / HTTP/1.1\r\nHost: api\r\nX-Isthmus-App-Unreached: 1\r\nx-kept: 1\r\nConnection: close\r\n\r\n`)
  t.match(seen[0], 'x-kept: 1')
  t.notMatch(seen[0], /unreached/i)
})

t.test('one of us is told when nothing was sent, and nobody else', async t => {
  for (const tellUnreached of [true, false]) {
    for (const [failure, told] of [
      [{ reset: 'remote connection failure' }, true],
      [{ reset: 'no healthy upstream', status: 503, body: 'x' }, true],
      [{ reset: 'overflow' }, false],
      [{ reset: 'internal error', status: 500 }, false],
    ] as const) {
      const served = await raw(t, () => {}, { judge: () => ({ tellUnreached, connect: () => failure }) })
      const answer = await once(served.port, closing(get()))
      t.equal(answer.includes(`${mark}: 1\r\n`), told && tellUnreached, `${failure.reset} to ${tellUnreached ? 'us' : 'others'}`)
    }
  }
  const served = await raw(t, socket => void socket.destroy(), { judge: () => ({ tellUnreached: true }) })
  t.notMatch(
    await once(served.port, closing('POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 1\r\n\r\na')),
    mark,
    'it was sent: nobody knows',
  )
})

async function until(what: () => boolean): Promise<void> {
  while (!what()) await new Promise(resolve => setTimeout(resolve, 5))
}
