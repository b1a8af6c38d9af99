/** Intentions as the API shows them, against recorded answers of a real Consul 1.16.4 (test/golden/intention). */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { encode } from '../../src/lib/shape.ts'
import type { ServiceIntentions } from '../../src/mesh/intention-entry.ts'
import { Intention, isConnectionAllowed, listIntentions, matchIntentions, precedenceOf } from '../../src/mesh/intention.ts'

const golden = JSON.parse(readFileSync('test/golden/intention/answers.json', 'utf8')) as Record<string, never>

function entry(
  name: string,
  sources: [name: string, action: string, extra?: object][],
  index: [number, number] = [1, 1],
): ServiceIntentions {
  return {
    kind: 'service-intentions',
    name,
    createIndex: index[0],
    modifyIndex: index[1],
    sources: sources.map(([source, action, extra]) => ({
      name: source,
      action,
      type: 'consul',
      precedence: precedenceOf(source, name),
      ...extra,
    })),
  }
}

const print = (intentions: Intention[]) => intentions.map(each => encode(Intention, each))

t.test('precedence is 9, 8, 6 and 5', async t => {
  t.same([precedenceOf('a', 'b'), precedenceOf('*', 'b'), precedenceOf('a', '*'), precedenceOf('*', '*')], [9, 8, 6, 5])
})

t.test('lists and matches are those of Consul', async t => {
  const web = entry(
    'web',
    [
      ['api', 'allow'],
      ['billing', 'allow', { peer: 'beta', description: 'peer' }],
      ['*', 'deny'],
    ],
    [195, 197],
  )
  t.same(print(listIntentions([web])), golden['10-list'])
  t.same({ web: print(matchIntentions([web], 'destination', 'web')) }, golden['12-match-dest'])
  t.same(
    { api: print(matchIntentions([web], 'source', 'api')), zz: print(matchIntentions([web], 'source', 'zz')) },
    golden['13-match-source'],
  )
})

t.test('all four precedences come in the order of Consul', async t => {
  const one = { peer: 'cluster-one' }
  const entries = [
    entry(
      '*',
      [
        ['*', 'allow', one],
        ['web', 'allow', one],
        ['*', 'deny'],
      ],
      [319, 319],
    ),
    entry('db', [['web', 'allow', one]], [61, 92]),
    entry('apih2', [['web', 'allow', one]], [155, 155]),
    entry(
      'api',
      [
        ['web', 'allow', one],
        ['local1', 'allow'],
      ],
      [271, 307],
    ),
  ]
  t.same(print(listIntentions(entries)), golden['precedences'])
})

t.test('a check looks at our own sources, and at no request', async t => {
  const entries = [
    entry('web', [
      ['api', 'allow'],
      ['billing', 'deny', { peer: 'beta' }],
      ['l7', '', { action: undefined, permissions: [{ action: 'allow', http: {} }] }],
      ['*', 'deny'],
    ]),
  ]
  const allowed = (source: string, destination: string, otherwise: 'allow' | 'deny') =>
    isConnectionAllowed(entries, source, destination, otherwise)
  t.equal(allowed('api', 'web', 'deny'), true)
  t.equal(allowed('zz', 'web', 'allow'), false)
  t.equal(allowed('l7', 'web', 'allow'), false)
  t.equal(allowed('api', 'db', 'allow'), true)
  t.equal(allowed('api', 'db', 'deny'), false)
})
