// The demo, as `npm run demo -- --once` runs it: the whole story, quickly, and nothing left behind.
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { cliPath, start, within } from '../support/processes.ts'

t.test('the demo tells the whole story and leaves nothing behind', async t => {
  const scratch = await mkdtemp(join(tmpdir(), 'isthmus-demo-'))
  t.teardown(() => rm(scratch, { recursive: true, force: true }))
  const began = performance.now()
  const demo = start(process.execPath, [cliPath, 'dev', '--demo', '--once'], { TMPDIR: scratch })
  t.teardown(() => demo.stop('SIGKILL'))
  const code = await within('the demo ends', new Promise(resolve => demo.child.once('exit', resolve)), 60_000)
  t.equal(code, 0, demo.log())
  t.ok(performance.now() - began < 30_000, 'in under 30 seconds')
  const answers = [...demo.log().matchAll(/web asked api and got (\d{3})/g)].map(match => match[1])
  t.same(answers, ['403', '200', '403', '200'], 'not yet allowed, allowed, denied, allowed again')
  t.match(demo.log(), /"caller":"spiffe:\/\/[0-9a-f-]+\.consul\/ns\/default\/dc\/east\/svc\/web"/)
  t.same(await readdir(scratch), [], 'its temporary directory is empty')
})

t.test('dev stays until it is told to end, and ends in order', async t => {
  const scratch = await mkdtemp(join(tmpdir(), 'isthmus-dev-'))
  t.teardown(() => rm(scratch, { recursive: true, force: true }))
  const dev = start(process.execPath, [cliPath, 'dev'], { TMPDIR: scratch })
  t.teardown(() => dev.stop('SIGKILL'))
  const end = Date.now() + 30_000
  while (!/Ctrl-C ends both/.test(dev.log()) && dev.child.exitCode === null && Date.now() < end)
    await new Promise(resolve => setTimeout(resolve, 50))
  const web = /curl (http:\/\/127\.0\.0\.1:\d+\/) /.exec(dev.log())?.[1]
  t.ok(web, 'it prints what to try')
  const answer = await fetch(web!)
  t.match(await answer.text(), /web asked api and got 200/)
  await dev.stop('SIGINT')
  t.equal(dev.child.exitCode, 0)
  t.same(await readdir(scratch), [])
})
