// Bodies of real size through a served connection: backpressure both ways, memory bounded, a short load.
import { request as dial } from 'node:http'
import autocannon from 'autocannon'
import t from 'tap'
import { defaultHttp1Limits, serveHttp1, type HttpDoor } from '../../../src/proxy/http1/connection.ts'
import { behind } from './apps.ts'
import { bytes, RawClient } from './harness.ts'
import { MemoryStream, turn } from './node-reader.ts'

t.test('both bodies may be under way at once', async t => {
  const served = await behind(t, (request, response) => {
    response.write('>')
    request.pipe(response)
  })
  const client = new RawClient(served.port)
  client.send('POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n')
  await client.until('>')
  for (const word of ['one', 'two']) {
    client.send(`3\r\n${word}\r\n`)
    await client.until(word)
  }
  client.send('0\r\n\r\n')
  await client.until('0\r\n\r\n')
  t.equal(served.pool.released, 1)
  client.socket.destroy()
})

t.test('10 MiB go up and down with bounded memory, at the pace of the slower side', async t => {
  const size = 10 * 1024 * 1024
  let taken = 0
  const served = await behind(t, (request, response) => {
    // Reads slowly, and answers as much.
    request.on('data', (chunk: Buffer) => {
      taken += chunk.length
      request.pause()
      setTimeout(() => request.resume(), 1)
    })
    request.on('end', () => {
      response.setHeader('content-length', size)
      let sent = 0
      const more = (): void => {
        while (sent < size) {
          const piece = Buffer.alloc(Math.min(65_536, size - sent), 'x')
          sent += piece.length
          if (!response.write(piece)) {
            response.once('drain', more)
            return
          }
        }
        response.end()
      }
      more()
    })
  })
  let buffered = 0
  const watch = setInterval(() => {
    for (const socket of served.sockets) buffered = Math.max(buffered, socket.writableLength + socket.readableLength)
  }, 1)
  t.teardown(() => clearInterval(watch))
  const received = await new Promise<number>((resolve, reject) => {
    const request = dial(
      { port: served.port, host: '127.0.0.1', method: 'POST', headers: { 'transfer-encoding': 'chunked' } },
      response => {
        let count = 0
        response.on('data', (chunk: Buffer) => {
          count += chunk.length
          if (count % 20 !== 0) return
          response.pause()
          setTimeout(() => response.resume(), 1)
        })
        response.on('end', () => resolve(count))
      },
    )
    request.on('error', reject)
    let sent = 0
    const more = (): void => {
      while (sent < size) {
        sent += 65_536
        if (!request.write(Buffer.alloc(65_536, 'y'))) {
          request.once('drain', more)
          return
        }
      }
      request.end()
    }
    more()
  })
  t.equal(taken, size)
  t.equal(received, size)
  t.ok(buffered < 512 * 1024, `at most ${buffered} bytes waited in the client's socket`)
  t.equal(served.door.outcomes[0]?.responseBytes, size)
})

t.test('under load every request is answered and upstream connections are few', async t => {
  const served = await behind(t, (request, response) => {
    let size = 0
    request.on('data', (chunk: Buffer) => (size += chunk.length)).on('end', () => response.end(String(size)))
  })
  const result = await autocannon({
    url: `http://127.0.0.1:${served.port}`,
    connections: 20,
    amount: 4_000,
    requests: [
      { method: 'GET', path: '/a' },
      { method: 'POST', path: '/b', body: 'x'.repeat(20_000) },
    ],
  })
  t.strictSame([result['2xx'], result.non2xx, result.errors, result.timeouts], [4_000, 0, 0, 0])
  t.strictSame(new Set(served.door.outcomes.map(outcome => `${outcome.status} ${outcome.requestBytes}`)), new Set(['200 0', '200 20000']))
  t.ok(served.pool.dialled <= 20, `${served.pool.dialled} connections to the app`)
})

t.test('an exchange is the same when both sides send single bytes', async t => {
  const asked =
    'POST /x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n'
  const answer =
    'HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nKeep-Alive: x\r\nTransfer-Encoding: chunked\r\n\r\n3;z\r\nabc\r\n0\r\nT: 2\r\nHost: no\r\n\r\n'
  const run = async (pieces: (text: string) => string[]): Promise<{ got: string; received: string; released: boolean }> => {
    const upstream = new MemoryStream()
    const client = new MemoryStream()
    let released = false
    let ended = false
    const door: HttpDoor = {
      open: () => ({
        ok: true,
        connect: () => ({ stream: upstream, reusable: false, release: () => void (released = true), destroy: () => upstream.destroy() }),
      }),
      finished: () => void (ended = true),
    }
    const served = serveHttp1(client, door, defaultHttp1Limits)
    for (const piece of pieces(asked)) {
      client.push(bytes(piece))
      await turn()
    }
    for (const piece of pieces(answer)) {
      upstream.push(bytes(piece))
      await turn()
    }
    t.equal(ended, true)
    served.close()
    upstream.destroy()
    return { got: upstream.written, received: client.written, released }
  }
  const expected = {
    got: 'POST /x HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n',
    received: 'HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 2\r\n\r\n',
    released: true,
  }
  t.strictSame(await run(text => [text]), expected)
  t.strictSame(await run(text => text.split('')), expected)
  for (let size = 2; size < 30; size++) {
    const pieces = (text: string): string[] =>
      Array.from({ length: Math.ceil(text.length / size) }, (_, i) => text.slice(i * size, (i + 1) * size))
    t.strictSame(await run(pieces), expected, `pieces of ${size}`)
  }
})
