// HCL as Consul's files use it, and everything that is not it as an error with its place.
import * as fc from 'fast-check'
import t from 'tap'
import { hclLimits, parseHcl, type Hcl } from '../../src/lib/hcl.ts'

const runs = process.env['ISTHMUS_DEEP'] === '1' ? 100_000 : 3_000

function read(text: string): unknown {
  const parsed = parseHcl(text)
  return parsed.ok ? parsed.value : parsed.message
}

void t.test('an agent configuration as the documents of Consul write it', t => {
  t.same(
    read(`
# the whole line
datacenter = "east-aws" // and the end of one
data_dir   = "/opt/consul"
/* over
   lines */
server = true
bootstrap_expect = 3
addresses = {
  http = "unix:///var/run/consul.sock"
  "grpc-tls" = "127.0.0.1",
}
ports { http = -1, dns = 0x2198 }
retry_join = ["10.0.0.1", "10.0.0.2",]
services {
  name = "web"
  port = 80
  checks = [{ id = "a", tcp = "localhost:80", interval = "10s" }]
}
services {
  name = "api"
  port = 0600
  connect { sidecar_service {} }
}
node_meta { rack = "r1" }
`),
    {
      datacenter: 'east-aws',
      data_dir: '/opt/consul',
      server: true,
      bootstrap_expect: 3,
      addresses: { http: 'unix:///var/run/consul.sock', 'grpc-tls': '127.0.0.1' },
      ports: { http: -1, dns: 8600 },
      retry_join: ['10.0.0.1', '10.0.0.2'],
      services: [
        { name: 'web', port: 80, checks: [{ id: 'a', tcp: 'localhost:80', interval: '10s' }] },
        { name: 'api', port: 384, connect: { sidecar_service: {} } },
      ],
      node_meta: { rack: 'r1' },
    },
  )
  t.end()
})

void t.test('config entries, with labels, heredocs, escapes and numbers', t => {
  const cases: [string, unknown][] = [
    ['', {}],
    ['\uFEFFa = 1', { a: 1 }],
    ['a=1\r\nb=2\r\n', { a: 1, b: 2 }],
    ['a = 1.5e3\nb = -2\nc = -0x10\nd = 0\ne = 1E-2', { a: 1500, b: -2, c: -16, d: 0, e: 0.01 }],
    [
      'Kind = "service-router"\nRoutes = [\n  { Match { HTTP { PathPrefix = "/admin" } } },\n]',
      { Kind: 'service-router', Routes: [{ Match: { HTTP: { PathPrefix: '/admin' } } }] },
    ],
    ['service "web" { port = 1 }\nservice "api" { port = 2 }', { service: [{ web: { port: 1 } }, { api: { port: 2 } }] }],
    ['a b "c d" {}', { a: { b: { 'c d': {} } } }],
    ['a = {}\na {}', { a: [{}, {}] }],
    ['a = "x\\ty\\"z\\\\ \\u00e9 \\U0001F600 \\x41 \\101"', { a: 'x\ty"z\\ é 😀 A A' }],
    ['a = "${if "x" { y } }-$ {"', { a: '${if "x" { y } }-$ {' }],
    ['a = <<EOF\n one\n  two\nEOF\nb = 1', { a: ' one\n  two\n', b: 1 }],
    ['a = <<-EOF\n    one\n      two\n    EOF\n', { a: 'one\n  two\n' }],
    ['a = <<-EOF\n  one\n    EOF\n', { a: '  one\n' }],
    ['a = [<<X\none\nX\n, "two"]', { a: ['one\n', 'two'] }],
    ['a = <<X\nXY\nX y\nX', { a: 'XY\nX y\n' }],
    ['a = [[1, [2]], {b = 3}, true]', { a: [[1, [2]], { b: 3 }, true] }],
    [
      '__proto__ = 1\nconstructor { a = 1 }',
      Object.fromEntries<unknown>([
        ['__proto__', 1],
        ['constructor', { a: 1 }],
      ]),
    ],
  ]
  for (const [text, value] of cases) t.same(read(text), value, JSON.stringify(text))
  t.equal(({} as { a?: number }).a, undefined)
  t.end()
})

void t.test('what is wrong is named with its line and column', t => {
  const cases: [string, string][] = [
    ['a', 'At 1:2: expected "=" or "{" after "a"'],
    ['a = ', 'At 1:5: expected a value, found the end'],
    ['\n\n  a = maybe', 'At 3:7: maybe is no value; texts stand in double quotes'],
    ['a = "x\n"', 'At 1:5: text is never closed: expected a double quote'],
    ['a = "x', 'At 1:5: text is never closed: expected a double quote'],
    ['a = "\\q"', 'At 1:6: unknown escape in a text'],
    ['a = "\\ud800"', 'At 1:6: an escape names no character'],
    ['a = "\\U00110000"', 'At 1:6: an escape names no character'],
    ['a {\n b = 1\n', 'At 1:3: object is never closed: expected "}"'],
    ['a = [1, 2', 'At 1:10: list is never closed: expected "]"'],
    ['a = [1 2]', 'At 1:8: expected "," or "]", found "2"'],
    ['a = 1\nb = 2\na = 3', 'At 3:1: "a" is given twice'],
    ['a {}\na = 3', 'At 2:1: "a" is given twice'],
    ['}', 'At 1:1: expected the name of a key, found "}"'],
    ['= 1', 'At 1:1: expected the name of a key, found "="'],
    ['a = 12abc', 'At 1:5: expected a value, found "1"'],
    ['a = <<EOF\nx', 'At 1:5: heredoc is never closed: expected a line EOF'],
    ['a = << EOF\nx\nEOF', 'At 1:5: expected a heredoc: <<NAME and a new line'],
    ['/* x', 'At 1:1: comment is never closed: expected "*/"'],
    ['a = 1 😀', 'At 1:7: expected the name of a key, found "😀"'],
    [`a = ${'['.repeat(hclLimits.maxDepth + 1)}`, `At 1:${5 + hclLimits.maxDepth}: nested deeper than ${hclLimits.maxDepth}`],
    ['a {'.repeat(hclLimits.maxDepth + 1), `At 1:${3 + 3 * hclLimits.maxDepth}: nested deeper than ${hclLimits.maxDepth}`],
    [`a ${'b '.repeat(hclLimits.maxDepth + 1)}{}`, `At 1:${3 + 2 * hclLimits.maxDepth}: too many labels`],
  ]
  for (const [text, message] of cases) t.equal(read(text), message, JSON.stringify(text))
  t.end()
})

void t.test('a long hostile text ends in a blink', t => {
  const start = process.cpuUsage()
  for (const text of [
    'a = "'.repeat(50_000),
    '/*'.repeat(200_000),
    '#'.repeat(300_000),
    `a = "${'${'.repeat(100_000)}`,
    'a '.repeat(100_000),
    `a = <<X\n${'X y\n'.repeat(100_000)}`,
    `a = [${'1,'.repeat(150_000)}`,
    'a{}'.repeat(100_000),
  ])
    parseHcl(text)
  const { user, system } = process.cpuUsage(start)
  t.ok(user + system < 3_000_000, `${(user + system) / 1000} ms`)
  t.end()
})

void t.test('what is written as HCL comes back, and random text never throws', t => {
  const text = fc.string({ unit: 'grapheme' })
  const { value } = fc.letrec<{ value: Hcl; map: { [key: string]: Hcl } }>(tie => ({
    value: fc.oneof(
      { maxDepth: 4 },
      text,
      fc.integer(),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      fc.boolean(),
      fc.array(tie('value'), { maxLength: 4 }),
      tie('map'),
    ),
    map: fc.dictionary(text, tie('value'), { maxKeys: 4 }),
  }))
  fc.assert(
    fc.property(fc.dictionary(text, value), map => {
      const parsed = parseHcl(
        Object.entries(map)
          .map(([key, each]) => `${quoted(key)} = ${written(each)}\n`)
          .join(''),
      )
      return parsed.ok && JSON.stringify(parsed.value) === JSON.stringify(map)
    }),
    { numRuns: runs / 10 },
  )
  const piece = fc.constantFrom('a', ' = ', '{', '}', '[', ']', ',', '"', '\n', '<<E\n', 'E', '${', '\\', '1', '#', '/*', '*/', 'true', '-')
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(piece).map(all => all.join('')),
      ),
      given => {
        const parsed = parseHcl(given)
        return parsed.ok || (parsed.line >= 1 && parsed.column >= 1 && parsed.message.startsWith(`At ${parsed.line}:${parsed.column}: `))
      },
    ),
    { numRuns: runs },
  )
  t.pass(`${runs} runs`)
  t.end()
})

/** `${` is never an escape of its own, so it is broken up. */
function quoted(text: string): string {
  return JSON.stringify(text).replaceAll('\\b', '\\u0008').replaceAll('\\/', '/').replaceAll('$', '\\u0024')
}

function written(value: Hcl): string {
  if (typeof value === 'string') return quoted(value)
  if (Array.isArray(value)) return `[${value.map(written).join(', ')}]`
  if (typeof value !== 'object') return Object.is(value, -0) ? '0' : String(value)
  return `{${Object.entries(value)
    .map(([key, each]) => `${quoted(key)} = ${written(each)}`)
    .join('\n')}}`
}
