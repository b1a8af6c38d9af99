/** What a peer gets to know: the shapes that a real exporter sent for the same catalog, and what must not be in them. */
import { setImmediate } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { Exporter } from '../../../src/agent/peering/exporter.ts'
import type { Offered } from '../../../src/agent/peering/offer.ts'
import { fromWire } from '../../../src/agent/peering/replica.ts'
import { PeeringServerAddresses, PeeringTrustBundle } from '../../../src/wire/gen/peering.ts'
import { ExportedService, ExportedServiceList } from '../../../src/wire/gen/peerstream.ts'
import { recordedMessages } from '../../wire/recordings.ts'
import { entryOf } from '../../support/chain-entries.ts'
import { Cluster } from './cluster.ts'
import { Dice } from './simulation/dice.ts'

/** Every ExportedService of a recording, the last of each id. */
function recordedServices(file: string): Map<string, ExportedService> {
  const services = new Map<string, ExportedService>()
  for (const { message } of recordedMessages(file)) {
    const response = message.Payload?.$case === 'response' ? message.Payload.value : undefined
    if (!response?.Resource?.typeUrl.endsWith('.ExportedService')) continue
    const service = ExportedService.decode(response.Resource.value)
    if (service.Nodes.length > 0) services.set(response.ResourceID, service)
  }
  return services
}

async function scene(t: Test, clusterId?: string) {
  const cluster = await Cluster.start('dc1', {}, clusterId)
  t.teardown(() => cluster.close())
  const fresh = (): Exporter =>
    new Exporter({
      tables: cluster.tables,
      ca: cluster.ca,
      datacenter: 'dc1',
      peer: 'shape',
      serverAddresses: () => ({ value: ['127.0.0.1:8503'], index: 1, topics: [] }),
    })
  const exporter = fresh()
  const read = () => {
    const { offer } = exporter.read()
    const services = Array.from(offer.services, ([id, { value }]): [string, ExportedService] => [id, ExportedService.decode(value)])
    return { offer, services: new Map(services) }
  }
  return { cluster, exporter, fresh, read }
}

/** Without the order of maps, which Go makes at random. */
function plain(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (_, each: unknown) =>
      each instanceof Map ? Array.from(each).toSorted((a, b) => (String(a) < String(b) ? -1 : 1)) : each,
    ),
  )
}

const ids = (service: ExportedService | undefined) => service?.Nodes.map(({ Service }) => Service?.ID)

void t.test('the recorded catalog is exported as real Consul exported it', async t => {
  const recorded = recordedServices('02-fake-dialer--06-export-shapes.json')
  const { cluster, read } = await scene(t, '2d80ffb5-a126-5474-aee0-a74880aacda5')
  const gateways = recorded.get('websvc-sidecar-proxy')!
  for (const name of ['legacy', 'websvc', 'extdb']) {
    const instances = fromWire(recorded.get(name)!.Nodes, name, '')
    if (!instances.ok) throw new Error(instances.message)
    for (const { node, service, checks } of instances.value) {
      const status = checks[0]?.status
      await cluster.catalog.register({
        ...node,
        peerName: undefined,
        nodeMeta: node.meta,
        taggedAddresses: node.taggedAddresses,
        service: { ...service, peerName: '' },
        ...(status && { check: { checkId: `${service.id}-ttl`, name: 'ttl', status, serviceId: service.id, output: 'secret output' } }),
      })
    }
  }
  for (const [i, { Node, Service, Checks }] of gateways.Nodes.entries()) {
    await cluster.catalog.register({
      node: Node!.Node,
      id: Node!.ID,
      address: Node!.Address,
      taggedAddresses: Object.fromEntries(Node!.TaggedAddresses),
      nodeMeta: Object.fromEntries(Node!.Meta),
      service: {
        kind: 'mesh-gateway',
        id: `gateway-${i}`,
        service: 'mesh-gateway',
        address: Service!.Address,
        port: Service!.Port,
        weights: { passing: Service!.Weights!.Passing, warning: Service!.Weights!.Warning },
        taggedAddresses: Object.fromEntries(Array.from(Service!.TaggedAddresses, ([k, v]) => [k, { address: v.Address, port: v.Port }])),
      },
      ...(Checks[0] && { check: { checkId: `gateway-${i}-ttl`, name: 'ttl', status: Checks[0].Status, serviceId: `gateway-${i}` } }),
    })
  }
  await cluster.catalog.register({
    node: 'dc1-server',
    address: '127.0.1.1',
    skipNodeUpdate: true,
    service: {
      kind: 'connect-proxy',
      id: 'websvc-1-sidecar-proxy',
      service: 'websvc-sidecar-proxy',
      port: 21_000,
      proxy: { destinationServiceName: 'websvc', destinationServiceId: 'websvc-1', mode: '', meshGateway: {}, expose: {} },
    },
  })
  await cluster.configEntries.write(entryOf({ Kind: 'service-defaults', Name: 'websvc', Protocol: 'http' }))
  await cluster.export({ legacy: ['shape'], websvc: ['shape'], extdb: ['shape'], other: ['somebody-else'] })
  const { services, offer } = read()
  t.same(offer.names, ['extdb', 'legacy', 'websvc'])
  for (const id of ['legacy', 'websvc', 'extdb', 'websvc-sidecar-proxy']) t.same(plain(services.get(id)), plain(recorded.get(id)), id)
  t.same(
    Array.from(services)
      .flatMap(([id, { Nodes }]) => (Nodes.length > 0 ? [id] : []))
      .toSorted(),
    ['extdb', 'legacy', 'websvc', 'websvc-sidecar-proxy'],
  )
})

void t.test('names given exactly are exported though nothing is registered, and only to the peer that is named', async t => {
  const { cluster, read } = await scene(t)
  await cluster.register('n', 'web-1', 'web')
  await cluster.export({ web: ['other'], ghost: ['shape', 'other'] })
  const { services, offer } = read()
  t.same(offer.names, ['ghost'])
  t.same(Array.from(services.keys()).toSorted(), ['ghost', 'ghost-sidecar-proxy'])
  t.equal(
    offer.services.get('ghost-sidecar-proxy')?.value.length,
    0,
    'nor has it a virtual proxy, should the peer know one of an earlier stream',
  )
  t.equal(offer.services.get('ghost')?.value.length, 0)
  t.same(ExportedServiceList.decode(offer.list.value).Services, ['ghost'])
})

void t.test('* exports every ordinary service, and neither consul nor proxies nor gateways', async t => {
  const { cluster, read } = await scene(t)
  await cluster.register('n', 'web-1', 'web')
  await cluster.register('n', 'consul-1', 'consul')
  await cluster.register('n', 'web-proxy', 'web-sidecar-proxy', 'passing', {
    kind: 'connect-proxy',
    proxy: { destinationServiceName: 'web', destinationServiceId: 'web-1', mode: '', meshGateway: {}, expose: {} },
  })
  await cluster.register('n', 'gw', 'mesh-gateway', 'passing', { kind: 'mesh-gateway' })
  await cluster.export({ '*': ['shape'] })
  const { services, offer } = read()
  t.same(offer.names, ['web'])
  t.same(Array.from(services.keys()).toSorted(), ['web', 'web-sidecar-proxy'])
  t.same(ids(services.get('web')), ['web-1'])
  await cluster.catalog.deregister({ node: 'n', serviceId: 'web-1' })
  t.same(read().offer.names, [])
})

void t.test('without a gateway a mesh service is an empty virtual proxy', async t => {
  const { cluster, read } = await scene(t)
  await cluster.register('n', 'api-1', 'api', 'passing', { connect: { native: true } })
  await cluster.export({ api: ['shape'] })
  t.same(ids(read().services.get('api-sidecar-proxy')), [])
  t.same(ids(read().services.get('api')), ['api-1'])
  t.equal(read().services.get('api')?.Nodes[0]?.Service?.Connect, undefined)
})

void t.test('an id that two nodes have is not sent: a real importer would forget the first of them', async t => {
  const { cluster, read } = await scene(t)
  const id = '11111111-2222-4333-8444-555555555555'
  const node = async (name: string, given: string) => {
    await cluster.catalog.register({ node: name, id: given, address: '10.0.0.1', service: { id: `web-${name}`, service: 'web' } })
  }
  await cluster.export({ web: ['shape'] })
  await node('a', id)
  await node('b', id.replaceAll('1', '9'))
  const sent = () =>
    read()
      .services.get('web')!
      .Nodes.map(({ Node }) => `${Node!.Node} ${Node!.ID}`)
  t.same(sent(), [`a ${id}`, `b ${id.replaceAll('1', '9')}`])
  await node('b', id)
  t.same(sent(), ['a ', 'b '])
  await cluster.catalog.deregister({ node: 'b' })
  t.same(sent(), [`a ${id}`])
})

void t.test('one change encodes one service anew', async t => {
  const { cluster, read } = await scene(t)
  await cluster.register('n', 'web-1', 'web')
  await cluster.register('m', 'api-1', 'api')
  await cluster.export({ '*': ['shape'] })
  const before = read().offer
  await cluster.register('n', 'web-1', 'web', 'critical')
  const after = read().offer
  t.equal(after.services.get('api'), before.services.get('api'))
  t.not(after.services.get('web'), before.services.get('web'))
  t.equal(after.list, before.list)
})

void t.test('what is brought up to date is what a new exporter reads, and names all that is another', async t => {
  const { cluster, exporter, fresh } = await scene(t)
  await cluster.export({ '*': ['shape'], ghost: ['shape'] })
  const told = new Map<string, string>()
  let amended = 0
  let { offer, topics } = exporter.read()
  let waitedOn = topics
  const take = (): void => {
    if (offer.changed) amended += 1
    else told.clear()
    for (const id of offer.changed ?? offer.services.keys()) told.set(id, hex(offer.services.get(id)))
  }
  take()
  const subscription = cluster.tables.subscribe(
    () => (waitedOn = topics),
    changed => {
      ;({ offer, topics } = exporter.read({ changed, waitedOn, offer }))
      take()
    },
  )
  t.teardown(() => subscription.close())
  const dice = new Dice(7)
  for (let i = 0; i < 300; i += 1) {
    await happen(cluster, dice)
    await setImmediate()
    await setImmediate()
    const expected = fresh().read().offer
    t.same(offer.names, expected.names)
    const all = Array.from(expected.services, ([id, each]): [string, string] => [id, hex(each)])
    t.same(Object.fromEntries(told), Object.fromEntries(all), `after ${i + 1} changes`)
  }
  t.ok(amended > 40, `${amended} readings looked at what had changed alone`)
})

function hex(offered: Offered | undefined): string {
  return Buffer.from(offered!.value).toString('hex')
}

/** Something that changes what is exported, or does not. */
async function happen(cluster: Cluster, dice: Dice): Promise<void> {
  const [node, name] = [dice.pick(['a', 'b', 'c']), dice.pick(['web', 'api', 'db', 'consul', 'web-sidecar-proxy'])]
  const status = dice.pick(['passing', 'warning', 'critical'])
  const id = `11111111-2222-4333-8444-55555555555${dice.pick(['5', '6'])}`
  switch (dice.whole(0, 9)) {
    case 0:
      await cluster.catalog.deregister({ node, serviceId: `${name}-${node}` })
      break
    case 1:
      await cluster.register(node, 'gateway', 'gateway', status, { kind: 'mesh-gateway' })
      break
    case 2:
      await cluster.configEntries.write(entryOf({ Kind: 'service-defaults', Name: name, Protocol: dice.pick(['tcp', 'http']) }))
      break
    case 3:
      await cluster.catalog.register({ node, address: '10.0.0.1', ...(dice.chance(0.5) && { id }) })
      break
    case 4:
      await cluster.register(node, `${name}-native`, name, status, { connect: { native: true } })
      break
    default:
      await cluster.register(node, `${name}-${node}`, name, status)
  }
}

void t.test('the bundle names our trust domain and all roots, and leaves the names of peers to the peer', async t => {
  const { cluster, read } = await scene(t)
  const { offer } = read()
  t.match(PeeringTrustBundle.decode(Buffer.from(offer.bundle!.value)), {
    TrustDomain: cluster.ca.trustDomain,
    RootPEMs: cluster.ca.roots().value.roots.map(root => root.rootCert),
    PeerName: '',
    Partition: '',
    ExportedPartition: '',
  })
  t.same(PeeringServerAddresses.decode(Buffer.from(offer.addresses!.value)).Addresses, ['127.0.0.1:8503'])
})

void t.test(
  'a name that has a chain only is exported as one of the mesh, with the identity of whom its callers are passed on to',
  async t => {
    const { cluster, read } = await scene(t)
    await cluster.register('g', 'gw', 'mesh-gateway', 'passing', { kind: 'mesh-gateway' })
    await cluster.register('n', 'api-1', 'api', 'passing', { connect: { native: true } })
    await cluster.configEntries.write(entryOf({ Kind: 'service-resolver', Name: 'shop', Redirect: { Service: 'api' } }))
    await cluster.configEntries.write(entryOf({ Kind: 'service-resolver', Name: 'far', Redirect: { Service: 'api', Peer: 'shape' } }))
    await cluster.export({ '*': ['shape'] })
    const { services, offer } = read()
    t.same(offer.names, ['api', 'far', 'shop'])
    const spiffeIds = (id: string) => services.get(id)?.Nodes[0]?.Service?.Connect?.PeerMeta?.SpiffeID
    const idOf = (name: string) => `spiffe://${cluster.ca.trustDomain}/ns/default/dc/dc1/svc/${name}`
    const gateway = `spiffe://${cluster.ca.trustDomain}/gateway/mesh/dc/dc1`
    t.same(spiffeIds('shop-sidecar-proxy'), [idOf('shop'), gateway, idOf('api')])
    t.same(spiffeIds('api-sidecar-proxy'), [idOf('api'), gateway])
    t.same(spiffeIds('far-sidecar-proxy'), [idOf('far'), gateway], 'no peer is led on to a peer')
  },
)

void t.test('the topics of a reading cover every change of what it read', async t => {
  const { cluster, exporter } = await scene(t)
  await cluster.export({ web: ['shape'] })
  const changes = async (change: () => Promise<unknown>) => {
    const { topics } = exporter.read()
    const index = cluster.tables.revision
    await change()
    return cluster.tables.waitFor(topics, index, 0)
  }
  t.equal(await changes(() => cluster.register('n', 'web-1', 'web')), true)
  t.equal(await changes(() => cluster.register('n', 'web-1', 'web', 'warning')), true)
  t.equal(await changes(() => cluster.register('n', 'web-1', 'web', 'warning', { connect: { native: true } })), true)
  t.equal(await changes(() => cluster.configEntries.write(entryOf({ Kind: 'service-defaults', Name: 'web', Protocol: 'grpc' }))), true)
  t.equal(await changes(() => cluster.register('g', 'gw', 'mesh-gateway', 'passing', { kind: 'mesh-gateway' })), true)
  t.equal(await changes(() => cluster.ca.rotate()), true)
  t.equal(await changes(() => cluster.export({ web: ['shape'], api: ['shape'] })), true)
  t.equal(await changes(() => cluster.register('z', 'zzz', 'unrelated')), false)
})
