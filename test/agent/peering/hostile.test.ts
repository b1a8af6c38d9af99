/** Peers that lie, take too much or send too much: what is refused, what is remembered, and that nobody else notices. */
import { X509Certificate } from 'node:crypto'
import t, { type Test } from 'tap'
import { bundleProblem, Importer } from '../../../src/agent/peering/importer.ts'
import { PeeringRecords } from '../../../src/agent/peering/records.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import type { CheckServiceNode } from '../../../src/mesh/service.ts'
import { fromWire } from '../../../src/agent/peering/replica.ts'
import { CheckServiceNode as Wire } from '../../../src/wire/gen/service.ts'
import { Cluster, peer, until } from './cluster.ts'

const clusterId = '11111111-2222-3333-4444-555555555555'

void t.test('a second cluster with the trust domain of another peer is refused, and the first stays', async t => {
  const east = await Cluster.start('east')
  const west = await Cluster.start('west', {}, clusterId)
  const liar = await Cluster.start('liar', {}, clusterId)
  t.teardown(() => Promise.all([east.close(), west.close(), liar.close()]))
  await peer(east, west)
  await until(() => east.tables.trustBundle('west').value !== undefined)
  await peer(east, liar)
  await until(() => (east.peerings.read('liar').value?.warnings ?? []).length > 0)
  t.equal(east.peerings.read('liar').value?.warnings?.length, 1)
  t.match(east.peerings.read('liar').value?.warnings, [/^the trust bundle of the peer is refused: .*belongs to another peer/])
  t.equal(east.tables.trustBundle('liar').value, undefined)
  t.match(east.tables.trustBundle('west').value, { trustDomain: west.ca.trustDomain })
  t.equal(east.state('liar'), 'ACTIVE', 'the peering itself goes on')
  await until(() => (liar.peerings.read('east').value?.warnings ?? []).length > 0)
  t.match(liar.peerings.read('east').value?.warnings, [/^the peer refused what was sent last: .*belongs to another peer$/])
  t.match(await east.metrics.metrics(), /isthmus_peering_trust_bundle_refused\{peer="liar"\} 1/)
})

void t.test('bundles that are refused', async t => {
  const cluster = await Cluster.start('east')
  t.teardown(() => cluster.close())
  const root = cluster.ca.roots().value.roots[0]!.rootCert
  const leaf = (await cluster.ca.issueServerCertificate()).certPem.match(/-----BEGIN[\s\S]*?-----END CERTIFICATE-----/)![0]
  const known = { judged: [], own: 'own.consul', pinned: 'pinned.consul', others: [{ peer: 'b', trustDomain: 'b.consul' }] }
  const problem = (domain: string, pems: string[], pinned?: string) => bundleProblem(domain, pems, { ...known, pinned })
  t.equal(problem('new.consul', [root]), undefined)
  t.equal(problem('pinned.consul', [root], 'pinned.consul'), undefined)
  t.match(problem('own.consul', [root]), /this cluster's own/)
  t.match(problem('b.consul', [root]), /belongs to another peer/)
  t.match(problem('new.consul', [root], 'pinned.consul'), /peer again to accept it/)
  for (const bad of ['', 'UPPER.consul', 'a b', '../x', 'x'.repeat(300)]) t.match(problem(bad, [root]), /is not a trust domain/, bad)
  t.match(problem('new.consul', []), /needs 1 to 64 roots/)
  t.match(
    problem(
      'new.consul',
      Array.from({ length: 65 }, () => root),
    ),
    /needs 1 to 64 roots/,
  )
  t.match(problem('new.consul', ['garbage']), /no CA certificate/)
  t.equal(new X509Certificate(leaf).ca, false)
  t.match(problem('new.consul', [root, leaf]), /no CA certificate/)
})

async function importerScene(t: Test, limits: { services: number; instances: number; bytes: number }) {
  const cluster = await Cluster.start('east')
  t.teardown(() => cluster.close())
  await cluster.peerings.generateToken({ peerName: 'p' })
  const { tables, catalog, store } = cluster
  const options = {
    tables,
    catalog,
    records: new PeeringRecords(store, tables),
    ownTrustDomain: 'own.consul',
    peer: 'p',
    clock: systemClock,
  }
  const importer = new Importer({ ...options, limits })
  const instances = (service: string, count: number): CheckServiceNode[] => {
    const nodes = Array.from({ length: count }, (_, i) =>
      Wire.fromPartial({ Node: { Node: `n${i}` }, Service: { ID: `${service}-${i}`, Service: service } }),
    )
    const read = fromWire(nodes, service, 'p')
    if (!read.ok) throw new Error(read.message)
    return read.value
  }
  const put = (name: string, count: number, bytes = 10) =>
    importer.apply({ kind: 'service', name, instances: instances(name, count), bytes })
  return { cluster, importer, put, options }
}

void t.test('a peer may fill what is granted and no more, and room that it gives up is free again', async t => {
  const { put, importer, cluster } = await importerScene(t, { services: 2, instances: 10, bytes: 100 })
  t.equal(await put('a', 5, 50), undefined)
  t.equal(await put('b', 5, 50), undefined)
  t.equal(await put('a', 6, 50), 'a peer may export 10 instances at most')
  t.equal(await put('a', 5, 51), 'a peer may export 100 bytes at most')
  t.equal(cluster.tables.instances('a', 'p').value.length, 5)
  t.equal(await put('a', 0, 0), undefined)
  t.equal(await put('b', 10, 100), undefined)
  t.match(await importer.apply({ kind: 'list', names: ['a', 'b', 'c'] }), /more than the 2/)
  t.equal(await importer.apply({ kind: 'list', names: ['c'] }), undefined)
  t.equal(await put('c', 10, 100), undefined)
  for (const name of ['d', 'e', 'f']) await put(name, 0, 0)
})

void t.test('what arrives at once shares the room that is granted', async t => {
  const { put, cluster } = await importerScene(t, { services: 10, instances: 10, bytes: 1000 })
  const answers = await Promise.all(['a', 'b', 'c', 'd'].map(name => put(name, 5)))
  t.equal(answers.filter(answer => answer === 'a peer may export 10 instances at most').length, 2)
  t.equal(cluster.tables.importedServices('p').value.length, 2)
})

void t.test('entries beyond the number of services are refused', async t => {
  const { put } = await importerScene(t, { services: 1, instances: 100, bytes: 1000 })
  t.equal(await put('a', 1), undefined)
  t.equal(await put('a-sidecar-proxy', 1), undefined)
  t.equal(await put('b', 1), 'a peer may export 1 services at most')
})

void t.test('a list keeps the virtual proxies of what it names and removes every other thing', async t => {
  const { put, importer, cluster } = await importerScene(t, { services: 10, instances: 100, bytes: 1000 })
  for (const name of ['web', 'web-sidecar-proxy', 'api', 'api-sidecar-proxy']) t.equal(await put(name, 1), undefined)
  t.equal(await importer.apply({ kind: 'list', names: ['web'] }), undefined)
  t.same(
    cluster.tables.importedServices('p').value.map(each => each.service),
    ['web', 'web-sidecar-proxy'],
  )
})

void t.test('after closing nothing is stored', async t => {
  const { put, importer, cluster } = await importerScene(t, { services: 10, instances: 100, bytes: 1000 })
  await importer.close()
  t.equal(await put('web', 1), 'the peering is being closed')
  t.same(cluster.tables.importedServices('p').value, [])
})

void t.test('server addresses that cannot be dialled are refused', async t => {
  const { importer, cluster } = await importerScene(t, { services: 10, instances: 100, bytes: 1000 })
  t.match(await importer.apply({ kind: 'addresses', addresses: ['10.0.0.1:1', 'nonsense'] }), /^nonsense is not a valid/)
  t.match(await importer.apply({ kind: 'addresses', addresses: Array.from({ length: 65 }, () => 'a:1') }), /^65 addresses is not a valid/)
  t.equal(await importer.apply({ kind: 'addresses', addresses: ['10.0.0.1:1'] }), undefined)
  t.same(cluster.peerings.read('p').value?.peerServerAddresses, ['10.0.0.1:1'])
})

void t.test('a service that no message can carry shows its name without instances and hurts no other', async t => {
  const east = await Cluster.start('east')
  const west = await Cluster.start('west')
  t.teardown(() => Promise.all([east.close(), west.close()]))
  await peer(east, west)
  const meta = Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`k${i}`, 'x'.repeat(500)]))
  const register = async (from: number, to: number) => {
    for (let i = from; i < to; i += 50) {
      await Promise.all(Array.from({ length: 50 }, (_, k) => east.register(`n${(i + k) % 10}`, `big-${i + k}`, 'big', 'passing', { meta })))
    }
  }
  await register(0, 450)
  await east.register('n', 'web-1', 'web')
  await east.export({ big: ['west'], web: ['west'] })
  await until(() => (east.peerings.read('west').value?.warnings ?? []).length === 1, 10_000)
  await until(() => west.imported('web', 'east').length === 1)
  t.same(west.imported('big', 'east'), [])
  t.same(west.peerings.read('east').value?.streamStatus.importedServices, ['big', 'web'])
  t.match(east.peerings.read('west').value?.warnings, [/^big is not exported: its definitions take \d+ bytes/])
  t.match(await east.metrics.metrics(), /isthmus_peering_oversized_services\{peer="west"\} 1/)
  t.match(await east.metrics.metrics(), /isthmus_peering_state\{peer="west"\} 3/)
  t.match(await east.metrics.metrics(), /isthmus_peering_age_seconds\{peer="west"\} \d+(?:\.\d+)?/)
  await east.register('n', 'web-2', 'web')
  await until(() => west.imported('web', 'east').length === 2)
  t.equal(west.state('east'), 'ACTIVE')
})

void t.test('what is refused is told until it is put right, whatever else is fine meanwhile', async t => {
  const east = await Cluster.start('east')
  const west = await Cluster.start('west', { importLimits: { services: 10, instances: 3, bytes: 1_000_000 } })
  t.teardown(() => Promise.all([east.close(), west.close()]))
  await peer(east, west)
  for (const id of ['a', 'b', 'c', 'd']) await east.register('n', `web-${id}`, 'web')
  await east.register('n', 'api-1', 'api')
  await east.export({ web: ['west'], api: ['west'] })
  await until(() => west.imported('api', 'east').length === 1)
  await until(() => (west.peerings.read('east').value?.warnings ?? []).length > 1)
  await east.register('n', 'api-2', 'api')
  await until(() => west.imported('api', 'east').length === 2)
  await new Promise(resolve => setTimeout(resolve, 20))
  t.match(west.peerings.read('east').value?.warnings, [/^refused web from the peer: a peer may export 3 instances at most/, /web/])
  await east.catalog.deregister({ node: 'n', serviceId: 'api-1' })
  await east.catalog.deregister({ node: 'n', serviceId: 'api-2' })
  for (const id of ['a', 'b']) await east.catalog.deregister({ node: 'n', serviceId: `web-${id}` })
  await until(() => west.imported('web', 'east').length === 2)
  await east.export({ web: ['west'] })
  await until(() => (west.peerings.read('east').value?.warnings ?? []).length === 0)
})

void t.test('both sides delete at the same time', async t => {
  const east = await Cluster.start('east')
  const west = await Cluster.start('west')
  t.teardown(() => Promise.all([east.close(), west.close()]))
  await peer(east, west)
  await Promise.all([east.peerings.delete('west'), west.peerings.delete('east')])
  await until(() => east.state('west') === undefined && west.state('east') === undefined)
})

void t.test('a peer is never seen through another', async t => {
  const east = await Cluster.start('east')
  const west = await Cluster.start('west')
  const south = await Cluster.start('south')
  t.teardown(() => Promise.all([east.close(), west.close(), south.close()]))
  await peer(east, west)
  await peer(west, south)
  await east.register('n', 'web-1', 'web')
  await east.export({ web: ['west'] })
  await until(() => west.imported('web', 'east').length === 1)
  await west.register('n', 'api-1', 'api')
  await west.export({ '*': ['south'] })
  await until(() => south.imported('api', 'west').length === 1)
  t.same(
    south.tables.importedServices('west').value.map(each => each.service),
    ['api'],
  )
  t.same(south.peerings.read('west').value?.streamStatus.importedServices, ['api'])
})
