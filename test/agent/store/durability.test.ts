/**
 * What "acknowledged" means, asked of the operating system: no write is answered before its syncs returned, any number of writers
 * share them, and SIGKILL at any moment loses nothing that was answered.
 */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { openEmbeddedStore } from '../../../src/agent/store/embedded.ts'
import { silentLogger } from '../../../src/lib/log.ts'

const writer = fileURLToPath(new URL('./writer.js', import.meta.url))
const delayMs = 300

function scratch(t: { teardown(run: () => void): unknown }): string {
  const dir = mkdtempSync(join(tmpdir(), 'isthmus-test-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** strace with every sync delayed before it starts; where it cannot be had, the reason. */
function straceMissing(): string | false {
  if (process.platform !== 'linux') return 'no strace outside Linux: THE ORDER OF SYNC AND ACKNOWLEDGEMENT IS NOT TESTED HERE'
  const probe = spawnSync('strace', ['-f', '-o', '/dev/null', '-e', 'inject=fsync:delay_enter=1', 'true'])
  return probe.status === 0 ? false : 'strace is missing or may not trace: THE ORDER OF SYNC AND ACKNOWLEDGEMENT IS NOT TESTED HERE'
}

function traced(dir: string, trace: string, writers: number, rounds: number): { key: string; tookMs: number }[] {
  const inject = `inject=fdatasync,fsync,msync:delay_enter=${delayMs * 1000}`
  const calls = 'trace=fdatasync,fsync,msync,pwrite64,pwritev,writev,openat'
  // Node's own environment keeps tap's loader out of the traced process.
  const env = { PATH: process.env.PATH ?? '' }
  const run = spawnSync(
    'strace',
    ['-f', '-y', '-o', trace, '-e', calls, '-e', inject, process.execPath, writer, dir, String(writers), String(rounds)],
    {
      encoding: 'utf8',
      env,
      timeout: 60_000,
    },
  )
  const lines = run.stdout.trim().split('\n')
  if (run.status !== 0 || lines[0] !== 'ready') throw new Error(`the traced writer failed: ${run.stdout} ${run.stderr}`)
  return lines.slice(1).map(line => ({ key: line.split(' ')[0]!, tookMs: Number(line.split(' ')[1]) }))
}

const skip = straceMissing()
if (skip) t.comment(skip)

void t.test('no write is acknowledged before the sync that follows it', { skip }, async t => {
  const dir = scratch(t)
  const trace = join(dir, 'trace')
  const acknowledged = traced(join(dir, 'data'), trace, 1, 3)
  t.equal(acknowledged.length, 3)
  for (const { key, tookMs } of acknowledged) t.ok(tookMs >= delayMs, `${key} took ${tookMs} ms`)
  const calls = readFileSync(trace, 'utf8').split('\n')
  const delayed = calls.filter(
    line => /f(?:data)?sync\(.*data\.mdb.*DELAYED/.test(line) || /(?:f(?:data)?sync|msync) resumed.*DELAYED/.test(line),
  )
  t.ok(delayed.length >= 3, 'it is fdatasync on the data file that was waited for')
  t.ok(
    calls.some(line => /openat\(.*data\.mdb".*O_DSYNC/.test(line)),
    'and the page that makes a commit count is written through O_DSYNC',
  )
})

void t.test('64 writers share their syncs', { skip }, async t => {
  const dir = scratch(t)
  const trace = join(dir, 'trace')
  const start = performance.now()
  const acknowledged = traced(join(dir, 'data'), trace, 64, 2)
  const tookMs = performance.now() - start
  t.equal(acknowledged.length, 128)
  for (const { key, tookMs } of acknowledged) if (tookMs < delayMs) t.fail(`${key} was acknowledged after ${tookMs} ms`)
  const syncs = readFileSync(trace, 'utf8')
    .split('\n')
    .filter(line => /DELAYED/.test(line)).length
  t.ok(syncs <= 20, `128 writes took ${syncs} syncs and ${Math.round(tookMs)} ms`)
})

/** What the writer printed until it was killed at some moment. */
async function killed(dir: string, ...more: string[]): Promise<string[]> {
  const child = spawn(process.execPath, [writer, dir, '16', '1000000', ...more], { stdio: ['ignore', 'pipe', 'inherit'] })
  let out = ''
  const enough = new Promise<void>(resolve => {
    child.stdout.on('data', (chunk: Buffer) => {
      out += chunk.toString()
      if (out.length > 2000) resolve()
    })
  })
  await enough
  await new Promise(resolve => setTimeout(resolve, 20 + 30 * Math.random()))
  const ended = new Promise(resolve => child.once('close', resolve))
  child.kill('SIGKILL')
  await ended
  // The last line may be cut short.
  return out.split('\n').slice(1, -1)
}

for (const early of [false, true]) {
  const more = early ? ', and no revision that was shown is given out again' : ''
  void t.test(`SIGKILL at any moment loses no acknowledged ${early ? 'early ' : ''}write${more}`, async t => {
    const kills = process.env.ISTHMUS_DEEP === '1' ? 40 : early ? 2 : 3
    for (let run = 0; run < kills; run++) {
      const dir = scratch(t)
      const lines = (await killed(dir, ...(early ? ['early'] : []))).map(line => line.split(' ') as [string, string])
      const acknowledged = lines.map(line => line[0]).filter(word => word !== 'shown')
      const shown = lines.filter(line => line[0] === 'shown').map(line => Number(line[1]))
      // Nor may one that is opened and closed in between forget what was shown.
      const idle = await openEmbeddedStore({ dir, logger: silentLogger() })
      await idle.close()
      const store = await openEmbeddedStore({ dir, logger: silentLogger() })
      t.equal(store.revision, idle.revision)
      const { entries, revision } = await store.list('k/')
      const found = new Map(entries.map(entry => [entry.key, entry]))
      const lost = acknowledged.filter(key => Buffer.from(found.get(key)?.value ?? []).toString() !== key.repeat(10))
      t.same(lost, [], `all ${acknowledged.length} acknowledged writes are there`)
      const newest = Math.max(...entries.map(entry => entry.modRevision))
      if (early) t.ok(revision >= Math.max(newest, ...shown), `${revision} is not before ${shown.at(-1)}`)
      else t.equal(revision, newest, 'and the revision is that of the newest')
      t.same(await store.txn({ ops: [{ op: 'put', key: 'after', value: Buffer.alloc(0) }] }), { ok: true, revision: revision + 1 })
      await store.close()
      const again = await openEmbeddedStore({ dir, logger: silentLogger() })
      t.equal(again.revision, revision + 1)
      await again.close()
    }
  })
}

/** Runs a script with a `store` over `dir`, which may write 3,000 KiB in all: as much as five values of 500,000 bytes and what LMDB needs besides. */
function onSmallDisk(script: string, dir: string, ...more: string[]) {
  const whole = `
    import { openEmbeddedStore } from ${JSON.stringify(new URL('../../../src/agent/store/embedded.js', import.meta.url).href)}
    import { silentLogger } from ${JSON.stringify(new URL('../../../src/lib/log.js', import.meta.url).href)}
    process.on('SIGXFSZ', () => {})
    const store = await openEmbeddedStore({ dir: process.argv[1], logger: silentLogger() })
${script}
    await store.close()`
  return spawnSync(
    'bash',
    ['-c', 'ulimit -f 3000; exec "$@"', 'bash', process.execPath, '--input-type=module', '-e', whole, dir, ...more],
    {
      encoding: 'utf8',
      env: { PATH: process.env.PATH ?? '' },
    },
  )
}

void t.test(
  'a full disk refuses writes one by one, loses none, ends no process, and is left behind when there is room again',
  {
    skip: process.platform === 'linux' ? false : 'the limit on file sizes is made by a Linux shell',
  },
  async t => {
    const dir = scratch(t)
    const script = `
    const write = ops => store.txn({ ops }).then(({ revision }) => 'revision ' + revision, error => error.code + ': ' + error.message)
    for (let i = 0; i < 7; i++) console.log(await write([{ op: 'put', key: 'k' + i, value: Buffer.alloc(500_000, i) }]))
    console.log(store.revision, (await store.list('')).entries.map(entry => entry.key).join())
    console.log(await write([{ op: 'delete-prefix', prefix: 'k' }]))
    console.log(await write([{ op: 'put', key: 'small', value: Buffer.from('x') }]))`
    const run = onSmallDisk(script, dir)
    const refused = `unavailable: the store in ${dir} cannot write: Input/output error; check its disk`
    t.same(run.stdout.split('\n'), [
      ...[2, 3, 4, 5, 6].map(revision => `revision ${revision}`),
      refused,
      refused,
      '6 k0,k1,k2,k3,k4',
      'revision 7',
      'revision 8',
      '',
    ])
    t.equal(run.status, 0)
    const store = await openEmbeddedStore({ dir, logger: silentLogger() })
    t.equal(store.revision, 8)
    t.same(
      (await store.list('')).entries.map(entry => entry.key),
      ['small'],
    )
    await store.close()
  },
)

void t.test(
  'where the disk is full, early writes that were shown are taken back: watches list again, of a newer revision, and revisions go on',
  {
    skip: process.platform === 'linux' ? false : 'the limit on file sizes is made by a Linux shell',
  },
  async t => {
    const dir = scratch(t)
    const script = `
    const watch = after => store.watch('', after, {
      onBatch: ({ revision, events }) => console.log('shown', revision, events.map(each => each.key).join()),
      onCompacted: async revision => {
        const list = await store.list('')
        console.log('list again from', revision, list.revision, list.entries.map(each => each.key).join())
        watch(list.revision)
      },
    })
    watch(store.revision)
    const write = (key, bytes) => store.txn({ ops: [{ op: 'put', key, value: Buffer.alloc(bytes) }], early: true })
      .then(({ revision }) => 'revision ' + revision, error => error.code)
    console.log(await write('first', 1))
    const remove = () => store.txn({ ops: [{ op: 'delete', key: 'first' }], early: true }).then(() => 'gone', error => error.code)
    console.log((await Promise.all([...Array(9)].map((_, i) => write('k' + i, 500_000)).concat(remove(), remove()))).join())
    if (process.argv[2] === 'small') console.log(await write('small', 1))`
    const run = onSmallDisk(script, dir, 'small')
    t.same(run.stdout.split('\n'), [
      'shown 2 first',
      'revision 2',
      ...Array.from({ length: 9 }, (_, i) => `shown ${i + 3} k${i}`),
      'shown 12 first',
      // One alone, then the others together; what the second deletion found deleted it was not.
      'list again from 13 13 first,k0',
      ['revision 3', ...Array.from({ length: 10 }, () => 'unavailable')].join(),
      'shown 14 small',
      'revision 14',
      '',
    ])
    t.equal(run.status, 0, run.stderr)
    const store = await openEmbeddedStore({ dir, logger: silentLogger() })
    t.equal(store.revision, 14)
    t.same(
      (await store.list('')).entries.map(entry => entry.key),
      ['first', 'k0', 'small'],
    )
    await store.close()
    const other = scratch(t)
    t.match(onSmallDisk(script, other).stdout, 'list again from 13 13')
    const behind = await openEmbeddedStore({ dir: other, logger: silentLogger() })
    t.ok(behind.revision >= 13, `after a close without a write ${behind.revision} is not before what was shown`)
    await behind.close()
  },
)
