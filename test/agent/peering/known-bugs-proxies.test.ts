/**
 * Bugs of peering that others have had, by name: those of what proxies are told. Two clusters replicate over real sockets; what is
 * looked at is the snapshot of a sidecar or a gateway of the importer, and the plan that is made of it.
 */
import t, { type Test } from 'tap'
import { resourcesFor } from '../../../src/agent/snapshots/snapshots.ts'
import { parseConfigEntry } from '../../../src/mesh/config-entry.ts'
import { compile, resourceKey, type GatewayPlan, type Plan } from '../../../src/mesh/plan.ts'
import type { Upstream } from '../../../src/mesh/service.ts'
import { externalSni } from '../../../src/mesh/sni.ts'
import { Cluster, until } from './cluster.ts'

const proxyDefaults = { mode: '', meshGateway: {}, expose: {} }
const wan = { lan: { address: '10.1.0.9', port: 8443 }, wan: { address: '198.51.100.9', port: 443 } }

function planOf(cluster: Cluster, proxyId: string): Plan {
  const { tables, ca, datacenter } = cluster
  const context = { tables, ca, node: 'n', datacenter, defaultAction: 'deny' } as const
  const resources = resourcesFor(proxyId, context).reading.value
  const plan = compile(new Map(resources.map(each => [resourceKey(each), each])))
  if (!plan) throw new Error(`no plan for ${proxyId}`)
  return plan
}

function gatewayPlan(cluster: Cluster): GatewayPlan {
  const plan = planOf(cluster, 'gw')
  if (plan.kind !== 'gateway') throw new Error('no gateway')
  return plan
}

/** Where the caller's sidecar would dial; undefined while it knows no such upstream. */
function places(cluster: Cluster, upstream: string): string[] | undefined {
  const plan = planOf(cluster, 'web-side')
  const found = plan.kind === 'sidecar' ? plan.upstreams.get(upstream) : undefined
  return found?.endpoints.map(({ address, port }) => `${address}:${port}`)
}

async function gateway(cluster: Cluster, taggedAddresses = wan): Promise<void> {
  const { address, port } = taggedAddresses.lan
  await cluster.register('n', 'gw', 'mesh-gateway', 'passing', { kind: 'mesh-gateway', address, port, taggedAddresses })
}

async function mesh(cluster: Cluster, name: string, upstreams: Partial<Upstream>[] = [], proxy: object = {}): Promise<void> {
  await cluster.register('n', name, name)
  const filled = upstreams.map((each, i) => ({ destinationType: 'service', localBindPort: 9191 + i, meshGateway: {}, ...each }))
  await cluster.register('n', `${name}-side`, `${name}-sidecar-proxy`, 'passing', {
    kind: 'connect-proxy',
    port: 21_000,
    proxy: { ...proxyDefaults, destinationServiceName: name, destinationServiceId: name, upstreams: filled, ...proxy },
  })
}

async function write(cluster: Cluster, entry: object): Promise<void> {
  const parsed = parseConfigEntry(entry)
  if (!parsed.ok) throw new Error(parsed.text)
  await cluster.configEntries.write(parsed.value)
}

/** `exporter` calls the other `buyer`, and is called `seller`. */
async function scene(t: Test, datacenters: [exporter: string, importer: string]): Promise<[exporter: Cluster, importer: Cluster]> {
  const [exporter, importer] = await Promise.all(datacenters.map(each => Cluster.start(each)))
  t.teardown(() => Promise.all([exporter!.close(), importer!.close()]))
  const peeringToken = await exporter!.peerings.generateToken({ peerName: 'buyer' })
  await importer!.peerings.establish({ peerName: 'seller', peeringToken })
  await gateway(exporter!)
  await mesh(exporter!, 'api')
  await exporter!.register('n', 'plain', 'plain')
  await exporter!.export({ api: ['buyer'], plain: ['buyer'] })
  const upstreams = ['api', 'plain'].map(destinationName => ({ destinationName, destinationPeer: 'seller' }))
  await mesh(importer!, 'web', upstreams)
  await until(() => places(importer!, 'api?peer=seller') !== undefined && importer!.imported('plain', 'seller').length === 1)
  return [exporter!, importer!]
}

t.test('same-datacenter-name peer gets wrong address: a peer is dialled at its WAN address, however its datacenter is called', async t => {
  const [exporter, importer] = await scene(t, ['dc1', 'dc1'])
  t.same([exporter.datacenter, importer.datacenter], ['dc1', 'dc1'])
  t.same(places(importer, 'api?peer=seller'), ['198.51.100.9:443'])
})

t.test('imported taken as connect-enabled: what has no proxy there has none here, whatever is local under its name', async t => {
  const [, importer] = await scene(t, ['dc1', 'dc2'])
  t.same(importer.tables.connectInstances('plain', 'seller').value, [])
  t.equal(places(importer, 'plain?peer=seller'), undefined)
  await mesh(importer, 'plain')
  t.same(importer.tables.connectInstances('plain', 'seller').value, [])
  t.equal(places(importer, 'plain?peer=seller'), undefined)
  t.same(importer.tables.connectInstances('api').value, [], 'nor is an imported one one of ours')
})

t.test(
  "gateway mode ignored: mode local goes to our own gateway, from whichever place it is said; the exporter's mode says nothing",
  async t => {
    const [exporter, importer] = await scene(t, ['dc1', 'dc2'])
    const lan = { address: '10.2.0.9', port: 8443 }
    await gateway(importer, { lan, wan: { address: '203.0.113.9', port: 443 } })
    const mode = { MeshGateway: { Mode: 'local' } }
    await write(exporter, { Kind: 'proxy-defaults', Name: 'global', ...mode })
    const api = { destinationName: 'api', destinationPeer: 'seller' }
    const seen = () => places(importer, 'api?peer=seller')
    const remote = ['198.51.100.9:443']
    const local = ['10.2.0.9:8443']
    t.same(seen(), remote)
    await mesh(importer, 'web', [{ ...api, meshGateway: { mode: 'local' } }])
    t.same(seen(), local, 'at the upstream')
    await mesh(importer, 'web', [api], { meshGateway: { mode: 'local' } })
    t.same(seen(), local, 'at the proxy')
    await mesh(importer, 'web', [api])
    for (const [kind, name] of [
      ['service-defaults', 'web'],
      ['proxy-defaults', 'global'],
    ] as const) {
      await write(importer, { Kind: kind, Name: name, ...mode })
      t.same(seen(), local, kind)
      await importer.configEntries.delete(kind, name)
      t.same(seen(), remote)
    }
  },
)

t.test('dead services left in the gateway: a row goes with what it led to, on both sides', async t => {
  const [exporter, importer] = await scene(t, ['dc1', 'dc2'])
  await gateway(importer, { lan: { address: '10.2.0.9', port: 8443 }, wan: { address: '203.0.113.9', port: 443 } })
  const name = externalSni('api', 'buyer', exporter.ca.trustDomain)
  const rows = () => `${gatewayPlan(exporter).wan.has(name)} ${gatewayPlan(importer).lan.has(name)}`
  const both = () => rows() === 'true true'
  await until(both)
  await exporter.export({ plain: ['buyer'] })
  await until(() => rows() === 'false false')
  await exporter.export({ api: ['buyer'] })
  await until(both)
  await exporter.catalog.deregister({ node: 'n', serviceId: 'api-side' })
  await until(() => rows() === 'false false')
  await mesh(exporter, 'api')
  await until(both)
  await exporter.register('n', 'api', 'api', 'critical')
  await until(() => gatewayPlan(importer).lan.get(name)!.picker.size === 0)
  await exporter.register('n', 'api', 'api')
  await until(() => gatewayPlan(importer).lan.get(name)!.picker.size === 1)
  await importer.peerings.delete('seller')
  await until(() => importer.state('seller') === undefined && exporter.state('buyer') === 'TERMINATED')
  t.equal(rows(), 'false false', 'an ended peering leaves no row, though its service is there and exported')
  t.same(gatewayPlan(importer).problems, [])
})

t.end()

t.test('failover watch lost: a failover target in a peer is heard of for as long as it is one, gone and come back or moved', async t => {
  const [exporter, importer] = await scene(t, ['dc1', 'dc2'])
  await write(importer, { Kind: 'proxy-defaults', Name: 'global', Config: { protocol: 'http' } })
  await write(exporter, { Kind: 'proxy-defaults', Name: 'global', Config: { protocol: 'http' } })
  await mesh(importer, 'shop')
  await mesh(importer, 'web', [{ destinationName: 'shop' }])
  const Failover = { '*': { Targets: [{ Service: 'api', Peer: 'seller' }] } }
  await write(importer, { Kind: 'service-resolver', Name: 'shop', Failover })
  const target = () => places(importer, 'shop/api.default.default.external.seller')
  const at = (place: string | undefined) => until(() => target()?.join() === place)
  await at('198.51.100.9:443')
  for (const host of ['198.51.100.10', '198.51.100.11']) {
    await gateway(exporter, { ...wan, wan: { address: host, port: 443 } })
    await at(`${host}:443`)
    await exporter.export({ plain: ['buyer'] })
    await at(undefined)
    await exporter.export({ api: ['buyer'], plain: ['buyer'] })
    await at(`${host}:443`)
    await exporter.register('n', 'gw', 'mesh-gateway', 'critical', {
      kind: 'mesh-gateway',
      address: wan.lan.address,
      port: wan.lan.port,
      taggedAddresses: { ...wan, wan: { address: host, port: 443 } },
    })
    await until(() => healthOf(importer) === false)
    await gateway(exporter, { ...wan, wan: { address: host, port: 443 } })
    await until(() => healthOf(importer) === true)
  }
})

/** Whether the failover target of `shop` has an endpoint that is healthy. */
function healthOf(cluster: Cluster): boolean | undefined {
  const plan = planOf(cluster, 'web-side')
  const found = plan.kind === 'sidecar' ? plan.upstreams.get('shop/api.default.default.external.seller') : undefined
  return found?.endpoints.some(each => each.healthy)
}
