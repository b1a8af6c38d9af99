/**
 * What every engine of the store keeps, as one suite: run it with a way to open a fresh store. A statement that only one engine
 * can keep (locks, files, history sizes) stays in that engine's own test.
 */
import * as fc from 'fast-check'
import t, { type Test } from 'tap'
import { MeshError } from '../../../src/lib/errors.ts'
import { storeLimits, type Entry, type Op, type Store, type WatchBatch, type WatchEvent } from '../../../src/agent/store/store.ts'

export interface OpenedStore {
  store: Store
  /** Closes the store and removes whatever it left. */
  close(): Promise<void>
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const text = (value: Uint8Array | null): string | null => value && new TextDecoder().decode(value)
const put = (key: string, value = '', lease?: string): Op => ({
  op: 'put',
  key,
  value: bytes(value),
  ...(lease === undefined ? {} : { lease }),
})
const plainEvents = (events: WatchEvent[]): unknown[] => events.map(({ value, ...rest }) => ({ ...rest, value: text(value) }))

/** Collects the batches of a watch and lets a test wait for them. */
export function collect(
  store: Store,
  prefix: string,
  after: number,
): { batches: WatchBatch[]; compacted: number[]; until(count: number): Promise<void>; close(): void } {
  const batches: WatchBatch[] = []
  const compacted: number[] = []
  let wake = (): void => {}
  const watch = store.watch(prefix, after, {
    onBatch(batch) {
      batches.push(batch)
      wake()
    },
    onCompacted(revision) {
      compacted.push(revision)
      wake()
    },
  })
  return {
    batches,
    compacted,
    async until(count) {
      while (batches.length + compacted.length < count) {
        await new Promise<void>(resolve => {
          wake = resolve
        })
      }
    },
    close: () => watch.close(),
  }
}

async function codeOf(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'none'
  } catch (error) {
    return error instanceof MeshError ? error.code : String(error)
  }
}

export function storeCompliance(name: string, open: () => Promise<OpenedStore>): void {
  const test = (title: string, body: (t: Test, store: Store) => Promise<void>): void => {
    void t.test(`${name}: ${title}`, async t => {
      const opened = await open()
      try {
        await body(t, opened.store)
      } finally {
        await opened.close()
      }
    })
  }
  readsAndWrites(test)
  refusals(test)
  watches(test)
  early(test)
  leases(test)
  model(test)
}

type Define = (title: string, body: (t: Test, store: Store) => Promise<void>) => void

function readsAndWrites(test: Define): void {
  test('a write is read back with its revisions, which start after 1 and never fall', async (t, store) => {
    const start = store.revision
    t.ok(start >= 1)
    t.equal(await store.get('a'), undefined)
    const first = await store.txn({ ops: [put('a', 'one')] })
    t.same(first, { ok: true, revision: start + 1 })
    const second = await store.txn({ ops: [put('a', 'two'), put('b', '')] })
    t.same(second, { ok: true, revision: start + 2 })
    t.equal(store.revision, start + 2)
    const entry = await store.get('a')
    t.same({ ...entry, value: text(entry!.value) }, { key: 'a', value: 'two', createRevision: start + 1, modRevision: start + 2 })
    t.equal((await store.get('b'))!.value.byteLength, 0)
  })

  test('a deleted key is gone and, written again, is new', async (t, store) => {
    await store.txn({ ops: [put('a', 'one')] })
    const gone = await store.txn({ ops: [{ op: 'delete', key: 'a' }] })
    t.equal(await store.get('a'), undefined)
    const again = await store.txn({ ops: [put('a', 'two')] })
    t.equal(again.revision, gone.revision + 1)
    t.equal((await store.get('a'))!.createRevision, again.revision)
  })

  test('a transaction that changes nothing makes no revision', async (t, store) => {
    const { revision } = await store.txn({ ops: [put('a', 'one')] })
    t.same(
      await store.txn({
        ops: [
          { op: 'delete', key: 'b' },
          { op: 'delete-prefix', prefix: 'c/' },
        ],
      }),
      { ok: true, revision },
    )
    t.same(await store.txn({ ops: [] }), { ok: true, revision })
  })

  test('a list is what a prefix covers, in byte order of the keys, as of one revision', async (t, store) => {
    const names = ['p/', 'p/b', 'p/a', 'p/a/1', 'p/é', 'p/\u{ff5e}', 'p/\u{1f600}', 'p/~', 'p', 'q', 'o', 'p/A']
    await store.txn({ ops: names.map(key => put(key, key)) })
    const sorted = (wanted: string[]): string[] => wanted.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    const { entries, revision } = await store.list('p/')
    t.equal(revision, store.revision)
    t.same(
      entries.map(entry => [entry.key, text(entry.value)]),
      sorted(names.filter(key => key.startsWith('p/'))).map(key => [key, key]),
    )
    t.same(
      (await store.list('')).entries.map(entry => entry.key),
      sorted(names),
    )
    t.same((await store.list('nothing')).entries, [])
  })

  test('a deleted prefix takes its keys and no neighbour', async (t, store) => {
    await store.txn({ ops: ['a', 'a/', 'a/1', 'a/2', 'a0', 'b'].map(key => put(key)) })
    await store.txn({ ops: [{ op: 'delete-prefix', prefix: 'a/' }] })
    t.same(
      (await store.list('')).entries.map(entry => entry.key),
      ['a', 'a0', 'b'],
    )
  })

  test('a comparison that fails writes nothing and says the current revision', async (t, store) => {
    const made = await store.txn({ compare: [{ key: 'a', modRevision: 0 }], ops: [put('a', 'one')] })
    t.ok(made.ok)
    t.same(await store.txn({ compare: [{ key: 'a', modRevision: 0 }], ops: [put('a', 'two')] }), { ok: false, revision: made.revision })
    const stale = { key: 'b', modRevision: 7 }
    t.same(await store.txn({ compare: [{ key: 'a', modRevision: made.revision }, stale], ops: [put('a', 'two'), put('c')] }), {
      ok: false,
      revision: made.revision,
    })
    t.equal(text((await store.get('a'))!.value), 'one')
    t.equal(await store.get('c'), undefined)
    const swapped = await store.txn({ compare: [{ key: 'a', modRevision: made.revision }], ops: [put('a', 'two')] })
    t.same(swapped, { ok: true, revision: made.revision + 1 })
  })

  test('64 writers that increment one counter by compare-and-set lose no increment', async (t, store) => {
    let attempts = 0
    await Promise.all(
      Array.from({ length: 64 }, async () => {
        for (;;) {
          attempts += 1
          const entry = await store.get('counter')
          const value = Number(entry ? text(entry.value) : 0) + 1
          const compare = [{ key: 'counter', modRevision: entry?.modRevision ?? 0 }]
          if ((await store.txn({ compare, ops: [put('counter', String(value))] })).ok) return
        }
      }),
    )
    t.equal(text((await store.get('counter'))!.value), '64')
    t.ok(attempts > 64, 'they did collide')
  })

  test("a value is the store's own: changing the buffer afterwards changes nothing", async (t, store) => {
    const value = bytes('before')
    const written = store.txn({ ops: [{ op: 'put', key: 'a', value }] })
    value.fill(0)
    await written
    const entry = await store.get('a')
    t.equal(text(entry!.value), 'before')
    entry!.value.fill(0)
    t.equal(text((await store.get('a'))!.value), 'before')
  })
}

function refusals(test: Define): void {
  test('a transaction beyond the limits is refused as too large, and one at the limits is taken', async (t, store) => {
    const { maxOps, maxTxnBytes, maxKeyBytes } = storeLimits
    const many = (count: number): Op[] => Array.from({ length: count }, (_, i) => put(`k${i}`))
    const sized = (size: number): Op[] => [{ op: 'put', key: 'k', value: new Uint8Array(size - 1) }]
    t.equal(await codeOf(store.txn({ ops: many(maxOps + 1) })), 'too-large')
    t.equal(await codeOf(store.txn({ ops: many(maxOps) })), 'none')
    t.equal(await codeOf(store.txn({ ops: sized(maxTxnBytes + 1) })), 'too-large')
    t.equal(await codeOf(store.txn({ ops: sized(maxTxnBytes) })), 'none')
    t.equal(await codeOf(store.txn({ ops: [put('é'.repeat(maxKeyBytes / 2) + 'x')] })), 'too-large')
    t.equal(await codeOf(store.txn({ ops: [put('é'.repeat(maxKeyBytes / 2))] })), 'none')
    t.equal((await store.get('é'.repeat(maxKeyBytes / 2)))!.value.byteLength, 0)
    t.equal(await store.get('x'.repeat(5000)), undefined)
  })

  test('a transaction that contradicts itself, or names nothing, is refused whole', async (t, store) => {
    t.equal(await codeOf(store.txn({ ops: [put('a', '1'), put('a', '2')] })), 'bad-request')
    t.equal(await codeOf(store.txn({ ops: [put('a', '1'), { op: 'delete', key: 'a' }] })), 'bad-request')
    t.equal(await codeOf(store.txn({ ops: [{ op: 'delete-prefix', prefix: 'a/' }, put('a/b', '2')] })), 'bad-request')
    t.equal(await codeOf(store.txn({ ops: [put('', 'x')] })), 'bad-request')
    t.same((await store.list('')).entries, [])
  })
}

function watches(test: Define): void {
  test('a watch gets every change under its prefix after its revision, in order, in key order within a revision', async (t, store) => {
    await store.txn({ ops: [put('w/old', '0')] })
    const from = store.revision
    await store.txn({ ops: [put('w/b', '1'), put('x', '1'), put('w/a', '1')] })
    const seen = collect(store, 'w/', from)
    await store.txn({ ops: [put('x', '2')] })
    await store.txn({ ops: [{ op: 'delete-prefix', prefix: 'w/' }] })
    await seen.until(2)
    t.same(
      seen.batches.map(batch => ({ ...batch, events: plainEvents(batch.events) })),
      [
        {
          revision: from + 1,
          events: [
            { key: 'w/a', value: '1', createRevision: from + 1, modRevision: from + 1 },
            { key: 'w/b', value: '1', createRevision: from + 1, modRevision: from + 1 },
          ],
        },
        {
          revision: from + 3,
          events: ['w/a', 'w/b', 'w/old'].map(key => ({ key, value: null, createRevision: 0, modRevision: from + 3 })),
        },
      ],
    )
    seen.close()
  })

  test('a watch is not called before watch() returned, nor after close()', async (t, store) => {
    const from = store.revision
    await store.txn({ ops: [put('a')] })
    const seen = collect(store, '', from)
    t.same(seen.batches, [])
    await seen.until(1)
    seen.close()
    await store.txn({ ops: [put('b')] })
    await store.txn({ ops: [put('c')] })
    t.equal(seen.batches.length, 1)
  })

  test('a list and a watch from its revision miss nothing and repeat nothing, while 8 writers write', async (t, store) => {
    const writers = Promise.all(
      Array.from({ length: 8 }, async (_, writer) => {
        for (let i = 0; i < 25; i++) await store.txn({ ops: [put(`k/${writer}/${i}`, String(i))] })
      }),
    )
    await store.txn({ ops: [put('k/start')] })
    const { entries, revision } = await store.list('k/')
    const keys = new Set(entries.map(entry => entry.key))
    const seen = collect(store, 'k/', revision)
    await writers
    await store.txn({ ops: [put('k/end')] })
    while (seen.batches.at(-1)?.events[0]?.key !== 'k/end') await seen.until(seen.batches.length + 1)
    for (const batch of seen.batches) {
      t.ok(batch.revision > revision)
      for (const event of batch.events) {
        t.notOk(keys.has(event.key), `${event.key} comes once`)
        keys.add(event.key)
      }
    }
    t.equal(keys.size, 8 * 25 + 2)
    seen.close()
  })
}

function early(test: Define): void {
  test('early writes are read as they were written, whatever of them is durable yet, and mix with others in one order', async (t, store) => {
    const seen: string[] = []
    const revisions: number[] = []
    const watch = store.watch('', store.revision, {
      onBatch({ revision, events }) {
        revisions.push(revision)
        for (const { key, value } of events) seen.push(`${key}=${value === null ? '' : text(value)}`)
      },
      onCompacted: () => t.fail('the history is long enough'),
    })
    await store.txn({ ops: [put('a', '0')], early: true })
    const { modRevision } = (await store.get('a'))!
    const written = [
      store.txn({ ops: [put('a', '1'), put('b/x', '1'), put('b/y', '1')], compare: [{ key: 'a', modRevision }], early: true }),
      store.txn({ ops: [put('a', 'lost')], compare: [{ key: 'a', modRevision }], early: true }),
      store.txn({
        ops: [
          { op: 'delete-prefix', prefix: 'b/' },
          { op: 'delete', key: 'b/x' },
          { op: 'delete', key: 'none' },
        ],
        early: true,
      }),
      store.txn({ ops: [{ op: 'delete-prefix', prefix: 'b/' }], early: true }),
      store.txn({ ops: [put('b/x', '2')] }),
      store.txn({ ops: [put('a', '3')], early: true }),
      store.txn({ ops: [put('b/z', '4')] }),
    ]
    const results = await Promise.all(written)
    t.same(
      results.map(({ ok, revision }) => [ok, revision - modRevision]),
      [
        [true, 1],
        [false, 1],
        [true, 2],
        [true, 2],
        [true, 3],
        [true, 4],
        [true, 5],
      ],
    )
    watch.close()
    t.same(seen, ['a=0', 'a=1', 'b/x=1', 'b/y=1', 'b/x=', 'b/y=', 'b/x=2', 'a=3', 'b/z=4'])
    t.same(
      revisions,
      revisions.toSorted((x, y) => x - y),
    )
    const { entries, revision } = await store.list('')
    t.equal(revision, store.revision)
    t.same(
      entries.map(({ key, value, createRevision, modRevision: at }) => [key, text(value), createRevision - modRevision, at - modRevision]),
      [
        ['a', '3', 0, 4],
        ['b/x', '2', 3, 3],
        ['b/z', '4', 5, 5],
      ],
    )
  })

  test('what an early write says is read as soon as it is shown', async (t, store) => {
    await store.txn({ ops: [put('p/gone', 'x'), put('p/b', 'x')], early: true })
    const reads: Promise<unknown>[] = []
    const watch = store.watch('', store.revision, {
      onBatch: () => reads.push(Promise.all([store.get('p/gone'), store.get('p/b'), store.list('p/')])),
      onCompacted: () => t.fail('the history is long enough'),
    })
    await Promise.resolve()
    const { revision } = await store.txn({ ops: [{ op: 'delete', key: 'p/gone' }, put('p/b', 'y'), put('p/a', 'y')], early: true })
    watch.close()
    const [gone, b, list] = (await Promise.all(reads))[0] as [Entry | undefined, Entry, { entries: Entry[]; revision: number }]
    t.equal(gone, undefined)
    t.equal(text(b.value), 'y')
    t.same([list.revision, list.entries.map(({ key, value }) => `${key}=${text(value)}`)], [revision, ['p/a=y', 'p/b=y']])
  })

  test('an early write takes no lease', async (t, store) => {
    const lease = await store.lease(60_000)
    t.equal(await codeOf(store.txn({ ops: [put('a', '', lease.id)], early: true })), 'bad-request')
  })
}

function leases(test: Define): void {
  test('keys of a lease vanish in one revision when it is revoked, others stay, and it cannot be used again', async (t, store) => {
    const lease = await store.lease(60_000)
    await store.txn({ ops: [put('l/a', '', lease.id), put('l/b', '', lease.id), put('l/c')] })
    t.equal(await lease.renew(), true)
    const from = store.revision
    const seen = collect(store, 'l/', from)
    await lease.revoke()
    await seen.until(1)
    t.same(plainEvents(seen.batches[0]!.events), [
      { key: 'l/a', value: null, createRevision: 0, modRevision: from + 1 },
      { key: 'l/b', value: null, createRevision: 0, modRevision: from + 1 },
    ])
    t.same(
      (await store.list('l/')).entries.map(entry => entry.key),
      ['l/c'],
    )
    t.equal(await lease.renew(), false)
    t.equal(await codeOf(store.txn({ ops: [put('l/d', '', lease.id)] })), 'not-found')
    await lease.revoke()
    seen.close()
  })

  test('a key that is written without its lease, or with another, does not go with the first', async (t, store) => {
    const [first, second] = [await store.lease(60_000), await store.lease(60_000)]
    await store.txn({ ops: [put('a', '', first.id), put('b', '', first.id), put('c', '', first.id)] })
    await store.txn({ ops: [put('a'), put('b', '', second.id)] })
    await first.revoke()
    t.same(
      (await store.list('')).entries.map(entry => entry.key),
      ['a', 'b'],
    )
    await second.revoke()
    t.same(
      (await store.list('')).entries.map(entry => entry.key),
      ['a'],
    )
  })
}

type Step = { kind: 'txn'; early: boolean; compares: [number, boolean][]; ops: [number, number, string][] }

/** Random transactions on a few keys against a plain map. */
function model(test: Define): void {
  const keys = ['a', 'a/', 'a/b', 'a/b/c', 'b', 'é', '\u{1f600}']
  const prefixes = ['', 'a', 'a/', 'b', '\u{1f600}']
  const step: fc.Arbitrary<Step> = fc.record({
    kind: fc.constant('txn' as const),
    compares: fc.array(fc.tuple(fc.nat(keys.length - 1), fc.boolean()), { maxLength: 2 }),
    early: fc.boolean(),
    ops: fc.array(fc.tuple(fc.nat(4), fc.nat(keys.length - 1), fc.string({ maxLength: 4 })), { maxLength: 4 }),
  })
  test('any sequence of transactions leaves what a plain map would hold', async (t, store) => {
    const map = new Map<string, { value: string; modRevision: number }>()
    let revision = store.revision
    const seen = collect(store, '', revision)
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 12 }), async steps => {
        for (const { compares, ops, early } of steps) {
          const compare = compares.map(([key, right]) => ({
            key: keys[key]!,
            modRevision: (map.get(keys[key]!)?.modRevision ?? 0) + (right ? 0 : 1),
          }))
          const txn = ops.map<Op>(([kind, at, value]) =>
            kind > 1
              ? put(keys[at]!, value)
              : kind === 1
                ? { op: 'delete', key: keys[at]! }
                : { op: 'delete-prefix', prefix: prefixes[at % prefixes.length]! },
          )
          const puts = txn.flatMap(op => (op.op === 'put' ? [op.key] : []))
          const clash =
            new Set(puts).size < puts.length ||
            txn.some(
              op =>
                (op.op === 'delete' && puts.includes(op.key)) || (op.op === 'delete-prefix' && puts.some(key => key.startsWith(op.prefix))),
            )
          if (clash) {
            if ((await codeOf(store.txn({ compare, ops: txn }))) !== 'bad-request') throw new Error('a contradiction was taken')
            continue
          }
          const holds = compares.every(([, right]) => right)
          const next = revision + 1
          let changed = false
          if (holds) {
            for (const op of txn) {
              if (op.op === 'put') map.set(op.key, { value: text(op.value)!, modRevision: next })
              for (const key of op.op === 'delete'
                ? [op.key]
                : op.op === 'delete-prefix'
                  ? [...map.keys()].filter(each => each.startsWith(op.prefix))
                  : []) {
                if (map.delete(key)) changed = true
              }
              changed ||= op.op === 'put'
            }
          }
          if (changed) revision = next
          const result = await store.txn({ compare, ops: txn, early })
          if (result.ok !== holds || result.revision !== revision)
            throw new Error(`answered ${JSON.stringify(result)}, not ${holds} ${revision}`)
        }
        const { entries } = await store.list('')
        const expected = [...map]
          .map(([key, each]) => ({ key, ...each }))
          .sort((a, b) => Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)))
        const found = entries.map(entry => ({ key: entry.key, value: text(entry.value), modRevision: entry.modRevision }))
        if (JSON.stringify(found) !== JSON.stringify(expected.map(({ key, value, modRevision }) => ({ key, value, modRevision })))) {
          throw new Error(`holds ${JSON.stringify(found)}, not ${JSON.stringify(expected)}`)
        }
      }),
      { numRuns: process.env.ISTHMUS_DEEP === '1' ? 2000 : 60 },
    )
    await store.txn({ ops: [put('end')] })
    while (seen.batches.at(-1)?.revision !== store.revision) await seen.until(seen.batches.length + 1)
    const replayed = new Map<string, string>()
    for (const batch of seen.batches) {
      for (const event of batch.events) {
        if (event.value) replayed.set(event.key, text(event.value)!)
        else replayed.delete(event.key)
      }
    }
    map.set('end', { value: '', modRevision: 0 })
    t.same(new Map(replayed), new Map([...map].map(([key, each]) => [key, each.value])), 'and the watch tells the same story')
    seen.close()
  })
}
