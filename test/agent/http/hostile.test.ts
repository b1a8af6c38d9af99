/** Requests made to hurt: each gets an error or is cut off, none ends the agent, and nothing is left behind. */
import { connect } from 'node:net'
import * as fc from 'fast-check'
import t from 'tap'
import { routes } from '../../../src/agent/http/routes.ts'
import { agentWithHttp } from '../../support/agent-parts.ts'
import { ask } from '../../support/golden-http.ts'

const deep = process.env['ISTHMUS_DEEP'] === '1'
const runs = deep ? 50_000 : 2000

const agent = await agentWithHttp({ grpc: false })
t.teardown(() => agent.close())

const unhandled: unknown[] = []
process.on('unhandledRejection', reason => unhandled.push(reason))
process.on('uncaughtException', error => unhandled.push(error))

/** The first status line of whatever comes back; '' when the connection just ends. */
function send(text: string): Promise<string> {
  return new Promise(resolve => {
    let answer = ''
    const socket = connect(agent.door.port, '127.0.0.1', () => socket.end(text, 'latin1'))
    socket.setEncoding('latin1')
    socket.on('data', (chunk: string) => (answer += chunk))
    socket.on('error', () => undefined)
    socket.on('close', () => resolve(answer))
    socket.setTimeout(5000, () => {
      answer = 'timeout'
      socket.destroy()
    })
  })
}

const paths = routes.map(route => route.path.replace('*', 'x').replace(':proxy', 'x')).filter(path => !path.includes('/maintenance'))
const junk = fc.oneof(
  fc.string({ maxLength: 60, unit: 'binary' }),
  fc.constantFrom('\0', '%00', '%', '../..', '//', ';', '#', '?'.repeat(300), 'a'.repeat(9000), '%f0%9f%92%a9'),
)
const method = fc.constantFrom('GET', 'PUT', 'POST', 'DELETE', 'HEAD', 'OPTIONS', 'PATCH', 'TRACE', 'CONNECT', 'get', 'BREW', '')
const path = fc.oneof(
  fc.constantFrom(...paths),
  fc.tuple(fc.constantFrom(...paths), junk).map(parts => parts.join('')),
  junk,
)
const parameter = fc.tuple(
  fc.constantFrom(
    'index',
    'wait',
    'filter',
    'dc',
    'ns',
    'peer',
    'passing',
    'cas',
    'flags',
    'near',
    'tag',
    'node-meta',
    'hash',
    'pem',
    'stale',
    'consistent',
    'separator',
    'max_stale',
    'token',
  ),
  fc.oneof(junk, fc.constantFrom('-1', '1e99', '18446744073709551616', 'null', '%22', 'x y', '{}')),
)
const body = fc.oneof(
  junk,
  fc.json({ maxDepth: 4 }),
  fc.constantFrom(
    '{"__proto__":{"x":1}}',
    '{"Name":{"a":1}}',
    '{"Node":[]}',
    '['.repeat(50_000),
    `{"Name":"${'x'.repeat(5000)}"}`,
    '{"Kind":"service-defaults","Name":1}',
    '[]',
    'null',
    '0',
  ),
)
const header = fc.constantFrom(
  'Origin: https://evil.example',
  'Host: evil.example',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: chunked, chunked',
  'Content-Length: 5',
  'Content-Length: 99999999999999999999',
  'Expect: 100-continue',
  'Expect: the unexpected',
  'Upgrade: websocket\r\nConnection: Upgrade',
  'Connection: close, keep-alive',
  'Cache-Control: max-age=x',
  'X-Consul-Token: \x01',
  'Accept-Encoding: gzip;q=,,;',
  ' folded: yes',
  'Bad Header: x',
  `X-Long: ${'y'.repeat(70_000)}`,
)

t.test(
  `${runs} malformed requests: an answer or the end of the connection each, and the agent is as it was`,
  { timeout: 3_600_000 },
  async t => {
    let settled = 0
    const memory: number[] = []
    const collect = () => {
      global.gc?.()
      memory.push(process.memoryUsage().heapUsed)
    }
    await fc.assert(
      fc.asyncProperty(
        method,
        path,
        fc.array(parameter, { maxLength: 3 }),
        fc.array(header, { maxLength: 3 }),
        body,
        fc.boolean(),
        async (verb, where, query, headers, content, sized) => {
          const target = query.length === 0 ? where : `${where}?${query.map(pair => pair.join('=')).join('&')}`
          const length =
            sized && !headers.some(each => /^(?:Content-Length|Transfer-Encoding)/.test(each))
              ? [`Content-Length: ${Buffer.byteLength(content, 'latin1')}`]
              : []
          const head = [`${verb} ${target} HTTP/1.1`, 'Host: 127.0.0.1', 'Connection: close', ...headers, ...length].join('\r\n')
          const answer = await send(`${head}\r\n\r\n${content}`)
          settled += 1
          if (settled % Math.floor(runs / 4) === 0) collect()
          if (answer === 'timeout') return false
          return answer === '' || /^HTTP\/1\.1 (?:[1-5]\d\d) /.test(answer)
        },
      ),
      { numRuns: runs },
    )
    t.same(unhandled, [], 'nothing went unhandled')
    t.notMatch(await send('GET /v1/status/leader HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 5/)
    const open = process.getActiveResourcesInfo().filter(each => each === 'TCPSocketWrap').length
    t.ok(open <= 4, `${open} sockets are open`)
    t.ok(memory.at(-1)! - memory[0]! < 64 * 1024 * 1024, `heap: ${memory.map(each => Math.round(each / 1024 / 1024)).join(', ')} MiB`)
  },
)

t.test('answers to malformed requests never tell where the code is', async t => {
  for (const path of [
    '/v1/agent/service/register',
    '/v1/catalog/register',
    '/v1/config',
    '/v1/agent/check/register',
    '/v1/connect/ca/configuration',
    '/v1/session/create',
    '/v1/txn',
    '/v1/coordinate/update',
    '/v1/operator/autopilot/configuration',
    '/v1/snapshot',
  ]) {
    for (const content of [
      '{"Name":{"a":1}}',
      '[[]]',
      '{"Checks":[null]}',
      '{"Proxy":[]}',
      '{"Service":{"Proxy":{"Upstreams":[1]}}}',
      '{"Config":null}',
    ]) {
      const answer = await ask(agent.url, 'PUT', path, {}, content)
      t.notMatch(answer.body.toString(), /at .*\.[jt]s:|node:internal|internal error/, `${path} ${content}`)
    }
  }
})

t.test('a coordinate with long names, of which ten thousand would be kept, is refused', async t => {
  const Coord = { Vec: [0, 0, 0, 0, 0, 0, 0, 0] }
  for (const more of [{ Node: 'n'.repeat(300) }, { Node: 'n', Segment: 's'.repeat(300) }, { Node: 'n', Partition: 'p'.repeat(300) }]) {
    t.equal((await ask(agent.url, 'PUT', '/v1/coordinate/update', {}, JSON.stringify({ Coord, ...more }))).status, 500)
  }
})

t.test('of two writes of the autopilot settings after one reading only one is taken', async t => {
  const path = '/v1/operator/autopilot/configuration'
  const { ModifyIndex } = JSON.parse((await ask(agent.url, 'GET', path)).body.toString()) as { ModifyIndex: number }
  const write = async () => (await ask(agent.url, 'PUT', `${path}?cas=${ModifyIndex}`, {}, '{}')).body.toString().trim()
  t.same([await write(), await write()], ['true', 'false'])
})

t.test('a name in any script is quoted in a header as its bytes', async t => {
  for (const [kind, reason] of [
    ['id', 'ServiceId zß水😀 x not found'],
    ['name', 'ServiceName zß水😀 x Not Found'],
  ]) {
    const answer = await ask(agent.url, 'GET', `/v1/agent/health/service/${kind}/z%C3%9F%E6%B0%B4%F0%9F%98%80%20x`)
    t.equal(answer.status, 404)
    t.equal(Buffer.from(answer.headers['x-consul-reason']!, 'latin1').toString(), reason)
  }
})

t.end()
