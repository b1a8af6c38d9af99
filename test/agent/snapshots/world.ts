/** A small cluster for the tests of snapshots: records written straight to a real store, read through the real tables. */
import { silentLogger } from '../../../src/lib/log.ts'
import { configEntryKinds, type ConfigEntry } from '../../../src/mesh/config-entry.ts'
import { HealthCheck } from '../../../src/mesh/check.ts'
import { Node, type Locality } from '../../../src/mesh/node.ts'
import { Peering } from '../../../src/mesh/peering.ts'
import { NodeService, type CheckServiceNode } from '../../../src/mesh/service.ts'
import type { Resource, ResourceKind, ResourceValue } from '../../../src/mesh/snapshot.ts'
import { externalSni } from '../../../src/mesh/sni.ts'
import { meshGatewayId, serviceId } from '../../../src/mesh/spiffe.ts'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { Tables } from '../../../src/agent/catalog/tables.ts'
import type { SnapshotContext } from '../../../src/agent/snapshots/gathering.ts'
import { openEmbeddedStore } from '../../../src/agent/store/embedded.ts'
import type { Op, Store } from '../../../src/agent/store/store.ts'

export const own = 'aaaaaaaa-0000-0000-0000-000000000001.consul'
export const east = 'bbbbbbbb-0000-0000-0000-000000000002.consul'

type Service = Partial<NodeService> & { service: string }

export class World {
  readonly store: Store
  readonly tables: Tables
  readonly context: SnapshotContext & { tables: Tables }
  #generation = 0

  private constructor(store: Store, tables: Tables) {
    this.store = store
    this.tables = tables
    const roots = { value: { roots: [{ rootCert: 'own pem' }] }, index: 1, topics: ['ca-roots'] }
    this.context = { tables, ca: { trustDomain: own, roots: () => roots }, node: 'n1', datacenter: 'dc1', defaultAction: 'deny' }
  }

  static async open(): Promise<World> {
    const store = await openEmbeddedStore({ dir: undefined, logger: silentLogger() })
    const world = new World(store, await Tables.open(store))
    await world.put(keys.node('n1'), Node.parse({ node: 'n1', address: '10.0.0.1' }))
    return world
  }

  async close(): Promise<void> {
    this.tables.close()
    await this.store.close()
  }

  put(key: string, value: unknown): Promise<void> {
    return this.write([{ op: 'put', key, value: new TextEncoder().encode(JSON.stringify(value)) }])
  }

  delete(key: string): Promise<void> {
    return this.write([{ op: 'delete', key }])
  }

  async write(ops: Op[]): Promise<void> {
    const { revision } = await this.store.txn({ ops })
    await this.tables.reached(revision)
  }

  service(service: Service, node = 'n1'): Promise<void> {
    const id = service.id ?? service.service
    return this.put(keys.service(node, id), NodeService.parse({ id, port: 8000, ...service }))
  }

  /** A service with a sidecar before it. */
  async meshService(name: string, sidecar: Partial<NodeService['proxy']> = {}, port = 21_000, locality?: Locality): Promise<void> {
    await this.service({ service: name })
    await this.service({
      id: `${name}-sidecar-proxy`,
      service: `${name}-sidecar-proxy`,
      kind: 'connect-proxy',
      port,
      ...(locality && { locality }),
      proxy: {
        mode: '',
        meshGateway: {},
        expose: {},
        destinationServiceName: name,
        destinationServiceId: name,
        localServiceAddress: '127.0.0.1',
        localServicePort: 8000,
        ...sidecar,
      },
    })
  }

  check(id: string, status: string, serviceId = '', node = 'n1'): Promise<void> {
    return this.put(keys.check(node, id), HealthCheck.parse({ node, checkId: id, status, serviceId, serviceName: serviceId }))
  }

  /** What is left out gets its default. */
  entry(entry: { kind: ConfigEntry['kind']; name?: string; [field: string]: unknown }): Promise<void> {
    const name = entry.name ?? entry.kind
    return this.put(keys.configEntry(entry.kind, name), configEntryKinds[entry.kind].parse(entry))
  }

  async peer(name: string, trustDomain: string, exportedPartition = ''): Promise<void> {
    await this.put(keys.peering(name), Peering.parse({ id: `id-${name}`, name, state: 'ESTABLISHING' }))
    await this.put(keys.trustBundle(name), { peer: name, trustDomain, rootPems: [`${name} pem`], exportedPartition })
  }

  exports(rows: { name: string; peers: string[] }[]): Promise<void> {
    const services = rows.map(({ name, peers }) => ({ name, consumers: peers.map(peer => ({ peer })) }))
    return this.entry({ kind: 'exported-services', name: 'default', services })
  }

  imported(peer: string, service: string, instances: CheckServiceNode[]): Promise<void> {
    const generation = String((this.#generation += 1))
    const encode = (value: unknown) => new TextEncoder().encode(JSON.stringify(value))
    const record = { peer, service, generation, chunks: 1, receivedAtMs: 1 }
    return this.write([
      { op: 'put', key: keys.importedChunk(peer, service, generation, 'a'), value: encode(instances) },
      { op: 'put', key: keys.imported(peer, service), value: encode(record) },
    ])
  }

  /** What an exporter sends for a mesh service: one synthetic proxy per gateway. */
  importedProxies(
    peer: string,
    service: string,
    gateways: { wan: string; status?: string }[],
    meta: { sni?: string[]; spiffeId?: string[]; protocol?: string } = {},
  ): Promise<void> {
    const instances = gateways.map(({ wan, status = 'passing' }, i) =>
      instanceOf(
        `gw${i}`,
        {
          id: `${service}-sidecar-proxy-instance-${i}`,
          service: `${service}-sidecar-proxy`,
          kind: 'connect-proxy',
          port: 8443,
          address: '10.9.9.9',
          taggedAddresses: { wan: { address: wan, port: 9443 } },
          proxy: { mode: '', meshGateway: {}, expose: {}, destinationServiceName: service },
          connect: {
            peerMeta: {
              sni: [externalSni(service, 'us', east)],
              spiffeId: [serviceId(east, 'dc2', service), meshGatewayId(east, 'dc2')],
              protocol: 'http',
              ...meta,
            },
          },
          peerName: peer,
        },
        status,
      ),
    )
    return this.imported(peer, `${service}-sidecar-proxy`, instances)
  }

  importedInstances(peer: string, service: string, statuses: string[]): Promise<void> {
    return this.imported(
      peer,
      service,
      statuses.map((status, i) => instanceOf(`n${i}`, { id: `${service}-${i}`, service, port: 80, peerName: peer }, status)),
    )
  }
}

function instanceOf(node: string, service: Service, status: string): CheckServiceNode {
  return {
    node: Node.parse({ node, address: '10.8.0.1' }),
    service: NodeService.parse({ id: service.service, ...service }),
    checks: [HealthCheck.parse({ node, checkId: 'overall', status })],
  }
}

/** The values of a kind by name. */
export function valuesOf<K extends ResourceKind>(resources: readonly Resource[], kind: K): Record<string, ResourceValue<K>> {
  const found = resources.filter(each => each.kind === kind && each.value !== null)
  return Object.fromEntries(found.map(each => [each.name, each.value as ResourceValue<K>]))
}
