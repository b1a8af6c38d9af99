/** `isthmus intention test` and `isthmus whatif`: cases with entries of their own, and against what an agent holds. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { agentWithHttp } from '../support/agent-parts.ts'
import { against, isthmus } from './harness.ts'

const dir = mkdtempSync(join(tmpdir(), 'isthmus-cases-'))
t.teardown(() => rmSync(dir, { recursive: true, force: true }))

const entries = `
entries:
  - Kind: service-defaults
    Name: api
    Protocol: http
  - Kind: service-router
    Name: api
    Routes:
      - Match: { HTTP: { PathPrefix: /v2/ } }
        Destination: { Service: api2, PrefixRewrite: / }
      - Match: { HTTP: { PathPrefix: /west } }
        Destination: { Service: api, Peer: west }
  - { Kind: service-defaults, Name: api2, Protocol: http }
  - Kind: exported-services
    Name: default
    Services: [{ Name: api, Consumers: [{ Peer: east }] }]
  - Kind: jwt-provider
    Name: idp
    JSONWebKeySet: { Local: { JWKS: e30= } }
  - Kind: service-intentions
    Name: api
    Sources:
      - Name: web
        Permissions:
          - { Action: deny, HTTP: { PathPrefix: /admin } }
          - { Action: allow, HTTP: { Methods: [GET] } }
          - { Action: allow, HTTP: { Methods: [PUT] }, JWT: { Providers: [{ Name: idp, VerifyClaims: [{ Path: [role], Value: writer }] }] } }
      - { Name: web, Peer: east, Action: allow }
      - { Name: '*', Action: deny }
  - Kind: service-intentions
    Name: api2
    Sources:
      - Name: '*'
        Permissions: [{ Action: allow, HTTP: { PathExact: /ping, Header: [{ Name: x-role, Exact: ops }] } }]
`

const passing = `
cases:
  - { source: web, destination: api, path: /x, expect: allow, rule: web => api, permission: 1, target: api, route: service-router/api }
  - { source: web, destination: api, path: /admin/x, expect: deny, permission: 0 }
  - { source: web, destination: api, method: post, expect: deny, rule: '' }
  - { source: web, destination: api, method: PUT, expect: deny }
  - { source: web, destination: api, method: PUT, claims: { idp: { role: writer } }, expect: allow, permission: 2 }
  - { source: other, destination: api, expect: deny, rule: '* => api' }
  - { source: web@east, destination: api, expect: allow, rule: 'peer:east/web => api' }
  - { source: web@north, destination: api, expect: unreachable }
  - { source: web@east, destination: api, path: /west/x, expect: unreachable }
  - { source: web, destination: api, path: /v2/ping, headers: { X-Role: ops }, expect: allow, target: api2, route: 'service-router/api[0]' }
  - { source: web, destination: api, path: /v2/ping, expect: deny }
  - { source: web, destination: api, path: /west, expect: unknown, target: api@west }
`

t.test('cases with their own entries need no agent', async t => {
  const test = (text: string, ...more: string[]) =>
    isthmus(['intention', 'test', '-', ...more], { stdin: `default: deny\n${entries}${text}` })
  t.same(await test(passing), { code: 0, stdout: '12 passed, 0 failed\n', stderr: '' })
  const failing = `
cases:
  - { source: web, destination: api, path: /x, expect: deny }
  - { name: where it ends, source: web, destination: api, path: /v2/ping, headers: { x-role: ops }, target: api, rule: web => api, route: 'service-router/api[1]' }
  - { source: web, destination: api, expect: allow }
`
  t.same(await test(failing), {
    code: 1,
    stdout: [
      'FAILED web -> api GET /x',
      '  outcome: expected deny, got allow (api: allow (web => api, permission 1))',
      'FAILED where it ends',
      '  route: expected service-router/api[1], got service-router/api[0]',
      '  rule: expected web => api, got * => api2',
      '  target: expected api, got api2',
      '1 passed, 2 failed',
      '',
    ].join('\n'),
    stderr: '',
  })
  t.match(await test(failing, '--format', 'json'), { code: 1, stdout: /^\{"Passed":1,"Failed":\[\{"Case":"web -> api GET \/x"/ })
})

t.test('the example of docs/why.md comes true', async t => {
  const [, example = ''] = /```yaml\n([^]*?)```/.exec(readFileSync('docs/why.md', 'utf8'))!
  t.same(await isthmus(['intention', 'test', '-'], { stdin: example }), { code: 0, stdout: '4 passed, 0 failed\n', stderr: '' })
})

t.test('a file that says nothing is refused, and so is what it does not say right', async t => {
  for (const [text, error] of [
    ['cases: []', /cases: /],
    ['cases: [{ source: web }]', /cases\.0\.destination/],
    ['cases: [{ source: web, destination: api, expects: allow }]', /expects/],
    ['cases: [{ source: "@", destination: api }]', /is no service/],
    ['cases: [{ source: web, destination: api, path: x }]', /cases\.0\.path: begins with a slash/],
    ['entries: [{ Kind: service-intentions, Name: api, Bogus: 1 }]\ncases: [{ source: web, destination: api }]', /entries\[0\]: [^]*Bogus/],
    ['- cases', /must hold a map/],
  ] as const) {
    const { code, stderr } = await isthmus(['intention', 'test', '-'], { stdin: text })
    t.equal(code, 1)
    t.match(stderr, error, text)
  }
})

t.test('against an agent: cases of what it holds, and what a change would change', async t => {
  const agent = await agentWithHttp({ defaultAction: 'deny' })
  t.teardown(() => agent.close())
  const cli = against(agent.url)
  const write = (entry: object) => cli(['config', 'write', '-'], JSON.stringify(entry))
  await write({ Kind: 'service-defaults', Name: 'api', Protocol: 'http' })
  await write({ Kind: 'service-intentions', Name: 'api', Sources: [{ Name: 'web', Action: 'allow' }] })
  const cases = (expect: string) =>
    `cases: [{ source: web, destination: api, path: /admin, expect: ${expect} }, { source: cron, destination: api, expect: deny }]`
  t.same(await cli(['intention', 'test', '-'], cases('allow')), { code: 0, stdout: '2 passed, 0 failed\n', stderr: '' })
  t.equal((await cli(['intention', 'test', '-'], cases('deny'))).code, 1)

  const Permissions = [
    { Action: 'deny', HTTP: { PathPrefix: '/admin' } },
    { Action: 'allow', HTTP: { PathPrefix: '/' } },
  ]
  const narrower = { Kind: 'service-intentions', Name: 'api', Sources: [{ Name: 'web', Permissions }] }
  const path = join(dir, 'narrower.json')
  writeFileSync(path, JSON.stringify(narrower))
  const { stdout, code } = await cli(['whatif', path])
  t.equal(code, 0)
  const calls = [...stdout.matchAll(/^(\S+ -> .*)\n {2}- (.*)\n {2}\+ (.*)$/gm)].map(match => match.slice(1))
  t.same(calls, [
    ['web -> api GET /admin', 'allow: api: allow (web => api)', 'deny: api: deny (web => api, permission 0)'],
    ['web -> api GET /adminx', 'allow: api: allow (web => api)', 'deny: api: deny (web => api, permission 0)'],
    ['web -> api GET /admin/x', 'allow: api: allow (web => api)', 'deny: api: deny (web => api, permission 0)'],
  ])
  t.match(stdout, /\n3 of \d+ calls at the rules' boundaries would end otherwise\n$/)

  const deletion = 'delete: [{ Kind: service-intentions, Name: api }]'
  t.match(await cli(['whatif', '-'], deletion), {
    stdout: /web -> api GET \/\n {2}- allow: .*\n {2}\+ deny: api: deny \(by the default\)\n1 of /,
  })
  t.match(
    await cli(['whatif', '-'], JSON.stringify({ Kind: 'service-intentions', Name: 'api', Sources: [{ Name: 'web', Action: 'allow' }] })),
    { stdout: /^0 of/ },
  )
  const odd = { ...narrower, Sources: [{ Name: 'web', Permissions: [{ Action: 'allow', HTTP: { PathRegex: '/a{3}(b|c)d[x-z]' } }] }] }
  t.match(
    (await cli(['whatif', '-'], JSON.stringify(odd))).stdout,
    /not tried: no example of the regex \/a\{3\}\(b\|c\)d\[x-z\] could be made/,
  )
  for (const [text, error] of [
    ['{}', /changes nothing/],
    ['writes: []', /unknown key writes/],
    ['delete: [{ Kind: x, Name: y }]', /delete\[0\] must have/],
    ['write: [{ Kind: service-router, Name: "" }]', /write\[0\]/],
  ] as const) {
    const refused = await cli(['whatif', '-'], text)
    t.equal(refused.code, 1)
    t.match(refused.stderr, error)
  }
})
