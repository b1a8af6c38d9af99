/** Header lists, whatever a client sends: reading never throws, and what is shown is what arrives at the app, over a real session. */
import * as fc from 'fast-check'
import t from 'tap'
import { outgoingResponse, readResponse, RequestFields, trailersOf } from '../../../src/proxy/http2/fields.ts'
import { bad } from '../../../src/proxy/http1/refusals.ts'
import { defaultHttp2Limits } from '../../../src/proxy/http2/limits.ts'
import { HpackDecoder } from '../../../src/proxy/http2/wire/hpack-decoder.ts'
import { HpackEncoder } from '../../../src/proxy/http2/wire/hpack-encoder.ts'
import type { Head } from '../../../src/proxy/http2/wire/session.ts'

const numRuns = process.env['ISTHMUS_DEEP'] === '1' ? 5000 : 200
const pseudo = [':method', 'GET', ':scheme', 'http', ':authority', 'api', ':path', '/x?y']

const headOf = (fields: string[], sensitive?: string[]): Head => ({ fields, sensitive: sensitive && new Set(sensitive), tooLarge: 0 })

function read(raw: string[], sensitive?: string[]): RequestFields | number {
  const fields = new RequestFields()
  const code = fields.read(headOf(raw, sensitive), false, defaultHttp2Limits)
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

t.test('what is refused for its size may have been a HEAD, whose answer has no body', async t => {
  const fields = new RequestFields()
  const code = fields.read({ fields: [':method', 'HEAD', 'x', 'y'], sensitive: undefined, tooLarge: 2 }, true, defaultHttp2Limits)
  t.strictSame([code, fields.method], [bad.headCount, 'HEAD'])
})

t.test('an edit adds a field, or to the one cookie, and takes away what is spelt otherwise', async t => {
  const fields = read([...pseudo, 'authorization', 'a', 'x-one', '1', 'x_one', '2']) as RequestFields
  for (const each of ['cookie', 'x-many', 'http2-settings', 'connection']) {
    fields.append(each, 'b')
    fields.append(each, 'c')
  }
  fields.remove('x_one')
  t.strictSame(fields.outgoing().slice(8), ['authorization', 'a', 'cookie', 'b; c', 'x-many', 'b', 'x-many', 'c'])
  t.strictSame(fields.outgoing().slice(0, 8), [':method', 'GET', ':scheme', 'http', ':authority', 'api', ':path', '/x?y'])
})

t.test('what is shown is what arrives', async t => {
  const [encoder, decoder] = [new HpackEncoder(), new HpackDecoder(4096)]
  fc.assert(
    fc.property(list, pairs => {
      const fields = read([...pseudo, ...pairs.flat()])
      if (typeof fields === 'number') return
      const out = fields.outgoing()
      const block = Buffer.alloc(encoder.bound(out))
      const end = encoder.encode(out, fields.sensitive, block, 0)
      t.ok(decoder.decode(block, 0, end, defaultHttp2Limits))
      t.strictSame(decoder.fields.slice(8), fields.headers)
      t.notOk(decoder.malformed)
    }),
    { numRuns },
  )
})

t.test('te: trailers goes on once, however often it was said, and no other may be said', async t => {
  t.strictSame((read([...pseudo, 'te', 'trailers', 'te', 'trailers']) as RequestFields).headers, ['te', 'trailers'])
  t.equal(read([...pseudo, 'te', 'trailers', 'te', 'gzip']), bad.malformed)
})

t.test('responses and trailers keep every line that may go on', async t => {
  const fields = [
    ':status',
    '200',
    'set-cookie',
    'a',
    'set-cookie',
    'b',
    'date',
    'x',
    'content-length',
    '7',
    'x-isthmus-app-unreached',
    '1',
  ]
  const head = readResponse(headOf(fields))!
  t.match(head, { status: 200, length: 7, unreached: true })
  t.strictSame(
    outgoingResponse(head, edited => edited.append('age', '1')),
    [':status', '200', 'set-cookie', 'a', 'set-cookie', 'b', 'date', 'x', 'content-length', '7', 'age', '1'],
  )
  t.strictSame(trailersOf(headOf(['grpc-status', '0', 'content-length', '1', 'x_forwarded_client_cert', 'x'])), ['grpc-status', '0'])
  t.strictSame(readResponse(headOf([':status', '204', 'content-length', '0']))!.fields, [], 'nothing is said of a body that cannot be')
})

t.test('what breaks the protocol is malformed', async t => {
  for (const raw of [
    [...pseudo, 'connection', 'close'],
    [...pseudo, 'transfer-encoding', 'chunked'],
    [...pseudo, ':path', '/'],
    [...pseudo, 'x', '1', ':method', 'GET'],
    [...pseudo, ':protocol', 'websocket'],
    [':method', 'GET', ':scheme', 'http', ':authority', 'api'],
    [':method', 'GET', ':scheme', 'http', ':path', '', ':authority', 'api'],
    [':method', 'CONNECT', ':authority', 'api', ':path', '/', ':scheme', 'http'],
    [...pseudo, 'content-length', '1', 'content-length', '1'],
    [...pseudo, 'content-length', '+1'],
  ])
    t.equal(read(raw), bad.malformed, raw.slice(-2).join(': '))
  t.equal(new RequestFields().read(headOf([...pseudo, 'content-length', '1']), true, defaultHttp2Limits), bad.malformed, 'no body follows')
  for (const raw of [
    [],
    ['x', '1'],
    [':status', '99'],
    [':status', '600'],
    [':status', '2e2'],
    [':status', '200', ':status', '200'],
    [':status', '200', 'connection', 'close'],
    [':status', '200', 'content-length', '1', 'content-length', '2'],
  ])
    t.equal(readResponse(headOf(raw)), undefined, raw.join(' '))
  t.equal(trailersOf(headOf([':path', '/'])), undefined)
})

t.test('a field that must never be put into a table stays so', async t => {
  t.strictSame([...(read([...pseudo, 'x-secret', '1'], ['x-secret']) as RequestFields).sensitive!], ['x-secret'])
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
