/** Who may not talk to the door: each attack by its name. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, request as httpRequest } from 'node:http'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { mayUseInternal } from '../../../src/agent/http/guard.ts'
import { httpLimits } from '../../../src/agent/http/limits.ts'
import { startHttpDoor } from '../../../src/agent/http/server.ts'
import { MeshError } from '../../../src/lib/errors.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { agentWithHttp } from '../../support/agent-parts.ts'
import { ask } from '../../support/golden-http.ts'
import { until } from '../../support/until.ts'

const agent = await agentWithHttp({
  http: { config: { allowedHosts: ['Mesh.Example'], blockEndpoints: ['/v1/status'], responseHeaders: { 'X-Own': 'yes' } } },
})
t.teardown(() => agent.close())

const get = (headers: Record<string, string>, path = '/v1/agent/version') => ask(agent.url, 'GET', path, headers)

t.test('a name that someone else may point here (DNS rebinding) is refused, with the next step', async t => {
  const answer = await get({ Host: `evil.example:${agent.door.port}` })
  t.equal(answer.status, 403)
  t.match(answer.body.toString(), /Host "evil\.example" is not an address.*http_config\.allowed_hosts/)
  for (const host of ['localhost.evil.example', '127.0.0.1.nip.io', 'a.localhost', '0x7f.1'])
    t.equal((await get({ Host: host })).status, 403, host)
})

t.test('addresses, localhost and configured names are welcome, whatever their case and port', async t => {
  for (const host of [
    '127.0.0.1',
    `127.0.0.1:${agent.door.port}`,
    'LOCALHOST:1',
    '[::1]:8500',
    '10.0.0.7',
    'mesh.example',
    'MESH.example:80',
  ]) {
    t.equal((await get({ Host: host })).status, 200, host)
  }
})

t.test('a Host that is no host is malformed', async t => {
  for (const host of ['a b', 'user@127.0.0.1', '127.0.0.1:x', '127.0.0.1/..', '[::1'])
    t.equal((await get({ Host: host })).status, 400, JSON.stringify(host))
})

t.test('an absolute request target cannot smuggle another authority past the Host', async t => {
  const answer = await ask(agent.url, 'GET', 'http://evil.example/v1/agent/version', { Host: '127.0.0.1' })
  t.equal(answer.status, 403)
})

t.test('a web page of another site is refused, whatever it asks for (CSRF)', async t => {
  const foreign: Record<string, string>[] = [
    { Origin: 'https://evil.example' },
    { Origin: 'null' },
    { Origin: 'http://localhost:3000' },
    { Origin: `http://127.0.0.1:${agent.door.port}.evil.example` },
    { 'Sec-Fetch-Site': 'cross-site' },
    { 'Sec-Fetch-Site': 'same-site' },
    { Origin: agent.url, 'Sec-Fetch-Site': 'cross-site' },
  ]
  for (const headers of foreign) {
    const answer = await ask(agent.url, 'PUT', '/v1/kv/owned', headers, 'by a web page')
    t.equal(answer.status, 403, JSON.stringify(headers))
    t.match(answer.body.toString(), /web page of another origin/)
  }
  t.equal((await get({}, '/v1/kv/owned')).status, 404, 'nothing was written')
})

t.test('the own page and programs are welcome', async t => {
  t.equal((await get({ Origin: agent.url, 'Sec-Fetch-Site': 'same-origin' })).status, 200)
  t.equal((await get({ 'Sec-Fetch-Site': 'none' })).status, 200)
})

t.test('a preflight of another site is refused before it learns anything', async t => {
  const answer = await ask(agent.url, 'OPTIONS', '/v1/kv/x', { Origin: 'https://evil.example', 'Access-Control-Request-Method': 'PUT' })
  t.same([answer.status, answer.headers['access-control-allow-origin'], answer.headers['allow']], [403, undefined, undefined])
})

t.test('blocked endpoints say so, and configured headers are on every registered route', async t => {
  const blocked = await get({}, '/v1/status/leader')
  t.same([blocked.status, blocked.body.toString(), blocked.headers['x-own']], [403, 'Endpoint is blocked by agent configuration', 'yes'])
  t.equal((await get({}, '/v1/nope')).headers['x-own'], undefined)
})

t.test('only loopback and unix sockets reach the internal calls, and nothing in between', async t => {
  const remote = { address: '127.0.0.1', unix: false, loopback: true, forwarded: false }
  t.equal(mayUseInternal(remote), true)
  t.equal(mayUseInternal({ ...remote, forwarded: true }), false)
  t.equal(mayUseInternal({ ...remote, address: '10.0.0.7', loopback: false }), false)
  t.equal(mayUseInternal({ address: '', unix: true, loopback: false, forwarded: false }), true)
  for (const header of ['X-Forwarded-For', 'Forwarded', 'Via', 'X-Real-IP']) {
    const answer = await get({ [header]: '127.0.0.1' }, '/v1/internal/isthmus/snapshot/x')
    t.same([answer.status, /loopback or a unix socket/.test(answer.body.toString())], [403, true], header)
  }
})

t.test('who may not restore a snapshot is told so before its body is read', async t => {
  const socket = connect(agent.door.port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  const head = ['PUT /v1/snapshot HTTP/1.1', 'Host: 127.0.0.1', 'Via: 1.1 x', 'Content-Length: 60000000']
  socket.write(`${head.join('\r\n')}\r\n\r\nfirst bytes`)
  const answer = await new Promise<string>(resolve => {
    let text = ''
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => (text += chunk))
    socket.on('end', () => resolve(text))
    socket.setTimeout(5000, () => resolve('timeout'))
  })
  t.match(answer, /^HTTP\/1\.1 403 [^]*Connection: close[^]*loopback or a unix socket only/)
})

t.test('one client address gets so many connections and no more, and gets them back', async t => {
  const limited = await startHttpDoor({
    listen: { host: '127.0.0.1', port: 0 },
    agent: agent.parts,
    logger: silentLogger(),
    limits: { connectionsPerClient: 3 },
  })
  t.teardown(() => limited.close())
  const url = `http://127.0.0.1:${limited.port}`
  const idle = await Promise.all(Array.from({ length: 3 }, () => opened(limited.port)))
  const refused = await ask(url, 'GET', '/v1/agent/version')
  t.same(
    [refused.status, refused.body.toString()],
    [429, 'Your IP is issuing too many concurrent connections, please rate limit your calls\n'],
  )
  await Promise.all(idle.map(closed))
  await until('whoever comes after them is served', async () => (await ask(url, 'GET', '/v1/agent/version')).status === 200)
})

t.test('headers have a limit, in size and in number', async t => {
  t.equal((await get({ 'X-Big': 'x'.repeat(httpLimits.headerBytes) })).status, 431)
  const many = Object.fromEntries(Array.from({ length: 1000 }, (_, i) => [`x-${i}`, '1']))
  t.equal((await get({ ...many, Host: '127.0.0.1' })).status, 431)
})

t.test('a request that says two lengths, or none of them well, is refused (smuggling)', async t => {
  for (const head of [
    'PUT /v1/kv/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab',
    'PUT /v1/kv/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
    'PUT /v1/kv/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n',
    'PUT /v1/kv/x HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
    'GET /v1/kv/x HTTP/1.1\r\n\r\n',
    'GET /v1/kv/x\r\n\r\n',
    'GET /v1/kv/x HTTP/0.9\r\nHost: 127.0.0.1\r\n\r\n',
    'GET /v1/kv/x HTTP/1.1\r\nHost: \r\n\r\n',
    'GET /v1/kv/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n',
    'GET /v1/kv/x HTTP/1.1\nHost: 127.0.0.1\n X: y\n\n',
  ]) {
    t.match(await raw(agent.door.port, head), /^HTTP\/1\.1 400 /, JSON.stringify(head))
  }
})

t.test('a client that is slow to ask, or does not read its answer, is cut off (slowloris)', async t => {
  const impatient = await startHttpDoor({
    listen: { host: '127.0.0.1', port: 0 },
    agent: agent.parts,
    logger: silentLogger(),
    limits: { headersTimeoutMs: 200, requestTimeoutMs: 400, answerTimeoutMs: 200 },
  })
  t.teardown(() => impatient.close())
  t.match(await raw(impatient.port, 'GET /v1/agent/version HTTP/1.1\r\nHost: 127.0.0.1\r\n'), /^HTTP\/1\.1 408 /)
  t.match(await raw(impatient.port, 'PUT /v1/kv/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nab'), /^(?:HTTP\/1\.1 408 |$)/)
  await ask(agent.url, 'PUT', '/v1/kv/large', {}, Buffer.alloc(httpLimits.kvValueBytes, 'x'))
  // 64 answers of 700 KB each do not fit into any socket's buffers.
  const whole = 64 * httpLimits.kvValueBytes
  const isCutOff = async (afterMs: number): Promise<boolean> => {
    const reader = await opened(impatient.port)
    reader.pause()
    reader.write('GET /v1/kv/large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n'.repeat(64))
    const ended = new Promise<boolean>(resolve => {
      reader.on('data', () => reader.bytesRead >= whole && resolve(false))
      reader.once('close', () => resolve(reader.bytesRead < whole)).once('error', () => {})
    })
    await new Promise(resolve => setTimeout(resolve, afterMs))
    reader.resume()
    const cut = await ended
    reader.destroy()
    return cut
  }
  // Its time begins when all answers were made, and a busy machine takes a while for that.
  t.ok((await isCutOff(1000)) || (await isCutOff(5000)))
})

t.test('a unix socket is a door of its own: any Host, and a file left by a dead process does not keep it shut', async t => {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-http-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const socketPath = join(dir, 'http.sock')
  const stale = createServer()
  await new Promise<void>(resolve => stale.listen(socketPath, resolve))
  const inUse = startHttpDoor({ listen: { socketPath }, agent: agent.parts, logger: silentLogger() })
  await t.rejects(
    inUse,
    new MeshError(
      'unavailable',
      `cannot listen for HTTP on unix://${socketPath}: another process answers there; stop it, or set addresses.http`,
    ),
  )
  await new Promise(resolve => stale.close(resolve))
  const door = await startHttpDoor({ listen: { socketPath }, agent: agent.parts, logger: silentLogger() })
  const status = await new Promise((resolve, reject) => {
    httpRequest({ socketPath, path: '/v1/internal/isthmus/snapshot/x', headers: { Host: 'anything.example' } }, response => {
      response.resume()
      resolve(response.statusCode)
    })
      .on('error', reject)
      .end()
  })
  t.equal(status, 404, 'there is no such proxy, but the call itself is allowed')
  await door.close()
  t.notOk(existsSync(socketPath))
  writeFileSync(socketPath, 'not a socket')
  await t.rejects(startHttpDoor({ listen: { socketPath }, agent: agent.parts, logger: silentLogger() }), /cannot listen for HTTP/)
})

function opened(port: number): Promise<ReturnType<typeof connect>> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket))
  })
}

function closed(socket: ReturnType<typeof connect>): Promise<void> {
  return new Promise(resolve => {
    socket.once('close', () => resolve())
    socket.destroy()
  })
}

function raw(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let answer = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(text))
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => (answer += chunk))
    socket.on('error', reject)
    socket.on('close', () => resolve(answer))
    socket.setTimeout(3000, () => socket.destroy())
  })
}

t.end()
