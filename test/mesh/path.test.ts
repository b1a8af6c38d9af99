// The forms of a path: what a rule and an app could read differently must be seen before a rule is asked.
import * as fc from 'fast-check'
import t from 'tap'
import { byteString, judgePath } from '../../src/mesh/path.ts'

t.test('a plain path is one form', t => {
  for (const path of ['/', '/a', '/a/b.c', '/a;v=1', '/a=b&c', '/~x', '/a/..b', '*']) {
    t.same(judgePath(path), { raw: path, normalised: path, decoded: path })
  }
  t.end()
})

t.test('a path is normalised: unreserved escapes, dot segments, slashes, case of hex digits', t => {
  const cases: [string, string, string][] = [
    ['/%61dmin', '/admin', '/admin'],
    ['/%7Ex%2d', '/~x-', '/~x-'],
    ['//admin', '/admin', '/admin'],
    ['/a//b///c/', '/a/b/c/', '/a/b/c/'],
    ['/x/../admin', '/admin', '/admin'],
    ['/x/%2e%2E/admin', '/admin', '/admin'],
    ['/./a/.', '/a/', '/a/'],
    ['/a/..', '/', '/'],
    ['/..', '/', '/'],
    ['/../../a', '/a', '/a'],
    ['/a/b/..', '/a/', '/a/'],
    ['/a//../b', '/b', '/b'],
    ['/caf%c3%a9', '/caf%C3%A9', '/caf\xc3\xa9'],
    ['/a%2fb', '/a%2Fb', '/a/b'],
    ['/a%5Cb', '/a%5Cb', '/a/b'],
    ['/a\\b', '/a\\b', '/a/b'],
    ['/a%252Fb', '/a%252Fb', '/a%2Fb'],
  ]
  for (const [raw, normalised, decoded] of cases) t.same(judgePath(raw), { raw, normalised, decoded }, raw)
  t.end()
})

t.test('a malformed path is refused', t => {
  for (const path of [
    '',
    'a',
    'http://x/',
    'host:443',
    '/%',
    '/%4',
    '/%zz',
    '/%00',
    '/a%00b',
    '/a\0b',
    '/a#b',
    '/x/..%2fadmin',
    '/x%2f..%2Fadmin',
  ]) {
    t.equal(judgePath(path), undefined, JSON.stringify(path))
  }
  for (const path of [
    '/x/..\\admin',
    '/x\\..\\admin',
    '/x%5c..%5cadmin',
    '/%2e%2e%2fadmin',
    '/a%2F.%2Fb',
    '/x/..;/admin',
    '/x/..;a=b/admin',
    '/x/..%3b/admin',
    '/x/.;/y',
  ]) {
    t.equal(judgePath(path), undefined, path)
  }
  t.end()
})

t.test('normalising again changes nothing, and leaves no dot segment, double slash or needless escape', t => {
  const piece = fc.constantFrom('a', '.', '..', '/', '//', '%2e', '%2E', '%2f', '%61', '%41', '%25', '%c3', '\\', ';', '~')
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), pieces => {
      const judged = judgePath(`/${pieces.join('')}`)
      if (judged === undefined) return true
      const again = judgePath(judged.normalised)
      return (
        again?.normalised === judged.normalised &&
        again.decoded === judged.decoded &&
        !/\/\/|\/\.\.?(?:\/|$)|%61|%2e/i.test(judged.normalised) &&
        !/\/\/|\/\.\.?(?:\/|$)|\\/.test(judged.decoded)
      )
    }),
    { numRuns: process.env.ISTHMUS_DEEP === '1' ? 100_000 : 3000 },
  )
  t.end()
})

t.test('any text is judged without a throw, and a form never grows', t => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary', maxLength: 64 }), text => {
      const judged = judgePath(text)
      return judged === undefined || (judged.normalised.length <= text.length && judged.decoded.length <= judged.normalised.length)
    }),
  )
  t.end()
})

t.test('text of a configuration is compared as the bytes that a client sends', t => {
  t.equal(byteString('/caf\u00e9'), '/caf\xc3\xa9')
  t.equal(byteString('/plain'), '/plain')
  t.end()
})
