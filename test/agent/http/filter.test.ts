/** `?filter=` against the recorded answers of a real Consul, and against texts made to hurt. */
import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import * as fc from 'fast-check'
import t from 'tap'
import { compileFilter } from '../../../src/agent/http/filter.ts'
import { MeshError } from '../../../src/lib/errors.ts'
import { decode } from '../../../src/lib/shape.ts'
import { CheckServiceNode } from '../../../src/mesh/service.ts'

interface Recorded {
  cases: { filter: string; status: number; result: string[] | string }[]
}

const recorded = JSON.parse(readFileSync('test/golden/http/bexpr-filter-cases.json', 'utf8')) as Recorded

/** The three instances of the recording, as its header describes them. The TTLs of web-2 and web-3 had run out by then. */
const instances = [
  instance('web-1', ['primary', 'v1'], { ver: '1' }, 8080, 'passing', {
    Weights: { Passing: 10, Warning: 1 },
    EnableTagOverride: true,
    TaggedAddresses: { lan: { Address: '127.0.0.10', Port: 8080 } },
  }),
  instance('web-2', ['v2'], null, 8081, 'critical'),
  instance('web-3', [], null, 8082, 'critical'),
]

function instance(id: string, tags: string[], meta: unknown, port: number, status: string, more: object = {}): CheckServiceNode {
  const decoded = decode(CheckServiceNode, {
    Node: { Node: 'alpha', Meta: { rack: 'r1' } },
    Service: { ID: id, Service: 'web', Tags: tags, Meta: meta, Port: port, ...more },
    Checks: [
      { CheckID: 'serfHealth', Status: 'passing' },
      { CheckID: `service:${id}`, Status: status },
    ],
  })
  if (!decoded.ok) throw new Error(JSON.stringify(decoded.issues))
  return decoded.value
}

function outcome(filter: string): { status: number; result: string[] | string } {
  if (filter === '') return { status: 200, result: instances.map(each => each.service.id) }
  try {
    return { status: 200, result: instances.filter(compileFilter(filter, CheckServiceNode)).map(each => each.service.id) }
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    return { status: 500, result: error.message }
  }
}

for (const { filter, status, result } of recorded.cases) {
  t.test(`answers as Consul does: ${filter}`, async t => t.same(outcome(filter), { status, result }))
}

t.test('parentheses nested without end are refused, and nesting within the limit is quick', async t => {
  const started = performance.now()
  t.match(outcome('('.repeat(2000)).result, /nested deeper than 32/)
  t.same(outcome(`${'('.repeat(32)}Service.Port == 8080${')'.repeat(32)}`), { status: 200, result: ['web-1'] })
  t.match(outcome(`${'('.repeat(32)}Service.Port == 8080`).result, /Unmatched parentheses/)
  t.ok(performance.now() - started < 500, 'no exponential backtracking')
})

t.test('a regular expression that makes backtracking engines hang is linear here', async t => {
  const started = performance.now()
  t.same(outcome(`Service.ID matches "^(([a-z])+.)+[A-Z]([a-z])+$" or Service.Meta.ver matches "(a|aa)+$"`), { status: 200, result: [] })
  t.ok(performance.now() - started < 500)
})

t.test('a filter that is too long is refused', async t => {
  t.match(outcome(`Service.ID == "${'a'.repeat(5000)}"`).result, /more than 4096/)
})

t.test('names of JavaScript objects are no selectors and no keys', async t => {
  t.match(outcome('__proto__ == x').result, /1:1 \(0\): no match found/)
  t.same(outcome('constructor == x').result, 'Failed to create boolean expression evaluator: Selector "constructor" is not valid')
  t.same(outcome('toString in Service.Meta').result, [])
  t.same(outcome('Service.Meta.constructor == x').result, [])
})

t.test('any text gives a list or an error that says what is wrong', async () => {
  const words = [
    'Service',
    '.',
    'ID',
    'Port',
    ' ',
    '==',
    '!=',
    'not',
    'in',
    'and',
    'or',
    'is',
    'empty',
    '(',
    ')',
    '"',
    '`',
    '[',
    ']',
    '1',
    '-',
    'matches',
    '\\',
    '\n',
    'é',
    'Checks',
    'Meta',
    'contains',
  ]
  fc.assert(
    fc.property(
      fc.oneof(
        fc.array(fc.constantFrom(...words), { maxLength: 40 }).map(each => each.join('')),
        fc.string({ maxLength: 200 }),
      ),
      text => {
        const { status, result } = outcome(text)
        return status === 200 ? Array.isArray(result) : typeof result === 'string' && result.length > 0
      },
    ),
    { numRuns: process.env['ISTHMUS_DEEP'] === '1' ? 20_000 : 1000 },
  )
})
