/** Two clusters in one process, peered over real gRPC and TLS on loopback. */
import t from 'tap'
import { Cluster, peer, until } from './cluster.ts'

void t.test('a peering from token to the end', async t => {
  const east = await Cluster.start('east')
  const west = await Cluster.start('west')
  t.teardown(async () => {
    await west.close()
    await east.close()
  })

  await t.test('a token makes a pending peering', async t => {
    t.match(await east.peerings.generateToken({ peerName: 'west' }), /^[A-Za-z0-9+/]+=*$/)
    t.equal(east.state('west'), 'PENDING')
  })

  await t.test('establishing shows ESTABLISHING, then both are ACTIVE and know each other', async t => {
    const peeringToken = await east.peerings.generateToken({ peerName: 'west' })
    await west.peerings.establish({ peerName: 'east', peeringToken, meta: { owner: 'ops' } })
    t.equal(west.state('east'), 'ESTABLISHING')
    await until(() => west.state('east') === 'ACTIVE' && east.state('west') === 'ACTIVE')
    await until(() => east.tables.trustBundle('west').value !== undefined && west.tables.trustBundle('east').value !== undefined)
    t.match(east.tables.trustBundle('west').value, { trustDomain: west.ca.trustDomain })
    t.match(west.tables.trustBundle('east').value, { trustDomain: east.ca.trustDomain })
    t.match(east.peerings.read('west').value, { remote: { datacenter: 'west' } })
    t.match(west.peerings.read('east').value, {
      remote: { datacenter: 'east' },
      meta: { owner: 'ops' },
      peerId: east.peerings.read('west').value?.id,
    })
  })

  await t.test('an exported service arrives within a second, in both directions', async t => {
    await east.register('n1', 'web-1', 'web')
    await east.export({ web: ['west'] })
    t.ok((await until(() => west.imported('web', 'east').length > 0)) < 1000)
    t.same(west.imported('web', 'east'), ['web-1 passing'])
    t.same(west.peerings.read('east').value?.streamStatus.importedServices, ['web'])
    t.same(east.peerings.read('west').value?.streamStatus.exportedServices, ['web'])
    await west.register('n1', 'api-1', 'api')
    await west.export({ api: ['east'] })
    await until(() => east.imported('api', 'west').length > 0)
    t.same(east.imported('api', 'west'), ['api-1 passing'])
    t.same(west.tables.instances('web').value, [], 'nothing imported is local')
  })

  await t.test('a change of health arrives within a second', async t => {
    await east.register('n1', 'web-1', 'web', 'critical')
    t.ok((await until(() => west.imported('web', 'east')[0] === 'web-1 critical')) < 1000)
  })

  await t.test('a mesh service has a virtual proxy for each gateway, with the name of the exporter for the importer', async t => {
    await east.catalog.register({
      node: 'gw-node',
      address: '10.9.9.9',
      service: { kind: 'mesh-gateway', id: 'gw', service: 'mesh-gateway', address: '10.9.9.9', port: 8443 },
    })
    await east.catalog.register({
      node: 'n1',
      address: '10.0.0.1',
      service: {
        kind: 'connect-proxy',
        id: 'web-1-sidecar-proxy',
        service: 'web-sidecar-proxy',
        port: 21000,
        proxy: { destinationServiceName: 'web', destinationServiceId: 'web-1', mode: '', meshGateway: {}, expose: {} },
      },
    })
    await until(() => west.tables.connectInstances('web', 'east').value.length > 0)
    t.match(west.tables.connectInstances('web', 'east').value, [
      {
        node: { node: 'gw-node', peerName: 'east' },
        service: {
          kind: 'connect-proxy',
          id: 'web-sidecar-proxy-instance-0',
          address: '10.9.9.9',
          port: 8443,
          connect: { peerMeta: { sni: [`web.default.default.west.external.${east.ca.trustDomain}`], protocol: 'tcp' } },
        },
      },
    ])
  })

  await t.test('un-exporting removes it, and another takes its place', async t => {
    await east.register('n2', 'db-1', 'db')
    await east.export({ db: ['west'] })
    t.ok((await until(() => west.imported('web', 'east').length === 0 && west.imported('db', 'east').length === 1)) < 1000)
    t.same(west.tables.connectInstances('web', 'east').value, [])
    t.same(
      west.tables.importedServices('east').value.map(each => each.service),
      ['db'],
    )
  })

  await t.test('when the acceptor is gone the dialer fails, keeps what it knows, and comes back', async t => {
    await east.stop()
    await until(() => west.state('east') === 'FAILING')
    t.same(west.imported('db', 'east'), ['db-1 passing'])
    await east.start()
    t.equal(east.state('west'), 'PENDING')
    await until(() => west.state('east') === 'ACTIVE' && east.state('west') === 'ACTIVE')
    await east.register('n2', 'db-2', 'db')
    await until(() => west.imported('db', 'east').length === 2)
  })

  await t.test('when the dialer is gone the acceptor fails, and it dials again after its restart', async () => {
    await west.stop()
    await until(() => east.state('west') === 'FAILING')
    await west.start()
    await until(() => west.state('east') === 'ACTIVE' && east.state('west') === 'ACTIVE')
  })

  await t.test('after a rotation of the CA the bundle follows, and the next stream is verified by it', async t => {
    await east.ca.rotate()
    await until(() => west.tables.trustBundle('east').value?.rootPems.length === 2)
    t.equal(west.state('east'), 'ACTIVE', 'the running stream is not disturbed')
    t.equal(west.peerings.read('east').value?.peerCaPems?.length, 2)
    await east.stop()
    await east.start()
    await until(() => west.state('east') === 'ACTIVE')
  })

  await t.test('deleting at one side ends it at the other and takes the imports away', async t => {
    await east.peerings.delete('west')
    await until(() => west.state('east') === 'TERMINATED' && east.state('west') === undefined)
    await until(() => west.tables.importedServices('east').value.length === 0)
    await until(() => west.tables.trustBundle('east').value === undefined)
    t.same(east.tables.importedServices('west').value, [])
    t.same(east.imported('api', 'west'), [])
    t.equal(east.tables.instances('db').value.length, 2, 'nothing local is touched')
  })

  await t.test('a terminated dialer establishes again with a new token', async () => {
    await peer(east, west)
    await until(() => west.imported('db', 'east').length === 2 && east.imported('api', 'west').length === 1)
  })

  await t.test('deleting at the dialer ends it at the acceptor', async () => {
    await west.peerings.delete('east')
    await until(() => east.state('west') === 'TERMINATED' && west.state('east') === undefined)
    await until(() => east.tables.importedServices('west').value.length === 0)
  })
})

void t.test('a peer that was built anew is taken under its old name with a new token, by either side', async t => {
  const east = await Cluster.start('east')
  const west = await Cluster.start('west')
  const rebuiltEast = await Cluster.start('east')
  const rebuiltWest = await Cluster.start('west')
  t.teardown(() => Promise.all([east, west, rebuiltEast, rebuiltWest].map(each => each.close())))
  await east.register('n', 'web-1', 'web')
  await east.export({ web: ['west'] })
  await west.register('n', 'api-1', 'api')
  await west.export({ api: ['east'] })
  await peer(east, west)
  await until(() => west.imported('web', 'east').length === 1 && east.imported('api', 'west').length === 1)
  await until(() => west.tables.trustBundle('east').value !== undefined && east.tables.trustBundle('west').value !== undefined)

  // The acceptor is gone; the dialer takes the token of its successor.
  await east.stop()
  await peer(rebuiltEast, west)
  await until(() => west.tables.trustBundle('east').value?.trustDomain === rebuiltEast.ca.trustDomain)
  await until(() => west.imported('web', 'east').length === 0)
  t.same(west.peerings.read('east').value?.warnings, [])

  // The dialer is gone, or even is not: who has spent the newest token is the peer.
  await peer(rebuiltEast, rebuiltWest)
  await until(() => rebuiltEast.tables.trustBundle('west').value?.trustDomain === rebuiltWest.ca.trustDomain)
  await until(() => west.state('east') === 'FAILING')
  t.equal(rebuiltEast.state('west'), 'ACTIVE')
})

void t.test('a peering under a second name works as soon as the first is deleted', async t => {
  const [east, west] = [await Cluster.start('east'), await Cluster.start('west')]
  t.teardown(() => Promise.all([east.close(), west.close()]))
  await peer(east, west)
  await until(() => west.tables.trustBundle('east').value !== undefined)
  const peeringToken = await east.peerings.generateToken({ peerName: 'west-renamed' })
  await west.peerings.establish({ peerName: 'east-renamed', peeringToken })
  await until(() => (west.peerings.read('east-renamed').value?.warnings ?? []).length > 0)
  await west.peerings.delete('east')
  await until(() => west.tables.trustBundle('east-renamed').value?.trustDomain === east.ca.trustDomain)
  await until(() => west.state('east-renamed') === 'ACTIVE')
})

void t.test('a dialer that was away for several rotations comes back by itself', async t => {
  const [east, west] = [await Cluster.start('east'), await Cluster.start('west')]
  t.teardown(() => Promise.all([east.close(), west.close()]))
  await peer(east, west)
  await until(() => west.tables.trustBundle('east').value?.rootPems.length === 1)
  await west.stop()
  for (let i = 0; i < 3; i += 1) await east.ca.rotate()
  await west.start()
  await until(() => west.state('east') === 'ACTIVE')
  await until(() => west.tables.trustBundle('east').value?.rootPems.length === 4)
})
