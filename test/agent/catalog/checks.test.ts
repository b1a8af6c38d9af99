/** The probes and the pace of checks, each by itself. */
import http from 'node:http'
import net, { type AddressInfo } from 'node:net'
import t from 'tap'
import { aliasOutcome } from '../../../src/agent/catalog/checks/alias.ts'
import { checkHttp } from '../../../src/agent/catalog/checks/http.ts'
import { Poll, timeoutOf, withThresholds } from '../../../src/agent/catalog/checks/poll.ts'
import { checkTcp, parseAddress } from '../../../src/agent/catalog/checks/tcp.ts'
import { limitOutput, Ttl } from '../../../src/agent/catalog/checks/ttl.ts'
import { FakeClock, settle } from '../../support/fake-clock.ts'

const never = new AbortController().signal

async function serve(t: import('tap').Test, handler: http.RequestListener): Promise<string> {
  const server = http.createServer(handler)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

t.test('2xx passes, 429 warns, everything else is critical', async t => {
  const url = await serve(t, (request, response) => {
    response.statusCode = Number(request.url!.slice(1))
    response.end('body')
  })
  const statuses: Record<number, string> = {}
  for (const code of [200, 204, 299, 300, 404, 429, 500, 503]) statuses[code] = (await checkHttp({ http: `${url}/${code}` }, never)).status
  t.same(statuses, {
    200: 'passing',
    204: 'passing',
    299: 'passing',
    300: 'critical',
    404: 'critical',
    429: 'warning',
    500: 'critical',
    503: 'critical',
  })
  t.same(await checkHttp({ http: `${url}/200` }, never), { status: 'passing', output: `HTTP GET ${url}/200: 200 OK Output: body` })
})

t.test('method, headers and body are those of the definition', async t => {
  const url = await serve(t, (request, response) => {
    let body = ''
    request.on('data', chunk => (body += String(chunk)))
    request.on('end', () =>
      response.end(`${request.method} ${String(request.headers['x-a'])} ${request.headers.host} ${request.headers['user-agent']} ${body}`),
    )
  })
  const { output } = await checkHttp({ http: url, method: 'PUT', header: { 'X-A': ['1', '2'], Host: ['web.example'] }, body: 'hi' }, never)
  t.equal(output, `HTTP PUT ${url}: 200 OK Output: PUT 1, 2 web.example Consul Health Check hi`)
})

t.test('redirects are followed, unless that is off, and not for ever', async t => {
  const url = await serve(t, (request, response) => {
    if (request.url === '/end') response.end('there')
    else response.writeHead(302, { location: request.url === '/loop' ? '/loop' : '/end' }).end()
  })
  t.match(await checkHttp({ http: `${url}/start` }, never), { status: 'passing', output: / Output: there$/ })
  t.match(await checkHttp({ http: `${url}/start`, disableRedirects: true }, never), { status: 'critical', output: /: 302 Found/ })
  t.match(await checkHttp({ http: `${url}/loop` }, never), { status: 'critical', output: /stopped after 10 redirects$/ })
})

t.test('a redirect to another host takes no credentials along', async t => {
  let seen: http.IncomingHttpHeaders = {}
  const other = await serve(t, (request, response) => {
    seen = request.headers
    response.end()
  })
  const url = await serve(t, (_request, response) => response.writeHead(307, { location: other }).end())
  await checkHttp({ http: url, header: { Authorization: ['Bearer x'], Cookie: ['a=b'], 'X-Plain': ['1'] } }, never)
  t.same([seen.authorization, seen.cookie, seen['x-plain']], [undefined, undefined, '1'])
})

t.test('the end of a long body is kept, up to the limit', async t => {
  const url = await serve(t, (_request, response) => response.end(`${'a'.repeat(100_000)}end`))
  const { output } = await checkHttp({ http: url }, never)
  t.equal(output.split(' Output: ')[1]?.length, 4096)
  t.ok(output.endsWith('aend'))
  t.equal((await checkHttp({ http: url, outputMaxSize: 5 }, never)).output.split(' Output: ')[1], 'aaend')
})

t.test('an app that answers too slowly, or for ever, is critical in time', async t => {
  const silent = await serve(t, () => {})
  const endless = await serve(t, (_request, response) => {
    response.write('x')
  })
  for (const url of [silent, endless]) {
    t.same(await checkHttp({ http: url, timeoutMs: 50 }, never), { status: 'critical', output: `Get "${url}": context deadline exceeded` })
  }
})

t.test('what cannot be asked is critical with the reason', async t => {
  t.match(await checkHttp({ http: 'http://127.0.0.1:1/' }, never), {
    status: 'critical',
    output: /^Get "http:\/\/127\.0\.0\.1:1\/": .*ECONNREFUSED/,
  })
  t.match(await checkHttp({ http: 'file:///etc/passwd' }, never), { status: 'critical', output: /unsupported protocol scheme "file"$/ })
  t.match(await checkHttp({ http: 'no url' }, never), { status: 'critical' })
})

t.test('a TCP check connects and sends nothing', async t => {
  const received: Buffer[] = []
  const server = net.createServer(socket => socket.on('data', data => received.push(data)))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`
  t.same(await checkTcp({ tcp: address }, never), { status: 'passing', output: `TCP connect ${address}: Success` })
  await new Promise(resolve => server.close(resolve))
  t.same(await checkTcp({ tcp: address }, never), { status: 'critical', output: `dial tcp ${address}: connect: connection refused` })
  t.same(received, [])
  t.match(await checkTcp({ tcp: 'nowhere' }, never), { status: 'critical', output: 'dial tcp: address nowhere: missing port in address' })
})

t.test('addresses are read with and without brackets', t => {
  t.same(['127.0.0.1:80', '[::1]:80', ':80', 'web:0', '::1:80', 'web:70000', 'web'].map(parseAddress), [
    { host: '127.0.0.1', port: 80 },
    { host: '::1', port: 80 },
    { host: 'localhost', port: 80 },
    undefined,
    undefined,
    undefined,
    undefined,
  ])
  t.end()
})

t.test('a poll runs soon, at its interval, and never twice at once', async t => {
  const clock = new FakeClock()
  let running = 0
  let most = 0
  let runs = 0
  let release = () => {}
  const poll = new Poll({
    clock,
    intervalMs: 1000,
    async probe() {
      running += 1
      runs += 1
      most = Math.max(most, running)
      if (runs === 3) await new Promise<void>(resolve => (release = resolve))
      running -= 1
      return { status: 'passing', output: '' }
    },
    report() {},
  })
  poll.start()
  await clock.advance(1000)
  t.equal(runs, 1)
  await clock.advance(2000)
  t.equal(runs, 3)
  await clock.advance(10_000)
  t.equal(runs, 3)
  release()
  await settle()
  await clock.advance(0)
  t.equal(runs, 4)
  poll.stop()
  await clock.advance(10_000)
  t.same([runs, most, clock.timers], [4, 1, 0])
})

t.test('a poll looks soon where there is a reason, once more where it is looking already, and then at its interval', async t => {
  const clock = new FakeClock()
  const began: number[] = []
  let release: (() => void) | undefined
  const poll = new Poll({
    clock,
    intervalMs: 10_000,
    async probe() {
      began.push(clock.monotonicMs())
      if (began.length === 2) await new Promise<void>(resolve => (release = resolve))
      return { status: 'passing', output: '' }
    },
    report() {},
  })
  poll.lookSoon()
  poll.start()
  await clock.advance(1000)
  const beganMs = clock.monotonicMs()
  for (let i = 0; i < 3; i += 1) poll.lookSoon()
  await clock.advance(50)
  poll.lookSoon()
  await clock.advance(200)
  release!()
  await settle()
  await clock.advance(10_050)
  t.same(
    began.slice(1).map(ms => ms - beganMs),
    [50, 300, 10_300],
  )
  poll.stop()
  poll.lookSoon()
  t.equal(clock.timers, 0)
})

t.test('reasons that come faster than a look do not put it off', async t => {
  const clock = new FakeClock()
  const began: number[] = []
  const poll = new Poll({
    clock,
    intervalMs: 10_000,
    probe() {
      began.push(clock.monotonicMs())
      return Promise.resolve({ status: 'passing', output: '' })
    },
    report() {},
  })
  poll.start()
  await clock.advance(1000)
  const beganMs = clock.monotonicMs()
  for (let i = 0; i < 10; i += 1) {
    poll.lookSoon()
    await clock.advance(40)
  }
  await clock.advance(1000)
  const times = began.slice(1).map(ms => ms - beganMs)
  t.same(times[0], 50)
  t.ok(times.length >= 5 && times.at(-1)! >= 400, `the last reason is looked at too: ${times.join()}`)
  poll.stop()
})

t.test('the timeout ends before the next run unless told otherwise', t => {
  t.same(
    [timeoutOf({ intervalMs: 2000 }), timeoutOf({ intervalMs: 60_000 }), timeoutOf({ intervalMs: 1000, timeoutMs: 5000 })],
    [2000, 10_000, 5000],
  )
  t.end()
})

t.test('thresholds hold a status back, but not the first one', t => {
  const reported: string[] = []
  const report = withThresholds({ successBeforePassing: 2, failuresBeforeWarning: 2, failuresBeforeCritical: 3 }, status =>
    reported.push(status),
  )
  for (const status of ['passing', 'critical', 'critical', 'critical', 'passing', 'passing'] as const) {
    report(status, '')
    reported.push('-')
  }
  t.equal(reported.join(' '), 'passing - - warning - critical - - passing -')
  t.end()
})

t.test('a TTL that nobody renews expires with the last output', async t => {
  const clock = new FakeClock()
  const reports: string[] = []
  const ttl = new Ttl({ clock, ttlMs: 1000, report: (status, output) => reports.push(`${status} ${output}`) })
  ttl.start()
  await clock.advance(900)
  ttl.renew('well')
  await clock.advance(900)
  t.same(reports, [])
  await clock.advance(100)
  t.same(reports, ['critical TTL expired (last output before timeout follows): well'])
  ttl.renew('')
  await clock.advance(1000)
  t.equal(reports[1], 'critical TTL expired')
  t.equal(limitOutput('abcdef', 4), 'abcd ... (captured 4 of 6 bytes)')
})

t.test('an alias is as bad as the worst of what it follows', t => {
  const check = (status: string, type = 'ttl') => ({ name: `is ${status}`, status, output: 'o', type }) as never
  const outcome = (checks: never[], exists = true) =>
    aliasOutcome({ checks: () => checks, exists: () => exists, subscribe: () => ({ close() {} }), name: 'Service web on node n' })
  t.same(outcome([]), { status: 'passing', output: 'No checks found.' })
  t.same(outcome([], false), { status: 'critical', output: 'Service web on node n could not be found' })
  t.same(outcome([check('passing')]), { status: 'passing', output: 'All checks passing.' })
  t.same(outcome([check('warning'), check('passing'), check('critical')]), {
    status: 'critical',
    output: 'Aliased check "is critical" failing: o',
  })
  t.same(outcome([check('warning'), check('passing')]), { status: 'warning', output: 'Aliased check "is warning" failing: o' })
  t.same(outcome([check('critical', 'alias')]), { status: 'critical', output: 'Aliased check "is critical" failing: ' })
  t.end()
})
