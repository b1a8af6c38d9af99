// How a command finds its agent, proves itself to it, and says what went wrong; against tiny real servers.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { isthmus } from './harness.ts'

async function serve(t: Test, listener: RequestListener, path?: string): Promise<{ port: number; seen: IncomingMessage[] }> {
  const seen: IncomingMessage[] = []
  const server = createServer((incoming, outgoing) => {
    seen.push(incoming)
    listener(incoming, outgoing)
  })
  t.teardown(() => new Promise(resolve => server.close(resolve)))
  await new Promise<void>(resolve => (path ? server.listen(path, resolve) : server.listen(0, '127.0.0.1', resolve)))
  const address = server.address()
  return { port: typeof address === 'object' && address ? address.port : 0, seen }
}

function directory(t: Test): string {
  const made = mkdtempSync(join(tmpdir(), 'isthmus-cli-'))
  t.teardown(() => rmSync(made, { recursive: true, force: true }))
  return made
}

const emptyList: RequestListener = (_incoming, outgoing) => outgoing.end('[]')

void t.test('the address comes from the flag, then from ISTHMUS_HTTP_ADDR, then from CONSUL_HTTP_ADDR', async t => {
  const { port } = await serve(t, emptyList)
  const [right, wrong] = [`127.0.0.1:${port}`, '127.0.0.1:1']
  const list = ['peering', 'list']
  t.equal((await isthmus([...list, `-http-addr=${right}`], { env: { ISTHMUS_HTTP_ADDR: wrong, CONSUL_HTTP_ADDR: wrong } })).code, 0)
  t.equal((await isthmus(list, { env: { ISTHMUS_HTTP_ADDR: `http://${right}`, CONSUL_HTTP_ADDR: wrong } })).code, 0)
  t.equal((await isthmus(list, { env: { CONSUL_HTTP_ADDR: right } })).code, 0)
  t.equal((await isthmus(list, { env: { CONSUL_HTTP_ADDR: wrong } })).code, 1)
})

void t.test('an agent behind a unix socket is reached', async t => {
  const path = join(directory(t), 'http.sock')
  const { seen } = await serve(t, emptyList, path)
  const outcome = await isthmus(['peering', 'list', `-http-addr=unix://${path}`])
  t.same(outcome, { code: 0, stdout: 'There are no peering connections.\n', stderr: '' })
  t.equal(seen[0]?.headers.host, 'localhost')
  const gone = await isthmus(['peering', 'list', `-http-addr=unix://${path}.gone`])
  t.match(gone.stderr, `dial unix ${path}.gone: connect: no such file or directory`)
})

void t.test('a token comes from the flag, its file or the environment, goes in a header, and shows in no error', async t => {
  const { port, seen } = await serve(t, (_incoming, outgoing) => outgoing.writeHead(403).end('Permission denied'))
  const file = join(directory(t), 'token')
  writeFileSync(file, 'from-file\n')
  const env = { CONSUL_HTTP_ADDR: `127.0.0.1:${port}` }
  const runs: [string[], Record<string, string>][] = [
    [['-token=from-flag', `-token-file=${file}`], { CONSUL_HTTP_TOKEN: 'other' }],
    [[`-token-file=${file}`], { CONSUL_HTTP_TOKEN: 'other' }],
    [[], { ISTHMUS_HTTP_TOKEN: 'from-isthmus', CONSUL_HTTP_TOKEN: 'other' }],
    [[], { CONSUL_HTTP_TOKEN: 'from-consul' }],
    [[], { CONSUL_HTTP_TOKEN_FILE: file }],
    [[], {}],
  ]
  for (const [flags, more] of runs) {
    const outcome = await isthmus(['peering', 'list', ...flags], { env: { ...env, ...more } })
    t.same(outcome, { code: 1, stdout: '', stderr: 'Error listing peerings: Unexpected response code: 403 (Permission denied)\n' })
  }
  t.same(
    seen.map(each => each.headers['x-consul-token']),
    ['from-flag', 'from-file', 'from-isthmus', 'from-consul', 'from-file', undefined],
  )
  const broken = await isthmus(['peering', 'list', '-token=secret\r\nx-evil: 1'], { env })
  t.equal(broken.code, 1)
  t.notMatch(broken.stderr, 'secret')
  const missing = await isthmus(['peering', 'list', '-token-file=/nonexistent/token'], { env })
  t.match(missing.stderr, /^Failed to read file: .*\/nonexistent\/token/)
})

void t.test('a refused connection is said as Consul says it, with what to do next', async t => {
  const outcome = await isthmus(['members', '-http-addr=127.0.0.1:1'])
  t.same(outcome, {
    code: 1,
    stdout: '',
    stderr:
      'Error retrieving members: Get "http://127.0.0.1:1/v1/agent/members?segment=_all": dial tcp 127.0.0.1:1: connect: connection refused\n' +
      'Nothing answers at http://127.0.0.1:1. Start an agent (isthmus agent, or isthmus dev to try things out), or say where it is with --http-addr or ISTHMUS_HTTP_ADDR.\n',
  })
})

void t.test('an address that is none is named', async t => {
  for (const bad of ['ftp://x', 'http://', 'a b', 'x:99999']) {
    const outcome = await isthmus(['peering', 'list', `-http-addr=${bad}`])
    t.equal(outcome.code, 1)
    t.match(outcome.stderr, `${JSON.stringify(bad)} is not an address of an agent; write it as 127.0.0.1:8500`)
  }
})

void t.test('something that is no agent, and one that hangs up, are told apart', async t => {
  const page = await serve(t, (_incoming, outgoing) => outgoing.end('<html>'))
  const html = await isthmus(['peering', 'list', `-http-addr=127.0.0.1:${page.port}`])
  t.match(html.stderr, /did not answer in JSON .* check that --http-addr is the HTTP address of an agent/)
  const rude = await serve(t, incoming => incoming.socket.destroy())
  const ended = await isthmus(['peering', 'list', `-http-addr=127.0.0.1:${rude.port}`])
  t.match(ended.stderr, /socket hang up\nhttp:\/\/127\.0\.0\.1:\d+ answers, but not as an agent does\./)
  const moved = await serve(t, (_incoming, outgoing) => outgoing.writeHead(307, { location: '/elsewhere' }).end())
  const redirected = await isthmus(['peering', 'list', `-http-addr=127.0.0.1:${moved.port}`])
  t.same(redirected, { code: 1, stdout: '', stderr: 'Error listing peerings: Unexpected response code: 307 ()\n' })
})

void t.test('datacenter, stale and names with odd characters reach the agent as they are', async t => {
  const { port, seen } = await serve(t, emptyList)
  const env = { CONSUL_HTTP_ADDR: `127.0.0.1:${port}` }
  await isthmus(['config', 'list', '-kind', 'a/b?c', '-datacenter=dc 2', '-stale'], { env })
  t.equal(seen[0]?.url, '/v1/config/a%2Fb%3Fc?filter=&dc=dc+2&stale='.replace('filter=&', ''))
  await isthmus(['kv', 'get', '/a b/ü?#/../c'], { env })
  t.equal(seen[1]?.url, '/v1/kv/a%20b/%C3%BC%3F%23/../c')
})

void t.test('what commander refuses ends with 1, a command that is none with 127, help with 0', async t => {
  for (const [args, code, text] of [
    [['nope'], 127, "unknown command 'nope'"],
    [['peering', 'exported-services'], 1, "unknown command 'exported-services'"],
    [['peering', 'list', '-bogus'], 1, "unknown option '--bogus'"],
    [['peering', 'list', '-format=xml'], 1, 'Invalid format, valid formats are {json|pretty}'],
    [['kv', 'put', 'a', 'b', '-cas', '-modify-index=x'], 1, 'write a whole number'],
    [[], 1, 'Usage: isthmus'],
  ] as [string[], number, string][]) {
    const outcome = await isthmus(args)
    t.equal(outcome.code, code, args.join(' '))
    t.match(outcome.stderr, text)
    t.equal(outcome.stdout, '')
  }
  const help = await isthmus(['peering', '-help'])
  t.equal(help.code, 0)
  t.match(help.stdout, 'generate-token')
})

void t.test('version prints itself, and the JSON that test harnesses read', async t => {
  t.match((await isthmus(['version'])).stdout, /^isthmus v\d+\.\d+\.\d+\n$/)
  const json = JSON.parse((await isthmus(['version', '-format=json'])).stdout) as Record<string, unknown>
  t.same(Object.keys(json), ['Version', 'Revision', 'Prerelease', 'BuildDate', 'RPC'])
  t.match(json['Version'], /^\d+\.\d+\.\d+$/)
})
