/**
 * The checks that this agent runs: their state, their runners, and their way into the catalog. A change of status goes there at
 * once; a change of the output alone waits for the update interval, so that chatty checks wake nobody (spec/http-api.md 1.8).
 */
import { messageOf, MeshError } from '../../lib/errors.ts'
import type { Clock, Timer } from '../../lib/clock.ts'
import { formatDuration } from '../../lib/duration.ts'
import type { Logger } from '../../lib/log.ts'
import type { CheckDefinition, CheckStatus, HealthCheck } from '../../mesh/check.ts'
import { isAliasCheck } from '../../mesh/registration.ts'
import { Alias, aliasOutcome, type AliasTarget } from './checks/alias.ts'
import { checkHttp } from './checks/http.ts'
import { defaultOutputSize, Poll, withThresholds, type CheckRunner, type Report } from './checks/poll.ts'
import { checkTcp } from './checks/tcp.ts'
import { limitOutput, Ttl } from './checks/ttl.ts'
import type { Catalog } from './catalog.ts'
import { fold } from './instances-table.ts'
import { keys } from './keys.ts'
import type { LocalRecords } from './local-records.ts'
import type { Tables } from './tables.ts'
import { compareText } from '../../lib/order.ts'

const retryMs = 5000
const minDeregisterMs = 60_000

/** What is kept in the store of a check. */
export interface StoredCheck {
  /** Absent for maintenance, which nothing runs. */
  definition?: CheckDefinition
  check: HealthCheck
  /** TTL: the wall clock, ms, when the last report dies. */
  expiresAtMs?: number
}

interface LocalCheck extends StoredCheck {
  runner?: CheckRunner
  /** The output waits for the update interval. */
  deferred?: Timer
  retry?: Timer
  dirty: boolean
  syncing?: Promise<void>
  /** Monotonic, ms; set while it is critical. */
  criticalSince?: number
  removed: boolean
}

export interface LocalChecksOptions {
  records: LocalRecords
  tables: Tables
  catalog: Catalog
  node: string
  clock: Clock
  logger: Logger
  updateIntervalMs: number
  hasService: (id: string) => boolean
}

export class LocalChecks {
  readonly #options: LocalChecksOptions
  readonly #checks = new Map<string, LocalCheck>()
  /** Ids by the service that they are for; the empty id stands for the node. */
  readonly #byService = new Map<string, Set<string>>()
  /** Aliases that follow a service of this node, by its id. */
  readonly #followers = new Map<string, Set<() => void>>()
  #closed = false

  constructor(options: LocalChecksOptions) {
    this.#options = options
  }

  get(id: string): HealthCheck | undefined {
    return this.#checks.get(id)?.check
  }

  definitionOf(id: string): CheckDefinition | undefined {
    return this.#checks.get(id)?.definition
  }

  /** By their ids. */
  all(): Map<string, HealthCheck> {
    return new Map([...this.#checks].map(([id, { check }]): [string, HealthCheck] => [id, check]).sort((a, b) => compareText(a[0], b[0])))
  }

  ofService(serviceId: string): HealthCheck[] {
    return [...(this.#byService.get(serviceId) ?? [])].sort().map(id => this.#checks.get(id)!.check)
  }

  /** Takes a check in without running it; the state of one that is known already goes on. */
  add(check: HealthCheck, definition: CheckDefinition | undefined, expiresAtMs?: number): HealthCheck {
    const before = this.#checks.get(check.checkId)
    if (before) {
      this.#halt(before)
      this.#unlink(before.check)
    }
    const state = before ? { status: before.check.status, output: before.check.output } : {}
    const local: LocalCheck = { check: { ...check, ...state }, definition, expiresAtMs, dirty: false, removed: false }
    if (definition && isAliasCheck(definition)) {
      const { status, output } = aliasOutcome(this.#aliasTarget(definition))
      local.check = { ...local.check, status, output }
    }
    if (local.check.status === 'critical') local.criticalSince = before?.criticalSince ?? this.#options.clock.monotonicMs()
    this.#checks.set(check.checkId, local)
    setOf(this.#byService, check.serviceId).add(check.checkId)
    this.#notify(check.serviceId)
    return local.check
  }

  run(id: string): void {
    const local = this.#checks.get(id)
    if (!local?.definition || this.#closed) return
    local.runner = this.#runner(local.definition, local)
    local.runner.start()
  }

  /** Has the checks of a service looked at without waiting for their interval. */
  lookSoon(serviceId: string): void {
    for (const id of this.#byService.get(serviceId) ?? []) this.#checks.get(id)?.runner?.lookSoon?.()
  }

  async remove(id: string): Promise<void> {
    const local = this.#checks.get(id)
    if (!local) return
    this.#checks.delete(id)
    this.#unlink(local.check)
    this.#halt(local)
    // A write under way must not bring back what is about to be deleted.
    await local.syncing?.catch(() => {})
    this.#notify(local.check.serviceId)
  }

  /** A report of a TTL check. Answers once the catalog has it. */
  async updateTtl(id: string, status: CheckStatus, output: string): Promise<void> {
    const local = this.#checks.get(id)
    if (!local) throw unknownCheck(id)
    if (!(local.runner instanceof Ttl)) throw new MeshError('invalid', `CheckID ${JSON.stringify(id)} does not have associated TTL`)
    const limited = limitOutput(output, local.definition?.outputMaxSize || defaultOutputSize)
    local.runner.renew(limited)
    local.expiresAtMs = this.#options.clock.nowMs() + (local.definition?.ttlMs ?? 0)
    const isTurn = local.check.status !== status
    const changed = this.#set(local, status, limited)
    await this.#options.records.put([this.record(id)])
    if (isTurn) await this.#sync(local)
    else if (changed) this.#defer(local)
  }

  /** What keeps a check in the store. */
  record(id: string): { key: string; record: StoredCheck } {
    const { definition, check, expiresAtMs } = this.#checks.get(id)!
    return { key: keys.localCheck(this.#options.node, id), record: { definition, check, expiresAtMs } }
  }

  /** Services whose check has been critical for longer than it allows. */
  overdueServices(): string[] {
    const now = this.#options.clock.monotonicMs()
    const overdue = new Set<string>()
    for (const { check, definition, criticalSince } of this.#checks.values()) {
      const after = definition?.deregisterCriticalServiceAfterMs ?? 0
      if (check.serviceId === '' || after <= 0 || criticalSince === undefined) continue
      if (now - criticalSince >= Math.max(after, minDeregisterMs)) overdue.add(check.serviceId)
    }
    return [...overdue]
  }

  async close(): Promise<void> {
    this.#closed = true
    for (const local of this.#checks.values()) this.#halt(local)
    await Promise.allSettled([...this.#checks.values()].flatMap(local => local.syncing ?? []))
  }

  #halt(local: LocalCheck): void {
    local.removed = true
    local.runner?.stop()
    local.deferred?.cancel()
    local.retry?.cancel()
  }

  #runner(definition: CheckDefinition, local: LocalCheck): CheckRunner {
    const { clock } = this.#options
    const report: Report = (status, output) => this.#report(local, status, output)
    const counted = withThresholds(definition, report)
    const intervalMs = definition.intervalMs ?? 0
    if (definition.http) return new Poll({ clock, intervalMs, probe: stop => checkHttp(definition, stop), report: counted })
    if (definition.tcp) return new Poll({ clock, intervalMs, probe: stop => checkTcp(definition, stop), report: counted })
    if (isAliasCheck(definition)) return new Alias(this.#aliasTarget(definition), report)
    return new Ttl({
      clock,
      ttlMs: definition.ttlMs ?? 0,
      report,
      remainingMs: local.expiresAtMs === undefined ? undefined : Math.max(0, local.expiresAtMs - clock.nowMs()),
      lastOutput: local.check.output,
    })
  }

  #report(local: LocalCheck, status: CheckStatus, output: string): void {
    if (local.removed) return
    const before = local.check
    if (!this.#set(local, status, output)) return
    if (before.status !== status) {
      this.#options.logger.info({ check: before.checkId, service: before.serviceId, status }, 'check changed its status')
      this.#syncLater(local)
      return
    }
    this.#defer(local)
  }

  #defer(local: LocalCheck): void {
    local.deferred ??= this.#options.clock.after(this.#options.updateIntervalMs, () => this.#syncLater(local))
  }

  #set(local: LocalCheck, status: CheckStatus, output: string): boolean {
    if (local.check.status === status && local.check.output === output) return false
    local.check = { ...local.check, status, output }
    if (status === 'critical') local.criticalSince ??= this.#options.clock.monotonicMs()
    else local.criticalSince = undefined
    this.#notify(local.check.serviceId)
    return true
  }

  #syncLater(local: LocalCheck): void {
    this.#sync(local).catch((error: unknown) => {
      if (local.removed || this.#closed) return
      this.#options.logger.warn({ check: local.check.checkId, err: messageOf(error) }, 'check is not in the catalog yet; trying again')
      local.retry = this.#options.clock.after(retryMs, () => this.#syncLater(local))
    })
  }

  /** Brings a check into the catalog; changes meanwhile are taken along, so that an older state never overwrites a newer one. */
  #sync(local: LocalCheck): Promise<void> {
    local.dirty = true
    local.deferred?.cancel()
    local.deferred = undefined
    local.syncing ??= this.#syncLoop(local).finally(() => {
      local.syncing = undefined
    })
    return local.syncing
  }

  async #syncLoop(local: LocalCheck): Promise<void> {
    while (local.dirty && !local.removed) {
      local.dirty = false
      await this.#options.catalog.register({ node: this.#options.node, skipNodeUpdate: true, check: local.check })
    }
  }

  #aliasTarget(definition: CheckDefinition): AliasTarget {
    const { tables, hasService, node } = this.#options
    const serviceId = definition.aliasService ?? ''
    const isOwn = !definition.aliasNode || fold(definition.aliasNode) === fold(node)
    if (isOwn) {
      return {
        name: serviceId === '' ? `Node ${node}` : `Service ${serviceId} on node ${node}`,
        checks: () => [...this.ofService(''), ...(serviceId === '' ? [] : this.ofService(serviceId))],
        exists: () => serviceId === '' || hasService(serviceId),
        subscribe: onChange => {
          const followers = setOf(this.#followers, serviceId)
          followers.add(onChange)
          return { close: () => followers.delete(onChange) }
        },
      }
    }
    const other = definition.aliasNode!
    return {
      name: serviceId === '' ? `Node ${other}` : `Service ${serviceId} on node ${other}`,
      checks: () => [...tables.checksOfInstance(other, ''), ...(serviceId === '' ? [] : tables.checksOfInstance(other, serviceId))],
      exists: () => (serviceId === '' ? tables.node(other).value : tables.serviceOf(other, serviceId)) !== undefined,
      subscribe: onChange => tables.subscribe(() => [...tables.checksOfNode(other).topics, ...tables.nodeServices(other).topics], onChange),
    }
  }

  #unlink({ checkId, serviceId }: HealthCheck): void {
    const ids = this.#byService.get(serviceId)
    ids?.delete(checkId)
    if (ids?.size === 0) this.#byService.delete(serviceId)
  }

  /** A check of the node concerns whoever follows any of its services. */
  #notify(serviceId: string): void {
    const followers = serviceId === '' ? [...this.#followers.values()] : [this.#followers.get(serviceId) ?? []]
    for (const listener of followers.flatMap(each => [...each])) listener()
  }
}

function setOf<T>(map: Map<string, Set<T>>, key: string): Set<T> {
  const known = map.get(key)
  if (known) return known
  const made = new Set<T>()
  map.set(key, made)
  return made
}

export function unknownCheck(id: string): MeshError {
  return new MeshError('not-found', `Unknown check ID ${JSON.stringify(id)}. Ensure that the check ID is passed, not the check name.`)
}

/** The check that a definition describes. Inside a service, what is not given is not printed. */
export function healthCheckOf(
  definition: CheckDefinition,
  place: { node: string; checkId: string; name: string; service?: { id: string; service: string; tags: string[] } },
  inService: boolean,
): HealthCheck {
  const print = (ms: number | undefined) => (inService && !ms ? '' : formatDuration(ms ?? 0))
  return {
    node: place.node,
    checkId: place.checkId,
    name: place.name,
    status: definition.status || 'critical',
    notes: definition.notes ?? '',
    output: '',
    serviceId: place.service?.id ?? '',
    serviceName: place.service?.service ?? '',
    serviceTags: place.service?.tags ?? [],
    type: typeOf(definition),
    interval: print(definition.intervalMs),
    timeout: print(definition.timeoutMs),
    exposedPort: 0,
    definition: {},
    createIndex: 0,
    modifyIndex: 0,
  }
}

function typeOf(definition: CheckDefinition): string {
  if (definition.http) return 'http'
  if (definition.tcp) return 'tcp'
  return isAliasCheck(definition) ? 'alias' : 'ttl'
}
