// The two agents of golden/dns as far as DNS can see them: their catalogs through Tables and Catalog over the embedded store, and
// their DNS configuration.
import { Catalog, type RegisterRequest } from '../../../src/agent/catalog/catalog.ts'
import { keys } from '../../../src/agent/catalog/keys.ts'
import { Tables } from '../../../src/agent/catalog/tables.ts'
import { loadConfig, type AgentConfig } from '../../../src/agent/config.ts'
import type { QueryResult } from '../../../src/agent/dns/lookup.ts'
import { startDnsDoor, type DnsDoor } from '../../../src/agent/dns/server.ts'
import { openEmbeddedStore } from '../../../src/agent/store/embedded.ts'
import type { Store } from '../../../src/agent/store/store.ts'
import { silentLogger } from '../../../src/lib/log.ts'
import { Registry } from '../../../src/lib/metrics.ts'
import { unknownFreshness, type Freshness } from '../../../src/mesh/freshness.ts'
import type { CheckServiceNode, NodeService } from '../../../src/mesh/service.ts'

export interface DnsScene {
  door: DnsDoor
  store: Store
  tables: Tables
  catalog: Catalog
  metrics: Registry
  close(): Promise<void>
}

/** A prepared query as its own tests make it: what it ends at, over the tables of the scene. */
export type Executed = (tables: Tables, nameOrId: string) => QueryResult | undefined

/** A door over an empty catalog of its own; whatever is imported is as old as `freshness` says, and there are the queries of `executed`. */
export async function startScene(
  datacenter: string,
  flags: Record<string, unknown> = {},
  { freshness = unknownFreshness, executed }: { freshness?: Freshness; executed?: Executed } = {},
): Promise<DnsScene> {
  const logger = silentLogger()
  const store = await openEmbeddedStore({ dir: undefined, logger })
  const tables = await Tables.open(store)
  const catalog = new Catalog({ store, tables, datacenter })
  const metrics = new Registry()
  const config: AgentConfig = loadConfig({ dev: true, flags: { datacenter, node_name: 'n', ...flags } })
  const query = (nameOrId: string) => executed?.(tables, nameOrId)
  const door = await startDnsDoor({
    address: '127.0.0.1',
    port: 0,
    tables,
    query,
    config,
    datacenter,
    freshness: () => freshness,
    logger,
    metrics,
  })
  return {
    door,
    store,
    tables,
    catalog,
    metrics,
    async close() {
      await door.close()
      tables.close()
      await store.close()
    },
  }
}

/** The queries of alpha: a template `tpl-SERVICE`, and one that finds nobody here and fails over to the peer. */
export const alphaQueries: Executed = (tables, nameOrId) => {
  const usable = (service: string, peer: string) =>
    tables.instances(service, peer).value.filter(({ checks }) => checks.every(each => each.status !== 'critical'))
  if (nameOrId === 'billq') return { service: 'billing', nodes: usable('billing', 'beta'), datacenter: '', peerName: 'beta', ttl: '' }
  const service = /^tpl-(.+)$/.exec(nameOrId)?.[1]
  return service === undefined ? undefined : { service, nodes: usable(service, ''), datacenter: 'dc1', peerName: '', ttl: '' }
}

const version = { 'consul-version': '1.16.4', 'consul-network-segment': '' }

interface Given {
  id?: string
  name: string
  address?: string
  port?: number
  tags?: string[]
  status?: string
  weights?: NodeService['weights']
}

function registration(node: RegisterRequest, given: Given): RegisterRequest {
  const id = given.id ?? given.name
  const service = {
    id,
    service: given.name,
    address: given.address ?? '',
    port: given.port ?? 80,
    tags: given.tags,
    weights: given.weights,
  }
  const checks = given.status ? [{ checkId: `c-${id}`, name: 'c', status: given.status, serviceId: id }] : []
  return { ...node, service, checks }
}

/** `big` of both agents, and `many`. */
function crowd(name: string, count: number, network: string, port: (i: number) => number): Given[] {
  return Array.from({ length: count }, (_, i) => ({ id: `${name}-${i}`, name, address: `${network}.${i + 1}`, port: port(i) }))
}

export async function fillAlpha({ catalog, store, tables }: DnsScene): Promise<void> {
  const alpha = { node: 'alpha', address: '127.0.0.1', nodeMeta: { ...version, rack: 'r1', 'rfc1035-note': 'plain text' } }
  const services: Given[] = [
    { name: 'consul', port: 23036 },
    {
      id: 'web-1',
      name: 'web',
      address: '127.0.0.10',
      port: 8080,
      tags: ['primary', 'v1'],
      status: 'passing',
      weights: { passing: 10, warning: 1 },
    },
    { id: 'web-2', name: 'web', address: '127.0.0.11', port: 8081, tags: ['v2'], status: 'warning', weights: { passing: 5, warning: 7 } },
    { id: 'web-3', name: 'web', address: '127.0.0.12', port: 8082, status: 'critical' },
    { name: 'crit', status: 'critical' },
    { name: 'api', address: '127.0.0.20', port: 9090 },
    { name: 'noaddr', port: 9999 },
    { name: 'cname', address: 'www.example.com' },
    { name: 'inner', address: 'web.service.consul' },
    { name: 'has.dot', port: 80 },
    { name: 'v6', address: 'fe80::1' },
    ...crowd('big', 60, '10.0.3', i => 8000 + i),
  ]
  for (const each of services) await catalog.register(registration(alpha, each))
  await catalog.register({ node: 'dot.node', address: '10.5.5.5' })
  await catalog.register({ node: 'node6', address: '2001:db8::5' })
  await catalog.register(registration({ node: 'extfqdn', address: 'www.example.org' }, { name: 'extsvc', port: 443 }))
  await catalog.register({
    node: 'ext2',
    address: '10.1.2.4',
    service: {
      id: 'db-proxy',
      service: 'db-proxy',
      kind: 'connect-proxy',
      port: 21000,
      proxy: { destinationServiceName: 'db', mode: '', meshGateway: {}, expose: {} },
    },
  })
  await catalog.replaceImported(
    'beta',
    'billing',
    [imported('billing', '10.20.0.5', 7000), imported('billing', '10.20.0.6', 7000, 'critical')],
    1,
  )
  await catalog.replaceImported('beta', 'plain', [imported('plain', '', 7100)], 1)
  await catalog.replaceImported('beta', 'billing-sidecar-proxy', [imported('billing-sidecar-proxy', '10.20.0.99', 8443)], 1)
  const addresses = [
    ['', 'api', '240.0.0.1'],
    ['', 'web', '240.0.0.5'],
    ['beta', 'billing', '240.0.0.3'],
  ] as const
  for (const [peer, service, address] of addresses) {
    const value = Buffer.from(JSON.stringify({ address }))
    const { revision } = await store.txn({ ops: [{ op: 'put', key: keys.virtualIp(peer, service), value }] })
    await tables.reached(revision)
  }
}

/** An instance as a peer sends it. */
export function imported(service: string, address: string, port: number, status = 'passing'): CheckServiceNode {
  const id = `${service}-${address}`
  return {
    node: {
      id: '',
      node: 'beta',
      address: '127.0.0.1',
      datacenter: 'dc2',
      taggedAddresses: null,
      meta: version,
      createIndex: 0,
      modifyIndex: 0,
    },
    service: {
      id,
      service,
      tags: ['v2'],
      address,
      meta: null,
      port,
      weights: { passing: 1, warning: 1 },
      enableTagOverride: false,
      proxy: { mode: '', meshGateway: {}, expose: {} },
      connect: {},
      peerName: '',
      createIndex: 0,
      modifyIndex: 0,
    },
    checks: [
      {
        node: 'beta',
        checkId: `${id}:overall-check`,
        name: 'overall-check',
        status,
        notes: '',
        output: '',
        serviceId: id,
        serviceName: service,
        serviceTags: [],
        type: '',
        interval: '',
        timeout: '',
        exposedPort: 0,
        definition: {},
        createIndex: 0,
        modifyIndex: 0,
      },
    ],
  }
}

export function deltaFlags(recursorPort: number): Record<string, unknown> {
  return {
    domain: 'mesh.example',
    alt_domain: 'alt.test',
    recursors: [`127.0.0.1:${recursorPort}`],
    dns_config: {
      node_ttl: '11s',
      service_ttl: { '*': '7s', web: '13s', 'pre-*': '17s' },
      only_passing: true,
      enable_truncate: true,
      udp_answer_limit: 2,
      enable_additional_node_meta_txt: false,
      soa: { refresh: 1, retry: 2, expire: 3, min_ttl: 4 },
    },
  }
}

export async function fillDelta({ catalog }: DnsScene): Promise<void> {
  const delta = { node: 'delta', address: '127.0.0.1', nodeMeta: version }
  const services: Given[] = [
    { name: 'consul', port: 8300 },
    { id: 'web-1', name: 'web', address: '10.0.1.1', status: 'passing' },
    { id: 'web-2', name: 'web', address: '10.0.1.2', status: 'warning' },
    { name: 'pre-x', address: '10.0.1.3' },
    { name: 'other', address: '10.0.1.4' },
    { name: 'cname', address: 'www.example.com' },
    { name: 'cnamex', address: 'www.nxd.test' },
    ...crowd('many', 5, '10.0.2', () => 80),
    ...crowd('big', 60, '10.0.3', i => 8000 + i),
  ]
  for (const each of services) await catalog.register(registration(delta, each))
}
