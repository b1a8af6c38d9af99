/**
 * Every write of the catalog: registrations, deregistrations and imported sets. A registration is one store transaction; an
 * identical one writes nothing. Each method resolves when the write is durable and visible in this process's own tables.
 */
import { MeshError } from '../../lib/errors.ts'
import type { HealthCheck } from '../../mesh/check.ts'
import type { Locality, Node } from '../../mesh/node.ts'
import { checkNodeService, isAnyAddress } from '../../mesh/registration.ts'
import type { CheckServiceNode, NodeService } from '../../mesh/service.ts'
import type { Compare, Op, Store } from '../store/store.ts'
import { commit, isSameRecord, putRecord, unchanged, type Proposal } from './commit.ts'
import { Imports } from './imports.ts'
import { meshTarget } from './instances-table.ts'
import { keys } from './keys.ts'
import type { Tables } from './tables.ts'
import { virtualAddressTag, VirtualIps, withVirtualAddress } from './virtual-ips.ts'

/** The body of PUT /v1/catalog/register (spec/http-api.md 4), decoded. */
export interface RegisterRequest {
  node: string
  address?: string
  id?: string
  datacenter?: string
  taggedAddresses?: Record<string, string> | null
  nodeMeta?: Record<string, string> | null
  locality?: Locality
  peerName?: string
  /** Leave the node as it is when it exists. */
  skipNodeUpdate?: boolean
  service?: Partial<NodeService>
  check?: Partial<HealthCheck>
  checks?: Partial<HealthCheck>[]
}

/** A registration whose defaults are filled in and which is sound in itself. */
interface Registration {
  node: Node
  skipNodeUpdate: boolean
  service: NodeService | undefined
  checks: HealthCheck[]
}

const maxChecksAtOnce = 100

export class Catalog {
  readonly #store: Store
  readonly #tables: Tables
  readonly #datacenter: string
  readonly #virtualIps: VirtualIps
  readonly #imports: Imports

  constructor(options: { store: Store; tables: Tables; datacenter: string }) {
    this.#store = options.store
    this.#tables = options.tables
    this.#datacenter = options.datacenter
    this.#virtualIps = new VirtualIps(options.tables)
    this.#imports = new Imports({ store: options.store, tables: options.tables, virtualIps: this.#virtualIps })
  }

  async register(request: RegisterRequest): Promise<void> {
    const registration = checkRegistration(request, this.#datacenter)
    await commit(this.#store, this.#tables, () => this.#propose(registration))
  }

  /** The whole node, or one service of it with its checks, or one check. What is not there is no error. */
  async deregister(request: { node: string; serviceId?: string; checkId?: string }): Promise<void> {
    const { node, serviceId, checkId } = request
    if (node === '') throw new MeshError('invalid', 'Must provide node')
    if (serviceId) await this.#deregisterManyChecks(node, serviceId)
    await commit(this.#store, this.#tables, (): Proposal<void> => {
      if (serviceId) {
        if (!this.#tables.serviceOf(node, serviceId)) return { result: undefined }
        const checks = this.#tables.checksOfInstance(node, serviceId)
        return {
          result: undefined,
          ops: [keys.service(node, serviceId), ...checks.map(check => keys.check(node, check.checkId))].map(key => ({ op: 'delete', key })),
        }
      }
      if (checkId) {
        if (!this.#tables.checkOf(node, checkId)) return { result: undefined }
        return { result: undefined, ops: [{ op: 'delete', key: keys.check(node, checkId) }] }
      }
      if (!this.#tables.node(node).value) return { result: undefined }
      return {
        result: undefined,
        ops: [
          { op: 'delete', key: keys.node(node) },
          { op: 'delete-prefix', prefix: keys.service(node, '') },
          { op: 'delete-prefix', prefix: keys.check(node, '') },
        ],
      }
    })
  }

  /** Puts a set in the place of what was known of this service of the peer, and answers its digest; an empty set deletes it. */
  replaceImported(peer: string, service: string, instances: CheckServiceNode[], receivedAtMs: number): Promise<string | undefined> {
    return this.#imports.replace(peer, service, instances, receivedAtMs)
  }

  /** Deletes every imported service of the peer that is not to be kept, and generations that no longer count. */
  sweepImported(peer: string, keep: (service: string) => boolean): Promise<void> {
    return this.#imports.sweep(peer, keep)
  }

  /** Deletes everything that was imported from the peer, and nothing else. */
  purgeImported(peer: string): Promise<void> {
    return this.#imports.purge(peer)
  }

  /** Deletes what a crash in the middle of an import has left behind; once, at the start. */
  collectImported(): Promise<void> {
    return this.#imports.collect()
  }

  /** Takes away those checks of a service that would not fit into one transaction with it. */
  async #deregisterManyChecks(node: string, serviceId: string): Promise<void> {
    const many = this.#tables.checksOfInstance(node, serviceId).slice(maxChecksAtOnce)
    for (let i = 0; i < many.length; i += maxChecksAtOnce) {
      const ops = many.slice(i, i + maxChecksAtOnce).map((check): Op => ({ op: 'delete', key: keys.check(node, check.checkId) }))
      const { revision } = await this.#store.txn({ ops })
      await this.#tables.reached(revision)
    }
  }

  #propose({ node, skipNodeUpdate, service, checks }: Registration): Proposal<void> {
    const ops: Op[] = []
    const compare: Compare[] = []
    const current = this.#tables.node(node.node).value
    compare.push(unchanged(keys.node(node.node), current))
    if (!current || (!skipNodeUpdate && !isSameRecord(current, node))) ops.push(putRecord(keys.node(node.node), node))
    if (service) {
      const placed = this.#withVirtualIp(service, ops, compare)
      if (!isSameRecord(this.#tables.serviceOf(node.node, service.id), placed))
        ops.push(putRecord(keys.service(node.node, service.id), placed))
    }
    for (const check of checks) {
      const placed = this.#withService(check, node.node, service, compare)
      if (!isSameRecord(this.#tables.checkOf(node.node, check.checkId), placed))
        ops.push(putRecord(keys.check(node.node, check.checkId), placed))
    }
    return { result: undefined, ops, compare }
  }

  #withVirtualIp(service: NodeService, ops: Op[], compare: Compare[]): NodeService {
    const target = meshTarget(service)
    if (target === undefined) return service
    const claim = this.#virtualIps.claim('', target)
    ops.push(...claim.ops)
    compare.push(...claim.compare)
    return withVirtualAddress(service, claim.address)
  }

  /** A check carries the name and tags of its service, which must be there or come with it. */
  #withService(check: HealthCheck, node: string, registered: NodeService | undefined, compare: Compare[]): HealthCheck {
    if (check.serviceId === '') return check
    let service = registered
    if (service?.id !== check.serviceId) {
      service = this.#tables.serviceOf(node, check.serviceId)
      if (!service) throw new MeshError('invalid', `Unknown service ID '${check.serviceId}' for check ID '${check.checkId}'`)
      compare.push(unchanged(keys.service(node, service.id), service))
    }
    return { ...check, serviceName: service.service, serviceTags: service.tags }
  }
}

const nodeIdPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

const refuse = (message: string) => new MeshError('invalid', message)

function checkRegistration(request: RegisterRequest, datacenter: string): Registration {
  if (request.datacenter && request.datacenter !== datacenter) throw refuse('No path to datacenter')
  if (!request.node) throw refuse('Must provide node')
  if (request.peerName || request.service?.peerName) throw refuse('cannot register requests with PeerName in them')
  if (!request.address && !request.skipNodeUpdate) throw refuse('Must provide address if SkipNodeUpdate is not set')
  const service = request.service && checkedService(request.service)
  const checks = [...(request.check ? [request.check] : []), ...(request.checks ?? [])]
  return {
    node: checkedNode({ ...request, meta: request.nodeMeta }, datacenter),
    skipNodeUpdate: request.skipNodeUpdate ?? false,
    service,
    checks: checks.map(check => checkedCheck(check, request.node)),
  }
}

/** A node whose defaults are filled in. */
export function checkedNode(given: Partial<Node>, datacenter: string): Node {
  if (!given.node) throw refuse('Must provide node')
  if (given.id && given.id.length !== 36) throw refuse('Bad node ID: uuid string is wrong length')
  if (given.id && !nodeIdPattern.test(given.id)) throw refuse('Bad node ID: uuid is improperly formatted')
  return {
    id: given.id ?? '',
    node: given.node,
    address: given.address ?? '',
    datacenter,
    taggedAddresses: given.taggedAddresses ?? null,
    meta: given.meta ?? null,
    locality: given.locality,
    createIndex: 0,
    modifyIndex: 0,
  }
}

/** A service whose defaults are filled in and which is sound in itself. */
export function checkedService(given: Partial<NodeService>): NodeService {
  const id = given.id || given.service || ''
  if (id !== '' && !given.service) throw refuse('Must provide service name (Service.Service) when service ID is provided')
  if (!given.service) throw refuse('Must provide service name (Service.Service)')
  if (isAnyAddress(given.address ?? '')) throw refuse('Invalid service address')
  const { [virtualAddressTag]: _ours, ...taggedAddresses } = given.taggedAddresses ?? {}
  const service: NodeService = {
    ...given,
    id,
    service: given.service,
    tags: given.tags ?? [],
    address: given.address ?? '',
    taggedAddresses: Object.keys(taggedAddresses).length > 0 ? taggedAddresses : undefined,
    meta: given.meta ?? null,
    weights: given.weights ?? { passing: 1, warning: 1 },
    enableTagOverride: given.enableTagOverride ?? false,
    proxy: given.proxy ?? { mode: '', meshGateway: {}, expose: {} },
    connect: given.connect ?? {},
    peerName: '',
    createIndex: 0,
    modifyIndex: 0,
  }
  const problem = checkNodeService(service)
  if (problem !== undefined) throw refuse(problem)
  return service
}

/** A check whose defaults are filled in; its service's name and tags are not. */
export function checkedCheck(check: Partial<HealthCheck>, node: string): HealthCheck {
  if (check.node && check.node.toLowerCase() !== node.toLowerCase()) {
    throw new MeshError('invalid', `check node "${check.node}" does not match node "${node}"`)
  }
  return {
    node,
    checkId: check.checkId || check.name || '',
    name: check.name ?? '',
    status: check.status || 'critical',
    notes: check.notes ?? '',
    output: check.output ?? '',
    serviceId: check.serviceId ?? '',
    serviceName: '',
    serviceTags: [],
    // As Consul does: a check that says how it is made says its type.
    type: check.type || (check.definition?.http ? 'http' : check.definition?.tcp ? 'tcp' : ''),
    interval: check.interval ?? '',
    timeout: check.timeout ?? '',
    exposedPort: check.exposedPort ?? 0,
    definition: check.definition ?? {},
    createIndex: 0,
    modifyIndex: 0,
  }
}
