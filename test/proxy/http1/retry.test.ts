// Trying again: as often as the policy says, where it can do nothing twice, and never without leave.
import t from 'tap'
import type { Retry, RetryCause } from '../../../src/proxy/http1/door.ts'
import { get, ok, raw } from './apps.ts'
import { once, RawClient } from './harness.ts'

/** A policy that notes what it is asked. */
function policy(more: Partial<Retry> = {}): Retry & { asked: RetryCause[] } {
  const asked: RetryCause[] = []
  const allow = (cause: RetryCause) => asked.push(cause) > 0
  return { retries: 2, perTryMs: 0, statuses: [], allow, asked, ...more }
}

const post = 'POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\nhi'
const status = (code: number, body = '') => `HTTP/1.1 ${code} X\r\ncontent-length: ${body.length}\r\n\r\n${body}`
const closing = (message: string) => message.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')

t.test('a stream that breaks before its answer is replaced as often as the policy says', async t => {
  const retry = policy()
  let calls = 0
  const served = await raw(t, socket => void (++calls < 3 ? socket.destroy() : socket.write(ok('third'))), { judge: () => ({ retry }) })
  t.match(await once(served.port, closing(get())), /third$/)
  t.same([calls, retry.asked], [3, ['broken', 'broken']])
  t.match(served.door.outcomes, [{ status: 200, source: 'app', retried: true }])
  calls = -9
  t.match(await once(served.port, closing(get())), /^HTTP\/1\.1 503 .*connection termination$/s)
  t.equal(calls, -6, 'three tries and no more')
})

t.test('an unwanted status is tried again, nothing of it reaches the client, and the last one does', async t => {
  const retry = policy({ statuses: [503, 429] })
  let calls = 0
  const answers = [status(503, 'busy'), status(429, 'later'), status(503, 'at last')]
  const served = await raw(t, socket => void socket.write(answers[calls++ % 3]!), { judge: () => ({ retry }) })
  const answer = await once(served.port, closing(get()))
  t.match(answer, /^HTTP\/1\.1 503 /)
  t.match(answer, /at last$/)
  t.notMatch(answer, /busy|later/)
  t.same([calls, retry.asked], [3, ['status', 'status']])
  answers[0] = status(500, 'as it is')
  t.match(await once(served.port, closing(get())), /as it is$/, 'a status that is not listed is an answer')
  t.equal(calls, 4)
})

t.test('a status that is declined in pieces, after an interim response, does not mix with the next', async t => {
  const retry = policy({ statuses: [503] })
  let calls = 0
  const served = await raw(
    t,
    socket => {
      if (++calls > 1) return void socket.write(ok('good'))
      socket.write('HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 5')
      setTimeout(() => socket.write('03 X\r\ncontent-length: 5\r\n\r\nbad'), 20)
      setTimeout(() => socket.write('xx'), 40)
    },
    { judge: () => ({ retry }) },
  )
  const client = new RawClient(served.port)
  client.send(get())
  const answer = await client.until('good')
  t.match(answer, /^HTTP\/1\.1 103 .*HTTP\/1\.1 200 OK\r\ncontent-length: 4\r\n\r\ngood$/s)
  client.take()
  client.send(get())
  await client.until('good')
  t.notMatch(client.received, /bad|xx/)
  client.socket.destroy()
})

t.test('a request that was sent and is not idempotent, or has a body, is never sent twice', async t => {
  for (const method of ['POST', 'PATCH', 'LOCK', 'PUT', 'DELETE']) {
    const retry = policy({ statuses: [503], perTryMs: 40 })
    const seen: string[] = []
    const behave = ['destroy', 'status', 'silence'] as const
    const served = await raw(
      t,
      (socket, chunk) => {
        const how = behave[seen.push(chunk) - 1]
        if (how === 'destroy') socket.destroy()
        else if (how === 'status') socket.write(status(503))
      },
      { judge: () => ({ retry, timeoutMs: 100 }) },
    )
    const client = () => once(served.port, closing(post.replace('POST', method)))
    t.match(await client(), /connection termination$/, method)
    t.match(await client(), /^HTTP\/1\.1 503 X/, method)
    t.match(await client(), /^HTTP\/1\.1 504 /, method)
    t.same([seen.length, retry.asked], [3, []], `${method} is seen once each time`)
  }
  const retry = policy({ statuses: [503] })
  let bare = 0
  const served = await raw(t, socket => void (bare++, socket.write(status(503))), { judge: () => ({ retry }) })
  await once(served.port, 'POST / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n')
  t.equal(bare, 1, 'a POST without a body is not idempotent either')
  await once(served.port, 'DELETE / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n')
  t.equal(bare, 4, 'a DELETE without one is')
})

t.test('nothing is tried again without leave, or after a part of the answer', async t => {
  const retry = policy({ statuses: [503], allow: () => false })
  let calls = 0
  const served = await raw(t, socket => void (calls++, socket.write(status(503, 'no'))), { judge: () => ({ retry }) })
  t.match(await once(served.port, closing(get())), /no$/)
  t.equal(calls, 1)
  const part = policy()
  let parts = 0
  const half = await raw(t, socket => void (parts++, socket.end('HTTP/1.1 200')), { judge: () => ({ retry: part }) })
  t.match(await once(half.port, closing(get())), /^HTTP\/1\.1 503 /)
  t.same([parts, part.asked], [1, []])
})

t.test('a try that takes too long is given up for the next one, within the time of the whole', async t => {
  const retry = policy({ perTryMs: 50, retries: 5 })
  let calls = 0
  let answersAt = 3
  const served = await raw(t, socket => void (++calls === answersAt && socket.write(ok('in time'))), {
    judge: () => ({ retry, timeoutMs: 180 }),
  })
  t.match(await once(served.port, closing(get())), /in time$/)
  t.same([calls, retry.asked], [3, ['timeout', 'timeout']])
  calls = 0
  answersAt = -1
  const begun = performance.now()
  t.match(await once(served.port, closing(get())), /^HTTP\/1\.1 504 /)
  t.ok(performance.now() - begun < 1000)
  t.ok(calls >= 2 && calls <= 4, `${calls} tries in the time of the whole`)
})

t.test('an answer that has begun in time may take longer than a try, and no longer than the whole', async t => {
  const retry = policy({ perTryMs: 60 })
  let body = 'slow'
  const served = await raw(
    t,
    socket => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n')
      if (body !== '') setTimeout(() => socket.write(body), 150)
    },
    { judge: () => ({ retry, timeoutMs: 300 }) },
  )
  t.match(await once(served.port, closing(get())), /slow$/)
  body = ''
  t.match(await once(served.port, closing(get())), /\r\n\r\n$/)
  t.match(served.door.outcomes.at(-1), { source: 'upstream', reason: 'timeout', retried: false })
  t.same(retry.asked, [])
})

t.test('a connection that comes when its try is given up is not used', async t => {
  const retry = policy({ perTryMs: 40 })
  let connects = 0
  let late: (() => void) | undefined
  const served = await raw(t, socket => socket.write(ok('second')), {
    judge: () => ({
      retry,
      connect: async fresh => {
        const made = await served.pool.get(fresh)
        if (++connects === 1) await new Promise<void>(resolve => (late = resolve))
        return made
      },
    }),
  })
  t.match(await once(served.port, closing(get())), /second$/)
  late?.()
  await new Promise(resolve => setTimeout(resolve, 20))
  t.same([connects, served.pool.destroyed, served.door.outcomes.length], [2, 1, 1])
})
