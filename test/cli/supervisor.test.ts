// The supervisor of workers that misbehave: what they bound stays, and one that cannot be started is no reason to wait for it for ever.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { Supervisor } from '../../src/cli/supervisor.ts'
import { silentLogger } from '../../src/lib/log.ts'
import { InheritedSockets } from '../../src/proxy/inherited.ts'
import { cliPath } from '../support/processes.ts'

const start = (count: number) =>
  Supervisor.start({
    count,
    inherited: new Map(),
    sockets: new InheritedSockets(new Map(), false),
    admin: undefined,
    logger: silentLogger(),
  })

t.test('a socket that was just bound is kept, whatever another worker says meanwhile', async t => {
  const [, program] = process.argv
  process.argv[1] = fileURLToPath(new URL('../support/worker-stand-in.js', import.meta.url))
  const supervisor = await start(2)
  process.argv[1] = program!
  t.teardown(() => supervisor.close())
  await supervisor.ready()
  await new Promise(resolve => setTimeout(resolve, 300))
  t.equal(supervisor.descriptors().has('x'), true)
  await supervisor.drain()
})

t.test('a worker that cannot be started is tried again, and not waited for at the end', async t => {
  const timers = () => process.getActiveResourcesInfo().filter(each => each === 'Timeout').length
  const before = timers()
  const { execPath } = process
  process.execPath = '/nowhere/node'
  const supervisor = await start(1)
  t.teardown(() => {
    process.execPath = execPath
    return supervisor.close()
  })
  await new Promise(resolve => setTimeout(resolve, 50))
  const late = new Promise(resolve => setTimeout(resolve, 2000, 'late').unref())
  t.equal(await Promise.race([supervisor.drain().then(() => 'ended'), late]), 'ended')
  t.equal(timers(), before, 'nothing keeps the process')
})

t.test('a worker whose supervisor ends while it starts ends as well, and supervises nobody', async t => {
  const child = spawn(
    process.execPath,
    [cliPath, 'sidecar', '--id', 'web-sidecar-proxy', '--workers', '2', '--http-addr', 'http://127.0.0.1:9'],
    {
      env: { ...process.env, ISTHMUS_PROCESS: 'worker' },
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    },
  )
  t.teardown(() => child.kill('SIGTERM'))
  let said = ''
  child.stderr!.on('data', chunk => (said += String(chunk)))
  child.disconnect()
  const late = new Promise(resolve => setTimeout(resolve, 8000, 'late').unref())
  t.not(await Promise.race([once(child, 'exit'), late]), 'late')
  t.notMatch(said, 'a worker was started')
})
