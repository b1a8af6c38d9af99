// Schemas to and from Consul's JSON: names, durations, emptiness, and every problem at once.
import * as fc from 'fast-check'
import * as z from 'zod'
import t from 'tap'
import { base64, decode, duration, encode, wireName, type DecodeIssue } from '../../src/lib/shape.ts'

const Inner = z.object({ checkId: z.string().default(''), intervalMs: duration('Interval').optional() })
const Thing = z.object({
  id: z.string(),
  name: z
    .string()
    .default('')
    .meta({ aliases: ['Service'] }),
  port: z.number().int().min(0).max(65535).optional(),
  taggedAddresses: z.record(z.string(), z.object({ address: z.string().default('') })).optional(),
  meta: z.record(z.string(), z.string()).nullable().default(null),
  checks: z.array(Inner).default([]),
  timeoutMs: duration('Timeout').optional(),
  windowMs: duration('Window', 'nanoseconds').optional(),
  peerCaPems: z.array(z.string()).optional().meta({ wire: 'PeerCAPems' }),
  connect: z.object({ native: z.boolean().optional() }).default({}),
})

function issues(input: unknown): DecodeIssue[] {
  const result = decode(Thing, input)
  return result.ok ? [] : result.issues
}

t.test('keys are named as Consul names them', t => {
  const cases = [
    'checkId',
    'serviceId',
    'http',
    'tlsServerName',
    'externalSni',
    'enforcingConsecutive5xx',
    'jwt',
    'peerServerAddresses',
    'tcpUseTls',
  ]
  t.same(cases.map(wireName), [
    'CheckID',
    'ServiceID',
    'HTTP',
    'TLSServerName',
    'ExternalSNI',
    'EnforcingConsecutive5xx',
    'JWT',
    'PeerServerAddresses',
    'TCPUseTLS',
  ])
  t.end()
})

t.test('keys are matched without regard to case or underscores, and by their aliases', t => {
  const expected = {
    id: 'a',
    name: 'web',
    port: 80,
    taggedAddresses: { wan_x: { address: '192.0.2.1' } },
    meta: null,
    checks: [{ checkId: 'c', intervalMs: 10_000 }],
    peerCaPems: ['pem'],
    connect: {},
  }
  t.same(
    decode(Thing, {
      ID: 'a',
      Name: 'web',
      Port: 80,
      TaggedAddresses: { wan_x: { Address: '192.0.2.1' } },
      Checks: [{ CheckID: 'c', Interval: '10s' }],
      PeerCAPems: ['pem'],
    }),
    { ok: true, value: expected },
  )
  t.same(
    decode(Thing, {
      id: 'a',
      service: 'web',
      PORT: 80,
      tagged_addresses: { wan_x: { address: '192.0.2.1' } },
      checks: [{ check_id: 'c', interval: 1e10 }],
      peer_ca_pems: ['pem'],
    }),
    { ok: true, value: expected },
  )
  t.end()
})

t.test('null is "not given" everywhere', t => {
  const input = {
    ID: 'a',
    Name: null,
    Port: null,
    TaggedAddresses: null,
    Meta: null,
    Checks: null,
    Timeout: null,
    Window: null,
    Connect: null,
  }
  t.same(decode(Thing, input), { ok: true, value: { id: 'a', name: '', meta: null, checks: [], connect: {} } })
  t.end()
})

t.test('all problems are told at once, each with its path', t => {
  t.same(issues({ ID: 'a', Nmae: 'x', Checks: [{ Interval: 'soon' }, { Bad: 1 }], Timeout: [] }), [
    { path: 'Nmae', message: 'unknown key "Nmae"', unknownKey: 'Nmae' },
    { path: 'Checks[0].Interval', message: 'time: invalid duration "soon"' },
    { path: 'Checks[1].Bad', message: 'unknown key "Bad"', unknownKey: 'Bad' },
    { path: 'Timeout', message: 'time: invalid duration []' },
  ])
  t.same(
    issues({ ID: 1, Port: 70_000, Meta: { a: 1 }, Checks: [{ CheckID: 5 }] }).map(({ path }) => path),
    ['ID', 'Port', 'Meta["a"]', 'Checks[0].CheckID'],
  )
  t.same(
    issues([]).map(({ path }) => path),
    [''],
  )
  t.end()
})

t.test('what is optional and empty is not printed, what has a default always is', t => {
  const value = { id: 'a', name: '', port: 0, taggedAddresses: {}, meta: null, checks: [], timeoutMs: 0, peerCaPems: [], connect: {} }
  t.same(encode(Thing, value), { ID: 'a', Name: '', Meta: null, Checks: [], Connect: {} })
  t.end()
})

t.test('durations are printed as text or as nanoseconds', t => {
  const value = {
    id: 'a',
    name: 'n',
    meta: {},
    checks: [{ checkId: 'c', intervalMs: 90_000 }],
    timeoutMs: 1500,
    windowMs: 10_000,
    connect: { native: true },
  }
  t.same(encode(Thing, value), {
    ID: 'a',
    Name: 'n',
    Meta: {},
    Checks: [{ CheckID: 'c', Interval: '1m30s' }],
    Timeout: '1.5s',
    Window: 10_000_000_000,
    Connect: { Native: true },
  })
  t.end()
})

t.test('a key that means something to JavaScript is only a key', t => {
  const input = JSON.parse(
    '{"ID":"a","Meta":{"__proto__":"x","constructor":"y"},"TaggedAddresses":{"__proto__":{"Address":"z"}}}',
  ) as unknown
  const result = decode(Thing, input)
  t.equal(({} as Record<string, unknown>)['Address'], undefined)
  if (result.ok) t.equal(Object.getPrototypeOf(result.value.meta), Object.prototype)
  t.match(issues(JSON.parse('{"ID":"a","__proto__":{"Name":"x"}}')), [{ unknownKey: '__proto__' }])
  t.end()
})

t.test('base64 is checked', t => {
  const Blob = z.object({ data: base64() })
  t.equal(decode(Blob, { Data: 'aGk=' }).ok, true)
  t.equal(decode(Blob, { Data: '' }).ok, true)
  for (const text of ['aGk', 'aGk==', 'a', '!!!!', 'aGk=\n']) t.equal(decode(Blob, { Data: text }).ok, false, text)
  t.end()
})

t.test('what is written reads back as itself', t => {
  const text = fc.string({ maxLength: 8 })
  const arbitrary = fc.record({
    id: text,
    name: text,
    port: fc.integer({ min: 1, max: 65_535 }),
    meta: fc.option(
      fc.dictionary(
        text.filter(key => key !== '__proto__'),
        text,
      ),
      { nil: null },
    ),
    checks: fc.array(fc.record({ checkId: text, intervalMs: fc.integer({ min: 1, max: 1e9 }) })),
    timeoutMs: fc.integer({ min: 1, max: 1e9 }),
    windowMs: fc.integer({ min: 1, max: 1e9 }),
    connect: fc.constant({}),
  })
  fc.assert(
    fc.property(arbitrary, value => {
      const result = decode(Thing, JSON.parse(JSON.stringify(encode(Thing, value))))
      t.same(result, { ok: true, value }, { quiet: true })
      return result.ok
    }),
    { numRuns: 200 },
  )
  t.end()
})

t.test('no input makes the decoder throw', t => {
  fc.assert(
    fc.property(fc.jsonValue(), input => {
      decode(Thing, input)
      decode(Thing, { ID: 'a', Meta: input, Checks: [input], TaggedAddresses: input, Timeout: input })
      return true
    }),
  )
  t.end()
})

t.test('a sparse struct is printed only when something in it is', async t => {
  const Sparse = z.object({
    inner: z.object({ port: z.number().optional(), on: z.boolean().optional() }).meta({ sparse: true }).optional(),
  })
  t.same(encode(Sparse, { inner: {} }), {})
  t.same(encode(Sparse, { inner: { port: 0, on: false } }), {})
  t.same(encode(Sparse, { inner: { port: 1 } }), { Inner: { Port: 1 } })
  t.same(decode(Sparse, { Inner: {} }), { ok: true, value: { inner: {} } })
})
