/**
 * What THIS agent was asked to run: its services and checks, kept in the store and in the catalog before a call answers. The
 * catalog's records of this node follow from what is here, never the other way round (spec/http-api.md 3).
 */
import { setImmediate } from 'node:timers/promises'
import { messageOf, MeshError } from '../../lib/errors.ts'
import type { Clock, Timer } from '../../lib/clock.ts'
import type { Logger } from '../../lib/log.ts'
import { nodeMaintenanceId, serviceMaintenancePrefix, type CheckDefinition, type CheckStatus, type HealthCheck } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import {
  checkCheck,
  checkNodeService,
  checkServiceDefinition,
  definedChecks,
  isCheckStatus,
  nodeServiceOf,
} from '../../mesh/registration.ts'
import type { NodeService, ServiceDefinition } from '../../mesh/service.ts'
import type { Store } from '../store/store.ts'
import type { Catalog } from './catalog.ts'
import { keys } from './keys.ts'
import { healthCheckOf, LocalChecks, unknownCheck, type StoredCheck } from './local-checks.ts'
import { LocalRecords } from './local-records.ts'
import { expandSidecar, sidecarId, type Sidecar } from './sidecar.ts'
import type { Tables } from './tables.ts'

export interface LocalAgentOptions {
  store: Store
  tables: Tables
  catalog: Catalog
  /** This agent's own node. */
  node: Node
  clock: Clock
  logger: Logger
  sidecarPorts: { min: number; max: number }
  /** Port and meta of the `consul` service instance of this server. */
  serverService?: { port: number; meta: Record<string, string> }
  /** How long changes of a check's output alone are held back; 5 minutes unless told. */
  checkUpdateIntervalMs?: number
}

/** How often what the catalog should hold is compared with what it holds, and overdue services are removed. */
const repairIntervalMs = 60_000
const reapIntervalMs = 30_000
const maxChecksAtOnce = 100

export class LocalAgent {
  readonly #options: LocalAgentOptions
  readonly #node: string
  readonly #records: LocalRecords
  readonly #services = new Map<string, NodeService>()
  readonly #checks: LocalChecks
  /** The last work on each service, so that a registration and a deregistration of one never mix. */
  readonly #busy = new Map<string, Promise<void>>()
  /** Ports of sidecars whose registration is under way. */
  readonly #reserved = new Map<string, number>()
  readonly #timers = new Map<string, Timer>()
  #closed = false

  constructor(options: LocalAgentOptions) {
    this.#options = options
    this.#node = options.node.node
    this.#records = new LocalRecords(options.store, this.#node)
    this.#checks = new LocalChecks({
      ...options,
      records: this.#records,
      node: this.#node,
      updateIntervalMs: options.checkUpdateIntervalMs ?? 300_000,
      hasService: id => this.#services.has(id),
    })
  }

  /** Registers the own node and what was registered before a restart, and starts the checks. */
  async start(): Promise<void> {
    await this.#load()
    await this.repair()
    await this.#forgetForeign()
    for (const id of this.#checks.all().keys()) this.#checks.run(id)
    this.#every('repair', repairIntervalMs, () => this.repair())
    this.#every('reap', reapIntervalMs, () => this.#reap())
  }

  async registerService(definition: ServiceDefinition, options: { replaceExistingChecks?: boolean } = {}): Promise<void> {
    const problem = checkServiceDefinition(definition)
    if (problem !== undefined) throw new MeshError('bad-request', problem)
    const service = withTaggedAddresses(nodeServiceOf(definition))
    await this.#inTurn(service.id, async () => {
      try {
        const sidecar = expandSidecar(definition, service, () => this.#sidecarPort(sidecarId(service.id)))
        const wrong = sidecar && checkNodeService(sidecar.service)
        if (wrong !== undefined) throw new MeshError('bad-request', `Failed Validation: ${wrong}`)
        const replace = options.replaceExistingChecks ?? false
        await this.#place({ service, checks: definedChecks(definition) }, replace)
        if (sidecar) await this.#place({ ...sidecar, service: withTaggedAddresses(sidecar.service) }, replace)
      } finally {
        this.#reserved.delete(sidecarId(service.id))
      }
    })
  }

  /** Removes a service, its checks and its sidecar. */
  async deregisterService(id: string): Promise<void> {
    await this.#inTurn(id, async () => {
      if (!this.#services.has(id)) throw unknownService(id)
      await this.#displace(id)
      if (this.#services.has(sidecarId(id))) await this.#displace(sidecarId(id))
    })
  }

  async registerCheck(definition: CheckDefinition): Promise<void> {
    const refuse = (text: string) => new MeshError('bad-request', text)
    if (!definition.name) throw refuse('Missing check name')
    if (definition.status && !isCheckStatus(definition.status)) throw refuse('Bad check status')
    const problem = checkCheck(definition)
    if (problem !== undefined) throw refuse(`Invalid check: ${problem}`)
    const { name, serviceId } = definition
    await this.#inTurn(serviceId ?? '', async () => {
      const service = serviceId ? this.#services.get(serviceId) : undefined
      if (serviceId && !service) throw new MeshError('not-found', `ServiceID ${JSON.stringify(serviceId)} does not exist`)
      const check = healthCheckOf(definition, { node: this.#node, checkId: definition.id || name, name, service }, false)
      await this.#placeChecks([{ check, definition }])
    })
  }

  async deregisterCheck(id: string): Promise<void> {
    const check = this.#checks.get(id)
    if (!check) throw unknownCheck(id)
    await this.#inTurn(check.serviceId, () => this.#displaceCheck(id))
  }

  /** A service that its agent heard of by other means came, or may be gone: its checks say so, or not, without waiting for their interval. */
  lookSoon(id: string): void {
    this.#checks.lookSoon(id)
  }

  /** A report of a TTL check. */
  updateTtl(checkId: string, status: CheckStatus, output: string): Promise<void> {
    return this.#checks.updateTtl(checkId, status, output)
  }

  async setServiceMaintenance(id: string, enable: boolean, reason?: string): Promise<void> {
    await this.#inTurn(id, async () => {
      const service = this.#services.get(id)
      if (!service) throw unknownService(id)
      const notes = reason || 'Maintenance mode is enabled for this service, but no reason was provided. This is a default message.'
      await this.#setMaintenance(`${serviceMaintenancePrefix}${id}`, 'Service Maintenance Mode', enable, notes, service)
    })
  }

  async setNodeMaintenance(enable: boolean, reason?: string): Promise<void> {
    await this.#inTurn('', () => {
      const notes = reason || 'Maintenance mode is enabled for this node, but no reason was provided. This is a default message.'
      return this.#setMaintenance(nodeMaintenanceId, 'Node Maintenance Mode', enable, notes, undefined)
    })
  }

  services(): Map<string, NodeService> {
    return new Map(this.#services)
  }

  service(id: string): NodeService | undefined {
    return this.#services.get(id)
  }

  checks(): Map<string, HealthCheck> {
    return this.#checks.all()
  }

  /** Stops the checks. What was registered stays registered. */
  async close(): Promise<void> {
    this.#closed = true
    for (const timer of this.#timers.values()) timer.cancel()
    await Promise.allSettled(this.#busy.values())
    await this.#checks.close()
  }

  async #place({ service, checks }: Sidecar, replaceChecks: boolean): Promise<void> {
    const placed = checks.map((definition, i) => {
      const checkId = definition.id || `service:${service.id}${checks.length > 1 ? `:${i + 1}` : ''}`
      const name = definition.name || `Service '${service.service}' check`
      return { check: healthCheckOf(definition, { node: this.#node, checkId, name, service }, true), definition }
    })
    const before = this.#services.get(service.id)
    this.#services.set(service.id, service)
    try {
      const gone = replaceChecks
        ? this.#checks.ofService(service.id).filter(({ checkId }) => !placed.some(each => each.check.checkId === checkId))
        : []
      for (const { checkId } of gone) if (!checkId.startsWith(serviceMaintenancePrefix)) await this.#displaceCheck(checkId)
      await this.#placeChecks(placed, service)
    } catch (error) {
      // What could not be kept is not run either, or it would vanish with the next restart.
      if (before) {
        this.#services.set(service.id, before)
      } else {
        this.#services.delete(service.id)
        for (const { check } of placed) await this.#checks.remove(check.checkId)
      }
      throw error
    }
  }

  /** The store first: what the catalog shows must come back after a crash. */
  async #placeChecks(placed: readonly StoredCheck[], service?: NodeService): Promise<void> {
    const checks = placed.map(({ check, definition }) => this.#checks.add(check, definition))
    const records = checks.map(check => this.#checks.record(check.checkId))
    await this.#records.put([...(service ? [{ key: keys.localService(this.#node, service.id), record: service }] : []), ...records])
    await this.#toCatalog(service, checks)
    for (const check of checks) this.#checks.run(check.checkId)
  }

  async #toCatalog(service: NodeService | undefined, checks: readonly HealthCheck[]): Promise<void> {
    for (let i = 0; i === 0 || i < checks.length; i += maxChecksAtOnce) {
      await this.#options.catalog.register({
        node: this.#node,
        skipNodeUpdate: true,
        service: i === 0 ? service : undefined,
        checks: checks.slice(i, i + maxChecksAtOnce),
      })
    }
  }

  async #displace(id: string): Promise<void> {
    const checks = this.#checks.ofService(id)
    for (const { checkId } of checks) await this.#checks.remove(checkId)
    this.#services.delete(id)
    await this.#options.catalog.deregister({ node: this.#node, serviceId: id })
    const gone = [keys.localService(this.#node, id), ...checks.map(check => keys.localCheck(this.#node, check.checkId))]
    await this.#records.remove(gone)
  }

  async #displaceCheck(id: string): Promise<void> {
    await this.#checks.remove(id)
    await this.#options.catalog.deregister({ node: this.#node, checkId: id })
    await this.#records.remove([keys.localCheck(this.#node, id)])
  }

  async #setMaintenance(checkId: string, name: string, enable: boolean, notes: string, service: NodeService | undefined): Promise<void> {
    const isOn = this.#checks.get(checkId) !== undefined
    if (isOn === enable) return
    if (!enable) return this.#displaceCheck(checkId)
    const plain = healthCheckOf({ status: 'critical', notes }, { node: this.#node, checkId, name, service }, true)
    await this.#placeChecks([{ check: { ...plain, type: 'maintenance' } }])
    this.#options.logger.info({ check: checkId }, 'maintenance mode is on')
  }

  /** The port that this sidecar has already, else the lowest one of the range that no service here claims. */
  #sidecarPort(id: string): number {
    const { min, max } = this.#options.sidecarPorts
    const known = this.#services.get(id)?.port
    if (known) return known
    if (max <= 0)
      throw new MeshError(
        'bad-request',
        'Invalid SidecarService: no port was given and ports.sidecar_min_port is disabled; set one of them',
      )
    const taken = new Set([...this.#reserved.values(), ...[...this.#services.values()].map(service => service.port)])
    for (let port = min; port <= max; port += 1) {
      if (taken.has(port)) continue
      this.#reserved.set(id, port)
      return port
    }
    throw new MeshError(
      'bad-request',
      `Invalid SidecarService: no port is free in ${min}-${max}; give the sidecar a port or widen the range`,
    )
  }

  async #load(): Promise<void> {
    const { tables, clock } = this.#options
    const { services, checks } = await this.#records.load()
    for (const service of services as NodeService[]) this.#services.set(service.id, service)
    // Aliases come last: they look at the others.
    const ordered = (checks as StoredCheck[]).sort((a, b) => Number(a.check.type === 'alias') - Number(b.check.type === 'alias'))
    for (const { check, definition, expiresAtMs } of ordered) {
      const isTtl = Boolean(definition?.ttlMs)
      // A polled check goes on with what everybody was told while this agent was away, until its first run.
      const shown = isTtl || !definition ? check : { ...check, ...stateOf(tables.checkOf(this.#node, check.checkId) ?? check) }
      const isExpired = isTtl && expiresAtMs !== undefined && expiresAtMs <= clock.nowMs()
      const state = isExpired ? { status: 'critical', output: 'TTL expired while the agent was down' } : {}
      this.#checks.add({ ...shown, ...state }, definition, isExpired ? undefined : expiresAtMs)
    }
  }

  /** Makes the catalog hold what is here; where it does, nothing is written. */
  async repair(): Promise<void> {
    const { catalog, node, serverService } = this.#options
    await catalog.register({
      node: node.node,
      address: node.address,
      id: node.id,
      taggedAddresses: node.taggedAddresses,
      nodeMeta: node.meta,
      locality: node.locality,
      service: serverService && { id: 'consul', service: 'consul', port: serverService.port, meta: serverService.meta },
      check: { checkId: 'serfHealth', name: 'Serf Health Status', status: 'passing', output: 'Agent alive and reachable' },
    })
    await this.#toCatalog(undefined, this.#checks.ofService(''))
    for (const service of this.services().values()) {
      // Many services that need nothing must not hold up everything else.
      await setImmediate()
      await this.#inTurn(service.id, async () => {
        // It may be gone, or another, by the time that it is its turn.
        const current = this.#services.get(service.id)
        if (!current) return
        // Where a service allows it, its tags are the catalog's to change.
        const known = current.enableTagOverride ? this.#options.tables.serviceOf(this.#node, current.id) : undefined
        await this.#toCatalog(known ? { ...current, tags: known.tags } : current, this.#checks.ofService(current.id))
      })
    }
  }

  /** After a restart: what the catalog holds of this node and nobody asked this agent for is a leftover. */
  async #forgetForeign(): Promise<void> {
    const { catalog, tables } = this.#options
    for (const { id } of tables.nodeServices(this.#node).value?.services ?? []) {
      if (id !== 'consul' && !this.#services.has(id)) await catalog.deregister({ node: this.#node, serviceId: id })
    }
    for (const { checkId } of tables.checksOfNode(this.#node).value) {
      if (checkId !== 'serfHealth' && !this.#checks.get(checkId)) await catalog.deregister({ node: this.#node, checkId })
    }
  }

  async #reap(): Promise<void> {
    for (const id of this.#checks.overdueServices()) {
      this.#options.logger.info({ service: id }, 'service was critical for too long and is deregistered')
      await this.deregisterService(id)
    }
  }

  #every(name: string, ms: number, work: () => Promise<void>): void {
    const timer = this.#options.clock.after(ms, () => {
      work()
        .catch((error: unknown) => {
          if (!this.#closed)
            this.#options.logger.warn({ work: name, err: messageOf(error) }, 'upkeep of the own services failed; trying again')
        })
        .finally(() => {
          if (!this.#closed) this.#every(name, ms, work)
        })
    })
    this.#timers.set(name, timer)
  }

  /** One work at a time on a service; a sidecar's turn is its parent's. */
  async #inTurn(id: string, work: () => Promise<void>): Promise<void> {
    const key = id.endsWith('-sidecar-proxy') ? id.slice(0, -'-sidecar-proxy'.length) : id
    const before = this.#busy.get(key) ?? Promise.resolve()
    const mine = before.catch(() => {}).then(work)
    this.#busy.set(key, mine)
    try {
      await mine
    } finally {
      if (this.#busy.get(key) === mine) this.#busy.delete(key)
    }
  }
}

function unknownService(id: string): MeshError {
  return new MeshError('not-found', `Unknown service ID ${JSON.stringify(id)}. Ensure that the service ID is passed, not the service name.`)
}

function stateOf({ status, output }: HealthCheck): { status: string; output: string } {
  return { status, output }
}

/** A service with an address of its own is shown under it as LAN and WAN address too, where it names no others. */
function withTaggedAddresses(service: NodeService): NodeService {
  const { address } = service
  const version = /^\d{1,3}(?:\.\d{1,3}){3}$/.test(address) ? 'ipv4' : address.includes(':') ? 'ipv6' : undefined
  if (version === undefined) return service
  const own = { address, port: service.port ?? 0 }
  return { ...service, taggedAddresses: { [`lan_${version}`]: own, [`wan_${version}`]: own, ...service.taggedAddresses } }
}
