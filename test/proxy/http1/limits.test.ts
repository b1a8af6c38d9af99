// Every limit of limits.ts by name: what is just within it passes, what is beyond it does not, and no slow sender gets around it. The
// table does not compile while a limit has no test.
import t, { type Test } from 'tap'
import { serveHttp1, type Http1Limits, type UpstreamStream } from '../../../src/proxy/http1/connection.ts'
import { behind, get, ok, raw } from './apps.ts'
import { eventually } from '../../support/until.ts'
import { limits, once, RawClient, type Served } from './harness.ts'
import { MemoryStream, turn } from './node-reader.ts'

const last = (start: string, fields = '', body = '') => `${start} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n${fields}\r\n${body}`
const pause = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms))

/** An app that answers each request that came with 200. */
const plain = (t: Test, changed: Partial<Http1Limits>) =>
  behind(t, (request, response) => void request.resume().on('end', () => response.end('app')), { limits: changed })

/** An app that answers with the raw text that the path of the request names. */
const saying = (t: Test, changed: Partial<Http1Limits>, texts: Record<string, string>) =>
  raw(t, (socket, chunk) => socket.write(texts[chunk.split(' ')[1]!] ?? ok('app')), { limits: changed })

/** Sends a byte, and another, … until the connection ends or has an answer. Answers how many it sent. */
async function trickle(client: RawClient, everyMs: number): Promise<number> {
  let sent = 0
  while (!client.ended && client.received === '') {
    client.send('x')
    sent++
    await pause(everyMs)
  }
  return sent
}

const unreached = 'HTTP/1.1 503 X\r\ncontent-length: 0\r\nx-isthmus-app-unreached: 1\r\n\r\n'

/** Servers that are one of us, one after another. */
async function moving(t: Test, changed: Partial<Http1Limits>, answer: (nth: number, text: string) => string) {
  const retry = { retries: 1, perTryMs: 0, statuses: [], allow: () => true, unreached: () => {} }
  const served: Served = await raw(t, (socket, text, nth) => socket.write(answer(nth, text)), {
    limits: changed,
    judge: () => ({ retry, connect: async () => ({ ...((await served.pool.get(true)) as UpstreamStream), appUnreached: () => true }) }),
  })
  return served
}

const tests: Record<keyof Http1Limits, (t: Test) => Promise<void>> = {
  async headBytes(t) {
    const head = (length: number, start: string): string => {
      const rest = `${start}\r\nX: \r\n\r\n`
      return rest.replace('X: ', `X: ${'x'.repeat(length - rest.length)}`)
    }
    const start = 'GET / HTTP/1.1\r\nHost: api\r\nConnection: close'
    const answer = 'HTTP/1.1 200 OK\r\nContent-Length: 0'
    const served = await saying(t, { headBytes: 200 }, { '/within': head(200, answer), '/beyond': head(201, answer) })
    t.match(await once(served.port, head(200, start)), /^HTTP\/1.1 200 /)
    t.match(await once(served.port, head(201, start)), /^HTTP\/1.1 431 .*head too large$/s)
    t.match(await once(served.port, head(300, start).slice(0, 250)), /^HTTP\/1.1 431 /, 'before its end')
    t.match(await once(served.port, last('GET /within')), /^HTTP\/1.1 200 /)
    t.match(await once(served.port, last('GET /beyond')), /^HTTP\/1.1 502 .*protocol error$/s)
  },

  async headerCount(t) {
    const answer = (fields: number) => `HTTP/1.1 200 OK\r\n${'a: b\r\n'.repeat(fields - 1)}Content-Length: 0\r\n\r\n`
    const served = await saying(t, { headerCount: 5 }, { '/within': answer(5), '/beyond': answer(6) })
    t.match(await once(served.port, last('GET /', 'a: b\r\n'.repeat(3))), /^HTTP\/1.1 200 /)
    t.match(await once(served.port, last('GET /', 'a: b\r\n'.repeat(4))), /^HTTP\/1.1 431 .*too many fields$/s)
    t.match(await once(served.port, last('GET /within')), /^HTTP\/1.1 200 /)
    t.match(await once(served.port, last('GET /beyond')), /^HTTP\/1.1 502 /)
  },

  async targetBytes(t) {
    const served = await plain(t, { targetBytes: 20 })
    t.match(await once(served.port, last(`GET /${'a'.repeat(19)}`)), /^HTTP\/1.1 200 /)
    t.match(await once(served.port, last(`GET /${'a'.repeat(20)}`)), /^HTTP\/1.1 414 .*request target too long$/s)
    t.match(await once(served.port, `GET /${'a'.repeat(20)}`), /^HTTP\/1.1 414 /, 'before its end')
  },

  async methodBytes(t) {
    const served = await saying(t, { methodBytes: 5 }, {})
    t.match(await once(served.port, last('ABCDE /')), /^HTTP\/1.1 200 /)
    t.match(await once(served.port, last('ABCDEF /')), /^HTTP\/1.1 400 .*invalid method token$/s)
    t.match(await once(served.port, 'ABCDEF'), /^HTTP\/1.1 400 /, 'before its end')
  },

  async trailerBytes(t) {
    const trailer = (length: number) => `5\r\nhello\r\n0\r\nX: ${'x'.repeat(length - 7)}\r\n\r\n`
    const answer = (length: number) => `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${trailer(length)}`
    const served = await saying(t, { trailerBytes: 50 }, { '/within': answer(50), '/beyond': answer(51) })
    const te = 'Transfer-Encoding: chunked\r\n'
    t.match(await once(served.port, last('POST /', te, trailer(50))), /^HTTP\/1.1 200 /)
    t.match(await once(served.port, last('POST /', te, trailer(51))), /^HTTP\/1.1 400 .*invalid or oversized trailers$/s)
    t.match(await once(served.port, last('GET /within')), /X: x+\r\n\r\n$/)
    t.notMatch(await once(served.port, last('GET /beyond')), /0\r\n\r\n$/, 'no end for the client of what has none')
  },

  async chunkExtensionBytes(t) {
    const te = 'Transfer-Encoding: chunked\r\n'
    const chunks = (...extensions: string[]) => `${extensions.map(each => `1${each}\r\nx\r\n`).join('')}0\r\n\r\n`
    const served = await plain(t, { chunkExtensionBytes: 10 })
    t.match(await once(served.port, last('POST /', te, chunks(';aaaa', ';b=cd'))), /^HTTP\/1.1 200 /)
    t.match(
      await once(served.port, last('POST /', te, chunks(';aaaa', ';b=cde'))),
      /^HTTP\/1.1 400 .*invalid or oversized chunk extension$/s,
      'of all chunks together',
    )
  },

  async interimResponses(t) {
    const hints = 'HTTP/1.1 103 Early Hints\r\n\r\n'
    const served = await saying(
      t,
      { interimResponses: 3 },
      { '/within': hints.repeat(3) + ok('app'), '/beyond': hints.repeat(4) + ok('app') },
    )
    t.match(await once(served.port, last('GET /within')), /^(HTTP\/1.1 103 Early Hints\r\n\r\n){3}HTTP\/1.1 200 .*app$/s)
    t.match(await once(served.port, last('GET /beyond')), /^(HTTP\/1.1 103 Early Hints\r\n\r\n){3}HTTP\/1.1 502 .*protocol error$/s)
  },

  async headTimeoutMs(t) {
    const served = await plain(t, { headTimeoutMs: 100, lingerMs: 20 })
    const slow = new RawClient(served.port)
    slow.send('GET / HTTP/1.1\r\nHost: api\r\nX: ')
    const started = Date.now()
    const sent = await trickle(slow, 10)
    t.match(await slow.end(), /^HTTP\/1.1 408 .*connection: close\r\n\r\nrequest timeout$/s, 'slowloris')
    t.ok(sent > 2 && Date.now() - started < 3000, `${sent} bytes did not prolong it`)
    const kept = new RawClient(served.port)
    kept.send(get())
    await kept.until('app')
    kept.take()
    kept.send('GET')
    t.match(await kept.end(), /^HTTP\/1.1 408 /, 'of a later request, too')
    t.strictSame(served.door.refused, ['408 head timeout', '408 head timeout'])
  },

  async idleTimeoutMs(t) {
    const served = await plain(t, { idleTimeoutMs: 120 })
    t.equal(await once(served.port, ''), '', 'a connection without a request ends without a word')
    const lines = new RawClient(served.port)
    for (let i = 0; i < 4; i++) {
      lines.send('\r\n')
      await pause(40)
    }
    t.equal(await lines.end(), '', 'empty lines do not prolong it')
    const kept = new RawClient(served.port)
    for (let i = 0; i < 3; i++) {
      kept.take()
      kept.send(get())
      await kept.until('app')
      await pause(60)
      t.equal(kept.ended, false, 'it counts from the last answer')
    }
    await kept.end()
  },

  async requestTimeoutMs(t) {
    const served = await raw(
      t,
      (socket, chunk) => {
        if (!chunk.includes('/trickle')) return
        socket.write('HTTP/1.1 200 OK\r\nX: ')
        const timer = setInterval(() => socket.write('x'), 10)
        socket.on('close', () => clearInterval(timer))
      },
      { limits: { requestTimeoutMs: 100 } },
    )
    t.match(await once(served.port, last('GET /silent')), /^HTTP\/1.1 504 .*upstream request timeout$/s)
    t.match(await once(served.port, last('GET /trickle')), /^HTTP\/1.1 504 /, 'a head that comes in bytes does not prolong it')
    const never = await raw(t, socket => void setTimeout(() => socket.write(ok('app')), 100), { limits: { requestTimeoutMs: 0 } })
    t.match(await once(never.port, last('GET /')), /app$/, '0 is no limit')
  },

  async bodyIdleTimeoutMs(t) {
    const changed = { bodyIdleTimeoutMs: 100, requestTimeoutMs: 0 }
    const served = await behind(
      t,
      (request, response) => {
        request.on('error', () => {})
        if (request.url === '/stall') response.writeHead(200, { 'content-length': 100 }).write('part')
        else if (request.url === '/flood') response.end(Buffer.alloc(32 * 1024 * 1024))
        else request.resume().on('end', () => response.end('app'))
      },
      { limits: changed },
    )
    t.match(await once(served.port, last('POST /', 'Content-Length: 100\r\n', 'part')), /^HTTP\/1.1 408 /, 'a request that stops')
    const slow = new RawClient(served.port)
    slow.send(last('POST /', 'Content-Length: 8\r\n'))
    for (let i = 0; i < 8; i++) {
      slow.send('x')
      await pause(30)
    }
    t.match(await slow.end(), /app$/, 'each byte counts')
    t.match(await once(served.port, last('GET /stall')), /part$/, 'a response that stops breaks off')
    const deaf = new RawClient(served.port)
    deaf.socket.pause()
    deaf.send(last('GET /flood'))
    await eventually(() => served.sockets.at(-1)!.destroyed)
    t.match(served.door.outcomes.at(-1), { status: 200, source: 'upstream', reason: 'timeout' }, 'a client that does not read it')
    deaf.socket.destroy()
  },

  async tunnelIdleTimeoutMs(t) {
    const upgrade = 'GET / HTTP/1.1\r\nHost: api\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n'
    const echo = (changed: Partial<Http1Limits>) =>
      raw(
        t,
        (socket, chunk) =>
          socket.write(
            chunk.startsWith('GET') ? 'HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n' : chunk,
          ),
        { limits: changed },
      )
    const served = await echo({ tunnelIdleTimeoutMs: 100, requestTimeoutMs: 0 })
    const client = new RawClient(served.port)
    client.send(upgrade)
    await client.until('101')
    for (let i = 0; i < 5; i++) {
      client.send(`<${i}>`)
      await client.until(`<${i}>`)
      await pause(40)
    }
    t.equal(client.ended, false, 'what moves stays')
    await client.end()
    t.match(served.door.outcomes, [{ status: 101, reason: 'timeout' }])
    const never = await echo({ tunnelIdleTimeoutMs: 0, idleTimeoutMs: 20, requestTimeoutMs: 20 })
    const quiet = new RawClient(never.port)
    quiet.send(upgrade)
    await quiet.until('101')
    await pause(120)
    quiet.send('still')
    await quiet.until('still')
    quiet.socket.destroy()
  },

  async lingerMs(t) {
    const served = await plain(t, { lingerMs: 60 })
    const client = new RawClient(served.port)
    client.send('GET / HTTP/1.1\r\n\r\n')
    await client.until('missing host')
    const started = Date.now()
    // Its side stays open: whether it sends more or not, the connection goes.
    await eventually(() => served.sockets[0]!.destroyed)
    const tookMs = Date.now() - started
    t.ok(tookMs >= 40 && tookMs < 2_000, `gone after ${tookMs} ms`)
    client.socket.destroy()
  },

  async lingerBytes(t) {
    const served = await plain(t, { lingerMs: 60_000, lingerBytes: 10_000 })
    const within = new RawClient(served.port)
    within.send('GET / HTTP/1.1\r\n\r\n')
    await within.until('missing host')
    within.send('x'.repeat(9_000))
    await eventually(() => served.sockets[0]!.bytesRead >= 9_000)
    t.equal(served.sockets[0]!.destroyed, false)
    within.send('x'.repeat(2_000))
    await eventually(() => served.sockets[0]!.destroyed)
    within.socket.destroy()
  },

  async replayBytes(t) {
    for (const [length, tries] of [
      [100, 2],
      [101, 1],
    ] as const) {
      const seen: string[] = []
      const served = await moving(t, { replayBytes: 100 }, (nth, text) => (seen.push(text), nth > 1 ? ok('app') : unreached))
      const answer = await once(served.port, last('POST /', `Content-Length: ${length}\r\n`, 'b'.repeat(length)))
      t.match(answer, tries === 2 ? /app$/ : /^HTTP\/1.1 503 /)
      t.equal(seen.length, tries)
      t.ok(seen.every(text => text.endsWith('b'.repeat(length))))
    }
  },

  async maxMoves(t) {
    let tries = 0
    const served = await moving(t, { maxMoves: 2 }, () => (++tries, unreached))
    t.match(await once(served.port, last('GET /')), /^HTTP\/1.1 503 /)
    t.equal(tries, 3)
  },

  async coalesceBytes(t) {
    for (const [length, writes] of [
      [100, 1],
      [101, 2],
    ] as const) {
      const upstream = new MemoryStream()
      let written = 0
      upstream.onWrite = () => void written++
      const downstream = new MemoryStream()
      const stream = { stream: upstream, reusable: false, release: () => upstream.destroy(), destroy: () => upstream.destroy() }
      const open = (head: { append(name: string, value: string): void }) => {
        head.append('x', 'y')
        return { ok: true as const, connect: () => stream }
      }
      const connection = serveHttp1(downstream, { open, finished() {} }, { ...limits, coalesceBytes: 100 })
      downstream.push(`POST / HTTP/1.1\r\nHost: api\r\nContent-Length: ${length}\r\n\r\n${'b'.repeat(length)}`)
      await turn()
      t.equal(written, writes, `${length} bytes of body`)
      t.ok(upstream.written.endsWith(`x: y\r\n\r\n${'b'.repeat(length)}`))
      connection.close()
    }
  },
}

for (const [name, test] of Object.entries(tests)) t.test(name, test)

t.test('a client that pipelines behind a slow answer is not read', async t => {
  const served = await raw(t, () => {}, { limits: { requestTimeoutMs: 500 } })
  const client = new RawClient(served.port)
  client.send(get().repeat(200_000))
  await eventually(() => served.pool.dialled === 1)
  await pause(50)
  const { bytesRead } = served.sockets[0]!
  t.ok(bytesRead < 512 * 1024, `${bytesRead} of ${get().length * 200_000} bytes were read`)
  t.ok(client.socket.writableLength > 0, 'the client is held back')
  client.socket.destroy()
  // Nobody hears the end of a connection that is not read: the time of the request ends it.
  await eventually(() => served.door.outcomes.length === 1)
  t.match(served.door.outcomes, [{ status: 504, reason: 'timeout' }])
})

t.test('a client that pipelines and does not read its answers gets no more of them', async t => {
  const body = 'x'.repeat(64 * 1024)
  const served = await raw(t, socket => socket.write(ok(body)))
  const client = new RawClient(served.port)
  client.socket.pause()
  client.send(get().repeat(2_000))
  let answered = -1
  while (answered !== served.door.outcomes.length) {
    answered = served.door.outcomes.length
    await pause(100)
  }
  t.ok(answered < 500, `${answered} of 2000 were answered`)
  client.socket.destroy()
})
