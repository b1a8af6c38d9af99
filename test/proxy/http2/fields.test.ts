/** Header lists, whatever a client sends: reading never throws, and what is shown is what arrives at the app, over a real session. */
import { sensitiveHeaders, type IncomingHttpHeaders } from 'node:http2'
import * as fc from 'fast-check'
import t from 'tap'
import { RequestFields, responseHeaders, trailersOf } from '../../../src/proxy/http2/fields.ts'
import { defaultHttp2Limits } from '../../../src/proxy/http2/limits.ts'
import { openSession, startApp } from './scene.ts'

const numRuns = process.env['ISTHMUS_DEEP'] === '1' ? 5000 : 200
const pseudo = [':method', 'GET', ':scheme', 'http', ':authority', 'api', ':path', '/x?y']

function read(raw: string[], incoming: IncomingHttpHeaders = {}): RequestFields | number {
  const fields = new RequestFields()
  const code = fields.read(raw, incoming, defaultHttp2Limits)
  return code < 0 ? code : fields
}

const tricky = [
  'cookie host te connection upgrade transfer-encoding content-type authorization date set-cookie expect x-forwarded-client-cert',
  'x_forwarded_client_cert proxy proxy-authorization http2-settings __proto__ constructor 7 keep-alive content_length trailer if-match user-agent',
].flatMap(line => line.split(' '))
const name = fc.oneof(fc.constantFrom(...tricky), fc.stringMatching(/^[a-z0-9!#$%&'*+.^_`|~-]{1,12}$/))
const value = fc.oneof(
  fc.constantFrom('', 'trailers', '100-continue', 'Trailers', 'api', 'chunked', 'caf\xe9'),
  fc.stringMatching(/^[!-~\x80-\xff]{0,20}$/),
)
const list = fc.array(fc.tuple(name, value), { maxLength: 30 })

t.test('whatever is read, nothing hop-by-hop and nothing forged is shown', async t => {
  fc.assert(
    fc.property(list, pairs => {
      const fields = read([...pseudo, ...pairs.flat()])
      if (typeof fields === 'number') return
      fields.remove('x-forwarded-client-cert')
      fields.append('x-forwarded-client-cert', 'ours')
      const names = fields.headers.filter((_, i) => i % 2 === 0)
      t.equal(names.filter(each => each.replaceAll('_', '-') === 'x-forwarded-client-cert').length, 1)
      for (const each of ['connection', 'keep-alive', 'upgrade', 'transfer-encoding', 'proxy', 'host', 'http2-settings'])
        if (names.includes(each)) throw new Error(`${each} is shown`)
    }),
    { numRuns: numRuns * 10 },
  )
})

t.test('an edit adds to what is sent once only, and takes away what is spelt otherwise', async t => {
  const fields = read([...pseudo, 'authorization', 'a', 'user-agent', 'u', 'x-one', '1', 'x_one', '2']) as RequestFields
  for (const each of ['authorization', 'user-agent', 'cookie', 'x-many', 'http2-settings']) {
    fields.append(each, 'b')
    fields.append(each, 'c')
  }
  fields.remove('x_one')
  t.match(fields.outgoing(), { authorization: 'a, b, c', 'user-agent': 'u, b, c', cookie: 'b; c', 'x-many': ['b', 'c'] })
  t.strictSame(Object.keys(fields.outgoing()).sort(), [
    ':authority',
    ':method',
    ':path',
    ':scheme',
    'authorization',
    'cookie',
    'user-agent',
    'x-many',
  ])
  const answer = responseHeaders([':status', '200', 'age', '1'], { ':status': '200' }, head => head.append('age', '2'))
  t.equal(answer['age'], '1, 2')
})

t.test('what is shown is what arrives', async t => {
  let arrived: string[] = []
  const app = await startApp(stream => {
    stream.respond({ ':status': 200 })
    stream.end()
  })
  app.server.on('stream', (...args: unknown[]) => {
    arrived = args[3] as string[]
  })
  const session = openSession(app.port)
  t.teardown(() => {
    session.destroy()
    app.close()
  })
  const sorted = (flat: readonly string[]) => {
    const pairs: string[] = []
    for (let i = 0; i < flat.length; i += 2) if (!flat[i]!.startsWith(':')) pairs.push(`${flat[i]}: ${flat[i + 1]}`)
    return pairs.sort()
  }
  await fc.assert(
    fc.asyncProperty(list, async pairs => {
      const fields = read([...pseudo, ...pairs.flat()])
      if (typeof fields === 'number') return
      const stream = session.request(fields.outgoing(), { endStream: true })
      stream.resume()
      await new Promise(resolve => stream.once('close', resolve))
      t.same(sorted(arrived), sorted(fields.headers))
      t.notOk(session.destroyed)
    }),
    { numRuns },
  )
})

t.test('te: trailers goes on once, however often it was said: node throws at a second one', async t => {
  const fields = read([...pseudo, 'te', 'trailers', 'te', 'gzip', 'te', 'trailers']) as RequestFields
  t.strictSame(fields.headers, ['te', 'trailers'])
})

t.test('responses and trailers keep every line that may go on', async t => {
  t.strictSame(
    {
      ...responseHeaders(
        [':status', '200', 'set-cookie', 'a', 'set-cookie', 'b', 'date', 'x', 'connection', 'close', 'age', '1', 'age', '2'],
        { ':status': '200' },
      ),
    },
    { 'set-cookie': ['a', 'b'], date: 'x', age: '1, 2', ':status': 200 },
  )
  t.strictSame(
    { ...trailersOf(['grpc-status', '0', 'content-length', '1', 'x_forwarded_client_cert', 'x', ':path', '/']) },
    { 'grpc-status': '0' },
  )
})

t.test('a field that must never be put into a table stays so', async t => {
  const fields = read([...pseudo, 'x-secret', '1'], { [sensitiveHeaders]: ['x-secret'] })
  t.strictSame((fields as RequestFields).outgoing()[sensitiveHeaders as never], ['x-secret'])
})

t.test('a gRPC request is known by its type', async t => {
  for (const [type, grpc] of [
    ['application/grpc', true],
    ['application/grpc+proto', true],
    ['application/grpc;charset=x', true],
    ['application/grpc-web', false],
    ['text/plain', false],
  ] as const)
    t.equal((read([...pseudo, 'content-type', type]) as RequestFields).grpc, grpc, type)
})
