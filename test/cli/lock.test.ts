// `isthmus lock`, `watch` and `monitor` as processes of their own: the program that they run, what it is given, and how it is ended.
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { agentWithHttp, type HttpTestAgent } from '../support/agent-parts.ts'
import { call, cliPath, until } from '../support/processes.ts'
import { startWay } from '../support/way.ts'
import { against } from './harness.ts'

interface Run {
  out: { stdout: string; stderr: string }
  ended: Promise<number | null>
  kill(signal: NodeJS.Signals): void
}

function start(agent: Pick<HttpTestAgent, 'url'>, ...args: string[]): Run {
  const env = { PATH: process.env['PATH'], CONSUL_HTTP_ADDR: agent.url }
  const child = spawn(process.execPath, [cliPath, ...args], { env, stdio: ['pipe', 'pipe', 'pipe'] })
  const out = { stdout: '', stderr: '' }
  child.stdout.on('data', chunk => (out.stdout += chunk))
  child.stderr.on('data', chunk => (out.stderr += chunk))
  child.stdin.end('from stdin\n')
  t.teardown(() => child.kill('SIGKILL'))
  return { out, ended: new Promise(resolve => child.on('close', resolve)), kill: signal => child.kill(signal) }
}

async function finish({ out, ended }: Run): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const code = await ended
  return { code, ...out }
}

const agent = await agentWithHttp()
t.teardown(() => agent.close())
const { port } = agent.door
const get = async (path: string) => (await call(port, path)).json

t.test('a program runs while the lock is held, and another waits for it', async t => {
  const done = join(t.testdir(), 'done')
  const job = `cat; echo held=$CONSUL_LOCK_HELD; while ! test -e ${done}; do sleep 0.1; done; exit 4`
  const first = start(agent, 'lock', '-child-exit-code', '-pass-stdin', '-verbose', 'app', job)
  await until('it is held', async () => first.out.stdout.includes('held'))
  t.match((await call(port, '/v1/kv/app/.lock')).text, /"Key":"app\/.lock","Flags":3304740253564472344,.*"Session":"./)
  t.match(await get('/v1/session/list'), [{ TTL: '15s', Behavior: 'release', NodeChecks: ['serfHealth'] }])
  const second = start(agent, 'lock', '-shell=false', 'app', 'echo', '-n', 'mine', '--', '-verbose')
  const late = start(agent, 'lock', '-timeout', '100ms', 'app', 'echo never')
  t.same(await finish(late), { code: 1, stdout: '', stderr: 'Shutdown triggered or timeout during lock acquisition\n' })
  t.equal(second.out.stdout, '')
  writeFileSync(done, '')
  t.same(await finish(first), {
    code: 2,
    stdout: [
      'Setting up lock at path: app/.lock',
      'Attempting lock acquisition',
      'Starting handler',
      'from stdin',
      'held=true',
      'Child terminated, releasing lock',
      // The second has it by then, or not yet.
      ...(first.out.stdout.includes('in use') ? ['Cleanup aborted, lock in use'] : ['Cleanup succeeded']),
      '',
    ].join('\n'),
    stderr: 'Error running handler: exit status 4\n',
  })
  t.same(await finish(second), { code: 0, stdout: 'mine -- -verbose', stderr: '' })
  t.same([(await call(port, '/v1/kv/app/.lock')).status, await get('/v1/session/list')], [404, []], 'nothing is left')
})

t.test('who loses the lock ends its program, and so does who is asked to end', async t => {
  // A shell would leave its child behind.
  const job = [
    '-shell=false',
    process.execPath,
    '-e',
    "process.on('SIGTERM', () => { console.log('asked'); process.exit(0) }); console.log('runs'); setInterval(() => {}, 1000)",
  ]
  const lost = start(agent, 'lock', job[0]!, 'lost', ...job.slice(1))
  const asked = start(agent, 'lock', '-n=2', job[0]!, 'asked', ...job.slice(1))
  await until('both run', async () => lost.out.stdout !== '' && asked.out.stdout !== '')
  const holders = JSON.parse(
    Buffer.from(((await get('/v1/kv/asked/.lock')) as { Value: string }[])[0]!.Value, 'base64').toString(),
  ) as object
  t.match(holders, { Limit: 2, Holders: { [Object.keys((holders as { Holders: object }).Holders)[0]!]: true } })
  const [{ Session: session }] = (await get('/v1/kv/lost/.lock')) as [{ Session: string }]
  await call(port, `/v1/session/destroy/${session}`, { method: 'PUT' })
  t.same(await finish(lost), { code: 1, stdout: 'runs\nasked\n', stderr: 'Lock lost, killing child\n' })
  asked.kill('SIGTERM')
  t.same(await finish(asked), { code: 0, stdout: 'runs\nasked\n', stderr: 'Shutdown triggered, killing child\n' })
  t.same(await get('/v1/kv/asked?keys'), undefined, 'nothing is left')
})

t.test(
  'who hears nothing from the agent for as long as a session lives has lost the lock',
  { skip: process.env['ISTHMUS_DEEP'] === '1' ? false : 'waits for the end of a session: npm test -- --deep' },
  async t => {
    const way = await startWay(t, port)
    const run = start({ url: `http://127.0.0.1:${way.port}` }, 'lock', 'silence', 'echo runs; exec sleep 100')
    await until('it runs', async () => run.out.stdout !== '')
    way.silence()
    const beganMs = performance.now()
    await until('it is lost', async () => run.out.stderr !== '', 30_000)
    const tookMs = performance.now() - beganMs
    t.equal(run.out.stderr, 'Lock lost, killing child\n')
    t.ok(tookMs < 17_000, `after ${Math.round(tookMs)} ms`)
  },
)

t.test('of a semaphore as many hold places as there are, and those of the dead are free', async t => {
  await call(port, '/v1/kv/sem/.lock?flags=16210313421097356768', { method: 'PUT', body: { Limit: 1, Holders: { dead: true } } })
  t.match(await finish(start(agent, 'lock', '-n=2', 'sem', 'true')), { code: 1, stderr: /semaphore limit conflict \(lock: 1, local: 2\)/ })
  t.same(await get('/v1/kv/sem?keys'), ['sem/.lock'], 'who does not get a place leaves nothing')
  await call(port, '/v1/kv/sem/.lock?flags=16210313421097356768', { method: 'PUT', body: { Limit: 2, Holders: { dead: true } } })
  const done = join(t.testdir(), 'done')
  const runs = [1, 2, 3].map(() => start(agent, 'lock', '-n=2', 'sem', `echo in; while ! test -e ${done}; do sleep 0.1; done`))
  await until('two are in', async () => runs.filter(each => each.out.stdout !== '').length === 2)
  await until('the third contends', async () => ((await get('/v1/kv/sem?keys')) as string[]).length === 4)
  t.equal(runs.filter(each => each.out.stdout !== '').length, 2)
  writeFileSync(done, '')
  t.same(await Promise.all(runs.map(each => each.ended)), [0, 0, 0])
  await call(port, '/v1/kv/other/.lock', { method: 'PUT', body: 'not a lock' })
  t.match(await finish(start(agent, 'lock', 'other', 'true')), {
    code: 1,
    stderr: 'Lock acquisition failed: Existing key does not match lock use\n',
  })
})

t.test('a watch runs its program with what is new, and ends with it', async t => {
  const keys = start(agent, 'watch', '-type=keyprefix', '-prefix', 'w/', 'cat; echo at $CONSUL_INDEX')
  const events = start(agent, 'watch', '-type', 'event', '-name', 'deploy', 'cat')
  await until('both have run', async () => keys.out.stdout.includes('at') && events.out.stdout !== '')
  t.match(keys.out.stdout, /^null\nat \d+\n$/)
  await call(port, '/v1/kv/elsewhere', { method: 'PUT', body: 'x' })
  await call(port, '/v1/kv/w/1?flags=18446744073709551615', { method: 'PUT', body: 'x' })
  await until('it runs again', async () => /^at[^]*^at/m.test(keys.out.stdout))
  t.match(keys.out.stdout, /\n\[\{"LockIndex":0,"Key":"w\/1","Flags":18446744073709551615,.*"Session":""\}\]\nat \d+\n$/)
  keys.kill('SIGINT')
  t.equal(await keys.ended, 0)
  const fire = (name: string, body: string) => call(port, `/v1/event/fire/${name}`, { method: 'PUT', body })
  await fire('other', 'x')
  await fire('deploy', 'one')
  await until('the event is seen', async () => events.out.stdout.includes('deploy'))
  t.equal((events.out.stdout.match(/"ID"/g) ?? []).length, 1)
  events.kill('SIGTERM')
  t.equal(await events.ended, 0)
  const failing = await finish(start(agent, 'watch', '-type', 'services', 'exit 3'))
  t.same(failing, { code: 1, stdout: '', stderr: 'Error executing handler: exit status 3\n' })
})

t.test('a watch without a program prints what there is; what it cannot watch is said', async t => {
  const run = against(agent.url)
  await call(port, '/v1/agent/service/register', { method: 'PUT', body: { Name: 'web', Tags: ['a'], Check: { TTL: '1h' } } })
  const json = async (...args: string[]) => JSON.parse((await run(['watch', ...args])).stdout) as unknown
  t.same(await run(['watch', '-type=key', '-key=none']), { code: 0, stdout: 'null\n', stderr: '' })
  t.match(await json('-type=key', '-key=w/1'), { Key: 'w/1', Session: '' })
  t.match(await json('-type=services'), { web: ['a'] })
  t.match(await json('-type=nodes', '-filter=Node == alpha'), [{ Node: 'alpha' }])
  t.match(await json('-type=service', '-service=web', '-tag=a'), [{ Service: { ID: 'web' } }])
  t.same(await json('-type=service', '-service=web', '-passingonly=true'), [])
  t.match(await json('-type=checks', '-state=critical'), [{ CheckID: 'service:web' }])
  t.match(await json('-type=checks', '-service=web'), [{ CheckID: 'service:web' }])
  const cases: [string[], string][] = [
    [[], 'Watch type must be specified'],
    [['-type=nope'], 'Unsupported watch type: nope'],
    [['-type=constructor'], 'Unsupported watch type: constructor'],
    [['-type=connect_leaf'], 'Type connect_leaf is not supported in the CLI tool'],
    [['-type=key'], 'Must specify a single key to watch'],
    [['-type=key', '-key=a', '-service=b'], 'Invalid parameters: [service]'],
    [['-type=checks', '-state=any', '-service=b'], 'Cannot specify service and state'],
  ]
  for (const [args, text] of cases) t.same(await run(['watch', ...args]), { code: 1, stdout: '', stderr: `${text}\n` }, text)
})
