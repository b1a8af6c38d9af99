/** Prepared queries: names, templates, and where a query looks when it finds nobody. */
import t, { type Test } from 'tap'
import { Queries } from '../../../src/agent/catalog/queries.ts'
import { PreparedQuery } from '../../../src/mesh/prepared-query.ts'
import { catalogScene, type CatalogScene } from '../../support/catalog-scene.ts'

async function scene(t: Test): Promise<CatalogScene & { queries: Queries }> {
  const made = await catalogScene()
  t.teardown(() => made.close())
  return Object.assign(made, { queries: new Queries({ ...made, datacenter: 'dc1' }) })
}

function query(name: string, service: object, more: object = {}): PreparedQuery {
  return PreparedQuery.parse({ name, service: { service: 'web', ...service }, ...more })
}

const template = (name: string, service: object = {}, regexp = '') =>
  query(name, service, { template: { type: 'name_prefix_match', regexp, removeEmptyTags: true } })

t.test('a name belongs to one query, and is free again when that is renamed or deleted', async t => {
  const { queries, tables } = await scene(t)
  const id = await queries.create(query('a', {}))
  await t.rejects(queries.create(query('A', {})), { message: "raft apply failed: name 'A' aliases an existing query name" })
  await queries.update({ ...query('b', {}), id })
  const other = await queries.create(query('a', {}))
  await queries.delete(id)
  await queries.create(query('b', {}))
  t.same(queries.resolve('a')?.id, other)
  t.equal(tables.preparedQueries().value.length, 2)
  await t.rejects(queries.delete(id), { message: `Cannot modify non-existent prepared query: '${id}'` })
})

t.test('of many that want one name at once one gets it', async t => {
  const { queries } = await scene(t)
  const all = await Promise.allSettled(Array.from({ length: 10 }, () => queries.create(query('a', {}))))
  t.equal(all.filter(each => each.status === 'fulfilled').length, 1)
})

t.test('names are asked for without all queries being looked through each time', async t => {
  const { queries, tables } = await scene(t)
  const id = await queries.create(query('a', {}))
  const list = tables.preparedQueries.bind(tables)
  let lists = 0
  t.teardown(() => Object.assign(tables, { preparedQueries: list }))
  Object.assign(tables, { preparedQueries: () => ((lists += 1), list()) })
  for (let i = 0; i < 100; i += 1) queries.resolve(i % 2 ? 'A' : `no-${i}`)
  t.equal(lists, 1)
  await queries.update({ ...query('b', {}), id })
  t.same([queries.resolve('a')?.id, queries.resolve('B')?.id], [undefined, id], 'and a change is seen at once')
  await queries.delete(id)
  t.equal(queries.resolve('b'), undefined)
})

t.test('the longest prefix of a template wins, and its texts are filled in', async t => {
  const { queries } = await scene(t)
  await queries.create(template('', { service: '${name.full}' }))
  await queries.create(
    template('geo-', { service: '${match(2)}', tags: ['${match(1)}', ''], near: '${agent.segment}' }, '^geo-(.*?)-(.*)$'),
  )
  await queries.create(query('geo-plain', { service: 'plain' }))
  t.match(queries.resolve('geo-eu-api')?.service, { service: 'api', tags: ['eu'], near: '' })
  t.match(queries.resolve('anything')?.service, { service: 'anything' })
  t.match(queries.resolve('geo-plain')?.service, { service: 'plain' })
  t.match(queries.resolve('geo-nomatch')?.service, { service: '' }, 'a group that is not there is empty')
  await t.rejects(queries.create(template('x', { service: '${process.env}' })), { message: /failed compiling template: Bad format/ })
  await t.rejects(queries.create(template('x', {}, '(')), { message: /failed compiling template: Bad Regexp/ })
  await t.rejects(queries.create(template('geo-')), { message: "raft apply failed: query template with prefix 'geo-' already exists" })
})

t.test("a regexp of an operator's takes linear time", async t => {
  const { queries } = await scene(t)
  await queries.create(template('a', { service: '${match(1)}' }, '^((a+)+)+$'))
  const started = performance.now()
  queries.resolve(`${'a'.repeat(5000)}!`)
  t.ok(performance.now() - started < 1000)
})

t.test('health, meta and tags decide who is found; ignored checks do not', async t => {
  const { queries, catalog } = await scene(t)
  const add = (node: string, status: string, service: object) =>
    catalog.register({
      node,
      address: '10.0.0.1',
      nodeMeta: { rack: node },
      service: { id: 'w', service: 'web', ...service },
      check: { checkId: 'c', serviceId: 'w', status },
    })
  await add('n1', 'passing', { tags: ['A', 'b'], meta: { v: '1' } })
  await add('n2', 'warning', { tags: ['a'] })
  await add('n3', 'critical', {})
  const found = (service: object) =>
    queries
      .execute(query('', service))
      .nodes.map(each => each.node.node)
      .sort()
  t.same(found({}), ['n1', 'n2'])
  t.same(found({ onlyPassing: true }), ['n1'])
  t.same(found({ ignoreCheckIds: ['c'] }), ['n1', 'n2', 'n3'])
  t.same(found({ tags: ['a', '!B'] }), ['n2'])
  t.same(found({ nodeMeta: { rack: 'n1' }, serviceMeta: { v: '1' } }), ['n1'])
  t.equal(queries.execute(query('', {}), { limit: 1 }).nodes.length, 1)
})

t.test('a query that finds nobody tries its targets in their order; a datacenter that is not ours is none', async t => {
  const { queries, catalog } = await scene(t)
  const instance = { node: { node: 'pn', address: '10.1.1.1' }, service: { id: 'web', service: 'web', tags: [], meta: null }, checks: [] }
  await catalog.replaceImported('east', 'web', [instance as never], 0)
  const failover = {
    nearestN: 0,
    datacenters: null,
    targets: [{ datacenter: 'dc9' }, { peer: 'nosuch' }, { peer: 'east' }, { peer: 'later' }],
  }
  t.match(queries.execute(query('', { failover })), { peerName: 'east', datacenter: '', failovers: 2, nodes: [{ node: { node: 'pn' } }] })
  t.match(queries.execute(query('', { peer: 'east' })), { peerName: 'east', failovers: 0 })
  t.match(queries.execute(query('', {})), { peerName: '', datacenter: 'dc1', failovers: 0, nodes: [] })
  await queries.create(query('named', { failover }, { dns: { ttl: '7s' } }))
  t.match(queries.answer('named'), { service: 'web', peerName: 'east', datacenter: '', ttl: '7s', nodes: [{ node: { node: 'pn' } }] })
  t.equal(queries.answer('nobody'), undefined)
})
