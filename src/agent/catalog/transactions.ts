/**
 * Transactions of PUT /v1/txn (spec/http-api.md 12): operations on keys, nodes, services and checks, each judged over what those
 * before it made, all of them written in one store transaction or none. Errors of all operations are told together.
 */
import { MeshError } from '../../lib/errors.ts'
import type { HealthCheck } from '../../mesh/check.ts'
import type { Node } from '../../mesh/node.ts'
import type { NodeService } from '../../mesh/service.ts'
import type { Compare, Op, Store } from '../store/store.ts'
import { checkedCheck, checkedNode, checkedService } from './catalog.ts'
import { commitAt, type Proposal } from './commit.ts'
import { keys } from './keys.ts'
import { locked, unlocked, written, type KvDraft } from './kv.ts'
import type { LockDelays } from './lock-delays.ts'
import { Overlay } from './overlay.ts'
import type { KvRecord, Tables } from './tables.ts'
import { fold, meshTarget } from './instances-table.ts'
import { withVirtualAddress, VirtualIps } from './virtual-ips.ts'

export interface KvOperation {
  verb: string
  key: string
  /** base64; null when empty. */
  value: string | null
  flags: string
  index: number
  session: string
}

export type Operation =
  | ({ kind: 'kv' } & KvOperation)
  | { kind: 'node'; verb: string; node: Partial<Node> }
  | { kind: 'service'; verb: string; node: string; service: Partial<NodeService> }
  | { kind: 'check'; verb: string; check: Partial<HealthCheck> }

export type Outcome =
  | { kind: 'kv'; record: KvRecord }
  | { kind: 'node'; node: Node }
  | { kind: 'service'; service: NodeService }
  | { kind: 'check'; check: HealthCheck }

export interface OperationError {
  opIndex: number
  what: string
}

export type TransactionResult = { ok: true; outcomes: Outcome[] } | { ok: false; errors: OperationError[] }

/** Made once the revision of the write is known. */
type Pending = (revision: number) => Outcome

const quote = (text: string) => JSON.stringify(text)
const fail = (what: string) => new MeshError('conflict', what)

export class Transactions {
  readonly #store: Store
  readonly #tables: Tables
  readonly #delays: LockDelays
  readonly #datacenter: string

  constructor(options: { store: Store; tables: Tables; delays: LockDelays; datacenter: string }) {
    this.#store = options.store
    this.#tables = options.tables
    this.#delays = options.delays
    this.#datacenter = options.datacenter
  }

  async run(operations: readonly Operation[]): Promise<TransactionResult> {
    const { result, revision } = await commitAt(
      this.#store,
      this.#tables,
      (): Proposal<{ pending: Pending[] } | { errors: OperationError[] }> => {
        const attempt = new Attempt(this.#tables, this.#delays, this.#datacenter)
        const pending: Pending[] = []
        const errors: OperationError[] = []
        for (const [opIndex, operation] of operations.entries()) {
          try {
            pending.push(...attempt.apply(operation))
          } catch (error) {
            if (!(error instanceof MeshError)) throw error
            errors.push({ opIndex, what: error.message })
          }
        }
        return errors.length > 0 ? { result: { errors } } : { result: { pending }, ...attempt.writes() }
      },
    )
    if ('errors' in result) return { ok: false, errors: result.errors }
    return { ok: true, outcomes: result.pending.map(each => each(revision)) }
  }
}

/** One try at a transaction over the tables as they are now. */
class Attempt {
  readonly #tables: Tables
  readonly #delays: LockDelays
  readonly #datacenter: string
  readonly #virtualIps: VirtualIps
  readonly #kv: Overlay<KvRecord>
  readonly #nodes: Overlay<Node>
  readonly #services: Overlay<NodeService>
  readonly #checks: Overlay<HealthCheck>
  readonly #sessions = new Map<string, Compare>()
  /** Prefixes of the store that are deleted whole. */
  readonly #trees: string[] = []
  readonly #claims: { ops: Op[]; compare: Compare[] } = { ops: [], compare: [] }
  /** Of each service that instances in this transaction stand for: they share one. */
  readonly #addresses = new Map<string, string>()

  constructor(tables: Tables, delays: LockDelays, datacenter: string) {
    this.#tables = tables
    this.#delays = delays
    this.#datacenter = datacenter
    this.#virtualIps = new VirtualIps(tables)
    const next = tables.revision + 1
    this.#kv = new Overlay(next)
    this.#nodes = new Overlay(next)
    this.#services = new Overlay(next)
    this.#checks = new Overlay(next)
  }

  apply(operation: Operation): Pending[] {
    switch (operation.kind) {
      case 'kv':
        return this.#applyKv(operation)
      case 'node':
        return this.#applyNode(operation.verb, operation.node)
      case 'service':
        return this.#applyService(operation.verb, operation.node, operation.service)
      case 'check':
        return this.#applyCheck(operation.verb, operation.check)
    }
  }

  /** What the transaction writes, and what must still be as it was read. */
  writes(): { ops: Op[]; compare: Compare[] } {
    const overlays = [this.#kv, this.#nodes, this.#services, this.#checks]
    const puts = overlays.flatMap(overlay => overlay.puts())
    // A whole prefix goes in one operation where nothing below it is written.
    const trees = this.#trees.filter(tree => !puts.some(key => key.startsWith(tree)))
    const covered = (key: string) => trees.some(tree => key.startsWith(tree))
    const parts = overlays.map(overlay => overlay.writes(covered))
    return {
      ops: [...trees.map((prefix): Op => ({ op: 'delete-prefix', prefix })), ...parts.flatMap(part => part.ops), ...this.#claims.ops],
      compare: [...parts.flatMap(part => part.compare), ...this.#sessions.values(), ...this.#claims.compare],
    }
  }

  #applyKv(operation: KvOperation): Pending[] {
    const { verb, key, index, session } = operation
    const current = this.#kv.read(keys.kv(key), () => this.#tables.kv(key).value)
    const write = (draft: KvDraft): Pending[] => {
      const stamp = this.#kv.put(keys.kv(key), { ...draft, key, createIndex: 0, modifyIndex: 0 })
      return [revision => ({ kind: 'kv', record: { ...stamp(revision), value: null } })]
    }
    const show = (record: KvRecord): Pending => {
      const stamp = this.#kv.stamp(keys.kv(record.key), record)
      return revision => ({ kind: 'kv', record: stamp(revision) })
    }
    switch (verb) {
      case 'set':
        return write(written(current, operation))
      case 'cas':
        if (index !== (current?.modifyIndex ?? 0)) throw fail(`failed to set key ${quote(key)}, index is stale`)
        return write(written(current, operation))
      case 'lock':
      case 'unlock':
        return write(this.#lock(operation, current))
      case 'delete':
        this.#kv.delete(keys.kv(key))
        return []
      case 'delete-cas':
        if (current && index !== current.modifyIndex) throw fail(`failed to delete key ${quote(key)}, index is stale`)
        this.#kv.delete(keys.kv(key))
        return []
      case 'delete-tree':
        for (const record of this.#under(key)) this.#kv.delete(keys.kv(record.key))
        this.#trees.push(keys.kv(key))
        return []
      case 'get':
        if (!current) throw fail(`key ${quote(key)} doesn't exist`)
        return [show(current)]
      case 'get-or-empty':
        if (current) return [show(current)]
        return [() => ({ kind: 'kv', record: { key, value: null, flags: '0', lockIndex: 0, createIndex: 0, modifyIndex: 0 } })]
      case 'get-tree':
        return this.#under(key).map(show)
      case 'check-session':
        if (!current) throw fail(`failed to check session, key ${quote(key)} doesn't exist`)
        if ((current.session ?? '') !== session) {
          throw fail(`failed session check for key ${quote(key)}, current session ${quote(current.session ?? '')} != ${quote(session)}`)
        }
        return [show({ ...current, value: null })]
      case 'check-index':
        if (!current) throw fail(`failed to check index, key ${quote(key)} doesn't exist`)
        if (current.modifyIndex !== index) {
          throw fail(`failed index check for key ${quote(key)}, current modify index ${current.modifyIndex} != ${index}`)
        }
        return [show({ ...current, value: null })]
      case 'check-not-exists':
        if (current) throw fail(`key ${quote(key)} exists`)
        return []
      default:
        throw fail(`unknown KV verb ${quote(verb)}`)
    }
  }

  #lock(operation: KvOperation, current: KvRecord | undefined): KvDraft {
    const { verb, key, session: id } = operation
    if (verb === 'lock' && this.#delays.has(key)) throw fail(`failed to lock key ${quote(key)} due to lock delay`)
    if (id === '') throw fail('missing session')
    const session = this.#tables.session(id).value
    if (!session) throw fail(`invalid session ${quote(id)}`)
    this.#sessions.set(session.id, { key: keys.session(session.id), modRevision: session.modifyIndex })
    const draft = verb === 'lock' ? locked(current, operation, session.id) : unlocked(current, operation, session.id)
    if (draft) return draft
    throw fail(
      verb === 'lock'
        ? `failed to lock key ${quote(key)}, lock is already held`
        : `failed to unlock key ${quote(key)}, lock isn't held, or is held by another session`,
    )
  }

  /** What is below a prefix now, in the order of keys. */
  #under(prefix: string): KvRecord[] {
    const stored = this.#tables.kvList(prefix).value.filter(record => !this.#kv.touched(keys.kv(record.key)))
    return [...stored, ...this.#kv.values().filter(record => record.key.startsWith(prefix))].sort((a, b) =>
      Buffer.compare(Buffer.from(a.key), Buffer.from(b.key)),
    )
  }

  #applyNode(verb: string, given: Partial<Node>): Pending[] {
    const name = given.node ?? ''
    const key = keys.node(name)
    const current = this.#nodes.read(key, () => this.#tables.node(name).value)
    const done = (node: Node): Pending[] => {
      const stamp = this.#nodes.stamp(key, node)
      return [revision => ({ kind: 'node', node: stamp(revision) })]
    }
    const stale = () => fail(`failed to ${verb === 'cas' ? 'set' : 'delete'} node ${quote(name)}, index is stale`)
    switch (verb) {
      case 'get':
        if (!current) throw fail(`node ${quote(name)} doesn't exist`)
        return done(current)
      case 'set':
      case 'cas': {
        if (verb === 'cas' && (given.modifyIndex ?? 0) !== (current?.modifyIndex ?? 0)) throw stale()
        const node = checkedNode(given, this.#datacenter)
        this.#nodes.put(key, node)
        return done(node)
      }
      case 'delete':
      case 'delete-cas':
        if (!current) return []
        if (verb === 'delete-cas' && given.modifyIndex !== current.modifyIndex) throw stale()
        this.#nodes.delete(key)
        this.#deleteNodesOwn(name)
        return []
      default:
        throw fail(`unknown Node verb ${quote(verb)}`)
    }
  }

  #applyService(verb: string, node: string, given: Partial<NodeService>): Pending[] {
    const id = given.id || given.service || ''
    const key = keys.service(node, id)
    const current = this.#services.read(key, () => this.#tables.serviceOf(node, id))
    const done = (service: NodeService): Pending[] => {
      const stamp = this.#services.stamp(key, service)
      return [revision => ({ kind: 'service', service: stamp(revision) })]
    }
    const stale = () => fail(`failed to ${verb === 'cas' ? 'set' : 'delete'} service ${quote(id)} on node ${quote(node)}, index is stale`)
    switch (verb) {
      case 'get':
        if (!current) throw fail(`service ${quote(id)} on node ${quote(node)} doesn't exist`)
        return done(current)
      case 'set':
      case 'cas': {
        if (verb === 'cas' && (given.modifyIndex ?? 0) !== (current?.modifyIndex ?? 0)) throw stale()
        if (!this.#hasNode(node)) throw fail('Missing node registration')
        const service = this.#withVirtualIp(checkedService(given))
        this.#services.put(key, service)
        return done(service)
      }
      case 'delete':
      case 'delete-cas':
        if (!current) return []
        if (verb === 'delete-cas' && given.modifyIndex !== current.modifyIndex) throw stale()
        this.#services.delete(key)
        for (const { checkId } of this.#tables.checksOfInstance(node, id)) {
          // One of this transaction may no longer be of the service.
          if (!this.#checks.touched(keys.check(node, checkId))) this.#checks.delete(keys.check(node, checkId))
        }
        this.#checks.deleteWhere((at, check) => check.serviceId === id && at.startsWith(keys.check(node, '')))
        return []
      default:
        throw fail(`unknown Service verb ${quote(verb)}`)
    }
  }

  #applyCheck(verb: string, given: Partial<HealthCheck>): Pending[] {
    const node = given.node ?? ''
    const id = given.checkId || given.name || ''
    const key = keys.check(node, id)
    const current = this.#checks.read(key, () => this.#tables.checkOf(node, id))
    const done = (check: HealthCheck): Pending[] => {
      const stamp = this.#checks.stamp(key, check)
      return [revision => ({ kind: 'check', check: stamp(revision) })]
    }
    const stale = () => fail(`failed to ${verb === 'cas' ? 'set' : 'delete'} check ${quote(id)} on node ${quote(node)}, index is stale`)
    switch (verb) {
      case 'get':
        if (!current) throw fail(`check ${quote(id)} on node ${quote(node)} doesn't exist`)
        return done(current)
      case 'set':
      case 'cas': {
        if (verb === 'cas' && (given.modifyIndex ?? 0) !== (current?.modifyIndex ?? 0)) throw stale()
        const check = this.#withService(checkedCheck(given, node), node)
        this.#checks.put(key, check)
        return done(check)
      }
      case 'delete':
      case 'delete-cas':
        if (!current) return []
        if (verb === 'delete-cas' && given.modifyIndex !== current.modifyIndex) throw stale()
        this.#checks.delete(key)
        return []
      default:
        throw fail(`unknown Check verb ${quote(verb)}`)
    }
  }

  #hasNode(name: string): boolean {
    return this.#nodes.read(keys.node(name), () => this.#tables.node(name).value) !== undefined
  }

  /** Its services and checks go with a node, those of this transaction too. */
  #deleteNodesOwn(node: string): void {
    for (const { id } of this.#tables.nodeServices(node).value?.services ?? []) this.#services.delete(keys.service(node, id))
    for (const { checkId } of this.#tables.checksOfNode(node).value) this.#checks.delete(keys.check(node, checkId))
    const [services, checks] = [keys.service(node, ''), keys.check(node, '')]
    this.#services.deleteWhere(at => at.startsWith(services))
    this.#checks.deleteWhere(at => at.startsWith(checks))
    this.#trees.push(services, checks)
  }

  #withVirtualIp(service: NodeService): NodeService {
    const target = meshTarget(service)
    if (target === undefined) return service
    let address = this.#addresses.get(fold(target))
    if (address === undefined) {
      const claim = this.#virtualIps.claim('', target)
      this.#claims.ops.push(...claim.ops)
      this.#claims.compare.push(...claim.compare)
      this.#addresses.set(fold(target), (address = claim.address))
    }
    return withVirtualAddress(service, address)
  }

  /** A check carries the name and tags of its service. */
  #withService(check: HealthCheck, node: string): HealthCheck {
    if (!this.#hasNode(node)) throw fail('Missing node registration')
    if (check.serviceId === '') return check
    const service = this.#services.read(keys.service(node, check.serviceId), () => this.#tables.serviceOf(node, check.serviceId))
    if (!service) throw fail('Missing service registration')
    return { ...check, serviceName: service.service, serviceTags: service.tags }
  }
}
