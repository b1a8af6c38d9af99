// Bodies: every framing, read whole, byte by byte and cut anywhere, gives the same; bad ones are refused.
import * as fc from 'fast-check'
import t from 'tap'
import { bytes, cut, limits, readBody } from './harness.ts'

const every = (text: string): number[] => Array.from({ length: text.length }, (_, i) => i)

t.test('a body with a length ends at its last byte', async t => {
  t.strictSame(readBody([bytes('helloGET /')], 'length', 5), { done: true, out: 'hello', rest: 'GET /' })
  t.strictSame(readBody([bytes('he'), bytes('llo')], 'length', 5), { done: true, out: 'hello', rest: '' })
  t.strictSame(readBody([bytes('hell')], 'length', 5), { done: false, out: 'hell', rest: '' })
  t.strictSame(readBody([bytes('GET /')], 'none'), { done: true, out: '', rest: 'GET /' })
  t.strictSame(readBody([bytes('a'), bytes('b')], 'until-close'), { done: false, out: 'ab', rest: '' })
})

/** Chunked bodies: what goes on when the framing is kept, and the data alone. */
const good: [name: string, message: string, framed: string, data: string][] = [
  ['one chunk', '5\r\nhello\r\n0\r\n\r\n', '5\r\nhello\r\n0\r\n\r\n', 'hello'],
  ['no chunk', '0\r\n\r\n', '0\r\n\r\n', ''],
  ['more zeros', '000\r\n\r\n', '000\r\n\r\n', ''],
  [
    'hexadecimal in both cases',
    'a\r\n0123456789\r\nB\r\n0123456789x\r\n0\r\n\r\n',
    'a\r\n0123456789\r\nB\r\n0123456789x\r\n0\r\n\r\n',
    '01234567890123456789x',
  ],
  ['line ends in the data', '4\r\n\r\n\r\n\r\n0\r\n\r\n', '4\r\n\r\n\r\n\r\n0\r\n\r\n', '\r\n\r\n'],
  ['extensions are dropped', '5;a=b\r\nhello\r\n0;last="x;y"\r\n\r\n', '5\r\nhello\r\n0\r\n\r\n', 'hello'],
  ['trailers go on', '0\r\nX-Sum: 1\r\nY: 2\r\n\r\n', '0\r\nX-Sum: 1\r\nY: 2\r\n\r\n', ''],
  [
    'trailers that decide on something do not',
    '1\r\na\r\n0\r\nContent-Length: 5\r\nHost: evil\r\nX: y\r\nauthorization: me\r\nTransfer-Encoding: chunked\r\n\r\n',
    '1\r\na\r\n0\r\nX: y\r\n\r\n',
    'a',
  ],
]

t.test('a chunked body comes to the same thing wherever it is cut', async t => {
  for (const [name, message, framed, data] of good) {
    const after = `${message}GET /`
    const rest = 'GET /'
    t.strictSame(readBody([bytes(after)], 'chunked'), { done: true, out: framed, rest }, name)
    t.strictSame(readBody([bytes(after)], 'chunked', 0, false), { done: true, out: data, rest }, `${name}, decoded`)
    for (const at of every(after))
      t.strictSame(readBody(cut(bytes(after), [at]), 'chunked'), { done: true, out: framed, rest }, `${name}, ${at}`)
    t.strictSame(readBody(cut(bytes(after), every(after)), 'chunked'), { done: true, out: framed, rest }, `${name}, byte by byte`)
    t.strictSame(
      readBody(cut(bytes(after), every(after)), 'chunked', 0, false),
      { done: true, out: data, rest },
      `${name}, decoded byte by byte`,
    )
  }
})

const refused: [name: string, message: string, reason: string][] = [
  ['no size', '\r\nhello\r\n0\r\n\r\n', 'invalid chunk size'],
  ['a signed size', '+5\r\nhello\r\n0\r\n\r\n', 'invalid chunk size'],
  ['a negative size', '-1\r\n', 'invalid chunk size'],
  ['a size with 0x', '0x5\r\nhello\r\n', 'invalid chunk size'],
  ['a size that is no number', 'g\r\n', 'invalid chunk size'],
  ['a size with an underscore', '1_0\r\n', 'invalid chunk size'],
  ['a space after the size', '5 \r\nhello\r\n', 'invalid chunk size'],
  ['a space before the size', ' 5\r\nhello\r\n', 'invalid chunk size'],
  ['a space before the extension', '5 ;a\r\nhello\r\n', 'invalid chunk size'],
  ['a size beyond numbers', 'fffffffffffffffff\r\n', 'invalid chunk size'],
  ['a size of too many zeros', '00000000000000\r\n\r\n', 'invalid chunk size'],
  ['a bare LF after the size', '5\nhello\r\n', 'invalid chunk size'],
  ['a bare CR after the size', '5\rhello', 'carriage return without line feed'],
  ['data that is longer', '5\r\nhello!\r\n', 'chunk data without its line end'],
  ['data that ends in LF', '5\r\nhello\n', 'chunk data without its line end'],
  ['data that ends in CR alone', '5\r\nhello\r0', 'chunk data without its line end'],
  ['a bare LF in an extension', '5;a\nhello', 'invalid or oversized chunk extension'],
  ['a bare CR in an extension', '5;a\rb\r\n', 'carriage return without line feed'],
  ['a NUL in an extension', '5;a\0b\r\n', 'invalid or oversized chunk extension'],
  ['an endless extension', `5;${'a'.repeat(5_000)}`, 'invalid or oversized chunk extension'],
  ['many extensions', '1;aaaaaaaaa\r\na\r\n'.repeat(500), 'invalid or oversized chunk extension'],
  ['a trailer without a colon', '0\r\nnonsense\r\n\r\n', 'invalid field name'],
  ['a folded trailer', '0\r\na: b\r\n c\r\n\r\n', 'line folding or leading space'],
  ['a bare LF at the end', '0\r\n\n', 'line feed without carriage return'],
  ['endless trailers', `0\r\n${'a: b\r\n'.repeat(2_000)}`, 'too many fields'],
  ['an endless trailer', `0\r\na: ${'b'.repeat(9_000)}`, 'invalid or oversized trailers'],
]

t.test('a chunked body that could be read in two ways is refused, whole or byte by byte', async t => {
  for (const [name, message, reason] of refused) {
    t.strictSame(readBody([bytes(message)], 'chunked'), { refused: reason }, name)
    t.strictSame(readBody(cut(bytes(message), every(message)), 'chunked'), { refused: reason }, `${name}, byte by byte`)
    t.strictSame(readBody([bytes(message)], 'chunked', 0, false), { refused: reason }, `${name}, decoded`)
  }
})

t.test('any data in any chunks, cut anywhere, comes out as it went in', async t => {
  const chunks = fc.array(
    fc.record({ data: fc.uint8Array({ minLength: 1, maxLength: 40 }), extension: fc.constantFrom('', ';a', ';b="c"') }),
  )
  fc.assert(
    fc.property(chunks, fc.array(fc.nat({ max: 400 })), fc.boolean(), (parts, cuts, trailer) => {
      const end = trailer ? '0\r\nx: y\r\n\r\n' : '0\r\n\r\n'
      const text = (part: Uint8Array): string => Buffer.from(part).toString('latin1')
      const message = parts.map(({ data, extension }) => `${data.length.toString(16)}${extension}\r\n${text(data)}\r\n`).join('') + end
      const framed = parts.map(({ data }) => `${data.length.toString(16)}\r\n${text(data)}\r\n`).join('') + end
      const data = parts.map(part => text(part.data)).join('')
      const pieces = cut(bytes(`${message}next`), cuts)
      t.strictSame(readBody(pieces, 'chunked'), { done: true, out: framed, rest: 'next' })
      t.strictSame(readBody(pieces, 'chunked', 0, false), { done: true, out: data, rest: 'next' })
    }),
    { numRuns: process.env.ISTHMUS_DEEP === '1' ? 5_000 : 200 },
  )
})

t.test('the limit of trailers is of one body', async t => {
  const small = { ...limits, trailerBytes: 20 }
  t.strictSame(readBody([bytes('0\r\na: 0123456789012\r\n\r\n')], 'chunked', 0, true, small), {
    done: true,
    out: '0\r\na: 0123456789012\r\n\r\n',
    rest: '',
  })
  t.strictSame(readBody([bytes('0\r\na: 01234567890123\r\n\r\n')], 'chunked', 0, true, small), { refused: 'invalid or oversized trailers' })
})
