/** The words in which a broken body is refused: Go's, for they are what clients show (http-api.md 1.4). */
import * as fc from 'fast-check'
import t from 'tap'
import { parseJson } from '../../../src/agent/http/json.ts'

const errorOf = (text: string) => {
  const parsed = parseJson(Buffer.from(text))
  return parsed.ok ? undefined : parsed.error
}

t.test('says what Go says', async t => {
  const cases: Record<string, string> = {
    '': 'EOF',
    ' \n': 'EOF',
    '{bad': "invalid character 'b' looking for beginning of object key string",
    '{': 'unexpected EOF',
    '{"a"': 'unexpected EOF',
    '{"a" 1}': "invalid character '1' after object key",
    '{"a":}': "invalid character '}' looking for beginning of value",
    '{"a":1 "b"}': `invalid character '"' after object key:value pair`,
    '[1 2]': "invalid character '2' after array element",
    '{"a":tru}': "invalid character '}' in literal true (expecting 'e')",
    '{"a":01}': "invalid character '1' after object key:value pair",
    '{"a":1.}': "invalid character '}' after decimal point in numeric literal",
    '{"a":"\\x"}': "invalid character 'x' in string escape code",
    '{"a":"\t"}': "invalid character '\\t' in string literal",
    '{} x': "invalid character 'x' after top-level value",
  }
  for (const [text, error] of Object.entries(cases)) t.equal(errorOf(text), error, text)
})

t.test('nesting has a limit', async t => {
  t.match(errorOf('['.repeat(100_000)), /more than 64 levels/)
  t.equal(errorOf(`${'['.repeat(64)}"${'['.repeat(100)}"${']'.repeat(64)}`), undefined)
})

t.test('refuses exactly what JSON.parse refuses, and always says why', async () => {
  const alphabet = ['{', '}', '[', ']', '"', ':', ',', '1', '-', '.', 'e', 'true', 'null', '\\', 'u', ' ', 'x', '\n']
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...alphabet), { maxLength: 24 }), parts => {
      const text = parts.join('')
      let valid = true
      try {
        JSON.parse(text)
      } catch {
        valid = false
      }
      const error = errorOf(text)
      return valid ? error === undefined : error !== undefined && /^(EOF|unexpected EOF|invalid character .+)$/s.test(error)
    }),
    { numRuns: process.env['ISTHMUS_DEEP'] === '1' ? 50_000 : 2000 },
  )
})

t.test('half a character becomes U+FFFD, as in Go; a whole one stays', t => {
  const value = (text: string) => parseJson(Buffer.from(text))
  t.strictSame(value('{"a":["\\ud800x","\\uDC00",1],"b":"\\ud83d\\ude00"}'), {
    ok: true,
    value: { a: ['\ufffdx', '\ufffd', 1], b: '\u{1f600}' },
  })
  t.end()
})
