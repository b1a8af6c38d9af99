/**
 * Bugs of peering that others have had, by name: those of the stream and of what lies behind it, over real sockets. Beside it:
 * known-bugs-proxies (what proxies are told), known-bugs-http (what readers see), known-bugs-mesh (what requests meet); `no fail-back`
 * is in test/proxy/chain.test.ts.
 */
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { Metadata, status } from '@grpc/grpc-js'
import t, { type Test } from 'tap'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { decodeToken, encodeToken } from '../../../src/mesh/peering-token.ts'
import { Status } from '../../../src/wire/gen/status.ts'
import { ExportedService, ExportedServiceList, LeaderAddress } from '../../../src/wire/gen/peerstream.ts'
import { heartbeat, typeUrls, upsert } from '../../../src/wire/peer-stream.ts'
import { Caller } from '../grpc/client.ts'
import { Cluster, peer, until } from './cluster.ts'
import { endCall, fakeAcceptor, fakeToken } from './fake-acceptor.ts'

async function clusters<const N extends readonly string[]>(t: Test, ...names: N): Promise<{ [K in keyof N]: Cluster }> {
  const made = await Promise.all(names.map(name => Cluster.start(name, { allowPlaintext: true })))
  t.teardown(() => Promise.all(made.map(each => each.close())))
  return made as { [K in keyof N]: Cluster }
}

async function listen(t: Test, server: Server): Promise<number> {
  const open = new Set<Socket>()
  server.on('connection', socket => open.add(socket.on('error', () => undefined)))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of open) socket.destroy()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

/** A port that leads to another one until it is cut. */
async function forwarder(t: Test, to: () => number): Promise<{ port: number; cut(): void }> {
  const open = new Set<Socket>()
  const server = createServer(socket => {
    const onward = connect(to(), '127.0.0.1')
    for (const each of [socket, onward]) open.add(each.on('error', () => undefined))
    socket.pipe(onward).pipe(socket)
  })
  const port = await listen(t, server)
  const cut = () => {
    server.close()
    for (const socket of open) socket.destroy()
  }
  return { port, cut }
}

/** Peered, and east exports web with the given instances. */
async function exporting(t: Test, ...instances: string[]): Promise<[east: Cluster, west: Cluster]> {
  const [east, west] = await clusters(t, 'east', 'west')
  for (const id of instances) await east.register('n', id, 'web')
  await east.export({ web: ['west'] })
  await peer(east, west)
  await until(() => west.imported('web', 'east').length === instances.length)
  return [east, west]
}

const service = (name: string, nonce: string, value: Parameters<typeof ExportedService.fromPartial>[0]) =>
  upsert(typeUrls.service, name, nonce, ExportedService.encode(ExportedService.fromPartial(value)).finish())

t.test('follower dial: a server that does not lead sends the dialer on at once, and the address it names is not dialled', async t => {
  let raftDials = 0
  const raft = await listen(
    t,
    createServer(() => (raftDials += 1)),
  )
  const [east, west] = await clusters(t, 'east', 'west')
  const details = {
    typeUrl: 'type.googleapis.com/hashicorp.consul.internal.peerstream.LeaderAddress',
    value: Buffer.from(LeaderAddress.encode({ address: `127.0.0.1:${raft}` }).finish()),
  }
  const text = 'cannot establish a peering stream on a follower node'
  const metadata = new Metadata()
  const bytes = Status.encode(Status.fromPartial({ code: 9, message: text, details: [details] })).finish()
  metadata.set('grpc-status-details-bin', Buffer.from(bytes))
  const refuse = (call: Parameters<typeof endCall>[0]) => endCall(call, status.FAILED_PRECONDITION, text, metadata)
  const follower = await fakeAcceptor(t, refuse, { takesSecrets: false })
  const token = decodeToken(await east.peerings.generateToken({ peerName: 'west' }))
  if (!token.ok) throw new Error(token.message)
  const serverAddresses = [follower.address, `127.0.0.1:${east.door!.plaintextPort}`]
  await west.peerings.establish({ peerName: 'east', peeringToken: encodeToken({ ...token.token, ca: [], serverAddresses }) })
  t.ok((await until(() => west.state('east') === 'ACTIVE')) < 1000)
  t.equal(follower.streams.length, 1)
  t.equal(raftDials, 0)
})

t.test('address changes: servers that come and go reach the dialer, which finds the ones that are left', async t => {
  const [east, west] = await clusters(t, 'east', 'west')
  const [first, second] = await Promise.all([1, 2].map(() => forwarder(t, () => east.door!.port)))
  const server = (node: string, port: number, address = '127.0.0.1') =>
    east.catalog.register({
      node,
      address,
      service: { id: 'consul', service: 'consul', port: 8300, meta: { grpc_tls_port: String(port) } },
    })
  const own = `127.0.0.1:${east.door!.port}`
  const token = decodeToken(await east.peerings.generateToken({ peerName: 'west' }))
  if (!token.ok) throw new Error(token.message)
  await west.peerings.establish({
    peerName: 'east',
    peeringToken: encodeToken({ ...token.token, serverAddresses: [`127.0.0.1:${first!.port}`] }),
  })
  const known = () => west.peerings.read('east').value?.peerServerAddresses
  await until(() => west.state('east') === 'ACTIVE' && known()?.[0] === own)
  await server('s2', second!.port)
  await server('s3', 1, '127.0.0.9')
  await until(() => known()?.length === 3)
  t.same(known(), [own, `127.0.0.1:${second!.port}`, '127.0.0.9:1'])
  await east.catalog.deregister({ node: 's3' })
  await until(() => known()?.length === 2)
  first!.cut()
  await until(() => west.state('east') === 'FAILING')
  await until(() => west.state('east') === 'ACTIVE')
  await east.catalog.deregister({ node: 's2' })
  await until(() => known()?.length === 1)
  t.same(known(), [own])
})

t.test('recreate after TERMINATED: a new token begins anew under the old name, on either side', async t => {
  const [east, west] = await exporting(t, 'web-1')
  for (const [ending, ended] of [
    [east, west],
    [west, east],
  ] as const) {
    await ending.peerings.delete(ended.datacenter)
    await until(() => ended.state(ending.datacenter) === 'TERMINATED' && ending.state(ended.datacenter) === undefined)
    await until(() => west.imported('web', 'east').length === 0)
    await peer(east, west)
    await until(() => west.imported('web', 'east').length === 1)
  }
  t.same(west.imported('web', 'east'), ['web-1 passing'])
})

t.test('un-export while down: what was withdrawn while nobody listened is gone when the stream is back', async t => {
  const [east, west] = await exporting(t, 'web-1')
  for (const away of [west, east]) {
    await east.export({ web: ['west'], api: ['west'] })
    await until(() => west.imported('web', 'east').length === 1)
    if (away === west) await west.stop()
    await east.export({ api: ['west'] })
    // The second time the exporter is what was away, and comes back with less than it went with.
    if (away === east) await east.stop()
    await away.start()
    await until(() => west.state('east') === 'ACTIVE' && west.imported('web', 'east').length === 0)
  }
  t.same(west.tables.importedServices('east').value, [])
})

// The other direction, a service of ours that no peer could take, is in hostile.test.ts: its name is shown without instances.
t.test('over 8 MB: a dialer takes what no real one would, and its stream stays', async t => {
  const [west] = await clusters(t, 'west')
  const tags = Array.from({ length: 40 }, (_, i) => `${i}-${'x'.repeat(120)}`)
  const Nodes = Array.from({ length: 1800 }, (_, i) => ({
    Node: { Node: `n${i}`, Address: '10.0.0.1' },
    Service: { ID: `big-${i}`, Service: 'big', Tags: tags },
  }))
  const big = service('big', '1', { Nodes })
  const list = upsert(typeUrls.list, 'exported-service-list', '2', ExportedServiceList.encode({ Services: ['big', 'web'] }).finish())
  const web = service('web', '3', { Nodes: [{ Node: { Node: 'n' }, Service: { ID: 'web-1', Service: 'web' } }] })
  const { streams, address } = await fakeAcceptor(t, call => {
    for (const message of [list, big, web]) call.write(message)
  })
  const sent = big.Payload?.$case === 'response' ? big.Payload.value.Resource!.value.length : 0
  t.ok(sent > 8 * 1024 * 1024, `${sent} bytes`)
  await west.peerings.establish({ peerName: 'east', peeringToken: fakeToken(address) })
  await until(() => west.imported('big', 'east').length === 1800 && west.imported('web', 'east').length === 1, 15_000)
  t.equal(streams.length, 1, 'one stream, the first')
})

t.test('deleting a peer hits local data: what is ours under the same names stays as it is', async t => {
  const [east, west] = await exporting(t, 'web-1')
  await west.register('n', 'web-1', 'web', 'warning', { tags: ['ours'] })
  await west.export({ web: ['east'] })
  await until(() => east.imported('web', 'west').length === 1)
  const local = () => JSON.stringify([west.tables.instances('web').value, west.tables.nodes().value, west.tables.configEntries().value])
  const before = local()
  await west.peerings.delete('east')
  await until(() => west.state('east') === undefined && west.imported('web', 'east').length === 0)
  t.equal(local(), before)
  t.same(east.tables.instances('web').value.length, 1, 'nor what is of the other cluster there')
})

t.test('importing partition: partition, namespace and peer are ours to say, whatever was sent', async t => {
  const [west] = await clusters(t, 'west')
  const theirs = { Namespace: 'their-namespace', Partition: 'their-partition' }
  const node = { Node: 'n', Address: '10.0.0.1', Partition: 'their-partition', PeerName: 'somebody' }
  const check = { Node: 'n', CheckID: 'c', Status: 'passing', ServiceID: 'web-1', PeerName: 'somebody', EnterpriseMeta: theirs }
  const Nodes = [{ Node: node, Service: { ID: 'web-1', Service: 'web', PeerName: 'somebody', EnterpriseMeta: theirs }, Checks: [check] }]
  const { address } = await fakeAcceptor(t, call => void call.write(service('web', '1', { Nodes })))
  await west.peerings.establish({ peerName: 'east', peeringToken: fakeToken(address) })
  await until(() => west.imported('web', 'east').length === 1)
  const [instance] = west.tables.instances('web', 'east').value
  t.same([instance!.node.peerName, instance!.service.peerName, instance!.checks[0]!.peerName], ['east', 'east', 'east'])
  t.notMatch(JSON.stringify(instance), /their-|somebody/)
  t.same(west.tables.instances('web', 'somebody').value, [])
})

t.test('wrong deregistration: nodes that share an id, or a name in another case, do not push each other out', async t => {
  const [west] = await clusters(t, 'west')
  const ID = '11111111-2222-4333-8444-555555555555'
  const on = (Node: string, id: string, name: string, Address = '10.0.0.1') => ({
    Node: { ID, Node, Address },
    Service: { ID: id, Service: name },
  })
  const { address } = await fakeAcceptor(t, call => {
    call.write(service('web', '1', { Nodes: [on('a', 'web-1', 'web'), on('b', 'web-2', 'web', '10.0.0.2')] }))
    call.write(service('api', '2', { Nodes: [on('c', 'api-1', 'api', '10.0.0.3'), on('A', 'api-2', 'api', '10.0.0.4')] }))
  })
  await west.peerings.establish({ peerName: 'east', peeringToken: fakeToken(address) })
  const seen = () =>
    ['web', 'api'].flatMap(name =>
      west.tables.instances(name, 'east').value.map(each => `${each.service.id} on ${each.node.node} at ${each.node.address}`),
    )
  await until(() => seen().length === 4)
  t.same(seen(), ['web-1 on a at 10.0.0.1', 'web-2 on b at 10.0.0.2', 'api-2 on A at 10.0.0.4', 'api-1 on c at 10.0.0.3'])
})

t.test('wrong deregistration: what goes takes nothing along that shares its node, its id or its peer', async t => {
  const [east, west, third] = await clusters(t, 'east', 'west', 'third')
  for (const exporter of [east, third]) {
    await exporter.register('n', 'web-1', 'web')
    await exporter.register('n', 'web-2', 'web')
    await exporter.register('n', 'api-1', 'api')
    await exporter.export({ web: ['west'], api: ['west'] })
    await peer(exporter, west)
  }
  await west.register('n', 'web-1', 'web')
  const seen = () => ['', 'east', 'third'].map(name => [west.imported('web', name), west.imported('api', name)].flat().join(', '))
  const all = 'web-1 passing, web-2 passing, api-1 passing'
  await until(() => seen().join(' / ') === `web-1 passing / ${all} / ${all}`)
  await east.catalog.deregister({ node: 'n', serviceId: 'web-1' })
  await until(() => west.imported('web', 'east').length === 1)
  t.same(seen(), ['web-1 passing', 'web-2 passing, api-1 passing', all])
  await east.export({ api: ['west'] })
  await until(() => west.imported('web', 'east').length === 0)
  t.same(seen(), ['web-1 passing', 'api-1 passing', all])
  await west.catalog.deregister({ node: 'n' })
  t.same(seen(), ['', 'api-1 passing', all])
})

t.test('export change: a consumer that is added, moved or removed is served from that moment, without a new stream', async t => {
  const [east, west, third] = await clusters(t, 'east', 'west', 'third')
  await east.register('n', 'web-1', 'web')
  await peer(east, west)
  await peer(east, third)
  const counts = () => [west, third].map(each => each.imported('web', 'east').length).join()
  const ends = () => [west, third].map(each => each.peerings.read('east').value?.warnings)
  for (const [consumers, expected] of [
    [['west'], '1,0'],
    [['third'], '0,1'],
    [['west', 'third'], '1,1'],
    [[], '0,0'],
  ] as const) {
    await east.export(consumers.length === 0 ? {} : { web: [...consumers] })
    await until(() => counts() === expected)
  }
  await east.export({ '*': ['west'] })
  await until(() => counts() === '1,0')
  await east.configEntries.delete('exported-services', 'default')
  await until(() => counts() === '0,0')
  t.same(ends(), [[], []])
})

t.test('cleanup after loss of leadership: what a stop interrupted is finished by whoever starts', async t => {
  const [east, west] = await exporting(t, 'web-1')
  const record = (state: string) => {
    const value = Buffer.from(JSON.stringify({ ...west.tables.peering('east').value, state }))
    return west.store.txn({ ops: [{ op: 'put', key: keys.peering('east'), value }] })
  }
  // The word of the peer that it is over was written, and then the process was gone.
  await record('TERMINATED')
  await west.stop()
  await west.start()
  await until(() => west.tables.importedServices('east').value.length === 0 && west.tables.trustBundle('east').value === undefined)
  t.equal(west.state('east'), 'TERMINATED')

  await peer(east, west)
  await until(() => west.imported('web', 'east').length === 1)
  await record('DELETING')
  await west.stop()
  await west.start()
  await until(() => west.state('east') === undefined && west.tables.importedServices('east').value.length === 0)
  t.equal(west.tables.trustBundle('east').value, undefined)
})

t.test('watch cancelled: after an end of anything that is watched its return is seen, and every change after it', async t => {
  const [east, west] = await exporting(t, 'web-1')
  const sidecar = { kind: 'connect-proxy', proxy: { destinationServiceName: 'web', mode: '', meshGateway: {}, expose: {} } }
  const proxies = () => west.tables.connectInstances('web', 'east').value.length
  const flips = async (why: string) => {
    for (const status of ['critical', 'passing']) {
      await east.register('n', 'web-1', 'web', status)
      await until(() => west.imported('web', 'east')[0] === `web-1 ${status}`)
    }
    t.pass(why)
  }
  await east.export({})
  await until(() => west.imported('web', 'east').length === 0)
  await east.export({ web: ['west'] })
  await flips('exported again')
  await east.catalog.deregister({ node: 'n', serviceId: 'web-1' })
  await until(() => west.imported('web', 'east').length === 0)
  await flips('registered again')
  await east.configEntries.delete('exported-services', 'default')
  await until(() => west.imported('web', 'east').length === 0)
  await east.export({ '*': ['west'] })
  await flips('exported again by the wildcard')
  await east.register('n', 'side', 'web-sidecar-proxy', 'passing', sidecar)
  for (const _ of [1, 2]) {
    await east.register('g', 'gw', 'mesh-gateway', 'passing', { kind: 'mesh-gateway', address: '10.0.0.9', port: 8443 })
    await until(() => proxies() === 1)
    await east.catalog.deregister({ node: 'g' })
    await until(() => proxies() === 0)
  }
  t.pass('a gateway came back')
  await west.stop()
  await west.start()
  await flips('on a new stream')
})

t.test('frozen ACTIVE: a stream on which the other side has said nothing is not ACTIVE, on either side', async t => {
  const [west] = await clusters(t, 'west')
  const { streams, address } = await fakeAcceptor(t, () => undefined)
  await west.peerings.establish({ peerName: 'east', peeringToken: fakeToken(address) })
  await until(() => streams.length === 1)
  await new Promise(resolve => setTimeout(resolve, 150))
  t.equal(west.state('east'), 'ESTABLISHING')
  streams[0]!.write(heartbeat)
  await until(() => west.state('east') === 'ACTIVE')

  const caller = new Caller(west.door!.plaintextPort!)
  t.teardown(() => caller.close())
  const token = decodeToken(await west.peerings.generateToken({ peerName: 'mute' }))
  if (!token.ok) throw new Error(token.message)
  const answer = await caller.exchange({ PeerID: token.token.peerId, EstablishmentSecret: token.token.establishmentSecret })
  if (!('secret' in answer)) throw new Error(answer.details)
  const value = { PeerID: token.token.peerId, StreamSecretID: answer.secret, Remote: undefined }
  const stream = caller.stream({ Payload: { $case: 'open', value } })
  await until(() => stream.received.length > 0)
  t.equal(west.state('mute'), 'PENDING')
  stream.call.write(heartbeat)
  await until(() => west.state('mute') === 'ACTIVE')
  stream.call.cancel()
  await until(() => west.state('mute') === 'FAILING')
})

t.end()
