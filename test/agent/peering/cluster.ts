/**
 * One side of a peering for tests: store, tables, catalog, peerings and the gRPC door of a cluster, wired as the agent wires them,
 * on loopback. It can be stopped and started again over the same data
 * and port. `close` leaves nothing behind.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CertificateAuthority } from '../../../src/agent/ca/authority.ts'
import { Catalog } from '../../../src/agent/catalog/catalog.ts'
import { ConfigEntries } from '../../../src/agent/catalog/config-entries.ts'
import { Tables } from '../../../src/agent/catalog/tables.ts'
import { startGrpcDoor, type GrpcDoor } from '../../../src/agent/grpc/server.ts'
import { Peerings, type PeeringsOptions } from '../../../src/agent/peering/peerings.ts'
import { openEmbeddedStore } from '../../../src/agent/store/embedded.ts'
import type { Store } from '../../../src/agent/store/store.ts'
import { systemClock } from '../../../src/lib/clock.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { Registry } from '../../../src/lib/metrics.ts'
import { eventually as until } from '../../support/until.ts'

export { eventually as until } from '../../support/until.ts'

export class Cluster {
  readonly datacenter: string
  readonly #clusterId: string | undefined
  readonly #dir: string
  readonly #options: Partial<PeeringsOptions>
  store!: Store
  tables!: Tables
  catalog!: Catalog
  configEntries!: ConfigEntries
  ca!: CertificateAuthority
  peerings!: Peerings
  metrics = new Registry()
  door: GrpcDoor | undefined
  /** Kept over a restart. */
  #port = 0

  private constructor(datacenter: string, options: Partial<PeeringsOptions>, clusterId: string | undefined) {
    this.datacenter = datacenter
    this.#clusterId = clusterId
    this.#options = options
    this.#dir = mkdtempSync(join(tmpdir(), 'isthmus-peering-'))
  }

  static async start(datacenter: string, options: Partial<PeeringsOptions> = {}, clusterId?: string): Promise<Cluster> {
    const cluster = new Cluster(datacenter, options, clusterId)
    await cluster.start()
    return cluster
  }

  async start(): Promise<void> {
    const logger = silentLogger()
    this.store = await openEmbeddedStore({ dir: this.#dir, logger })
    this.tables = await Tables.open(this.store)
    const { store, tables, datacenter } = this
    this.catalog = new Catalog({ store, tables, datacenter })
    this.configEntries = new ConfigEntries({ store, tables, datacenter })
    this.metrics = new Registry()
    this.ca = await CertificateAuthority.open({ store, tables, datacenter, clock: systemClock, logger, clusterId: this.#clusterId })
    const { ca } = this
    this.peerings = new Peerings({
      store,
      tables,
      catalog: this.catalog,
      ca,
      datacenter,
      clock: systemClock,
      logger,
      metrics: this.metrics,
      addresses: () => [`127.0.0.1:${this.#port}`],
      enabled: { peering: true, connect: true, grpcTls: true },
      allowPlaintext: false,
      ...this.#options,
    })
    this.door = await startGrpcDoor({
      address: '127.0.0.1',
      port: this.#port,
      plaintext: { host: '127.0.0.1', port: 0 },
      ca,
      peerings: this.peerings,
      logger,
    })
    this.#port = this.door.port
    await this.peerings.start()
  }

  /** As a process ends: the peerings stay. */
  async stop(): Promise<void> {
    await this.door?.close()
    this.door = undefined
    await this.peerings.close()
    this.ca.close()
    this.tables.close()
    await this.store.close()
  }

  async close(): Promise<void> {
    if (this.door) await this.stop()
    rmSync(this.#dir, { recursive: true, force: true })
  }

  async export(services: Record<string, string[]>): Promise<void> {
    await this.configEntries.write({
      kind: 'exported-services',
      name: 'default',
      services: Object.entries(services).map(([name, peers]) => ({ name, consumers: peers.map(peer => ({ peer })) })),
      createIndex: 0,
      modifyIndex: 0,
    })
  }

  async register(node: string, id: string, service: string, status = 'passing', extra: object = {}): Promise<void> {
    await this.catalog.register({
      node,
      address: '10.0.0.1',
      service: { id, service, port: 8080, ...extra },
      check: { checkId: `${id}-check`, name: 'check', status, serviceId: id },
    })
  }

  /** ids of what is imported of a service, with the status of its checks. */
  imported(service: string, peer: string): string[] {
    return this.tables
      .instances(service, peer)
      .value.map(({ service: { id }, checks }) => [id, ...checks.map(check => check.status)].join(' '))
  }

  state(name: string): string | undefined {
    return this.peerings.read(name).value?.state
  }
}

/** Peers `dialer` (which calls the other `acceptor's datacenter`) with `acceptor`, by the names of their datacenters. */
export async function peer(acceptor: Cluster, dialer: Cluster): Promise<void> {
  const peeringToken = await acceptor.peerings.generateToken({ peerName: dialer.datacenter })
  await dialer.peerings.establish({ peerName: acceptor.datacenter, peeringToken })
  await until(() => acceptor.state(dialer.datacenter) === 'ACTIVE' && dialer.state(acceptor.datacenter) === 'ACTIVE')
}
