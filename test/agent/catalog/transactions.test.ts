/** Transactions: all or nothing, each operation over what those before it made, and the same outcome as a plain model. */
import * as fc from 'fast-check'
import t from 'tap'
import { LockDelays } from '../../../src/agent/catalog/lock-delays.ts'
import { Sessions } from '../../../src/agent/catalog/sessions.ts'
import { Transactions, type KvOperation, type Operation } from '../../../src/agent/catalog/transactions.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import type { NodeService } from '../../../src/mesh/service.ts'
import { catalogScene } from '../../support/catalog-scene.ts'

const scene = await catalogScene()
t.teardown(() => scene.close())
const transactions = new Transactions({ ...scene, delays: new LockDelays(systemClock), datacenter: 'dc1' })

function kv(verb: string, key: string, more: Partial<KvOperation> = {}): Operation {
  return { kind: 'kv', verb, key, value: 'dg==', flags: '0', index: 0, session: '', ...more }
}

t.test('an operation sees what those before it made, and nothing is left of a transaction that fails', async t => {
  const done = await transactions.run([kv('set', 'a'), kv('get', 'a'), kv('delete', 'a'), kv('check-not-exists', 'a'), kv('set', 'b')])
  t.equal(done.ok, true)
  t.match(scene.tables.kv('a').value, undefined)
  t.match(scene.tables.kv('b').value, { value: 'dg==' })
  const failed = await transactions.run([kv('set', 'c'), kv('get', 'nope'), kv('cas', 'b', { index: 1 })])
  t.strictSame(failed, {
    ok: false,
    errors: [
      { opIndex: 1, what: `key "nope" doesn't exist` },
      { opIndex: 2, what: 'failed to set key "b", index is stale' },
    ],
  })
  t.equal(scene.tables.kv('c').value, undefined)
})

t.test('a tree is deleted with what was put below it, and what is put after it stays', async t => {
  await transactions.run([kv('set', 't/1'), kv('set', 't/2')])
  const done = await transactions.run([kv('set', 't/3'), kv('delete-tree', 't/'), kv('set', 't/4'), kv('get-tree', 't/')])
  t.equal(done.ok && done.outcomes.length, 3, 'two writes and one key below the tree')
  t.same(
    scene.tables.kvList('t/').value.map(each => each.key),
    ['t/4'],
  )
})

t.test('a node with its services and checks comes and goes at once', async t => {
  const check = { node: 'tn', checkId: 'c', name: 'c', status: 'passing', serviceId: 's' }
  const done = await transactions.run([
    { kind: 'node', verb: 'set', node: { node: 'tn', address: '10.0.0.9' } },
    { kind: 'service', verb: 'set', node: 'tn', service: { id: 's', service: 'svc', tags: ['x'] } },
    { kind: 'check', verb: 'set', check },
  ])
  t.match(done, {
    ok: true,
    outcomes: [{ node: { node: 'tn' } }, { service: { id: 's' } }, { check: { serviceName: 'svc', serviceTags: ['x'] } }],
  })
  const index = scene.tables.node('tn').value!.modifyIndex
  t.match(await transactions.run([{ kind: 'node', verb: 'cas', node: { node: 'tn', address: '10.0.0.8', modifyIndex: index + 1 } }]), {
    ok: false,
  })
  t.match(await transactions.run([{ kind: 'service', verb: 'set', node: 'nobody', service: { service: 'x' } }]), {
    errors: [{ what: 'Missing node registration' }],
  })
  t.match(await transactions.run([{ kind: 'node', verb: 'delete-cas', node: { node: 'tn', modifyIndex: index } }]), { ok: true })
  t.equal(scene.tables.node('tn').value, undefined)
  t.same(scene.tables.instances('svc').value, [])
  t.same(scene.tables.checksOfNode('tn').value, [])
})

/** What the operations mean, over a map of keys to values. */
function model(before: ReadonlyMap<string, string>, operations: readonly Operation[]): Map<string, string> | undefined {
  const keys = new Map(before)
  for (const operation of operations as readonly KvOperation[]) {
    const { verb, key, value } = operation
    if (verb === 'set') keys.set(key, value ?? '')
    else if (verb === 'cas') {
      if (keys.has(key)) return undefined
      keys.set(key, value ?? '')
    } else if (verb === 'delete') keys.delete(key)
    else if (verb === 'delete-tree') for (const each of keys.keys()) if (each.startsWith(key)) keys.delete(each)
    if (verb === 'get' && !keys.has(key)) return undefined
    if (verb === 'check-not-exists' && keys.has(key)) return undefined
  }
  return keys
}

t.test('any transaction has the outcome of a plain model', async t => {
  const operation = fc
    .record({
      verb: fc.constantFrom('set', 'cas', 'delete', 'delete-tree', 'get', 'check-not-exists', 'get-tree'),
      key: fc.constantFrom('p/', 'p/a', 'p/b', 'p/a/c', 'q'),
      value: fc.constantFrom('MQ==', 'Mg=='),
    })
    .map(({ verb, key, value }) => kv(verb, key, { value }))
  const runs = process.env['ISTHMUS_DEEP'] === '1' ? 2000 : 60
  let keys = new Map<string, string>()
  await scene.kv.delete('', { recurse: true })
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { minLength: 1, maxLength: 8 }), async operations => {
      const wanted = model(keys, operations)
      const done = await transactions.run(operations)
      keys = wanted ?? keys
      const found = new Map(scene.tables.kvList('').value.map(each => [each.key, each.value ?? '']))
      const sorted = (map: Map<string, string>) => JSON.stringify([...map].map(pair => pair.join('=')).toSorted())
      return done.ok === (wanted !== undefined) && sorted(found) === sorted(keys)
    }),
    { numRuns: runs },
  )
  t.pass(`${runs} transactions`)
})

t.test('instances of one service that come in one transaction share its virtual address', async t => {
  await transactions.run([{ kind: 'node', verb: 'set', node: { node: 'vn', address: '10.0.0.8' } }])
  const proxy = (id: string, target: string): Operation => ({
    kind: 'service',
    verb: 'set',
    node: 'vn',
    service: {
      id,
      service: 'shared-sidecar-proxy',
      kind: 'connect-proxy',
      port: 1,
      proxy: { destinationServiceName: target, mode: '', meshGateway: {}, expose: {} },
    },
  })
  const done = await transactions.run([proxy('p1', 'shared'), proxy('p2', 'Shared')])
  t.equal(done.ok, true)
  const address = scene.tables.virtualIp('shared').value
  t.match(address, /^240\./)
  t.same(
    scene.tables.instances('shared-sidecar-proxy').value.map(({ service }) => service.taggedAddresses?.['consul-virtual']?.address),
    [address, address],
  )
})

t.test('many transactions on one key at once are all done, one after another', async t => {
  const all = await Promise.all(Array.from({ length: 60 }, (_, i) => transactions.run([kv('set', 'hot', { flags: String(i) })])))
  t.ok(all.every(each => each.ok))
})

t.test('what is put below a node or a service that the same transaction deletes goes with it', async t => {
  const service = { id: 's', service: 'gone' }
  const check = (checkId: string, serviceId: string) => ({ node: 'gn', checkId, name: checkId, status: 'passing', serviceId })
  await transactions.run([{ kind: 'node', verb: 'set', node: { node: 'gn', address: '10.0.0.7' } }])
  const done = await transactions.run([
    { kind: 'service', verb: 'set', node: 'gn', service },
    { kind: 'check', verb: 'set', check: check('of-service', 's') },
    { kind: 'check', verb: 'set', check: check('of-node', '') },
    { kind: 'service', verb: 'delete', node: 'gn', service },
  ])
  t.equal(done.ok, true)
  t.same(
    scene.tables.checksOfNode('gn').value.map(each => each.checkId),
    ['of-node'],
  )
  await transactions.run([
    { kind: 'service', verb: 'set', node: 'gn', service },
    { kind: 'node', verb: 'delete', node: { node: 'gn' } },
    { kind: 'node', verb: 'set', node: { node: 'gn', address: '10.0.0.6' } },
    { kind: 'service', verb: 'set', node: 'gn', service: { ...service, id: 's2' } },
  ])
  t.match(scene.tables.node('gn').value, { address: '10.0.0.6' })
  t.same(
    scene.tables.nodeServices('gn').value!.services.map(each => each.id),
    ['s2'],
  )
  t.same(scene.tables.checksOfNode('gn').value, [])
  await transactions.run([{ kind: 'check', verb: 'set', check: check('moves', 's2') }])
  await transactions.run([
    { kind: 'check', verb: 'set', check: check('moves', '') },
    { kind: 'service', verb: 'delete', node: 'gn', service: { ...service, id: 's2' } },
    { kind: 'service', verb: 'set', node: 'gn', service: { ...service, id: 's2' } },
  ])
  t.match(scene.tables.checksOfNode('gn').value, [{ checkId: 'moves', serviceId: '' }], 'what no longer is of a service stays without it')
  const again = await transactions.run([
    { kind: 'node', verb: 'delete', node: { node: 'gn' } },
    { kind: 'node', verb: 'set', node: { node: 'gn', address: '10.0.0.6' } },
    { kind: 'service', verb: 'set', node: 'gn', service: { ...service, id: 's2', port: 2 } },
  ])
  const [said] = again.ok ? again.outcomes.flatMap(each => (each.kind === 'service' ? [each.service] : [])) : []
  const { createIndex, modifyIndex } = scene.tables.serviceOf('gn', 's2')!
  t.match(said, { createIndex, modifyIndex, port: 2 }, 'what was below and comes again is said to be what is read then')
})

t.test('128 operations are taken whatever they read and write beside', async t => {
  const clock = systemClock
  const sessions = new Sessions({ ...scene, delays: new LockDelays(clock), clock, logger: silentLogger() })
  await transactions.run([{ kind: 'node', verb: 'set', node: { node: 'holder', address: '10.0.0.4' } }])
  const holder = { name: '', node: 'holder', lockDelayMs: 0, behavior: 'release', ttl: '', nodeChecks: [], serviceChecks: null }
  const session = await sessions.create(holder)
  const all = (operation: (i: number) => Operation) => Array.from({ length: 128 }, (_, i) => operation(i))
  const check = (i: number) => ({ node: `w${i}`, checkId: 'c', name: 'c', status: 'passing', serviceId: 'proxy' })
  const proxy = (i: number): Partial<NodeService> => ({
    id: 'proxy',
    service: `wide-${i}-sidecar-proxy`,
    kind: 'connect-proxy',
    port: 1,
    proxy: { destinationServiceName: `wide-${i}`, mode: '', meshGateway: {}, expose: {} },
  })
  const rounds: [string, (i: number) => Operation][] = [
    ['lock', i => kv('lock', `wide/${i}`, { session })],
    ['check-session', i => kv('check-session', `wide/${i}`, { session })],
    ['unlock', i => kv('unlock', `wide/${i}`, { session })],
    ['node set', i => ({ kind: 'node', verb: 'set', node: { node: `w${i}`, address: '10.0.0.5' } })],
    ['service set', i => ({ kind: 'service', verb: 'set', node: `w${i}`, service: proxy(i) })],
    ['check set', i => ({ kind: 'check', verb: 'set', check: check(i) })],
    ['check get', i => ({ kind: 'check', verb: 'get', check: check(i) })],
    ['service delete', i => ({ kind: 'service', verb: 'delete', node: `w${i}`, service: proxy(i) })],
    ['node delete', i => ({ kind: 'node', verb: 'delete', node: { node: `w${i}` } })],
  ]
  for (const [what, operation] of rounds) t.match(await transactions.run(all(operation)), { ok: true }, what)
  t.same(scene.tables.kvList('wide/').value.length, 128)
  t.match(scene.tables.virtualIp('wide-127').value, /^240\./)
})
