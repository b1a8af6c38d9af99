/**
 * What an app (or whoever can write into its answers) sends to have a later caller get an answer that is not his: each by its name, with
 * what its own caller gets. `forged` is what nobody else may ever see.
 */

export interface AnswerAttack {
  name: string
  /** Written one after another; a number is a pause in milliseconds, `end` ends the connection. */
  pieces: readonly (string | number | { end: true })[]
  /** What the caller sends, if not a GET. */
  ask?: (url: string) => string
  /** Statuses that the caller gets, interim ones too. */
  answers: readonly number[]
  /** The caller's connection does not go on. */
  ends?: true
  /** The app kept to the protocol: its stream may carry the next request. */
  clean?: true
  /** What the caller's answer holds, and what it must not. */
  holds?: string
  lacks?: string
}

const head = (fields: string, start = 'HTTP/1.1 200 OK') => `${start}\r\n${fields}\r\n`
const ok = head('Content-Length: 2\r\n') + 'ok'
const forged = head('Content-Length: 6\r\n') + 'forged'
const hints = 'HTTP/1.1 103 Early Hints\r\n\r\n'
const end = { end: true } as const

/** A head that could be read in two ways, in front of what one of them is another answer. */
const ambiguous: [name: string, head: string][] = [
  ['both framings', head('Content-Length: 5\r\nTransfer-Encoding: chunked\r\n')],
  ['two lengths', head('Content-Length: 0\r\nContent-Length: 50\r\n')],
  ['the same length twice', head('Content-Length: 0\r\nContent-Length: 0\r\n')],
  ['a list of lengths', head('Content-Length: 0, 0\r\n')],
  ['a signed length', head('Content-Length: +0\r\n')],
  ['a length with a leading zero', head('Content-Length: 00\r\n')],
  ['a hexadecimal length', head('Content-Length: 0x0\r\n')],
  ['no length in its field', head('Content-Length:\r\n')],
  ['a length after a tab', head('Content-Length:\t0\r\n')],
  ['a length with an underscore', head('Content_Length: 0\r\n')],
  ['a space before the colon', head('Content-Length : 0\r\n')],
  ['xchunked', head('Transfer-Encoding: xchunked\r\n')],
  ['gzip, chunked', head('Transfer-Encoding: gzip, chunked\r\n')],
  ['identity', head('Transfer-Encoding: identity\r\nContent-Length: 0\r\n')],
  ['chunked twice', head('Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n')],
  ['chunked after a tab', head('Transfer-Encoding:\tchunked\r\n')],
  ['chunked after a vertical tab', head('Transfer-Encoding:\x0bchunked\r\n')],
  ['chunked with an underscore', head('Transfer_Encoding: chunked\r\n')],
  ['chunked in HTTP/1.0', head('Transfer-Encoding: chunked\r\n', 'HTTP/1.0 200 OK')],
  ['a folded length', head('Content-Length: 0\r\n 0\r\n')],
  ['a folded field', head('X: a\r\n Content-Length: 0\r\n')],
  ['bare LF', 'HTTP/1.1 200 OK\nContent-Length: 0\n\n'],
  ['a bare LF after a field', head('X: a\nContent-Length: 0\r\n')],
  ['a bare CR in a value', head('X: a\rContent-Length: 0\r\n')],
  ['a NUL in a value', head('X: a\0\r\nContent-Length: 0\r\n')],
  ['a NUL in a name', head('X\0: a\r\nContent-Length: 0\r\n')],
  ['a field without a colon', head('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n')],
  ['Connection: Content-Length', head('Connection: Content-Length\r\nContent-Length: 0\r\n')],
  ['HTTP/2', head('Content-Length: 0\r\n', 'HTTP/2 200')],
  ['HTTP/1.2', head('Content-Length: 0\r\n', 'HTTP/1.2 200 OK')],
  ['HTTP/0.9', 'a body'],
  ['ICY', head('Content-Length: 0\r\n', 'ICY 200 OK')],
  ['a status of two digits', head('Content-Length: 0\r\n', 'HTTP/1.1 20 OK')],
  ['a status of four digits', head('Content-Length: 0\r\n', 'HTTP/1.1 2000 OK')],
  ['status 600', head('Content-Length: 0\r\n', 'HTTP/1.1 600 OK')],
  ['status 000', head('Content-Length: 0\r\n', 'HTTP/1.1 000 OK')],
  ['a signed status', head('Content-Length: 0\r\n', 'HTTP/1.1 +20 OK')],
  ['no space after the status', head('Content-Length: 0\r\n', 'HTTP/1.1 200OK')],
  ['two spaces before the status', head('Content-Length: 0\r\n', 'HTTP/1.1  200 OK')],
  ['an empty line before the status', `\r\n${head('Content-Length: 0\r\n')}`],
  ['a bare CR before the status', `\r${head('Content-Length: 0\r\n')}`],
  ['a head that is too large', head(`X: ${'a'.repeat(70_000)}\r\nContent-Length: 0\r\n`)],
  ['too many fields', head(`${'a: b\r\n'.repeat(130)}Content-Length: 0\r\n`)],
  [
    'a switch of protocols that nobody asked for',
    head('Connection: upgrade\r\nUpgrade: websocket\r\n', 'HTTP/1.1 101 Switching Protocols'),
  ],
  ['interim answers without end', hints.repeat(40)],
]

const post = (fields: string, body: string) => (url: string) => `POST ${url} HTTP/1.1\r\nHost: api\r\n${fields}\r\n${body}`

export const answerAttacks: readonly AnswerAttack[] = [
  ...ambiguous.map(([name, head]): AnswerAttack => {
    const interim = name === 'interim answers without end' ? Array.from({ length: 16 }, () => 103) : []
    return { name, pieces: [head + forged], answers: [...interim, 502], lacks: 'forged' }
  }),
  { name: 'an answer behind the answer', pieces: [ok + forged], answers: [200], lacks: 'forged' },
  { name: 'an answer in two behind the answer', pieces: [ok + forged.slice(0, 20), 2, forged.slice(20)], answers: [200], lacks: 'forged' },
  { name: 'an answer a moment after the answer', pieces: [ok, 15, forged], answers: [200], lacks: 'forged' },
  { name: 'an interim answer behind the answer', pieces: [ok + hints], answers: [200] },
  { name: 'an empty line behind the answer', pieces: [`${ok}\r\n`], answers: [200] },
  { name: 'a NUL behind the answer', pieces: [`${ok}\0`], answers: [200] },
  {
    name: 'response splitting in a field',
    pieces: [head(`Location: /\r\nContent-Length: 0\r\n\r\n${forged}\r\nServer: x\r\n`, 'HTTP/1.1 302 Found')],
    answers: [302],
    lacks: 'forged',
  },
  {
    name: 'a length that is shorter than the body',
    pieces: [`${head('Content-Length: 5\r\n')}hello${forged}`],
    answers: [200],
    holds: 'hello',
    lacks: 'forged',
  },
  {
    name: 'chunks that end before the body',
    pieces: [`${head('Transfer-Encoding: chunked\r\n')}5\r\nhello\r\n0\r\n\r\n${forged}`],
    answers: [200],
    holds: 'hello',
    lacks: 'forged',
  },
  {
    name: 'HEAD with a body',
    ask: url => `HEAD ${url} HTTP/1.1\r\nHost: api\r\n\r\n`,
    pieces: [head(`Content-Length: ${forged.length}\r\n`) + forged],
    answers: [200],
    lacks: 'forged',
  },
  {
    name: 'HEAD with chunks',
    ask: url => `HEAD ${url} HTTP/1.1\r\nHost: api\r\n\r\n`,
    pieces: [`${head('Transfer-Encoding: chunked\r\n')}${forged.length.toString(16)}\r\n${forged}\r\n0\r\n\r\n`],
    answers: [200],
    lacks: 'forged',
  },
  {
    name: '204 with a body',
    pieces: [head(`Content-Length: ${forged.length}\r\n`, 'HTTP/1.1 204 No Content') + forged],
    answers: [204],
    lacks: 'ontent-',
  },
  {
    name: '204 with chunks',
    pieces: [`${head('Transfer-Encoding: chunked\r\n', 'HTTP/1.1 204 No Content')}6\r\nforged\r\n0\r\n\r\n`],
    answers: [204],
    lacks: 'forged',
  },
  {
    name: '304 with a body',
    pieces: [head(`Content-Length: ${forged.length}\r\n`, 'HTTP/1.1 304 Not Modified') + forged],
    answers: [304],
    lacks: 'forged',
  },
  {
    name: 'an interim answer with a length: it has no body, so what follows is the answer',
    pieces: [
      head('Content-Length: 50\r\n', 'HTTP/1.1 103 Early Hints') + head('Transfer-Encoding: chunked\r\n', 'HTTP/1.1 103 Early Hints') + ok,
    ],
    answers: [103, 103, 200],
    lacks: 'chunked',
    clean: true,
  },
  {
    name: 'as many interim answers as may be',
    pieces: [hints.repeat(16) + ok],
    answers: [...Array.from({ length: 16 }, () => 103), 200],
    clean: true,
  },
  { name: 'a 100 that nobody asked for', pieces: ['HTTP/1.1 100 Continue\r\n\r\n', 2, ok], answers: [100, 200], clean: true },
  {
    name: 'an answer before the end of the request, then another',
    ask: post('Content-Length: 100\r\n', 'part'),
    pieces: [ok, 5, forged],
    answers: [200],
    ends: true,
    lacks: 'forged',
  },
  {
    name: 'an answer before the end of the chunks, then another',
    ask: post('Transfer-Encoding: chunked\r\n', '4\r\npart\r\n'),
    pieces: [ok + forged],
    answers: [200],
    ends: true,
    lacks: 'forged',
  },
  { name: 'a body that breaks off', pieces: [`${head('Content-Length: 100\r\n')}part`, end], answers: [200], ends: true, holds: 'part' },
  {
    name: 'chunks that break their framing',
    pieces: [`${head('Transfer-Encoding: chunked\r\n')}4\r\npart\r\n`, 5, `zz\r\n${forged}`],
    answers: [200],
    ends: true,
    holds: 'part',
    lacks: 'forged',
  },
  {
    name: 'a chunk that is longer than said',
    pieces: [`${head('Transfer-Encoding: chunked\r\n')}4\r\npart\r\n`, 5, `4\r\nmore${forged}\r\n0\r\n\r\n`],
    answers: [200],
    ends: true,
    lacks: 'forged',
  },
  {
    name: 'trailers that decide on something',
    pieces: [
      `${head('Transfer-Encoding: chunked\r\n')}2\r\nok\r\n0\r\nContent-Length: 77\r\nSet-Cookie: evil\r\nTransfer-Encoding: chunked\r\nX-Sum: 1\r\n\r\n`,
    ],
    answers: [200],
    holds: 'X-Sum: 1',
    lacks: 'evil',
    clean: true,
  },
  {
    name: 'a body to the end of the connection that looks like an answer',
    pieces: [head('X: y\r\n') + forged, end],
    // The second is in the body.
    answers: [200, 200],
    holds: `transfer-encoding: chunked\r\n\r\n${forged.length.toString(16)}\r\n${forged}\r\n0\r\n\r\n`,
  },
  {
    name: 'HTTP/1.0 that stays, without a length',
    pieces: [head('Connection: keep-alive\r\n', 'HTTP/1.0 200 OK') + 'old', end],
    answers: [200],
    holds: 'old',
  },
  {
    name: 'HTTP/1.0 that stays, with a length',
    pieces: [head('Connection: keep-alive\r\nContent-Length: 3\r\n', 'HTTP/1.0 200 OK') + 'old'],
    answers: [200],
    holds: 'old',
    clean: true,
  },
]
