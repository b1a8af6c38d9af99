/**
 * `isthmus why` against what really happens: two peered clusters of processes, each failure made for real, the explanation compared with the
 * outcome, on the importer's side and on the exporter's.
 */
import { createHmac } from 'node:crypto'
import { connect } from 'node:net'
import t from 'tap'
import type { ProbeReport } from '../../src/cli/why-probe.ts'
import { call, until, type ClusterProcess } from '../support/processes.ts'
import { eastName, startTwoClusters, westName } from '../support/two-clusters.ts'

t.setTimeout(120_000)

interface Explained {
  Verdict: string
  Code?: string
  Text: string
  Next?: string
  Steps: { Step: string; State: string; Code?: string; Text: string; Intentions?: { Rule: string; Decides: boolean; Why: string }[] }[]
  Live?: ProbeReport
}

/** By the command line where the call is tried too, else by the API, which is the same and begins no process. */
async function why(cluster: ClusterProcess, source: string, destination: string, ...more: string[]): Promise<Explained> {
  if (more.includes('--live')) {
    const { code, stdout, stderr } = await cluster.cli('why', source, '->', destination, ...more, '--format', 'json')
    if (code !== 0) throw new Error(stderr)
    return JSON.parse(stdout) as Explained
  }
  const [method = 'GET', path = '/', ...headers] = more
  const query = new URLSearchParams({ source, destination, method, path })
  for (const header of headers) query.append('header', header)
  return (await cluster.api('GET', `/v1/isthmus/why?${query.toString()}`)).json as Explained
}

/** The first that comes back on a connection of bytes; empty where it is closed without a word. */
function heard(port: number, say: string): Promise<string> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1', () => socket.write(say))
    const done = (text: string) => {
      resolve(text)
      socket.destroy()
    }
    socket.on('data', (chunk: Buffer) => done(chunk.toString()))
    socket.on('error', () => done(''))
    socket.on('close', () => done(''))
  })
}

/** Step and code of everything that is not as it should be. */
const amiss = ({ Steps }: Explained) => Steps.filter(each => each.State !== 'ok').map(each => `${each.Step} ${each.State} ${each.Code}`)

t.test('a call into a peer, explained on both sides while it breaks', async t => {
  const scene = await startTwoClusters()
  t.teardown(() => scene.stop())
  const { east, west } = scene
  const exporters = (destination: string, ...more: string[]) => why(west, `web@${eastName}`, destination, ...more)
  const status = async (path = '/') => (await call(scene.apiPort, path, { timeoutMs: 5000 })).status
  const settled = (what: string, asked: () => Promise<Explained>, code: string | undefined) =>
    until(what, async () => {
      const found = await asked()
      return found.Code === code && found
    })

  const before = await why(east, 'web', `api@${westName}`, 'GET', '/x', '--live')
  t.same([before.Verdict, before.Code, amiss(before)], ['unknown', 'exporter-decides', ['intentions unknown exporter-decides']])
  t.match(before.Next, `isthmus why web@${eastName} '->' api GET /x`)
  t.match(before.Live, { verdict: 'allow', status: 200, differs: '' })
  const allowed = await exporters('api', 'GET', '/x')
  t.same([allowed.Verdict, amiss(allowed)], ['allow', []])
  t.match(allowed.Text, `peer:${eastName}/web => api allows it`)

  const missing = await why(east, 'web', `other@${westName}`)
  t.same(
    [missing.Verdict, missing.Code, amiss(missing)],
    ['unreachable', 'upstream-missing', ['upstream failed upstream-missing', 'import failed not-exported']],
  )
  t.match(missing.Next, '{"DestinationName":"other","DestinationPeer":"west","LocalBindPort":0}')

  await scene.intentions('api', [{ Name: 'web', Peer: eastName, Action: 'deny' }])
  await until('it is denied', async () => (await status()) === 403)
  const denied = await exporters('api')
  t.same([denied.Verdict, denied.Code], ['deny', 'denied'])
  t.match(denied.Steps.at(-1), { Intentions: [{ Rule: `peer:${eastName}/web => api`, Decides: true, Why: 'denies every call' }] })
  t.match(await why(east, 'web', `api@${westName}`, '--live'), { Code: 'exporter-decides', Live: { verdict: 'deny', status: 403 } })
  t.match(await exporters('db'), { Verdict: 'allow', Steps: /./ }, 'of another service nothing has changed')

  t.equal(await heard(scene.dbPort, 'hi'), 'HI')
  await scene.intentions('db', [{ Name: 'web', Peer: eastName, Action: 'deny' }])
  await until('a connection of bytes is denied', async () => (await heard(scene.dbPort, 'hi')) === '')
  const bytes = await exporters('db')
  t.same([bytes.Verdict, bytes.Code], ['deny', 'denied'])
  t.equal(bytes.Text, `the connection is judged and no request in it (tcp): peer:${eastName}/web => db denies it`)

  const Permissions = [
    { Action: 'deny', HTTP: { PathPrefix: '/admin' } },
    { Action: 'allow', HTTP: { PathExact: '/ok', Methods: ['GET'], Header: [{ Name: 'X-Role', Exact: 'user' }] } },
  ]
  await scene.intentions('api', [{ Name: 'web', Peer: eastName, Permissions }])
  await until('requests are told apart', async () => (await call(scene.apiPort, '/ok', { headers: { 'x-role': 'user' } })).status === 200)
  for (const [path, headers, code, decides, reasons] of [
    ['/ok', ['x-role:user'], undefined, 1, ['path /admin does not match', '']],
    ['/ok', [], 'denied-by-default', undefined, ['path /admin does not match', 'header X-Role does not match']],
    ['/admin/x', [], 'denied-permission', 0, ['', 'path /ok does not match']],
    ['/%61dmin/x', [], 'denied-by-default', undefined, ['the path, normalised, is /admin/x', 'path /ok does not match']],
  ] as const) {
    const told = await exporters('api', 'GET', path, ...headers)
    t.equal(told.Code, code, path)
    const [rule] = told.Steps.at(-1)!.Intentions as { Permissions?: { Decides: boolean; Why: string }[] }[]
    t.same(
      rule!.Permissions!.map(each => each.Why),
      reasons,
    )
    t.equal(
      rule!.Permissions!.findIndex(each => each.Decides),
      decides ?? -1,
    )
    const real = await call(scene.apiPort, path, { headers: Object.fromEntries(headers.map(each => each.split(':') as [string, string])) })
    t.equal(real.status, code === undefined ? 200 : 403)
  }

  const secret = Buffer.from('0123456789abcdef0123456789abcdef')
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const token = (claims: object) => {
    const data = `${part({ alg: 'HS256' })}.${part({ iss: 'me', ...claims })}`
    return `Bearer ${data}.${createHmac('sha256', secret).update(data).digest('base64url')}`
  }
  const JWKS = Buffer.from(JSON.stringify({ keys: [{ kty: 'oct', k: secret.toString('base64url') }] })).toString('base64')
  await west.api('PUT', '/v1/config', { Kind: 'jwt-provider', Name: 'idp', Issuer: 'me', JSONWebKeySet: { Local: { JWKS } } })
  const Providers = [{ Name: 'idp', VerifyClaims: [{ Path: ['role'], Value: 'admin' }] }]
  const JWT = { Providers }
  await west.api('PUT', '/v1/config', {
    Kind: 'service-intentions',
    Name: 'api',
    JWT,
    Sources: [{ Name: 'web', Peer: eastName, Action: 'allow' }],
  })
  await until('a token is asked for', async () => (await status()) === 403)
  for (const [authorization, verdict, text] of [
    [undefined, 'deny', /asks for a token: jwt-provider\/idp: the request carries no token/],
    [token({ role: 'admin', exp: 1 }), 'deny', /idp: the token has expired/],
    [token({ role: 'user' }), 'deny', /idp: the claim role is not "admin"/],
    [`${token({ role: 'admin' })}x`, 'deny', /idp: the token is signed by no key of the provider/],
    [token({ role: 'admin' }), 'allow', /allows it/],
  ] as const) {
    const headers = authorization === undefined ? [] : [`Authorization: ${authorization}`]
    const told = await exporters('api', 'GET', '/', ...headers)
    t.match(told, { Verdict: verdict, Text: text })
    if (verdict === 'deny') t.equal(told.Code, 'token-needed')
    const real = await call(scene.apiPort, '/', authorization === undefined ? {} : { headers: { authorization } })
    t.equal(real.status, verdict === 'allow' ? 200 : 403)
  }
  await scene.allow('web', 'api')

  await west.api('PUT', '/v1/agent/check/fail/api-ttl?note=gone', {})
  const down = await settled('nobody is left', () => why(east, 'web', `api@${westName}`), 'no-healthy-endpoint')
  t.equal(down.Verdict, 'unreachable')
  t.match(await exporters('api'), { Code: 'no-healthy-endpoint', Text: /0 healthy/ })
  await until('it is answered so', async () => (await status()) === 503)
  t.match(await why(east, 'web', `api@${westName}`, '--live'), { Live: { verdict: 'unreachable', status: 503, agrees: true } })
  await west.api('PUT', '/v1/agent/check/pass/api-ttl', {})
  await until('it is back', async () => (await status()) === 200)

  await scene.export(['db'])
  const gone = await settled('it is withdrawn', () => why(east, 'web', `api@${westName}`), 'not-exported')
  t.match(gone, { Verdict: 'unreachable', Text: 'west does not export api to us', Next: /exported-services/ })
  t.match(await exporters('api'), {
    Code: 'not-exported',
    Text: 'api is exported to nobody',
    Next: /\{"Name":"api","Consumers":\[\{"Peer":"partner-east"\}\]\}/,
  })
  await t.rejects(call(scene.apiPort, '/'), /ECONNREFUSED/)
  await scene.export(['api', 'db'])
  await until('it is back', async () => (await status().catch(() => 0)) === 200)

  await west.proxies.get('gateway')!.stop('SIGKILL')
  const alone = await why(east, 'web', `api@${westName}`, '--live')
  // Its check may have told both agents meanwhile.
  const known = alone.Code === 'no-gateway'
  const differs = known ? '' : /explained as unknown.*yet it is unreachable; 127\.0\.0\.1:\d+ cannot be reached: ECONNREFUSED/
  t.match(alone.Live, { verdict: 'unreachable', status: 503, code: 'gateway-unreachable', agrees: known, differs })

  await west.killAgent()
  const stale = await until('the peering is lost', async () => {
    const found = await why(east, 'web', `api@${westName}`)
    return found.Steps.some(({ Code }) => Code === 'peering-stale') && found
  })
  t.match(stale.Steps[2], { Step: 'peering', State: 'warning', Text: /west is (?:FAILING|ESTABLISHING|PENDING)/ })
})
