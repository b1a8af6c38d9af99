// Heads of requests and responses: what is accepted, what is refused, and that cuts do not matter.
import t from 'tap'
import { RequestHead, ResponseHead } from '../../../src/proxy/http1/head.ts'
import { bytes, cut, limits, parseRequest, parseResponse } from './harness.ts'

const request = (text: string): unknown => parseRequest([bytes(text)])
const H = 'Host: api\r\n'

/** What is refused, and as what. Each would be read differently by some two parsers, or is not HTTP. */
const badRequests: [name: string, message: string, reason: string][] = [
  ['a lower-case method', `get / HTTP/1.1\r\n${H}\r\n`, 'invalid method token'],
  ['a method with a colon', `GE:T / HTTP/1.1\r\n${H}\r\n`, 'invalid method token'],
  ['no method', ` / HTTP/1.1\r\n${H}\r\n`, 'invalid method token'],
  ['a method that never ends', 'A'.repeat(40), 'invalid method token'],
  ['TLS on a plain port', '\x16\x03\x01\x02\x00\x01\x00', 'invalid method token'],
  ['two spaces after the method', `GET  / HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['a tab after the method', `GET\t/ HTTP/1.1\r\n${H}\r\n`, 'invalid method token'],
  ['two spaces before the version', `GET /  HTTP/1.1\r\n${H}\r\n`, 'malformed request line'],
  ['a space in the target', `GET /a b HTTP/1.1\r\n${H}\r\n`, 'malformed request line'],
  ['a fragment', `GET /a#b HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['a quote in the target', `GET /a"b HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['a control byte in the target', `GET /a\x01b HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['a NUL in the target', `GET /a\0b HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['a byte above ASCII in the target', `GET /\xe9 HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['a backslash in the path', `GET /\\admin HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['a target without a slash', `GET admin HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['a target of another scheme', `GET ftp://api/ HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['an asterisk for GET', `GET * HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['an asterisk with more', `OPTIONS *a HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['authority-form for GET', `GET api:80 HTTP/1.1\r\n${H}\r\n`, 'invalid request target'],
  ['CONNECT', 'CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\n', 'connect is not supported'],
  ['absolute-form for another host', `GET http://evil/ HTTP/1.1\r\n${H}\r\n`, 'host differs from the request target'],
  ['absolute-form with userinfo', `GET http://api@evil/ HTTP/1.1\r\n${H}\r\n`, 'host differs from the request target'],
  ['absolute-form without authority', `GET http:///x HTTP/1.1\r\n${H}\r\n`, 'host differs from the request target'],
  ['HTTP/0.9', 'GET /\r\n', 'invalid request target'],
  ['HTTP/1.2', `GET / HTTP/1.2\r\n${H}\r\n`, 'http version not supported'],
  ['HTTP/2.0', `GET / HTTP/2.0\r\n${H}\r\n`, 'http version not supported'],
  ['the preface of HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'http version not supported'],
  ['a version in lower case', `GET / http/1.1\r\n${H}\r\n`, 'malformed request line'],
  ['a long version', `GET / HTTP/1.10\r\n${H}\r\n`, 'malformed request line'],
  ['a version with a leading zero', `GET / HTTP/01.1\r\n${H}\r\n`, 'http version not supported'],
  ['a space after the version', `GET / HTTP/1.1 \r\n${H}\r\n`, 'malformed request line'],
  ['a bare LF after the request line', `GET / HTTP/1.1\n${H}\r\n`, 'line feed without carriage return'],
  ['a bare CR after the request line', `GET / HTTP/1.1\r${H}\r\n`, 'carriage return without line feed'],
  ['a bare LF after a field', 'GET / HTTP/1.1\r\nHost: api\n\r\n', 'line feed without carriage return'],
  ['a bare CR in a value', 'GET / HTTP/1.1\r\nHost: api\r\nX: a\rb\r\n\r\n', 'carriage return without line feed'],
  ['a bare CR before the LF', 'GET / HTTP/1.1\r\nHost: api\r\nX: a\r\r\n\r\n', 'carriage return without line feed'],
  ['a blank line of LF alone', `GET / HTTP/1.1\r\n${H}\n`, 'line feed without carriage return'],
  ['a blank line of CR alone', `GET / HTTP/1.1\r\n${H}\rX`, 'carriage return without line feed'],
  ['a folded line', `GET / HTTP/1.1\r\n${H}X: a\r\n b\r\n\r\n`, 'line folding or leading space'],
  ['a folded line with a tab', `GET / HTTP/1.1\r\n${H}X: a\r\n\tb\r\n\r\n`, 'line folding or leading space'],
  ['a space before the first field', `GET / HTTP/1.1\r\n ${H}\r\n`, 'line folding or leading space'],
  ['a space before the colon', `GET / HTTP/1.1\r\n${H}Content-Length : 5\r\n\r\n`, 'space before colon'],
  ['a tab before the colon', `GET / HTTP/1.1\r\n${H}Transfer-Encoding\t: chunked\r\n\r\n`, 'space before colon'],
  ['a field without a name', `GET / HTTP/1.1\r\n${H}: x\r\n\r\n`, 'invalid field name'],
  ['a field without a colon', `GET / HTTP/1.1\r\n${H}nonsense\r\n\r\n`, 'invalid field name'],
  ['a slash in a name', `GET / HTTP/1.1\r\n${H}a/b: x\r\n\r\n`, 'invalid field name'],
  ['a NUL in a name', `GET / HTTP/1.1\r\n${H}a\0: x\r\n\r\n`, 'invalid field name'],
  ['a byte above ASCII in a name', `GET / HTTP/1.1\r\n${H}\xe9: x\r\n\r\n`, 'invalid field name'],
  ['a name that never ends', `GET / HTTP/1.1\r\n${H}${'a'.repeat(300)}`, 'invalid field name'],
  ['a NUL in a value', `GET / HTTP/1.1\r\n${H}X: a\0b\r\n\r\n`, 'invalid byte in field value'],
  ['a vertical tab in a value', `GET / HTTP/1.1\r\n${H}X: a\x0bb\r\n\r\n`, 'invalid byte in field value'],
  ['DEL in a value', `GET / HTTP/1.1\r\n${H}X: a\x7fb\r\n\r\n`, 'invalid byte in field value'],
  ['no Host', 'GET / HTTP/1.1\r\nX: y\r\n\r\n', 'missing host'],
  ['no Host in HTTP/1.0', 'GET / HTTP/1.0\r\n\r\n', 'missing host'],
  ['two Hosts', `GET / HTTP/1.1\r\n${H}host: evil\r\n\r\n`, 'more than one host'],
  ['the same Host twice', `GET / HTTP/1.1\r\n${H}${H}\r\n`, 'more than one host'],
  ['an empty Host', 'GET / HTTP/1.1\r\nHost:\r\n\r\n', 'invalid host'],
  ['a Host with a path', 'GET / HTTP/1.1\r\nHost: api/x\r\n\r\n', 'invalid host'],
  ['a Host with userinfo', 'GET / HTTP/1.1\r\nHost: a@api\r\n\r\n', 'invalid host'],
  ['two hosts in one', 'GET / HTTP/1.1\r\nHost: api, evil\r\n\r\n', 'invalid host'],
  ['a Host with a bad port', 'GET / HTTP/1.1\r\nHost: api:8a\r\n\r\n', 'invalid host'],
  ['a Host with an empty port', 'GET / HTTP/1.1\r\nHost: api:\r\n\r\n', 'invalid host'],
  ['a Host with an escape', 'GET / HTTP/1.1\r\nHost: a%70i\r\n\r\n', 'invalid host'],
  ['an address that is none', 'GET / HTTP/1.1\r\nHost: [a...::f]\r\n\r\n', 'invalid host'],
  ['an address with a zone', 'GET / HTTP/1.1\r\nHost: [fe80::1%eth0]\r\n\r\n', 'invalid host'],
  ['an unclosed address', 'GET / HTTP/1.1\r\nHost: [::1\r\n\r\n', 'invalid host'],
  ['a negative length', `POST / HTTP/1.1\r\n${H}Content-Length: -1\r\n\r\n`, 'invalid content-length'],
  ['a signed length', `POST / HTTP/1.1\r\n${H}Content-Length: +5\r\n\r\n`, 'invalid content-length'],
  ['an empty length', `POST / HTTP/1.1\r\n${H}Content-Length:\r\n\r\n`, 'invalid content-length'],
  ['a hexadecimal length', `POST / HTTP/1.1\r\n${H}Content-Length: 0x5\r\n\r\n`, 'invalid content-length'],
  ['an octal-looking length', `POST / HTTP/1.1\r\n${H}Content-Length: 010\r\n\r\n`, 'invalid content-length'],
  ['a length with a space', `POST / HTTP/1.1\r\n${H}Content-Length: 1 0\r\n\r\n`, 'invalid content-length'],
  ['a length list', `POST / HTTP/1.1\r\n${H}Content-Length: 5, 5\r\n\r\n`, 'invalid content-length'],
  ['a length beyond numbers', `POST / HTTP/1.1\r\n${H}Content-Length: 9999999999999999\r\n\r\n`, 'invalid content-length'],
  ['two lengths', `POST / HTTP/1.1\r\n${H}Content-Length: 5\r\nContent-Length: 6\r\n\r\n`, 'more than one content-length'],
  ['the same length twice', `POST / HTTP/1.1\r\n${H}Content-Length: 5\r\nContent-Length: 5\r\n\r\n`, 'more than one content-length'],
  ['a tab before a length', `POST / HTTP/1.1\r\n${H}Content-Length:\t5\r\n\r\n`, 'tab beside a host or a framing value'],
  ['a tab behind a length', `POST / HTTP/1.1\r\n${H}Content-Length: 5 \t\r\n\r\n`, 'tab beside a host or a framing value'],
  ['a tab before TE', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: \tchunked\r\n\r\n`, 'tab beside a host or a framing value'],
  ['a tab behind TE', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\t \r\n\r\n`, 'tab beside a host or a framing value'],
  ['a tab before Host', 'GET / HTTP/1.1\r\nHost:\tapi\r\n\r\n', 'tab beside a host or a framing value'],
  ['a tab behind Host', 'GET / HTTP/1.1\r\nHost: api\t\r\n\r\n', 'tab beside a host or a framing value'],
  ['content_length', `POST / HTTP/1.1\r\n${H}Content_Length: 5\r\n\r\n`, 'underscore in a framing field'],
  ['transfer_encoding', `POST / HTTP/1.1\r\n${H}Transfer_Encoding: chunked\r\n\r\n`, 'underscore in a framing field'],
  [
    'CL.TE',
    `POST / HTTP/1.1\r\n${H}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG`,
    'both transfer-encoding and content-length',
  ],
  [
    'TE.CL',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n8\r\nSMUGGLED\r\n0\r\n\r\n`,
    'both transfer-encoding and content-length',
  ],
  [
    'TE with CL 0',
    `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n`,
    'both transfer-encoding and content-length',
  ],
  ['TE xchunked', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: xchunked\r\n\r\n`, 'transfer-encoding other than chunked'],
  ['TE identity', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: identity\r\n\r\n`, 'transfer-encoding other than chunked'],
  ['TE gzip, chunked', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: gzip, chunked\r\n\r\n`, 'transfer-encoding other than chunked'],
  ['TE chunked, chunked', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked, chunked\r\n\r\n`, 'transfer-encoding other than chunked'],
  ['TE chunked with a parameter', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked;q=1\r\n\r\n`, 'transfer-encoding other than chunked'],
  ['TE quoted', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: "chunked"\r\n\r\n`, 'transfer-encoding other than chunked'],
  ['TE after a vertical tab', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: \x0bchunked\r\n\r\n`, 'invalid byte in field value'],
  ['TE empty', `POST / HTTP/1.1\r\n${H}Transfer-Encoding:\r\n\r\n`, 'transfer-encoding other than chunked'],
  ['TE.TE', `POST / HTTP/1.1\r\n${H}Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n\r\n`, 'more than one transfer-encoding'],
  ['TE in HTTP/1.0', `POST / HTTP/1.0\r\n${H}Transfer-Encoding: chunked\r\n\r\n`, 'transfer-encoding in http/1.0'],
  ['TE hidden behind a fold', `POST / HTTP/1.1\r\n${H}Transfer-Encoding:\r\n chunked\r\n\r\n`, 'transfer-encoding other than chunked'],
  [
    'Connection naming content-length',
    `POST / HTTP/1.1\r\n${H}Connection: content-length\r\n\r\n`,
    'connection names a field that is not hop-by-hop',
  ],
  ['Connection naming host', `GET / HTTP/1.1\r\n${H}Connection: close, Host\r\n\r\n`, 'connection names a field that is not hop-by-hop'],
  [
    'Connection naming what says who calls',
    `GET / HTTP/1.1\r\n${H}Connection: close, X-Forwarded-Client-Cert\r\n\r\n`,
    'connection names a field that is not hop-by-hop',
  ],
  ['Connection that is no list', `GET / HTTP/1.1\r\n${H}Connection: keep alive\r\n\r\n`, 'invalid connection field'],
  ['two Upgrades', `GET / HTTP/1.1\r\n${H}Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n`, 'invalid connection field'],
  ['an unknown expectation', `GET / HTTP/1.1\r\n${H}Expect: 200-ok\r\n\r\n`, 'unknown expectation'],
]

t.test('a request that could be read in two ways is refused, whole or byte by byte', async t => {
  for (const [name, message, reason] of badRequests) {
    t.strictSame(request(message), { refused: reason }, name)
    t.strictSame(
      parseRequest(
        cut(
          bytes(message),
          Array.from({ length: message.length }, (_, i) => i),
        ),
      ),
      { refused: reason },
      `${name}, byte by byte`,
    )
  }
})

const plain = {
  method: 'GET',
  target: '/',
  path: '/',
  version: 1,
  host: 'api',
  framing: 'none',
  contentLength: -1,
  keepAlive: true,
  upgrade: '',
  expectContinue: false,
  headers: ['host', 'api'],
  forwarded: 'GET / HTTP/1.1\r\nHost: api\r\n\r\n',
}

/** Good requests, and what they come to beside `plain`. */
const goodRequests: [name: string, message: string, expected: Partial<typeof plain>][] = [
  ['the simplest', `GET / HTTP/1.1\r\n${H}\r\n`, {}],
  [
    'a path and a query, with what browsers do not escape',
    'GET /a/b;v=1?q={x|y}^`\\?z HTTP/1.1\r\nHost: api\r\n\r\n',
    { target: '/a/b;v=1?q={x|y}^`\\?z', path: '/a/b;v=1', forwarded: 'GET /a/b;v=1?q={x|y}^`\\?z HTTP/1.1\r\nHost: api\r\n\r\n' },
  ],
  [
    'values keep what is inside them and lose the space around',
    `GET / HTTP/1.1\r\nhost:api\r\nX-Empty:\r\nX-Pad: \t a b\t \r\nX-Utf: \xc3\xa9\r\n\r\n`,
    {
      headers: ['host', 'api', 'x-empty', '', 'x-pad', 'a b', 'x-utf', '\xc3\xa9'],
      forwarded: 'GET / HTTP/1.1\r\nhost:api\r\nX-Empty:\r\nX-Pad: \t a b\t \r\nX-Utf: \xc3\xa9\r\n\r\n',
    },
  ],
  [
    'a length',
    `POST / HTTP/1.1\r\n${H}Content-Length: 12\r\n\r\n`,
    {
      method: 'POST',
      framing: 'length',
      contentLength: 12,
      headers: ['host', 'api', 'content-length', '12'],
      forwarded: 'POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 12\r\n\r\n',
    },
  ],
  [
    'a length of zero',
    `PUT / HTTP/1.1\r\n${H}Content-Length: 0\r\n\r\n`,
    {
      method: 'PUT',
      contentLength: 0,
      headers: ['host', 'api', 'content-length', '0'],
      forwarded: 'PUT / HTTP/1.1\r\nHost: api\r\nContent-Length: 0\r\n\r\n',
    },
  ],
  [
    'chunked, in any case',
    `PATCH / HTTP/1.1\r\n${H}Transfer-Encoding: Chunked\r\n\r\n`,
    {
      method: 'PATCH',
      framing: 'chunked',
      headers: ['host', 'api', 'transfer-encoding', 'Chunked'],
      forwarded: 'PATCH / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: Chunked\r\n\r\n',
    },
  ],
  [
    'hop-by-hop fields go, those that Connection names too',
    `GET / HTTP/1.1\r\nConnection: keep-alive, X-Hop , te\r\n${H}Keep-Alive: timeout=5\r\nX-HOP: 1\r\nA: b\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\nTE: gzip\r\nTrailer: x\r\nProxy: z\r\nx-hop: 2\r\n\r\n`,
    { headers: ['host', 'api', 'a', 'b'], forwarded: 'GET / HTTP/1.1\r\nHost: api\r\nA: b\r\n\r\n' },
  ],
  [
    'TE: trailers stays',
    `GET / HTTP/1.1\r\n${H}TE: trailers\r\nConnection: TE\r\n\r\n`,
    { headers: ['host', 'api', 'te', 'trailers'], forwarded: 'GET / HTTP/1.1\r\nHost: api\r\nTE: trailers\r\n\r\n' },
  ],
  ['Connection: close', `GET / HTTP/1.1\r\n${H}Connection: Close\r\n\r\n`, { keepAlive: false }],
  ['HTTP/1.0', `GET / HTTP/1.0\r\n${H}\r\n`, { version: 0, keepAlive: false }],
  ['HTTP/1.0 that stays', `GET / HTTP/1.0\r\n${H}Connection: keep-alive\r\n\r\n`, { version: 0 }],
  ['HTTP/1.0 has no expectations', `GET / HTTP/1.0\r\n${H}Expect: 100-continue\r\n\r\n`, { version: 0, keepAlive: false }],
  [
    'an expectation goes on',
    `GET / HTTP/1.1\r\n${H}Expect: 100-Continue\r\n\r\n`,
    {
      expectContinue: true,
      headers: ['host', 'api', 'expect', '100-Continue'],
      forwarded: 'GET / HTTP/1.1\r\nHost: api\r\nExpect: 100-Continue\r\n\r\n',
    },
  ],
  [
    'an upgrade',
    `GET / HTTP/1.1\r\n${H}Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n`,
    { upgrade: 'websocket', forwarded: 'GET / HTTP/1.1\r\nHost: api\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n' },
  ],
  [
    'an upgrade to h2c is not passed on',
    `GET / HTTP/1.1\r\n${H}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n`,
    {},
  ],
  ['Upgrade without Connection', `GET / HTTP/1.1\r\n${H}Upgrade: websocket\r\n\r\n`, {}],
  [
    'absolute-form becomes origin-form',
    `GET http://API/x?y HTTP/1.1\r\n${H}\r\n`,
    { target: '/x?y', path: '/x', forwarded: 'GET /x?y HTTP/1.1\r\nHost: api\r\n\r\n' },
  ],
  [
    'absolute-form with a query alone',
    `GET http://api?y HTTP/1.1\r\n${H}\r\n`,
    { target: '/?y', forwarded: 'GET /?y HTTP/1.1\r\nHost: api\r\n\r\n' },
  ],
  [
    'asterisk-form',
    `OPTIONS * HTTP/1.1\r\n${H}\r\n`,
    { method: 'OPTIONS', target: '*', path: '*', forwarded: 'OPTIONS * HTTP/1.1\r\nHost: api\r\n\r\n' },
  ],
  [
    'an IPv6 host with a port',
    'DELETE / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n',
    { method: 'DELETE', host: '[::1]:8080', headers: ['host', '[::1]:8080'], forwarded: 'DELETE / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n' },
  ],
  ['a method of its own', `M-SEARCH / HTTP/1.1\r\n${H}\r\n`, { method: 'M-SEARCH', forwarded: 'M-SEARCH / HTTP/1.1\r\nHost: api\r\n\r\n' }],
]

t.test('a good request comes to the same thing wherever its bytes are cut', async t => {
  for (const [name, message, expected] of goodRequests) {
    const whole = bytes(message)
    const wanted = { end: whole.length, ...plain, ...expected }
    t.strictSame(request(message), wanted, name)
    for (let at = 1; at < whole.length; at++) t.strictSame(parseRequest(cut(whole, [at])), wanted, `${name}, cut at ${at}`)
    t.strictSame(
      parseRequest(
        cut(
          whole,
          Array.from({ length: whole.length }, (_, i) => i),
        ),
      ),
      wanted,
      `${name}, byte by byte`,
    )
  }
})

t.test('what follows a head is left alone', async t => {
  const parsed = parseRequest([bytes(`GET / HTTP/1.1\r\n${H}\r\nbody`)])
  t.equal('end' in parsed && parsed.end, `GET / HTTP/1.1\r\n${H}\r\n`.length)
})

t.test('heads have limits', async t => {
  const small = { ...limits, headBytes: 100, headerCount: 3, targetBytes: 20 }
  const parse = (text: string): unknown => parseRequest([bytes(text)], small)
  t.strictSame(parse(`GET / HTTP/1.1\r\n${H}A: ${'x'.repeat(100)}\r\n\r\n`), { refused: 'head too large' })
  t.strictSame(parse(`GET /${'x'.repeat(20)} HTTP/1.1\r\n${H}\r\n`), { refused: 'request target too long' })
  t.strictSame(parse(`GET /${'x'.repeat(21)}`), { refused: 'request target too long' })
  t.strictSame(parse(`GET / HTTP/1.1\r\n${H}a: b\r\nc: d\r\ne: f\r\n\r\n`), { refused: 'too many fields' })
  t.match(parse(`GET /${'x'.repeat(19)} HTTP/1.1\r\n${H}a: b\r\nc: d\r\n\r\n`), { path: `/${'x'.repeat(19)}` })
  t.match(
    parse(`GET / HTTP/1.1\r\n${H}a: ${'x'.repeat(100 - 16 - H.length - 3 - 4)}\r\n\r\n`),
    { end: 100 },
    'a head of exactly the limit passes',
  )
  t.strictSame(parse(`GET / HTTP/1.1\r\n${H}a: ${'x'.repeat(101 - 16 - H.length - 3 - 4)}\r\n\r\n`), { refused: 'head too large' })
})

t.test('a head of single bytes costs no more than its length', async t => {
  const whole = bytes(`GET / HTTP/1.1\r\n${H}X: ${'v'.repeat(60_000)}\r\n\r\n`)
  const head = new RequestHead(limits)
  head.begin()
  const started = process.hrtime.bigint()
  let at = 0
  for (let end = 1; end <= whole.length; end++) at = head.parse(whole, 0, end)
  t.equal(at, whole.length)
  t.ok(Number(process.hrtime.bigint() - started) / 1e6 < 1_000, 'linear, not quadratic')
})

t.test('edits show in what is seen and in what is sent', async t => {
  const message = bytes(`GET / HTTP/1.1\r\n${H}X-Forwarded-Client-Cert: By=evil\r\nA: b\r\nx_forwarded_client_cert: By=worse\r\n\r\n`)
  const head = new RequestHead(limits)
  head.begin()
  head.parse(message, 0, message.length)
  t.equal(head.verbatim, true)
  t.equal(head.get('x-forwarded-client-cert'), 'By=evil')
  t.equal(head.get('b'), undefined)
  head.set('x-forwarded-client-cert', 'By=us')
  t.equal(head.verbatim, false)
  t.equal(head.get('x-forwarded-client-cert'), 'By=us')
  t.strictSame(head.headers, ['host', 'api', 'a', 'b', 'x-forwarded-client-cert', 'By=us'])
  t.equal(head.forwarded(), 'GET / HTTP/1.1\r\nHost: api\r\nA: b\r\nx-forwarded-client-cert: By=us\r\n\r\n')
  head.append('n', '1')
  head.set('x-forwarded-client-cert', 'By=me')
  t.equal(head.forwarded(), 'GET / HTTP/1.1\r\nHost: api\r\nA: b\r\nn: 1\r\nx-forwarded-client-cert: By=me\r\n\r\n')
  t.throws(() => head.append('x', 'a\r\nb: c'), { message: /line break/ })
})

t.test('a head object forgets the message before', async t => {
  const head = new RequestHead(limits)
  const first = bytes(`POST /a?b HTTP/1.0\r\n${H}Content-Length: 5\r\nConnection: x\r\nX: y\r\n\r\n`)
  const second = bytes(`GET / HTTP/1.1\r\n${H}\r\n`)
  head.begin()
  t.equal(head.parse(first, 0, first.length), first.length)
  head.set('added', 'once')
  head.begin()
  t.equal(head.parse(second, 0, second.length), second.length)
  t.strictSame(
    [head.method, head.path, head.version, head.framing, head.contentLength, head.keepAlive, head.headers, head.verbatim],
    ['GET', '/', 1, 'none', -1, true, ['host', 'api'], true],
  )
})

const badResponses: [name: string, message: string, reason: string][] = [
  ['no HTTP at all', 'SSH-2.0-OpenSSH\r\n', 'malformed status line'],
  ['HTTP/2', 'HTTP/2 200 OK\r\n\r\n', 'http version not supported'],
  ['a status of two digits', 'HTTP/1.1 20 OK\r\n\r\n', 'malformed status line'],
  ['a status of four digits', 'HTTP/1.1 2000 OK\r\n\r\n', 'malformed status line'],
  ['a status below 100', 'HTTP/1.1 099 OK\r\n\r\n', 'malformed status line'],
  ['a status above 599', 'HTTP/1.1 600 OK\r\n\r\n', 'malformed status line'],
  ['two spaces', 'HTTP/1.1  200 OK\r\n\r\n', 'malformed status line'],
  ['a bare LF', 'HTTP/1.1 200 OK\nA: b\n\n', 'line feed without carriage return'],
  ['a reason with a NUL', 'HTTP/1.1 200 O\0K\r\n\r\n', 'malformed status line'],
  ['an endless reason', `HTTP/1.1 200 ${'x'.repeat(600)}`, 'malformed status line'],
  ['TE and CL', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n', 'both transfer-encoding and content-length'],
  ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n', 'more than one content-length'],
  ['TE gzip', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n', 'transfer-encoding other than chunked'],
  ['TE in HTTP/1.0', 'HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', 'transfer-encoding in http/1.0'],
  ['a folded line', 'HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n', 'line folding or leading space'],
]

t.test('a response that could be read in two ways is refused, whole or byte by byte', async t => {
  for (const [name, message, reason] of badResponses) {
    t.strictSame(parseResponse([bytes(message)]), { refused: reason }, name)
    const every = Array.from({ length: message.length }, (_, i) => i)
    t.strictSame(parseResponse(cut(bytes(message), every)), { refused: reason }, `${name}, byte by byte`)
  }
})

t.test('the body of a response follows from its head and its request', async t => {
  const framing = (message: string, method = 'GET'): unknown[] => {
    const head = new ResponseHead(limits)
    head.begin()
    head.parse(bytes(message), 0, message.length, method)
    return [head.status, head.framing, head.keepAlive, head.forwarded('')]
  }
  const whole = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n'
  t.strictSame(framing(whole), [200, 'length', true, whole])
  t.strictSame(framing(whole, 'HEAD'), [200, 'none', true, whole], 'HEAD keeps the length and has no body')
  const open = 'HTTP/1.1 200 OK\r\nServer: x\r\n\r\n'
  t.strictSame(framing(open), [200, 'until-close', false, open])
  t.strictSame(framing('HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n').slice(0, 3), [304, 'none', true])
  t.strictSame(framing('HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n'), [204, 'none', true, 'HTTP/1.1 204 No Content\r\n\r\n'])
  t.strictSame(framing('HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n'), [200, 'none', true, 'HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n'])
  t.strictSame(framing('HTTP/1.0 200 Fine\r\nContent-Length: 1\r\n\r\n'), [
    200,
    'length',
    false,
    'HTTP/1.1 200 Fine\r\nContent-Length: 1\r\n\r\n',
  ])
  t.strictSame(framing('HTTP/1.1 200 OK\r\nConnection: close\r\nKeep-Alive: x\r\nTransfer-Encoding: chunked\r\n\r\n'), [
    200,
    'chunked',
    false,
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
  ])
})

t.test('a field is removed however it is spelt, and whoever names it', async t => {
  for (const name of ['x-one', 'x_one']) {
    const head = new RequestHead(limits)
    const text = bytes(`GET / HTTP/1.1\r\n${H}X-One: 1\r\nx_one: 2\r\nX-Two: 3\r\n\r\n`)
    head.begin()
    head.parse(text, 0, text.length)
    head.remove(name)
    t.same(head.headers, ['host', 'api', 'x-two', '3'], name)
  }
})

t.test('for how long a server says that it keeps the connection', t => {
  for (const [value, seconds] of [
    ['timeout=5', 5],
    ['Timeout=20, max=100', 20],
    ['timeout=0', 0],
    ['max=100', -1],
    ['timeout=', -1],
    [`timeout=${'9'.repeat(400)}`, -1],
  ] as const) {
    const head = new ResponseHead(limits)
    head.begin()
    const text = bytes(`HTTP/1.1 200 OK\r\nKeep-Alive: ${value}\r\nContent-Length: 0\r\n\r\n`)
    t.equal(head.parse(text, 0, text.length, 'GET'), text.length)
    t.equal(head.keptSeconds, seconds, value.slice(0, 30))
    t.notMatch(head.forwarded(''), /keep-alive/i)
  }
  t.end()
})
