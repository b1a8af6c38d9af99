/** What every answer has in common (http-api.md 1.1, 1.7, 1.12): pretty printing, compression, sizes, and errors that tell no secret. */
import { gunzipSync } from 'node:zlib'
import t from 'tap'
import { errorReply } from '../../../src/agent/http/errors.ts'
import { httpLimits } from '../../../src/agent/http/limits.ts'
import { agentWithHttp } from '../../support/agent-parts.ts'
import { ask } from '../../support/golden-http.ts'

const agent = await agentWithHttp()
t.teardown(() => agent.close())

const get = (path: string, headers: Record<string, string> = {}) => ask(agent.url, 'GET', path, headers)
const put = (path: string, body: string | Buffer, headers: Record<string, string> = {}) => ask(agent.url, 'PUT', path, headers, body)

t.test('JSON is compact, or indented by four and ended by a newline when asked', async t => {
  t.equal((await get('/v1/catalog/datacenters')).body.toString(), '["dc1"]')
  t.equal((await get('/v1/catalog/datacenters?pretty')).body.toString(), '[\n    "dc1"\n]\n')
  t.equal((await get('/v1/catalog/datacenters?pretty=false')).body.toString(), '[\n    "dc1"\n]\n', 'its value is ignored')
})

t.test('flags of a key are a uint64, exact to the last digit', async t => {
  const flagsOf = async (path: string) => /"Flags":\s*([^,]*),/.exec((await get(path)).body.toString())?.[1]
  for (const flags of ['0', '42', '9007199254740991', '9007199254740993', '3304740253564472344', '18446744073709551615']) {
    await put(`/v1/kv/exact?flags=${flags}`, 'x')
    t.same([await flagsOf('/v1/kv/exact'), await flagsOf('/v1/kv/exact?pretty'), await flagsOf('/v1/kv/?recurse')], [flags, flags, flags])
  }
  const before = (await get('/v1/kv/exact')).headers['x-consul-index']
  await put('/v1/kv/exact?flags=18446744073709551615', 'x')
  t.equal((await get('/v1/kv/exact')).headers['x-consul-index'], before, 'the same flags again write nothing')
  await put('/v1/kv/exact?flags=18446744073709551614', 'x')
  t.not((await get('/v1/kv/exact')).headers['x-consul-index'], before, 'the next number does')
  const beyond = await put('/v1/kv/exact?flags=18446744073709551616', 'x')
  t.same([beyond.status, beyond.body.toString()], [500, 'strconv.ParseUint: parsing "18446744073709551616": value out of range'])
  await ask(agent.url, 'DELETE', '/v1/kv/exact')
})

t.test('answers of 1,400 bytes and more are compressed for those who take gzip', async t => {
  const plain = await get('/v1/agent/self')
  t.ok(plain.body.length >= httpLimits.gzipBytes)
  const packed = await get('/v1/agent/self', { 'Accept-Encoding': 'deflate, gzip;q=1.0, *;q=0.5' })
  t.equal(packed.headers['content-encoding'], 'gzip')
  t.equal(packed.headers['vary'], 'Accept-Encoding')
  t.same(Object.keys(JSON.parse(gunzipSync(packed.body).toString()) as object), Object.keys(JSON.parse(plain.body.toString()) as object))
  t.equal((await get('/v1/agent/self', { 'Accept-Encoding': 'gzip;q=0' })).headers['content-encoding'], undefined)
  t.equal((await get('/v1/agent/version', { 'Accept-Encoding': 'gzip' })).headers['content-encoding'], undefined)
})

t.test('a private key is never compressed beside what a client chose', async t => {
  const leaf = await get('/v1/agent/connect/ca/leaf/web', { 'Accept-Encoding': 'gzip' })
  t.same([leaf.status, leaf.headers['content-encoding'], leaf.headers['cache-control']], [200, undefined, 'no-store'])
})

t.test('a body beyond its limit is refused, whether it says its length or not, and the agent goes on', async t => {
  const tooLarge = (limit: number) => new RegExp(`^Request body\\(\\d+ bytes\\) too large, max size: ${limit} bytes\\.`)
  const framings: Record<string, string>[] = [{}, { 'Transfer-Encoding': 'chunked' }]
  for (const headers of framings) {
    const kv = await put('/v1/kv/big', Buffer.alloc(httpLimits.kvValueBytes + 1), headers)
    t.same([kv.status, kv.headers['connection']], [413, 'close'])
    t.match(kv.body.toString(), tooLarge(httpLimits.kvValueBytes))
    const config = await put('/v1/config', Buffer.alloc(httpLimits.bodyBytes + 1, ' '), headers)
    t.same([config.status, tooLarge(httpLimits.bodyBytes).test(config.body.toString())], [413, true])
  }
  t.equal((await put('/v1/kv/fits', Buffer.alloc(httpLimits.kvValueBytes))).body.toString(), 'true')
})

t.test('HEAD, OPTIONS and methods that a path does not have', async t => {
  const head = await ask(agent.url, 'HEAD', '/v1/status/leader')
  t.same([head.status, head.headers['allow'], head.body.length], [405, 'OPTIONS,GET', 0])
  const patch = await ask(agent.url, 'PATCH', '/v1/kv/x')
  t.same([patch.status, patch.headers['allow'], patch.body.toString()], [405, 'OPTIONS,GET,PUT,DELETE', 'method PATCH not allowed'])
  const options = await ask(agent.url, 'OPTIONS', '/v1/kv/x')
  t.same([options.status, options.headers['allow'], options.body.length], [200, 'OPTIONS,GET,PUT,DELETE', 0])
})

t.test('a broken query string is a 500 without a body', async t => {
  const answer = await get('/v1/catalog/nodes?filter=%zz')
  t.same([answer.status, answer.body.length], [500, 0])
})

t.test('the key-value store and ACLs refuse a peer instead of answering for another cluster', async t => {
  for (const [method, path] of [
    ['GET', '/v1/kv/a?peer=beta'],
    ['PUT', '/v1/kv/a?peer=beta'],
    ['DELETE', '/v1/kv/a?peer=beta'],
    ['GET', '/v1/acl/tokens?peer=beta'],
  ] as const) {
    const answer = await ask(agent.url, method, path)
    t.equal(answer.status, 400, path)
    t.match(answer.body.toString(), /not shared between peers; ask the cluster of peer "beta" itself/)
  }
})

t.test('ACL endpoints say that ACLs are disabled', async t => {
  for (const [method, path] of [
    ['PUT', '/v1/acl/bootstrap'],
    ['GET', '/v1/acl/token/self'],
    ['PUT', '/v1/agent/token/default'],
    ['POST', '/v1/internal/acl/authorize'],
    ['POST', '/v1/acl/login'],
  ] as const) {
    const answer = await ask(agent.url, method, path, {}, method === 'GET' ? undefined : '{}')
    t.same([answer.status, answer.body.toString()], [401, 'ACL support disabled'], path)
  }
})

t.test('metrics are there for Prometheus and in the form of Consul', async t => {
  const json = JSON.parse((await get('/v1/agent/metrics')).body.toString()) as { Gauges: { Name: string; Value: number }[] }
  t.ok(json.Gauges.find(gauge => gauge.Name === 'consul.runtime.alloc_bytes')!.Value > 0)
  const text = await get('/v1/agent/metrics?format=prometheus')
  t.match(text.headers['content-type'], /^text\/plain; version=0\.0\.4/)
  t.match(text.body.toString(), /# TYPE process_cpu_user_seconds_total counter/)
})

t.test('a failure that nobody foresaw tells the client nothing of itself', async t => {
  t.same(errorReply(new TypeError('secret of the house')), {
    status: 500,
    body: 'internal error; the log of this agent says what happened',
    expected: false,
  })
})

t.end()

t.test('an entry that nothing is served by is stored, and its writer is told so', async t => {
  const Listeners = [{ Port: 8080, Protocol: 'http', Services: [{ Name: 'web' }] }]
  const written = await put('/v1/config', JSON.stringify({ Kind: 'ingress-gateway', Name: 'in', Listeners }))
  t.same([written.status, written.body.toString()], [200, 'true'])
  t.equal(written.headers['x-isthmus-note'], 'entries of kind "ingress-gateway" are stored, but this version serves nothing by them')
  const served = await put('/v1/config', JSON.stringify({ Kind: 'service-defaults', Name: 'web', Protocol: 'http' }))
  t.same([served.status, served.headers['x-isthmus-note']], [200, undefined])
})
