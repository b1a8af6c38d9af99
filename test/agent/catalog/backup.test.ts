/** Snapshots: what is saved comes back, in the same cluster and in another, and nothing else is believed. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync, gzipSync } from 'node:zlib'
import * as fc from 'fast-check'
import t from 'tap'
import { pack, unpack } from '../../../src/agent/catalog/archive.ts'
import { MeshError } from '../../../src/lib/errors.ts'
import { agentParts } from '../../support/agent-parts.ts'

t.test('a snapshot puts everything back as it was, and leaves what the agent was asked to run', async t => {
  const agent = await agentParts()
  t.teardown(() => agent.close())
  const { kv, backup, catalog, localAgent, tables, configEntries, ca } = agent.parts
  await kv.put('kept', Buffer.from('1'))
  await kv.put('changed', Buffer.from('before'))
  await catalog.register({ node: 'outside', address: '10.0.0.1', service: { service: 'ext' } })
  await localAgent.registerService({ name: 'mine' })
  const { archive } = await backup.save()
  const index = tables.kv('kept').index
  await kv.put('changed', Buffer.from('after'))
  await kv.put('new', Buffer.from('x'))
  await catalog.deregister({ node: 'outside' })
  await localAgent.registerService({ name: 'later' })
  const root = ca.roots().value.activeRootId
  await backup.restore(archive)
  t.match(tables.kv('changed').value, { value: Buffer.from('before').toString('base64') })
  t.equal(tables.kv('new').value, undefined)
  t.ok(tables.kv('changed').index > index, 'indexes never fall')
  t.equal(tables.instances('ext').value.length, 1)
  t.same([...localAgent.services().keys()].sort(), ['later', 'mine'])
  t.equal(tables.instances('later').value.length, 1, 'what was registered since is in the catalog again')
  t.equal(ca.roots().value.activeRootId, root)
  t.equal((await ca.issueLeaf('mine')).uri.includes(ca.trustDomain), true)
  await t.rejects(Promise.all([backup.restore(archive), backup.restore(archive)]), { code: 'conflict' })
  void configEntries
})

t.test('another cluster becomes the one that was saved, CA included', async t => {
  const [lost, found] = [await agentParts(), await agentParts()]
  t.teardown(() => Promise.all([lost.close(), found.close()]))
  await lost.parts.kv.put('a', Buffer.from('1'))
  const { archive } = await lost.parts.backup.save()
  t.not(found.parts.ca.trustDomain, lost.parts.ca.trustDomain)
  await found.parts.backup.restore(archive)
  for (let i = 0; i < 100 && found.parts.ca.trustDomain !== lost.parts.ca.trustDomain; i += 1)
    await new Promise(resolve => setTimeout(resolve, 10))
  t.equal(found.parts.ca.trustDomain, lost.parts.ca.trustDomain)
  t.same(
    found.parts.ca.roots().value.roots.map(root => root.rootCert),
    lost.parts.ca.roots().value.roots.map(root => root.rootCert),
  )
  t.ok(await found.parts.ca.issueLeaf('web'), 'it can sign')
  t.match(found.parts.tables.kv('a').value, { value: 'MQ==' })
})

t.test('an archive is one that tar reads, with the sums that its CLI checks', async t => {
  const directory = mkdtempSync(join(tmpdir(), 'isthmus-archive-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const archive = await pack({ meta: Buffer.from('{"Version":1}'), state: Buffer.alloc(1000, 'x') }, 0)
  writeFileSync(join(directory, 'a.tgz'), archive)
  execFileSync('tar', ['xzf', 'a.tgz'], { cwd: directory })
  t.match(execFileSync('sha256sum', ['-c', 'SHA256SUMS'], { cwd: directory, encoding: 'utf8' }), 'meta.json: OK\nstate.bin: OK\n')
  const { meta, state } = await unpack(archive)
  t.same([meta.toString(), state.length], ['{"Version":1}', 1000])
})

t.test('whatever is changed in an archive is refused, and nothing is touched', async t => {
  const agent = await agentParts()
  t.teardown(() => agent.close())
  const { kv, backup, tables } = agent.parts
  await kv.put('a', Buffer.from('1'))
  const { archive } = await backup.save()
  const tar = gunzipSync(archive)
  const { revision } = tables
  const refused = async (given: Buffer) => {
    try {
      await backup.restore(given)
      return false
    } catch (error) {
      return error instanceof MeshError && error.code === 'invalid' && tables.revision === revision
    }
  }
  for (const given of [
    Buffer.alloc(0),
    Buffer.from('zzz'),
    gzipSync('zzz'),
    archive.subarray(0, archive.length / 2),
    gzipSync(tar.subarray(0, 1000)),
  ]) {
    t.ok(await refused(given))
  }
  const contents = fc.integer({ min: 0, max: tar.length - 1 })
  await fc.assert(
    fc.asyncProperty(contents, fc.integer({ min: 1, max: 255 }), async (at, by) => {
      const changed = Buffer.from(tar)
      changed[at] = changed[at]! ^ by
      // Padding, dates and owners mean nothing; what is restored is what was saved, or nothing is.
      const same = await unpack(gzipSync(changed)).then(
        ({ state }) => state.equals(Buffer.from(tar.subarray(tar.indexOf('{"format"'), tar.indexOf('{"format"') + state.length))),
        error => error instanceof MeshError,
      )
      return same
    }),
    { numRuns: process.env['ISTHMUS_DEEP'] === '1' ? 5000 : 200 },
  )
  const state = Buffer.from('{"format":"isthmus-state","version":1}\n{"key":"kv/x","value":7}\n')
  t.ok(await refused(await pack({ meta: Buffer.from('{}'), state }, 0)))
  t.ok(await refused(await pack({ meta: Buffer.from('{}'), state: Buffer.from('raft\0state') }, 0)), "a snapshot of Consul's")
})

t.test('an archive with sound sums and an entry that the tables cannot take is refused, and nothing is touched', async t => {
  const agent = await agentParts()
  t.teardown(() => agent.close())
  const { kv, backup, tables } = agent.parts
  await kv.put('a', Buffer.from('1'))
  const { revision } = tables
  const entry = (key: string, value: string) => JSON.stringify({ key, value: Buffer.from(value).toString('base64') })
  const lines = [
    'null',
    '[]',
    '',
    entry('node/x', 'no JSON'),
    entry('kv/x', 'null'),
    entry('service/x', '{}'),
    entry('service/n/x', 'null'),
    entry('node/%', '{}'),
    entry(`kv/${'a'.repeat(3000)}`, '{}'),
    entry('kv/x', `{"value":"${'a'.repeat(1024 * 1024)}"}`),
    `{"key":"kv/x","value":"${'a'.repeat(4 * 1024 * 1024)}"}`,
  ]
  const states = [...lines.map(line => `{"format":"isthmus-state","version":1}\n${line}\n`), '', 'null\n', '{}\n']
  for (const state of states) {
    const archive = await pack({ meta: Buffer.from('{}'), state: Buffer.from(state) }, 0)
    await t.rejects(backup.restore(archive), { code: 'invalid' }, state.slice(0, 100))
    t.equal(tables.revision, revision)
  }
})

t.test('an archive of nothing but line ends costs no more than its bytes', async t => {
  const agent = await agentParts()
  t.teardown(() => agent.close())
  // As a list of lines it is longer than V8 lets a list be: the process would end.
  const bytes = process.env['ISTHMUS_DEEP'] === '1' ? 150_000_000 : 5_000_000
  const lineEnds = Buffer.alloc(bytes, '\n')
  await t.rejects(agent.parts.backup.restore(await pack({ meta: lineEnds, state: lineEnds }, 0)), { code: 'invalid' })
  const { archive } = await agent.parts.backup.save()
  const tar = gunzipSync(archive)
  const at = tar.indexOf('SHA256SUMS')
  tar.write(bytes.toString(8).padStart(11, '0'), at + 124, 'latin1')
  const padding = Buffer.alloc((512 - (bytes % 512)) % 512)
  const bomb = gzipSync(Buffer.concat([tar.subarray(0, at + 512), lineEnds, padding]))
  await t.rejects(unpack(bomb), { code: 'invalid', message: /SHA256SUMS is longer/ })
})
