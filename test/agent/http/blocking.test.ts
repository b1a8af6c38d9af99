/** Blocking queries (http-api.md 1.8): who waits, who wakes whom, and what a wait costs when its client leaves. */
import { Agent, request as httpRequest } from 'node:http'
import t from 'tap'
import { startHttpDoor } from '../../../src/agent/http/server.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { agentWithHttp } from '../../support/agent-parts.ts'
import { ask, type RawAnswer } from '../../support/golden-http.ts'

const agent = await agentWithHttp({ grpc: false })
t.teardown(() => agent.close())

async function put(path: string, body: unknown): Promise<void> {
  const answer = await ask(agent.url, 'PUT', path, {}, typeof body === 'string' ? body : JSON.stringify(body))
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${answer.body.toString()}`)
}

await put('/v1/agent/service/register', { Name: 'web', Port: 1 })
await put('/v1/agent/service/register', { Name: 'other', Port: 2 })

const get = (path: string) => ask(agent.url, 'GET', path)
const indexOf = (answer: RawAnswer) => Number(answer.headers['x-consul-index'])

async function timed(path: string): Promise<{ answer: RawAnswer; ms: number }> {
  const started = performance.now()
  const answer = await get(path)
  return { answer, ms: performance.now() - started }
}

async function blocked(path: string, wait = '5s'): Promise<{ index: number; answer: Promise<{ answer: RawAnswer; ms: number }> }> {
  const index = indexOf(await get(path))
  const answer = timed(`${path}${path.includes('?') ? '&' : '?'}index=${index}&wait=${wait}`)
  await new Promise(resolve => setTimeout(resolve, 50))
  return { index, answer }
}

for (const [path, change] of [
  ['/v1/health/service/web', () => put('/v1/agent/service/register', { Name: 'web', Port: 11 })],
  ['/v1/catalog/service/web', () => put('/v1/agent/service/register', { Name: 'web', Port: 12 })],
  ['/v1/catalog/services', () => put('/v1/agent/service/register', { Name: 'new', Port: 12 })],
  ['/v1/catalog/nodes', () => put('/v1/catalog/register', { Node: 'ext', Address: '10.0.0.1' })],
  ['/v1/kv/a', () => put('/v1/kv/a', 'x')],
  ['/v1/kv/pre?recurse', () => put('/v1/kv/prefix', 'x')],
  ['/v1/config/service-defaults/web', () => put('/v1/config', { Kind: 'service-defaults', Name: 'web', Protocol: 'http' })],
  ['/v1/connect/intentions', () => put('/v1/connect/intentions/exact?source=a&destination=web', { Action: 'allow' })],
  ['/v1/health/state/any', () => put('/v1/agent/check/register', { Name: 'late', TTL: '1h' })],
] as const) {
  t.test(`${path} wakes when what it reads changes, with a later index`, async t => {
    const { index, answer } = await blocked(path)
    await change()
    const { answer: woken, ms } = await answer
    t.ok(ms < 3000, `woke after ${Math.round(ms)} ms`)
    t.ok(indexOf(woken) > index, `${indexOf(woken)} > ${index}`)
  })
}

t.test('a change elsewhere, or one that changes nothing, wakes nobody', async t => {
  const waits = await Promise.all(
    ['/v1/health/service/web', '/v1/catalog/service/web', '/v1/kv/a', '/v1/config/service-defaults/web'].map(path =>
      blocked(path, '600ms'),
    ),
  )
  await put('/v1/agent/service/register', { Name: 'other', Port: 3 })
  await put('/v1/agent/service/register', { Name: 'web', Port: 12 })
  await put('/v1/kv/b', 'y')
  await put('/v1/kv/a', 'x')
  await put('/v1/config', { Kind: 'service-defaults', Name: 'web', Protocol: 'http' })
  for (const { index, answer } of waits) {
    const { answer: late, ms } = await answer
    t.ok(ms >= 590, `waited ${Math.round(ms)} ms`)
    t.equal(indexOf(late), index)
  }
})

t.test('a wait is spread by up to a sixteenth, except from the streaming backend', async t => {
  const [plain, streaming] = await Promise.all([blocked('/v1/catalog/service/web', '800ms'), blocked('/v1/health/service/web', '800ms')])
  const [a, b] = await Promise.all([plain.answer, streaming.answer])
  t.ok(a.ms >= 790 && a.ms < 800 + 50 + 200, `${a.ms}`)
  t.ok(b.ms >= 790 && b.ms < 800 + 200, `${b.ms}`)
  t.same(
    [a.answer, b.answer].map(each => [each.headers['x-consul-query-backend'], each.headers['x-consul-knownleader']]),
    [
      ['blocking-query', 'true'],
      ['streaming', 'false'],
    ],
  )
})

t.test('an index from the future waits the whole time, then answers with the real one', async t => {
  const { answer, ms } = await timed('/v1/kv/a?index=999999999&wait=300ms')
  t.ok(ms >= 295)
  t.ok(indexOf(answer) < 999_999_999)
})

t.test('an old index, or none, does not wait', async t => {
  for (const query of ['index=1&wait=10s', 'index=0&wait=10s', 'wait=10s']) t.ok((await timed(`/v1/kv/a?${query}`)).ms < 1000, query)
})

t.test('the agent form of a service waits on its hash', async t => {
  const { answer: first } = await timed('/v1/agent/service/web')
  const hash = first.headers['x-consul-contenthash']
  t.ok((await timed(`/v1/agent/service/web?hash=other&wait=5s`)).ms < 1000, 'another hash answers at once')
  const waiting = timed(`/v1/agent/service/web?hash=${hash}&wait=5s`)
  await new Promise(resolve => setTimeout(resolve, 50))
  await put('/v1/agent/service/register', { Name: 'web', Port: 99 })
  const { answer, ms } = await waiting
  t.ok(ms < 3000)
  t.not(answer.headers['x-consul-contenthash'], hash)
  t.equal((JSON.parse(answer.body.toString()) as { Port: number }).Port, 99)
})

t.test('the leaf is the same until it is due: a query with its index waits, one with an older index does not', async t => {
  const path = '/v1/agent/connect/ca/leaf/web'
  const first = await get(path)
  const index = indexOf(first)
  const began = performance.now()
  const same = await get(`${path}?index=${index}&wait=300ms`)
  t.ok(performance.now() - began >= 290)
  t.equal(String(same.body), String(first.body))
  t.equal(String((await get(`${path}?index=${index - 1}&wait=20s`)).body), String(first.body))
  t.ok(performance.now() - began < 5000)
})

t.test('a wait may be longer than the time a client has to read an answer, also on a connection that had one', async t => {
  const hasty = await startHttpDoor({
    listen: { host: '127.0.0.1', port: 0 },
    agent: agent.parts,
    logger: silentLogger(),
    limits: { answerTimeoutMs: 100 },
  })
  t.teardown(() => hasty.close())
  const keepAlive = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => keepAlive.destroy())
  const status = (path: string) =>
    new Promise((resolve, reject) => {
      const request = httpRequest({ host: '127.0.0.1', port: hasty.port, path, agent: keepAlive }, response => {
        response.resume().once('end', () => resolve([response.statusCode, request.reusedSocket]))
      })
      request.on('error', reject)
      request.end()
    })
  t.same(await status('/v1/kv/a'), [200, false])
  t.same(await status(`/v1/kv/a?index=${indexOf(await get('/v1/kv/a'))}&wait=500ms`), [200, true])
})

t.test('a client that leaves ends its wait', async t => {
  const index = indexOf(await get('/v1/kv/a'))
  const before = process.getActiveResourcesInfo().filter(each => each === 'Timeout').length
  await Promise.all(
    Array.from(
      { length: 20 },
      () =>
        new Promise<void>(resolve => {
          const request = httpRequest(`${agent.url}/v1/kv/a?index=${index}&wait=10m`, { agent: false })
          request.on('error', () => resolve())
          request.end()
          setTimeout(() => request.destroy(), 100)
        }),
    ),
  )
  await new Promise(resolve => setTimeout(resolve, 100))
  const after = process.getActiveResourcesInfo().filter(each => each === 'Timeout').length
  t.ok(after <= before + 2, `timers: ${before} before, ${after} after`)
})

t.test('closing the door ends every wait', async t => {
  const own = await agentWithHttp({ grpc: false })
  const index = indexOf(await ask(own.url, 'GET', '/v1/kv/a'))
  const wait = ask(own.url, 'GET', `/v1/kv/a?index=${index}&wait=10m`).then(
    answer => answer.status,
    () => 'ended',
  )
  await new Promise(resolve => setTimeout(resolve, 50))
  await own.close()
  t.match(String(await wait), /^(?:ended|404)$/)
})

t.end()
