/** The key-value store: values, compare-and-set, and which reader wakes for what. */
import * as fc from 'fast-check'
import t from 'tap'
import { compareUtf8, KvTable } from '../../../src/agent/catalog/kv-table.ts'
import { Topics } from '../../../src/agent/catalog/topics.ts'
import { catalogScene, type CatalogScene } from '../../support/catalog-scene.ts'

async function scene(t: import('tap').Test): Promise<CatalogScene> {
  const made = await catalogScene()
  t.teardown(() => made.close())
  return made
}

t.test('a key keeps its value, flags and revisions', async t => {
  const { kv, tables } = await scene(t)
  t.equal(await kv.put('a', Buffer.from('hi'), { flags: 42n }), true)
  const { value } = tables.kv('a')
  t.strictSame(value, {
    key: 'a',
    value: 'aGk=',
    flags: '42',
    lockIndex: 0,
    createIndex: value!.createIndex,
    modifyIndex: value!.createIndex,
  })
  await kv.put('a', Buffer.alloc(0))
  t.match(tables.kv('a').value, { value: null, flags: '0', createIndex: value!.createIndex })
  t.ok(tables.kv('a').value!.modifyIndex > value!.modifyIndex)
})

t.test('an identical put writes nothing', async t => {
  const { kv, store } = await scene(t)
  await kv.put('a', Buffer.from('1'), { flags: 1n })
  const { revision } = store
  t.equal(await kv.put('a', Buffer.from('1'), { flags: 1n }), true)
  t.equal(store.revision, revision)
  await kv.put('a', Buffer.from('1'), { flags: 2n })
  t.equal(store.revision, revision + 1)
})

t.test('many writers of one key that never pause all get their turn', async t => {
  const { kv, tables } = await scene(t)
  const writer = async (name: number) => {
    for (let i = 0; i < 10; i += 1) t.equal(await kv.put('hot', Buffer.from(`${name} ${i}`)), true)
  }
  await Promise.all(Array.from({ length: 40 }, (_, name) => writer(name)))
  t.match(Buffer.from(tables.kv('hot').value!.value!, 'base64').toString(), / 9$/)
})

t.test('cas 0 only creates, another cas only replaces', async t => {
  const { kv, tables } = await scene(t)
  t.equal(await kv.put('a', Buffer.from('1'), { cas: 5 }), false)
  t.equal(await kv.put('a', Buffer.from('1'), { cas: 0 }), true)
  t.equal(await kv.put('a', Buffer.from('2'), { cas: 0 }), false)
  const index = tables.kv('a').value!.modifyIndex
  t.equal(await kv.put('a', Buffer.from('2'), { cas: index }), true)
  t.equal(await kv.put('a', Buffer.from('3'), { cas: index }), false)
  t.equal(await kv.delete('a', { cas: index }), false)
  t.equal(await kv.delete('a', { cas: tables.kv('a').value!.modifyIndex }), true)
  t.equal(await kv.delete('a', { cas: 7 }), true)
})

t.test('of many writers with the same cas one wins', async t => {
  const { kv } = await scene(t)
  const won = await Promise.all(Array.from({ length: 20 }, (_, i) => kv.put('lock', Buffer.from(String(i)), { cas: 0 })))
  t.equal(won.filter(Boolean).length, 1)
})

t.test('a prefix is plain text: lists in byte order, deletes what is under it and no more', async t => {
  const { kv, tables } = await scene(t)
  for (const key of ['b', 'a', 'ab', 'a/2', 'a/1', 'a0', '\u{1f600}', '\uffee']) await kv.put(key, Buffer.from('x'))
  const list = (prefix: string) => tables.kvList(prefix).value.map(each => each.key)
  t.same(list('a'), ['a', 'a/1', 'a/2', 'a0', 'ab'])
  t.same(list('a/'), ['a/1', 'a/2'])
  t.same(list('').slice(-2), ['\uffee', '\u{1f600}'])
  await kv.delete('a/', { recurse: true })
  t.same(list('a'), ['a', 'a0', 'ab'])
  t.equal(await kv.delete('nothing', { recurse: true }), true)
})

t.test('who waits for a prefix is woken by its keys alone, few and many alike, and long keys cost nobody anything', async t => {
  const topics = new Topics()
  const table = new KvTable(topics)
  const put = (key: string, modifyIndex: number) => {
    table.apply(key, { path: [], value: { value: null }, createIndex: modifyIndex, modifyIndex })
    topics.commit(modifyIndex)
  }
  const woken = async (prefixes: string[], key: string, at: number) => {
    const done: string[] = []
    const waits = prefixes.map(async prefix => {
      if (await topics.waitFor([`kv-prefix/${prefix}`], at - 1, 60_000)) done.push(prefix)
    })
    put(key, at)
    topics.close()
    await Promise.all(waits)
    return done
  }
  const others = Array.from({ length: 40 }, (_, i) => `other/${i}`)
  t.same(await woken(['', 'a', 'a/b', 'a/bc', 'b'], 'a/b', 5), ['', 'a', 'a/b'])
  t.same(await woken(['', 'a', 'a/b', 'a/bc', 'b', ...others], 'a/b', 6), ['', 'a', 'a/b'])
  const began = performance.now()
  for (let i = 0; i < 1000; i += 1) put('x'.repeat(1700) + String(i), 7 + i)
  t.ok(performance.now() - began < 500, 'a thousand keys of 1.7 kB are applied at once')
})

t.test('the index of a prefix counts its deletions and nothing else', async t => {
  const { kv, tables, store } = await scene(t)
  await kv.put('a/1', Buffer.from('x'))
  await kv.put('a/2', Buffer.from('x'))
  await kv.put('b', Buffer.from('x'))
  const under = tables.kvList('a/')
  const one = tables.kv('a/1')
  t.equal(one.index, one.value!.modifyIndex)
  t.equal(under.index, tables.kv('a/2').index)
  const waiting = tables.waitFor(under.topics, under.index, 5000)
  const still = tables.waitFor(one.topics, one.index, 50)
  await kv.delete('b')
  await kv.delete('a/2')
  t.equal(await waiting, true)
  t.equal(await still, false)
  t.equal(tables.kvList('a/').index, store.revision)
  t.ok(tables.kvList('b').index < store.revision)
})

t.test('a reader of a missing key wakes when it appears', async t => {
  const { kv, tables } = await scene(t)
  const missing = tables.kv('later')
  const waiting = tables.waitFor(missing.topics, missing.index, 5000)
  await kv.put('sooner', Buffer.from('x'))
  await kv.put('later', Buffer.from('x'))
  t.equal(await waiting, true)
})

t.test('keys are ordered as their UTF-8 bytes', t => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string({ unit: 'binary' }), (a, b) => {
      return Math.sign(compareUtf8(a, b)) === Buffer.compare(Buffer.from(a), Buffer.from(b))
    }),
  )
  t.end()
})
