/** Config entries as they are read and printed, beside a real Consul's (test/golden/config-entry); what it answers to writes is in test/golden/pairs. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { encode } from '../../src/lib/shape.ts'
import { checkConfigEntry, normaliseConfigEntry } from '../../src/mesh/config-entry-check.ts'
import { configEntryKinds, parseConfigEntry } from '../../src/mesh/config-entry.ts'

const golden = (name: string): unknown => JSON.parse(readFileSync(`test/golden/config-entry/${name}.json`, 'utf8'))

/** What an entry is answered with, as far as it can be said without the other entries. */
function answer(body: unknown): { status: number; text: string } {
  const parsed = parseConfigEntry(body)
  if (!parsed.ok) {
    return parsed.code === 'bad-request'
      ? { status: 400, text: `Request decoding failed: ${parsed.text}` }
      : { status: 500, text: parsed.text }
  }
  const problem = checkConfigEntry(normaliseConfigEntry(parsed.value))
  return problem === undefined ? { status: 200, text: 'true' } : { status: 500, text: problem }
}

t.test('what is written in either spelling is read back as Consul prints it', async t => {
  const trips = golden('round-trips') as { name: string; input: unknown; output: Record<string, unknown> }[]
  for (const { name, input, output } of trips) {
    const parsed = parseConfigEntry(input)
    if (!parsed.ok) {
      t.fail(`${name}: ${parsed.text}`)
      continue
    }
    const entry = normaliseConfigEntry(parsed.value)
    const {
      CreateIndex: _created,
      ModifyIndex: _modified,
      ...printed
    } = encode(configEntryKinds[entry.kind], entry as never) as Record<string, unknown>
    t.strictSame(printed, output, name)
  }
})

t.test('what is never stored says why', async t => {
  t.same(answer({ Kind: 'sameness-group', Name: 'g' }), { status: 500, text: 'sameness-groups are an enterprise-only feature' })
  t.same(parseConfigEntry({ Kind: 'bound-api-gateway', Name: 'g' }), {
    ok: false,
    code: 'permission-denied',
    text: 'Permission denied: only writeable by controller',
    issues: [{ path: '', message: 'Permission denied: only writeable by controller' }],
  })
  const pem = (what: string) => `-----BEGIN ${what}-----\nx\n-----END ${what}-----`
  t.match(answer({ Kind: 'inline-certificate', Name: 'c', Certificate: pem('CERTIFICATE'), PrivateKey: pem('PRIVATE KEY') }), {
    status: 500,
    text: /a private key that nobody needs is not stored/,
  })
})

t.test('what of a route or a split cannot be served is refused when it is written', async t => {
  const route = (Destination: object, HTTP: object = { PathPrefix: '/a' }) =>
    answer({ Kind: 'service-router', Name: 'x', Routes: [{ Match: { HTTP }, Destination }] }).text
  t.equal(route({ PrefixRewrite: '/b c' }), 'Route[0] PrefixRewrite is not a path: "/b c"')
  t.equal(route({ PrefixRewrite: '/b?x=1' }), 'Route[0] PrefixRewrite is not a path: "/b?x=1"')
  t.equal(route({ Peer: 'east', ServiceSubset: 'v1' }), 'Route[0] Destination: Peer cannot be set with ServiceSubset')
  t.match(route({}, { PathRegex: '/(' }), /^Route\[0\] PathRegex is not a valid regular expression: /)
  t.match(route({}, { QueryParam: [{ Name: 'q', Regex: '(' }] }), /^Route\[0\] QueryParam\[0\] Regex is not a valid regular expression: /)
  const splits = (Splits: object[]) => answer({ Kind: 'service-splitter', Name: 'x', Splits }).text
  t.equal(splits([{ Weight: 50 }, { Weight: 50, Peer: 'east' }]), 'true')
  t.equal(splits([{ Weight: 100, Peer: 'east', ServiceSubset: 'v1' }]), 'Splits[0]: Peer cannot be set with ServiceSubset')
})

t.test('a policy of our own is taken, and hash policies that mean nothing are named', async t => {
  const balanced = (LoadBalancer: object) => answer({ Kind: 'service-resolver', Name: 'x', LoadBalancer }).text
  t.equal(balanced({ Policy: 'peak_ewma', LeastRequestConfig: { ChoiceCount: 3 } }), 'true')
  t.equal(
    balanced({ Policy: 'random', LeastRequestConfig: { ChoiceCount: 3 } }),
    'Bad LoadBalancer configuration. LeastRequestConfig specified for incompatible load balancing policy "random"',
  )
  for (const [policy, problem] of [
    [{ Field: 'body', FieldValue: 'x' }, '"body" is not a supported field'],
    [{ Field: 'header', FieldValue: 'x', SourceIP: true }, 'a single hash policy cannot hash both a source address and a "header"'],
    [{ FieldValue: 'x', SourceIP: true }, 'A FieldValue cannot be specified when hashing SourceIP'],
    [{ FieldValue: 'x' }, 'FieldValue requires a Field to apply to'],
    [{ Field: 'header', FieldValue: 'x', CookieConfig: {} }, 'cookie_config provided for "header"'],
  ] as const) {
    t.equal(balanced({ Policy: 'maglev', HashPolicies: [{ SourceIP: true }, policy] }), `Bad LoadBalancer HashPolicy[1]: ${problem}`)
  }
})

t.test('values are taken weakly, as from HCL', async t => {
  const parsed = parseConfigEntry({
    kind: 'service-intentions',
    name: 'web',
    sources: { name: 'api', permissions: [{ action: 'allow', http: [{ path_exact: '/', methods: 'get' }] }] },
  })
  t.match(parsed, {
    ok: true,
    value: { sources: [{ name: 'api', permissions: [{ action: 'allow', http: { pathExact: '/', methods: ['get'] } }] }] },
  })
  t.match(parseConfigEntry({ kind: 'service-defaults', name: 'web', max_inbound_connections: '7' }), {
    ok: true,
    value: { maxInboundConnections: 7 },
  })
})

t.test('a duration that is none is named with its path', async t => {
  t.same(answer({ Kind: 'service-defaults', Name: 'x', UpstreamConfig: { Defaults: { PassiveHealthCheck: { Interval: 'soon' } } } }), {
    status: 400,
    text: `Request decoding failed: 1 error(s) decoding:\n\n* error decoding 'UpstreamConfig.Defaults.PassiveHealthCheck.Interval': time: invalid duration "soon"`,
  })
})

t.test('a pattern that the linear-time engine does not take is refused when it is written', async t => {
  const source = (http: object) => ({
    Kind: 'service-intentions',
    Name: 'x',
    Sources: [{ Name: 'a', Permissions: [{ Action: 'allow', HTTP: http }] }],
  })
  t.match(answer(source({ PathRegex: '/(' })), {
    status: 500,
    text: /^Sources\[0\]\.Permissions\[0\]\.HTTP\.PathRegex is not a valid regular expression: /,
  })
  t.match(answer(source({ Header: [{ Name: 'h', Regex: '(?=x)' }] })), {
    status: 500,
    text: /^Sources\[0\]\.Permissions\[0\]\.HTTP\.Header\[0\] Regex is not a valid/,
  })
})
